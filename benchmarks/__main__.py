"""`python -m benchmarks`: runs all benchmarks, prints a table, and writes results.json.

It takes about a quarter of an hour on two cores. Run nothing else on the machine meanwhile.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import whole
from benchmarks.ours import mainline
from benchmarks.timing import Side, interleave, plain_row, row
from grokinterp.experiments import manir
from grokinterp.models.products import has_bf16_products, library
from grokinterp.runs.environment import processor
from grokinterp.runs.run import Run

RESULTS = Path(__file__).parent / "results.json"
KEYS = [9, 12, 33, 38]
MAINLINE = (113, 128, 512, 1, 0.3)
SMALL = (31, 64, 128, 1, 0.6)
SIZES = [(31, 64, 128, 0.6), (53, 64, 256, 0.5), (53, 128, 512, 0.3), (113, 64, 256, 0.3), (113, 256, 1024, 0.3)]
Rows = Iterator[dict[str, Any]]


def step_sides(p: int, d_model: int, d_mlp: int, layers: int, fraction: float) -> dict[str, Side]:
    shape = (p, d_model, d_mlp, layers, fraction)
    sides = {
        "ours": Side("benchmarks.ours:training_step", shape, 3),
        "reference": Side("benchmarks.plain:training_step", shape),
    }
    return sides | ({"floor": Side("benchmarks.ours:training_floor", shape, 3)} if layers == 1 else {})


def train_steps(run: Run, rounds: int) -> Rows:
    """One step of the mainline run: at initialization and late, compiled, and with the loss in float64."""
    late = f"{run.path}@{late_step(run)}"
    shape = MAINLINE
    timed = interleave(step_sides(*shape), rounds)
    yield row("train_step", "ms", timed)
    for name, peak in timed.memory.items():
        if name != "floor":
            yield plain_row(f"train_memory_{name}", "MB", peak)
    with tempfile.TemporaryDirectory() as cold:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cold
        compiled = Side("benchmarks.ours:training_step", (*shape, None, True), 3)
        timed = interleave({"ours": compiled, "reference": step_sides(*shape)["reference"]}, rounds)
        yield row("train_step_compiled", "ms", timed)
        yield plain_row("compile_time_first", "s", timed.first["ours"])
        yield plain_row("compile_time_again", "s", interleave({"ours": compiled}, 1).first["ours"])
    in_float64 = Side("benchmarks.ours:training_step", (*shape, None, False, "float64"), 3)
    yield row("train_step_float64_loss", "ms", interleave({**step_sides(*shape), "ours": in_float64}, rounds))
    ours, reference = (f"benchmarks.{side}:training_step" for side in ("ours", "plain"))
    timed = interleave(
        {
            "ours": Side(ours, (*shape, late), 3),
            "early": Side(ours, shape, 3),
            "reference": Side(reference, (*shape, late)),
            "reference_early": Side(reference, shape),
        },
        rounds,
    )
    yield row("train_step_late", "ms", timed)
    ratios = timed.ratios("ours", "early")
    yield row("train_step_late_over_early", "late / early", timed, ratio=ratios) | {
        "ours": None,
        "reference": None,
    }


def late_step(run: Run) -> int:
    losses = run.metrics["train_loss"]
    return max(step for step in run.steps if step in losses.index and losses[step] < 1e-6)


def loops(run: Run, rounds: int) -> Rows:
    shape = (*MAINLINE, None, True)
    timed = interleave(
        {"ours": Side("benchmarks.ours:training_loop"), "reference": Side("benchmarks.plain:training_step", shape, 3)},
        max(rounds // 2, 3),
    )
    timed.rounds["ours"] = [milliseconds / 100 for milliseconds in timed.rounds["ours"]]
    yield row("train_loop", "ms per step", timed)
    sides = {
        "checkpointing": Side("benchmarks.ours:steps_and_checkpoints", (50, 10)),
        "ours": Side("benchmarks.ours:steps_and_checkpoints", (50, None)),
    }
    timed = interleave(sides, 2 * rounds)
    shares = [ratio - 1 for ratio in timed.ratios("checkpointing", "ours")]
    milliseconds = interleave({"ours": Side("benchmarks.ours:write_checkpoint", (), 10)}, rounds).typical("ours") or 0.0
    yield row("checkpoint_share", "of training time, one every 10 steps", timed, ratio=shares) | {"ours": None}
    yield plain_row("checkpoint_write", "ms, waited for", milliseconds)


def other_models(run: Run, rounds: int) -> Rows:
    yield row("train_step_2layer", "ms", interleave(step_sides(113, 128, 512, 2, 0.3), rounds))
    sides = {"ours": Side("benchmarks.ours:mlp_step", (), 5), "reference": Side("benchmarks.plain:mlp_step", (), 5)}
    yield row("mlp_step", "ms", interleave({**sides, "floor": Side("benchmarks.ours:mlp_floor", (), 5)}, rounds))
    if has_bf16_products():
        for name, config in (
            ("manir_depth4_bf16", manir.network(4, 512, lr=0.01, decay=0.002)),
            ("mainline_step_bf16", mainline(*MAINLINE)),
        ):
            in_float32, in_bf16 = (Side("step:update", (config.to_json(), kind), 5) for kind in ("float32", "bf16"))
            timed = interleave({"ours": in_bf16, "reference": in_float32}, rounds)
            yield row(name, "ms; plain: float32", timed)


def checkpoints(run: Run, rounds: int) -> Rows:
    """The analysis of one checkpoint, and the forward pass alone."""
    step = run.steps[-1]
    for name, neurons, *as_published in (
        ("analyze_checkpoint", False, True, True),
        ("analyze_checkpoint_keys_only", False, False, True),
        ("analyze_checkpoint_neurons", True, True, True),
        ("analyze_checkpoint_neurons_hoisted", True, True, False),
    ):
        arguments = (str(run.path), step, KEYS, neurons)
        sides = {
            "ours": Side("benchmarks.ours:analysis", arguments, 5),
            "reference": Side("benchmarks.plain:analysis", (*arguments, *as_published)),
            "floor": Side("benchmarks.ours:analysis_floor", (neurons,), 5),
        }
        timed = interleave(sides, max(rounds // 3, 3))
        yield row(name, "ms", timed)
        if name == "analyze_checkpoint_neurons":
            for side in ("ours", "reference"):
                yield plain_row(f"analyze_memory_{side}", "MB", timed.memory[side])
    timed = interleave(
        {
            "ours": Side("benchmarks.ours:forward", (str(run.path), step), 3),
            "floor": Side("benchmarks.ours:forward_floor", (), 3),
        },
        rounds,
    )
    yield row("forward_over_floor", "ms", timed, ratio=timed.ratios("ours", "floor"))


def growth(run: Run, rounds: int) -> Rows:
    for p, d_model, d_mlp, fraction in [*SIZES, (227, 128, 512, 0.3)]:
        timed = interleave(step_sides(p, d_model, d_mlp, 1, fraction), max(rounds // 3, 3))
        yield row(f"train_step_p{p}_d{d_model}_m{d_mlp}", "ms", timed)
    for layers in (2, 3):
        timed = interleave(step_sides(53, 128, 512, layers, 0.3), max(rounds // 3, 3))
        yield row(f"train_step_p53_{layers}layers", "ms", timed)
    for runs in (1, 4, 16):
        sides = {
            "ours": Side("benchmarks.ours:runs_at_once", (runs,)),
            "reference": Side("benchmarks.ours:runs_in_turn", (runs,)),
        }
        timed = interleave(sides, 3)
        for name in timed.rounds:
            timed.rounds[name] = [milliseconds / 200 / runs for milliseconds in timed.rounds[name]]
        yield row(f"runs_at_once_{runs}", "ms per run and step", timed)


def since(checkout: str, rounds: int) -> Rows:
    """The same work with the code of another commit, which is the plain side."""
    commit = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    small = mainline(*SMALL)
    stacked = Side("benchmarks.ours:runs_at_once", (16, 100))
    for name, config, calls in (
        ("small_single", small, 30),
        ("small_stacked", small, 30),
        ("mainline_step", mainline(*MAINLINE), 3),
        ("manir_transformer", manir.transformer(0.01), 1),
        ("manir_residual", manir.residual(), 1),
    ):
        side = Side("step:update", (config.to_json(),), calls)
        ours = stacked if name == "small_stacked" else side  # against single runs
        timed = interleave({"ours": ours, "reference": replace(side, checkout=checkout)}, rounds)
        if ours is stacked:
            timed.rounds["ours"] = [milliseconds / 1600 for milliseconds in timed.rounds["ours"]]
        yield row(name, f"ms per run and step; plain: commit {commit}", timed)


PARTS: dict[str, Callable[[Run, int], Rows]] = {
    "train": train_steps,
    "loops": loops,
    "models": other_models,
    "checkpoints": checkpoints,
    "growth": growth,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only", nargs="*", choices=[*PARTS, "whole"], help="parts to measure; the other rows are kept"
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="an existing mainline run to use instead of training one (omits mainline_to_99)",
    )
    parser.add_argument(
        "--before",
        help="the checkout of an earlier commit, as made by `git worktree add`: measure this code against it, and "
        "nothing else unless --only names it",
    )
    options = parser.parse_args()
    parts = options.only or ([] if options.before else [*PARTS, "whole"])
    machines = json.loads(RESULTS.read_text())["machines"] if RESULTS.exists() else {}
    keeps = options.only or options.before
    old_rows = machines.get(machine_name(), {"rows": []})["rows"] if keeps else []
    new_rows: list[dict[str, Any]] = []
    if options.before:
        new_rows += show(since(options.before, options.rounds))
    if parts:
        with tempfile.TemporaryDirectory() as folder:
            path = options.run or Path(folder) / "mainline"
            if options.run is None:
                new_rows += show(whole.mainline(path))
            run = Run.open(path)
            for name in PARTS:
                if name in parts:
                    new_rows += show(PARTS[name](run, options.rounds))
            if "whole" in parts:
                new_rows += show(whole.rows(run))
    names = {line["name"] for line in new_rows}
    rows = [line for line in old_rows if line["name"] not in names] + new_rows
    machines[machine_name()] = {"machine": machine(), "rows": rows}
    RESULTS.write_text(json.dumps({"machines": machines}, indent=1) + "\n")
    return 0


def show(rows: Rows) -> list[dict[str, Any]]:
    """Print rows as they are measured, since some take minutes, and return them."""
    lines = []
    for line in rows:
        lines.append(line)
        table = Table(box=None, show_header=len(lines) == 1, pad_edge=False)
        for name in ("name", "ours", "reference", "floor", "ratio", "spread", "unit"):
            table.add_column(name, width=28 if name in ("name", "unit") else 14, no_wrap=True)
        table.add_row(*("" if line[c.header] is None else str(line[c.header]) for c in table.columns))
        Console(width=140, file=sys.stdout).print(table)
    return lines


def machine_name() -> str:
    """The processor and its vector instructions, which cloud machines of the same name differ in."""
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"


def machine() -> str:
    cuda = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no CUDA"
    compiler = "a C++ compiler" if shutil.which("g++") or shutil.which("clang++") else "no C++ compiler"
    return (
        f"{machine_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{cuda}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, products by {library()}, {compiler}"
    )


if __name__ == "__main__":
    sys.exit(main())
