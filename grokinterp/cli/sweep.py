"""grokinterp sweep."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from grokinterp.cli.options import base_config, default, parse, say, shell_path, take
from grokinterp.cli.report import write_report_of_sweep
from grokinterp.cli.short_help import sweep_help, wants_help
from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError

if TYPE_CHECKING:
    from grokinterp.sweep import Executor, Sweep


# An option that is given twice adds to the first, so that no part of the command is ignored.
Assignments = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class SweepOptions:
    """Train many runs that differ in some options, each in its own folder, and tabulate their outcomes.

    --grid, --zip, and --points define the runs, based on --preset NAME or --config FILE and options such as
    --task.p 53. If none of these is given, the sweep in the folder continues: finished runs are skipped, and stopped
    runs are resumed.
    """

    folder: tyro.conf.Positional[Path]
    """the sweep's folder"""
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    preset: str | None = None
    """name of the configuration that supplies the defaults"""
    config_file: Annotated[str | None, tyro.conf.arg(name="config")] = None
    """config.json that supplies the defaults"""
    grid: Annotated[Assignments, default("none")] = ()
    """FIELD=VALUES ..., with one run per combination: optimizer.weight_decay=0.3,1,3 model_seed=0:5"""
    zip: Annotated[Assignments, default("none")] = ()
    """FIELD=VALUES ..., with values paired: the first run uses the first value of each field, and so on"""
    points: Path | None = None
    """JSON file with a list of runs, each an object that maps fields to values"""
    executor: Literal["local", "ray"] = "local"
    """where runs are trained: in processes on this machine or on a Ray cluster"""
    workers: Annotated[int | None, default("one per core, or as many as fit on the cluster")] = None
    """number of runs trained at the same time"""
    address: Annotated[str | None, default("start one here")] = None
    """address of the Ray cluster: auto, ray://HOST:PORT, or HOST:PORT"""
    cpus_per_run: float = 1.0
    """number of CPU cores per run on the cluster"""
    gpus_per_run: float = 0.0
    """number of GPUs per run on the cluster; may be fractional"""
    results: Literal["shared", "sent"] = "shared"
    """shared: the cluster's machines share the folder under the same path; sent: they send the run folders back"""
    device: str = "auto"
    """auto, cpu, or cuda"""
    products: Literal["float32", "bf16"] = "float32"
    """format in which updates multiply matrices on the CPU, as in train; repeat it to resume a sweep"""
    ensembles: Literal["auto", "always", "never"] = "auto"
    """whether to train runs with identical tensor shapes together; auto does so on a GPU"""
    print_commands: bool = False
    """print one command per run for a scheduler's job array without training anything"""
    only: str | None = None
    """train only the run with this name, as one job of a job array"""
    report: bool = True
    """write report.html"""
    dry_run: bool = False
    """print the runs and estimates of time and disk space without writing anything"""


def run_sweep(arguments: Sequence[str]) -> int:
    base = base_config(take(arguments, "--preset"), take(arguments, "--config"), ())
    helps = wants_help(arguments)
    if helps == "short":
        print(sweep_help(base))
        return 0
    arguments = ["--help"] if helps else arguments
    options = parse(SweepOptions, arguments, SweepOptions(folder=tyro.MISSING, config=base))
    from grokinterp.sweep import commands, train_point, train_sweep

    sweep = _planned(options)
    if options.dry_run:
        return _dry_run(sweep, options)
    if options.only is not None:
        sweep.point(options.only)
        sweep.write()
        ending = train_point(sweep, options.only, options.device, options.products)
        say(f"{sweep.path / options.only}: {ending.failure or ('stopped' if ending.stopped else 'done')}")
        return 130 if ending.stopped else 1 if ending.failure is not None else 0
    if options.print_commands:
        lines = commands(sweep, options.device, options.products)
        sweep.write()
        print("\n".join(lines))
        return 0

    from grokinterp.cli.console import SweepDisplay, show_sweep

    display = SweepDisplay(sweep.path)
    with display:
        train_sweep(
            sweep.path,
            sweep.base,
            points=[point.values for point in sweep.points],
            executor=_executor(options),
            workers=options.workers,
            device=options.device,
            products=options.products,
            ensembles=options.ensembles,
            watch=display.show,
        )
    table = sweep.table
    show_sweep(sweep, table)
    say(f"table: {sweep.path / 'sweep.parquet'}")
    if options.report:
        say(f"report: {write_report_of_sweep(sweep, table, sweep.path / 'report.html')}")
    if display.interrupted:
        option = "" if options.products == "float32" else f" --products {options.products}"
        say(f"continue with: grokinterp sweep {shell_path(sweep.path)}{option}")
        return 130
    return 1 if any(isinstance(failure, str) for failure in table["failure"]) else 0


def _planned(options: SweepOptions) -> "Sweep":
    """The sweep that the options describe; without a description, the one in the folder."""
    from grokinterp.sweep import parse_values, plan

    if not (options.grid or options.zip or options.points is not None):
        if options.preset or options.config_file or options.config != RunConfig():
            raise ConfigError("sweep: nothing varies; give --grid FIELD=VALUES, --zip or --points (or use train)")
        return plan(options.folder)
    return plan(
        options.folder,
        options.config,
        grid=dict(map(parse_values, _once(options.grid, "--grid"))),
        zipped=dict(map(parse_values, _once(options.zip, "--zip"))),
        points=None if options.points is None else _points(options.points),
    )


def _once(groups: Sequence[Sequence[str]], flag: str) -> Sequence[str]:
    assignments = [assignment for group in groups for assignment in group]
    fields = [assignment.partition("=")[0] for assignment in assignments]
    duplicate = next((field for field in fields if fields.count(field) > 1), None)
    if duplicate is not None:
        raise ConfigError(f"{flag} names {duplicate} twice: give all its values at once, separated by commas")
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
            raise ConfigError("--address applies only to a Ray cluster: add --executor ray")
        return None
    return RayExecutor(options.address, options.cpus_per_run, options.gpus_per_run, options.workers, options.results)


def _dry_run(sweep: "Sweep", options: SweepOptions) -> int:
    from grokinterp.runs.environment import cores
    from grokinterp.statistics.formatting import duration
    from grokinterp.training.estimate import estimate

    for point in sweep.points:
        say(point.name)
    first = next((point for point in sweep.points if point.valid_config(sweep.base)), sweep.points[0])
    cost = estimate(first.config(sweep.base), threads=1, products=options.products)  # as workers have
    seconds = cost.seconds * len(sweep.points) / (options.workers or cores())
    size = cost.checkpoints * cost.checkpoint_bytes * len(sweep.points)
    print(
        f"{len(sweep.points)} runs; if all are like {first.name}: {size / 1e9:.1f} GB of checkpoints, about "
        f"{duration(seconds)} with {options.workers or cores()} workers ({1000 * cost.seconds_per_step:.1f} ms a step)",
        file=sys.stderr,
    )
    return 0
