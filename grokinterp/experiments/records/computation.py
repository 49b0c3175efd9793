"""Computation: what a recipe that trains no runs leaves behind, as one JSON file: inputs, results, claims."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, TypeAdapter

from grokinterp.errors import RunError
from grokinterp.experiments.outcome import Claim, Outcome
from grokinterp.experiments.records.record import (
    MAX_RECORD_BYTES,
    RECORD_VERSION,
    Number,
    compact,
    damaged,
    parse_record,
    require_packages,
    validated,
)
from grokinterp.experiments.records.recording import recorded_environment, rounded
from grokinterp.runs.checksums import with_checksum
from grokinterp.runs.environment import describe_environment, rounding_changes

COMPUTATION = "computation.json"
BOUND = 0.01  # relative deviation of a result on another machine

_DIGITS = 6  # of a result
_EQUAL = 2e-6  # relative deviation of results rounded to so many digits that counts as equal


@dataclass(frozen=True)
class Computation:
    """What a finished recipe without training runs leaves behind.

    Attributes:
        recipe: name of the recipe.
        environment: versions, processor, threads and commit; neither command nor path.
        inputs: what was computed, by name.
        results: by table, each column: the settings, and the median, the smallest and the largest result by setting.
        claims: the claims with their verdicts.
    """

    format_version: Literal[1]
    kind: Literal["computation"]
    recipe: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    environment: dict[str, Any]
    inputs: dict[str, str | int | float]
    results: dict[str, dict[str, list[Number | str]]]
    claims: tuple[Claim, ...]

    @staticmethod
    def of(recipe: str, outcome: Outcome) -> "Computation":
        """The record of the outcome of a recipe.

        >>> table = pd.DataFrame({"m": [50, 50, 100], "seed": [0, 1, 0], "delay": [3.0, 5.0, 9.0]})
        >>> outcome = Outcome((), {"sweep": table}, {}, {"seeds": 2}, results={"sweep": by_setting(table, ["m"])})
        >>> Computation.of("ridge", outcome).results["sweep"]["delay, median"]
        [4, 9]

        Args:
            recipe: name of the recipe.
            outcome: its outcome.
        """
        environment = recorded_environment(describe_environment("cpu", ""))
        del environment["forward_path"]
        results = {
            name: {str(column): [_plain(value) for value in table[column]] for column in table}
            for name, table in outcome.results.items()
        }
        return Computation(
            RECORD_VERSION, "computation", recipe, environment, dict(outcome.settings), results, outcome.claims
        )

    @staticmethod
    def read(file: Path) -> "Computation":
        """Reads a record.

        Raises:
            RunError: the file is damaged or has another format version.
        """
        return Computation.from_content(parse_record(file), str(file))

    @staticmethod
    def from_content(content: Any, source: str) -> "Computation":
        """The record that a file with this parsed JSON, without checksum, holds.

        Args:
            content: parsed JSON.
            source: name of the file in error messages.

        Raises:
            RunError: as `read`.
        """
        found: Computation = validated(_adapter(), content, source)
        require_packages(found.environment, source)
        for name, table in found.results.items():
            if len({len(values) for values in table.values()}) > 1:
                raise damaged(source, f"the columns of {name} have different lengths")
        return found

    def to_json(self) -> str:
        """The text of the file: one line for each field, for each column of the results, and for each claim.

        Raises:
            RunError: the file would be too large.
        """
        content = with_checksum({**asdict(self), "claims": [_without_defaults(claim) for claim in self.claims]})
        lines = []
        for name, value in content.items():
            if name == "results":
                tables = (
                    f" {compact(table)}:{{\n"
                    + ",\n".join(f"  {compact(column)}:{compact(values)}" for column, values in columns.items())
                    + "\n }"
                    for table, columns in value.items()
                )
                lines.append('"results":{\n' + ",\n".join(tables) + "\n}")
            elif name == "claims":
                lines.append('"claims":[\n' + ",\n".join(f" {compact(claim)}" for claim in value) + "\n]")
            else:
                lines.append(f"{compact(name)}:{compact(value)}")
        text = "{" + ",\n".join(lines) + "}\n"
        if len(text.encode()) > MAX_RECORD_BYTES:
            raise RunError(f"the record of {self.recipe} is larger than {MAX_RECORD_BYTES:,} bytes")
        return text


def by_setting(table: pd.DataFrame, axes: Sequence[str], results: Sequence[str] = ("delay",)) -> pd.DataFrame:
    """One row per setting: the median, the smallest and the largest of each result, and the number of runs.

    Args:
        table: one row per run.
        axes: the columns that define a setting.
        results: the columns to summarize.
    """
    groups = table.groupby(list(axes), sort=True, dropna=False)
    columns: dict[str, Any] = {"runs": groups.size()}
    for name in results:
        values = groups[name]
        columns |= {f"{name}, median": values.median(), f"{name}, min": values.min(), f"{name}, max": values.max()}
    return pd.DataFrame(columns).reset_index()


@dataclass(frozen=True)
class ComputationCheck:
    """How a recipe that was computed again compares with its record.

    Attributes:
        deviation: largest relative deviation of a result.
        place: where it is.
        verdicts: claims with another verdict.
        differences: what differs between the machines and versions.
    """

    deviation: float
    place: str
    verdicts: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all results are equal or, on another machine, within the bound, and all verdicts are the same."""
        return not self.verdicts and self.deviation <= (BOUND if self.differences else _EQUAL)

    def __str__(self) -> str:
        why = f"; not the same: {'; '.join(self.differences)}" if self.differences else ""
        verdicts = f"other verdicts: {', '.join(self.verdicts)}" if self.verdicts else "the same verdicts"
        if self.deviation <= _EQUAL:
            return f"all results equal to {_DIGITS} digits{why}; {verdicts}"
        return (
            f"the results deviate by at most {100 * self.deviation:.2g} % ({self.place}; bound on another machine "
            f"{100 * BOUND:g} %){why}; {verdicts}"
        )


