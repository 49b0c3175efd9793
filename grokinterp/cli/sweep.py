"""grokinterp sweep."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from grokinterp.cli.options import base_config, parse, take
from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError

if TYPE_CHECKING:
    from grokinterp.sweep import Executor, Sweep


@dataclass(frozen=True)
class SweepOptions:
    """Train many runs that differ in some options, each in a folder of its own, and tabulate what became of them.

    Finished runs are left alone, stopped ones resumed: give the folder again to go on. The runs are what --grid, --zip
    and --points say, on top of --preset NAME or --config FILE and of options such as --task.p 53; without any of these
    the sweep in the folder is continued.
    """

    folder: tyro.conf.Positional[Path]
    """the sweep's folder"""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str | None = None
    """named configuration that supplies the defaults"""
    config_file: Annotated[str | None, tyro.conf.arg(name="config")] = None
    """config.json that supplies the defaults"""
    grid: tuple[str, ...] = ()
    """FIELD=VALUES ..., every combination a run: optimizer.weight_decay=0.3,1,3 model_seed=0:5"""
    zip: tuple[str, ...] = ()
    """FIELD=VALUES ..., taken together: the first of each field, the second of each, ..."""
    points: Path | None = None
    """JSON file with a list of runs, each an object of fields and values"""
    executor: Literal["local", "ray"] = "local"
    """who trains: processes of this machine, or a Ray cluster"""
    workers: int | None = None
    """runs at a time; by default one a core, or what the cluster has room for"""
    address: str | None = None
    """of the Ray cluster: auto, ray://HOST:PORT or HOST:PORT; by default one is started here"""
    cpus_per_run: float = 1.0
    """cores that a run takes on the cluster"""
    gpus_per_run: float = 0.0
    """GPUs that a run takes on the cluster; may be a fraction"""
    results: Literal["shared", "sent"] = "shared"
    """shared: the cluster's machines see the folder at the same place; sent: the runs' folders are sent back"""
    device: str = "auto"
    """auto, cpu or cuda"""
    ensembles: Literal["auto", "always", "never"] = "auto"
    """train runs of one shape together; auto does on a GPU"""
    print_commands: bool = False
    """print one command a run, for a scheduler's job array, and train nothing"""
    only: str | None = None
    """name of a run: train this one alone, here, as an element of a job array does"""
    report: bool = True
    """write no report.html"""
    dry_run: bool = False
    """print the runs and an estimate of time and disk; write nothing"""


def run_sweep(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    from grokinterp.sweep import commands, train_point, train_sweep

    found = _planned(options)
    if options.dry_run:
        return _dry_run(found, options)
    if options.only is not None:
        found.point(options.only)
        found.write()
        ended = train_point(found, options.only, options.device)
        print(f"{found.path / options.only}: {ended.failure or ('stopped' if ended.stopped else 'done')}")
        return 130 if ended.stopped else 1 if ended.failure is not None else 0
    if options.print_commands:
        found.write()
        print("\n".join(commands(found, options.device)))
        return 0

    from grokinterp.cli.console import SweepDisplay, show_sweep

    display = SweepDisplay(found.path)
    with display:
        train_sweep(
            found.path,
            found.base,
            points=[point.values for point in found.points],
            executor=_executor(options),
            workers=options.workers,
            device=options.device,
            ensembles=options.ensembles,
            watch=display.show,
        )
    table = found.table
    show_sweep(found, table)
    print(f"table: {found.path / 'sweep.parquet'}")
    if options.report:
        from grokinterp.report import write_sweep_report

        print(f"report: {write_sweep_report(table, found.axes, found.name, found.path / 'report.html')}")
    if display.interrupted:
        print(f"go on with: grokinterp sweep {found.path}")
        return 130
    return 1 if any(isinstance(failure, str) for failure in table["failure"]) else 0


def _options(arguments: Sequence[str]) -> SweepOptions:
    base = base_config(take(arguments, "--preset"), take(arguments, "--config"), ())
    return parse(SweepOptions, arguments, SweepOptions(folder=tyro.MISSING, config=base))


def _planned(options: SweepOptions) -> "Sweep":
    """What the options describe; without a description, what the folder says."""
    from grokinterp.sweep import parse_values, plan

    described = options.grid or options.zip or options.points is not None
    if not described:
        if options.preset or options.config_file or options.config != RunConfig():
            raise ConfigError("sweep: nothing varies; give --grid FIELD=VALUES, --zip or --points (or see train)")
        return plan(options.folder)
    return plan(
        options.folder,
        options.config,
        grid=dict(map(parse_values, _once(options.grid, "--grid"))),
        zipped=dict(map(parse_values, _once(options.zip, "--zip"))),
        points=None if options.points is None else _points(options.points),
    )


def _once(assignments: Sequence[str], flag: str) -> Sequence[str]:
    fields = [assignment.partition("=")[0] for assignment in assignments]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise ConfigError(f"{flag} names {twice} twice: give all its values at once, separated by commas")
    return assignments


def _points(file: Path) -> list[dict[str, Any]]:
    from grokinterp.runs.files import parse_json, read_text

    try:
        content = parse_json(read_text(file))
    except (RunError, ValueError) as error:
        raise ConfigError(f"--points {file}: {error}") from None
    if not isinstance(content, list) or not content or not all(isinstance(point, dict) for point in content):
        raise ConfigError(f'--points {file}: give a JSON list of objects, for instance [{{"optimizer.lr": 0.001}}]')
    return content


def _executor(options: SweepOptions) -> "Executor | None":
    from grokinterp.sweep import RayExecutor

    if options.executor == "local":
        if options.address is not None:
            raise ConfigError("--address is of a Ray cluster: give --executor ray with it")
        return None
    return RayExecutor(options.address, options.cpus_per_run, options.gpus_per_run, options.workers, options.results)


def _dry_run(found: "Sweep", options: SweepOptions) -> int:
    from grokinterp.runs.environment import cores
    from grokinterp.training.estimate import duration, estimate

    for point in found.points:
        print(point.name)
    first = next((point for point in found.points if point.config_if_possible(found.base)), found.points[0])
    cost = estimate(first.config(found.base))
    seconds = cost.seconds * len(found.points) / (options.workers or cores())
    size = cost.checkpoints * cost.checkpoint_bytes * len(found.points)
    print(
        f"{len(found.points)} runs; if all are as {first.name}: {size / 1e9:.1f} GB of checkpoints, about "
        f"{duration(seconds)} with {options.workers or cores()} workers ({1000 * cost.seconds_per_step:.1f} ms a step)",
        file=sys.stderr,
    )
    return 0
