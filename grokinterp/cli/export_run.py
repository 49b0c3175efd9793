"""grokinterp export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from grokinterp.cli.options import default, parse, say
from grokinterp.errors import ConfigError, shorten


@dataclass(frozen=True)
class Export:
    """Write a run in a form that TransformerLens or the Hugging Face Hub reads.

    Importing the result again gives the same run.
    """

    run: tyro.conf.Positional[Path]
    """run to export"""
    target: tyro.conf.Positional[Path]
    """file or folder to write"""
    format: str | None = None
    """transformer_lens_3, transformer_lens_4, demo or hub; see docs/howto/import.md"""
    step: Annotated[str | None, default("hub: the last; other formats: all")] = None
    """number of the only checkpoint to export, last, or, with --all-checkpoints, all"""
    all_checkpoints: bool = False
    """with format hub, also write a folder for each of up to 154 checkpoints, equally spaced on a logarithmic scale"""
    license: str = "unknown"
    """with format hub, the license in the model card"""


def run_export(arguments: Sequence[str]) -> int:
    options = parse(Export, arguments)
    if options.format is None:
        raise ConfigError("export: give --format transformer_lens_3, transformer_lens_4, demo or hub")
    from grokinterp.formats.exporting import export_run

    named = options.step is None or options.step in ("last", "all")
    if not named and not (str(options.step).isdecimal() and len(str(options.step)) <= 12):
        raise ConfigError(f"--step must be a step, last or all, but is {shorten(str(options.step))}")
    step = options.step if named else int(str(options.step))
    path = export_run(
        options.run,
        options.target,
        options.format,
        step=step,
        all_checkpoints=options.all_checkpoints,
        license=options.license,
    )
    say(f"written: {path}")
    return 0
