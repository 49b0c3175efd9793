"""The presets have the settings of the work that they are named after."""

from typing import Any

import pytest

from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError


def look_up(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(("name", "meant"), [("nandaa", "nanda"), ("transformer_lens", "transformer-lens")])
def test_an_unknown_preset_suggests_the_most_similar(name, meant):
    with pytest.raises(ConfigError, match=f"unknown preset '{name}': did you mean '{meant}'"):
        preset(name)


def test_a_preset_that_resembles_none_suggests_all():
    with pytest.raises(ConfigError, match="choose from demo, nanda, transformer-lens, psi, manir"):
        preset("qqq")


PUBLISHED = {
    "nanda": {
        "task.operation": "add",
        "task.p": 113,
        "task.train_fraction": 0.3,
        "task.split": "python",
        "task.data_seed": 0,
        "model.kind": "transformer",
        "model.n_layers": 1,
        "model.d_model": 128,
        "model.n_heads": 4,
        "model.head_width": 32,
        "model.d_mlp": 512,
        "model.activation": "relu",
        "model.normalization": "none",
        "model.biases": "mlp",
        "model.equals_token": True,
        "model.equals_logit": True,
        "model.init": "nanda",
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.betas": (0.9, 0.98),
        "optimizer.weight_decay": 1.0,
        "optimizer.warmup_steps": 10,
        "optimizer.batch_size": None,
        "schedule.steps": 40_000,
        "schedule.checkpoints": 100,
        "loss": "cross_entropy",
        "loss_dtype": "float64",
    },
    "transformer-lens": {
        "task.operation": "add",
        "task.p": 113,
        "task.train_fraction": 0.3,
        "task.split": "torch",
        "task.data_seed": 598,
        "model_seed": 999,
        "model.kind": "transformer",
        "model.n_layers": 1,
        "model.d_model": 128,
        "model.n_heads": 4,
        "model.head_width": 32,
        "model.d_mlp": 512,
        "model.activation": "relu",
        "model.normalization": "none",
        "model.biases": "frozen",
        "model.equals_token": True,
        "model.equals_logit": False,
        "model.init": "transformer_lens",
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.betas": (0.9, 0.98),
        "optimizer.weight_decay": 1.0,
        "optimizer.warmup_steps": 0,
        "optimizer.batch_size": None,
        "schedule.steps": 25_000,
        "schedule.checkpoints": 100,
        "loss_dtype": "float64",
    },
    "psi": {
        "task.operation": "add",
        "task.p": 97,
        "task.train_fraction": 0.5,
        "task.split": "numpy",
        "task.data_seed": 42,
        "model.kind": "mlp",
        "model.input": "one_hot",
        "model.depth": 2,
        "model.width": 128,
        "model.activation": "relu",
        "model.architecture": "flat",
        "model.biases": True,
        "model.init": "torch",
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.betas": (0.9, 0.999),
        "optimizer.weight_decay": 1.0,
        "optimizer.warmup_steps": 0,
        "optimizer.batch_size": None,
        "schedule.steps": 5000,
        "schedule.evaluate_every": 50,
        "loss": "cross_entropy",
        "loss_dtype": "float32",
    },
    "manir": {
        "task.operation": "add",
        "task.p": 97,
        "task.train_fraction": 0.2,
        "model.kind": "mlp",
        "model.input": "sum",
        "model.shared_embedding": True,
        "model.embedding_width": 256,
        "model.depth": 2,
        "model.width": 256,
        "model.activation": "gelu",
        "model.architecture": "flat",
        "model.biases": True,
        "model.init": "torch",
        "optimizer.name": "sgd",
        "optimizer.lr": 1e-2,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 2e-3,
        "optimizer.decoupled": False,
        "optimizer.clip": None,
        "optimizer.batch_size": None,
        "schedule.steps": 400_000,
        "schedule.memorization_budget": 60_000,
        "loss": "cross_entropy",
        "loss_dtype": "float32",
    },
    "manir-transformer": {
        "task.operation": "add",
        "task.p": 97,
        "task.train_fraction": 0.2,
        "model.n_layers": 1,
        "model.d_model": 512,
        "model.n_heads": 4,
        "model.d_mlp": 2048,
        "model.activation": "gelu",
        "model.normalization": "layernorm",
        "model.biases": "trained",
        "model.equals_token": False,
        "model.positions": "learned",
        "model.attention": "bidirectional",
        "model.readout": "mean",
        "model.final_norm": False,
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1.0,
        "optimizer.clip": 1.0,
        "optimizer.batch_size": None,
        "schedule.steps": 400_000,
    },
    "power": {
        "task.operation": "divide",
        "task.p": 97,
        "task.train_fraction": 0.5,
        "model.n_layers": 2,
        "model.d_model": 128,
        "model.n_heads": 4,
        "model.d_mlp": 512,
        "model.activation": "relu",
        "model.normalization": "post_layernorm",
        "model.positions": "sinusoidal",
        "model.biases": "frozen",
        "model.equals_token": True,
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-3,
        "optimizer.weight_decay": 1.0,
        "optimizer.betas": (0.9, 0.98),
        "optimizer.eps": 1e-8,
        "optimizer.warmup_steps": 10,
        "optimizer.batch_size": 512,
        "schedule.steps": 100_000,
    },
    "teacher-student": {
        "task.d_in": 5,
        "task.d_out": 5,
        "task.teacher_depth": 2,
        "task.teacher_width": 100,
        "task.n_train": 100,
        "task.n_test": 100,
        "task.threshold": 0.001,
        "task.data_seed": 0,
        "model_seed": 1,
        "model.input": "vector",
        "model.depth": 2,
        "model.width": 100,
        "model.activation": "tanh",
        "model.init": "torch",
        "model.init_scale": 2.0,
        "optimizer.name": "adamw",
        "optimizer.lr": 3e-4,
        "optimizer.weight_decay": 0.05,
        "optimizer.betas": (0.9, 0.999),
        "optimizer.batch_size": None,
        "schedule.steps": 100_000,
        "schedule.evaluate_every": 200,
        "loss": "mse",
        "loss_dtype": "float32",
    },
}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [(name, path, value) for name, table in PUBLISHED.items() for path, value in table.items()],
)
def test_presets_are_the_published_settings(name, path, value):
    assert look_up(preset(name), path) == value


def test_the_demo_stops_after_grokking():
    schedule = preset("demo").schedule
    assert schedule is not None
    assert schedule.stop_when_grokked
