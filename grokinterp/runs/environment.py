"""What a run was made with: written to environment.json, read by people."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grokinterp.models.products import library

_PACKAGES = ("grokinterp", "torch", "transformer-lens", "numpy", "safetensors")


def describe_environment(device: str, forward_path: str, *, compiled: bool = False) -> dict[str, Any]:
    """Versions, machine, device, threads, command line, commit, and how the logits are computed."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "forward_path": forward_path,
        "matrix_products": library(),
        "float32_precision": torch.get_float32_matmul_precision(),  # "highest" but where TF32 was asked for
        "compiled": compiled,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of a source checkout of grokinterp; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        outcome = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return outcome.stdout.strip() or None


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's processor, or its kind where the name is not known."""
    kind = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return kind
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), kind)
