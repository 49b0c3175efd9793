"""sample_run: a small run that comes with the package."""

import os
import shutil
import sys
from pathlib import Path

import grokinterp
from grokinterp.errors import RunError
from grokinterp.runs.files import accessing, exists
from grokinterp.runs.run import Run

_SOURCE = Path(__file__).parent / "sample_run42"


def sample_run(path: str | Path | None = None) -> Run:
    """Opens a run that comes with the package: 12 checkpoints of a transformer that groks (a + b) mod 67.

    >>> run = sample_run("checkpoints/sample")
    >>> len(run.steps), run.steps[-1]
    (12, 4240)

    It is `checkpoints/run42` of the repository with all of its metrics and 12 of its 63 checkpoints. The first call
    copies it (4 MB), because `analyze` keeps its results in the run folder, and the folder of the package may be
    read-only or shared; later calls open the copy.

    Args:
        path: the folder of the copy, new or an earlier copy (default: `grokinterp/VERSION/run42` in your cache folder,
            which is `~/.cache` on Linux).

    Raises:
        RunError: the folder is not writable, or is something else.
    """
    folder = _cache_folder() / grokinterp.__version__ / "run42" if path is None else Path(path)
    if not exists(folder / "config.json"):
        with accessing("write", folder):
            _copy(folder)
    run = Run.open(folder)
    if run.config != Run.open(_SOURCE).config:
        raise RunError(f"{folder} is another run: choose another folder")
    return run


def _copy(folder: Path) -> None:
    """Copies the run under a temporary name, so that the folder is complete once it has its name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for file in filter(Path.is_file, _SOURCE.rglob("*")):
            target = temporary / file.relative_to(_SOURCE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)  # without the permissions: an installed file may be read-only
        temporary.replace(folder)
    except OSError:
        if not exists(folder / "config.json"):  # otherwise another process has just made the copy
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cache_folder() -> Path:
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "grokinterp"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "grokinterp" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "grokinterp"
