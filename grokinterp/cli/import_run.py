"""grokinterp import."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grokinterp.cli.options import default, parse, say


@dataclass(frozen=True)
class Import:
    """Import a model that was trained elsewhere, or a run with its checkpoints, as a run folder.

    Nothing in the files is executed. Losses, accuracies and norms are computed anew from the weights.
    """

    source: tyro.conf.Positional[Path]
    """file or folder to import"""
    run: tyro.conf.Positional[Path]
    """run folder to write"""
    format: Annotated[str | None, default("found by looking")] = None
    """he, chughtai, pizza, state_dicts, demo or nanda; see docs/howto/import.md"""


def run_import(arguments: Sequence[str]) -> int:
    options = parse(Import, arguments)
    from grokinterp.formats.importing import import_run

    run = import_run(options.source, options.run, format=options.format)
    imported = run.environment["imported"]
    steps = f"{len(run.steps):,} checkpoints" if len(run.steps) > 1 else f"one checkpoint, step {run.steps[0]:,}"
    say(f"{options.run}: {run.config.task.title}, {run.config.model.kind}, {steps} (format {imported['format']})")
    say(f"split: {imported['split']['reason']}")
    for note in imported["notes"]:
        say(f"note: {note}")
    say(f"next: grokinterp analyze {options.run}")
    return 0
