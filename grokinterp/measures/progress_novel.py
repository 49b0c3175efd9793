"""Cross-fitted restricted and excluded loss: fit the projection on held-out pairs, evaluate it on training pairs.

The projection of the in-sample losses (`grokinterp.measures.progress`) averages over training pairs, so memorized
logits leak into it. Here it is fitted on pairs that the model has not seen: neither the pair nor, if the operation
commutes, its mirror is in the training set.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.measures.base import Column, Frequencies, measure
from grokinterp.measures.fourier import angles
from grokinterp.measures.progress import NO_KEYS, keys_of
from grokinterp.measures.scores import cross_entropy_less_table, cross_entropy_of_table
from grokinterp.measures.snapshot import Snapshot, Undefined


@dataclass(frozen=True)
class CrossFit:
    """Least-squares fit of each output on {1, cos w_k(a+b), sin w_k(a+b)} over held-out pairs.

    Attributes:
        constant: `[c]`, the constant term.
        part: `[g, c]`, the part on the key frequencies, by sum class.
    """

    constant: Float[Tensor, " c"]
    part: Float[Tensor, "g c"]


def cross_fit(snapshot: Snapshot, keys: tuple[int, ...]) -> CrossFit | str:
    """The fit, or the reason why it cannot be made.

    Pairs of one sum class have the same row of the design matrix, so their mean enters, weighted by their number.
    """
    if not keys:
        return NO_KEYS
    if not snapshot.finite:
        return "the logits are not finite"
    totals, counts = snapshot.class_sums("held_out")
    order = len(totals)
    theta = angles(order, keys)
    waves = torch.cat([theta.cos(), theta.sin()])
    waves = waves[waves.square().sum(dim=1) > 1e-6]  # the sine of the Nyquist frequency is zero
    unknowns, n_pairs = len(waves) + 1, int(counts.sum())
    if n_pairs < 4 * unknowns:
        return f"{n_pairs} held-out pairs are too few to fit {unknowns} coefficients"
    design = torch.cat([torch.ones(1, order, dtype=torch.float64), waves]).T  # [g, unknowns]
    nonempty = counts > 0
    weight = counts[nonempty].sqrt()[:, None]
    coefficients = torch.linalg.lstsq(design[nonempty] * weight, totals[nonempty] / weight).solution
    return CrossFit(coefficients[0], design[:, 1:] @ coefficients[1:])


@measure(
    "restricted_loss_novel",
    needs=("grid", "split", "reference"),
    columns=Column(
        "restricted_loss_novel", "restricted loss over training pairs, with the projection fitted on held-out pairs"
    ),
)
def restricted_loss_novel(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Cross-fitted restricted loss: the projection is fitted on held-out pairs and the loss is over training pairs.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> restricted_loss_novel(snapshot, (8, 14, 21)) < 0.01
    True

    Per output, least squares of the logits on {1, cos w_k(a+b), sin w_k(a+b)} for k in K over the held-out pairs (novel
    pairs if the operation commutes) replaces the projection P_K, so memorized logits cannot leak into it.

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies K.

    Returns:
        Nats; `Undefined` without key frequencies, or with fewer held-out pairs than 4 (2|K| + 1).

    Raises:
        MissingNeedError: the task has no cyclic group, or the train/test split is unknown.
        ConfigError: a frequency is out of range.
    """
    fit = cross_fit(snapshot, keys_of(snapshot, frequencies))
    if isinstance(fit, str):
        return Undefined(fit)
    return cross_entropy_of_table(fit.constant + fit.part, snapshot.task.sum_classes("train")).item()


@measure(
    "excluded_loss_novel",
    needs=("grid", "split", "reference"),
    columns=Column(
        "excluded_loss_novel", "excluded loss over training pairs, with the projection fitted on held-out pairs"
    ),
)
def excluded_loss_novel(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Cross-fitted excluded loss: the projection is fitted on held-out pairs and the loss is over training pairs.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> excluded_loss_novel(snapshot, (8, 14, 21)) > 4.2  # ln 67 is a uniform guess
    True

    Per output, least squares of the logits on {1, cos w_k(a+b), sin w_k(a+b)} for k in K over the held-out pairs (novel
    pairs if the operation commutes) replaces the projection P_K, so memorized logits cannot leak into it.

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies K.

    Returns:
        Nats; `Undefined` without key frequencies, or with fewer held-out pairs than 4 (2|K| + 1).

    Raises:
        MissingNeedError: the task has no cyclic group, or the train/test split is unknown.
        ConfigError: a frequency is out of range.
    """
    fit = cross_fit(snapshot, keys_of(snapshot, frequencies))
    if isinstance(fit, str):
        return Undefined(fit)
    return cross_entropy_less_table(snapshot.logits, fit.part, snapshot.task.sum_classes("train")).mean().item()
