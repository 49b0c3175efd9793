"""Scores of each input (cross entropy, hit, margin) in float64; cross entropy and margin are differentiable."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.tasks import SumClasses


def cross_entropy_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`[n]`, cross entropy of each input in nats: softplus(logsumexp over the wrong classes - correct logit).

    This equals logsumexp over all classes - correct logit, without the cancellation that costs a small loss its digits.
    """
    return torch.cat([_cross_entropy(*part) for part in _in_cache(logits, labels)])


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    logits, column = logits.double(), labels[:, None]
    correct = logits.gather(1, column).squeeze(1)
    wrong = logits.scatter(1, column, -math.inf)
    if torch.is_grad_enabled() and wrong.requires_grad:
        return softplus(wrong.logsumexp(dim=1) - correct)
    largest = wrong.amax(dim=1, keepdim=True)
    largest = torch.where(largest == -math.inf, 0.0, largest)  # every wrong class has logit -inf
    total = wrong.sub_(largest).exp_().sum(dim=1)  # in place takes half the time of logsumexp
    return softplus(largest.squeeze(1) + total.log_() - correct)


def _in_cache(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits tensors into chunks of rows that are small enough for intermediate results to stay in the CPU cache."""
    rows = 1024 if tensors[0].device.type == "cpu" else max(len(tensors[0]), 1)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def cross_entropy_less_table(
    logits: Float[Tensor, "n c"], table: Float[Tensor, "g c"], inputs: SumClasses
) -> Float[Tensor, " inputs"]:
    """Cross entropy of some inputs after the row of their sum class in a table is subtracted from their logits.

    Args:
        logits: `[n, c]`, the logits of all inputs.
        table: `[g, c]`, the row to subtract for each sum class.
        inputs: the inputs to evaluate, in the order of the result.
    """
    parts = _in_cache(inputs.inputs, inputs.sums, inputs.labels)
    return torch.cat([_cross_entropy(logits[rows] - table[sums], labels) for rows, sums, labels in parts])


def cross_entropy_less_each(
    logits: Float[Tensor, "n c"], parts: Float[Tensor, "k g c"], inputs: SumClasses
) -> Float[Tensor, " k"]:
    """Mean cross entropy of some inputs after each of several tables in turn is subtracted from their logits.

    sum_c exp(L_c - part_c) is an inner product of exp(L) and exp(-part) over classes. One matrix product computes it
    for all inputs of a sum class and all parts, and the exponentials of each input are computed only once.

    Args:
        logits: `[n, c]`, the logits of all inputs.
        parts: `[k, g, c]`, the tables to subtract, by sum class.
        inputs: the inputs to average over.

    Returns:
        `[k]`, one mean for each table, in nats.
    """
    k, g, c = parts.shape
    logits, sums, labels = logits[inputs.inputs], inputs.sums, inputs.labels
    wrong = logits.scatter(1, labels[:, None], -math.inf)
    largest = wrong.amax(dim=1, keepdim=True)
    # Pad every sum class to the size of the largest, for one batched product.
    powers = torch.zeros(g * inputs.width, c, dtype=torch.float64)
    powers[inputs.places] = wrong.sub_(largest).exp_()
    negative = torch.neg(parts.transpose(0, 1), out=torch.empty(g, k, c, dtype=torch.float64))
    shift = negative.amax(dim=2)  # [g, k]
    factors = negative.sub_(shift[:, :, None]).exp_()
    totals = powers.view(g, inputs.width, c) @ factors.transpose(1, 2)  # [g, width, k]
    total = totals.flatten(0, 1)[inputs.places]
    correct = logits.gather(1, labels[:, None]) - parts[:, sums, labels].T
    losses = softplus(largest + shift[sums] + total.log() - correct)
    inaccurate = ~(total > 1e-280)  # underflow or NaN: compute these losses directly
    for i in inaccurate.any(dim=0).nonzero().flatten().tolist() if inaccurate.any() else []:
        rows = inaccurate[:, i]
        losses[rows, i] = cross_entropy_by_input(logits[rows] - parts[i, sums[rows]], labels[rows])
    return losses.mean(dim=0)


def centered_squares_by_input(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """`[n]`, the squared norm of each row after its mean is subtracted."""
    return torch.cat([(part - part.mean(dim=1, keepdim=True)).square_().sum(dim=1) for (part,) in _in_cache(logits)])


def softplus(gap: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 + exp(gap)), accurate to float64 precision."""
    return F.softplus(gap, threshold=60.0)


def hit_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`[n]`, 1 if the largest logit of the input is its label's, else 0."""
    return (logits.argmax(dim=1) == labels).double()


def margin_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """`[n]`, the correct logit of each input minus the mean of its other logits."""
    logits = logits.double()
    correct = logits.gather(1, labels[:, None]).squeeze(1)
    return correct - (logits.sum(dim=1) - correct) / (logits.shape[1] - 1)


def cross_entropy_of_table(table: Float[Tensor, "*k g c"], inputs: SumClasses) -> Float[Tensor, "*k"]:
    """Mean cross entropy of some inputs when the logits of each are the row of its sum class in a table.

    Inputs with the same sum class and label have the same loss, so each combination is computed once and weighted.

    Args:
        table: `[..., g, c]`, one or more tables of logits by sum class.
        inputs: the inputs to average over.

    Returns:
        One mean for each table, in nats.
    """
    rows = table[..., inputs.answer_sums, :]
    labels = inputs.answer_labels.repeat(rows.shape[:-2].numel())
    losses = cross_entropy_by_input(rows.flatten(0, -2), labels)
    return losses.unflatten(0, rows.shape[:-1]) @ inputs.answer_shares
