"""repair: sets damaged files of a run aside, and keeps every intact line of its metrics."""

from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.runs.files import accessing, free_name
from grokinterp.runs.folders import as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.metrics import DAMAGED, METRICS, repair_metrics
from grokinterp.runs.run import Run


def repair(path: str | Path) -> list[str]:
    """Makes a run readable that has damaged metrics, a damaged status.json, or a damaged environment.json.

    Damaged lines are removed from metrics.jsonl, and the damaged file is kept as `metrics.jsonl.damaged`. A damaged
    status.json or environment.json is renamed to `NAME.damaged`. Nothing is deleted, and no checksum is computed for a
    file that has none, so `verify` still reports what is lost.

    Args:
        path: the run folder.

    Returns:
        One line for each repaired file.

    Raises:
        RunError: the folder is not a run, is in use, or is not writable.
        ConfigError: config.json is damaged; it can only be restored from a copy.
    """
    folder = as_path(path)
    run = Run.open(folder)
    repaired: list[str] = []
    with hold(folder):
        found = repair_metrics(folder / METRICS)
        if found is not None:
            kept, count = found
            lines = "1 damaged line" if count == 1 else f"{count} damaged lines"
            repaired.append(f"{folder / METRICS}: {lines} set aside; the damaged file is now {kept.name}")
        for name in ("status", "environment"):
            file = folder / f"{name}.json"
            if not _is_readable(run, name):
                kept = free_name(file, DAMAGED)
                with accessing("rename", file):
                    file.replace(kept)
                repaired.append(f"{file}: renamed to {kept.name}")
    return repaired


def _is_readable(run: Run, name: str) -> bool:
    try:
        getattr(run, name)
    except RunError:
        return False
    return True
