"""Losses and their gradients against float64 and extended precision, from the first step to the last."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from grokinterp.config import RunConfig
from grokinterp.tasks import Task
from grokinterp.training.evaluation import evaluate
from grokinterp.training.losses import (
    cross_entropy,
    cross_entropy_and_gradient,
    loss_function,
    mean_squared_error,
    stablemax,
    stablemax_and_gradient,
)

N, C = 300, 113
LOSSES = [4.7, 1.0, 1e-2, 1e-4, 1e-6, 1e-7, 1e-8]
INF, NAN = math.inf, math.nan


# --- logits whose loss is known --------------------------------------------------------------------------------------


@cache
def answers() -> Tensor:
    return torch.randint(C, (N,), generator=torch.Generator().manual_seed(1))


@cache
def logits_with_loss(target: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random logits whose correct entries are raised until the loss is about `target`."""
    logits = 0.3 * torch.randn(N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    column = answers()[:, None]
    low, high = -5.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        raised = logits.scatter_add(1, column, torch.full((N, 1), middle, dtype=torch.float64))
        low, high = (middle, high) if F.cross_entropy(raised, answers()) > target else (low, middle)
    return logits.scatter_add(1, column, torch.full((N, 1), low, dtype=torch.float64)).to(dtype)


@cache
def wave_logits_with_loss(target: float) -> Tensor:
    """The logits of a grokked network, sums of cos(w_k (label - class)), scaled until the loss is about `target`.

    Each wrong class has its mirror image with the same logit, and most lie far below the runners-up.
    """
    angles = 2 * math.pi * (answers()[:, None] - torch.arange(C)).double() / C
    waves = torch.stack([torch.cos(k * angles) for k in (1, 7, 20, 33)]).sum(dim=0)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if F.cross_entropy(middle * waves, answers()) > target else (low, middle)
    return (low * waves).float()


LOGITS = {"random": logits_with_loss, "waves": wave_logits_with_loss}


def exact_cross_entropy(logits: Tensor) -> tuple[float, np.ndarray]:
    """Value and gradient by the textbook formula, with the 64-bit mantissa of numpy's long double."""
    z, y = logits.double().numpy().astype(np.longdouble), answers().numpy()
    exponentials = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(z))
    others = exponentials.copy()
    others[rows, y] = 0
    wrong = others.sum(axis=1) / exponentials.sum(axis=1)
    gradient = probabilities.copy()
    gradient[rows, y] = -wrong
    return float(np.mean(-np.log1p(-wrong))), (gradient / len(z)).astype(np.float64)


def value_and_gradient(loss: Any, logits: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, answers() if labels is None else labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def relative(found: Any, true: Any) -> float:
    difference = np.asarray(found, dtype=np.float64) - np.asarray(true, dtype=np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(true, dtype=np.float64)))


# --- digits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", LOSSES)
@pytest.mark.parametrize("kind", LOGITS)
def test_float32_cross_entropy_has_the_digits_of_float64(kind, target):
    """For the same float32 logits: the rounding of the logits is not an error of the loss."""
    logits = LOGITS[kind](target)
    true_value, true_gradient = value_and_gradient(F.cross_entropy, logits.double())
    assert true_value.item() == pytest.approx(target, rel=1e-3)
    value, gradient = value_and_gradient(cross_entropy, logits)
    assert value.dtype == gradient.dtype == torch.float32
    assert value.item() == pytest.approx(true_value.item(), rel=2e-6)
    assert relative(gradient, true_gradient) <= 1e-5
    each = (gradient.double() - true_gradient).norm(dim=1) / true_gradient.norm(dim=1)
    assert each.max().item() <= 1e-5


@pytest.mark.parametrize(("target", "error"), [(1e-6, 0.01), (1e-7, 0.1), (1e-8, 0.9)])
def test_plain_float32_cross_entropy_lacks_them(target, error):
    logits = logits_with_loss(target)
    true_value, true_gradient = value_and_gradient(F.cross_entropy, logits.double())
    value, gradient = value_and_gradient(F.cross_entropy, logits)
    assert abs(value.item() - true_value.item()) > error * true_value.item()
    assert relative(gradient, true_gradient) > error


