"""The side of this package, and its floor: only the matrix products that cannot be avoided."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import loop_of
from grokinterp.config import RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.measures import (
    Snapshot,
    cosine_coefficients,
    excluded_loss_per_frequency,
    loss,
    neuron_frequencies,
    restricted_loss,
)
from grokinterp.measures.spectrum import embedding_power
from grokinterp.models.memory import keep_freed_memory
from grokinterp.models.products import product
from grokinterp.models.rows import row_chunks
from grokinterp.runs.run import Run


def mainline(p: int = 113, d_model: int = 128, d_mlp: int = 512, n_layers: int = 1, fraction: float = 0.3) -> RunConfig:
    """The `transformer-lens` preset in another size, with the loss in float32."""
    config = preset("transformer-lens")
    return replace(
        config,
        task=replace(config.task, p=p, train_fraction=fraction),
        model=TransformerConfig(n_layers=n_layers, d_model=d_model, d_mlp=d_mlp),
        loss_dtype="float32",
    )


def training_step(
    p: int = 113,
    d_model: int = 128,
    d_mlp: int = 512,
    n_layers: int = 1,
    fraction: float = 0.3,
    weights_from: str | None = None,
    compiled: bool = False,
    loss_dtype: Any = "float32",
) -> Callable[[], Any]:
    config = replace(mainline(p, d_model, d_mlp, n_layers, fraction), loss_dtype=loss_dtype)
    return loop_of(config, weights_from, compiled).update


def training_loop() -> Callable[[], Any]:
    """A hundred steps as `train` makes them, including one evaluation and one checkpoint."""
    loop = loop_of(replace(mainline(), schedule=ScheduleConfig(steps=10**6)))

    def steps() -> None:
        for _ in range(100):
            loop.update()
            loop.evaluate_and_save()

    return steps


def write_checkpoint() -> Callable[[], Any]:
    loop = loop_of(mainline())
    return lambda: loop.bookkeeper.writer.save_checkpoint(loop.step, loop.weights)


def steps_and_checkpoints(steps: int, every: int | None) -> Callable[[], Any]:
    """Some updates, with a checkpoint every `every` updates."""
    loop = loop_of(mainline())

    def work() -> None:
        for i in range(steps):
            loop.update()
            if every is not None and i % every == 0:
                loop.bookkeeper.writer.save_checkpoint(loop.step, loop.weights, wait=False)

    return work


def mlp_step(compiled: bool = False) -> Callable[[], Any]:
    return loop_of(preset("psi"), compiled=compiled).update


def training_floor(
    p: int = 113, d_model: int = 128, d_mlp: int = 512, n_layers: int = 1, fraction: float = 0.3
) -> Callable[[], Any]:
    """The nine products of a folded step, forward and backward, on existing arrays."""
    keep_freed_memory()
    assert n_layers == 1
    n = int(p * p * fraction)
    z, hidden, logits = torch.randn(n, d_model), torch.randn(n, d_mlp), torch.randn(n, p)
    M1, M2, M3 = torch.randn(d_model, d_mlp), torch.randn(d_mlp, p), torch.randn(d_model, p)
    zT, logitsT = z.T.contiguous(), logits.T.contiguous()

    def products() -> None:
        for rows in row_chunks(n, d_mlp, z.device):
            product(z[rows], M1), product(hidden[rows], M2), product(z[rows], M3)
            product(logits[rows], M2.T), product(logits[rows], M3.T), product(hidden[rows], M1.T)
        product(zT, hidden), product(logitsT, hidden), product(logitsT, z)

    return products


def mlp_floor(p: int = 97, width: int = 128, fraction: float = 0.5) -> Callable[[], Any]:
    """The products of both layers after the first, forward and backward."""
    keep_freed_memory()
    n = int(p * p * fraction)
    hidden, logits = torch.randn(n, width), torch.randn(n, p)
    W, U = torch.randn(width, width), torch.randn(width, p)
    hiddenT, logitsT = hidden.T.contiguous(), logits.T.contiguous()

    def products() -> None:
        product(hidden, W), product(hidden, U), product(logits, U.T), product(hidden, W.T)
        product(hiddenT, hidden), product(logitsT, hidden)

    return products


def forward(run_path: str, step: int) -> Callable[[], Any]:
    """Logits of every pair in float64, computed from weights."""
    keep_freed_memory()
    run = Run.open(run_path)
    weights, tokens, path = run.weights(step), run.task.tokens, run.forward
    return lambda: path.logits_by_rows(weights, tokens, torch.float64)


def forward_floor(p: int = 113, d_model: int = 128, d_mlp: int = 512) -> Callable[[], Any]:
    keep_freed_memory()
    z, hidden = torch.randn(p * p, d_model), torch.randn(p * p, d_mlp)
    M1, M2, M3 = torch.randn(d_model, d_mlp), torch.randn(d_mlp, p), torch.randn(d_model, p)

    def products() -> None:
        for rows in row_chunks(p * p, d_mlp, z.device):
            product(z[rows], M1), product(hidden[rows], M2), product(z[rows], M3)

    return products


def analysis(run_path: str, step: int, frequencies: list[int], neurons: bool) -> Callable[[], Any]:
    """The quantities of `plain.analysis`, with the excluded loss of every frequency, not only the key ones."""
    keep_freed_memory()
    run = Run.open(run_path)

    def analyze() -> dict[str, Any]:
        snapshot: Snapshot = run.snapshot(step, neurons=neurons)
        results: dict[str, Any] = {
            "loss": loss(snapshot),
            "train": loss(snapshot, subset="train"),
            "test": loss(snapshot, subset="test"),
            "embedding": embedding_power(snapshot),
            "restricted": [restricted_loss(snapshot, frequencies, subset=s) for s in ("all", "train", "test")],
            "excluded": excluded_loss_per_frequency(snapshot),
            "coefficients": cosine_coefficients(snapshot),
        }
        if neurons:
            results["neurons"] = neuron_frequencies(snapshot)
        return results

    return analyze


def analysis_floor(neurons: bool, p: int = 113, d_mlp: int = 512) -> Callable[[], Any]:
    """What no analysis of a checkpoint can avoid, on existing arrays, in float64 but for the forward pass.

    The products of the forward pass; one conversion and one exponential of every logit; its sums by a + b; the product
    that gives the excluded losses of all frequencies. With neurons, one conversion of every neuron on every pair, its
    square, and its sums by a + b, a - b, a and b.
    """
    products, logits = forward_floor(p, d_mlp=d_mlp), torch.randn(p * p, p)
    components, pairs = torch.rand(p, p, p // 2, dtype=torch.float64), torch.arange(p * p)
    hidden, lines = torch.randn(p * p, d_mlp), [(pairs // p + sign * pairs) % p for sign in (1, -1)]
    sums = torch.zeros(p, d_mlp, dtype=torch.float64)

    def work() -> None:
        products()
        exact = logits.double()
        exact.view(p, p, p).sum(dim=1)
        torch.bmm(exact.exp_().view(p, p, p), components)
        if not neurons:
            return
        for rows in pairs.split(4 * p):
            part = hidden[rows[0] : rows[-1] + 1].double()
            for line in lines:
                sums.index_add_(0, line[rows], part)
            grid = part.view(-1, p, d_mlp)
            grid.sum(dim=0), grid.sum(dim=1), part.square_().sum(dim=0)

    return work


def tiny_runs(runs: int) -> list[RunConfig]:
    config = mainline(31, 64, 128, fraction=0.6)
    return [replace(config, task=TaskConfig(p=31, train_fraction=0.6), model_seed=seed) for seed in range(runs)]


def runs_at_once(runs: int, steps: int = 200, device: str = "cpu") -> Callable[[], Any]:
    """`train_many` on several tiny runs for `steps` updates."""
    from grokinterp.training import train_many

    configs = [_short(config, steps) for config in tiny_runs(runs)]

    def work() -> None:
        folder = Path(tempfile.mkdtemp())
        train_many(configs, [folder / str(i) for i in range(runs)], device=device, progress=False)

    return work


def runs_in_turn(runs: int, steps: int = 200) -> Callable[[], Any]:
    """`train` on the same runs, one after another."""
    from grokinterp.training import train

    configs = [_short(config, steps) for config in tiny_runs(runs)]

    def work() -> None:
        folder = Path(tempfile.mkdtemp())
        for i, config in enumerate(configs):
            train(config, folder / str(i), progress=False)

    return work


def _short(config: RunConfig, steps: int) -> RunConfig:
    return replace(config, schedule=ScheduleConfig(steps, evaluate_every=steps, checkpoints=steps, resume_every=steps))
