"""environment.json: the software and the machine that made a run, for people to read."""

import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from grokinterp.models.container import CGROUP, cpu_quota
from grokinterp.models.products import Products, float32_precision, library

_PACKAGES = ("grokinterp", "torch", "transformer-lens", "numpy", "safetensors")
# What changes the rounding of updates, besides the version of torch.
_ROUNDING = ("processor", "device", "threads", "matrix_products", "float32_precision", "compiled")


def describe_environment(
    device: str, forward_path: str, *, compiled: bool = False, products: Products = "float32"
) -> dict[str, Any]:
    """Collects versions, machine, device, threads, command, commit, and how the logits are computed.

    Args:
        device: `cpu`, `cuda`, `cuda:N` or `mps`.
        forward_path: name of the forward pass that computes the logits.
        compiled: whether torch.compile compiles the update.
        products: in which format the updates multiply matrices.
    """
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "command": current_command(),
        "commit": _commit(),
        "forward_path": forward_path,
        "matrix_products": library(),
        "float32_precision": float32_precision(),
        "products": products,
        "compiled": compiled,
    }


def latest_environment(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a run's environment.json that describes its latest session.

    >>> latest_environment({"threads": 1, "resumed": [{"threads": 2}]})
    {'threads': 2}
    """
    resumed = environment.get("resumed")
    latest = resumed[-1] if isinstance(resumed, list) and resumed else environment
    return latest if isinstance(latest, Mapping) else {}


def rounding_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Compares everything in two environments on which the last digits of a training depend.

    >>> rounding_changes({"threads": 1, "device": "cpu"}, {"threads": 2, "device": "cpu"})
    ['threads: 1 -> 2']

    Args:
        old: the content of environment.json, or of an entry of its `resumed`. Fields that it lacks are not compared.
        new: from `describe_environment`.

    Returns:
        One text per difference.
    """
    before, after = ({name: entry[name] for name in _ROUNDING if name in entry} for entry in (old, new))
    for fields, entry in ((before, old), (after, new)):
        packages = entry.get("packages")
        if isinstance(packages, Mapping) and "torch" in packages:
            fields["torch"] = packages["torch"]
    return [
        f"{name}: {before[name]} -> {after[name]}" for name in after if name in before and before[name] != after[name]
    ]


_RECORDED_COMMAND: ContextVar[str] = ContextVar("_RECORDED_COMMAND", default="")


@contextmanager
def recording_command(command: str) -> Iterator[None]:
    """Context manager under which runs record this command, that of a sweep, instead of that of their worker."""
    token = _RECORDED_COMMAND.set(command)
    try:
        yield
    finally:
        _RECORDED_COMMAND.reset(token)


def current_command() -> str:
    """The command with its arguments; of a program other than grokinterp's, whose arguments may be secret, the name."""
    if _RECORDED_COMMAND.get():
        return _RECORDED_COMMAND.get()
    program = Path(sys.argv[0])
    if program.stem == "grokinterp" or program.parts[-3:] == ("grokinterp", "cli", "__main__.py"):
        return " ".join(["grokinterp", *sys.argv[1:]])
    return program.name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source checkout that grokinterp runs from; None if it runs from an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None


def cores(cgroup: Path = CGROUP) -> int:
    """Counts the CPU cores that this process may use: those it is bound to, within the container's CPU quota.

    Args:
        cgroup: folder of the container's control group.
    """
    process = psutil.Process()
    count = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1  # no macOS
    quota = cpu_quota(cgroup)
    return count if quota is None else max(1, min(count, int(quota)))


def processor() -> str:
    """The name of this machine's processor, or its architecture if the system does not tell the name."""
    architecture = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # psutil does not read the name
    except OSError:  # not Linux
        return architecture
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), architecture)
