"""Run configurations for the networks of Manir and Rupa 2026 (arXiv:2603.25009), as published and in miniature.

The miniatures keep the ingredients of the effect: a summed embedding drawn from N(0, 1), full-batch SGD with momentum
0.9 and coupled decay, and the paper's transformer with AdamW. They use width 64, p = 31, half of the pairs for
training, and about ten times the learning rate. Their T_grok is about 3 / (η_eff λ) steps, with
η_eff = η / (1 - momentum); that of the published networks is about 7 / (η_eff λ).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.recipe import Published, changed, until_grokked

SOURCE = "Manir and Rupa 2026, arXiv:2603.25009"
DECAY, SEED, ACTIVATION = "optimizer.weight_decay", "model_seed", "model.activation"

# The delays of the MLP of depth 4 and width 512 at λ = 5e-4, seed by seed.
MLP_DELAYS = ("54,000", "40,000", "42,000", "48,000", "44,000")

# Every run stops at 1.1 T_grok(0.99), and a run with a memorization budget when it has not memorized within that budget
# or can no longer do so. The published runs continued to the last step, which changes no reported time or outcome.
_STOP = 1.1
_BUDGET = 60_000


def network(
    depth: int,
    width: int,
    *,
    lr: float,
    decay: float,
    activation: str = "gelu",
    steps: int = 400_000,
    operation: str = "add",
) -> RunConfig:
    """A flat MLP at the published size: p = 97, 20 % of the pairs, and 60,000 steps to memorize them.

    Args:
        depth: number of hidden layers.
        width: width of each layer and of the embedding.
        lr: learning rate η.
        decay: weight decay λ.
        activation: `gelu`, `relu` or `tanh`.
        steps: maximum number of steps.
        operation: `add` or `multiply_nonzero`.
    """
    base = preset("manir")
    return replace(
        base,
        task=_task(97, 0.2, operation),
        model=MLPConfig(input="sum", depth=depth, width=width, activation=activation),  # pyright: ignore[reportArgumentType]
        optimizer=_sgd(lr, decay),
        schedule=_published_schedule(steps),
    )


def residual(width: int = 512, *, lr: float = 1e-2, decay: float = 2e-3, steps: int = 400_000) -> RunConfig:
    """The residual MLP of depth 8 with LayerNorm and clipped gradients.

    The paper prints no learning rate or weight decay for it; the defaults are those of Table 1.
    """
    base = network(8, width, lr=lr, decay=decay, steps=steps)
    return replace(base, model=_residual(width), optimizer=_sgd(lr, decay, clip=1.0))


def transformer(decay: float, *, steps: int = 400_000, operation: str = "add") -> RunConfig:
    """The encoder at the published size: one layer, d_model 512, AdamW at 1e-3, clipped gradients."""
    base = changed(preset("manir-transformer"), {DECAY: decay})
    return replace(base, task=_task(97, 0.2, operation), schedule=_published_schedule(steps))


def small_network(
    depth: int,
    *,
    lr: float,
    decay: float,
    steps: int,
    width: int = 64,
    activation: str = "gelu",
    operation: str = "add",
    p: int = 31,
    fraction: float = 0.5,
    every: int = 50,
    memorization_budget: int | None = None,
) -> RunConfig:
    """A flat MLP in miniature.

    Args:
        depth: number of hidden layers.
        lr: learning rate η.
        decay: weight decay λ.
        steps: maximum number of steps.
        width: width of each layer and of the embedding.
        activation: `gelu`, `relu` or `tanh`.
        operation: `add` or `multiply_nonzero`.
        p: modulus.
        fraction: share of the pairs used for training.
        every: steps between two evaluations.
        memorization_budget: steps within which the network must memorize; a network that does not ends there, or
            before if its weights have decayed.
    """
    return RunConfig(
        task=_task(p, fraction, operation),
        model=MLPConfig(input="sum", depth=depth, width=width, activation=activation),  # pyright: ignore[reportArgumentType]
        optimizer=_sgd(lr, decay),
        schedule=until_grokked(steps, every, _STOP, checkpoints="log:6", **_budget(memorization_budget, steps)),
        loss_dtype="float32",
    )


def small_residual(*, lr: float, decay: float, steps: int, width: int = 64, fraction: float = 0.5) -> RunConfig:
    """The residual MLP of depth 8 in miniature."""
    base = small_network(8, lr=lr, decay=decay, steps=steps, width=width, fraction=fraction)
    return replace(base, model=_residual(width), optimizer=_sgd(lr, decay, clip=1.0))


def small_transformer(decay: float, *, steps: int, operation: str = "add") -> RunConfig:
    """The encoder in miniature: d_model 32 and ten times the learning rate."""
    smaller = {"model.d_model": 32, "model.d_mlp": 128, "optimizer.lr": 1e-2, DECAY: decay}
    return replace(
        changed(preset("manir-transformer"), smaller),
        task=_task(31, 0.5, operation),
        schedule=until_grokked(steps, 20, _STOP, checkpoints="log:6"),
    )


def delays_by_seed(
    network: str, arm: str, delays: Iterable[str], where: Mapping[str, str] | None = None
) -> tuple[Published, ...]:
    """The published delays of one network, seed by seed; `where` selects its runs in the arm."""
    return tuple(
        Published(f"delay, {network}, seed {seed}", delay, arm, {**(where or {}), SEED: seed}, "delay_0.99")
        for seed, delay in enumerate(delays)
    )


def _task(p: int, fraction: float, operation: str) -> TaskConfig:
    return TaskConfig(operation=operation, p=p, train_fraction=fraction)  # pyright: ignore[reportArgumentType]


def _sgd(lr: float, decay: float, clip: float | None = None) -> OptimizerConfig:
    return OptimizerConfig(name="sgd", lr=lr, momentum=0.9, weight_decay=decay, decay="coupled", clip=clip)


def _residual(width: int) -> MLPConfig:
    return MLPConfig(input="sum", depth=8, width=width, activation="gelu", architecture="residual")


def _published_schedule(steps: int) -> ScheduleConfig:
    return until_grokked(steps, 100, _STOP, checkpoints="log:20+every:50000", **_budget(_BUDGET, steps))


def _budget(steps: int | None, total: int) -> dict[str, Any]:
    """The fields of a schedule for a memorization budget; a run that is not longer than it makes all of its steps."""
    ends = steps is not None and steps < total
    return {"memorization_budget": steps, "stop_when_not_memorized": ends, "stop_when_dead": ends}
