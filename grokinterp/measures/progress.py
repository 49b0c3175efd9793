"""Restricted and excluded loss: what the key frequencies alone can do, and what is left without them.

Nanda et al. 2023 (arXiv:2301.05217), section 5.1. P_K projects, over pairs and separately for every output, on
cos w_k(a+b) and sin w_k(a+b), k in K. Restricted logits are P_K L plus each output's mean; excluded logits L - P_K L.
Both depend on the pair through a + b alone, so a g x c table holds them. The `_novel` forms fit the projection on
pairs the model has not seen (nor their mirrors) and evaluate it on training pairs: in-sample, memorized logits leak
into the projection.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures.base import NO_READOUT, Column, Frequencies, as_frequencies, measure
from grokinterp.measures.fourier import angles, class_sums, frequency_parts, n_frequencies
from grokinterp.measures.losses import cross_entropy_from_logits
from grokinterp.measures.neurons import neuron_averages
from grokinterp.measures.scores import (
    cross_entropy_by_input,
    cross_entropy_less_table,
    cross_entropy_of_table,
    softplus,
)
from grokinterp.measures.snapshot import Snapshot, Subset, Undefined
from grokinterp.tasks import SumClasses

Level = Literal["logit", "neuron"]


def _prepared(
    logits: Tensor, labels: Tensor, sums: Tensor, frequencies: Frequencies, mask: Tensor | None
) -> tuple[Tensor, tuple[int, ...], Tensor, Tensor, Tensor]:
    """Averages by sum class, keys, and labels, sums and pairs that count, all where the logits are."""
    labels, sums = labels.to(logits.device), sums.to(logits.device)
    inside = sums >= 0  # products with zero are outside of the group's grid
    order = int(sums.max()) + 1
    counts = torch.bincount(sums[inside], minlength=order)
    table = class_sums(logits[inside].double(), sums[inside], order) / counts[:, None]
    pairs = inside if mask is None else inside & mask.to(logits.device)
    return table, as_frequencies(frequencies, len(table)), labels, sums, pairs


def restricted_loss_from_logits(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    sums: Int[Tensor, " n"],
    frequencies: Frequencies,
    mask: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Restricted loss as a differentiable scalar, for use inside a training loop.

    Args:
        logits: of every pair of the grid.
        labels: of the pairs.
        sums: (a + b) mod p of the pairs; `task.sum_class` (-1 for pairs outside of the group's grid).
        frequencies: the key frequencies.
        mask: the pairs the loss is taken over; by default all.
    """
    table, keys, labels, sums, pairs = _prepared(logits, labels, sums, frequencies, mask)
    if not keys:
        return logits.new_tensor(math.nan, dtype=torch.float64)
    restricted = frequency_parts(table, keys).sum(dim=0) + table.mean(dim=0)
    return cross_entropy_from_logits(restricted[sums[pairs]], labels[pairs])


