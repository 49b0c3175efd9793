"""How much memory this process may use, and how the C library keeps the memory that the process frees."""

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from grokinterp.errors import ConfigError
from grokinterp.models.container import CGROUP, memory_left

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # malloc.h's M_ constants


@cache
def keep_freed_memory() -> bool:
    """Asks the C library to keep up to 256 MB of freed memory in this process.

    By default glibc returns a large array to the kernel when it is freed, and the kernel fetches and zeroes each page
    of the next one, although every update allocates the same arrays. That takes a tenth of the time of a training step.
    Only speed depends on this setting.

    Returns:
        Whether the C library accepted the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 256 << 20), (_TOP_PAD, 64 << 20))
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(accepted)


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may still allocate: the least that the machine, the container and RLIMIT_AS allow.

    Args:
        cgroup: folder of the container's control group.
    """
    limits = [psutil.virtual_memory().available, memory_left(cgroup)]
    with suppress(ImportError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            limits.append(max(0, limit - psutil.Process().memory_info().vms))
    return min(limit for limit in limits if limit is not None)


def require_memory(need: int, subject: str) -> None:
    """Raises an error if something does not fit into memory, before any of it is allocated.

    Args:
        need: bytes that it takes at least.
        subject: what takes them, for the message.

    Raises:
        ConfigError: less memory is available.
    """
    available = available_memory()
    if need > available:
        raise ConfigError(
            f"{subject} takes at least {need / 1e9:,.1f} GB of memory, "
            f"but only {available / 1e9:,.1f} GB are available: choose smaller sizes"
        )


def release_freed_memory() -> None:
    """Returns freed memory to the kernel, for other processes to use."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
