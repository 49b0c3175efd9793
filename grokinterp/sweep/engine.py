"""sweep: brings every run of a sweep to its end, on whatever executor, and survives being killed itself."""

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError
from grokinterp.locks import hold
from grokinterp.processes import cores
from grokinterp.sweep.executors import Executor, LocalExecutor, Started
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.grid import expand
from grokinterp.sweep.orders import Ended, Failure, Order, carry_out
from grokinterp.training.ensemble import shape_of
from grokinterp.training.opening import choose_device
from grokinterp.training.trainer import interrupts
from grokinterp.writer import RunWriter

_MOST_TOGETHER = 32  # runs of one ensemble, all of which are in memory at once
_TAIL = 4000  # bytes, more than a line of metrics has
_COLLECT_EVERY = 30.0  # seconds after which sweep.parquet is written anew while runs go on

Ensembles = Literal["auto", "always", "never"]


@dataclass
class Progress:
    """How a sweep is getting on.

    Attributes:
        total: number of runs.
        done: finished, also before this call.
        failed: names of those that failed, with the reason.
        running: steps made and to make of each that is under way.
        seconds_left: a guess from what was done since the call began; None before there is anything to go by.
        interrupted: somebody wants all to stop.
    """

    total: int
    done: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds_left: float | None = None
    interrupted: bool = False

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return self.total - self.done - len(self.failed) - len(self.running)


def train_sweep(
    path: str | Path,
    base: RunConfig | None = None,
    *,
    grid: Mapping[str, Iterable[Any]] | None = None,
    zipped: Mapping[str, Iterable[Any]] | None = None,
    points: Iterable[Mapping[str, Any]] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    device: str = "auto",
    ensembles: Ensembles = "auto",
    watch: Callable[[Progress], None] | None = None,
) -> Sweep:
    """Trains every run of a sweep that has not finished, each in a folder of its own below `path`.

    A sweep may be interrupted or killed at any instant: the same call goes on with it. Finished runs are left alone,
    stopped ones resumed, failed ones tried again unless they diverged. One run's failure does not stop the others.

    Args:
        path: the sweep's folder: new, or one to go on with.
        base: what the runs have in common; by default what the folder says, together with its points.
        grid: values by dotted config field, every combination of which is a run.
        zipped: values by dotted config field, taken together: the first of each, the second of each, ...
        points: runs one by one, each as values by dotted config field. With zipped and grid, all combinations.
        executor: who trains; by default processes of this machine.
        workers: how many of these; by default one a core, or one where there is a GPU.
        device: as in `train`.
        ensembles: train runs of one shape together (`train_many`): `auto` does on a GPU.
        watch: called about once a second, and when a run ends.

    Returns:
        The sweep, whose sweep.parquet has been written.

    Raises:
        ConfigError: an unknown field, or the folder holds another sweep.
        RunError: the folder cannot be written to, or another process is at work in it.
    """
    found = plan(path, base, grid=grid, zipped=zipped, points=points)
    executor = executor or LocalExecutor(_worker_count(workers, device))
    with hold(found.path), interrupts() as interrupted:
        found.write()
        orders, progress = _open(found, device, ensembles)
        tell = _Teller(found, progress, watch)
        with contextlib.closing(executor.carry_out(orders)) as events:
            for event in events:
                if isinstance(event, Started):
                    tell.started(event.names)
                elif isinstance(event, Ended):
                    tell.ended(event)
                tell.now()
                if interrupted.is_set():
                    progress.interrupted = True
                    break
        found.collect()
        tell.now()
    return found


def plan(
    path: str | Path,
    base: RunConfig | None = None,
    *,
    grid: Mapping[str, Iterable[Any]] | None = None,
    zipped: Mapping[str, Iterable[Any]] | None = None,
    points: Iterable[Mapping[str, Any]] | None = None,
) -> Sweep:
    """The sweep that `sweep` would train, nothing written: as described, or else as the folder says.

    Raises:
        ConfigError: see `sweep`.
        RunError: neither a description nor a sweep in the folder.
    """
    if base is None:
        if grid or zipped or points:
            raise ConfigError("a sweep needs a base configuration beside what it varies: give one")
        return Sweep.open(path)
    return Sweep(Path(path), base, expand(base, grid=grid, zipped=zipped, points=points))


