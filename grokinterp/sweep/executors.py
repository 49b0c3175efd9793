"""Executors: who carries out the orders of a sweep. Here the processes of this machine; Ray's are in clusters.py."""

import signal
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from threading import Thread
from typing import Protocol, runtime_checkable

from grokinterp.runs.processes import JsonProcess, ProcessDied
from grokinterp.sweep.jobs import Ended, Failure, Order

TICK = 1.0  # seconds between two looks at what is going on
_GRACE = 60.0  # seconds that workers have for their last resume point when all is to stop


@dataclass(frozen=True)
class Started:
    """A worker has begun with these runs."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class PutBack:
    """These runs, which had been started, wait again."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Tick:
    """Nothing happened for a while."""


Event = Started | PutBack | Ended | Tick


@runtime_checkable
class Executor(Protocol):
    """What a sweep needs of whoever trains its runs."""

    def carry_out(self, orders: Sequence[Order]) -> Generator[Event]:
        """Does every order, in any order, and says what happens.

        A run's `Ended` is its last event. Closing the generator stops what is running, so that it can be resumed.
        """
        ...


@dataclass
class LocalExecutor:
    """Processes of this machine, each with one thread: two threads on one core are slower than one.

    Attributes:
        workers: number of processes.
    """

    workers: int
    _stopping: bool = field(default=False, init=False)

    def carry_out(self, orders: Sequence[Order]) -> Generator[Event]:
        """See `Executor`."""
        self._stopping = False
        waiting: Queue[Order] = Queue()
        for order in orders:
            waiting.put(order)
        events: Queue[Event | None] = Queue()
        working = min(self.workers, len(orders))
        serving = [_Server(waiting, events, self) for _ in range(working)]
        for server in serving:
            server.start()
        try:
            while working:
                try:
                    event = events.get(timeout=TICK)
                except Empty:
                    event = Tick()
                if event is None:
                    working -= 1
                else:
                    yield event
        finally:
            self._stop(serving)

    @property
    def stopping(self) -> bool:
        """Whether what ends now ends because all is to stop."""
        return self._stopping

    def _stop(self, serving: "Sequence[_Server]") -> None:
        self._stopping = True
        for server in serving:
            server.interrupt()
        until = time.monotonic() + _GRACE
        for server in serving:
            server.join(max(0.0, until - time.monotonic()))
            server.kill()


class _Server(Thread):
    """Hands orders to one worker process after another, as long as there are any."""

    def __init__(self, waiting: "Queue[Order]", events: "Queue[Event | None]", executor: LocalExecutor):
        super().__init__(daemon=True)
        self.waiting, self.events, self.executor = waiting, events, executor
        self.worker: JsonProcess | None = None

    def run(self) -> None:
        try:
            while not self.executor.stopping:
                self.serve(self.waiting.get_nowait())
        except Empty:
            pass
        finally:
            self.kill()
            self.events.put(None)

    def serve(self, order: Order) -> None:
        self.events.put(Started(tuple(order.runs)))
        try:
            if self.worker is None:
                # In a session of its own Ctrl-C does not reach it: it is told to stop when this process wants it to.
                self.worker = JsonProcess("grokinterp.sweep.worker", own_session=True)
            for ended in self.worker.exchange(order.plain()):
                self.events.put(Ended.of(ended))
        except (ProcessDied, OSError) as error:
            self.kill()
            self.worker = None
            if self.executor.stopping:
                return
            if len(order.runs) > 1:  # whose fault it was shows when each is trained alone
                self.events.put(PutBack(tuple(order.runs)))
                for name, config in order.runs.items():
                    self.waiting.put(replace(order, runs={name: config}))
                return
            (name,) = order.runs
            self.events.put(Ended(name, Failure("killed", _why(error))))
        except Exception as error:  # an answer that is none
            self.kill()
            self.worker = None
            for name in order.runs:
                self.events.put(Ended(name, Failure("error", f"its process answered nonsense: {error}")))

    def interrupt(self) -> None:
        if self.worker is not None and self.worker.process.poll() is None:
            with suppress(ProcessLookupError):
                self.worker.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.worker is not None:
            self.worker.__exit__()


def _why(error: ProcessDied | OSError) -> str:
    if isinstance(error, OSError):
        return f"no process could be started: {error.strerror or error}"
    if error.returncode >= 0:
        return f"its process ended with exit code {error.returncode}"
    name = signal.Signals(-error.returncode).name
    likely = ", which is how the system ends what takes too much memory" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{likely}"
