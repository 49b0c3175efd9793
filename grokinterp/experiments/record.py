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
from grokinterp.experiments.thinning import digests, exact_steps, thinned_steps
from grokinterp.measures import group_norms, key_frequencies
from grokinterp.measures.norms import parameter_group
from grokinterp.runs.checksums import read_checked_json, sha256, with_checksum
from grokinterp.runs.files import MAX_STEP, read_bytes
from grokinterp.runs.metrics import METRICS
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome
from grokinterp.sweep.rows import Row, config_columns, row_from_metrics, summarize
from grokinterp.tasks import Task

RECORD_VERSION = 1
MAX_RECORD_BYTES = 15_000
_POINTS = (200, 160, 130, 100, 80, 60, 40, 20)  # the largest number of rows with which the file is small enough
_DIGITS = 5  # of a number in a row that is not exact

_VERSIONS = ("grokinterp", "torch", "transformer-lens", "numpy")
_ENVIRONMENT = (
    *("python", "packages", "machine", "processor", "device", "threads", "commit", "forward_path"),
    *("matrix_products", "float32_precision", "products", "compiled", "resumed"),
)

Number = float | None


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
    parameters: int | None
    metrics: dict[str, list[Number]]
    digests: list[str]
    norms: Norms | None
    key_frequencies: Keys | None
    extracted: dict[str, dict[str, Any]]
    checksums: Checksums


