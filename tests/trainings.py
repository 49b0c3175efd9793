"""Shared by the tests of training: configurations, and the files that must be equal bit for bit."""

from dataclasses import replace
from pathlib import Path

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)

P = 7
SCHEDULE = ScheduleConfig(steps=200, evaluate_every=20, checkpoints=50, resume_every=60)
TRANSFORMER = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.5),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.5),
    schedule=SCHEDULE,
    model_seed=3,
)
MINIBATCH_MLP = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.5),
    model=MLPConfig(width=16, depth=2),
    optimizer=OptimizerConfig(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-3, batch_size=7),
    schedule=SCHEDULE,
    model_seed=3,
)
# A run of less than a second.
TINY = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.6),
    model=MLPConfig(width=16),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=1.0),
    schedule=ScheduleConfig(steps=60, evaluate_every=10, checkpoints=60),
    loss_dtype="float32",
)
# Shorter runs with the other forward passes and gradients, which are killed at fewer places.
SHORTER = ScheduleConfig(steps=40, evaluate_every=10, checkpoints=10, resume_every=20)
TWO_LAYERS = replace(
    TRANSFORMER,
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32, n_layers=2, normalization="layernorm"),
    schedule=SHORTER,
)
NO_EQUALS = replace(
    TRANSFORMER,
    schedule=SHORTER,
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32, equals_token=False, activation="gelu", biases="trained"),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.5, batch_size=7, warmup_steps=30, clip=1.0),
    loss_dtype="float32",
)
CONFIGS = {"transformer": TRANSFORMER, "minibatch_mlp": MINIBATCH_MLP}
MORE_CONFIGS = {"two_layers": TWO_LAYERS, "minibatch_no_equals": NO_EQUALS}
PATHS = {
    "transformer": "last_position",
    "minibatch_mlp": "mlp",
    "two_layers": "prefix",
    "minibatch_no_equals": "last_position",
}


def shortened(config: RunConfig, **schedule) -> RunConfig:
    assert config.schedule is not None
    return replace(config, schedule=replace(config.schedule, **schedule))


def briefly(config: RunConfig = MINIBATCH_MLP, steps: int = 10) -> RunConfig:
    return shortened(config, steps=steps, evaluate_every=5, checkpoints=5, resume_every=5)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def result(path: Path) -> dict[str, bytes]:
    """The files that must be equal bit for bit: metrics, checkpoints, and the resume point."""
    files = [path / "metrics.jsonl", path / "resume.safetensors", *(path / "weights").glob("step_*.safetensors")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
