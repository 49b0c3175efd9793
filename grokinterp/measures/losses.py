"""Losses, accuracies and margins of a snapshot, over all inputs or a subset of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.measures.base import Column, measure
from grokinterp.measures.checks import require_labeled
from grokinterp.measures.scores import cross_entropy_by_input, margin_by_input
from grokinterp.measures.snapshot import Snapshot, Subset, Undefined

_SUBSETS: tuple[Subset, ...] = ("train", "test", "mirror", "novel")
_DESCRIPTIONS = {
    "all": "all inputs",
    "train": "training inputs",
    "test": "test inputs",
    "mirror": "test pairs (a, b) whose mirror (b, a) is in the training set",
    "novel": "test pairs (a, b) whose mirror (b, a) is not in the training set",
}


def _columns(name: str, definition: str, subsets: tuple[Subset, ...]) -> tuple[Column, ...]:
    return (
        Column(name, f"{definition}, over {_DESCRIPTIONS['all']}"),
        *(Column(f"{s}_{name}", f"{definition}, over {_DESCRIPTIONS[s]}", {"subset": s}) for s in subsets),
    )


def cross_entropy_from_logits(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats, computed in float64 and accurate even when it is tiny; differentiable.

    >>> logits = torch.tensor([[40.0, 0.0, 0.0]])
    >>> f"{cross_entropy_from_logits(logits, torch.tensor([0])):.3e}"  # float32 would give 0
    '8.497e-18'

    Args:
        logits: `[n, c]`.
        labels: `[n]`, the class of each input.

    Raises:
        ConfigError: an argument has another shape or dtype, or a label is no class.
    """
    require_labeled(logits, labels)
    return cross_entropy_by_input(logits, labels).mean()


def margin_from_logits(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean over inputs of the correct logit minus the mean of the other logits; differentiable.

    >>> margin_from_logits(torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([0])).item()
    3.5

    Args:
        logits: `[n, c]`.
        labels: `[n]`, the class of each input.

    Raises:
        ConfigError: an argument has another shape or dtype, or a label is no class.
    """
    require_labeled(logits, labels)
    return margin_by_input(logits, labels).mean()


def _subset_mean(snapshot: Snapshot, subset: Subset, scores: Float[Tensor, " n"]) -> float:
    """The mean score over a subset of the inputs; NaN if the subset is empty."""
    mask = snapshot.mask(subset)
    count = int(mask.sum())
    if not count:
        return Undefined(f"no {subset} pairs")
    return torch.where(mask, scores, 0.0).sum().item() / count


@measure("loss", columns=_columns("loss", "mean cross entropy in nats", ("train", "test")))
def loss(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Mean cross entropy over a subset of the inputs.

    >>> from grokinterp.tasks import Task
    >>> round(loss(Snapshot.from_logits(Task.modular_addition(p=5), torch.zeros(25, 5))), 4)  # chance: ln 5
    1.6094

    Args:
        snapshot: the checkpoint.
        subset: `all`, `train`, `test`, `novel` or, for a commutative operation, `mirror` (see `Snapshot.mask`).

    Returns:
        Nats; `Undefined` if the subset is empty.

    Raises:
        MissingNeedError: the subset needs a split, which is unknown.
    """
    return _subset_mean(snapshot, subset, snapshot.losses)


@measure("accuracy", columns=_columns("accuracy", "fraction of inputs answered correctly", _SUBSETS))
def accuracy(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Fraction of the inputs in a subset whose largest logit is the label's.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> accuracy(snapshot, subset="novel")
    1.0

    Args:
        snapshot: the checkpoint.
        subset: `all`, `train`, `test`, `novel` or, for a commutative operation, `mirror` (see `Snapshot.mask`).

    Returns:
        From 0 to 1; `Undefined` if the subset is empty or any logit is not finite.

    Raises:
        MissingNeedError: the subset needs a split, which is unknown.
    """
    if not snapshot.finite:
        return Undefined("the logits are not finite")
    return _subset_mean(snapshot, subset, snapshot.hits)


@measure("margin", columns=_columns("margin", "mean of the correct logit minus the mean of the other logits", _SUBSETS))
def margin(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Mean over a subset of the correct logit minus the mean of the other logits.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> margin(snapshot, subset="train") > margin(snapshot, subset="novel") > 10
    True

    Args:
        snapshot: the checkpoint.
        subset: `all`, `train`, `test`, `novel` or, for a commutative operation, `mirror` (see `Snapshot.mask`).

    Returns:
        In logits; `Undefined` if the subset is empty.

    Raises:
        MissingNeedError: the subset needs a split, which is unknown.

    Source:
        Defined here; published margins subtract the largest of the other logits.
    """
    return _subset_mean(snapshot, subset, snapshot.margins)
