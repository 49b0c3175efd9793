"""grokinterp verify."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from grokinterp.cli.options import parse, progress_bar
from grokinterp.errors import one_line


@dataclass(frozen=True)
class Verify:
    """Check every file of a run or of every run in a sweep. The exit status is 1 if a run is damaged.

    This command reads config.json, status.json, environment.json, metrics.jsonl, every weights file with its checksum,
    the resume point, and the checksums of the weights that were analyzed. It writes nothing.
    """

    run: tyro.conf.Positional[Path]
    """the folder of a run or a sweep"""


def run_verify(arguments: Sequence[str]) -> int:
    options = parse(Verify, arguments)
    folders = _folders(options.run)
    from grokinterp.runs.verification import verify

    damaged = 0
    for folder in folders:
        verification = verify(folder, progress_bar("file"))
        if verification.problems:
            print("\n".join(map(one_line, verification.problems)))
            damaged += 1
        else:
            counts = f"{verification.checkpoints} checkpoint files and {verification.evaluations} evaluations"
            print(one_line(f"{folder}: intact, with {counts}"))
    if len(folders) != 1:
        print(one_line(f"{options.run}: {len(folders) - damaged} of {len(folders)} runs are intact"))
    return 1 if damaged else 0


def _folders(path: Path) -> list[Path]:
    """The run, or the runs of a sweep that have started."""
    if not (path / "sweep.json").is_file():
        return [path]
    from grokinterp.sweep import Sweep

    sweep = Sweep.open(path)
    folders = [path / point.name for point in sweep.points]
    return [folder for folder in folders if (folder / "config.json").is_file()]
