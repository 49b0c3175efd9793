"""Executors run the jobs of a sweep: in processes on this machine here, on a Ray cluster in ray_executor.py."""

import signal
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from queue import Empty, Queue
from threading import Thread
from typing import Protocol, runtime_checkable

from grokinterp.runs.processes import JsonProcess, ProcessDied
from grokinterp.sweep.jobs import Ended, Failure, Job

TICK = 1.0  # seconds between two progress updates
_SHUTDOWN_TIMEOUT = 60.0  # seconds that interrupted workers have to write a last resume point


@dataclass(frozen=True)
class Started:
    """A worker started these runs."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Requeued:
    """These runs had been started and are waiting again."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Tick:
    """Nothing happened for `TICK` seconds."""


Event = Started | Requeued | Ended | Tick


@runtime_checkable
class Executor(Protocol):
    """Interface between a sweep and the workers that train its runs."""

    def execute(self, jobs: Sequence[Job]) -> Generator[Event]:
        """Run all jobs, in any order, and yield what happens.

        The last event of every run is its `Ended`. Closing the generator stops all running jobs; they can be resumed.
        """
        ...


@dataclass
class LocalExecutor:
    """Processes on this machine, each with one thread: two threads on one core are slower than one.

    Attributes:
        workers: number of processes.
        stopping: whether the executor is shutting its workers down.
    """

    workers: int
    stopping: bool = field(default=False, init=False, repr=False, compare=False)

    def execute(self, jobs: Sequence[Job]) -> Generator[Event]:
        """See `Executor`."""
        self.stopping = False
        queue: Queue[Job] = Queue()
        for job in jobs:
            queue.put(job)
        events: Queue[Event | None] = Queue()
        active = min(self.workers, len(jobs))
        threads = [_WorkerThread(queue, events, self) for _ in range(active)]
        for thread in threads:
            thread.start()
        try:
            while active:
                try:
                    event = events.get(timeout=TICK)
                except Empty:
                    event = Tick()
                if event is None:
                    active -= 1
                else:
                    yield event
        finally:
            self._stop(threads)

    def _stop(self, threads: "Sequence[_WorkerThread]") -> None:
        self.stopping = True
        for thread in threads:
            thread.interrupt()
        deadline = time.monotonic() + _SHUTDOWN_TIMEOUT
        try:
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        finally:  # even after a second Ctrl-C
            for thread in threads:
                thread.kill()


class _WorkerThread(Thread):
    """Hands jobs to a worker process until the queue is empty, and starts a new process if one dies."""

    def __init__(self, queue: "Queue[Job]", events: "Queue[Event | None]", executor: LocalExecutor):
        super().__init__(daemon=True)
        self.queue, self.events, self.executor = queue, events, executor
        self.worker: JsonProcess | None = None

    def run(self) -> None:
        try:
            while not self.executor.stopping:
                self.run_job(self.queue.get_nowait())
        except Empty:
            pass
        finally:
            self.kill()
            self.events.put(None)

    def run_job(self, job: Job) -> None:
        self.events.put(Started(tuple(job.runs)))
        try:
            if self.worker is None:
                # A separate session keeps Ctrl-C from the worker: `interrupt` tells it when to stop.
                self.worker = JsonProcess("grokinterp.sweep.worker", own_session=True)
            if self.executor.stopping:  # `interrupt` may have come before the process
                return
            for content in self.worker.exchange(asdict(job)):
                self.events.put(Ended.from_json(content))
        except (ProcessDied, OSError) as error:
            self.kill()
            if self.executor.stopping:
                return
            if len(job.runs) > 1:  # training each run alone shows which one fails
                self.events.put(Requeued(tuple(job.runs)))
                for name, config in job.runs.items():
                    self.queue.put(replace(job, runs={name: config}))
                return
            (name,) = job.runs
            self.events.put(Ended(name, Failure("killed", _describe(error))))
        except Exception as error:  # the answer is not readable
            self.kill()
            for name in job.runs:
                self.events.put(Ended(name, Failure("error", f"its process sent an unreadable answer: {error}")))

    def interrupt(self) -> None:
        worker = self.worker
        if worker is not None:
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)
                if hasattr(signal, "SIGCONT"):  # a process that is suspended would not notice
                    worker.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.__exit__()


def _describe(error: ProcessDied | OSError) -> str:
    if isinstance(error, OSError):
        return f"no process could be started: {error.strerror or error}"
    if error.returncode >= 0:
        return f"its process ended with exit status {error.returncode}"
    name = signal.Signals(-error.returncode).name
    hint = ", probably by the operating system because memory ran out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"
