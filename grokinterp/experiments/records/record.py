"""Record: what a finished run of an experiment leaves behind, without its weights, as one small JSON file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.checksums import with_checksum, without_checksum
from grokinterp.runs.files import MAX_STEP, parse_json, read_text
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome
from grokinterp.sweep.rows import Row, config_columns, row_from_metrics

RECORD_VERSION = 1
MAX_RECORD_BYTES = 15_000

Number = Annotated[float, Field(allow_inf_nan=False)] | None


@dataclass(frozen=True)
class Norms:
    """L2 norm of each part of the network at a checkpoint.

    Attributes:
        step: the checkpoint nearest to T_grok(0.99), or the last one of a run that did not grok.
        groups: the norms by part, as in the measure `group_norms`.
    """

    step: int
    groups: Mapping[str, float]


@dataclass(frozen=True)
class Keys:
    """Key frequencies of a network at its last checkpoint."""

    step: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class Checksums:
    """SHA-256 of config.json, of metrics.jsonl, and of the last checkpoint."""

    config: str
    metrics: str
    weights: str


@dataclass(frozen=True)
class _Content:
    """The fields of the JSON file."""

    format_version: Literal[1]
    kind: Literal["run"]
    recipe: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    name: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,250}$")]
    config: dict[str, Any]
    environment: dict[str, Any]
    status: Literal["finished", "diverged"]
    reason: Annotated[str, Field(max_length=300)]
    step: int
    seconds: Number
    outcome: str
    times: dict[str, int | None]
    final: dict[str, Number]
    parameters: Annotated[int, Field(gt=0, lt=1 << 53)] | None
    metrics: dict[str, list[Number]]
    digests: list[str]
    norms: Norms | None
    key_frequencies: Keys | None
    extracted: dict[str, dict[str, Any]]
    checksums: Checksums


@dataclass(frozen=True, repr=False)
class Record:
    """A finished run of an experiment without its weights.

    >>> from grokinterp.experiments.records.recording import record_run
    >>> from grokinterp.runs.run import Run
    >>> record = record_run(Run.open("checkpoints/run42"), "demo", "run42")
    >>> record.outcome, record.row(record.config)["T_grok_0.99"], len(record.metrics) < 220
    ('grokked', 2490, True)

    Attributes:
        recipe: the recipe for which the run was trained.
        name: the arm and the run.
        config: of the run.
        environment: versions, processor, device, threads and commit; neither command nor path.
        status: `finished` or `diverged`.
        reason: why it ended.
        step: its last step.
        seconds: time in training, at the speed of its last session; None if unknown.
        outcome: as found from all metrics.
        metrics: about 200 rows of the run's metrics: exact at the first and the last step, around each event and at
            extremes; rounded to five digits elsewhere.
        digests: by step of these rows, a hash of all metrics up to it.
        final: every measure at the last checkpoint.
        norms: L2 norm of each part of the network around T_grok; None if the weights are unknown.
        key_frequencies: at the last checkpoint; None for a task that has none.
        extracted: by recipe, what `Arm.extract` took from the checkpoints.
        checksums: of the run's files.
    """

    recipe: str
    name: str
    config: RunConfig
    environment: Mapping[str, Any]
    status: str
    reason: str
    step: int
    seconds: float | None
    outcome: str
    metrics: pd.DataFrame
    digests: Mapping[int, str]
    final: Mapping[str, float | None]
    norms: Norms | None
    key_frequencies: Keys | None
    extracted: Mapping[str, Mapping[str, Any]]
    checksums: Checksums
    parameters: int | None
    content: Mapping[str, Any] = field(compare=False)

    def __repr__(self) -> str:
        return f"Record({self.recipe}/{self.name}: {self.outcome} at step {self.step:,})"

    @staticmethod
    def read(file: Path) -> "Record":
        """Reads a record, and checks that it is complete and consistent.

        Raises:
            RunError: the file is damaged, has another format version, or contradicts itself.
        """
        return Record.from_content(parse_record(file), str(file))

    @staticmethod
    def from_content(content: Any, source: str) -> "Record":
        """The record that a file with this parsed JSON, without checksum, holds.

        Args:
            content: parsed JSON.
            source: name of the file in error messages.

        Raises:
            RunError: as `read`.
        """
        parsed: _Content = validated(_adapter(), content, source)
        try:
            plain = json.loads(json.dumps(content))
            config = RunConfig.from_json(json.dumps(parsed.config), source)
        except (ConfigError, RecursionError) as error:
            raise damaged(source, str(error)) from None
        metrics = _table(parsed, config, source)
        found = dict(zip((int(step) for step in metrics.index), parsed.digests, strict=True))
        shared = ("recipe", "name", "environment", "status", "reason", "step", "seconds", "outcome", "final", "norms")
        shared = (*shared, "key_frequencies", "extracted", "checksums", "parameters")
        values = {name: getattr(parsed, name) for name in shared}
        record = Record(config=config, metrics=metrics, digests=found, content=plain, **values)
        _require_consistent(record, parsed.times, source)
        return record

    def to_json(self) -> str:
        """The text of the file: one line for each field and for each column of the metrics."""
        lines = []
        for name, value in with_checksum(self.content).items():
            if name == "metrics":
                columns = ",\n".join(f" {compact(column)}:{compact(values)}" for column, values in value.items())
                lines.append(f'"metrics":{{\n{columns}}}')
            else:
                lines.append(f"{compact(name)}:{compact(value)}")
        return "{" + ",\n".join(lines) + "}\n"

    def row(self, config: RunConfig) -> Row:
        """The columns of a sweep's table that this run would have with a configuration whose arm it serves.

        Args:
            config: which may have another schedule.
        """
        row = row_from_metrics(config, self.metrics, {"status": self.status, "step": self.step})
        row |= {f"final.{name}": value for name, value in self.final.items()}
        row["outcome"] = self.outcome if _only_flatness({row["outcome"], self.outcome}) else row["outcome"]
        return row | config_columns(config)


def _table(parsed: _Content, config: RunConfig, source: str) -> pd.DataFrame:
    """The metrics as a table, with the RMS that follows from the norm."""
    columns = dict(parsed.metrics)
    steps = columns.pop("step", [])
    lengths = {len(values) for values in (*columns.values(), parsed.digests)}
    whole = all(isinstance(step, int | float) and step == int(step) and 0 <= step <= MAX_STEP for step in steps)
    if not steps or lengths != {len(steps)} or not whole or sorted(set(steps)) != steps:  # pyright: ignore
        raise damaged(source, "its metrics are not a table with ascending steps")
    data = {name: np.array(values, dtype=float) for name, values in columns.items()}
    if "weight_norm" in data and parsed.parameters:
        data["weight_rms"] = data["weight_norm"] / math.sqrt(parsed.parameters)
    table = pd.DataFrame(data, index=pd.Index(np.array(steps, dtype=np.int64), name="step"))
    table.attrs["n_classes"] = getattr(config.task, "p", math.inf)
    return table


def _require_consistent(record: Record, times: Mapping[str, int | None], source: str) -> None:
    """Raises an error if a record's outcome or times are not those of its own metrics."""
    last, schedule = int(record.metrics.index[-1]), record.config.schedule
    whole = last == record.step or (record.status == RunStatus.DIVERGED and last < record.step)
    if not whole or schedule is None or record.step > schedule.steps:
        raise damaged(source, f"it ends at step {record.step}, its metrics at {last}")
    if set(record.final) & set(record.metrics):
        raise damaged(source, "its measures repeat a column of its metrics")
    row = row_from_metrics(record.config, record.metrics, {"status": record.status, "step": record.step})
    found = {name: integer(row[name]) for name in row if name.startswith("T_")}
    wrong = next((name for name in found if found[name] != times.get(name)), None)
    if wrong is not None:
        raise damaged(source, f"its {wrong} is {times.get(wrong)}, but {found[wrong]} in its metrics")
    outcomes = {row["outcome"], record.outcome}
    require_packages(record.environment, source)
    if len(outcomes) > 1 and not _only_flatness(outcomes):
        raise damaged(source, f"its outcome is {record.outcome}, but {row['outcome']} in its metrics")