def train_point(found: Sweep, name: str, device: str = "auto") -> Failure | None:
    """Trains one run of a sweep in this process, as one element of a job array does; why it failed, if it did.

    Raises:
        ConfigError: the sweep has no run of that name.
    """
    try:
        config = found.point(name).config(found.base)
        (ended,) = carry_out(Order(str(found.path), {name: config.to_json()}, device))
        failure = ended.failure
    except ConfigError as error:
        if name not in {point.name for point in found.points}:
            raise
        failure = Failure("invalid", str(error))
    found.note(name, failure)
    return failure


def commands(found: Sweep) -> list[str]:
    """One command a run that has not finished, for a scheduler's job array."""
    rows = found.table
    over = set(rows["run"][rows["status"].isin(["finished", "diverged"])])
    names = [point.name for point in found.points if point.name not in over]
    return [f"grokinterp sweep {shlex.quote(str(found.path))} --only {shlex.quote(name)}" for name in names]


def _worker_count(workers: int | None, device: str) -> int:
    if workers is None:
        return 1 if choose_device(device).startswith("cuda") else cores()
    if not 1 <= workers <= 1000:
        raise ConfigError(f"workers must lie in 1 .. 1000, but is {workers}")
    return workers


def _open(found: Sweep, device: str, ensembles: Ensembles) -> tuple[list[Order], Progress]:
    """What is to be done, and how far it is."""
    progress = Progress(len(found.points))
    configs: dict[str, RunConfig] = {}
    for point in found.points:
        try:
            config = point.config(found.base)
            if found.state(point, config) == "summarized":
                failure = found.failure_of(point)
                if failure is None:
                    progress.done += 1
                else:
                    progress.failed[point.name] = failure
                continue
            configs[point.name] = config
        except GrokinterpError as error:
            progress.failed[point.name] = Failure("invalid", str(error))
            found.note(point.name, progress.failed[point.name])
    together = ensembles == "always" or (ensembles == "auto" and choose_device(device).startswith("cuda"))
    groups = _by_shape(found, configs) if together else [[name] for name in configs]
    orders = [Order(str(found.path), {name: configs[name].to_json() for name in names}, device) for names in groups]
    return orders, progress


def _by_shape(found: Sweep, configs: Mapping[str, RunConfig]) -> list[list[str]]:
    """Runs that `train_many` takes together: of one shape, and at one step."""
    groups: dict[tuple[str, int | None], list[str]] = {}
    for name, config in configs.items():
        path = found.path / name
        try:
            key = shape_of(config)
        except ConfigError:  # it will say so when it is trained, alone
            key = name
        begun = (path / "config.json").is_file()
        at = RunWriter(path, config).read_resume_point() if begun else None
        groups.setdefault((key, (at[0] if at else 0) if begun else None), []).append(name)
    chunks = [(names, i) for names in groups.values() for i in range(0, len(names), _MOST_TOGETHER)]
    return [names[i : i + _MOST_TOGETHER] for names, i in chunks]


class _Teller:
    """Keeps `Progress` true, tells it, and writes the table now and then."""

    def __init__(self, found: Sweep, progress: Progress, watch: Callable[[Progress], None] | None):
        self.found, self.progress, self.watch = found, progress, watch
        self.began = self.collected = time.monotonic()
        self.at_start = self.share()

    def started(self, names: Iterable[str]) -> None:
        for name in names:
            schedule = self.found.point(name).config(self.found.base).schedule
            self.progress.running[name] = (0, schedule.steps if schedule else 1)

    def ended(self, event: Ended) -> None:
        self.progress.running.pop(event.name, None)
        self.found.note(event.name, event.failure)
        if event.failure is not None:
            self.progress.failed[event.name] = event.failure
        elif not event.stopped:
            self.progress.done += 1

    def share(self) -> float:
        """How much of all work is done, in runs."""
        parts = sum(step / steps for step, steps in self.progress.running.values())
        return self.progress.done + len(self.progress.failed) + parts

    def now(self) -> None:
        progress, time_now = self.progress, time.monotonic()
        for name, (_, steps) in progress.running.items():
            progress.running[name] = (_last_step(self.found.path / name / "metrics.jsonl"), steps)
        made = self.share() - self.at_start
        seconds = time_now - self.began
        progress.seconds_left = seconds * (progress.total - self.share()) / made if made > 0 else None
        if time_now - self.collected > _COLLECT_EVERY:
            self.found.collect()
            self.collected = time.monotonic()
        if self.watch is not None:
            self.watch(progress)


def _last_step(metrics: Path) -> int:
    """The last step in the metrics of a run that is under way."""
    with contextlib.suppress(OSError), metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - _TAIL))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # its end is still to be written
                return int(json.loads(line)["step"])
    return 0
