"""Worker processes for `analyze`: each evaluates one checkpoint at a time on one core."""

import json
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

from grokinterp.analysis.measure_calls import MeasureCall, Value, call_from, evaluate, use_neurons
from grokinterp.errors import logger
from grokinterp.measures.base import MEASURE_FOLDERS
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.environment import cores
from grokinterp.runs.processes import JsonProcess, ProcessDied
from grokinterp.runs.run import Run

log = logger(__name__)

# Number of logits over all checkpoints from which workers pay for the seconds they take to start.
_WORTHWHILE = 100_000_000
_MAX_WORKERS = 8  # each takes a few hundred megabytes
_MIN_CHECKPOINTS = 8  # per worker

Answer = tuple[int, list[Value], str]  # step, its values, and the checksum of the weights


def worker_count(run: Run, checkpoints: int) -> int:
    """The default number of workers: one per core if there is enough work, otherwise none."""
    if checkpoints * len(run.classification.inputs) * run.classification.n_classes < _WORTHWHILE:
        return 0
    count = min(cores(), _MAX_WORKERS, checkpoints // _MIN_CHECKPOINTS)
    return count if count > 1 else 0


def evaluate_in_workers(run: Run, plan: Mapping[int, Sequence[MeasureCall]], count: int) -> Iterator[Answer]:
    """Yields each step with its values and the checksum of its weights, in the order in which the workers finish.

    A step on which a worker fails is not yielded: the caller evaluates it and meets the error.

    Args:
        run: the run.
        plan: calls by step; all have a `source`.
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
        for _ in range(count):  # the last answer of each worker is None
            yield from iter(answers.get, None)


def _serve(
    worker: "_Worker", plan: Mapping[int, Sequence[MeasureCall]], steps: Queue[int], answers: Queue[Any]
) -> None:
    """Passes steps to a worker until none are left or the worker dies."""
    try:
        while True:
            step = steps.get_nowait()
            answer = worker.evaluate(step, plan[step])
            if answer is not None:
                answers.put(answer)
    except Empty:
        pass
    except (ProcessDied, ValueError, KeyError, TypeError) as error:
        log.warning("a worker process ended unexpectedly (%s): its checkpoint is evaluated without it", error)
    finally:
        answers.put(None)


class _Worker(JsonProcess):
    def __init__(self, run: Run):
        super().__init__("grokinterp.analysis.workers")
        self.run = run

    def __enter__(self) -> "_Worker":
        return self

    def evaluate(self, step: int, calls: Sequence[MeasureCall]) -> Answer | None:
        sources = [[call.source, call.frequencies] for call in calls]
        answer = self.exchange({"run": str(self.run.path), "step": step, "calls": sources, "folders": MEASURE_FOLDERS})
        if answer is None:
            return None
        return step, [Value(**value) for value in answer["values"]], str(answer["checksum"])


def main(questions: IO[str], answers: IO[str]) -> None:
    """Answers each line of `questions` until the input ends."""
    torch.set_num_threads(1)
    keep_freed_memory()
    run: Run | None = None
    for line in questions:
        question = json.loads(line)
        MEASURE_FOLDERS[:] = question["folders"]
        if run is None or str(run.path) != question["run"]:
            run = Run.open(Path(question["run"]))
        try:
            calls = [call_from(source, tuple(frequencies)) for source, frequencies in question["calls"]]
            snapshot = run.snapshot(question["step"], neurons=use_neurons(calls))
            values = [asdict(evaluate(call, snapshot)) for call in calls]
            answer = {"values": values, "checksum": snapshot.checksum}
        except Exception:  # the parent meets the same error and reports it
            answer = None
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which then ends this process
    channel, sys.stdout = sys.stdout, sys.stderr  # what a measure prints must not be mistaken for an answer
    with suppress(BrokenPipeError):  # the parent was killed
        main(sys.stdin, channel)
