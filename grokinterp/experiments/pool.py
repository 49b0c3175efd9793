"""The pool: trains the runs of published size that have no record, several at a time."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Lock, Thread

import torch

from grokinterp.errors import GrokinterpError, RunError
from grokinterp.experiments.missing import Missing, missing_runs
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.reproduction import extracting_arms
from grokinterp.experiments.training import record_of
from grokinterp.runs.environment import current_command
from grokinterp.runs.run import Run
from grokinterp.sweep.executors import LocalExecutor
from grokinterp.sweep.jobs import Ended, Job
from grokinterp.sweep.running import plan


def train_pool(
    folder: Path,
    records: Records,
    workers: int,
    *,
    hours: float | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Trains what is missing, one run per worker at a time, and writes the record of each as soon as it has ended.

    A run that was interrupted is resumed. The runs of a recipe lie where `reproduce NAME` would train them.

    Args:
        folder: the runs of a recipe go into its subfolder NAME/runs/ARM.
        records: the folder of records.
        workers: number of processes, each with one thread.
        hours: time that is left; a run starts only if it is expected to end within it.
        say: called with a line for each run that starts or ends.

    Returns:
        The number of records written, and the number of runs that failed.

    Raises:
        RunError: a record is damaged, or the folder cannot be written to.
        KeyboardInterrupt: the user interrupted the training; interrupted runs can be resumed.
    """
    torch.set_num_threads(1)  # of what is extracted from the runs
    pool = _Pool(folder, records, missing_runs(records), hours, say)
    threads = [Thread(target=pool.work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)  # a join without a limit would not notice Ctrl-C
    finally:
        pool.stopping.set()
        for thread in threads:
            thread.join()
    return pool.written, pool.failed


class _Pool:
    """The runs that are left, and what its workers share."""

    def __init__(
        self, folder: Path, records: Records, runs: list[Missing], hours: float | None, say: Callable[[str], None]
    ):
        self.folder, self.records, self.runs, self.print = folder, records, runs, say
        self.end = math.inf if hours is None else time.monotonic() + 3600 * hours
        self.extracting = extracting_arms()
        self.stopping, self.lock, self.written, self.failed = Event(), Lock(), 0, 0

    def take(self) -> Missing | None:
        """The next run that is expected to end in time."""
        left = (self.end - time.monotonic()) / 3600
        with self.lock:
            chosen = next((run for run in self.runs if run.hours <= left), None)
            if chosen is not None:
                self.runs.remove(chosen)
        return chosen

    def say(self, line: str) -> None:
        """Reports one line at a time, although several threads report."""
        with self.lock:
            self.print(line)

    def work(self) -> None:
        while not self.stopping.is_set() and (run := self.take()) is not None:
            place = f"{run.recipe.name}/{run.arm.name}/{run.name}"
            self.say(f"{place}: begins; about {run.hours:.2g} hours")
            try:
                self.say(f"{place}: {self.train(run)}")
            except Exception as error:  # the other runs go on
                with self.lock:
                    self.failed += 1
                self.say(f"{place}: {error if isinstance(error, GrokinterpError) else repr(error)}")

    def train(self, run: Missing) -> str:
        """Trains one run; returns how it ended.

        Raises:
            RunError: the run failed.
        """
        arm, path = run.arm, self.folder / run.recipe.name / "runs" / run.arm.name
        sweep = plan(path, arm.base, grid=arm.grid or None, points=arm.points or None)
        sweep.write()
        job = Job(str(path), {run.name: run.config.to_json()}, "cpu", current_command())
        ended = self.run(job)
        if ended is None or ended.stopped:
            return "another process trains it" if ended is not None and ended.in_use else "interrupted"
        if ended.failure is not None and ended.failure.kind != "diverged":
            sweep.record_failure(run.name, ended.failure)
            raise RunError(str(ended.failure))
        sweep.record_failure(run.name, None)  # of an earlier attempt
        record = record_of(Run.open(path / run.name), run.recipe, arm, run.name, self.extracting)
        with self.lock:
            self.records.add(record)
            self.written += 1
        return f"{record.outcome} at step {record.step:,}"

    def run(self, job: Job) -> Ended | None:
        """Runs a job in a process of its own; None if the pool is stopped before it has ended."""
        with closing(LocalExecutor(1).execute([job])) as events:
            for event in events:
                if isinstance(event, Ended):
                    return event
                if self.stopping.is_set():
                    break
        return None
