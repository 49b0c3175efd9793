"""train_sweep: trains every run of a sweep on an executor; an interrupted or killed sweep can be continued."""

import contextlib
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.models.products import Products
from grokinterp.runs.environment import cores, current_command
from grokinterp.runs.folders import as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.metrics import last_line
from grokinterp.runs.resume_point import read_resume_point
from grokinterp.runs.run import Run
from grokinterp.sweep.executors import Event, Executor, LocalExecutor, Requeued, Started
from grokinterp.sweep.folder import Sweep
from grokinterp.sweep.grid import Point, expand
from grokinterp.sweep.jobs import Ended, Failure, Job, run_job
from grokinterp.sweep.rows import stored_summary
from grokinterp.training.ensemble_plan import shape_of
from grokinterp.training.preparation import check_products, choose_device
from grokinterp.training.trainer import interrupts

_MAX_ENSEMBLE = 32  # runs per ensemble, which are in memory at the same time
_MAX_WORKERS = 1000
_COLLECT_INTERVAL = 30.0  # seconds between two updates of sweep.parquet

Ensembles = Literal["auto", "always", "never"]


@dataclass
class Progress:
    """Progress of a sweep.

    Attributes:
        total: number of runs.
        done: number of finished runs, including those that finished before this call.
        failed: failures by name of the run.
        running: completed and total steps of each run in training.
        seconds_left: estimated time left, from the steps made since this call began; None before the first of them.
        interrupted: True after an interrupt (Ctrl-C).
    """

    total: int
    done: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)
    running: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds_left: float | None = None
    interrupted: bool = False

    @property
    def waiting(self) -> int:
        """Number of runs that wait for a worker."""
        return self.total - self.done - len(self.failed) - len(self.running)


def train_sweep(
    path: str | Path,
    base: RunConfig | None = None,
    *,
    grid: Mapping[str, Iterable[Any]] | None = None,
    zipped: Mapping[str, Iterable[Any]] | None = None,
    points: Iterable[Mapping[str, Any]] | None = None,
    only: Collection[str] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    device: str = "auto",
    products: Products = "float32",
    ensembles: Ensembles = "auto",
    watch: Callable[[Progress], None] | None = None,
) -> Sweep:
    """Train every unfinished run of a sweep, each in its own folder below `path`.

        >>> grid = {"optimizer.weight_decay": [0.5, 1, 2], "model_seed": range(3)}
        >>> sweep = train_sweep("checkpoints/decay", gi.preset("psi"), grid=grid)  # doctest: +SKIP
        >>> sweep.table[["run", "outcome", "T_grok_0.95"]]  # doctest: +SKIP

    A sweep may be interrupted or killed at any time; the same call continues it. Finished runs are left unchanged,
    stopped runs are resumed, and failed runs are tried again unless they diverged. Failed runs do not stop others. Runs
    trained one by one end in the same bits as without the interruption; for ensembles, see `train_many`.

    Args:
        path: the sweep's folder: new, or one to continue.
        base: configuration that all runs share (default: the folder's, together with its points).
        grid: values by dotted config field; every combination is a run.
        zipped: values by dotted config field, used in parallel: the first value of each field, then the second, ...
        points: single runs, each as values by dotted config field; combined with every `zipped` and `grid` value.
        only: names of the runs to train now (default: all).
        executor: trains the runs (default: processes on this machine).
        workers: number of these processes (default: one per core, or one if a GPU is used).
        device: as in `train`.
        products: as in `train`.
        ensembles: whether to train runs of one shape together (`train_many`); `auto` does so on a GPU.
        watch: called about once per second, and whenever a run ends.

    Returns:
        The sweep, with an up-to-date sweep.parquet.

    Raises:
        ConfigError: a field is unknown, the folder holds a different sweep, its runs were trained with other products,
            or `only` names no run of it.
        RunError: the folder cannot be written to, or another process is using it.
    """
    sweep = plan(path, base, grid=grid, zipped=zipped, points=points)
    chosen = sweep.points if only is None else tuple(sweep.point(name) for name in only)
    remote = executor is not None and not isinstance(executor, LocalExecutor)
    gpu = bool(getattr(executor, "gpus", 0)) if remote else choose_device(device).startswith("cuda")
    executor = executor or LocalExecutor(_worker_count(workers, gpu))
    with hold(sweep.path), interrupts() as interrupted:
        sweep.write()
        sweep.remove_leftovers()
        together = ensembles == "always" or (ensembles == "auto" and gpu)
        parts = executor.workers if isinstance(executor, LocalExecutor) else 1
        jobs, progress = _prepare(sweep, chosen, device, together, parts, products)
        if jobs:
            _check_products(sweep, products, None if remote else choose_device(device))
        reporter = _ProgressReporter(sweep, progress, watch)
        with contextlib.closing(executor.execute(jobs)) as events:
            for event in events:
                reporter.handle(event)
                reporter.report()
                if interrupted.is_set():
                    progress.interrupted = True
                    break
        sweep.collect()
        reporter.report()
    return sweep


