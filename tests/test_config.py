"""Configurations: to JSON and back, what they refuse, and the published settings behind the presets."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RegressionConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
    schedule_terms,
)
from grokinterp.config.presets import PRESETS, preset
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import ConfigError, GrokinterpError
from grokinterp.training.interventions import interventions_of


def look_up(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def changed(path: str, value: Any, of: str = "nanda") -> str:
    """The JSON of a preset with one key set to another value."""
    raw = json.loads(preset(of).to_json())
    *sections, key = path.split(".")
    place = raw
    for section in sections:
        place = place[section]
    place[key] = value
    return json.dumps(raw)


VARIANTS = {
    "residual": RunConfig(model=MLPConfig(input="concat", d_embed=64, architecture="residual", depth=8)),
    "two tables": RunConfig(model=MLPConfig(input="sum", shared_embedding=False, activation="quadratic", biases=False)),
    "odd heads": RunConfig(model=TransformerConfig(n_heads=3, d_head=5, equals_token=False, init_scale=8.0)),
    "layernorm": RunConfig(model=TransformerConfig(n_layers=2, normalization="layernorm", biases="trained")),
    "encoder": RunConfig(
        model=TransformerConfig(
            normalization="layernorm", attention="bidirectional", readout="mean", final_norm=False, init="torch_encoder"
        )
    ),
    "sinusoidal": RunConfig(model=TransformerConfig(normalization="post_layernorm", positions="sinusoidal")),
    "recorded": RunConfig(model=RecordedConfig(description="another loop"), optimizer=None, schedule=None),
    "unknown split": RunConfig(task=TaskConfig(split="unknown", train_fraction=None)),
    "noisy": RunConfig(task=TaskConfig(operation="x^3+xy^2+y", label_noise=0.1), loss="mse", loss_dtype="float32"),
    "clipped": RunConfig(
        optimizer=OptimizerConfig(name="sgd", decay="decoupled", momentum=0.5, clip=1.0, batch_size=7)
    ),
    "interventions": RunConfig(
        model=TransformerConfig(dropout=0.1, output_scale=0.5),
        optimizer=OptimizerConfig(grokfast="ma", grokfast_window=7, l1=1e-4, constrain_norm=True, gradient_noise=0.1),
        loss="stablemax",
    ),
    "schedules": RunConfig(schedule=ScheduleConfig(evaluate_every="log:60+dense:8:16:1", checkpoints="every:3")),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = preset(name)
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", VARIANTS)
def test_other_configurations_survive_json(name):
    config = VARIANTS[name]
    assert RunConfig.from_json(config.to_json()) == config


def test_json_is_plain_and_says_which_version_wrote_it():
    raw = json.loads(preset("psi").to_json())
    assert raw["format_version"] == 1
    assert raw["model"]["kind"] == "mlp"
    assert raw["optimizer"]["betas"] == [0.9, 0.999]


def test_keys_left_out_take_their_defaults():
    assert RunConfig.from_json("{}") == RunConfig()
    assert RunConfig.from_json('{"model": {"kind": "mlp", "width": 7}}') == RunConfig(model=MLPConfig(width=7))


def test_a_configuration_older_than_interventions_is_one_without_them():
    file = Path(__file__).parent.parent / "checkpoints" / "run42" / "config.json"
    raw = json.loads(file.read_text())
    new = {"dropout", "output_scale", "l1", "gradient_noise", "orthogonal_gradient", "grokfast", "constrain_norm"}
    assert not new & {*raw["model"], *raw["optimizer"]}
    config = RunConfig.from_json(file.read_text())
    assert interventions_of(config) == []
    assert config.model.output_scale == 1.0  # pyright: ignore


def test_configurations_are_frozen():
    with pytest.raises(FrozenInstanceError):
        preset("nanda").task.p = 97  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "path",
    [
        "operation",
        "task.modulus",
        "model.d_modle",
        "optimizer.learning_rate",
        "schedule.epochs",
    ],
)
def test_unknown_keys_are_refused_by_name(path):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json(changed(path, 1), source="runs/a/config.json")
    message = str(caught.value)
    assert "runs/a/config.json" in message
    assert path.rsplit(".", 1)[-1] in message
    assert "is not a key" in message


def test_unknown_keys_of_an_mlp_are_refused_by_name():
    with pytest.raises(ConfigError, match="n_heads is not a key"):
        RunConfig.from_json(changed("model.n_heads", 4, of="psi"))


def test_a_missing_kind_is_named_with_its_choices():
    raw = json.loads(preset("nanda").to_json())
    del raw["model"]["kind"]
    with pytest.raises(ConfigError, match=r"model\.kind is missing: .*transformer or mlp"):
        RunConfig.from_json(json.dumps(raw))


@pytest.mark.parametrize("version", [2, 99, "1", 0, None])
def test_other_format_versions_are_refused_with_what_to_do(version):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json(changed("format_version", version), source="config.json")
    message = str(caught.value)
    assert f"config.json has format version {version!r}" in message
    assert "this grokinterp reads version 1" in message
    assert "install the release that wrote it" in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "[" * 100_000, "p = 113"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ConfigError, match=r"^my file is not JSON"):
        RunConfig.from_json(text, source="my file")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"nanda"'])
def test_json_that_is_no_object_is_refused(text):
    with pytest.raises(ConfigError, match=r"my file: the whole: .*dictionary"):
        RunConfig.from_json(text, source="my file")


BAD_VALUES = [
    ("task.operation", "ad", ["operation", "'add'"]),
    ("task.p", 2, ["p must be at least 3", "2"]),
    ("task.p", 113.5, ["task.p", "integer"]),
    ("task.train_fraction", 0.0, ["train_fraction", "strictly between 0 and 1", "0.0"]),
    ("task.train_fraction", 1.0, ["train_fraction", "strictly between 0 and 1", "1.0"]),
    ("task.train_fraction", None, ["train_fraction", "strictly between 0 and 1", "None"]),
    ("task.split", "sklearn", ["split", "'torch'", "'python'", "'numpy'"]),
    ("task.split", "unknown", ["split 'unknown'", "train_fraction null"]),
    ("task.data_seed", -1, ["data_seed", "[0, 2^32)", "-1"]),
    ("task.data_seed", 2**32, ["data_seed", "[0, 2^32)", str(2**32)]),
    ("task.label_noise", 1.0, ["label_noise", "[0, 1)", "1.0"]),
    ("task.label_noise", -0.5, ["label_noise", "[0, 1)", "-0.5"]),
    ("model.kind", "cnn", ["model", "'cnn'", "'transformer'", "'mlp'"]),
    ("model.n_layers", 0, ["n_layers must be at least 1", "0"]),
    ("model.n_heads", 3, ["d_model = 128", "n_heads = 3", "change one, or give d_head"]),
    ("model.d_head", 0, ["d_head must be at least 1", "0"]),
    ("model.d_mlp", -1, ["d_mlp must be at least 1", "-1"]),
    ("model.activation", "swish", ["activation", "'relu'", "'gelu'"]),
    ("model.normalization", "rms", ["normalization", "'none'", "'layernorm'"]),
    ("model.biases", "all", ["biases", "'frozen'", "'mlp'", "'trained'"]),
    ("model.equals_token", False, ["equals_logit needs equals_token"]),
    ("model.init", "xavier", ["init", "'nanda'", "'transformer_lens'", "'torch'"]),
    ("model.init_scale", 0.0, ["init_scale", "> 0", "0.0"]),
    ("model.init_scale", float("nan"), ["init_scale", "finite", "nan"]),
    ("optimizer.name", "lion", ["optimizer.name", "'adamw'", "'adam'", "'sgd'"]),
    ("optimizer.lr", 0.0, ["lr must be a finite number > 0", "0.0"]),
    ("optimizer.lr", float("inf"), ["lr must be a finite number > 0", "inf"]),
    ("optimizer.lr", "fast", ["optimizer.lr", "number"]),
    ("optimizer.weight_decay", -1.0, ["weight_decay must be a finite number >= 0", "-1.0"]),
    ("optimizer.decay", "coupled", ["adamw is decoupled", "name=adam"]),
    ("optimizer.betas", [0.9, 1.0], ["betas must lie in [0, 1)", "1.0"]),
    ("optimizer.betas", [0.9], ["optimizer.betas", "required"]),
    ("optimizer.eps", -1e-8, ["eps must be a finite number >= 0", "-1e-08"]),
    ("optimizer.momentum", 0.9, ["momentum is sgd's", "adamw has betas"]),
    ("optimizer.batch_size", 0, ["batch_size must be >= 1", "0"]),
    ("optimizer.warmup_steps", -1, ["warmup_steps must be >= 0", "-1"]),
    ("optimizer.clip", 0.0, ["clip must be a finite number > 0", "0.0"]),
    ("model.output_scale", 0.0, ["output_scale must be a finite number > 0", "0.0"]),
    ("model.dropout", 1.0, ["dropout must lie in [0, 1)", "1.0"]),
    ("model.dropout", -0.1, ["dropout must lie in [0, 1)", "-0.1"]),
    ("model.dropout", float("nan"), ["dropout must lie in [0, 1)", "nan"]),
    ("optimizer.l1", -1e-3, ["l1 must be a finite number >= 0", "-0.001"]),
    ("optimizer.gradient_noise", -1.0, ["gradient_noise must be a finite number >= 0", "-1.0"]),
    ("optimizer.gradient_noise", float("inf"), ["gradient_noise must be a finite number >= 0", "inf"]),
    ("optimizer.grokfast", "kalman", ["grokfast", "'none'", "'ema'", "'ma'"]),
    ("optimizer.grokfast_alpha", 0.9, ["grokfast_alpha is of grokfast ema, not of none"]),
    ("optimizer.grokfast_window", 50, ["grokfast_window is of grokfast ma, not of none"]),
    ("optimizer.grokfast_lambda", 2.0, ["grokfast_lambda is of grokfast ema or ma, and grokfast is none"]),
    ("schedule.steps", 0, ["steps must be at least 1", "0"]),
    ("schedule.resume_every", 0, ["resume_every must be at least 1", "0"]),
    ("schedule.stop_factor", 0.5, ["stop_factor must be a finite number >= 1", "0.5"]),
    ("schedule.memorization_budget", 0, ["memorization_budget must be at least 1", "0"]),
    ("schedule.evaluate_every", 0, ["schedule", "cannot read '0'", "every:K", "log:N", "dense:FROM:TO:K"]),
    ("schedule.checkpoints", "log", ["schedule 'log'", "every:K", "log:N", "dense:FROM:TO:K"]),
    ("model_seed", -1, ["model_seed", "[0, 2^32)", "-1"]),
    ("loss", "ce", ["loss", "'cross_entropy'", "'mse'"]),
    ("loss_dtype", "float16", ["loss_dtype", "'float64'", "'float32'"]),
]


@pytest.mark.parametrize(("path", "value", "fragments"), BAD_VALUES, ids=[f"{p}={v}" for p, v, _ in BAD_VALUES])
def test_values_that_make_no_sense_are_refused_with_what_to_do(path, value, fragments):
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_json(changed(path, value), source="config.json")
    message = str(caught.value)
    assert message.startswith("config.json: ")
    for fragment in fragments:
        assert fragment in message


BAD_COMBINATIONS = [
    (lambda: TaskConfig(operation="divide", p=91), "91 is not a prime: choose a prime p, or another operation"),
    (lambda: TaskConfig(random_labels=True, label_noise=0.1), "random_labels and label_noise exclude each other"),
    (lambda: OptimizerConfig(name="adam", decay="decoupled"), "adam is coupled .* name=adamw"),
    (lambda: MLPConfig(d_embed=7), "d_embed has no meaning for one-hot inputs"),
    (lambda: MLPConfig(architecture="residual"), r"as wide as the layers \(128\); it is one-hot"),
    (lambda: MLPConfig(input="concat", architecture="residual"), r"as wide as the layers \(128\); it is 256"),
    (lambda: MLPConfig(input="sum", d_embed=5, architecture="residual"), r"the layers \(128\); it is 5"),
    (lambda: MLPConfig(depth=0), "depth must be at least 1, but is 0"),
    (lambda: MLPConfig(width=0), "width must be at least 1, but is 0"),
    (lambda: MLPConfig(init_scale=-1.0), "init_scale must be a finite number > 0, but is -1"),
    (lambda: MLPConfig(dropout=1.5), r"dropout must lie in \[0, 1\), but is 1\.5"),
    (lambda: MLPConfig(output_scale=-1.0), "output_scale must be a finite number > 0, but is -1"),
    (lambda: OptimizerConfig(grokfast="ema", grokfast_alpha=1.0), r"grokfast_alpha must lie in \[0, 1\), but is 1"),
    (lambda: OptimizerConfig(grokfast="ma", grokfast_window=0), "grokfast_window must be at least 1, but is 0"),
    (lambda: OptimizerConfig(grokfast="ma", grokfast_window=1001), "grokfast_window must be at most 1000, but is 1001"),
    (lambda: OptimizerConfig(grokfast="ma", grokfast_alpha=0.9), "grokfast_alpha is of grokfast ema, not of ma"),
    (lambda: OptimizerConfig(grokfast="ema", grokfast_window=9), "grokfast_window is of grokfast ma, not of ema"),
    (lambda: OptimizerConfig(grokfast="ema", grokfast_lambda=-1.0), "grokfast_lambda must be a finite number >= 0"),
    (lambda: replace(preset("teacher-student"), loss="stablemax"), "is a regression: it needs loss mse"),
    (lambda: replace(preset("psi"), model_seed=-3), r"model_seed must lie in \[0, 2\^32\), but is -3"),
]


@pytest.mark.parametrize(("make", "message"), BAD_COMBINATIONS, ids=[m for _, m in BAD_COMBINATIONS])
def test_combinations_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# In a process of its own: the type checker that conftest.py installs would refuse these values first.
MISSPELLED_CHOICES = """
import dataclasses, json, types, typing
from grokinterp import config
from grokinterp.errors import ConfigError

