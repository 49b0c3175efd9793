"""Configurations: conversion to and from JSON, and the values that they refuse."""

import json
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import processes
import pytest
import torch

from grokinterp.config import (
    STATE_SLOTS,
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RegressionConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.config.presets import PRESETS, preset
from grokinterp.errors import ConfigError, GrokinterpError
from grokinterp.training.interventions import interventions_of


def changed(path: str, value: Any, name: str = "nanda") -> str:
    """The JSON of a preset with one key set to another value."""
    raw = json.loads(preset(name).to_json())
    *sections, key = path.split(".")
    target = raw
    for section in sections:
        target = target[section]
    target[key] = value
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


def test_json_is_plain_and_contains_the_format_version():
    raw = json.loads(preset("psi").to_json())
    assert raw["format_version"] == 1
    assert raw["model"]["kind"] == "mlp"
    assert raw["optimizer"]["betas"] == [0.9, 0.999]


def test_missing_keys_take_their_defaults():
    assert RunConfig.from_json("{}") == RunConfig()
    assert RunConfig.from_json('{"model": {"kind": "mlp", "width": 7}}') == RunConfig(model=MLPConfig(width=7))


def test_a_configuration_from_before_interventions_has_none():
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
    with pytest.raises(ConfigError) as error:
        RunConfig.from_json(changed(path, 1), source="runs/a/config.json")
    message = str(error.value)
    assert "runs/a/config.json" in message
    assert path.rsplit(".", 1)[-1] in message
    assert "is not a key" in message


def test_unknown_keys_of_an_mlp_are_refused_by_name():
    with pytest.raises(ConfigError, match="n_heads is not a key"):
        RunConfig.from_json(changed("model.n_heads", 4, name="psi"))


def test_a_missing_kind_is_reported_with_its_choices():
    raw = json.loads(preset("nanda").to_json())
    del raw["model"]["kind"]
    with pytest.raises(ConfigError, match=r"model\.kind is missing: .*transformer or mlp"):
        RunConfig.from_json(json.dumps(raw))


@pytest.mark.parametrize("version", [2, 99, "1", 0, None])
def test_other_format_versions_are_refused_with_what_to_do(version):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_json(changed("format_version", version), source="config.json")
    message = str(error.value)
    assert f"config.json has format version {version!r}" in message
    assert "this grokinterp reads version 1" in message
    assert "install the release that wrote it" in message


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "[" * 100_000, "p = 113"])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(ConfigError, match=r"^my file is not JSON"):
        RunConfig.from_json(text, source="my file")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"nanda"'])
def test_json_other_than_an_object_is_refused(text):
    with pytest.raises(ConfigError, match=r"my file: the top level: .*dictionary"):
        RunConfig.from_json(text, source="my file")


