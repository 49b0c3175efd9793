"""Shapes computed from a configuration equal those of the model and of the optimizer state."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import PRESETS, preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import build_model, task_of
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.resume_point import state_shapes
from grokinterp.training import train

MODELS = {
    "layernorm": TransformerConfig(d_model=8, n_heads=2, d_mlp=6, n_layers=2, normalization="layernorm"),
    "post": TransformerConfig(d_model=8, n_heads=2, d_mlp=6, normalization="post_layernorm", equals_logit=True),
    "no final norm": TransformerConfig(
        d_model=8, n_heads=2, d_head=3, d_mlp=6, normalization="layernorm", final_norm=False
    ),
    "no =": TransformerConfig(d_model=8, n_heads=2, d_mlp=6, equals_token=False),
    "mean": TransformerConfig(d_model=8, n_heads=2, d_mlp=6, attention="bidirectional", readout="mean"),
    "one-hot": MLPConfig(width=6, depth=3),
    "embedded": MLPConfig(width=6, depth=1, input="concat", d_embed=4, biases=False),
    "two tables": MLPConfig(width=6, input="concat", shared_embedding=False),
    "residual": MLPConfig(width=6, input="sum", architecture="residual"),
    "residual, side by side": MLPConfig(width=6, input="concat", d_embed=3, architecture="residual", biases=False),
}


def built(config: RunConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(w.shape) for name, w in build_model(config, task_of(config)).named_parameters()}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = preset(name)
    assert parameter_shapes(config.model, config.task) == built(config)


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    config = RunConfig(task=TaskConfig(p=7), model=MODELS[name])
    assert parameter_shapes(config.model, config.task) == built(config)


@pytest.mark.parametrize("operation", ["s5_xy", "divide", "multiply_nonzero", "x^3+xy"])
def test_tasks(operation):
    task = TaskConfig(operation=operation, p=120 if operation == "s5_xy" else 7)
    for model in (MODELS["one-hot"], MODELS["post"]):
        config = RunConfig(task=task, model=model)
        assert parameter_shapes(model, task) == built(config)


def test_a_recorded_model():
    from grokinterp.config import RecordedConfig

    with pytest.raises(ConfigError, match="architecture is not known"):
        parameter_shapes(RecordedConfig(), TaskConfig())


SHORT = ScheduleConfig(steps=4, evaluate_every=2, checkpoints=2, resume_every=2)
OPTIMIZERS = {
    "adamw": OptimizerConfig(),
    "adam": OptimizerConfig(name="adam"),
    "sgd": OptimizerConfig(name="sgd"),
    "momentum": OptimizerConfig(name="sgd", momentum=0.9),
}


@pytest.fixture(params=OPTIMIZERS)
def config(request) -> RunConfig:
    model = TransformerConfig(d_model=8, n_heads=2, d_mlp=6, positions="sinusoidal")
    return RunConfig(task=TaskConfig(p=5), model=model, optimizer=OPTIMIZERS[request.param], schedule=SHORT)


def test_resume_points(config, tmp_path):
    run = train(config, tmp_path / "run")
    found = load_file(run.path / "resume.safetensors")
    own = {name: tuple(t.shape) for name, t in found.items() if name.startswith(("weights:", "optimizer:"))}
    assert own == state_shapes(config, 4)


def damaged(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Damaged resume points, each of which would silently continue from a different state."""
    weight, moment = "weights:unembed.W_U", next((n for n in tensors if n.endswith(("exp_avg", "buffer"))), None)
    cases = {
        "a weight that would be broadcast": tensors | {weight: torch.zeros(1, 1)},
        "a weight is missing": {name: t for name, t in tensors.items() if name != weight},
        "float64": tensors | {weight: tensors[weight].double()},
        "more than there is": tensors | {"weights:blocks.7.mlp.W_in": torch.zeros(8, 6)},
        "an example that there is not": tensors | {"batches:pending": torch.tensor([0, 99])},
        "no order": {name: t for name, t in tensors.items() if name != "batches:pending"},
        "a random state of another kind": tensors | {"batches:order": torch.zeros(7, dtype=torch.uint8)},
    }
    if moment is not None:
        cases["moments are missing"] = {name: t for name, t in tensors.items() if name != moment}
        cases["moments of another shape"] = tensors | {moment: torch.zeros(1)}
    return cases


def test_a_damaged_resume_point_is_refused(config, tmp_path):
    run = train(config, tmp_path / "run")
    longer = replace(config, schedule=replace(SHORT, steps=6))
    file = run.path / "resume.safetensors"
    intact = {name: tensor for name, tensor in load_file(file).items() if name != "sha256"}
    before = {entry: entry.read_bytes() for entry in run.path.rglob("*.json*")}
    for case, tensors in damaged(intact).items():
        save_file(tensors, file, metadata={"step": "4"})
        with pytest.raises(RunError, match=r"resume.safetensors does not fit config.json .*--restart"):
            train(longer, run.path, resume=True)
        assert {entry: entry.read_bytes() for entry in run.path.rglob("*.json*")} == before, case
