"""load and list_runs: the runs and sweeps in a folder, opened or as a table."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from grokinterp.errors import GrokinterpError, RunError
from grokinterp.runs.files import accessing, exists
from grokinterp.runs.folders import as_path, read_stable
from grokinterp.runs.metrics import last_line
from grokinterp.runs.run import Run
from grokinterp.sweep.folder import Sweep

_RUN_COLUMNS = (
    *("run", "task", "train_fraction", "model", "status", "step", "checkpoints"),
    *("train_accuracy", "test_accuracy"),
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
        The columns of a run are `run` (its name), `task`, `train_fraction`, `model`, `status`, `step`, `checkpoints`
        (their number), and `train_accuracy` and `test_accuracy` at the last evaluated step. If the folder holds sweeps,
        their columns are `sweep` (the name), `runs` and `finished` (numbers of runs). If a run or sweep cannot be read,
        `problem` says why.

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
    status, last = run.status, last_line(path / "metrics.jsonl")
    metrics = {} if last is None else last.values
    return {
        "run": path.name,
        "task": run.config.task.title,
        "train_fraction": run.config.task.train_fraction,
        "model": run.config.model.kind,
        "status": status.get("status", "unknown"),
        "step": status.get("step"),
        "checkpoints": len(run.steps),
        "train_accuracy": _finite(metrics.get("train_accuracy")),
        "test_accuracy": _finite(metrics.get("test_accuracy")),
    }


def _describe_sweep(path: Path) -> dict[str, Any]:
    try:
        statuses = Sweep.open(path).statuses()
    except GrokinterpError as error:
        return {"sweep": path.name, "problem": str(error)}
    return {"sweep": path.name, "runs": statuses.total(), "finished": statuses["finished"]}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
