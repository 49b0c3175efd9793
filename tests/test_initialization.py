"""Initial weights, drawn without TransformerLens, are those of the model that it builds."""

import sys

import processes
import pytest
import torch

from grokinterp.config import MLPConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.models import build_model, initial_parameters, task_of

MODELS = {
    "plain": TransformerConfig(d_model=8, d_mlp=12, n_heads=2),
    "nanda": TransformerConfig(d_model=8, d_mlp=12, n_heads=2, biases="mlp", equals_logit=True, init="nanda"),
    "layernorm": TransformerConfig(d_model=8, d_mlp=12, n_heads=2, n_layers=2, normalization="layernorm"),
    "encoder": TransformerConfig(
        d_model=8,
        d_mlp=12,
        n_heads=2,
        n_layers=2,
        normalization="post_layernorm",
        attention="bidirectional",
        readout="mean",
        positions="sinusoidal",
        init="torch_encoder",
    ),
    "one-hot MLP": MLPConfig(width=16, depth=3),
    "residual MLP": MLPConfig(width=16, input="sum", d_embed=16, architecture="residual", init="normal"),
    "two tables": MLPConfig(width=16, input="concat", d_embed=8, shared_embedding=False, biases=False, init="unit"),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_names_order_values_and_frozen_parameters(model):
    config = RunConfig(task=TaskConfig(p=7), model=model, model_seed=5)
    task = task_of(config)
    parameters, built = initial_parameters(config, task), dict(build_model(config, task).named_parameters())
    assert list(parameters) == list(built)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, built[name]), name
        assert parameter.requires_grad == built[name].requires_grad, name


def test_training_does_not_import_transformer_lens(tmp_path):
    script = f"""
import sys
import grokinterp as gi
model = gi.TransformerConfig(d_model=8, n_heads=2, d_mlp=8)
config = gi.RunConfig(gi.TaskConfig(p=5), model, schedule=gi.ScheduleConfig(steps=2))
gi.train(config, {str(tmp_path / "run")!r}, progress=False)
print("transformer_lens" in sys.modules)
"""
    outcome = processes.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert outcome.stdout.strip() == "False"