@pytest.mark.parametrize("target", [*LOSSES, 1e-12, 1e-18])
def test_float64_cross_entropy_against_extended_precision(target):
    logits = logits_with_loss(target, torch.float64)
    true_value, true_gradient = exact_cross_entropy(logits)
    value, gradient = value_and_gradient(cross_entropy, logits)
    assert value.dtype == gradient.dtype == torch.float64
    assert value.item() == pytest.approx(true_value, rel=1e-13)
    assert relative(gradient, true_gradient) <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_of_confident_mistakes(dtype):
    logits = torch.zeros(N, C, dtype=dtype).scatter(1, answers()[:, None], -500.0)
    logits[:, 0] += torch.where(answers() == 0, 0.0, 300.0).to(dtype)
    true_value, true_gradient = value_and_gradient(F.cross_entropy, logits.double())
    value, gradient = value_and_gradient(cross_entropy, logits)
    assert value.item() == pytest.approx(true_value.item(), rel=1e-6)
    assert relative(gradient, true_gradient) <= 1e-6


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
def test_cross_entropy_does_not_change_with_a_shift_of_all_logits(shift):
    logits = logits_with_loss(1e-3, torch.float64)
    assert cross_entropy(logits + shift, answers()).item() == pytest.approx(
        cross_entropy(logits, answers()).item(), rel=1e-9
    )


