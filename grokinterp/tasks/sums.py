"""SumClasses: inputs of a task with a cyclic group, sorted by the class of their sum."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SumClasses:
    """Some of the inputs of a task with a cyclic group, sorted by sum class.

    Attributes:
        inputs: `[n]`, their positions among all inputs.
        sums: `[n]`, the sum class of each input, in ascending order.
        labels: `[n]`, the label of each input.
        places: `[n]`, the position of each input in a flattened table of one row per class and `width` columns.
        width: number of inputs in the largest class.
        answer_sums: `[u]`, the sum class of each distinct pair (sum class, label).
        answer_labels: `[u]`, the label of each of these pairs.
        answer_shares: `[u]`, the fraction of the inputs that have this pair.
    """

    inputs: Int[Tensor, " n"]
    sums: Int[Tensor, " n"]
    labels: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    width: int
    answer_sums: Int[Tensor, " u"]
    answer_labels: Int[Tensor, " u"]
    answer_shares: Float[Tensor, " u"]


def sort_by_sum(sums: Int[Tensor, " n"], labels: Int[Tensor, " n"], mask: Bool[Tensor, " n"]) -> SumClasses:
    """Sorts the inputs in a mask by sum class.

    Args:
        sums: `[n]`, the sum class of every input.
        labels: `[n]`, the label of every input.
        mask: `[n]`, True for the inputs to sort.
    """
    inputs = mask.nonzero().squeeze(1)
    order = sums[inputs].argsort(stable=True)
    inputs = inputs[order]
    sums, labels = sums[inputs], labels[inputs]
    sizes = torch.bincount(sums)
    width = int(sizes.max()) if len(sizes) else 0
    first = sizes.cumsum(0) - sizes
    places = sums * width + torch.arange(len(sums)) - first[sums]
    answers, counts = torch.stack([sums, labels]).unique(dim=1, return_counts=True)
    return SumClasses(inputs, sums, labels, places, width, answers[0], answers[1], counts.double() / len(sums))