base = {
    config.TaskConfig: {}, config.TransformerConfig: {}, config.MLPConfig: {"input": "sum"},
    config.OptimizerConfig: {"name": "sgd"}, config.RunConfig: {},
}
unrefused = []
for kind, good in base.items():
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        is_choice = any(typing.get_origin(t) is typing.Literal for t in (hint, *typing.get_args(hint)))
        if not is_choice or field.name == "kind":
            continue
        try:
            kind(**{**good, field.name: "misspelled"})
        except ConfigError as error:
            if field.name in str(error) or field.name == "name":
                continue
        unrefused.append(f"{kind.__name__}.{field.name}")
print(json.dumps(unrefused))
"""


def test_misspelled_choices_are_refused_in_python_too():
    outcome = subprocess.run([sys.executable, "-c", MISSPELLED_CHOICES], check=True, capture_output=True, text=True)
    assert json.loads(outcome.stdout) == []


@pytest.mark.parametrize(("given", "meant"), [("nandaa", "nanda"), ("transformer_lens", "transformer-lens")])
def test_unknown_presets_are_answered_with_the_nearest(given, meant):
    with pytest.raises(ConfigError, match=f"preset '{given}' is not known: did you mean '{meant}'"):
        preset(given)


def test_unknown_presets_that_resemble_nothing_are_answered_with_all():
    with pytest.raises(ConfigError, match="known: demo, nanda, transformer-lens, psi, manir"):
        preset("qqq")


def test_configuration_errors_are_value_errors_too():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, GrokinterpError)


SCHEDULES = [
    (100, 250, [0, 100, 200, 250]),
    ("100", 250, [0, 100, 200, 250]),
    ("every:100", 200, [0, 100, 200]),
    ("every:1000", 1, [0, 1]),
    (1, 3, [0, 1, 2, 3]),
    ("log:4", 1000, [0, 1, 10, 100, 1000]),
    ("log:4:1000", 5000, [0, 1, 10, 100, 1000, 5000]),
    ("log:3", 1, [0, 1]),
    ("log:5", 16, [0, 1, 2, 4, 8, 16]),
    ("dense:10:12:1", 100, [0, 10, 11, 12, 100]),
    ("dense:800:1600:400", 1500, [0, 800, 1200, 1500]),
    ("dense:800:1600:300", 5000, [0, 800, 1100, 1400, 5000]),
    ("dense:0:4:2", 9, [0, 2, 4, 9]),
    ("dense:50:60:5", 40, [0, 40]),
    ("every:50+dense:10:12:1", 100, [0, 10, 11, 12, 50, 100]),
    (" log:3:100 + every:40 ", 120, [0, 1, 10, 40, 80, 100, 120]),
]


@pytest.mark.parametrize(("spec", "last", "steps"), SCHEDULES, ids=[f"{s}|{n}" for s, n, _ in SCHEDULES])
def test_what_a_schedule_means(spec, last, steps):
    assert scheduled_steps(spec, last) == steps


def test_sixty_steps_even_in_log_and_one_in_two_thousand_after():
    steps = scheduled_steps("log:60+every:2000", 400_000)
    assert set(range(0, 400_001, 2000)) <= set(steps)
    assert steps == sorted(set(steps))
    assert sum(step < 2000 for step in steps) == 1 + len(
        {round(400_000 ** (i / 59)) for i in range(60)} & set(range(2000))
    )


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "+",
        "100+",
        "0",
        "-5",
        "1.5",
        "every",
        "every:",
        "every:0",
        "every:1:2",
        "each:100",
        "log",
        "log:0",
        "log:3:0",
        "log:1:2:3",
        "log:-3",
        "dense:1:2",
        "dense:1:2:3:4",
        "dense:5:2:1",
        "dense:1:2:0",
        "every:100,log:60",
        0,
        -5,
    ],
)
def test_schedules_that_cannot_be_read_are_refused(spec):
    with pytest.raises(ConfigError) as caught:
        schedule_terms(spec)
    assert f"schedule {str(spec)!r}" in str(caught.value)
    assert "dense:FROM:TO:K" in str(caught.value)
    with pytest.raises(ConfigError):
        ScheduleConfig(evaluate_every=spec)
    with pytest.raises(ConfigError):
        ScheduleConfig(checkpoints=spec)


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


def test_the_demo_stops_when_it_has_grokked():
    schedule = preset("demo").schedule
    assert schedule is not None
    assert schedule.stop_when_grokked


@pytest.mark.parametrize(
    ("name", "decay", "decoupled"),
    [
        ("adamw", None, True),
        ("adamw", "decoupled", True),
        ("adam", None, False),
        ("adam", "coupled", False),
        ("sgd", None, False),
        ("sgd", "coupled", False),
        ("sgd", "decoupled", True),
    ],
)
def test_which_decay_an_optimizer_has(name, decay, decoupled):
    assert OptimizerConfig(name=name, decay=decay).decoupled is decoupled


@pytest.mark.parametrize(
    ("biases", "trained"),
    [
        ("frozen", set()),
        ("mlp", {"blocks.0.mlp.b_in", "blocks.0.mlp.b_out"}),
        (
            "trained",
            {"blocks.0.mlp.b_in", "blocks.0.mlp.b_out", "blocks.0.attn.b_Q", "blocks.0.attn.b_O", "unembed.b_U"},
        ),
    ],
)
def test_which_biases_are_trained(biases, trained):
    config = TransformerConfig(biases=biases)
    names = ["blocks.0.mlp.b_in", "blocks.0.mlp.b_out", "blocks.0.attn.b_Q", "blocks.0.attn.b_O", "unembed.b_U"]
    assert {name for name in names if config.trains(name)} == trained
    for matrix in ("embed.W_E", "blocks.0.mlp.W_in", "unembed.W_U", "ln_final.w", "ln_final.b"):
        assert config.trains(matrix)


class TestSizes:
    """No configuration leads to a count that never ends, or to more numbers than any machine holds."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: TransformerConfig(n_layers=10**6), "n_layers must be at most 1,000"),
            (lambda: TransformerConfig(d_model=2**25), "d_model must be at most 16,777,216"),
            (lambda: TransformerConfig(d_head=2**25), "d_head must be at most"),
            (lambda: MLPConfig(depth=1001), "depth must be at most 1,000"),
            (lambda: MLPConfig(width=2**25), "width must be at most"),
            (lambda: MLPConfig(input="sum", d_embed=2**25), "d_embed must be at most"),
            (lambda: RegressionConfig(n_train=2**25), "n_train must be at most"),
            (lambda: RegressionConfig(teacher_depth=10**9), "teacher_depth must be at most"),
            (lambda: OptimizerConfig(warmup_steps=10**13), "warmup_steps must be at most 10\\^12"),
            (lambda: OptimizerConfig(batch_size=10**400), "batch_size must be at most 10\\^12"),
            (lambda: OptimizerConfig(lr=1e31), "lr must be at most 1e\\+30"),
            (lambda: OptimizerConfig(grokfast="ma", grokfast_window=10**13), "grokfast_window must be at most"),
            (lambda: TransformerConfig(init_scale=1e300), "init_scale must be at most"),
            (lambda: ScheduleConfig(steps=10**13), "steps must be at most 10\\^12"),
            (lambda: ScheduleConfig(steps=10**9, evaluate_every=1), "evaluate_every names 1,000,000,002 of"),
            (
                lambda: ScheduleConfig(steps=10**9, evaluate_every=10**6, checkpoints="dense:0:1000000000:1"),
                "checkpoints names",
            ),
            (lambda: ScheduleConfig(checkpoints="log:999999999"), "checkpoints names"),
            (lambda: ScheduleConfig(checkpoints="+".join(["5"] * 2000)), "a schedule of 2,000 terms"),
            (lambda: ScheduleConfig(evaluate_every="every:" + "9" * 30), "cannot read"),
        ],
    )
    def test_too_large_is_refused_by_name(self, make, message):
        with pytest.raises(ConfigError, match=message):
            make()

    def test_long_runs_are_not(self):
        ScheduleConfig(steps=10**12, evaluate_every=10**6, checkpoints="log:1000+dense:5:500:5")
        ScheduleConfig(steps=2_900_000, evaluate_every=1)

    @pytest.mark.parametrize("text", ["9" * 5000, '{"model_seed": ' + "9" * 5000 + "}", "[" * 100_000])
    def test_numbers_and_depths_that_python_does_not_read_are_one_line(self, text):
        with pytest.raises(ConfigError, match=r"^config\.json is not JSON: ") as raised:
            RunConfig.from_json(text, "config.json")
        assert "\n" not in str(raised.value)

    def test_half_a_character_is_refused(self):
        text = '{"model": {"kind": "recorded", "description": "\\ud800"}, "optimizer": null, "schedule": null}'
        with pytest.raises(ConfigError, match="is not JSON"):
            RunConfig.from_json(text)
