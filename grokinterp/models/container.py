"""The limits that a container puts on memory and CPU time, as Linux control groups state them.

The operating system reports the memory and the cores of the whole machine; a container may use less of both. The files
are those of control groups version 2 and, where they do not exist, of version 1.
"""

from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # a container sees its own control group here


def memory_left(cgroup: Path = CGROUP) -> int | None:
    """Bytes that the container may still allocate; None if it has no limit.

    Args:
        cgroup: folder of the control group.
    """
    names = (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for folder, limit, usage, cache in names:
        with suppress(OSError, ValueError, KeyError):  # another version, or the limit is "max"
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            reclaimable = int(dict(line.split() for line in lines)[cache])  # cached files, which the kernel can drop
            return max(0, most - used + reclaimable)
    return None


def cpu_quota(cgroup: Path = CGROUP) -> float | None:
    """Cores' worth of CPU time that the container may use; None if it has no limit.

    Args:
        cgroup: folder of the control group.
    """
    with suppress(OSError, ValueError):  # another version, or the quota is "max"
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):
        files = (cgroup / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        quota, period = (int(file.read_text(encoding="ascii")) for file in files)
        return quota / period if quota > 0 else None  # -1: no limit
    return None