BAD_VALUES = [
    ("task.operation", "ad", ["operation", "'add'"]),
    ("task.p", 2, ["p must be at least 3", "2"]),
    ("task.p", 113.5, ["task.p", "integer"]),
    ("task.train_fraction", 0.0, ["train_fraction", "strictly between 0 and 1", "0.0"]),
    ("task.train_fraction", 1.0, ["train_fraction", "strictly between 0 and 1", "1.0"]),
    ("task.train_fraction", None, ["train_fraction", "strictly between 0 and 1", "None"]),
    ("task.split", "sklearn", ["split", "'torch'", "'python'", "'numpy'"]),
    ("task.split", "unknown", ["split unknown", "train_fraction null"]),
    ("task.data_seed", -1, ["data_seed", "[0, 2^32)", "-1"]),
    ("task.data_seed", 2**32, ["data_seed", "[0, 2^32)", str(2**32)]),
    ("task.label_noise", 1.0, ["label_noise", "[0, 1)", "1.0"]),
    ("task.label_noise", -0.5, ["label_noise", "[0, 1)", "-0.5"]),
    ("model.kind", "cnn", ["model", "'cnn'", "'transformer'", "'mlp'"]),
    ("model.n_layers", 0, ["n_layers must be at least 1", "0"]),
    ("model.n_heads", 3, ["d_model = 128", "n_heads = 3", "change one, or set d_head"]),
    ("model.d_head", 0, ["d_head must be at least 1", "0"]),
    ("model.d_mlp", -1, ["d_mlp must be at least 1", "-1"]),
    ("model.activation", "swish", ["activation", "'relu'", "'gelu'"]),
    ("model.normalization", "rms", ["normalization", "'none'", "'layernorm'"]),
    ("model.biases", "all", ["biases", "'frozen'", "'mlp'", "'trained'"]),
    ("model.equals_token", False, ["equals_logit needs equals_token"]),
    ("model.init", "xavier", ["init", "'nanda'", "'transformer_lens'", "'torch'"]),
    ("model.init_scale", 0.0, ["init_scale", "> 0", "0.0"]),
    ("model.init_scale", float("nan"), ["init_scale", "finite", "nan"]),
    ("optimizer.name", "rmsprop", ["optimizer.name", "'adamw'", "'adam'", "'sgd'", "'lion'", "'muon'"]),
    ("optimizer.lr", 0.0, ["lr must be a finite number > 0", "0.0"]),
    ("optimizer.lr", float("inf"), ["lr must be a finite number > 0", "inf"]),
    ("optimizer.lr", "fast", ["optimizer.lr", "number"]),
    ("optimizer.weight_decay", -1.0, ["weight_decay must be a finite number >= 0", "-1.0"]),
    ("optimizer.decay", "coupled", ["adamw decouples", "name adam"]),
    ("optimizer.betas", [0.9, 1.0], ["betas must lie in [0, 1)", "1.0"]),
    ("optimizer.betas", [0.9], ["optimizer.betas", "required"]),
    ("optimizer.eps", -1e-8, ["eps must be a finite number >= 0", "-1e-08"]),
    ("optimizer.momentum", 0.9, ["momentum applies only to sgd", "for adamw set betas"]),
    ("optimizer.batch_size", 0, ["batch_size must be at least 1", "0"]),
    ("optimizer.warmup_steps", -1, ["warmup_steps must be at least 0", "-1"]),
    ("optimizer.clip", 0.0, ["clip must be a finite number > 0", "0.0"]),
    ("model.output_scale", 0.0, ["output_scale must be a finite number > 0", "0.0"]),
    ("model.dropout", 1.0, ["dropout must lie in [0, 1)", "1.0"]),
    ("model.dropout", -0.1, ["dropout must lie in [0, 1)", "-0.1"]),
    ("model.dropout", float("nan"), ["dropout must lie in [0, 1)", "nan"]),
    ("optimizer.l1", -1e-3, ["l1 must be a finite number >= 0", "-0.001"]),
    ("optimizer.gradient_noise", -1.0, ["gradient_noise must be a finite number >= 0", "-1.0"]),
    ("optimizer.gradient_noise", float("inf"), ["gradient_noise must be a finite number >= 0", "inf"]),
    ("optimizer.grokfast", "kalman", ["grokfast", "'none'", "'ema'", "'ma'"]),
    ("optimizer.grokfast_alpha", 0.9, ['grokfast_alpha has no effect unless grokfast is "ema" (it is "none")']),
    ("optimizer.grokfast_window", 50, ['grokfast_window has no effect unless grokfast is "ma" (it is "none")']),
    (
        "optimizer.grokfast_lambda",
        2.0,
        ['unless grokfast is "ema" or "ma" (it is "none")'],
    ),
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
    with pytest.raises(ConfigError) as error:
        RunConfig.from_json(changed(path, value), source="config.json")
    message = str(error.value)
    assert message.startswith("config.json: ")
    for fragment in fragments:
        assert fragment in message


BAD_COMBINATIONS = [
    (lambda: TaskConfig(operation="divide", p=91), "91 is not a prime: choose a prime p or another operation"),
    (lambda: TaskConfig(random_labels=True, label_noise=0.1), "random_labels and label_noise exclude each other"),
    (lambda: OptimizerConfig(name="adam", decay="decoupled"), "adam couples .* name adamw"),
    (lambda: MLPConfig(d_embed=7), "d_embed has no effect with model.input one_hot"),
    (lambda: MLPConfig(architecture="residual"), r"as wide as the layers \(128\), but it is one_hot"),
    (lambda: MLPConfig(input="concat", architecture="residual"), r"as wide as the layers \(128\), but it is 256"),
    (lambda: MLPConfig(input="sum", d_embed=5, architecture="residual"), r"the layers \(128\), but it is 5"),
    (lambda: MLPConfig(depth=0), "depth must be at least 1, but is 0"),
    (lambda: MLPConfig(width=0), "width must be at least 1, but is 0"),
    (lambda: MLPConfig(init_scale=-1.0), "init_scale must be a finite number > 0, but is -1"),
    (lambda: MLPConfig(dropout=1.5), r"dropout must lie in \[0, 1\), but is 1\.5"),
    (lambda: MLPConfig(output_scale=-1.0), "output_scale must be a finite number > 0, but is -1"),
    (lambda: OptimizerConfig(grokfast="ema", grokfast_alpha=1.0), r"grokfast_alpha must lie in \[0, 1\), but is 1"),
    (lambda: OptimizerConfig(grokfast="ma", grokfast_window=0), "grokfast_window must be at least 1, but is 0"),
    (lambda: OptimizerConfig(grokfast="ma", grokfast_window=1001), "grokfast_window must be at most 1000, but is 1001"),
    (
        lambda: OptimizerConfig(grokfast="ma", grokfast_alpha=0.9),
        'alpha has no effect unless .* "ema" .it is "ma"',
    ),
    (
        lambda: OptimizerConfig(grokfast="ema", grokfast_window=9),
        'window has no effect unless .* "ma" .it is "ema"',
    ),
    (lambda: OptimizerConfig(grokfast="ema", grokfast_lambda=-1.0), "grokfast_lambda must be a finite number >= 0"),
    (lambda: replace(preset("teacher-student"), loss="stablemax"), "is a regression: it needs loss mse"),
    (lambda: replace(preset("psi"), model_seed=-3), r"model_seed must lie in \[0, 2\^32\), but is -3"),
]


@pytest.mark.parametrize(("make", "message"), BAD_COMBINATIONS, ids=[m for _, m in BAD_COMBINATIONS])
def test_combinations_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


CONFIGS = (TaskConfig, RegressionConfig, TransformerConfig, MLPConfig, OptimizerConfig, ScheduleConfig, RunConfig)
WRONG = {int: [1.5, 2.0, "2", True, [2]], float: ["0.1", True, [0.1]], bool: [1, "yes"]}
WRONG_TYPES = [
    (kind, field.name, value)
    for kind in CONFIGS
    for field in fields(kind)
    for allowed in [{*get_args(field.type)} or {field.type}]
    for value in WRONG.get(next(iter(allowed - {type(None), str}), None), [])
    if not (isinstance(value, str) and str in allowed)
]


@pytest.mark.parametrize(("kind", "name", "value"), WRONG_TYPES)
def test_values_of_a_wrong_type_are_refused(kind, name, value, unchecked):
    with pytest.raises(ConfigError, match=f"^{name} must be (an integer|a number|True or False|two numbers)"):
        kind(**{name: value})


def test_wrong_types_cover_every_integer():
    assert {("batch_size", 1.5), ("steps", True), ("p", 2.0), ("width", 1.5), ("model_seed", True)} <= {
        (name, value) for _, name, value in WRONG_TYPES if not isinstance(value, list)
    }


@pytest.mark.parametrize("value", [0.9, (0.9,), (0.9, "0.98"), (0.9, 0.98, 0.99)])
def test_betas_are_two_numbers(value, unchecked):
    with pytest.raises(ConfigError, match=r"^betas must be"):
        OptimizerConfig(betas=value)


@pytest.mark.parametrize(("name", "value"), [("task", "add"), ("model", None), ("optimizer", {"lr": 0.1})])
def test_parts_of_a_run_are_configurations(name, value, unchecked):
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        RunConfig(**{name: value})


def test_integers_of_numpy_are_stored_as_int(unchecked):
    config = RunConfig(task=TaskConfig(p=np.int64(7)), model_seed=np.uint8(3))
    assert type(config.task.p) is type(config.model_seed) is int
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "text", ['{"schedule": {"steps": true}}', '{"optimizer": {"lr": true}}', '{"model_seed": true}']
)
def test_true_is_not_a_number_in_json_either(text):
    with pytest.raises(ConfigError, match=r"^config.json.* must be a number, but is true$"):
        RunConfig.from_json(text, source="config.json")