def excluded_loss_from_logits(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    sums: Int[Tensor, " n"],
    frequencies: Frequencies,
    mask: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Excluded loss (all frequencies given taken out together) as a differentiable scalar.

    Args:
        logits: of every pair of the grid.
        labels: of the pairs.
        sums: (a + b) mod p of the pairs; `task.sum_class` (-1 for pairs outside of the group's grid).
        frequencies: the key frequencies.
        mask: the pairs the loss is taken over, the training pairs in the paper; by default all.
    """
    table, keys, labels, sums, pairs = _prepared(logits, labels, sums, frequencies, mask)
    if not keys:
        return logits.new_tensor(math.nan, dtype=torch.float64)
    part = frequency_parts(table, keys).sum(dim=0)
    return cross_entropy_from_logits(logits[pairs].double() - part[sums[pairs]], labels[pairs])


def _key_part(snapshot: Snapshot, keys: tuple[int, ...], level: Level) -> Float[Tensor, "k g c"]:
    """The part of the logits on each frequency, by sum class; at the neuron level, of what the neurons add to them."""
    if level == "logit":
        return frequency_parts(snapshot.logit_averages, keys)
    if level != "neuron":
        raise ConfigError(f"level {level!r} is not known: logit or neuron")
    if snapshot.neurons is None or snapshot.neuron_logit_map is None:
        raise MissingNeedError("the neuron level", "neurons", snapshot.lacks("neurons") or NO_READOUT)
    return frequency_parts(neuron_averages(snapshot), keys) @ snapshot.neuron_logit_map.double()


def _inputs(snapshot: Snapshot, subset: Subset) -> SumClasses:
    """The inputs of a subset that lie in the group's grid."""
    snapshot.mask(subset)  # refuses a subset that is not known here
    return snapshot.task.sum_classes(subset)


def _mean(snapshot: Snapshot) -> Float[Tensor, " c"]:
    """The mean logits over the grid."""
    sums, counts = snapshot.class_sums("all")
    return sums.sum(dim=0) / counts.sum()


def _keys(snapshot: Snapshot, frequencies: Frequencies) -> tuple[int, ...]:
    group = snapshot.task.group
    assert group is not None
    return as_frequencies(frequencies, group.order)


_NO_KEYS = "no key frequencies"


@measure(
    "restricted_loss",
    needs=("grid", "reference"),
    columns=(
        Column(
            "restricted_loss",
            "loss over all pairs of P_K L + mean L, the key frequencies of a + b and a constant alone",
        ),
        Column("restricted_loss_train", "loss over training pairs of P_K L + mean L", {"subset": "train"}),
        Column("restricted_loss_test", "loss over test pairs of P_K L + mean L", {"subset": "test"}),
        Column(
            "restricted_loss_neuron",
            "restricted loss over all pairs with the last layer's neurons projected, not the logits",
            {"level": "neuron"},
        ),
    ),
)
def restricted_loss(
    snapshot: Snapshot,
    frequencies: Frequencies,
    *,
    subset: Subset = "all",
    level: Level = "logit",
    constant: bool = True,
) -> float:
    """Loss when only the key frequencies of a + b and a constant per output are kept (Nanda et al. 2023, Figure 7).

    Args:
        snapshot: the checkpoint.
        frequencies: the key frequencies K.
        subset: the pairs the loss is taken over; the projection is always over all pairs.
        level: `logit` projects the logits; `neuron` the last layer's activations, and adds the mean logits.
        constant: False leaves the mean out, which can change the loss by orders of magnitude.

    Returns:
        Nats; NaN without key frequencies.
    """
    keys = _keys(snapshot, frequencies)
    if not keys:
        return Undefined(_NO_KEYS)
    inputs = _inputs(snapshot, subset)
    if not len(inputs.inputs):
        return Undefined(f"no {subset} pairs")
    table = _key_part(snapshot, keys, level).sum(dim=0)
    if constant:
        table = table + _mean(snapshot)
    return cross_entropy_of_table(table, inputs).item()


@measure(
    "excluded_loss",
    needs=("grid", "reference"),
    columns=(
        Column(
            "excluded_loss", "loss over training pairs of L - P_K L, the logits without the key frequencies of a + b"
        ),
        Column("excluded_loss_all", "loss over all pairs of L - P_K L", {"subset": "all"}),
        Column("excluded_loss_test", "loss over test pairs of L - P_K L", {"subset": "test"}),
        Column(
            "excluded_loss_neuron",
            "excluded loss over training pairs with the last layer's neurons projected, not the logits",
            {"level": "neuron"},
        ),
    ),
)
def excluded_loss(
    snapshot: Snapshot, frequencies: Frequencies, *, subset: Subset = "train", level: Level = "logit"
) -> float:
    """Loss when the key frequencies of a + b are taken out, all together (Nanda et al. 2023, Figure 7).

    Values above ln p are no error: what is left can be confidently wrong.

    Args:
        snapshot: the checkpoint.
        frequencies: the key frequencies K.
        subset: the pairs the loss is taken over; the training pairs in the paper.
        level: `logit` projects the logits; `neuron` the last layer's activations, the direct path being kept.

    Returns:
        Nats; NaN without key frequencies.
    """
    keys = _keys(snapshot, frequencies)
    if not keys:
        return Undefined(_NO_KEYS)
    inputs = _inputs(snapshot, subset)
    if not len(inputs.inputs):
        return Undefined(f"no {subset} pairs")

    def losses(which: SumClasses) -> Tensor:
        return cross_entropy_less_table(snapshot.logits, _key_part(snapshot, keys, level).sum(dim=0), which)

    if level == "neuron":
        return losses(inputs).mean().item()

    def everywhere() -> Tensor:
        whole = snapshot.task.sum_classes("all")
        return torch.zeros(len(snapshot.logits), dtype=torch.float64).index_copy_(0, whole.inputs, losses(whole))

    # Asked for over several subsets: computed once.
    return snapshot.remember(("excluded", keys), everywhere)[inputs.inputs].mean().item()


@measure(
    "excluded_loss_per_frequency",
    needs=("grid",),
    columns=(
        Column("excluded_loss_k", "loss over training pairs with frequency k alone taken out", per_frequency=True),
    ),
)
def excluded_loss_per_frequency(
    snapshot: Snapshot, *, subset: Subset = "train", level: Level = "logit"
) -> Float[Tensor, " k"]:
    """Loss with each frequency k = 1 .. floor(g/2) taken out alone (Nanda et al. 2023, appendix)."""
    return _losses_without_each(snapshot.logits, _all_parts(snapshot, level), _inputs(snapshot, subset))


def _all_parts(snapshot: Snapshot, level: Level) -> Float[Tensor, "k g c"]:
    group = snapshot.task.group
    assert group is not None
    frequencies = tuple(range(1, n_frequencies(group.order) + 1))
    return snapshot.remember(("parts", level), lambda: _key_part(snapshot, frequencies, level))


def _losses_without_each(
    logits: Float[Tensor, "n c"], parts: Float[Tensor, "k g c"], inputs: SumClasses
) -> Float[Tensor, " k"]:
    """Mean loss of some inputs, their logits less each part in turn.

    sum_c exp(L_c - part_c) is a product of exp(L) and exp(-part) over classes: for all inputs of a sum class and all
    parts at once one product of matrices, where each input's exponentials are computed once.
    """
    k, g, c = parts.shape
    logits, sums, labels = logits[inputs.inputs], inputs.sums, inputs.labels
    wrong = logits.scatter(1, labels[:, None], -math.inf)
    largest = wrong.amax(dim=1, keepdim=True)
    # Each sum class has room for as many inputs as the largest has: one batch of products.
    powers = torch.zeros(g * inputs.width, c, dtype=torch.float64)
    powers[inputs.places] = wrong.sub_(largest).exp_()
    negative = torch.neg(parts.transpose(0, 1), out=torch.empty(g, k, c, dtype=torch.float64))
    shift = negative.amax(dim=2)  # [g, k]
    factors = negative.sub_(shift[:, :, None]).exp_()
    totals = powers.view(g, inputs.width, c) @ factors.transpose(1, 2)  # [g, width, k]
    total = totals.flatten(0, 1)[inputs.places]
    correct = logits.gather(1, labels[:, None]) - parts[:, sums, labels].T
    losses = softplus(largest + shift[sums] + total.log() - correct)
    lost = ~(total > 1e-280)  # terms underflowed, or are not numbers: these the plain way
    if lost.any():
        for which in lost.any(dim=0).nonzero().flatten().tolist():
            rows = lost[:, which]
            losses[rows, which] = cross_entropy_by_input(logits[rows] - parts[which, sums[rows]], labels[rows])
    return losses.mean(dim=0)


@measure(
    "restricted_loss_per_frequency",
    needs=("grid",),
    columns=(
        Column(
            "restricted_loss_k",
            "loss over all pairs with frequency k alone (and the constant) kept",
            per_frequency=True,
        ),
    ),
)
def restricted_loss_per_frequency(
    snapshot: Snapshot, *, subset: Subset = "all", level: Level = "logit"
) -> Float[Tensor, " k"]:
    """Loss with each frequency k = 1 .. floor(g/2) and the constant alone kept."""
    return cross_entropy_of_table(_all_parts(snapshot, level) + _mean(snapshot), _inputs(snapshot, subset))


@dataclass(frozen=True)
class CrossFit:
    """Least squares of each output on {1, cos w_k(a+b), sin w_k(a+b)} over held-out pairs.

    Attributes:
        constant: `[c]`, the constant of the fit.
        part: `[g, c]`, its part on the key frequencies, by sum class.
    """

    constant: Float[Tensor, " c"]
    part: Float[Tensor, "g c"]


def cross_fit(snapshot: Snapshot, keys: tuple[int, ...]) -> CrossFit | str:
    """The fit, or the reason why there is none.

    Pairs of one sum class have one row in the design, so they enter as their mean, weighted by their number.
    """
    if not keys:
        return _NO_KEYS
    totals, counts = snapshot.class_sums("held_out")
    order = len(totals)
    theta = angles(order, keys)
    waves = torch.cat([theta.cos(), theta.sin()])
    waves = waves[waves.square().sum(dim=1) > 1e-6]  # the Nyquist frequency has no sine
    unknowns, learned = len(waves) + 1, int(counts.sum())
    if learned < 4 * unknowns:
        return f"{learned} held-out pairs are too few to fit {unknowns} coefficients"
    design = torch.cat([torch.ones(1, order, dtype=torch.float64), waves]).T  # [g, unknowns]
    seen = counts > 0
    weight = counts[seen].sqrt()[:, None]
    fitted = torch.linalg.lstsq(design[seen] * weight, totals[seen] / weight).solution
    return CrossFit(fitted[0], design[:, 1:] @ fitted[1:])


@measure(
    "restricted_loss_novel",
    needs=("grid", "split", "reference"),
    columns=(
        Column("restricted_loss_novel", "restricted loss over training pairs, its projection fitted on held-out pairs"),
    ),
)
def restricted_loss_novel(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Restricted loss, cross-fitted: the projection comes from held-out pairs, the loss is over training pairs.

    Returns:
        Nats; NaN without key frequencies, or with fewer held-out pairs than 4 (2|K| + 1).
    """
    fit = cross_fit(snapshot, _keys(snapshot, frequencies))
    if isinstance(fit, str):
        return Undefined(fit)
    return cross_entropy_of_table(fit.constant + fit.part, snapshot.task.sum_classes("train")).item()


@measure(
    "excluded_loss_novel",
    needs=("grid", "split", "reference"),
    columns=(
        Column("excluded_loss_novel", "excluded loss over training pairs, its projection fitted on held-out pairs"),
    ),
)
def excluded_loss_novel(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Excluded loss, cross-fitted: the projection comes from held-out pairs, the loss is over training pairs.

    Returns:
        Nats; NaN without key frequencies, or with fewer held-out pairs than 4 (2|K| + 1).
    """
    fit = cross_fit(snapshot, _keys(snapshot, frequencies))
    if isinstance(fit, str):
        return Undefined(fit)
    return cross_entropy_less_table(snapshot.logits, fit.part, snapshot.task.sum_classes("train")).mean().item()
