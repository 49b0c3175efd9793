"""A lock on a folder, which the system releases when the process that has it ends, for whatever reason."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from grokinterp.errors import RunError, logger
from grokinterp.runs.files import accessing, make_folder

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

log = logger(__name__)

LOCK_NAME = ".lock"


_HELD: dict[Path, int] = {}  # the descriptor of each lock that this process has, by folder


class FolderInUseError(RunError):
    """Another process has locked the folder."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Context manager that locks a folder against other processes that call it; creates the folder if necessary.

    Raises:
        FolderInUseError: another process has the lock; the message names the process.
        RunError: the folder cannot be created or is not writable.
    """
    make_folder(folder)
    process, descriptor = os.getpid(), _lock(folder)
    if descriptor is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds, but does not name this process
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        earlier, _HELD[folder] = _HELD.get(folder), descriptor
        try:
            yield
        finally:
            _HELD.pop(folder)
            if earlier is not None:  # of a folder that was renamed
                _HELD[folder] = earlier
    finally:
        # A forked child has no lock; and if the folder was renamed, the file is another process's.
        if os.getpid() == process and _is_lock_of(folder, descriptor):
            with contextlib.suppress(OSError):  # before releasing the lock, so that no other process's file is removed
                (folder / LOCK_NAME).unlink()
        os.close(descriptor)


def require_held(folder: Path) -> None:
    """Checks that a folder that this process has locked is still under its name.

    Raises:
        RunError: the folder was renamed, removed or replaced; what is there now must not be changed.
    """
    descriptor = _HELD.get(folder)
    if descriptor is not None and not _is_lock_of(folder, descriptor):
        raise RunError(
            f"{folder} was renamed, removed or replaced while this process was using it: nothing more is written; "
            "resume the run under its new name"
        )


def _is_lock_of(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / LOCK_NAME).stat())
    except OSError:
        return False


def _lock(folder: Path) -> int | None:
    """Opens and locks the lock file and returns its descriptor; None if the system or file system has no locks."""
    if fcntl is None:
        return None
    path = folder / LOCK_NAME
    while True:
        with accessing("write", path):
            # Do not follow a symlink: this process writes into the file.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # a hard link would be written into, too
            os.close(descriptor)
            raise RunError(f"{path} is not a lock file of grokinterp: remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise FolderInUseError(
                f"{folder} is in use by {holder}: wait until that process ends, or stop it"
            ) from None
        except OSError as error:
            os.close(descriptor)
            log.warning("%s cannot be locked (%s): let no other process train there", folder, error.strerror)
            return None
        if _is_lock_of(folder, descriptor):  # the previous holder may have just removed the file
            return descriptor
        os.close(descriptor)