# In a separate process: the type checker that conftest.py installs would refuse these values first.
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
    outcome = processes.run([sys.executable, "-c", MISSPELLED_CHOICES], check=True, capture_output=True, text=True)
    assert json.loads(outcome.stdout) == []


def test_configuration_errors_are_value_errors_too():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, GrokinterpError)


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
def test_the_optimizer_determines_whether_decay_is_decoupled(name, decay, decoupled):
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
def test_biases_are_trained_as_configured(biases, trained):
    config = TransformerConfig(biases=biases)
    names = ["blocks.0.mlp.b_in", "blocks.0.mlp.b_out", "blocks.0.attn.b_Q", "blocks.0.attn.b_O", "unembed.b_U"]
    assert {name for name in names if config.trains(name)} == trained
    for matrix in ("embed.W_E", "blocks.0.mlp.W_in", "unembed.W_U", "ln_final.w", "ln_final.b"):
        assert config.trains(matrix)


class TestSizes:
    """No configuration leads to endless counting, or to more numbers than fit on any machine."""

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
            (lambda: ScheduleConfig(steps=10**9, evaluate_every=1), "evaluate_every selects 1,000,000,002 of"),
            (
                lambda: ScheduleConfig(steps=10**9, evaluate_every=10**6, checkpoints="dense:0:1000000000:1"),
                "checkpoints selects",
            ),
            (lambda: ScheduleConfig(checkpoints="log:999999999"), "checkpoints selects"),
            (lambda: ScheduleConfig(checkpoints="+".join(["5"] * 2000)), "the schedule has 2,000 terms"),
            (lambda: ScheduleConfig(evaluate_every="every:" + "9" * 30), "cannot read"),
        ],
    )
    def test_too_large_is_refused_by_name(self, make, message):
        with pytest.raises(ConfigError, match=message):
            make()

    def test_long_runs_are_allowed(self):
        ScheduleConfig(steps=10**12, evaluate_every=10**6, checkpoints="log:1000+dense:5:500:5")
        ScheduleConfig(steps=2_900_000, evaluate_every=1)

    @pytest.mark.parametrize("text", ["9" * 5000, '{"model_seed": ' + "9" * 5000 + "}", "[" * 100_000])
    def test_numbers_and_depths_that_python_cannot_parse_give_a_one_line_error(self, text):
        with pytest.raises(ConfigError, match=r"^config\.json is not JSON: ") as raised:
            RunConfig.from_json(text, "config.json")
        assert "\n" not in str(raised.value)

    def test_half_of_a_surrogate_pair_is_refused(self):
        text = '{"model": {"kind": "recorded", "description": "\\ud800"}, "optimizer": null, "schedule": null}'
        with pytest.raises(ConfigError, match="is not JSON"):
            RunConfig.from_json(text)


def test_training_returns_optimizer_and_schedule():
    config = preset("psi")
    settings = config.training()
    assert settings.optimizer == config.optimizer
    assert settings.schedule == config.schedule


@pytest.mark.parametrize("absent", ["optimizer", "schedule"])
def test_a_recorded_configuration_cannot_be_trained(absent):
    with pytest.raises(ConfigError, match="recorded or imported, without optimizer and schedule: give both"):
        replace(preset("psi"), **{absent: None}).training()


def test_state_slots_are_those_of_torch_optim():
    parameter = torch.nn.Parameter(torch.ones(3))
    for name, kind in (("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)):
        config = OptimizerConfig(name=name, momentum=0.9 if name == "sgd" else 0.0)
        optimizer = kind([parameter], **({"momentum": config.momentum} if name == "sgd" else {}))
        parameter.sum().backward()
        optimizer.step()
        slots = tuple(key for key, value in optimizer.state[parameter].items() if key != "step" and value is not None)
        assert config.state_slots == STATE_SLOTS[name] == slots
    assert OptimizerConfig(name="sgd").state_slots == ()
