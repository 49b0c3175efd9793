"""grokinterp verify."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from grokinterp.cli.options import parse, progress_bar, say

if TYPE_CHECKING:
    from grokinterp.runs.verification import Verification


@dataclass(frozen=True)
class Verify:
    """Check every file of a run, or of a sweep and its runs. The exit status is 1 if anything is damaged.

    This command reads every file with its checksum and compares the files with each other. It writes nothing unless
    --repair is given.
    """

    run: tyro.conf.Positional[Path]
    """the folder of a run or a sweep"""
    repair: bool = False
    """first set damaged lines of metrics.jsonl and damaged status.json and environment.json files aside; nothing is
    deleted"""


def run_verify(arguments: Sequence[str]) -> int:
    options = parse(Verify, arguments)
    folders = _folders(options.run)
    from grokinterp.runs.repair import repair
    from grokinterp.runs.verification import verify

    damaged = 0
    for folder in folders:
        if options.repair:
            for line in repair(folder) or [f"{folder}: nothing to repair"]:
                say(line)
        verification = verify(folder, progress_bar("file"))
        damaged += bool(verification.problems)
        _show(folder, verification)
        if not verification.problems:
            counts = f"{verification.checkpoints} checkpoint files and {verification.evaluations} evaluations"
            say(f"{folder}: intact, with {counts}")
    if not (options.run / "sweep.json").is_file():
        return 1 if damaged else 0
    from grokinterp.sweep.verification import verify_sweep

    verification = verify_sweep(options.run)
    _show(options.run, verification)
    say(f"{options.run}: {len(folders) - damaged} of {len(folders)} runs are intact")
    return 1 if damaged or verification.problems else 0


def _show(folder: Path, verification: "Verification") -> None:
    for problem in verification.problems:
        say(problem)
    if verification.unchecked:
        names = ", ".join(verification.unchecked)
        say(f"{folder}: no checksums in files of an earlier version: {names}")


def _folders(path: Path) -> list[Path]:
    """The run, or the runs of a sweep that have started."""
    if not (path / "sweep.json").is_file():
        return [path]
    from grokinterp.sweep import Sweep

    sweep = Sweep.open(path)
    folders = [path / point.name for point in sweep.points]
    return [folder for folder in folders if (folder / "config.json").is_file()]