def plan(
    path: str | Path,
    base: RunConfig | None = None,
    *,
    grid: Mapping[str, Iterable[Any]] | None = None,
    zipped: Mapping[str, Iterable[Any]] | None = None,
    points: Iterable[Mapping[str, Any]] | None = None,
) -> Sweep:
    """The sweep that `train_sweep` would train with the same arguments. Nothing is written.

    Raises:
        ConfigError: as `train_sweep`.
        RunError: `base` is None, and the folder holds no sweep.
    """
    if base is None:
        if grid or zipped or points:
            raise ConfigError("a sweep needs a base configuration together with grid, zipped or points: pass base")
        return Sweep.open(path)
    return Sweep(as_path(path), base, expand(base, grid=grid, zipped=zipped, points=points))


def train_point(sweep: Sweep, name: str, device: str = "auto", products: Products = "float32") -> Ended:
    """Train one run of a sweep in this process, as an element of a job array does.

    Raises:
        ConfigError: the sweep has no run of that name, or its runs were trained with other products.
        RunError: the folder cannot be written to.
    """
    point = sweep.point(name)
    _check_products(sweep, products, choose_device(device))
    try:
        job = Job(str(sweep.path), {name: point.config(sweep.base).to_json()}, device, products=products)
    except ConfigError as error:
        ended = Ended(name, Failure("invalid", str(error)))
    else:
        (ended,) = run_job(job)
    if not ended.stopped:
        sweep.record_failure(name, ended.failure)
    return ended


def commands(sweep: Sweep, device: str = "auto", products: Products = "float32") -> list[str]:
    """One shell command per unfinished run, each on a line, for the job array of a scheduler.

    Raises:
        ConfigError: the sweep's path has characters that cannot be printed, such as newlines, or its runs were trained
            with other products.
    """
    _check_products(sweep, products, None)
    if not str(sweep.path).isprintable():
        raise ConfigError(f"{sweep.path} has characters that a list of commands cannot hold: rename the folder")
    options = [] if device == "auto" else ["--device", device]
    options += [] if products == "float32" else ["--products", products]
    folder = f"./{sweep.path}" if str(sweep.path).startswith("-") else str(sweep.path)  # not an option
    return [
        shlex.join(["grokinterp", "sweep", folder, "--only", point.name, *options])
        for point in sweep.points
        if not _has_ended(sweep, point)
    ]


def _check_products(sweep: Sweep, products: str, device: str | None) -> None:
    """Raises an error unless all runs of the sweep can have these products; one that has begun stands for all."""
    begun = None
    for point in sweep.points:
        with contextlib.suppress(GrokinterpError):  # not begun, or damaged, which its job reports
            run = Run.open(sweep.path / point.name)
            begun = run if run.environment else None
            break
    check_products(products, device, begun)


def _has_ended(sweep: Sweep, point: Point) -> bool:
    try:
        return sweep.ended_run(point, point.config(sweep.base)) is not None
    except GrokinterpError:  # its own command will report the error
        return False


def _worker_count(workers: int | None, gpu: bool) -> int:
    if workers is None:
        return 1 if gpu else cores()
    if not 1 <= workers <= _MAX_WORKERS:
        raise ConfigError(f"workers must lie in 1 .. {_MAX_WORKERS}, but is {workers}")
    return workers


