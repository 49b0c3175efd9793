"""grokinterp reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grokinterp.cli.options import default, parse, progress_bar, say
from grokinterp.errors import ConfigError, GrokinterpError


@dataclass(frozen=True)
class Reproduce:
    """Run a published experiment and test its claims.

    The exit status is 1 if a claim that should hold at this scale does not hold.
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
    """run on the CPU even if the experiment needs a GPU"""
    images: bool = False
    """also save every figure as a PNG file; requires grokinterp[images]"""
    list: bool = False
    """list the experiments"""
    document: Path | None = None
    """write a Markdown page about all results in --folder to this file; None: write no page"""


def run_reproduce(arguments: Sequence[str]) -> int:
    options = parse(Reproduce, arguments)
    from grokinterp.cli.console import show_recipes
    from grokinterp.experiments import catalog

    modes = [options.name is not None, options.all, options.list, options.document is not None]
    if sum(modes) != 1:
        raise ConfigError("reproduce: give the name of an experiment, --all, --list or --document FILE, and only one")
    if options.list:
        show_recipes(list(catalog().values()))
        return 0
    if options.document is not None:
        from grokinterp.experiments.pages import write_markdown

        say(f"written: {write_markdown(options.folder or _FOLDER, options.document)}")
        return 0
    if options.name is not None:
        return _reproduce(options.name, options.folder or _default(options.name, options.quick), options)
    return _reproduce_all(options)


_FOLDER = Path("reproductions")


def _default(name: str, quick: bool, below: Path = _FOLDER) -> Path:
    return below / f"{name}{'-quick' if quick else ''}"


def _reproduce_all(options: Reproduce) -> int:
    """Runs every experiment without results; prints an error for each that cannot be run here."""
    from grokinterp.experiments import catalog
    from grokinterp.experiments.results import results_in

    codes = []
    for name in catalog():
        folder = _default(name, options.quick, options.folder or _FOLDER)
        try:
            results = results_in(folder)
            if results is None or results.lost:
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

    try:
        bar = progress_bar("part")
        reproduction = reproduce(name, folder, options.quick, bar, anyway=options.anyway, images=options.images)
    except KeyboardInterrupt:
        say(f"Interrupted. Run the same command again to continue from {folder}.")
        return 130
    show_reproduction(reproduction)
    say(f"report: {reproduction.report}")
    return 1 if reproduction.failed or reproduction.outcome.lost else 0
