"""One row of a sweep's table: what became of a run, as plain numbers and words, kept beside it."""

import hashlib
import json
import logging
import math
from typing import Any

import pandas as pd

from grokinterp.analysis.measure_calls import evaluate, measure_job
from grokinterp.analysis.phases import known_values
from grokinterp.analysis.transition import THRESHOLDS, Event, find_transition
from grokinterp.config import RunConfig
from grokinterp.errors import RunError
from grokinterp.measures import key_frequencies, registered
from grokinterp.runs.files import exists, make_subfolder, parse_json, read_bytes, read_text, write_atomically
from grokinterp.runs.run import Run
from grokinterp.sweep.grid import flat_config
from grokinterp.tasks import Task

log = logging.getLogger(__name__)

_VERSION = 2
_MOST_COLUMNS = 1000
_LOSSES = ("final.train_loss", "final.test_loss")
_NORMS = ("weight_norm", "weight_rms")

# What every table has, whatever became of its runs.
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
    """What a run came to: outcome, events, norms, and every number at its last checkpoint.

    It is kept in the run as analysis/summary.json, and read from there while the run's status is the same.

    Args:
        run: finished or not.
        measures: evaluate the measures at the last checkpoint, if that was not done before; else only what the metrics
            say is returned, and nothing is kept.

    Returns:
        The columns of `Sweep.table` but for those that say which run it is; None where a value is not known.
    """
    file, stamp = run.path / "analysis" / "summary.json", _stamp(run)
    kept = kept_summary(run)
    if kept is not None:
        return kept
    row = _row(run)
    if measures:
        measured = {f"final.{name}": value for name, value in _final_measures(run).items()}
        # These measures are cross entropies: where another loss was trained on, the columns hold that one.
        own = {} if run.config.loss == "cross_entropy" else {name: row[name] for name in _LOSSES if name in row}
        row |= measured | own
        try:
            make_subfolder(run.path, file.parent.name)
            write_atomically(file, json.dumps({"version": _VERSION, "status": stamp, "row": row}, indent=1) + "\n")
        except RunError as error:  # on a read-only disk it is computed each time
            log.warning("the summary was not kept: %s", error)
    return row


def kept_summary(run: Run) -> Row | None:
    """The summary that is kept in a run; None where there is none, or it is of another state of the run."""
    try:
        content = parse_json(read_text(run.path / "analysis" / "summary.json"))
        row = content["row"]
        # Version 1 had cross entropies in final.*_loss also of runs that were trained on another loss.
        readable = (_VERSION,) if run.config.loss != "cross_entropy" else (1, _VERSION)
        current = content["version"] in readable and content["status"] == _stamp(run)
        whole = {"status", "outcome", "step"} <= set(row)
        plain = len(row) <= _MOST_COLUMNS and all(_is_plain(name, value) for name, value in row.items())
    except (RunError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return row if current and whole and plain else None


def _is_plain(name: str, value: Any) -> bool:
    """Whether a value can stand in its column of the table."""
    if is_number(name):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300)
    return value is None or isinstance(value, str)


def is_number(column: str) -> bool:
    """Whether a column of the table holds numbers, NaN where they are not known."""
    return column == "step" or column.startswith(("T_", "delay_", "weight_", "final."))


def _stamp(run: Run) -> str:
    """What changes whenever a run does."""
    status = run.path / "status.json"
    return hashlib.sha256(read_bytes(status)).hexdigest() if exists(status) else ""


def _row(run: Run) -> Row:
    """What status and metrics say."""
    metrics, status = run.metrics, run.status
    schedule = run.config.schedule
    transition = find_transition(
        metrics,
        n_classes=run.task.n_classes if isinstance(run.task, Task) else math.inf,
        metrics=metrics,
        cross_entropy=run.config.loss == "cross_entropy",
        memorization_budget=schedule.memorization_budget if schedule else None,
        status=str(status.get("status", "running")),
    )
    row: Row = {
        "status": status.get("status", "running"),
        "outcome": transition.outcome,
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


def _difference(later: Event, earlier: Event) -> int | None:
    return None if later.step is None or earlier.step is None else later.step - earlier.step


def _at(metrics: pd.DataFrame, name: str, step: int | None) -> float | None:
    series = known_values(metrics, name)
    return None if series is None or step is None or step not in series.index else _number(series.loc[step])


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _final_measures(run: Run) -> dict[str, float | None]:
    """Every measure that is a number, at the last checkpoint, with that checkpoint's own key frequencies."""
    if not run.steps or not isinstance(run.task, Task):  # a regression has no snapshot
        return {}
    snapshot = run.snapshot(run.steps[-1])
    keys = key_frequencies(snapshot).values if run.task.group is not None else ()
    cells = [evaluate(measure_job(name, keys), snapshot) for name in registered()]
    return {name: _number(value) for cell in cells for name, value in cell.scalars.items()}


def config_columns(config: RunConfig) -> Row:
    """A configuration as columns of the table, lists as JSON."""
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in flat_config(config).items()
    }
