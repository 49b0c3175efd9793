"""How much memory there is, and keeping what was freed: an update allocates the same arrays thousands of times."""

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from grokinterp.errors import ConfigError

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


def available_memory() -> int | None:
    """Bytes that this process may still take: what the machine has free, within the process's own limit.

    None where neither is known.
    """
    found = []
    with suppress(OSError, ValueError, IndexError):  # not Linux
        fields = Path("/proc/meminfo").read_text(encoding="ascii").split()
        found.append(1024 * int(fields[fields.index("MemAvailable:") + 1]))
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            found.append(max(0, limit - pages * resource.getpagesize()))
    return min(found, default=None)


def require_memory(need: int, what: str) -> None:
    """Refuses what does not fit into memory, before any of it is made.

    Args:
        need: bytes, at least.
        what: that takes them, for the message.

    Raises:
        ConfigError: there is less.
    """
    have = available_memory()
    if have is not None and need > have:
        raise ConfigError(
            f"{what} takes {need / 1e9:,.1f} GB of memory or more, and {have / 1e9:,.1f} GB can be had here: "
            "choose smaller sizes"
        )


def release_freed_memory() -> None:
    """Gives freed memory back to the kernel, before other processes are to need it."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
