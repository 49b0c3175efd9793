"""The networks of Manir and Rupa 2026 (arXiv:2603.25009), as published and in miniature, as run configurations.

The miniatures keep what the effect rests on: a summed embedding drawn from N(0, 1), full-batch SGD with momentum 0.9
and coupled decay, and their transformer with AdamW. They are a network of width 64 on p = 31, half of whose pairs are
trained on, at about ten times the learning rate: T_grok is some 3 / (η_eff λ) steps, with η_eff = η / (1 - momentum),
where the published one is some 7 / (η_eff λ).
"""

from dataclasses import replace

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset

SOURCE = "Manir and Rupa 2026, arXiv:2603.25009"
DECAY, SEED, ACTIVATION = "optimizer.weight_decay", "model_seed", "model.activation"

# Every run stops at 1.1 T_grok(0.99): the published ones went on to the last step, which changes no time.
_STOP = 1.1


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
    """A flat MLP at the published size: p = 97, 20 % of the pairs, memorized within 60,000 steps or not at all.

    Args:
        depth: number of hidden layers.
        width: of each, and of the embedding.
        lr: learning rate η.
        decay: weight decay λ.
        activation: `gelu`, `relu` or `tanh`.
        steps: the budget.
        operation: `add`, or `multiply_nonzero`.
    """
    base = preset("manir")
    return replace(
        base,
        task=_task(97, 0.2, operation),
        model=MLPConfig(input="sum", depth=depth, width=width, activation=activation),  # pyright: ignore[reportArgumentType]
        optimizer=_sgd(lr, decay),
        schedule=_schedule(steps, 100, 60_000),
    )


def residual(width: int = 512, *, lr: float = 1e-2, decay: float = 2e-3, steps: int = 400_000) -> RunConfig:
    """The residual MLP of depth 8 with LayerNorm and clipped gradients; no rate or decay is printed: Table 1's."""
    base = network(8, width, lr=lr, decay=decay, steps=steps)
    return replace(base, model=_residual(width), optimizer=_sgd(lr, decay, clip=1.0))


def transformer(decay: float, *, steps: int = 400_000, operation: str = "add") -> RunConfig:
    """The encoder at the published size: one layer, d_model 512, AdamW at 1e-3, clipped gradients."""
    base = preset("manir-transformer")
    assert base.optimizer is not None
    return replace(
        base,
        task=_task(97, 0.2, operation),
        optimizer=replace(base.optimizer, weight_decay=decay),
        schedule=_schedule(steps, 100, 60_000),
    )


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

    Args: those of `network`, and p, the share of pairs trained on, the steps between two evaluations, and the steps in
        which it may memorize.
    """
    return RunConfig(
        task=_task(p, fraction, operation),
        model=MLPConfig(input="sum", depth=depth, width=width, activation=activation),  # pyright: ignore[reportArgumentType]
        optimizer=_sgd(lr, decay),
        schedule=_schedule(steps, every, memorization_budget, checkpoints="log:6"),
        loss_dtype="float32",
    )


def small_residual(*, lr: float, decay: float, steps: int, width: int = 64) -> RunConfig:
    """The residual MLP of depth 8 in miniature."""
    base = small_network(8, lr=lr, decay=decay, steps=steps, width=width)
    return replace(base, model=_residual(width), optimizer=_sgd(lr, decay, clip=1.0))


def small_transformer(decay: float, *, steps: int, operation: str = "add") -> RunConfig:
    """The encoder in miniature: d_model 32, and ten times the learning rate."""
    base = preset("manir-transformer")
    assert isinstance(base.model, TransformerConfig)
    assert base.optimizer is not None
    return replace(
        base,
        task=_task(31, 0.5, operation),
        model=replace(base.model, d_model=32, d_mlp=128),
        optimizer=replace(base.optimizer, lr=1e-2, weight_decay=decay),
        schedule=_schedule(steps, 20, None, checkpoints="log:6"),
    )


def _task(p: int, fraction: float, operation: str) -> TaskConfig:
    return TaskConfig(operation=operation, p=p, train_fraction=fraction)  # pyright: ignore[reportArgumentType]


def _sgd(lr: float, decay: float, clip: float | None = None) -> OptimizerConfig:
    return OptimizerConfig(name="sgd", lr=lr, momentum=0.9, weight_decay=decay, decay="coupled", clip=clip)


def _residual(width: int) -> MLPConfig:
    return MLPConfig(input="sum", depth=8, width=width, activation="gelu", architecture="residual")


def _schedule(
    steps: int, every: int, memorization_budget: int | None, checkpoints: str = "log:20+every:50000"
) -> ScheduleConfig:
    return ScheduleConfig(
        steps=steps,
        evaluate_every=every,
        checkpoints=checkpoints,
        stop_when_grokked=True,
        stop_factor=_STOP,
        memorization_budget=memorization_budget,
    )
