"""Shared by the tests of ensembles: configurations, their variants, and comparisons of runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.runs.run import Run

P = 7
SCHEDULE = ScheduleConfig(steps=30, evaluate_every=10, checkpoints=10, resume_every=10)
TRANSFORMER = TransformerConfig(d_model=16, n_heads=2, d_mlp=32)
MLP = MLPConfig(width=16, depth=2)
ADAMW = OptimizerConfig(lr=3e-3, weight_decay=0.5)
MOMENTUM = OptimizerConfig(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-2)


def config_of(model: Any, optimizer: OptimizerConfig = ADAMW, **more: Any) -> RunConfig:
    task = TaskConfig(p=P, train_fraction=0.5)
    return RunConfig(**({"task": task, "model": model, "optimizer": optimizer, "schedule": SCHEDULE} | more))


NOISY = TaskConfig(p=P, train_fraction=0.5, label_noise=0.2)
KINDS = {
    "transformer": config_of(TRANSFORMER),
    "transformer, trained biases": config_of(replace(TRANSFORMER, biases="trained", init="torch", activation="gelu")),
    "transformer without =": config_of(replace(TRANSFORMER, equals_token=False, biases="mlp")),
    "transformer, class of =, float32 loss": config_of(replace(TRANSFORMER, equals_logit=True), loss_dtype="float32"),
    "transformer, two layers, LayerNorm": config_of(replace(TRANSFORMER, n_layers=2, normalization="layernorm")),
    "transformer, squared error, noisy labels": config_of(TRANSFORMER, loss="mse", task=NOISY),
    "mlp, minibatches": config_of(MLP, replace(ADAMW, batch_size=7)),
    "mlp, embedded, minibatches": config_of(replace(MLP, input="concat"), replace(ADAMW, batch_size=7)),
    "mlp, residual": config_of(replace(MLP, input="sum", architecture="residual")),
    "mlp, squared error, float32": config_of(MLP, loss="mse", loss_dtype="float32"),
    "adamw, warm-up": config_of(MLP, replace(ADAMW, warmup_steps=12)),
    "adamw, clip": config_of(MLP, replace(ADAMW, clip=0.05)),
    "adam": config_of(MLP, OptimizerConfig(name="adam", lr=3e-3, weight_decay=0.01)),
    "adam, everything": config_of(
        MLP, OptimizerConfig(name="adam", lr=3e-3, weight_decay=0.01, warmup_steps=12, clip=0.05, batch_size=7)
    ),
    "sgd": config_of(MLP, replace(MOMENTUM, momentum=0.0)),
    "sgd, momentum": config_of(MLP, replace(MOMENTUM, batch_size=7)),
    "sgd, decoupled": config_of(MLP, replace(MOMENTUM, decay="decoupled", warmup_steps=12, clip=0.5)),
}


def variants(config: RunConfig, count: int = 3) -> list[RunConfig]:
    """Runs of one shape with different seeds, learning rates, weight decays and sizes of the initialization."""
    given = config.optimizer
    assert given is not None
    return [
        replace(
            config,
            model_seed=i,
            task=replace(config.task, data_seed=10 + i, split=("torch", "python", "numpy")[i % 3]),
            model=replace(config.model, init_scale=1.0 - 0.1 * i),
            optimizer=replace(given, lr=given.lr * (1 + 0.5 * i), weight_decay=given.weight_decay * abs(2 - i)),
        )
        for i in range(count)
    ]


def lasting(config: RunConfig, steps: int, **schedule: Any) -> RunConfig:
    assert config.schedule is not None
    return replace(config, schedule=replace(config.schedule, steps=steps, **schedule))


def places(folder: Path, count: int) -> list[Path]:
    return [folder / f"member{i}" for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def result(run: Run) -> dict[str, bytes]:
    """Metrics, checkpoints, and the resume point."""
    files = [run.path / "metrics.jsonl", run.path / "resume.safetensors", *(run.path / "weights").glob("*.safetensors")]
    return {file.name: file.read_bytes() for file in files}


def distances(found: Run, expected: Run, step: int = 30) -> dict[str, float]:
    """Distances between the weights of two runs, in units of the distance that training has moved each tensor."""
    start, ours, theirs = expected.weights(0), found.weights(step), expected.weights(step)
    assert list(ours) == list(theirs)
    assert all(torch.equal(weight, start[name]) for name, weight in found.weights(0).items())
    moved = {name: (theirs[name] - start[name]).norm().item() for name in theirs}
    return {
        name: (ours[name] - theirs[name]).norm().item() / moved[name]
        if moved[name]
        else float(not torch.equal(ours[name], start[name]))
        for name in theirs
    }


def assert_same_weights(found: Run, expected: Run, step: int = 30) -> None:
    """Checks that weights are equal up to rounding.

    A float32 rounding is 6e-8 of the number. After 30 updates its effect is around 1e-6 of the distance moved (the
    tolerance is ten times that), whereas a wrong hyperparameter or batch causes 1e-2 or more. b_K is excluded: it adds
    the same to all scores of a query, so that its gradient is only rounding, of which Adam makes full steps.
    """
    for name, distance in distances(found, expected, step).items():
        if not name.endswith("b_K"):
            assert distance <= 1e-5, (name, distance)


def assert_same_metrics(found: Run, expected: Run) -> None:
    ours, theirs = found.metrics, expected.metrics
    assert list(ours.index) == list(theirs.index)
    assert list(ours.columns) == list(theirs.columns)
    # The norm of the weights includes b_K.
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), rtol=1e-4, atol=1e-12)
