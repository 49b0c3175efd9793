"""sweep: brings every run of a sweep to its end, on whatever executor, and survives being killed itself."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.runs.environment import cores
from grokinterp.runs.locks import hold
from grokinterp.runs.metrics import last_line
from grokinterp.runs.writer import RunWriter
from grokinterp.sweep.executors import Executor, LocalExecutor, PutBack, Started
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.grid import Point, expand
from grokinterp.sweep.jobs import Ended, Failure, Order, carry_out
from grokinterp.training.ensemble import shape_of
from grokinterp.training.preparation import choose_device
from grokinterp.training.trainer import interrupts

_MOST_TOGETHER = 32  # runs of one ensemble, all of which are in memory at once
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
    elsewhere = executor is not None and not isinstance(executor, LocalExecutor)
    gpu = bool(getattr(executor, "gpus", 0)) if elsewhere else choose_device(device).startswith("cuda")
    executor = executor or LocalExecutor(_worker_count(workers, gpu))
    with hold(found.path), interrupts() as interrupted:
        found.write()
        found.tidy()
        orders, progress = _open(found, device, ensembles == "always" or (ensembles == "auto" and gpu))
        tell = _Teller(found, progress, watch)
        with contextlib.closing(executor.carry_out(orders)) as events:
            for event in events:
                if isinstance(event, Started):
                    tell.started(event.names)
                elif isinstance(event, PutBack):
                    tell.put_back(event.names)
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


def train_point(found: Sweep, name: str, device: str = "auto") -> Ended:
    """Trains one run of a sweep in this process, as one element of a job array does.

    Raises:
        ConfigError: the sweep has no run of that name.
        RunError: the folder cannot be written to.
    """
    point = found.point(name)
    try:
        order = Order(str(found.path), {name: point.config(found.base).to_json()}, device)
    except ConfigError as error:
        ended = Ended(name, Failure("invalid", str(error)))
    else:
        (ended,) = carry_out(order)
    if not ended.stopped:
        found.note(name, ended.failure)
    return ended


def commands(found: Sweep, device: str = "auto") -> list[str]:
    """One command a run that has not come to its end, for a scheduler's job array."""
    options = [] if device == "auto" else ["--device", device]
    words = [
        ["grokinterp", "sweep", str(found.path), "--only", point.name, *options]
        for point in found.points
        if not _is_over(found, point)
    ]
    return [shlex.join(command) for command in words]


def _is_over(found: Sweep, point: Point) -> bool:
    try:
        return found.state(point, point.config(found.base)) in ("ended", "summarized")
    except GrokinterpError:  # it will say so when it is tried
        return False


def _worker_count(workers: int | None, gpu: bool) -> int:
    if workers is None:
        return 1 if gpu else cores()
    if not 1 <= workers <= 1000:
        raise ConfigError(f"workers must lie in 1 .. 1000, but is {workers}")
    return workers


def _open(found: Sweep, device: str, together: bool) -> tuple[list[Order], Progress]:
    """What is to be done, and how far it is."""
    progress = Progress(len(found.points))
    configs: dict[str, RunConfig] = {}
    for point in found.points:
        try:
            config = point.config(found.base)
            if found.state(point, config) == "summarized":
                found.note(point.name, None)  # of an earlier try
                failure = found.failure_of(point)
                if failure is None:
                    progress.done += 1
                else:
                    progress.failed[point.name] = failure
                continue
            configs[point.name] = config
        except GrokinterpError as error:
            kind = "invalid" if isinstance(error, ConfigError) else "error"
            progress.failed[point.name] = Failure(kind, str(error))
            found.note(point.name, progress.failed[point.name])
    groups = _by_shape(found, configs) if together else [[name] for name in configs]
    orders = [Order(str(found.path), {name: configs[name].to_json() for name in names}, device) for names in groups]
    return orders, progress


def _by_shape(found: Sweep, configs: Mapping[str, RunConfig]) -> list[list[str]]:
    """Runs that `train_many` takes together: of one shape, and at one step."""
    groups: dict[tuple[str, int | None], list[str]] = {}
    for name, config in configs.items():
        path = found.path / name
        begun = (path / "config.json").is_file()
        try:
            at = RunWriter(path, config).read_resume_point() if begun else None
            group = shape_of(config), (at[0] if at else 0) if begun else None
        except GrokinterpError:  # it will say so when it is trained, alone
            group = name, None
        groups.setdefault(group, []).append(name)
    chunks = [(names, i) for names in groups.values() for i in range(0, len(names), _MOST_TOGETHER)]
    return [names[i : i + _MOST_TOGETHER] for names, i in chunks]


class _Teller:
    """Keeps `Progress` true, tells it, and writes the table now and then."""

    def __init__(self, found: Sweep, progress: Progress, watch: Callable[[Progress], None] | None):
        self.found, self.progress, self.watch = found, progress, watch
        self.began = self.collected = time.monotonic()
        self.given = self.share()  # what was done before, in runs

    def started(self, names: Iterable[str]) -> None:
        for name in names:
            schedule = self.found.point(name).config(self.found.base).schedule
            steps = schedule.steps if schedule else 1
            self.progress.running[name] = (self.step_of(name), steps)
            self.given += self.step_of(name) / steps

    def put_back(self, names: Iterable[str]) -> None:
        for name in names:
            step, steps = self.progress.running.pop(name, (0, 1))
            self.given -= step / steps  # it counts again when it is started again

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
            progress.running[name] = (self.step_of(name), steps)
        made = self.share() - self.given
        seconds = time_now - self.began
        progress.seconds_left = seconds * (progress.total - self.share()) / made if made > 0 else None
        if time_now - self.collected > _COLLECT_EVERY:
            self.found.collect()
            self.collected = time.monotonic()
        if self.watch is not None:
            self.watch(progress)

    def step_of(self, name: str) -> int:
        return _last_step(self.found.path / name / "metrics.jsonl")


def _last_step(metrics: Path) -> int:
    """The last step in the metrics of a run that is under way."""
    with contextlib.suppress(RunError):  # it will say so itself
        last = last_line(metrics)
        return 0 if last is None else last.step
    return 0
