"""Entire commands, as a user waits for them: a training, the demo, and the analysis of four hundred checkpoints."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import plain_row
from grokinterp.runs.run import Run

COMMAND = str(Path(sys.executable).with_name("grokinterp"))
CHECKPOINTS = 400


def mainline(path: Path) -> Iterator[dict[str, Any]]:
    """Training to 99 % test accuracy, with a checkpoint every 25 steps."""
    options = ["--preset", "transformer-lens", "--schedule.checkpoints", "25"]
    options += ["--schedule.stop-when-grokked", "--schedule.stop-factor", "1.0", "--device", "cpu"]
    seconds, peak = run_command(["train", str(path), *options])
    run = Run.open(path)
    accuracy = run.metrics["test_accuracy"].iloc[-1]
    if accuracy < 0.99:
        raise SystemExit(f"the mainline run reached {accuracy:.1%} test accuracy instead of 99 %")
    yield plain_row("mainline_to_99", "s", seconds)
    yield plain_row("mainline_to_99_step", "step", run.steps[-1])
    yield plain_row("mainline_to_99_memory", "MB", peak)


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """The demo, the analysis of many checkpoints of the mainline run, and CUDA if available."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = run_command(["demo", "--run", f"{folder}/demo"])
        yield plain_row("demo", "s", seconds)
    last = run.steps[CHECKPOINTS - 1]
    for file in (run.path / "analysis").glob("*"):
        file.unlink()
    seconds, peak = run_command(["analyze", str(run.path), "--steps", f"0:{last}:1", "--no-report"])
    yield plain_row(f"analyze_{CHECKPOINTS}", "s, all default measures", seconds)
    yield plain_row(f"analyze_{CHECKPOINTS}_memory", "MB, all processes", peak)
    if torch.cuda.is_available():
        yield from cuda()


def cuda() -> Iterator[dict[str, Any]]:
    """Steps per second of one mainline run with CUDA graphs, and of 128 runs at once."""
    from dataclasses import replace

    from benchmarks.ours import mainline as config
    from grokinterp.config import ScheduleConfig
    from grokinterp.training import train, train_many

    short = replace(config(), schedule=ScheduleConfig(4000, evaluate_every=4000, checkpoints=4000, resume_every=4000))
    with tempfile.TemporaryDirectory() as folder:
        run = train(short, f"{folder}/one", device="cuda", progress=False)
        yield plain_row("cuda_graph", "steps/s", run.status["timing"]["steps_per_second"])
        many = [replace(short, model_seed=seed) for seed in range(128)]
        runs = train_many(many, [f"{folder}/{seed}" for seed in range(128)], device="cuda", progress=False)
        yield plain_row("cuda_128_runs", "run-steps/s", 128 * runs[0].status["timing"]["steps_per_second"])


def run_command(arguments: list[str]) -> tuple[float, float]:
    """Run a grokinterp command; return its seconds and the peak memory of it and its workers together, in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([COMMAND, *arguments], stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(megabytes(pid) for pid in family(process.pid)))
        time.sleep(0.2)
    if process.returncode != 0:
        raise SystemExit(f"grokinterp {' '.join(arguments)} failed")
    return time.perf_counter() - start, peak


def family(pid: int) -> list[int]:
    """A process and all its descendants (Linux)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in family(int(child)))]


def megabytes(pid: int) -> float:
    """Proportional set size of a process, which counts memory shared by several processes only once in their sum."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
