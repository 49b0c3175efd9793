"""A lock on a folder, which the system releases when the process that has it ends, for whatever reason."""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.runs.files import accessing, make_folder

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"


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
    descriptor = _lock(folder)
    if descriptor is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # on a full disk the lock holds, but does not name this process
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # before releasing the lock, so that no other process's file is removed
            (folder / LOCK_NAME).unlink()
        os.close(descriptor)


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
        with contextlib.suppress(OSError):  # the previous holder may have just removed the file
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
