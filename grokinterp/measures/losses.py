"""Losses, accuracies and margins of a snapshot, over all inputs or a subset of them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.measures.base import Column, Snapshot, Subset, Undefined, measure

_SUBSETS: tuple[Subset, ...] = ("train", "test", "mirror", "novel")
_WHERE = {
    "all": "all inputs",
    "train": "training inputs",
    "test": "test inputs",
    "mirror": "test pairs (a, b) whose mirror (b, a) was trained on",
    "novel": "test pairs (a, b) whose mirror (b, a) was not trained on either",
}


def _columns(what: str, definition: str, subsets: tuple[Subset, ...]) -> tuple[Column, ...]:
    return (
        Column(what, f"{definition}, over {_WHERE['all']}"),
        *(Column(f"{s}_{what}", f"{definition}, over {_WHERE[s]}", {"subset": s}) for s in subsets),
    )


def cross_entropy_from_logits(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats, computed in float64."""
    return F.cross_entropy(logits.double(), labels)


def margin_from_logits(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean over inputs of the correct logit minus the mean of the others (Varma et al. 2023)."""
    logits = logits.double()
    correct = logits.gather(1, labels[:, None]).squeeze(1)
    others = (logits.sum(dim=1) - correct) / (logits.shape[1] - 1)
    return (correct - others).mean()


def _share_right(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> float:
    if not torch.isfinite(logits).all():
        return Undefined("the logits are not finite")
    return (logits.argmax(dim=1) == labels).double().mean().item()


def _over(snapshot: Snapshot, subset: Subset, score: Callable[[Tensor, Tensor], float]) -> float:
    """The score of a subset's logits and labels; NaN where the subset holds no pairs."""
    mask = snapshot.mask(subset)
    if not mask.any():
        return Undefined(f"no {subset} pairs")
    return score(snapshot.logits[mask], snapshot.task.labels[mask])


@measure("loss", columns=_columns("loss", "mean cross entropy in nats", ("train", "test")))
def loss(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Mean cross entropy in nats over a subset of the inputs; chance level is ln p.

    Raises:
        MissingNeedError: the subset needs a split that is not known.
    """
    return _over(snapshot, subset, lambda logits, labels: cross_entropy_from_logits(logits, labels).item())


@measure("accuracy", columns=_columns("accuracy", "share of inputs answered right", _SUBSETS))
def accuracy(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Share of the inputs of a subset whose largest logit is the label's.

    Raises:
        MissingNeedError: the subset needs a split that is not known.
    """
    return _over(snapshot, subset, _share_right)


@measure("margin", columns=_columns("margin", "mean of the correct logit minus the mean of the others", _SUBSETS))
def margin(snapshot: Snapshot, *, subset: Subset = "all") -> float:
    """Mean over a subset of the correct logit minus the mean of the other logits.

    Raises:
        MissingNeedError: the subset needs a split that is not known.
    """
    return _over(snapshot, subset, lambda logits, labels: margin_from_logits(logits, labels).item())