@dataclass(frozen=True, repr=False)
class Record:
    """A finished run of an experiment without its weights.

    >>> record = Record.of(Run.open("checkpoints/run42"), "demo", "run42")
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
        seconds: time in training; None if unknown.
        outcome: as found from all metrics.
        metrics: about 200 rows of the run's metrics: exact at the first and the last step, around each event and at
            extremes; rounded to five digits elsewhere.
        digests: by step of these rows, a hash of all metrics up to it.
        final: every measure at the last checkpoint.
        norms: L2 norm of each part of the network around T_grok; None if the weights are unknown.
        key_frequencies: at the last checkpoint; None for a task that has none.
        extracted: by recipe, what `Recipe.extract` took from the checkpoints.
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
    def of(run: Run, recipe: str, name: str, extracted: Mapping[str, Mapping[str, Any]] | None = None) -> "Record":
        """The record of a run that has ended.

        Args:
            run: the run.
            recipe: the recipe for which it was trained.
            name: name of the record.
            extracted: by recipe, what `Recipe.extract` took from the run.

        Raises:
            RunError: the run has not ended, or its metrics cannot be thinned to a small file.
        """
        status = run.status
        if status.get("status") not in (RunStatus.FINISHED, RunStatus.DIVERGED):
            raise RunError(f"{run.path} has not ended, so it leaves no record: resume it first")
        metrics, summary = run.metrics, summarize(run)
        known = {f"final.{column}" for column in metrics}
        content = {
            "format_version": RECORD_VERSION,
            "kind": "run",
            "recipe": recipe,
            "name": name,
            "config": json.loads(run.config.to_json()),
            "environment": _environment(run.environment),
            "status": status["status"],
            "reason": str(status.get("reason", "")),
            "step": status["step"],
            "seconds": (status.get("timing") or {}).get("seconds"),
            "outcome": summary["outcome"],
            "times": {name: _integer(value) for name, value in summary.items() if name.startswith("T_")},
            "final": {
                column.removeprefix("final."): None if value is None else _rounded(value, 6)
                for column, value in summary.items()
                if column.startswith("final.") and column not in known
            },
            "parameters": _parameters(metrics),
            "norms": _norms(run, summary),
            "key_frequencies": _keys(run),
            "extracted": dict(extracted or {}),
            "checksums": {
                "config": sha256(read_bytes(run.path / "config.json")),
                "metrics": sha256(read_bytes(run.path / METRICS)),
                "weights": run.checksum(run.steps[-1]),
            },
        }
        for count in _POINTS:
            for digits in (_DIGITS, 17):  # rounding must not move an event
                record = _attempt(content, metrics, count, digits, str(run.path))
                if record is not None:
                    return record
        raise RunError(f"{run.path} cannot be recorded in {MAX_RECORD_BYTES:,} bytes")

    @staticmethod
    def read(file: Path) -> "Record":
        """Reads a record, and checks that it is complete and consistent.

        Raises:
            RunError: the file is damaged, has another format version, or contradicts itself.
        """
        try:
            content = read_checked_json(file, limit=2 * MAX_RECORD_BYTES)
        except ValueError as error:
            raise _damaged(str(file), str(error)) from None
        return Record.from_content(content, str(file))

    @staticmethod
    def from_content(content: Any, source: str) -> "Record":
        """The record that a file with this parsed JSON, without checksum, holds.

        Args:
            content: parsed JSON.
            source: name of the file in error messages.

        Raises:
            RunError: as `read`.
        """
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != RECORD_VERSION:
            raise RunError(
                f"{source} has format version {version!r}, and this grokinterp reads version {RECORD_VERSION}: install "
                "the release that wrote it"
            )
        try:
            plain = json.loads(json.dumps(content))
            parsed = _adapter().validate_json(json.dumps(plain), strict=True)
            config = RunConfig.from_json(json.dumps(parsed.config), source)
        except ValidationError as error:
            first = error.errors()[0]
            raise _damaged(source, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (ConfigError, RecursionError) as error:
            raise _damaged(source, str(error)) from None
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
                columns = ",\n".join(f" {_compact(column)}:{_compact(values)}" for column, values in value.items())
                lines.append(f'"metrics":{{\n{columns}}}')
            else:
                lines.append(f"{_compact(name)}:{_compact(value)}")
        return "{" + ",\n".join(lines) + "}\n"

    def row(self, config: RunConfig) -> Row:
        """The columns of a sweep's table that this run would have with a configuration whose arm it serves.

        Args:
            config: which may train fewer steps, or have another memorization budget.
        """
        metrics, last = self.metrics_for(config), self.step
        if config.schedule is not None:
            last = min(last, config.schedule.steps)
        row = row_from_metrics(config, metrics, {"status": self.status, "step": last})
        if last == self.step:
            row |= {f"final.{name}": value for name, value in self.final.items()}
            row["outcome"] = self.outcome if _only_flatness({row["outcome"], self.outcome}) else row["outcome"]
        return row | config_columns(config)

    def metrics_for(self, config: RunConfig) -> pd.DataFrame:
        """The metrics up to the last step of a configuration whose arm this run serves."""
        if config.schedule is None or self.step <= config.schedule.steps:
            return self.metrics
        metrics = pd.DataFrame(self.metrics.loc[self.metrics.index <= config.schedule.steps])
        metrics.attrs |= self.metrics.attrs
        return metrics


def _attempt(content: dict[str, Any], metrics: pd.DataFrame, count: int, digits: int, source: str) -> Record | None:
    """The record with this many rows of metrics; None if its file is too large or its rows have lost an event."""
    exact = set(exact_steps(metrics))
    rows = metrics.loc[thinned_steps(metrics.index.to_numpy(), exact, count)]
    columns: dict[str, list[float | None]] = {"step": [int(step) for step in rows.index]}
    for name in rows:
        if name != "weight_rms":
            values = zip(rows.index, rows[name], strict=True)
            columns[str(name)] = [_rounded(value, 17 if step in exact else digits) for step, value in values]
    try:
        full = {**content, "metrics": columns, "digests": list(digests(metrics, columns["step"]))}  # pyright: ignore
        record = Record.from_content(full, source)
    except RunError:
        return None
    return record if len(record.to_json().encode()) <= MAX_RECORD_BYTES else None


def _table(parsed: _Content, config: RunConfig, source: str) -> pd.DataFrame:
    """The metrics as a table, with the RMS that follows from the norm."""
    columns = dict(parsed.metrics)
    steps = columns.pop("step", [])
    lengths = {len(values) for values in (*columns.values(), parsed.digests)}
    whole = all(isinstance(step, int | float) and step == int(step) and 0 <= step <= MAX_STEP for step in steps)
    if not steps or lengths != {len(steps)} or not whole or sorted(set(steps)) != steps:  # pyright: ignore
        raise _damaged(source, "its metrics are no table with ascending steps")
    data = {name: np.array(values, dtype=float) for name, values in columns.items()}
    if "weight_norm" in data and parsed.parameters:
        data["weight_rms"] = data["weight_norm"] / math.sqrt(parsed.parameters)
    table = pd.DataFrame(data, index=pd.Index(np.array(steps, dtype=np.int64), name="step"))
    table.attrs["n_classes"] = getattr(config.task, "p", math.inf)
    return table


def _require_consistent(record: Record, times: Mapping[str, int | None], source: str) -> None:
    """Raises an error if a record's outcome or times are not those of its own metrics."""
    if int(record.metrics.index[-1]) > record.step:
        raise _damaged(source, "its metrics are longer than the run")
    row = row_from_metrics(record.config, record.metrics, {"status": record.status, "step": record.step})
    found = {name: _integer(row.get(name)) for name in row if name.startswith("T_")}
    wrong = next((name for name in found if found[name] != times.get(name)), None)
    if wrong is not None:
        raise _damaged(source, f"its {wrong} is {times.get(wrong)}, but {found[wrong]} in its metrics")
    outcomes = {row["outcome"], record.outcome}
    if len(outcomes) > 1 and not _only_flatness(outcomes):
        raise _damaged(source, f"its outcome is {record.outcome}, but {row['outcome']} in its metrics")


