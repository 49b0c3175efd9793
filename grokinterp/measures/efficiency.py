"""Margin ratio: the margin on unseen pairs against the extra margin that only training pairs have.

Varma et al. 2023 (arXiv:2309.02390) give each circuit a parameter norm of its own and call margin per norm its
*circuit efficiency*. In their model the generalizing circuit gives the same margin on seen and unseen pairs, and the
memorizing circuit gives none on unseen pairs. Inside one network both circuits share one parameter vector, and their
norms cannot be told apart; at this common norm, the ratio of efficiencies is a ratio of margins.
"""

from dataclasses import dataclass

import torch

from grokinterp.display import Card, Displayed
from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import Column, Frequencies, as_frequencies, measure
from grokinterp.measures.circuit import cosine_fit
from grokinterp.measures.norms import sum_of_squares
from grokinterp.measures.scores import margin_by_input
from grokinterp.measures.snapshot import Snapshot, Undefined


@dataclass(frozen=True)
class CircuitEfficiency(Displayed):
    """Margins of the generalizing and the memorizing circuit, the margin ratio, and margins per squared norm.

    >>> import grokinterp as gi
    >>> value = circuit_efficiency(gi.Run.open("checkpoints/run42").snapshot(4200))
    >>> round(value.generalized_margin_share, 2)
    0.99

    A field that is NaN is an `Undefined` with the reason.

    Attributes:
        circuit_efficiency_ratio: the margin ratio o_gen / o_mem, a ratio of margins at the common parameter norm. Above
            1, the generalizing circuit provides more than half of the margin on training pairs.
        generalized_margin_share: o_gen / o_train; 1/2 where the margin ratio is 1.
        efficiency_gen: o_gen / P, in logits per squared norm; NaN where o_gen <= 0.
        efficiency_mem: o_mem / P, in logits per squared norm.
        margin_train: o_train, the mean margin on training pairs, in logits.
        margin_gen: o_gen, the mean margin on held-out pairs (novel pairs if the operation commutes), in logits.
        margin_mem: o_mem = o_train - o_gen, in logits.
        sum_of_squares: P, the sum of the squared trained parameters.
        ratio_from_keys: diagnostic: the ratio when o_gen is computed from the cosines of the key frequencies on
            held-out pairs.
        reason: why the margin ratio is NaN; empty if it is a number.
    """

    circuit_efficiency_ratio: float
    generalized_margin_share: float
    efficiency_gen: float
    efficiency_mem: float
    margin_train: float
    margin_gen: float
    margin_mem: float
    sum_of_squares: float
    ratio_from_keys: float
    reason: str = ""

    def _card(self) -> Card:
        facts = {
            "margin ratio": f"{self.circuit_efficiency_ratio:.4g}" if not self.reason else f"none: {self.reason}",
            "margin, training": f"{self.margin_train:.4g} logits",
            "margin, held out": f"{self.margin_gen:.4g} logits",
            "share": f"{self.generalized_margin_share:.4g} of the training margin",
            "sum of squares": f"{self.sum_of_squares:.4g}",
        }
        return Card("Margins of the two circuits", facts, ["efficiency.circuit_efficiency_ratio", "efficiency.reason"])


_DEFINITIONS = {
    "circuit_efficiency_ratio": (
        "margin ratio: margin on held-out pairs / extra margin of training pairs over held-out pairs, both at the same "
        "parameter norm (circuit efficiency, Varma et al. 2023)"
    ),
    "generalized_margin_share": "margin on held-out pairs / margin on training pairs",
    "efficiency_gen": "margin on held-out pairs / sum of squared weights",
    "efficiency_mem": "extra margin of training pairs over held-out pairs / sum of squared weights",
    "margin_gen": "mean over held-out pairs of the correct logit minus the mean of the other logits",
    "margin_mem": "margin on training pairs minus margin on held-out pairs",
    "ratio_from_keys": (
        "diagnostic: margin ratio with the held-out margin computed from the cosines of the key frequencies"
    ),
}


