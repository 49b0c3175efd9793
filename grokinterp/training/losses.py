"""Training losses, which stay exact late in training, and their gradients with respect to the logits."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import PLAIN, RegressionConfig, RunConfig

Loss = Callable[[Tensor, Tensor], Tensor]

# Smaller gradients have no effect in float32, but would become denormal numbers, which make late steps very slow.
_NEGLIGIBLE_GRADIENT = 1e-30
_NEGLIGIBLE_SHARE = 1e-24
# Terms below exp of this, relative to the largest, do not change the sum.
_NEGLIGIBLE_EXPONENT = {torch.float32: -30.0, torch.float64: -60.0}


def cross_entropy_and_gradient(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], count: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
    """Computes each example's share of the mean cross entropy of `count` examples, and the gradient of their sum.

    The form softplus(logsumexp over the wrong classes - correct logit) avoids the cancellation that would destroy the
    digits of a small loss.

    Args:
        logits: `[n, c]`, of at least two classes.
        labels: `[n]`, the correct classes.
        count: number of examples in the mean; at least n.
    """
    column = labels[:, None]
    correct = logits.gather(1, column)
    terms = logits.clone().scatter_(1, column, float("-inf"))  # faster than scatter
    runner_up = terms.amax(dim=1, keepdim=True)
    terms.sub_(runner_up)
    # On x86, exp of a very negative number, -inf included, takes 20 times as long as that of a moderate one.
    limit = _NEGLIGIBLE_EXPONENT[logits.dtype]
    torch.threshold_(terms.clamp_(min=limit - 1).exp_(), math.exp(limit), 0.0)
    total = terms.sum(dim=1, keepdim=True)
    # Large numbers come first, because their difference is exact. An infinite correct logit gives NaN, not a loss of 0.
    gap = (runner_up - correct) + total.log() + 0.0 * correct
    share = F.hardshrink(torch.sigmoid(gap) / count, _NEGLIGIBLE_SHARE)
    gradient = terms.mul_(share / total).scatter_(1, column, -share)
    losses = F.softplus(gap, threshold=60.0).squeeze(1) / count
    return losses, torch.ops.aten.hardshrink.out(gradient, _NEGLIGIBLE_GRADIENT, out=gradient)


def stablemax_and_gradient(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], count: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
    """Computes each example's share of the mean StableMax loss of `count` examples, and the gradient of their sum.

    The loss is the cross entropy of s(x_i) / sum_j s(x_j), where s(x) = x + 1 for x >= 0 and s(x) = 1 / (1 - x) for
    x < 0 replace exp (Prieto et al. 2025, arXiv:2501.04697). The form log(1 + sum over the wrong classes / correct)
    keeps small values from being rounded away.

    Args:
        logits: `[n, c]`, of at least two classes.
        labels: `[n]`, the correct classes.
        count: number of examples in the mean; at least n.
    """
    column = labels[:, None]
    below = (1.0 - logits.clamp(max=0.0)).reciprocal()
    scores = torch.where(logits < 0, below, logits + 1.0)
    correct = scores.gather(1, column)
    wrong = scores.scatter(1, column, 0.0).sum(dim=1, keepdim=True)
    slopes = torch.where(logits < 0, below.square(), 1.0)
    gradient = slopes / ((wrong + correct) * count)
    gradient_of_correct = -slopes.gather(1, column) / correct * (wrong / (wrong + correct)) / count
    # An infinite correct logit gives NaN, not a loss of 0.
    losses = torch.log1p(wrong / correct + 0.0 * logits.gather(1, column)).squeeze(1) / count
    return losses, gradient.scatter(1, column, gradient_of_correct)


def squared_error_and_gradient(
    logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"] | Float[Tensor, "n c"], count: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n c"]]:
    """Computes each example's share of the mean squared error of `count` examples, and the gradient of their sum.

    Args:
        logits: `[n, c]`, of each class, or the outputs of a regression.
        labels: the correct classes, or the targets of a regression.
        count: number of examples in the mean; at least n.
    """
    targets = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1])
    difference = logits - targets.to(logits.dtype)
    numbers = count * logits.shape[1]
    return difference.square().sum(dim=1) / numbers, difference * (2.0 / numbers)


# By the name of a run's loss.
LOSSES_AND_GRADIENTS: dict[str, Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    "cross_entropy": cross_entropy_and_gradient,
    "stablemax": stablemax_and_gradient,
    "mse": squared_error_and_gradient,
}


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, compute: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        losses, gradient = compute(logits, labels, len(labels))
        ctx.save_for_backward(gradient)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():  # a second derivative through saved tensors would be wrong without notice
            raise RuntimeError("a training loss has only a first derivative: use torch.nn.functional.cross_entropy")
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None


def cross_entropy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats, in the dtype of the logits, exact even if it is tiny. Needs at least two classes.

    PyTorch's float32 cross entropy rounds log(1 - tiny) to 0, which this form avoids. Prieto et al. 2025
    (arXiv:2501.04697) describe the effect of the rounding on grokking.
    """
    return _WithGradient.apply(logits, labels, cross_entropy_and_gradient)  # pyright: ignore[reportReturnType]


def stablemax(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean StableMax cross entropy in nats (see `stablemax_and_gradient`), in the dtype of the logits."""
    return _WithGradient.apply(logits, labels, stablemax_and_gradient)  # pyright: ignore[reportReturnType]


def mean_squared_error(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean squared distance to the one-hot labels, over examples and classes."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def loss_dtype(config: RunConfig) -> torch.dtype:
    """The dtype in which a run computes its training loss."""
    return torch.float64 if config.loss_dtype == "float64" else torch.float32


def loss_function(config: RunConfig) -> Loss:
    """The training loss of a run: a function of float32 logits (or outputs) and labels, computed in `loss_dtype`."""
    dtype = loss_dtype(config)
    if isinstance(config.task, RegressionConfig):
        return lambda outputs, labels: F.mse_loss(outputs.to(dtype), labels.to(dtype))
    if config.loss_dtype == PLAIN:
        return F.cross_entropy
    loss = {"cross_entropy": cross_entropy, "stablemax": stablemax, "mse": mean_squared_error}[config.loss]
    return lambda logits, labels: loss(logits.to(dtype), labels)
