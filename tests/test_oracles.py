"""Float32 computations on the CPU and with CUDA against float64, within the bounds of docs/numerics.md.

The reference is simple: the model's own module in float64, losses by their textbook formulas and autograd, and
training as an explicit loop over updates. Other tests (test_models, test_gradients, test_losses) compare the formulas
of the package in float64, to the last digits; these measure the error of float32, on the architecture of every preset.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights import in_float64 as as_float64

from grokinterp.analysis.measure_calls import evaluate as evaluate_call
from grokinterp.analysis.measure_calls import measure_call
from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RegressionConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.config.presets import PRESETS, preset
from grokinterp.measures import registered
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.models.snapshots import snapshot
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.evaluation import evaluate
from grokinterp.training.gradients import gradients_function

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

ROOT = Path(__file__).parent.parent
RUN42 = ROOT / "checkpoints" / "run42"

# Relative errors as stated in docs/numerics.md, by the name of the test that checks them.
BOUNDS = {
    "test_logits": 2e-6,
    "test_loss_of_an_update": 1e-6,
    "test_gradients_of_an_update": 2e-6,
    "test_fifty_updates": 2e-5,
    "test_smooth_networks_stay_together": 5e-5,
    "test_evaluated_losses_of_given_logits": 1e-12,
    "test_late_losses_of_a_training": 5e-5,
    "test_measures_of_a_run": 5e-5,
}


def small(name: str, **more: Any) -> RunConfig:
    """A preset's architecture, task and optimizer, at a size for tests, full batch."""
    config = preset(name)
    model, task, optimizer = config.model, config.task, config.optimizer
    if isinstance(task, TaskConfig) and name != "s5":
        task = replace(task, operands=6) if name == "parity" else replace(task, p=13)
    if isinstance(model, TransformerConfig):
        model = replace(model, d_model=32, n_heads=4, d_mlp=64)
    elif isinstance(model, MLPConfig):
        model = replace(model, width=32, d_embed=32 if model.input in ("sum", "concat") else None)
    assert optimizer is not None
    return replace(config, task=task, model=model, optimizer=replace(optimizer, batch_size=None), **more)


