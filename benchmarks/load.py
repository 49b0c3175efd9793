"""Makes runs and sweeps of the largest supported size in minutes, with synthetic weights.

python -m benchmarks.load run FOLDER [--checkpoints 5000]    a run of the mainline size
python -m benchmarks.load sweep FOLDER [--runs 2000]         a sweep of tiny runs
python -m benchmarks.load watch COMMAND ...                  peak resident memory of a command and its children
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from grokinterp.config import MLPConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.files import make_folder
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.sweep import plan
from grokinterp.sweep.rows import summarize
from grokinterp.training import train
from grokinterp.training.evaluation import evaluate

_EVERY = 10  # steps from one checkpoint to the next
_MEMORIZING = 300  # steps of real training
_FREQUENCIES = (12, 25, 33, 41, 52)  # the last one dies after grokking
_SAMPLE_SECONDS = 0.2


def circuit(shapes: Mapping[str, Tensor], p: int, strengths: Mapping[int, float]) -> dict[str, Tensor]:
    """The weights of a 1-layer transformer that adds mod p by cosines (Nanda et al. 2023, section 4), set by hand.

    Attention is uniform; a neuron of frequency k and phase f computes ReLU(cos(w a + f) + cos(w b + f)) with
    w = 2 pi k / p, whose second harmonic over the phases is |cos(w (a - b) / 2)| cos(w (a + b) + 2 f).

    Args:
        shapes: parameters by name, whose shapes the weights get.
        p: modulus.
        strengths: amplitude of each frequency's cosine in the logits.
    """
    weights = {name: torch.zeros_like(w) for name, w in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    d_model, d_mlp = weights["blocks.0.mlp.W_in"].shape
    basis = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator, dtype=torch.float64))[0].float()
    width = 2 * len(strengths)
    # Each subspace has a cosine and a sine per frequency.
    embedded, attended, output = (basis[:, i * 32 : i * 32 + width] for i in range(3))
    operand = torch.arange(p)
    waves = torch.cat([_wave(2 * math.pi * k * operand / p) for k in strengths], dim=1)  # [p, width]
    weights["embed.W_E"][:p] = waves @ embedded.T
    weights["blocks.0.attn.W_V"][0, :, :width] = embedded
    weights["blocks.0.attn.W_O"][0, :width] = 3 * attended.T  # three positions, each with a third of the attention
    size = d_mlp // len(strengths)
    for i, strength in enumerate(strengths.values()):
        phase = 2 * math.pi * torch.arange(size) / size
        neurons, pair = slice(i * size, (i + 1) * size), slice(2 * i, 2 * i + 2)
        sign = torch.tensor([1.0, -1.0])
        weights["blocks.0.mlp.W_in"][:, neurons] = attended[:, pair] @ (sign * _wave(phase)).T
        amplitude = strength * 3 * math.pi / (2 * size)  # the second harmonic of |cos| is 4 / (3 pi), times size / 2
        weights["blocks.0.mlp.W_out"][neurons] = amplitude * (sign * _wave(2 * phase)) @ output[:, pair].T
    weights["unembed.W_U"][:, :p] = output @ waves.T
    return weights


def _wave(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def checkpoints_between(memorized: dict[str, Tensor], p: int, count: int) -> Iterator[dict[str, Tensor]]:
    """Weights that move from a memorizing network to the circuit, of which one frequency then fades."""
    generator = torch.Generator().manual_seed(1)
    for i in range(count):
        share = (i + 1) / count
        formed = 1 / (1 + math.exp(-20 * (share - 0.4)))
        fading = 1 / (1 + math.exp(60 * (share - 0.75)))
        strengths = {k: 16.0 * (fading if k == _FREQUENCIES[-1] else 1.0) for k in _FREQUENCIES}
        goal = circuit(memorized, p, strengths)
        yield {
            name: (1 - formed) * w + formed * goal[name] + 0.002 * torch.randn(w.shape, generator=generator)
            if ".b_" not in name
            else w
            for name, w in memorized.items()
        }


def make_run(folder: Path, checkpoints: int) -> None:
    """A run of `transformer-lens` that memorizes by training, and then moves to the circuit in a straight line."""
    base = preset("transformer-lens")
    trained = min(_MEMORIZING, _EVERY * (checkpoints // 2))
    schedule = ScheduleConfig(
        steps=_EVERY * (checkpoints - 1), evaluate_every=_EVERY, checkpoints=_EVERY, resume_every=10**9
    )
    start = replace(base, schedule=replace(schedule, steps=trained))
    memorizing = train(start, folder.with_name(f"{folder.name}-memorizing"), device="cpu", progress=False)
    config = replace(base, schedule=schedule)
    writer = RunWriter.create(folder, config, describe_environment("cpu", "synthetic"), memorizing.classification)
    for step in memorizing.steps:
        writer.save_checkpoint(step, memorizing.weights(step))
        writer.append_metrics({"step": step, **memorizing.metrics.loc[step].to_dict()})
    task, forward, last = memorizing.classification, memorizing.forward, memorizing.steps[-1]
    memorized = memorizing.weights(last)
    trains = config.model.trains
    rest = checkpoints - len(memorizing.steps)
    for i, weights in enumerate(checkpoints_between(memorized, task.p, rest), start=1):
        step = last + _EVERY * i
        writer.save_checkpoint(step, weights, wait=False)
        logits = forward.logits(weights, task.tokens)
        row = evaluate(task, logits, {name: w for name, w in weights.items() if trains(name)})
        writer.append_metrics({"step": step, **row})
        if i % 500 == 0:
            print(f"step {step:,}: test accuracy {row['test_accuracy']:.3f}", flush=True)
    writer.write_status(RunStatus.FINISHED, schedule.steps)


def make_sweep(folder: Path, runs: int) -> None:
    """A sweep whose runs have grokking curves of 200 evaluated steps and one small checkpoint."""
    base = RunConfig(
        task=TaskConfig(p=23, train_fraction=0.4),
        model=MLPConfig(width=32),
        schedule=ScheduleConfig(steps=10_000, evaluate_every=50, checkpoints=10_000, resume_every=10_000),
        loss_dtype="float32",
    )
    seeds = math.ceil(runs / 100)
    grid = {
        "optimizer.weight_decay": [round(0.1 * 1.6**i, 3) for i in range(10)],
        "task.train_fraction": [round(0.3 + 0.05 * i, 2) for i in range(10)],
        "model_seed": range(seeds),
    }
    sweep = plan(folder, base, grid=grid)
    sweep = replace(sweep, points=sweep.points[:runs])
    make_folder(folder)
    sweep.write()
    environment = describe_environment("cpu", "synthetic")
    example = train(
        replace(base, schedule=replace(base.schedule, steps=50)) if base.schedule else base,
        folder / ".example.tmp",
        device="cpu",
        progress=False,
    )
    weights = example.weights(0)
    for number, point in enumerate(sweep.points):
        config = point.config(sweep.base)
        path = folder / point.name
        writer = RunWriter.create(path, config, environment, example.classification)
        writer.save_checkpoint(10_000, weights)
        grokked = 50 * math.ceil(3000 / point.values["optimizer.weight_decay"] ** 0.7 / 50 * (1 + 0.01 * (number % 20)))
        lines = [json.dumps(_row(step, grokked)) for step in range(0, 10_001, 50)]
        (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        writer.write_status(RunStatus.FINISHED, 10_000, timing={"seconds": 10.0, "steps_per_second": 1000.0})
        summarize(Run.open(path))
        if number % 200 == 199:
            print(f"{number + 1:,} runs", flush=True)


def _row(step: int, grokked: int) -> dict[str, float]:
    memorized, generalized = (1 / (1 + math.exp(-(step - at) / (0.1 * at))) for at in (300, grokked))
    return {
        "step": step,
        "train_loss": 3.1 * (1 - memorized) + 1e-6,
        "test_loss": 3.1 + 4 * memorized * (1 - generalized) - 3.09 * generalized,
        "train_accuracy": memorized,
        "test_accuracy": 0.04 + 0.96 * generalized,
        "mirror_accuracy": 0.04 + 0.96 * generalized,
        "novel_accuracy": 0.04 + 0.96 * generalized,
        "weight_norm": 20 - 8 * generalized,
        "weight_rms": 0.3 - 0.1 * generalized,
    }


def watch(command: list[str]) -> int:
    """Run a command and print its wall time and the peak resident memory of it and its children, in MB.

    RSS counts a page that two processes share in both; PSS (Linux) divides it between them.
    """
    process = subprocess.Popen(command)
    peaks, started = {"Rss": 0, "Pss": 0}, time.monotonic()
    while process.poll() is None:
        family = processes(process.pid)
        for kind in peaks:
            peaks[kind] = max(peaks[kind], sum(kilobytes(pid, kind) for pid in family))
        time.sleep(_SAMPLE_SECONDS)
    memory = ", ".join(f"{kind.upper()} {kilobytes / 1024:,.0f} MB" for kind, kilobytes in peaks.items())
    print(f"peak of all processes: {memory}; {time.monotonic() - started:,.1f} s", file=sys.stderr)
    return process.returncode


def processes(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # the process has ended
        return []
    # Other threads may have started processes, too.
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += thread.read_text().split()
        except OSError:
            continue
    return [pid, *(descendant for child in set(children) for descendant in processes(int(child)))]


def kilobytes(pid: int, kind: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), 0)


def main() -> int:
    if sys.argv[1:2] == ["watch"]:
        return watch(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["run", "sweep"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoints", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=2000)
    options = parser.parse_args()
    if options.kind == "run":
        make_run(options.folder, options.checkpoints)
    else:
        make_sweep(options.folder, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