def compare_computations(recorded: Computation, found: Computation) -> ComputationCheck:
    """Compares every result and every verdict of a recipe that was computed again with its record."""
    deviation, place = 0.0, ""
    for table in sorted({*recorded.results, *found.results}):
        old, new = (record.results.get(table, {}) for record in (recorded, found))
        for column in sorted({*old, *new}):
            gap = _deviation(old.get(column, []), new.get(column, []))
            if gap > deviation:
                deviation, place = gap, f"{table}: {column}"
    old, new = ({claim.name: claim.verdict for claim in record.claims} for record in (recorded, found))
    verdicts = tuple(name for name in {**old, **new} if old.get(name) != new.get(name))
    return ComputationCheck(
        deviation, place, verdicts, tuple(rounding_changes(recorded.environment, found.environment))
    )


def _deviation(old: Sequence[Any], new: Sequence[Any]) -> float:
    """The largest relative deviation between two columns; infinite if they differ in length, texts, or gaps."""
    if len(old) != len(new):
        return float("inf")
    gaps = [0.0]
    for a, b in zip(old, new, strict=True):
        if isinstance(a, int | float) and isinstance(b, int | float):
            gaps.append(abs(a - b) / max(abs(a), abs(b), 1e-300))
        elif a != b:
            return float("inf")
    return max(gaps)


def _plain(value: Any) -> float | str | None:
    """A cell as plain JSON."""
    if isinstance(value, str) or value is None:
        return value
    number = rounded(float(value), _DIGITS)
    return int(number) if number is not None and number.is_integer() else number


def _without_defaults(claim: Claim) -> dict[str, Any]:
    """The fields of a claim without those that have their default."""
    optional = {field.name: field.default for field in fields(Claim)}
    return {name: value for name, value in asdict(claim).items() if value != optional[name]}


@cache
def _adapter() -> Any:
    return TypeAdapter(Computation)