def _only_flatness(outcomes: set[str]) -> bool:
    """Whether outcomes differ only in whether the last quarter is flat, which every evaluation decides."""
    return outcomes == {Outcome.SEMI_GROKKED, Outcome.DNF_TEST}


def integer(value: Any) -> int | None:
    """A number from a table as an integer; None if it is missing."""
    return None if value is None or not math.isfinite(value) else int(value)


def compact(value: Any) -> str:
    """A value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parse_record(file: Path) -> dict[str, Any]:
    """The parsed JSON of a record, without its checksum, which must match.

    Raises:
        RunError: the file is damaged or missing.
    """
    try:
        content = parse_json(read_text(file, limit=2 * MAX_RECORD_BYTES))
        plain = without_checksum(content)
    except ValueError as error:
        raise damaged(str(file), str(error)) from None
    if len(plain) == len(content):
        raise damaged(str(file), "it has no checksum")
    return plain


def validated(adapter: Any, content: Any, source: str) -> Any:
    """The parsed JSON of a record as a dataclass.

    Args:
        adapter: the TypeAdapter of the dataclass.
        content: parsed JSON, without checksum.
        source: name of the file in error messages.

    Raises:
        RunError: it has another format version, or a field is missing, of another type, or nested too deeply.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != RECORD_VERSION:
        raise RunError(
            f"{source} has format version {version!r}, and this grokinterp reads version {RECORD_VERSION}: install "
            "the release that wrote it"
        )
    try:
        return adapter.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except RecursionError as error:
        raise damaged(source, str(error)) from None


def require_packages(environment: Mapping[str, Any], source: str) -> None:
    """Raises an error if the environment of a record names no versions of packages.

    Raises:
        RunError: it does not.
    """
    packages = environment.get("packages")
    if not isinstance(packages, dict) or not all(
        version is None or isinstance(version, str) for version in packages.values()
    ):
        raise damaged(source, "its environment names no versions of packages")


@cache
def _adapter() -> Any:
    return TypeAdapter(_Content)


def damaged(source: str, reason: str) -> RunError:
    """The error that a damaged record raises."""
    return RunError(f"{source} is damaged ({reason}): restore the original file, or remove it and train the run again")
