"""Worker processes for `analyze`: each evaluates one checkpoint at a time, on one core."""

import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

import torch

from grokinterp.analysis.measure_calls import Cell, Job, evaluate, job_from
from grokinterp.measures.base import MEASURE_FOLDERS
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.environment import cores
from grokinterp.runs.processes import JsonProcess, ProcessDied
from grokinterp.runs.run import Run

log = logging.getLogger(__name__)

# Logits in all checkpoints to be analyzed from which the seconds that a worker takes to start are well spent.
_WORTHWHILE = 100_000_000
_MOST = 8  # each holds a few hundred megabytes
_LEAST_CHECKPOINTS = 8

Answer = tuple[int, list[Cell], str]  # step, its cells, and the checksum of what they were computed from


def worker_count(run: Run, checkpoints: int) -> int:
    """How many workers `analyze` starts of itself: one a core where there is much to do, else none."""
    if checkpoints * len(run.classification.inputs) * run.classification.n_classes < _WORTHWHILE:
        return 0
    count = min(cores(), _MOST, checkpoints // _LEAST_CHECKPOINTS)
    return count if count > 1 else 0


def evaluate_in_workers(run: Run, plan: Mapping[int, Sequence[Job]], count: int) -> Iterator[Answer]:
    """The cells of each step's jobs, in the order in which they are done, and the checksum of what they are of.

    A step that a worker fails at is left out: the caller is to try it, and to say what is wrong.

    Args:
        run: the run.
        plan: jobs by step, all of which have a `source`.
        count: number of workers.
    """
    steps: Queue[int] = Queue()
    for step in plan:
        steps.put(step)
    answers: Queue[Answer | None] = Queue()
    with ExitStack() as stack:
        for _ in range(count):
            worker = stack.enter_context(_Worker(run))
            Thread(target=_serve, args=(worker, plan, steps, answers), daemon=True).start()
        working = count
        while working:
            answer = answers.get()
            if answer is None:
                working -= 1
            else:
                yield answer


def _serve(worker: "_Worker", plan: Mapping[int, Sequence[Job]], steps: Queue[int], answers: Queue[Any]) -> None:
    """Has a worker do what is to be done, as long as it lives."""
    try:
        while True:
            step = steps.get_nowait()
            answer = worker.ask(step, plan[step])
            if answer is not None:
                answers.put(answer)
    except Empty:
        pass
    except (ProcessDied, ValueError, KeyError, TypeError) as error:
        log.warning("a worker process ended unexpectedly (%s): what it had to do is done without it", error)
    finally:
        answers.put(None)


class _Worker(JsonProcess):
    def __init__(self, run: Run):
        super().__init__("grokinterp.analysis.workers")
        self.run = run

    def __enter__(self) -> "_Worker":
        return self

    def ask(self, step: int, jobs: Sequence[Job]) -> Answer | None:
        wanted = [[job.source, job.frequencies] for job in jobs]
        answer = self.exchange({"run": str(self.run.path), "step": step, "jobs": wanted, "folders": MEASURE_FOLDERS})
        return None if answer is None else (step, [Cell(**cell) for cell in answer["cells"]], str(answer["checksum"]))


def main(questions: IO[str], answers: IO[str]) -> None:
    """Answers each line of `questions`, until there are no more."""
    torch.set_num_threads(1)
    keep_freed_memory()
    run: Run | None = None
    for line in questions:
        question = json.loads(line)
        MEASURE_FOLDERS[:] = question["folders"]
        if run is None or str(run.path) != question["run"]:
            run = Run.open(Path(question["run"]))
        try:
            snapshot = run.snapshot(question["step"])
            jobs = [job_from(source, tuple(frequencies)) for source, frequencies in question["jobs"]]
            cells = [asdict(evaluate(job, snapshot)) for job in jobs]
            answer = {"cells": cells, "checksum": snapshot.checksum}
        except Exception:  # whatever it is, the parent meets it too, and says so where it is seen
            answer = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    channel, sys.stdout = sys.stdout, sys.stderr  # a measure that prints must not be taken for an answer
    with suppress(BrokenPipeError):  # the parent was killed
        main(sys.stdin, channel)