@measure(
    "circuit_efficiency",
    needs=("split", "reference"),
    columns=tuple(Column(name, definition) for name, definition in _DEFINITIONS.items()),
)
def circuit_efficiency(snapshot: Snapshot, frequencies: Frequencies = ()) -> CircuitEfficiency:
    """The margins of the generalizing and the memorizing circuit at one checkpoint, and their ratio.

    With margin(i) = L[i, y_i] - mean over c != y_i of L[i, c], o_train its mean over training pairs and o_gen its mean
    over held-out pairs (novel pairs if the operation commutes), o_mem = o_train - o_gen and the margin ratio is
    o_gen / o_mem. It says, of the margin on training pairs, how much would survive if the pair had never been seen, per
    unit of what would not.

    >>> from grokinterp.tasks import Task
    >>> task = Task.modular_addition(p=31, train_fraction=0.3)
    >>> logits = 6.0 * torch.nn.functional.one_hot(task.labels, 31)
    >>> logits[task.train_mask] *= 2  # training pairs have twice the margin
    >>> efficiency = circuit_efficiency(Snapshot.from_logits(task, logits))
    >>> round(efficiency.margin_train, 9), round(efficiency.margin_gen, 9)
    (12.0, 6.0)
    >>> round(efficiency.circuit_efficiency_ratio, 9)
    1.0

    Args:
        snapshot: the checkpoint; without weights the efficiencies are NaN and the margins are not.
        frequencies: the key frequencies, used only for the diagnostic `ratio_from_keys`.

    Returns:
        The margins, ratios and efficiencies. The margin ratio is NaN if there are fewer held-out pairs than p, if
        accuracy on training pairs is below 0.95, if o_train <= 0 or o_gen <= 0, if o_mem < 0.02 o_train, or if the
        logits are not finite; `reason` says which. `efficiency_gen` is NaN too where o_gen <= 0.

    Raises:
        MissingNeedError: the train/test split is unknown.

    Source:
        Varma et al. 2023 define efficiency; the ratio inside one network is defined here.
    """
    task = snapshot.task
    train, held_out = task.train_mask, task.held_out_mask
    if train is None or held_out is None:
        raise MissingNeedError("circuit_efficiency", "split", snapshot.lacks("split") or "no pair is held out")
    squares = Undefined("the snapshot has no weights") if snapshot.weights is None else sum_of_squares(snapshot)
    n_held_out = int(held_out.sum())
    if not snapshot.finite:
        return _undefined("the logits are not finite", squares)
    if n_held_out < task.p:
        return _undefined(f"{n_held_out} held-out pairs are fewer than p = {task.p}", squares)

    o_train = snapshot.margins[train].mean().item()
    o_gen = snapshot.margins[held_out].mean().item()
    o_mem = o_train - o_gen
    if snapshot.hits[train].mean().item() < 0.95:
        return _undefined("training set not fitted", squares, (o_train, o_gen, o_mem))
    if o_train <= 0:
        return _undefined("no margin on training pairs", squares, (o_train, o_gen, o_mem))
    ratio: float = o_gen / o_mem if o_mem else Undefined("")
    reason = ""
    if o_gen <= 0:
        reason = "no margin on unseen pairs"
    elif o_mem < 0.02 * o_train:
        reason = "memorized margin exhausted"
    return CircuitEfficiency(
        circuit_efficiency_ratio=Undefined(reason) if reason else ratio,
        generalized_margin_share=o_gen / o_train,
        efficiency_gen=_per_norm(o_gen, squares) if o_gen > 0 else Undefined(reason),
        efficiency_mem=_per_norm(o_mem, squares),
        margin_train=o_train,
        margin_gen=o_gen,
        margin_mem=o_mem,
        sum_of_squares=squares,
        ratio_from_keys=_ratio_from_keys(snapshot, frequencies),
        reason=reason,
    )


def _per_norm(margin: float, squares: float) -> float:
    if isinstance(squares, Undefined):
        return squares
    return margin / squares if squares else Undefined("all weights are zero")


def _undefined(reason: str, squares: float, margins: tuple[float, float, float] | None = None) -> CircuitEfficiency:
    """A result without ratio and efficiencies, and without margins where none are given."""
    nan = Undefined(reason)
    return CircuitEfficiency(nan, nan, nan, nan, *(margins or (nan, nan, nan)), squares, nan, reason)


def _ratio_from_keys(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """o_G / o_M: o_G from the key cosines on held-out pairs, o_M the rest of the margin on training pairs."""
    reason = snapshot.lacks("grid")
    if reason is not None:
        return Undefined(reason)
    task, p = snapshot.task, snapshot.pair_grid.order
    keys = as_frequencies(frequencies, p)
    if not keys:
        return Undefined("no key frequencies")
    fit = cosine_fit(snapshot, "held_out")
    o_gen = p / (p - 1) * fit.coefficient[torch.tensor(keys) - 1].sum().item()
    # The margin is linear in the logits, and what all classes of a pair share cancels in it.
    trained = snapshot.grid_mask("train")
    sums, counts = snapshot.class_sums("all")
    mean = sums.sum(dim=0) / int(counts.sum())
    labels = task.labels[trained]
    mean_margins = margin_by_input(mean.expand(len(labels), -1), labels)
    o_mem = (snapshot.margins[trained] - mean_margins).mean().item() - o_gen
    return o_gen / o_mem if o_mem else Undefined("memorized margin exhausted")
