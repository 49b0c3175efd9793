"""`python -m benchmarks.gpu`: what a CUDA device computes, and how fast, in at most eight minutes.

Each part runs in a process of its own; a part that fails or takes too long is reported, and the others still run.
gpu.json and gpu.md in the output folder grow as parts end. PyTorch, NumPy, pandas and safetensors must be installed;
the other packages that a training imports may come as wheels in build/gpu-wheels, which `make gpu-wheels` fills.
`--pretend` runs everything in miniature on the CPU.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / "build" / "gpu-wheels"
LIMIT = 480.0  # seconds for everything
# Seconds that each part may take; the last one takes what is left.
SECONDS = {"machine": 30, "oracles": 80, "mainline": 80, "seeds": 90, "manir": 90, "decays": LIMIT}
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu", help="folder of gpu.json and gpu.md")
    parser.add_argument("--pretend", action="store_true", help="run in miniature on the CPU")
    parser.add_argument("--part", help="run this part only, and print its rows as JSON lines")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="time for everything, or for the part")
    options = parser.parse_args(arguments)
    if options.part:
        for found in PARTS[options.part](options.pretend, options.seconds):
            print("row:" + json.dumps(found), flush=True)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        extract_wheels(WHEELS, Path(folder))
        rows = run_parts(SECONDS, options.output, options.pretend, options.seconds, Path(folder))
    return 1 if any("failed" in found for found in rows) else 0


def run_parts(
    parts: dict[str, float], output: Path, pretend: bool, seconds: float, packages: Path | None = None
) -> list[Row]:
    """Runs parts one after another, and writes the rows so far after each."""
    end, rows = time.monotonic() + seconds, []
    for name, limit in parts.items():
        left = end - time.monotonic()
        found = run_part(name, pretend, min(limit, left), packages) if left > 1 else [failure(name, "no time was left")]
        rows += found
        (output / "gpu.json").write_text(json.dumps(rows, indent=1) + "\n")
        (output / "gpu.md").write_text(table(rows))
        print(table(found), flush=True)
    return rows


def run_part(name: str, pretend: bool, seconds: float, packages: Path | None = None) -> list[Row]:
    """The rows of a part, with a last one that says why it ended early, if it did."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, packages, os.environ.get("PYTHONPATH")) if folder)
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--seconds", f"{0.8 * seconds:.1f}"]
    process = subprocess.Popen(
        command + ["--pretend"] * pretend,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, errors = process.communicate(timeout=seconds)
        ended = None if process.returncode == 0 else f"exit status {process.returncode}: {last_line(errors)}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        ended = f"took longer than {seconds:.0f} s"
    rows = [json.loads(line[4:]) for line in out.splitlines() if line.startswith("row:")]
    return rows if ended is None else [*rows, failure(name, ended)]


def failure(part: str, why: str) -> Row:
    return {"name": part, "failed": why}


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def table(rows: list[Row]) -> str:
    lines = ["| what | value | unit |", "|---|---|---|"]
    for found in rows:
        value = f"failed: {found['failed']}" if "failed" in found else str(found["value"])
        lines.append(f"| {found['name']} | {value} | {found.get('unit', '')} |")
    return "\n".join(lines) + "\n"


def extract_wheels(wheels: Path, folder: Path) -> None:
    """Extracts the wheels that fit this Python and that it lacks."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for wheel in sorted(wheels.glob("*.whl")):
        package = wheel.name.split("-")[0].lower()
        fits = "none-any" in wheel.name or "abi3" in wheel.name or f"-{tag}-" in wheel.name
        if fits and importlib.util.find_spec(package) is None:
            zipfile.ZipFile(wheel).extractall(folder)


def row(name: str, value: Any, unit: str = "") -> Row:
    return {"name": name, "value": float(f"{value:.4g}") if isinstance(value, float) else value, "unit": unit}


# --- the parts, each in a process of its own -------------------------------------------------------------------------


def prepare(pretend: bool) -> str:
    """The device, once the package can be imported."""
    if importlib.util.find_spec("scipy") is None:
        sys.modules["scipy"] = types.ModuleType("scipy")  # the package imports it, but no training calls it
    import torch

    if pretend:
        return "cpu"
    if not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA device: use --pretend")
    return "cuda"


def machine(pretend: bool, seconds: float) -> Iterator[Row]:
    device = prepare(pretend)
    import torch

    yield row("device", torch.cuda.get_device_name() if device == "cuda" else f"CPU, {platform.machine()}")
    yield row("torch", torch.__version__)
    yield row("CUDA", str(torch.version.cuda))


def config_of(name: str, pretend: bool, steps: int, **values: Any) -> Any:
    """A preset without evaluations on the way; in miniature if `pretend`."""
    from grokinterp.config import ScheduleConfig
    from grokinterp.config.presets import preset

    config = preset(name).replace({key.replace("__", "."): value for key, value in values.items()})
    if pretend:
        narrow = {"model.width": 16} if name in ("psi", "manir") else {"model.d_model": 16, "model.d_mlp": 32}
        config = config.replace({"task.p": 11, **narrow})
    from dataclasses import replace

    schedule = ScheduleConfig(steps, evaluate_every=steps, checkpoints=steps, resume_every=steps)
    return replace(config, schedule=schedule, loss_dtype="float32")


NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mainline": ("transformer-lens", {}),
    "psi": ("psi", {}),
    "manir d4 w512": ("manir", {"model__depth": 4, "model__width": 512}),
    "manir d8 w512 residual": ("manir", {"model__depth": 8, "model__width": 512, "model__architecture": "residual"}),
    "manir transformer": ("manir-transformer", {}),
}


def update_of(config: Any, task: Any, device: str, dtype: Any) -> tuple[Any, Any]:
    """The loss and all gradients of the first update, in some dtype throughout."""
    from dataclasses import replace

    import torch

    from grokinterp.models import forward_for, initial_parameters
    from grokinterp.training.gradients import gradients_function

    config = replace(config, loss_dtype="float64" if dtype == torch.float64 else "float32")
    weights = {
        name: weight.detach().to(device, dtype).requires_grad_(weight.requires_grad)
        for name, weight in initial_parameters(config, task).items()
    }
    train = task.require_split()
    gradients = gradients_function(config, forward_for(config.model, task), weights)
    loss = gradients(task.tokens[train].to(device), task.labels[train].to(device))
    parts = [weight.grad.double().cpu().flatten() for weight in weights.values() if weight.grad is not None]
    return loss.double().cpu(), torch.cat(parts)


def oracles(pretend: bool, seconds: float) -> Iterator[Row]:
    """Relative errors of an update's loss and gradients in float32 and TF32, against float64 on the CPU."""
    device = prepare(pretend)
    import torch

    from grokinterp.models import task_of

    for name, (preset, values) in NETWORKS.items():
        config = config_of(preset, pretend, 1, **values)
        task = task_of(config)
        update = partial(update_of, config, task)
        loss, gradient = update("cpu", torch.float64)
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            near, close = update(device, torch.float32)
            label = "float32" if precision == "highest" else "TF32"
            yield row(f"{name}, {label}: error of the loss", (near / loss - 1).abs().item(), "relative")
            yield row(
                f"{name}, {label}: error of the gradients",
                ((close - gradient).norm() / gradient.norm()).item(),
                "relative",
            )
        torch.set_float32_matmul_precision("highest")


def steps_per_second(configs: list[Any], device: str) -> tuple[float, float]:
    """Updates of each run a second, and peak memory in MB; the first run of a process also waits for CUDA."""
    import torch

    from grokinterp.training import train, train_many

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        if len(configs) == 1:
            runs = [train(configs[0], f"{folder}/run", device=device, progress=False)]
        else:
            paths = [f"{folder}/{i}" for i in range(len(configs))]
            runs = train_many(configs, paths, device=device, progress=False)
        speed = runs[0].status["timing"]["steps_per_second"]
    return float(speed or 0.0), torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0


def mainline(pretend: bool, seconds: float) -> Iterator[Row]:
    """Steps per second of one run, whose update is a CUDA graph."""
    device = prepare(pretend)
    import torch

    for precision, label in (("highest", "float32"), ("high", "TF32")):
        torch.set_float32_matmul_precision(precision)
        speed, memory = steps_per_second([config_of("transformer-lens", pretend, 20 if pretend else 4000)], device)
        yield row(f"mainline, one run, {label}", speed, "steps/s")
        yield row(f"mainline, one run, {label}: memory", memory, "MB")


def together(name: str, count: int, pretend: bool, seconds: float, field: str, values: Callable[[int], Any]) -> Row:
    """Many runs at once: a short training to measure their speed, then one that fills the time."""
    preset, settings = NETWORKS[name]
    device = prepare(pretend)

    def configs(steps: int) -> list[Any]:
        base = config_of(preset, pretend, steps, **settings)
        return [base.replace({field: values(i)}) for i in range(count)]

    started = time.monotonic()
    speed, memory = steps_per_second(configs(10 if pretend else 100), device)
    left = seconds - 2 * (time.monotonic() - started)
    steps = 10 if pretend else int(min(max(0.6 * left * speed, 100), 100_000))
    speed, memory = steps_per_second(configs(steps), device)
    return row(f"{name}, {count} runs at once, {steps} steps", count * speed, f"run-steps/s, {memory:.0f} MB")


def seeds(pretend: bool, seconds: float) -> Iterator[Row]:
    yield together("mainline", 4 if pretend else 128, pretend, seconds, "model_seed", lambda i: i)


def manir(pretend: bool, seconds: float) -> Iterator[Row]:
    """Steps per second of single runs of the other networks."""
    device = prepare(pretend)
    for name, (preset, values) in NETWORKS.items():
        if name != "mainline":
            speed, memory = steps_per_second([config_of(preset, pretend, 10 if pretend else 1000, **values)], device)
            yield row(f"{name}, one run", speed, f"steps/s, {memory:.0f} MB")


def decays(pretend: bool, seconds: float) -> Iterator[Row]:
    """The network of Manir and Rupa at 64 weight decays at once, for as long as is left."""
    count = 4 if pretend else 64
    yield together(
        "manir d4 w512", count, pretend, seconds, "optimizer.weight_decay", lambda i: 1e-4 * 100 ** (i / count)
    )


PARTS: dict[str, Callable[[bool, float], Iterator[Row]]] = {
    "machine": machine,
    "oracles": oracles,
    "mainline": mainline,
    "seeds": seeds,
    "manir": manir,
    "decays": decays,
}

if __name__ == "__main__":
    sys.exit(main())
