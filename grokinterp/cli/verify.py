"""grokinterp verify."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from grokinterp.cli.options import parse, progress_bar


@dataclass(frozen=True)
class Verify:
    """Check that a run, or every run of a sweep, is whole. The exit code is 1 where one is not.

    Read are config.json, status.json, environment.json, metrics.jsonl, every file of weights with its checksum, the
    resume point, and what an analysis was computed from. Nothing is written.
    """

    run: tyro.conf.Positional[Path]
    """the run folder, or a sweep's"""


def run_verify(arguments: Sequence[str]) -> int:
    options = parse(Verify, arguments)
    folders = _folders(options.run)
    from grokinterp.runs.verification import verify

    wrong = 0
    for folder in folders:
        found = verify(folder, progress_bar("file"))
        for problem in found.problems:
            print(problem)
        wrong += bool(found.problems)
        if not found.problems:
            print(f"{folder}: whole, with {found.checkpoints} kept files and {found.evaluations} evaluations")
    if len(folders) != 1:
        print(f"{options.run}: {len(folders) - wrong} of {len(folders)} runs are whole")
    return 1 if wrong else 0


def _folders(path: Path) -> list[Path]:
    """The run, or the runs of a sweep that have begun."""
    if not (path / "sweep.json").is_file():
        return [path]
    from grokinterp.sweep import Sweep

    sweep = Sweep.open(path)
    folders = [path / point.name for point in sweep.points]
    return [folder for folder in folders if (folder / "config.json").is_file()]
