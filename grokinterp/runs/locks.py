"""Who works in a folder: a lock that ends with the process that holds it, however that process ends."""

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.runs.files import cannot, make_folder

try:
    import fcntl
except ImportError:  # Windows: there nothing is locked
    fcntl = None

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"


class HeldError(RunError):
    """Another process works in the folder."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps every other process that asks for it out of a folder, which is made where it does not exist.

    Raises:
        HeldError: another process is in it; the message says which.
        RunError: the folder cannot be made or written to.
    """
    make_folder(folder)
    descriptor = _locked(folder) if fcntl is not None else None
    if descriptor is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # on a full disk others are kept out, but not told by whom
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # before it is released: another's lock must not be removed
            (folder / LOCK_NAME).unlink()
        os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """The descriptor of the lock file, locked; None where the file system knows no locks."""
    assert fcntl is not None
    path = folder / LOCK_NAME
    while True:
        try:
            # No link is followed: whoever holds the lock writes into it.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise cannot("write", path, error) from None
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:  # it will be written into
            os.close(descriptor)
            raise RunError(f"{path} is no lock of ours: remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise HeldError(f"{folder} is in use by {holder}: wait for its end, or stop it") from None
        except OSError as error:
            os.close(descriptor)
            log.warning("%s cannot be locked (%s): see that no other process trains there", folder, error.strerror)
            return None
        with contextlib.suppress(OSError):  # whoever held it before may have removed it in this instant
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