def in_float64(config: RunConfig, weights: dict[str, Tensor]) -> Any:
    """The module itself with these weights, in float64 on the CPU."""
    model = as_float64(build_model(config, task_of(config)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def outputs(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens.double() if tokens.is_floating_point() else tokens)
    return logits[:, -1] if logits.ndim == 3 else logits


def textbook(loss: str, logits: Tensor, labels: Tensor) -> Tensor:
    rows = torch.arange(len(logits))
    if loss == "mse":
        targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
        return ((logits - targets) ** 2).mean()
    if loss == "stablemax":
        scores = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
        return -(scores[rows, labels] / scores.sum(dim=1)).log().mean()
    return -(logits.exp()[rows, labels] / logits.exp().sum(dim=1)).log().mean()


def training_set(config: RunConfig) -> tuple[Tensor, Tensor]:
    task = task_of(config)
    return task.tokens[task.train_mask], task.labels[task.train_mask]


def relative_error(value: Tensor, true: Tensor) -> float:
    """Norm of the difference over the norm of the true value."""
    return ((value.detach().cpu().double() - true).norm() / true.norm()).item()


# --- one forward pass, one update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", PRESETS)
def test_logits(name, seed, device):
    """Error relative to the largest logit; the module itself in float32 is no more accurate."""
    config = small(name)
    task = task_of(config)
    weights = dict(build_model(config, task, seed=seed, device=device).named_parameters())
    with torch.no_grad():
        true = outputs(in_float64(config, weights), task.tokens)
        forward, plain = forward_for(config.model, task), forward_for(config.model, task, plain=True)
        tokens = task.tokens.to(device)
        for logits in (
            forward.logits_by_rows(weights, tokens),
            forward.logits(weights, tokens),
            plain.logits(weights, tokens),
        ):
            assert logits.dtype == torch.float32
            assert ((logits.cpu().double() - true).abs().max() / true.abs().max()).item() <= BOUNDS["test_logits"]


def test_logits_of_a_trained_network_are_as_accurate(device):
    run = Run.open(RUN42)
    weights = {name: w.to(device) for name, w in run.weights(run.steps[-1]).items()}
    with torch.no_grad():
        true = outputs(in_float64(run.config, weights), run.classification.tokens)
        logits = run.forward.logits_by_rows(weights, run.classification.tokens.to(device))
    assert ((logits.cpu().double() - true).abs().max() / true.abs().max()).item() <= BOUNDS["test_logits"]


ARITHMETICS = [
    ("cross_entropy", "float32"),
    ("cross_entropy", "float64"),
    ("cross_entropy", "float32_plain"),
    ("mse", "float32"),
    ("mse", "float64"),
    ("stablemax", "float32"),
    ("stablemax", "float64"),
]
UPDATES = [
    (name, loss, dtype)
    for name in PRESETS
    for loss, dtype in ARITHMETICS
    if loss == "mse" or not isinstance(preset(name).task, RegressionConfig)
]


@cache
def update_of(name: str, loss: str, dtype: str, device: str) -> tuple[float, float]:
    """Relative errors of the loss and of the full gradient of an update, against the textbook formulas in float64."""
    config = small(name, loss=loss, loss_dtype=dtype)
    tokens, labels = training_set(config)
    weights = dict(build_model(config, task_of(config), seed=2, device=device).named_parameters())
    exact = in_float64(config, weights)
    true = textbook(loss, outputs(exact, tokens), labels)
    true.backward()
    forward = forward_for(config.model, task_of(config))
    loss_value = gradients_function(config, forward, weights)(tokens.to(device), labels.to(device))
    trained = [name for name, weight in weights.items() if weight.requires_grad]
    exact_weights = dict(exact.named_parameters())

    def full_gradient(parameters: dict[str, nn.Parameter]) -> Tensor:
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in (parameters[name] for name in trained)]
        return torch.cat([part.detach().cpu().double().flatten() for part in parts])

    return abs(loss_value.item() / true.item() - 1), relative_error(
        full_gradient(weights), full_gradient(exact_weights)
    )


@pytest.mark.parametrize(("name", "loss", "dtype"), UPDATES)
def test_loss_of_an_update(name, loss, dtype, device):
    assert update_of(name, loss, dtype, device)[0] <= BOUNDS["test_loss_of_an_update"]


@pytest.mark.parametrize(("name", "loss", "dtype"), UPDATES)
def test_gradients_of_an_update(name, loss, dtype, device):
    assert update_of(name, loss, dtype, device)[1] <= BOUNDS["test_gradients_of_an_update"]


# --- many updates ----------------------------------------------------------------------------------------------------


def plain_training(config: RunConfig, steps: int) -> tuple[float, dict[str, Tensor]]:
    """Loss before the last update and weights after it, in float64: AdamW, or SGD with momentum and coupled decay."""
    model = build_model(config, task_of(config))
    trains = {name: weight.requires_grad for name, weight in model.named_parameters()}
    exact = in_float64(config, dict(model.named_parameters()))
    named = [(name, weight) for name, weight in exact.named_parameters() if trains[name]]
    tokens, labels = training_set(config)
    options = config.optimizer
    assert options is not None
    first, second = ({name: torch.zeros_like(w) for name, w in named} for _ in range(2))
    loss = torch.zeros(())
    for t in range(steps):
        loss = textbook(config.loss, outputs(exact, tokens), labels)
        gradients = torch.autograd.grad(loss, [w for _, w in named])
        rate = options.lr * (min(t / options.warmup_steps, 1.0) if options.warmup_steps else 1.0)
        with torch.no_grad():
            for (name, w), gradient in zip(named, gradients, strict=True):
                if options.name == "sgd":
                    first[name] = options.momentum * first[name] + gradient + options.weight_decay * w
                    w -= rate * first[name]
                    continue
                beta1, beta2 = options.betas
                w *= 1 - rate * options.weight_decay
                first[name] = beta1 * first[name] + (1 - beta1) * gradient
                second[name] = beta2 * second[name] + (1 - beta2) * gradient**2
                mean, square = first[name] / (1 - beta1 ** (t + 1)), second[name] / (1 - beta2 ** (t + 1))
                w -= rate * mean / (square.sqrt() + options.eps)
    return loss.item(), {name: w.detach() for name, w in exact.named_parameters()}


def relative_differences(config: RunConfig, steps: int, folder: Path, device: str) -> tuple[float, float]:
    """Relative differences in all weights and in the last loss between a run and the explicit loop."""
    schedule = ScheduleConfig(steps, f"dense:{steps - 1}:{steps}:1", steps, steps)
    run = train(replace(config, schedule=schedule), folder / "run", progress=False, device=device)
    loss, weights = plain_training(config, steps)
    run_weights = run.weights(steps)
    assert set(run_weights) == set(weights)
    everything = [torch.cat([w[name].double().flatten() for name in weights]) for w in (run_weights, weights)]
    return relative_error(*everything), abs(run.metrics["train_loss"][steps - 1] / loss - 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["demo", "nanda", "psi", "manir", "power", "parity", "teacher-student"])
def test_fifty_updates(name, dtype, device, tmp_path):
    weights, loss = relative_differences(small(name, loss_dtype=dtype), 50, tmp_path, device)
    assert weights <= BOUNDS["test_fifty_updates"]
    assert loss <= BOUNDS["test_fifty_updates"]


SMOOTH = {
    "manir": small("manir"),
    "teacher-student": small("teacher-student"),
    "psi, gelu": small("psi", loss_dtype="float64"),
}
SMOOTH["psi, gelu"] = replace(SMOOTH["psi, gelu"], model=MLPConfig(width=32, activation="gelu"))


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_networks_stay_together(name, device, tmp_path):
    """Over 400 updates. With ReLU, rounding moves a neuron across 0 and the runs part much earlier."""
    weights, loss = relative_differences(SMOOTH[name], 400, tmp_path, device)
    assert weights <= BOUNDS["test_smooth_networks_stay_together"]
    assert loss <= 2 * BOUNDS["test_smooth_networks_stay_together"]


# --- late losses -----------------------------------------------------------------------------------------------------


def exact_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of log(1 + sum over the wrong classes of exp(z - z_correct)), with numpy's long double."""
    wide, rows = logits.astype(np.longdouble), np.arange(len(labels))
    terms = np.exp(wide - wide[rows, labels][:, None])
    terms[rows, labels] = 0
    return float(np.log1p(terms.sum(axis=1)).mean())


@pytest.mark.parametrize("margin", [3.0, 16.0, 23.0, 28.0, 37.0, 60.0, 300.0])
def test_evaluated_losses_of_given_logits(margin, device):
    """Losses of about 1, 1e-6, 1e-9, 1e-11, 1e-15, 1e-25 and 1e-129, as metrics.jsonl records them for given logits."""
    task = Task.modular_addition(13, train_fraction=0.5)
    logits = torch.randn(169, 13, generator=torch.Generator().manual_seed(1))
    logits = logits.scatter_add(1, task.labels[:, None], torch.full((169, 1), margin))
    row = evaluate(task, logits.to(device), {})
    assert task.train_mask is not None
    for subset, mask in (("train", task.train_mask), ("test", ~task.train_mask)):
        true = exact_loss(logits[mask].numpy(), task.labels[mask].numpy())
        assert row[f"{subset}_loss"] == pytest.approx(true, rel=BOUNDS["test_evaluated_losses_of_given_logits"], abs=0)


@pytest.mark.parametrize("row", [[0.0, np.inf, 1.0], [np.inf, 0.0, 1.0], [0.0, np.nan, 1.0], [np.nan, 0.0, 1.0]])
def test_the_evaluated_loss_of_non_finite_logits_is_not_finite(row):
    """Class 1 is the label: even an infinite correct logit does not count as a solved example."""
    task = Task.modular_addition(3, train_fraction=0.5)
    logits = torch.zeros(9, 3)
    assert task.train_mask is not None
    (index,) = torch.nonzero(task.train_mask & (task.labels == 1))[0].tolist()
    logits[index] = torch.tensor(row)
    assert not np.isfinite(evaluate(task, logits, {})["train_loss"])


def test_late_losses_of_a_training(device, tmp_path):
    """From 1e-7 to 1e-12, the logged loss of float32 logits agrees with the saved weights evaluated in float64."""
    config = RunConfig(
        task=TaskConfig(p=5, train_fraction=0.6),
        model=MLPConfig(width=32),
        optimizer=OptimizerConfig(name="adam", lr=0.1, weight_decay=0.0),
        schedule=ScheduleConfig(steps=1200, evaluate_every=50, checkpoints=50, resume_every=1200),
        loss_dtype="float32",
    )
    run = train(config, tmp_path / "run", progress=False, device=device)
    tokens, labels = training_set(config)
    losses = []
    for step in run.steps[1:]:
        with torch.no_grad():
            logits = outputs(in_float64(config, run.weights(step)), tokens)
        true = exact_loss(logits.numpy(), labels.numpy())
        losses.append(true)
        bound = BOUNDS["test_late_losses_of_a_training"]
        assert run.metrics["train_loss"][step] == pytest.approx(true, rel=bound, abs=0), step
    assert max(losses) > 1e-9
    assert min(losses) < 2e-12


# --- measures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 300, 2300, 4240])
def test_measures_of_a_run(step):
    """The error of every measure from computing the logits in float32; all else is float64."""
    run = Run.open(RUN42)
    task = run.classification
    ours = run.snapshot(step)
    assert ours.weights is not None
    assert ours.logits.dtype == torch.float64
    doubles = {name: w.double() for name, w in ours.weights.items()}
    exact = snapshot(task, run.config.model, doubles, step=step)
    bound, compared = BOUNDS["test_measures_of_a_run"], 0
    for name in registered():
        call = replace(measure_call(name, ()), frequencies=(8, 14, 21))
        measured, true = evaluate_call(call, ours), evaluate_call(call, exact)
        for column, value in true.scalars.items():
            assert measured.scalars[column] == pytest.approx(value, rel=bound, abs=0, nan_ok=True), column
            compared += 1
        for column, values in true.arrays.items():
            largest = np.abs(values).max()
            np.testing.assert_allclose(measured.arrays[column], values, rtol=0, atol=bound * largest, err_msg=column)
            compared += 1
    assert compared > 50


# --- the page that states the bounds ---------------------------------------------------------------------------------


def test_the_page_states_these_bounds():
    page = (ROOT / "docs" / "numerics.md").read_text()
    stated = re.findall(r"\| ([0-9.e-]+) \| `(\w+)` \|$", page, flags=re.M)
    assert {name: float(bound) for bound, name in stated} == BOUNDS
    assert set(BOUNDS) <= set(globals())
