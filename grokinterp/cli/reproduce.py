"""grokinterp reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from grokinterp.cli.options import parse
from grokinterp.errors import ConfigError


@dataclass(frozen=True)
class Reproduce:
    """Run a published experiment, and say which of its claims hold here.

    Exits with 1 where a claim does not hold that should at this scale.
    """

    name: tyro.conf.Positional[str | None] = None
    """of the experiment; --list shows them"""
    folder: Path | None = None
    """where the report, the numbers and the tables are written; by default reproductions/NAME"""
    quick: bool = False
    """a smaller form that keeps to what matters, at most 90 s on two cores"""
    list: bool = False
    """show the experiments there are"""


def run_reproduce(arguments: Sequence[str]) -> int:
    options = parse(Reproduce, arguments)
    from grokinterp.console import show_recipes, show_reproduction
    from grokinterp.experiments import recipes, reproduce

    if options.list:
        show_recipes(list(recipes().values()))
        return 0
    if options.name is None:
        raise ConfigError("reproduce: give the name of an experiment; grokinterp reproduce --list shows them")
    from grokinterp.cli.analyze import progress_bar

    folder = options.folder or Path("reproductions") / f"{options.name}{'-quick' if options.quick else ''}"
    done = reproduce(options.name, folder, options.quick, progress_bar("part"))
    show_reproduction(done)
    print(f"report: {done.report}")
    return 1 if done.failed else 0
