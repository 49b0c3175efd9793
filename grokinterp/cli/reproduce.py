"""grokinterp reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from grokinterp.cli.options import parse
from grokinterp.errors import ConfigError, GrokinterpError


@dataclass(frozen=True)
class Reproduce:
    """Run a published experiment, and say which of its claims hold here.

    Exits with 1 where a claim does not hold that should at this scale.
    """

    name: tyro.conf.Positional[str | None] = None
    """of the experiment; --list shows them"""
    folder: Path | None = None
    """where the report, the numbers and the runs are written; by default reproductions/NAME, or NAME-quick"""
    quick: bool = False
    """a smaller form that keeps to what matters, at most 90 s on two cores"""
    all: bool = False
    """every experiment, one after another; those whose results are there already are left alone"""
    anyway: bool = False
    """run a form that wants a GPU on the CPU all the same"""
    images: bool = False
    """write every figure as PNG too, which needs grokinterp[images]"""
    list: bool = False
    """show the experiments there are"""
    document: Path | None = None
    """write a Markdown page on all results below --folder (by default reproductions) to this file"""


def run_reproduce(arguments: Sequence[str]) -> int:
    options = parse(Reproduce, arguments)
    from grokinterp.cli.console import show_recipes
    from grokinterp.experiments import catalog

    chosen = [options.name is not None, options.all, options.list, options.document is not None]
    if sum(chosen) != 1:
        raise ConfigError("reproduce: give the name of an experiment, --all, --list or --document FILE, one of them")
    if options.list:
        show_recipes(list(catalog().values()))
        return 0
    if options.document is not None:
        from grokinterp.experiments.pages import write_document

        print(f"written: {write_document(options.folder or _FOLDER, options.document)}")
        return 0
    if options.name is not None:
        return _one(options.name, options.folder or _default(options.name, options.quick), options)
    return _every(options)


_FOLDER = Path("reproductions")


def _default(name: str, quick: bool, below: Path = _FOLDER) -> Path:
    return below / f"{name}{'-quick' if quick else ''}"


def _every(options: Reproduce) -> int:
    """All experiments that have no results yet; those that cannot be run here are passed over."""
    from grokinterp.experiments import catalog
    from grokinterp.experiments.results import results_in

    codes = []
    for name in catalog():
        folder = _default(name, options.quick, options.folder or _FOLDER)
        try:
            known = results_in(folder)
            if known is None or known["lost"]:
                codes.append(_one(name, folder, options))
                if codes[-1] == 130:
                    return 130
                continue
            broken = [one for one in known["claims"] if one["should_hold"] and one["verdict"] == "not supported"]
            print(f"{name}: results are in {folder}")
            codes.append(1 if broken else 0)
        except GrokinterpError as error:
            print(f"{name}: {error}")
            codes.append(1)
    return max(codes, default=0)


def _one(name: str, folder: Path, options: Reproduce) -> int:
    from grokinterp.cli.console import show_reproduction
    from grokinterp.cli.options import progress_bar
    from grokinterp.experiments import reproduce

    try:
        bar = progress_bar("part")
        done = reproduce(name, folder, options.quick, bar, anyway=options.anyway, images=options.images)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on, with what runs there are in {folder}")
        return 130
    show_reproduction(done)
    print(f"report: {done.report}")
    return 1 if done.failed or done.outcome.lost else 0