# An example of class 1, computed by hand: loss and gradient.
BY_HAND = {
    "two classes, right": ([0.0, 3.0], math.log1p(math.exp(-3)), [1 / (1 + math.exp(3)), -1 / (1 + math.exp(3))]),
    "two classes, wrong": ([3.0, 0.0], math.log1p(math.exp(3)), [1 / (1 + math.exp(-3)), -1 / (1 + math.exp(-3))]),
    "two classes, tied": ([5.0, 5.0], math.log(2), [1 / 2, -1 / 2]),
    "all tied": ([7.0] * 4, math.log(4), [1 / 4, -3 / 4, 1 / 4, 1 / 4]),
    "tied with the runner-up": ([2.0, 2.0, -90.0], math.log(2), [1 / 2, -1 / 2, 0.0]),
    "runners-up tied": ([0.0, 0.0, -200.0, 0.0], math.log(3), [1 / 3, -2 / 3, 0.0, 1 / 3]),
    "a class that cannot be": ([0.0, 0.0, -INF], math.log(2), [1 / 2, -1 / 2, 0.0]),
    "huge, tied": ([1e30, 1e30, 0.0], math.log(2), [1 / 2, -1 / 2, 0.0]),
    "huge, right": ([-1e30, 1e30, 1e29], 0.0, [0.0, 0.0, 0.0]),
    "huge, wrong": ([1e30, -1e30, 0.0], 2e30, [1.0, -1.0, 0.0]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("row", "loss", "gradient"), BY_HAND.values(), ids=BY_HAND)
def test_cross_entropy_by_hand(row, loss, gradient, dtype):
    digits = 1e-6 if dtype == torch.float32 else 1e-14
    value, found = value_and_gradient(cross_entropy, torch.tensor([row], dtype=dtype), torch.tensor([1]))
    assert value.item() == pytest.approx(loss, rel=digits)
    assert found[0].tolist() == pytest.approx(gradient, rel=digits, abs=1e-30)


@pytest.mark.parametrize("correct", range(4))
def test_each_class_may_be_the_correct_one(correct):
    """The sum over the wrong classes omits the correct class, wherever it is and whatever its logit."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 30.0]], dtype=torch.float64)
    true_value, true_gradient = value_and_gradient(F.cross_entropy, logits, torch.tensor([correct]))
    value, gradient = value_and_gradient(cross_entropy, logits, torch.tensor([correct]))
    assert value.item() == pytest.approx(true_value.item(), rel=1e-14)
    torch.testing.assert_close(gradient, true_gradient, rtol=1e-13, atol=1e-16)


def test_the_logits_are_left_as_they_are():
    logits = logits_with_loss(1e-2).clone()
    cross_entropy_and_gradient(logits, answers(), N)
    assert torch.equal(logits, logits_with_loss(1e-2))


# --- parts of a mean, and what it is multiplied by -------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[N], [100, 100, 100], [1, 298, 1], [7] * 42 + [6]], ids=["1", "3", "odd", "43"])
@pytest.mark.parametrize("target", [4.7, 1e-4, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_sum_to_the_mean_over_all_examples(dtype, target, sizes):
    logits = logits_with_loss(target, dtype)
    parts = [
        cross_entropy_and_gradient(z, y, N) for z, y in zip(logits.split(sizes), answers().split(sizes), strict=True)
    ]
    value, gradient = value_and_gradient(cross_entropy, logits)
    assert [part.shape for part, _ in parts] == [(size,) for size in sizes]
    digits = 1e-6 if dtype == torch.float32 else 1e-14
    assert sum(part.sum().item() for part, _ in parts) == pytest.approx(value.item(), rel=digits)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient, rtol=10 * digits, atol=1e-30)


def test_gradient_of_cross_entropy_scales_with_what_it_is_multiplied_by():
    logits = logits_with_loss(1.0, torch.float64)
    _, plain = value_and_gradient(cross_entropy, logits)
    _, tripled = value_and_gradient(lambda z, y: 3 * cross_entropy(z, y), logits)
    torch.testing.assert_close(tripled, 3 * plain)


def test_second_derivatives_are_right_or_refused():
    """For a nonlinear network, a graph without the curvature of the loss would give a wrong number."""
    data = torch.randn(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(4, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def curvature(loss: Any) -> Tensor:
        (gradient,) = torch.autograd.grad(loss((data @ weight) ** 2, answers()), weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    try:
        found = curvature(cross_entropy)
    except RuntimeError:
        return
    torch.testing.assert_close(found, curvature(F.cross_entropy))


# --- what is not a number --------------------------------------------------------------------------------------------

# Rows whose correct class is 1.
NOT_FINITE = {
    "the correct logit is NaN": [0.0, NAN, 1.0],
    "a wrong logit is NaN": [NAN, 0.0, 1.0],
    "all are NaN": [NAN, NAN, NAN],
    "a wrong logit is inf": [INF, 0.0, 1.0],
    "two wrong logits are inf": [INF, 0.0, INF],
    "the correct logit is -inf": [0.0, -INF, 1.0],
    "the correct one and a wrong one are inf": [INF, INF, 0.0],
    "NaN beside inf": [NAN, 0.0, INF],
    "all are -inf": [-INF, -INF, -INF],
    "the correct logit is inf": [0.0, INF, 1.0],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=name) for name, row in NOT_FINITE.items()],
)
def test_non_finite_logits_give_a_non_finite_loss(row, dtype):
    """A run detects divergence by its loss. One bad example among good ones is enough."""
    logits = torch.cat([logits_with_loss(1e-4)[:, :3], torch.tensor([row])])
    labels = torch.cat([torch.zeros(N, dtype=torch.int64), torch.tensor([1])])
    assert not torch.isfinite(F.cross_entropy(logits.double(), labels))
    assert not torch.isfinite(loss_function(RunConfig(loss_dtype=dtype))(logits, labels))


# --- where numbers end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [60.0, 70.0, 80.0, 90.0, 100.0, 200.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_denormals_reach_the_weights(margin, dtype):
    logits = torch.randn(N, C, generator=torch.Generator().manual_seed(2)).scatter(1, answers()[:, None], margin)
    _, gradient = value_and_gradient(loss_function(RunConfig(loss_dtype=dtype)), logits)
    assert gradient.dtype == torch.float32
    assert torch.isfinite(gradient).all()
    smallest_normal = torch.finfo(torch.float32).tiny
    assert not ((gradient != 0) & (gradient.abs() < smallest_normal)).any()


def test_the_plain_loss_makes_denormals_there():
    logits = torch.randn(N, C, generator=torch.Generator().manual_seed(2)).scatter(1, answers()[:, None], 90.0)
    _, gradient = value_and_gradient(lambda z, y: F.cross_entropy(z.double(), y), logits)
    assert ((gradient != 0) & (gradient.abs() < torch.finfo(torch.float32).tiny)).any()


@pytest.mark.parametrize("target", [1e-8, 1e-12, 1e-18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_with_a_representable_gradient_keep_it(dtype, target):
    _, gradient = value_and_gradient(cross_entropy, logits_with_loss(target, dtype))
    assert (gradient != 0).any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropped_terms_of_a_gradient_do_not_change_its_sums(dtype):
    """Terms far below the largest, and gradients far below Adam's eps, are set to 0."""
    logits = wave_logits_with_loss(1e-8).to(dtype)
    _, gradient = value_and_gradient(cross_entropy, logits)
    _, true_gradient = value_and_gradient(F.cross_entropy, logits.double())
    left_out = gradient == 0
    assert left_out.any()
    assert true_gradient[left_out].norm() <= 1e-12 * true_gradient.norm()


# --- StableMax -------------------------------------------------------------------------------------------------------


def naive_stablemax(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(s(x_y) / sum s(x_i)) as published, in float64."""
    x = logits.double()
    scores = torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))
    return -torch.log(scores[torch.arange(len(x)), labels] / scores.sum(dim=1)).mean()


def logits_of_size(size: float) -> Tensor:
    return size * torch.randn(N, C, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4, 1e8])
def test_stablemax_is_the_formula_with_its_gradient(size, dtype):
    logits = logits_of_size(size)
    value, gradient = value_and_gradient(stablemax, logits.to(dtype))
    true, true_gradient = value_and_gradient(naive_stablemax, logits.double())
    digits = 1e-6 if dtype == torch.float32 else 1e-13
    assert value.dtype == dtype
    assert value.item() == pytest.approx(true.item(), rel=digits)
    np.testing.assert_allclose(gradient, true_gradient, rtol=20 * digits, atol=digits * true_gradient.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("row", "loss", "gradient"),
    [
        ([0.0, 0.0], math.log(2), [-0.5, 0.5]),
        ([1.0, 0.0], math.log(3 / 2), [-1 / 6, 1 / 3]),
        ([-1.0, 0.0], math.log(3), [-1 / 3, 2 / 3]),
        ([3.0, -3.0], math.log1p(1 / 16), [-1 / 68, 1 / 68]),
        ([1e4, -1e4], math.log1p(1 / 10001**2), [-1 / (10001**3 + 10001), 1 / (10001**3 + 10001)]),
        ([-1e4, 1e4], math.log1p(10001**2), [-10001 / (10001**2 + 1), 10001 / (10001**2 + 1)]),
    ],
)
def test_stablemax_by_hand(row, loss, gradient, dtype):
    """The first class is correct; s(1) = 2, s(0) = 1, s(-1) = 1/2, s(-3) = 1/4."""
    logits = torch.tensor([row], dtype=dtype)
    losses, found = stablemax_and_gradient(logits, torch.tensor([0]), 1)
    digits = 1e-6 if dtype == torch.float32 else 1e-13
    assert losses.item() == pytest.approx(loss, rel=digits)
    assert found.tolist() == [pytest.approx(gradient, rel=digits)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, 1e12, 1e18])
def test_stablemax_stays_finite_and_learns_at_any_logits(size, dtype):
    """Where softmax's float32 gradient of a solved example is 0, StableMax's is not."""
    signs = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    logits = (size * signs).to(dtype).requires_grad_()
    loss = stablemax(logits, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    if size == 1e4:
        assert (logits.grad != 0).all()


@pytest.mark.parametrize("count", [3, 50])
def test_parts_of_stablemax_sum_to_its_mean(count):
    logits, labels = logits_of_size(3.0)[:count], answers()[:count]
    losses, gradient = stablemax_and_gradient(logits.double(), labels, 2 * count)
    value, whole = value_and_gradient(lambda z, y: stablemax(z, y[:count]), logits.double())
    assert losses.sum().item() == pytest.approx(value.item() / 2, rel=1e-13)
    np.testing.assert_allclose(gradient, whole / 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", [[INF, 1.0], [1.0, INF], [NAN, 1.0], [1.0, NAN], [-INF, 1.0]])
def test_stablemax_of_non_finite_logits_is_non_finite(row, dtype):
    loss = stablemax(torch.tensor([row], dtype=dtype), torch.tensor([0]))
    assert not torch.isfinite(loss)


def test_stablemax_is_what_is_logged():
    task = Task.modular_addition(p=11, train_fraction=0.5, data_seed=0)
    logits = 5 * torch.randn(121, 11, generator=torch.Generator().manual_seed(2))
    row = evaluate(task, logits, {}, "stablemax")
    for subset, mask in (("train", task.train_mask), ("test", task.test_mask)):
        assert mask is not None
        found = naive_stablemax(logits[mask], task.labels[mask]).item()
        assert row[f"{subset}_loss"] == pytest.approx(found, rel=1e-12)
        assert abs(found - F.cross_entropy(logits[mask], task.labels[mask]).item()) > 0.1


# --- mean squared error, and the loss of a run -----------------------------------------------------------------------


def test_mean_squared_error_against_numpy():
    logits = logits_with_loss(1.0, torch.float64)
    z, hot = logits.numpy(), np.eye(C)[answers().numpy()]
    value, gradient = value_and_gradient(mean_squared_error, logits)
    assert value.item() == pytest.approx(((z - hot) ** 2).mean(), rel=1e-14)
    np.testing.assert_allclose(gradient, 2 * (z - hot) / (N * C), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-5), ("float64", 1e-12)])
def test_a_run_has_the_loss_of_its_dtype(dtype, digits):
    logits = logits_with_loss(1e-4)
    value = loss_function(RunConfig(loss_dtype=dtype))(logits, answers())
    assert value.dtype == getattr(torch, dtype)
    assert value.item() == pytest.approx(F.cross_entropy(logits.double(), answers()).item(), rel=digits)
    squared = loss_function(RunConfig(loss="mse", loss_dtype=dtype))(logits, answers())
    assert squared.dtype == getattr(torch, dtype)
    stable = loss_function(RunConfig(loss="stablemax", loss_dtype=dtype))(logits, answers())
    assert stable.dtype == getattr(torch, dtype)
    assert stable.item() == pytest.approx(naive_stablemax(logits, answers()).item(), rel=digits)
    hot = np.eye(C)[answers().numpy()]
    assert squared.item() == pytest.approx(((logits.double().numpy() - hot) ** 2).mean(), rel=digits)