def _prepare(
    sweep: Sweep, points: Sequence[Point], device: str, together: bool, workers: int, products: Products
) -> tuple[list[Job], Progress]:
    """The jobs that are left of some points, and the progress so far."""
    progress = Progress(len(points))
    configs: dict[str, RunConfig] = {}
    for point in points:
        try:
            config = point.config(sweep.base)
            run = sweep.ended_run(point, config)
            if run is None or stored_summary(run) is None:
                configs[point.name] = config
                continue
            sweep.record_failure(point.name, None)  # of an earlier attempt
            failure = sweep.failure_of(point)
        except GrokinterpError as error:
            failure = Failure("invalid" if isinstance(error, ConfigError) else "error", str(error))
            sweep.record_failure(point.name, failure)
        if failure is None:
            progress.done += 1
        else:
            progress.failed[point.name] = failure
    groups = _group_by_shape(sweep, configs, workers) if together else [[name] for name in configs]
    command, folder = current_command(), str(sweep.path)
    runs = [{name: configs[name].to_json() for name in names} for names in groups]
    return [Job(folder, some, device, command, products) for some in runs], progress


def _group_by_shape(sweep: Sweep, configs: Mapping[str, RunConfig], workers: int) -> list[list[str]]:
    """Groups of runs that `train_many` can train together, which have one shape and are at one step.

    Runs of one shape are divided among the workers.
    """
    groups: dict[tuple[str, int | None], list[str]] = {}
    for name, config in configs.items():
        path = sweep.path / name
        try:
            key = shape_of(config), _resume_step(path, config)
        except GrokinterpError:  # trained alone, the run reports its own error
            key = name, None
        groups.setdefault(key, []).append(name)
    parts = []
    for names in groups.values():
        size = min(-(-len(names) // workers), _MAX_ENSEMBLE)
        parts += [names[i : i + size] for i in range(0, len(names), size)]
    return parts


def _resume_step(path: Path, config: RunConfig) -> int | None:
    """The step from which a run would resume; None if the run has not started."""
    if not (path / "config.json").is_file():
        return None
    resume_point = read_resume_point(path, config)
    return resume_point[0] if resume_point else 0


class _ProgressReporter:
    """Keeps `Progress` up to date, passes it to `watch`, and writes the table from time to time."""

    def __init__(self, sweep: Sweep, progress: Progress, watch: Callable[[Progress], None] | None):
        self.sweep, self.progress, self.watch = sweep, progress, watch
        self.start_time = self.collect_time = time.monotonic()
        self.earlier_work = self.completed_work()  # in runs, as of the start

    def handle(self, event: Event) -> None:
        progress = self.progress
        if isinstance(event, Started):
            for name in event.names:
                schedule = self.sweep.point(name).config(self.sweep.base).schedule
                step, steps = self.last_step(name), schedule.steps if schedule else 1
                progress.running[name] = step, steps
                self.earlier_work += step / steps
        elif isinstance(event, Requeued):
            for name in event.names:
                step, steps = progress.running.pop(name, (0, 1))
                self.earlier_work -= step / steps  # added again at the next start
        elif isinstance(event, Ended):
            progress.running.pop(event.name, None)
            self.sweep.record_failure(event.name, event.failure)
            if event.failure is not None:
                progress.failed[event.name] = event.failure
            elif not event.stopped:
                progress.done += 1

    def completed_work(self) -> float:
        """The completed part of the sweep, in runs."""
        partial = sum(step / steps for step, steps in self.progress.running.values())
        return self.progress.done + len(self.progress.failed) + partial

    def report(self) -> None:
        progress, now = self.progress, time.monotonic()
        for name, (_, steps) in progress.running.items():
            progress.running[name] = (self.last_step(name), steps)
        work = self.completed_work() - self.earlier_work
        work_left = progress.total - self.completed_work()
        progress.seconds_left = (now - self.start_time) * work_left / work if work > 0 else None
        if now - self.collect_time > _COLLECT_INTERVAL:
            self.sweep.collect()
            self.collect_time = time.monotonic()
        if self.watch is not None:
            self.watch(progress)

    def last_step(self, name: str) -> int:
        with contextlib.suppress(RunError):  # the run's own process reports damaged metrics
            last = last_line(self.sweep.path / name / "metrics.jsonl")
            return 0 if last is None else last.step
        return 0
