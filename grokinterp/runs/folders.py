"""Folders: a path that a caller gives, and reading a folder that another process may replace meanwhile."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.files import file_state

_ATTEMPTS, _PAUSE = 3, 0.01  # of `read_stable`; the pause is in seconds
_T = TypeVar("_T")


def as_path(path: Any, name: str = "path") -> Path:
    """A path that a caller passed.

    >>> as_path("checkpoints/run42").name
    'run42'

    Args:
        path: a string or a path.
        name: of the argument, for messages.

    Raises:
        ConfigError: it is something else, or has a null character.
    """
    if not isinstance(path, str | Path):
        raise ConfigError(f"{name} must be the path of a folder, but is {type(path).__name__}")
    if "\0" in str(path):
        raise ConfigError(f"{name} must not contain a null character: {str(path)!r}")
    return Path(path)


def read_stable(folder: Path, read: Callable[[], _T]) -> _T:
    """Calls `read` so that its result belongs to a single run, even if a process replaces the folder meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        before = _identity(folder)
        with contextlib.suppress(RunError):  # the replacement may be the cause
            result = read()
            if _identity(folder) == before:
                return result
        time.sleep(_PAUSE)
    return read()


def _identity(folder: Path) -> int | None:
    state = file_state(folder)
    return None if state is None else state[0]  # the inode
