"""Helpers for tests of sweeps: a base configuration, a trained sweep, commands, and comparisons of tables."""

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pandas as pd
import processes

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep, train_sweep
from grokinterp.sweep.executors import Event, Started
from grokinterp.sweep.jobs import Job, run_job

BASE = RunConfig(
    task=TaskConfig(p=17, train_fraction=0.7),
    model=MLPConfig(input="sum", width=64),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=1.0),
    schedule=ScheduleConfig(steps=400, evaluate_every=10, checkpoints=200, resume_every=50),
    loss_dtype="float32",
)
TWELVE = {"optimizer.weight_decay": [0.3, 1.0, 3.0], "model_seed": range(4)}


@functools.cache
def train_twelve(parent: Path) -> Sweep:
    """Twelve tiny runs, trained without interruption, once for all test files. Tests change only copies of it."""
    return train_sweep(parent / "undisturbed", BASE, grid=TWELVE, workers=1)


class InProcess:
    """Executor that trains in the test's own process: for tests that check results, not processes."""

    def execute(self, jobs: Sequence[Job]) -> Generator[Event]:
        for job in jobs:
            yield Started(tuple(job.runs))
            yield from run_job(job)


def sweep_words(folder: Path, *more: str, config: RunConfig = BASE, grid: Sequence[str] = ()) -> list[str]:
    """The command that trains a sweep, by default that of twelve runs."""
    file = folder.parent / f"{folder.name}-config.json"
    file.write_text(config.to_json())
    grid = grid or ("optimizer.weight_decay=0.3,1,3", "model_seed=0:4")
    return [sys.executable, "-m", "grokinterp.cli", "sweep", str(folder), "--config", str(file), "--grid", *grid, *more]


def start_command(words: Sequence[str]) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Start a command with its output in pipes."""
    return processes.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished_runs(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*/status.json") if json.loads(file.read_text())["status"] == "finished"]


def workers_of(folder: Path) -> list[int]:
    """Processes that train runs of a sweep: they hold a lock in a run's folder."""
    workers = []
    for file in folder.glob("*/.lock"):
        with contextlib.suppress(OSError, IndexError):  # just released, or not yet written
            workers.append(int(file.read_text().split()[1]))
    return [pid for pid in workers if pid != os.getpid()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def assert_same_table(one: pd.DataFrame, other: pd.DataFrame) -> None:
    # restricted_loss_novel may differ in the last bit from call to call (LAPACK)
    pd.testing.assert_frame_equal(as_stored(one), as_stored(other), rtol=1e-12, atol=0)


def as_stored(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the types that a Parquet file keeps."""
    return pd.read_parquet(io.BytesIO(table.to_parquet()))


def assert_complete(folder: Path, count: int, schedule: ScheduleConfig = BASE.schedule) -> None:
    """Every run exists once and has every evaluated step once, in order."""
    evaluated, saved = (range(0, schedule.steps + 1, int(k)) for k in (schedule.evaluate_every, schedule.checkpoints))
    runs = sorted(file.parent for file in folder.glob("*/config.json"))
    assert len(runs) == count
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(evaluated), run
        assert Run.open(run).steps == list(saved)
