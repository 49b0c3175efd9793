"""grokinterp reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grokinterp.cli.options import default, parse, progress_bar, say
from grokinterp.errors import ConfigError, GrokinterpError

Names = Annotated[tuple[str, ...], default("all")]


@dataclass(frozen=True)
class Reproduce:
    """Run a published experiment and test its claims.

    Runs that have a record are not trained again. The exit status is 1 if a claim that should hold at this scale does
    not hold, or if a record does not pass --check.
    """

    name: tyro.conf.Positional[str | None] = None
    """name of the experiment; --list shows the names"""
    folder: Annotated[Path | None, default("reproductions/NAME, or NAME-quick with --quick")] = None
    """folder for the report, the numbers, and the runs"""
    quick: bool = False
    """run a smaller form with the same essential features, which takes at most 90 s on two cores"""
    all: bool = False
    """run all experiments, one after another; skip those that already have results"""
    anyway: bool = False
    """train all runs on the CPU even if the experiment needs a GPU"""
    arms: Names = ()
    """names of the arms of which to train runs"""
    only: Names = ()
    """names of the runs to train"""
    seeds: Annotated[tuple[int, ...], default("all")] = ()
    """model seeds of the runs to train"""
    images: bool = False
    """also save every figure as a PNG file; requires grokinterp[images]"""
    list: bool = False
    """list the experiments"""
    document: Path | None = None
    """write a Markdown page about all results in --folder and all records to this file; None: write no page"""
    records: Annotated[Path | None, default("docs/reproductions/records in a source checkout")] = None
    """folder of the records of runs; every run of published size adds one"""
    missing: bool = False
    """train, over all experiments, the runs of published size that have no record, cheapest decision first"""
    hours: float | None = None
    """with --missing: start a run only if it is expected to end within this time; None: start every run"""
    check: Path | None = None
    """train the run of this record again with the same threads, or compute the results of a recipe that trains no runs
    again, and say what differs; None: check none"""
    steps: int | None = None
    """with --check: number of steps to train; None: all"""


def run_reproduce(arguments: Sequence[str]) -> int:
    options = parse(Reproduce, arguments)
    modes = [options.name is not None, options.all, options.list, options.document is not None, options.missing]
    if sum(modes) != 1:
        raise ConfigError(
            "reproduce: give the name of an experiment, --all, --list, --missing or --document FILE, and only one"
        )
    _require_fitting(options)
    if options.list:
        return _list()
    if options.document is not None:
        from grokinterp.experiments.document import write_markdown

        page = write_markdown(options.folder or _FOLDER, options.document, records=options.records)
        say(f"written: {page}")
        return 0
    if options.missing:
        return _train_missing(options)
    if options.check is not None:
        return _check(options, options.check)
    if options.name is not None:
        return _reproduce(options.name, options.folder or _default(options.name, options.quick), options)
    return _reproduce_all(options)


def _require_fitting(options: Reproduce) -> None:
    """Raises an error if an option has no effect here."""
    named, name = options.name is not None, "the name of an experiment"
    for option, given, fits, needed in (
        ("--check RECORD", options.check is not None, named, name),
        ("--steps", options.steps is not None, options.check is not None, "--check RECORD"),
        ("--hours", options.hours is not None, options.missing, "--missing"),
        ("--arms, --only and --seeds", bool(options.arms or options.only or options.seeds), named, name),
    ):
        if given and not fits:
            raise ConfigError(f"reproduce: {option} can only be given with {needed}")


_FOLDER = Path("reproductions")


def _default(name: str, quick: bool, below: Path = _FOLDER) -> Path:
    return below / f"{name}{'-quick' if quick else ''}"


def _list() -> int:
    from grokinterp.cli.console import show_recipes
    from grokinterp.experiments import catalog

    show_recipes(list(catalog().values()))
    return 0


def _train_missing(options: Reproduce) -> int:
    from grokinterp.experiments.pool import train_pool
    from grokinterp.experiments.records.folder import Records, default_folder
    from grokinterp.runs.environment import cores

    records = Records(options.records or default_folder())
    try:
        count, failed = train_pool(options.folder or _FOLDER, records, cores(), hours=options.hours, say=say)
    except KeyboardInterrupt:
        say("Interrupted. Run the same command again to continue.")
        return 130
    say(f"records written: {count}; runs that failed: {failed}")
    return 1 if failed else 0


def _check(options: Reproduce, file: Path) -> int:
    import tempfile

    from grokinterp.experiments.records.checking import check
    from grokinterp.experiments.records.computation import COMPUTATION
    from grokinterp.experiments.records.record import Record

    if file.name == COMPUTATION:
        return _check_computation(options, file)
    record = Record.read(file)
    if record.recipe != options.name:
        raise ConfigError(f"{file} is a record of {record.recipe}, not of {options.name}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = check(record, options.folder or Path(folder) / "run", options.steps)
        except KeyboardInterrupt:
            say("Interrupted.")
            return 130
    say(f"{record.recipe}/{record.name}: {found}")
    return 0 if found.passed else 1


def _check_computation(options: Reproduce, file: Path) -> int:
    from grokinterp.experiments.records.computation import Computation, compare_computations
    from grokinterp.experiments.reproduction import recipe_of

    recorded = Computation.read(file)
    recipe = recipe_of(recorded.recipe)
    if recorded.recipe != options.name or recipe.run is None:
        raise ConfigError(f"{file} is a record of {recorded.recipe}, not of {options.name}")
    if options.steps is not None:
        raise ConfigError(f"{recorded.recipe} trains no runs: leave out --steps")
    found = compare_computations(recorded, Computation.of(recipe.name, recipe.run(False, progress_bar("part"))))
    say(f"{recipe.name}: {found}")
    return 0 if found.passed else 1


def _reproduce_all(options: Reproduce) -> int:
    """Runs every experiment without results; prints an error for each that cannot be run here."""
    from grokinterp.experiments import catalog
    from grokinterp.experiments.results import results_in

    codes = []
    for name in catalog():
        folder = _default(name, options.quick, options.folder or _FOLDER)
        try:
            results = results_in(folder)
            if results is None or results.lost or results.missing:
                codes.append(_reproduce(name, folder, options))
                if codes[-1] == 130:
                    return 130
                continue
            broken = any(claim.failed for claim in results.claims)
            say(f"{name}: results are in {folder}")
            codes.append(1 if broken else 0)
        except GrokinterpError as error:
            say(f"{name}: {error}")
            codes.append(1)
    return max(codes, default=0)


def _reproduce(name: str, folder: Path, options: Reproduce) -> int:
    from grokinterp.cli.console import show_reproduction
    from grokinterp.experiments import reproduce
    from grokinterp.experiments.training import Choice

    try:
        reproduction = reproduce(
            name,
            folder,
            options.quick,
            progress_bar("part"),
            anyway=options.anyway,
            images=options.images,
            records=options.records,
            choice=Choice(options.arms, options.only, options.seeds),
        )
    except KeyboardInterrupt:
        say(f"Interrupted. Run the same command again to continue from {folder}.")
        return 130
    show_reproduction(reproduction)
    say(f"report: {reproduction.report}")
    return 1 if reproduction.failed or reproduction.outcome.lost else 0
