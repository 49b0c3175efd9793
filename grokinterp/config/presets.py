"""Named configurations: those of published work and a small one for newcomers."""

from functools import partial
from typing import Any

from grokinterp.config.checks import require_one_of
from grokinterp.config.model import MLPConfig, TransformerConfig
from grokinterp.config.optimizer import OptimizerConfig
from grokinterp.config.regression import RegressionConfig
from grokinterp.config.run import RunConfig, config_fields, dotted
from grokinterp.config.schedule import ScheduleConfig
from grokinterp.config.task import TaskConfig
from grokinterp.errors import ConfigError

_float32 = partial(RunConfig, loss_dtype="float32")
_PRESETS: dict[str, RunConfig] = {
    "demo": _float32(
        model_seed=2,
        task=TaskConfig(p=67, train_fraction=0.4),
        model=TransformerConfig(d_model=64, n_heads=4, d_mlp=256),
        optimizer=OptimizerConfig(lr=2e-3, weight_decay=1.0),
        schedule=ScheduleConfig(
            steps=6000, evaluate_every=10, checkpoints="log:22:300+every:100", stop_when_grokked=True, stop_factor=1.7
        ),
    ),
    "nanda": RunConfig(
        task=TaskConfig(p=113, train_fraction=0.3, split="python", data_seed=0),
        model=TransformerConfig(biases="mlp", equals_logit=True, init="nanda"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, warmup_steps=10),
        schedule=ScheduleConfig(steps=40_000),
        model_seed=0,
    ),
    "transformer-lens": RunConfig(
        task=TaskConfig(p=113, train_fraction=0.3, split="torch", data_seed=598),
        model=TransformerConfig(d_model=128, n_heads=4, d_mlp=512),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0),
        schedule=ScheduleConfig(steps=25_000),
        model_seed=999,
    ),
    "psi": _float32(
        task=TaskConfig(p=97, train_fraction=0.5, split="numpy", data_seed=42),
        model=MLPConfig(input="one_hot", depth=2, width=128, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=5000, evaluate_every=50, checkpoints=50),
        model_seed=42,
    ),
    "manir": _float32(
        task=TaskConfig(p=97, train_fraction=0.2),
        model=MLPConfig(input="sum", depth=2, width=256, activation="gelu"),
        optimizer=OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9, weight_decay=2e-3, decay="coupled"),
        schedule=ScheduleConfig(
            steps=400_000, evaluate_every=100, checkpoints="log:60+every:2000", memorization_budget=60_000
        ),
    ),
    "manir-transformer": _float32(
        task=TaskConfig(p=97, train_fraction=0.2),
        model=TransformerConfig(
            d_model=512,
            d_mlp=2048,
            activation="gelu",
            normalization="layernorm",
            biases="trained",
            equals_token=False,
            init="torch_encoder",
            attention="bidirectional",
            readout="mean",
            final_norm=False,
        ),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999), clip=1.0),
        schedule=ScheduleConfig(steps=400_000, evaluate_every=100, checkpoints="log:60+every:2000"),
    ),
    "power": _float32(
        task=TaskConfig(operation="divide", p=97, train_fraction=0.5),
        model=TransformerConfig(n_layers=2, normalization="post_layernorm", positions="sinusoidal", init="torch"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, warmup_steps=10, batch_size=512),
        schedule=ScheduleConfig(steps=100_000, evaluate_every=100, checkpoints="log:40+every:1000"),
    ),
    "s5": _float32(
        task=TaskConfig(operation="s5_xy", p=120, train_fraction=0.4),
        model=MLPConfig(input="concat", d_embed=128, depth=1, width=256, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, batch_size=1024),
        schedule=ScheduleConfig(
            steps=40_000, evaluate_every=100, checkpoints="log:40+every:500", stop_when_grokked=True, stop_factor=1.2
        ),
    ),
    "parity": _float32(
        task=TaskConfig(operation="parity", p=2, operands=10, train_fraction=0.5),
        model=MLPConfig(input="signs", depth=2, width=128, activation="relu"),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=2000, evaluate_every=10, checkpoints="log:20:200+every:50"),
    ),
    "teacher-student": _float32(
        task=RegressionConfig(threshold=1e-3),
        model=MLPConfig(input="vector", depth=2, width=100, activation="tanh", init_scale=2.0),
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=0.05, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=100_000, evaluate_every=200, checkpoints="log:40+every:2000"),
        model_seed=1,
        loss="mse",
    ),
}
PRESETS = tuple(_PRESETS)


def preset(name: str, **fields: Any) -> RunConfig:
    """Returns the configuration with this name.

    >>> preset("nanda").task.p
    113

    Args:
        name: one of `PRESETS`.
            `demo`: a small transformer that groks in seconds.
            `nanda`: the transformer of Nanda et al. 2023 (arXiv:2301.05217).
            `transformer-lens`: the TransformerLens grokking demo.
            `psi`: the AgentTorch/psi MLP.
            `manir`: the canonical MLP run of Manir and Rupa 2026 (arXiv:2603.25009).
            `manir-transformer`: the encoder from the same paper.
            `power`: division with the 2-layer transformer of Power et al. 2022 (arXiv:2201.02177), with weight decay.
            `s5`: composition of permutations, another of their tasks, with an MLP that trains within minutes.
            `parity`: parity of 10 bits with an MLP that trains within seconds.
            `teacher-student`: a tanh MLP that learns another's outputs (Liu et al. 2022, arXiv:2210.01117).

    Raises:
        ConfigError: no preset has this name, or something else is given.
    """
    require_one_of(name, PRESETS, "preset")
    if fields:
        named = ", ".join(
            f'"{dotted(field, config_fields(_PRESETS[name])) or field}": {value!r}' for field, value in fields.items()
        )
        raise ConfigError(f'preset takes only a name: write preset("{name}").replace({{{named}}})')
    return _PRESETS[name]
