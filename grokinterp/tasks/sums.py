"""SumClasses: the inputs of a task with a group, sorted by the class that their sum falls into."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SumClasses:
    """Some inputs of a task with a group, sorted by sum class.

    Attributes:
        inputs: their positions among all inputs.
        sums: the sum class of each, ascending.
        labels: the label of each.
        places: where each stands in a table of classes, each with room for `width` inputs, row by row.
        width: number of inputs in the largest class.
        answer_sums: the sum class of each distinct (sum class, label).
        answer_labels: the label of each of these.
        answer_shares: the share of the inputs that each stands for.
    """

    inputs: Int[Tensor, " n"]
    sums: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    width: int
    answer_sums: Int[Tensor, " u"]
    answer_labels: Int[Tensor, " u"]
    answer_shares: Float[Tensor, " u"]


def sort_by_sum(sums: Int[Tensor, " n"], labels: Int[Tensor, " n"], which: Bool[Tensor, " n"]) -> SumClasses:
    """Those inputs of `which` by their sum class.

    Args:
        sums: the sum class of every input.
        labels: the label of every input.
        which: True for the inputs that are taken.
    """
    inputs = which.nonzero().squeeze(1)
    order = sums[inputs].argsort(stable=True)
    inputs = inputs[order]
    sums, labels = sums[inputs], labels[inputs]
    sizes = torch.bincount(sums)
    width = int(sizes.max()) if len(sizes) else 0
    first = sizes.cumsum(0) - sizes
    places = sums * width + torch.arange(len(sums)) - first[sums]
    answers, counts = torch.stack([sums, labels]).unique(dim=1, return_counts=True)
    return SumClasses(inputs, sums, labels, places, width, answers[0], answers[1], counts.double() / len(sums))
