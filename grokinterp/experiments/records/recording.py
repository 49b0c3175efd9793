"""Recording a run: what a finished run leaves behind, small enough to keep."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import RunError
from grokinterp.experiments.records.record import MAX_RECORD_BYTES, RECORD_VERSION, Record, integer
from grokinterp.experiments.records.thinning import digests, exact_steps, thinned_steps
from grokinterp.measures import group_norms, key_frequencies
from grokinterp.measures.norms import parameter_group
from grokinterp.runs.checksums import sha256
from grokinterp.runs.files import read_bytes
from grokinterp.runs.metrics import METRICS
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.sweep.rows import summarize
from grokinterp.tasks import Task

_POINTS = (200, 160, 130, 100, 80, 60, 40, 20)  # the largest number of rows with which the file is small enough
_DIGITS = 5  # of a number in a row that is not exact

_VERSIONS = ("grokinterp", "torch", "transformer-lens", "numpy")
_ENVIRONMENT = (
    *("python", "packages", "machine", "processor", "device", "threads", "commit", "forward_path"),
    *("matrix_products", "float32_precision", "products", "compiled", "resumed"),
)


def record_run(run: Run, recipe: str, name: str, extracted: Mapping[str, Mapping[str, Any]] | None = None) -> Record:
    """The record of a run that has ended.

    Args:
        run: the run.
        recipe: the recipe for which it was trained.
        name: name of the record.
        extracted: by recipe, what `Arm.extract` took from the run.

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
        "environment": recorded_environment(run.environment),
        "status": status["status"],
        "reason": str(status.get("reason", "")),
        "step": status["step"],
        "seconds": _seconds(status),
        "outcome": summary["outcome"],
        "times": {name: integer(value) for name, value in summary.items() if name.startswith("T_")},
        "final": {
            column.removeprefix("final."): None if value is None else rounded(value, 6)
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
    steps, exact = metrics.index.to_numpy(), exact_steps(metrics)
    hashes = dict(zip(steps.tolist(), digests(metrics, steps.tolist()), strict=True))
    for count in _POINTS:
        rows = metrics.loc[thinned_steps(steps, exact, count)]
        for digits in (_DIGITS, 17):  # rounding must not move an event
            columns = _columns(rows, set(exact), digits)
            full = {**content, "metrics": columns, "digests": [hashes[step] for step in columns["step"]]}
            record = _record_if_consistent(full, str(run.path))
            if record is not None and len(record.to_json().encode()) <= MAX_RECORD_BYTES:
                return record
    raise RunError(f"{run.path} cannot be recorded in {MAX_RECORD_BYTES:,} bytes")


def _columns(rows: pd.DataFrame, exact: set[int], digits: int) -> dict[str, list[Any]]:
    """Rows of metrics as columns, rounded except for those of exact steps; without the RMS, which the norm gives."""
    steps = rows.index.to_numpy().tolist()
    columns: dict[str, list[Any]] = {"step": steps}
    for name in rows:
        if name != "weight_rms":
            values = zip(steps, rows[name], strict=True)
            columns[str(name)] = [rounded(value, 17 if step in exact else digits) for step, value in values]
    return columns


def _record_if_consistent(content: dict[str, Any], source: str) -> Record | None:
    """The record with this content; None if its rows have lost an event."""
    try:
        return Record.from_content(content, source)
    except RunError:
        return None


def recorded_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The part of environment.json without command and path; of further sessions, their number."""
    kept = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    resumed, packages = kept.get("resumed", []), kept.get("packages", {})
    kept["packages"] = {name: packages[name] for name in _VERSIONS if name in packages}
    return {**kept, "resumed": len(resumed)} if resumed else kept


def _seconds(status: Mapping[str, Any]) -> float | None:
    """The time of all updates at the speed of the latest session, whose time alone status.json has."""
    speed = (status.get("timing") or {}).get("steps_per_second")
    return round(status["step"] / speed, 1) if speed else None


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
    return {"step": step, "groups": {name: rounded(norm, 6) for name, norm in norms.items()}}


def _keys(run: Run) -> dict[str, Any] | None:
    if not isinstance(run.task, Task) or run.task.group is None:
        return None
    step = run.steps[-1]
    return {"step": step, "values": [int(k) for k in key_frequencies(run.snapshot(step)).values]}


def rounded(value: float, digits: int) -> float | None:
    """A number rounded to some significant digits; None if it is not finite."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
