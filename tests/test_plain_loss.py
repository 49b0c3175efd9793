"""PyTorch's float32 cross entropy as a training loss: the effects of its rounding."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import grokinterp as gi
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.training.ensemble_plan import shape_of
from grokinterp.training.gradients import gradients_function
from grokinterp.training.losses import loss_function

PLAIN = RunConfig(
    task=TaskConfig(p=11, train_fraction=0.5),
    model=MLPConfig(width=32),
    optimizer=OptimizerConfig(name="adam", lr=1e-2, weight_decay=0.0),
    schedule=ScheduleConfig(steps=40, evaluate_every=20, checkpoints=40, resume_every=20),
    loss_dtype="float32_plain",
)
SOLVED, LABELS = torch.tensor([[40.0, 0.0, 1.0], [0.0, 1.0, 25.0]]), torch.tensor([0, 2])


def gradient(config: RunConfig) -> torch.Tensor:
    logits = SOLVED.clone().requires_grad_()
    loss_function(config)(logits, LABELS).backward()
    assert logits.grad is not None
    return logits.grad


def test_the_gradient_of_a_solved_example_is_rounded():
    """In exact arithmetic every row sums to 0; if p rounds to 1 in float32, only the wrong classes have a gradient."""
    exact, plain = gradient(replace(PLAIN, loss_dtype="float32")), gradient(PLAIN)
    expected = F.cross_entropy
    logits = SOLVED.clone().requires_grad_()
    expected(logits, LABELS).backward()
    assert torch.equal(plain, logits.grad)
    assert exact.sum(dim=1).abs().max() < 1e-6 * exact.abs().max()
    assert plain[0, 0] == 0.0
    assert plain[0, 1] > 0.0
    assert exact[0, 0] < 0.0


@pytest.mark.parametrize("model", [MLPConfig(width=16), TransformerConfig(d_model=16, n_heads=2, d_mlp=32)])
def test_updates_are_those_of_plain_torch(model):
    """Also on the path that has explicit gradients for the exact loss."""
    config = replace(PLAIN, model=model)
    task = task_of(config)
    module = build_model(config, task)
    weights = dict(module.named_parameters())
    tokens, labels = task.tokens[task.train_mask], task.labels[task.train_mask]
    found = gradients_function(config, forward_for(config.model, task), weights)(tokens, labels)
    ours = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    module.zero_grad()
    logits = module(tokens)
    loss = F.cross_entropy(logits[:, -1] if logits.ndim == 3 else logits, labels)
    loss.backward()
    assert found == pytest.approx(loss.item(), rel=1e-6)
    assert ours
    for name, grad in ours.items():
        torch.testing.assert_close(grad, weights[name].grad, rtol=1e-4, atol=1e-7)


def test_it_resumes_bit_for_bit_and_is_evaluated_exactly(tmp_path):
    whole = gi.train(PLAIN, tmp_path / "whole", progress=False)
    half = replace(PLAIN, schedule=replace(PLAIN.schedule, steps=20))
    gi.train(half, tmp_path / "parts", progress=False)
    parts = gi.train(PLAIN, tmp_path / "parts", resume=True, progress=False)
    assert whole.metrics.equals(parts.metrics)
    task, weights = whole.classification, whole.weights(40)
    logits = forward_for(PLAIN.model, task).logits(weights, task.tokens).double()
    truth = F.cross_entropy(logits[task.train_mask], task.labels[task.train_mask]).item()
    assert whole.metrics["train_loss"].iloc[-1] == pytest.approx(truth, rel=1e-6)


def test_it_is_refused_with_other_losses():
    with pytest.raises(ConfigError, match="float32_plain applies only to loss cross_entropy: with loss mse"):
        replace(PLAIN, loss="mse")
    with pytest.raises(ConfigError, match="train_many does not support loss_dtype float32_plain"):
        shape_of(PLAIN)
