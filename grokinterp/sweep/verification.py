"""verify_sweep: checks the files of a sweep that belong to no run."""

from pathlib import Path

from grokinterp.errors import GrokinterpError
from grokinterp.runs.checksums import require_intact
from grokinterp.runs.files import exists, read_bytes
from grokinterp.runs.tables import MAX_TABLE_BYTES, read_table, require_intact_table
from grokinterp.runs.verification import Verification
from grokinterp.sweep.folder import FAILURES, TABLE, Sweep

_FILES = ("status.json", "metrics.jsonl", "weights")  # of a run that has started


def verify_sweep(path: str | Path) -> Verification:
    """Verifies the files of a sweep, and that no run is missing that has results in sweep.parquet.

    Args:
        path: the folder of the sweep.

    Returns:
        The problems of these files. `grokinterp.verify` checks the runs.

    Raises:
        RunError: the folder holds no sweep, or its sweep.json is damaged.
    """
    sweep = Sweep.open(path)
    folder = sweep.path
    problems: list[str] = []
    unchecked: list[str] = []
    files = ["sweep.json", TABLE, "report.html", *(f"{FAILURES}/{f.name}" for f in (folder / FAILURES).glob("*.json"))]
    for name in filter(lambda name: exists(folder / name), files):
        try:
            if name == TABLE:
                checked = require_intact_table(folder / name, rows=len(sweep.points))
            else:
                checked = require_intact(folder / name)
        except GrokinterpError as error:
            problems.append(str(error))
        else:
            unchecked += [] if checked else [name]
    for point in sweep.points:
        run = folder / point.name
        if exists(run) and not exists(run / "config.json") and any((run / name).exists() for name in _FILES):
            problems.append(f"{run}: config.json is missing")
    if not problems and exists(folder / TABLE):
        try:
            content = read_table(read_bytes(folder / TABLE, limit=MAX_TABLE_BYTES), rows=len(sweep.points))
            # Without the file's own metadata, from which pandas would parse JSON of any depth.
            table = content.replace_schema_metadata(None).to_pandas()
            names = [str(name) for name in table.loc[table["step"].notna(), "run"]]
        except (ValueError, KeyError) as error:  # KeyError: there is no such column
            return Verification((f"{folder / TABLE} is damaged ({error})",), 0, 0, tuple(unchecked))
        points = {point.name for point in sweep.points}
        for name in names:
            if name not in points or not exists(folder / name / "config.json"):
                problems.append(f"{folder / name}: the run is missing, although {TABLE} has its results")
    return Verification(tuple(problems), 0, 0, tuple(unchecked))
