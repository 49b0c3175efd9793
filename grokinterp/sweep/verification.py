"""verify_sweep: checks the files of a sweep that belong to no run."""

from pathlib import Path

from grokinterp.errors import GrokinterpError
from grokinterp.runs.checksums import require_intact
from grokinterp.runs.files import exists
from grokinterp.runs.tables import require_intact_table
from grokinterp.sweep.folder import FAILURES, TABLE, Sweep


def verify_sweep(path: str | Path) -> tuple[str, ...]:
    """Verifies the checksums of sweep.json, sweep.parquet, report.html and the failures of a sweep.

    Args:
        path: the folder of the sweep.

    Returns:
        One line for each problem. `grokinterp.verify` checks the runs.

    Raises:
        RunError: the folder holds no sweep, or its sweep.json is damaged.
    """
    sweep = Sweep.open(path)
    problems: list[str] = []
    for file in (sweep.path / TABLE, sweep.path / "report.html", *sorted((sweep.path / FAILURES).glob("*.json"))):
        try:
            if file.name == TABLE and exists(file):
                require_intact_table(file)
            elif exists(file):
                require_intact(file)
        except GrokinterpError as error:
            problems.append(str(error))
    return tuple(problems)
