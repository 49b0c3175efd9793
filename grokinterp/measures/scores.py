"""How well each input is answered: cross entropy, hit, margin. In float64, and differentiable."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.tasks import SumClasses


def cross_entropy_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Cross entropy of each input in nats: softplus(logsumexp over the wrong classes - correct logit).

    The same number as logsumexp over all classes - correct logit, without cancelling the digits of a small one.
    """
    return torch.cat([_cross_entropy(*part) for part in _in_cache(logits, labels)])


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    logits, column = logits.double(), labels[:, None]
    correct = logits.gather(1, column).squeeze(1)
    wrong = logits.scatter(1, column, float("-inf"))
    if torch.is_grad_enabled() and wrong.requires_grad:
        return softplus(wrong.logsumexp(dim=1) - correct)
    largest = wrong.amax(dim=1, keepdim=True)
    largest = torch.where(largest == float("-inf"), 0.0, largest)  # no wrong class is possible at all
    total = wrong.sub_(largest).exp_().sum(dim=1)  # in place: half the time of logsumexp
    return softplus(largest.squeeze(1) + total.log_() - correct)


def _in_cache(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each tensor, few enough for what is computed from them to stay in a processor's cache."""
    rows = 1024 if tensors[0].device.type == "cpu" else max(len(tensors[0]), 1)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def cross_entropy_less_table(
    logits: Float[Tensor, "n c"], table: Float[Tensor, "g c"], inputs: SumClasses
) -> Float[Tensor, " inputs"]:
    """Cross entropy of some inputs when the row of their sum class is taken off their logits.

    Args:
        logits: of all inputs.
        table: by sum class.
        inputs: the inputs that are wanted.
    """
    parts = _in_cache(inputs.inputs, inputs.sums, inputs.labels)
    return torch.cat([_cross_entropy(logits[rows] - table[sums], labels) for rows, sums, labels in parts])


def centred_squares_by_input(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Squared norm of each row less its mean."""
    return torch.cat([(part - part.mean(dim=1, keepdim=True)).square_().sum(dim=1) for (part,) in _in_cache(logits)])


def softplus(gap: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 + exp(gap)), to all digits of float64."""
    return F.softplus(gap, threshold=60.0)


def hit_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 where the largest logit is the label's, else 0."""
    return (logits.argmax(dim=1) == labels).double()


def margin_by_input(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The correct logit minus the mean of the others."""
    logits = logits.double()
    correct = logits.gather(1, labels[:, None]).squeeze(1)
    return correct - (logits.sum(dim=1) - correct) / (logits.shape[1] - 1)


def cross_entropy_of_table(table: Float[Tensor, "*k g c"], inputs: SumClasses) -> Float[Tensor, "*k"]:
    """Mean cross entropy where the logits of an input are the row of its sum class in a table.

    Inputs of one sum class and one label have one loss: each such pair is computed once, and counted.

    Args:
        table: logits by sum class; several tables in front of each other.
        inputs: the inputs the mean is over.
    """
    rows = table[..., inputs.answer_sums, :]
    labels = inputs.answer_labels.repeat(rows.shape[:-2].numel())
    losses = cross_entropy_by_input(rows.flatten(0, -2), labels)
    return losses.unflatten(0, rows.shape[:-1]) @ inputs.answer_shares
