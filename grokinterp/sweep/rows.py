"""One row of a sweep's table: the summary of a run in plain numbers and strings, stored in the run's folder."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from grokinterp.analysis.measure_calls import evaluate, measure_call
from grokinterp.analysis.phases import known_values
from grokinterp.analysis.transition import THRESHOLDS, Event, Transition, find_transition
from grokinterp.config import RunConfig
from grokinterp.config.run import flat_config
from grokinterp.errors import RunError, logger
from grokinterp.measures import key_frequencies, registered
from grokinterp.runs.checksums import read_checked_json, sha256, with_checksum
from grokinterp.runs.files import MAX_CONFIG_BYTES, exists, make_subfolder, read_bytes, write_atomically
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.tables import MAX_COLUMNS
from grokinterp.statistics.outcomes import Outcome
from grokinterp.tasks import Task

log = logger(__name__)

_VERSION = 2
_LOSSES = ("final.train_loss", "final.test_loss")
_NORMS = ("weight_norm", "weight_rms")

# Columns of every table, whatever its runs contain.
COLUMNS = (
    *("run", "status", "failure", "outcome", "step"),
    *(
        f"{event}_{theta}{when}"
        for event in ("T_train", "T_grok", "T_grok_novel")
        for theta in THRESHOLDS
        for when in ("", "_after")
    ),
    *(f"delay_{theta}" for theta in THRESHOLDS),
    "delay_0.95_0.99",
    *(f"{norm}_at_T_grok_{theta}" for theta in THRESHOLDS for norm in _NORMS),
    "weight_norm_max",
)

Row = dict[str, Any]


def summarize(run: Run, *, measures: bool = True) -> Row:
    """Summary of a run: outcome, events, norms, and every number at its last checkpoint.

    The summary is stored in the run as analysis/summary.json and read from there until the run's status changes.

    Args:
        run: the run, finished or not.
        measures: if no summary is stored, evaluate the measures at the last checkpoint and store the summary. If False,
            return only what follows from the metrics, and store nothing.

    Returns:
        The columns of `Sweep.table` without the run's name and configuration; None for unknown values.
    """
    file, fingerprint = run.path / "analysis" / "summary.json", _fingerprint(run)
    summary = stored_summary(run)
    if summary is not None:
        return summary
    row = row_from_metrics(run.config, run.metrics, run.status)
    if measures:
        # The loss measures are cross entropies: if the run was trained on another loss, the columns keep that loss.
        losses = {} if run.config.loss == "cross_entropy" else {name: row[name] for name in _LOSSES if name in row}
        row |= {f"final.{name}": value for name, value in _final_measures(run).items()} | losses
        content = {"version": _VERSION, "status": fingerprint, "row": row}
        try:
            make_subfolder(run.path, file.parent.name)
            write_atomically(file, json.dumps(with_checksum(content), indent=1) + "\n")
        except RunError as error:  # on a read-only disk, the summary is computed every time
            log.warning("the summary was not stored: %s", error)
    return row


def stored_summary(run: Run) -> Row | None:
    """The summary stored in a run; None if it is missing, damaged, or older than the run's status."""
    try:
        content = read_checked_json(run.path / "analysis" / "summary.json", limit=MAX_CONFIG_BYTES)
        row = content["row"]
        # In version 1, final.*_loss held cross entropies even if a run was trained on another loss.
        readable = (_VERSION,) if run.config.loss != "cross_entropy" else (1, _VERSION)
        current = content["version"] in readable and content["status"] == _fingerprint(run)
        complete = {"status", "outcome", "step"} <= set(row) and row["outcome"] in set(Outcome)
        valid = len(row) <= MAX_COLUMNS and all(_is_valid(name, value) for name, value in row.items())
    except (RunError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return row if current and complete and valid else None


def _is_valid(name: str, value: Any) -> bool:
    """Whether a value has the type of its column in the table."""
    if is_number(name):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300)
    return value is None or isinstance(value, str)


def is_number(column: str) -> bool:
    """Whether a column of the table holds numbers, with NaN for unknown values."""
    return column == "step" or column.startswith(("T_", "delay_", "weight_", "final."))


def _fingerprint(run: Run) -> str:
    """A hash that changes whenever the run does."""
    status = run.path / "status.json"
    return sha256(read_bytes(status)) if exists(status) else ""


def row_from_metrics(config: RunConfig, metrics: pd.DataFrame, status: Mapping[str, Any]) -> Row:
    """The columns of a run that follow from its metrics and its status, as in status.json."""
    transition = transition_from_metrics(config, metrics, str(status.get("status", RunStatus.RUNNING)))
    row: Row = {
        "status": status.get("status", RunStatus.RUNNING.value),
        "outcome": str(transition.outcome),
        "step": int(status.get("step", 0)),
    }
    for name, events in (
        ("T_train", transition.T_train),
        ("T_grok", transition.T_grok),
        ("T_grok_novel", transition.T_grok_novel),
    ):
        for theta, event in events.items():
            row |= {f"{name}_{theta}": event.step, f"{name}_{theta}_after": event.previous}
    row |= {f"delay_{theta}": delay for theta, delay in transition.delay.items()}
    row["delay_0.95_0.99"] = _difference(transition.T_grok[0.95], transition.T_train[0.99])
    for theta in THRESHOLDS:
        for norm in _NORMS:
            row[f"{norm}_at_T_grok_{theta}"] = _at(metrics, norm, transition.T_grok[theta].step)
    row["weight_norm_max"] = _number(metrics["weight_norm"].max()) if "weight_norm" in metrics else None
    last = metrics.iloc[-1].to_dict() if len(metrics) else {}
    return row | {f"final.{name}": _number(value) for name, value in last.items()}


def transition_from_metrics(config: RunConfig, metrics: pd.DataFrame, status: str) -> Transition:
    """The outcome and the events of a run, from its metrics alone; the phases, which need measures, are unlocated."""
    return find_transition(
        metrics,
        metrics=metrics,
        cross_entropy=config.loss == "cross_entropy",
        memorization_budget=config.schedule.memorization_budget if config.schedule else None,
        status=status,
        phases=False,
    )


def _difference(later: Event, earlier: Event) -> int | None:
    return None if later.step is None or earlier.step is None else later.step - earlier.step


def _at(metrics: pd.DataFrame, name: str, step: int | None) -> float | None:
    series = known_values(metrics, name)
    return None if step is None or step not in series.index else _number(series.loc[step])


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _final_measures(run: Run) -> dict[str, float | None]:
    """Every scalar measure at the last checkpoint, with the key frequencies of that checkpoint."""
    if not run.steps or not isinstance(run.task, Task):  # a regression has no snapshot
        return {}
    snapshot = run.snapshot(run.steps[-1])
    keys = key_frequencies(snapshot).values if run.task.group is not None else ()
    values = [evaluate(measure_call(name, keys), snapshot) for name in registered()]
    return {name: _number(scalar) for value in values for name, scalar in value.scalars.items()}


def config_columns(config: RunConfig) -> Row:
    """The columns of a configuration; lists become JSON strings."""
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in flat_config(config).items()
    }
