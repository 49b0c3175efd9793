"""`python -m benchmarks.measures`: what each measure adds to the analysis of a checkpoint of run42.

It writes `grokinterp/measures/costs.json`, which `grokinterp measures` shows, and prints by how much the measures that
take the circuit apart, as far as they are on by default, lengthen an analysis. It takes half a minute on one thread.
"""

import json
import os
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from grokinterp.analysis.measure_calls import evaluate, measure_call
from grokinterp.measures import registered
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.environment import processor
from grokinterp.runs.run import Run

ROOT = Path(__file__).parents[1]
COSTS = ROOT / "grokinterp" / "measures" / "costs.json"
KEYS = (8, 14, 21)
CIRCUIT = (
    *("idealized_accuracy", "formula_explained", "gini_unembedding", "mean_ipr"),
    *("activation_sparsity", "distance_irrelevance", "circularity"),
)


def cost_of(run: Run, names: list[str], steps: list[int]) -> float:
    """Median over checkpoints of the milliseconds that measures take on one snapshot, together."""
    times: list[float] = []
    calls = [measure_call(name, KEYS) for name in names]
    for step in steps:
        snapshot = run.snapshot(step, neurons=True)
        start = perf_counter()
        for call in calls:
            evaluate(call, snapshot)
        times.append(1000 * (perf_counter() - start))
    return median(times)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as analyze does
    run = Run.open(ROOT / "checkpoints" / "run42")
    steps = run.steps[::8]
    cost_of(run, list(registered()), steps[:2])  # warms up
    costs = {name: round(cost_of(run, [name], steps), 2) for name in registered()}
    content = {"run": "run42", "processor": processor(), "threads": 1, "milliseconds": costs}
    COSTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    others = [name for name, entry in registered().items() if not entry.costly and name not in CIRCUIT]
    rounds = []
    for _ in range(5):
        loading = median(_loading(run, steps))
        rounds.append((loading + cost_of(run, [*others, *CIRCUIT], steps)) / (loading + cost_of(run, others, steps)))
    print(f"default measures of the circuit: {median(rounds):.2f} times the analysis of a checkpoint without them")
    print(f"processor: {processor()}, load {os.getloadavg()[0]:.1f}")


def _loading(run: Run, steps: list[int]) -> list[float]:
    times: list[float] = []
    for step in steps:
        start = perf_counter()
        run.snapshot(step, neurons=True)
        times.append(1000 * (perf_counter() - start))
    return times


if __name__ == "__main__":
    main()
