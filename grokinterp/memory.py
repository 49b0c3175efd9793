"""Keeping freed memory: an update allocates and frees the same arrays thousands of times."""

import contextlib
import ctypes
import sys
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # malloc.h's M_ constants


@cache
def keep_freed_memory() -> bool:
    """Asks the C library to keep up to 256 MB of freed memory in this process; True where it understood.

    glibc returns large arrays to the kernel as they are freed, and each page of the next one is fetched and zeroed
    anew: a tenth of the time of a training step. Nothing but speed depends on this.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 256 << 20), (_TOP_PAD, 64 << 20))
    understood = [bool(mallopt(which, value)) for which, value in settings]
    return all(understood)


def release_freed_memory() -> None:
    """Gives freed memory back to the kernel, before other processes are to need it."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
