"""load and list_runs: the runs and sweeps in a folder, opened or as a table."""

import math
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.analysis.phases import known_values
from grokinterp.errors import GrokinterpError, RunError
from grokinterp.runs.files import accessing, exists, file_state
from grokinterp.runs.folders import as_path, read_stable
from grokinterp.runs.metrics import METRICS, last_line
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.formatting import sparkline
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.rows import transition_from_metrics

_SPARKS = 10  # characters of a sparkline
_RUN_COLUMNS = (
    *("run", "task", "train_fraction", "model", "status", "step", "steps", "checkpoints"),
    *("train_accuracy", "test_accuracy", "novel_accuracy", "outcome", "T_train_0.99", "T_grok_0.99"),
    *("sparkline", "modified"),
)


def load(path: str | Path) -> Run | Sweep:
    """Opens a run, however it was made (trained, recorded or imported), or a sweep.

    >>> load("checkpoints/run42").steps[0]
    0

    Args:
        path: the folder.

    Raises:
        RunError: the folder does not exist, or is neither a run nor a sweep.
        ConfigError: a file in it is damaged or has another format version.
    """
    folder = as_path(path)
    return Sweep.open(folder) if exists(folder / "sweep.json") else Run.open(folder)


def list_runs(folder: str | Path = "checkpoints") -> pd.DataFrame:
    """The runs and sweeps in a folder as a table, one row each; the runs come first.

        >>> list_runs("checkpoints")[["run", "status", "step"]]
             run    status  step
        0  run42  finished  4240

    Args:
        folder: the folder that holds the runs and sweeps.

    Returns:
        The columns of a run are `run` (its name), `task`, `train_fraction`, `model`, `status`, `step`, `steps` (those
        that its schedule has), `checkpoints` (their number); `train_accuracy`, `test_accuracy` and `novel_accuracy` at
        the last evaluated step; `outcome`, `T_train_0.99` and `T_grok_0.99`, as `analyze` finds them; `sparkline`,
        which draws the accuracy on novel pairs (if there are none: on test inputs) over training; and `modified`, the
        time in UTC at which the run was last written to. If the folder holds sweeps, their columns are `sweep` (the
        name), `runs` and `finished` (numbers of runs). If a run or sweep cannot be read, `problem` says why.

    Raises:
        RunError: the folder does not exist or cannot be read.
    """
    rows = describe_runs(as_path(folder, "folder"))
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*_RUN_COLUMNS, *(name for row in rows for name in row)])))


def describe_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run in a folder, then one per sweep, for JSON and `grokinterp list`; see `list_runs`."""
    with accessing("read", folder):
        if not folder.is_dir():
            raise RunError(f"{folder} is not a folder: give the folder that contains the runs")
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    runs: list[dict[str, Any]] = []
    sweeps: list[dict[str, Any]] = []
    for path in (folder / name for name in names):
        try:
            if path.is_dir() and exists(path / "config.json"):
                runs.append(read_stable(path, partial(_describe_run, path)))
            if path.is_dir() and exists(path / "sweep.json"):
                sweeps.append(_describe_sweep(path))
        except (GrokinterpError, OSError) as error:
            if os.path.lexists(path):  # otherwise, it was removed after it was listed
                runs.append({"run": path.name, "problem": str(error)})
    return runs + sweeps


def _describe_run(path: Path) -> dict[str, Any]:
    run = Run.open(path)
    status, last = run.status, last_line(path / METRICS)
    values = {} if last is None else last.values
    metrics, schedule = run.metrics, run.config.schedule
    transition = transition_from_metrics(run.config, metrics, str(status.get("status", RunStatus.RUNNING)))
    curve = known_values(metrics, "novel_accuracy", "test_accuracy")
    return {
        "run": path.name,
        "task": run.config.task.title,
        "train_fraction": run.config.task.train_fraction,
        "model": run.config.model.kind,
        "status": status.get("status", "unknown"),
        "step": status.get("step"),
        "steps": schedule.steps if schedule else None,
        "checkpoints": len(run.steps),
        **{name: _finite(values.get(name)) for name in ("train_accuracy", "test_accuracy", "novel_accuracy")},
        "outcome": str(transition.outcome),
        "T_train_0.99": transition.T_train[0.99].step,
        "T_grok_0.99": transition.T_grok[0.99].step,
        "sparkline": sparkline(_resampled(curve)),
        "modified": _modified(path),
    }


def _resampled(curve: pd.Series) -> list[float]:
    """The values of a curve at evenly spaced steps: at each, that of the last evaluated step."""
    if curve.empty:
        return []
    steps = np.linspace(0, curve.index[-1], _SPARKS)
    return curve.to_numpy()[np.maximum(np.searchsorted(curve.index, steps, side="right") - 1, 0)].tolist()


def _modified(path: Path) -> str:
    """The time at which a run was last written to, in UTC."""
    files = [path / name for name in ("config.json", "status.json", METRICS)]
    times = [state[2] for state in map(file_state, files) if state is not None]
    if not times:
        raise RunError(f"{path} was removed while it was read")
    latest = max(times) / 1e9
    return datetime.fromtimestamp(latest, UTC).isoformat(timespec="seconds")


def _describe_sweep(path: Path) -> dict[str, Any]:
    try:
        statuses = Sweep.open(path).statuses()
    except GrokinterpError as error:
        return {"sweep": path.name, "problem": str(error)}
    return {"sweep": path.name, "runs": statuses.total(), "finished": statuses["finished"]}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