def _only_flatness(outcomes: set[str]) -> bool:
    """Whether outcomes differ only in whether the last quarter is flat, which every evaluation decides."""
    return outcomes == {Outcome.SEMI_GROKKED, Outcome.DNF_TEST}


def _environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The part of environment.json without command and path; of further sessions, their number."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    resumed, packages = kept.get("resumed", []), kept.get("packages", {})
    kept["packages"] = {name: packages[name] for name in _VERSIONS if name in packages}
    return {**kept, "resumed": len(resumed)} if resumed else kept


def _parameters(metrics: pd.DataFrame) -> int | None:
    """How many numbers the trained weights have, from the ratio of their norm and their RMS."""
    if not {"weight_norm", "weight_rms"} <= set(metrics):
        return None
    norm, rms = (metrics[name].to_numpy(dtype=float) for name in ("weight_norm", "weight_rms"))
    positive = rms > 0
    return round(float(np.median(norm[positive] / rms[positive])) ** 2) if positive.any() else None


def _norms(run: Run, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    grokked = summary.get("T_grok_0.99")
    steps = run.steps
    step = steps[-1] if grokked is None else min(steps, key=lambda step: (abs(step - grokked), step))
    if isinstance(run.task, Task):
        norms = group_norms(run.snapshot(step))
    else:
        norms = dict[str, float]()
        for name, weight in run.weights(step).items():
            group = parameter_group(name)
            norms[group] = math.hypot(norms.get(group, 0.0), weight.double().norm().item())
    return {"step": step, "groups": {name: _rounded(norm, 6) for name, norm in norms.items()}}


def _keys(run: Run) -> dict[str, Any] | None:
    if not isinstance(run.task, Task) or run.task.group is None:
        return None
    step = run.steps[-1]
    return {"step": step, "values": [int(k) for k in key_frequencies(run.snapshot(step)).values]}


def _integer(value: Any) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)


def _rounded(value: float, digits: int) -> float | None:
    """A number rounded to some significant digits; None if it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@cache
def _adapter() -> Any:
    return TypeAdapter(_Content)


def _damaged(source: str, reason: str) -> RunError:
    return RunError(f"{source} is damaged ({reason}): restore the original file, or remove it and train the run again")
