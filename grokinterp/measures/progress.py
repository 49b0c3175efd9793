"""Restricted and excluded loss: what the key frequencies alone can do, and what is left without them.

Nanda et al. 2023 (arXiv:2301.05217), section 5.1. P_K projects, over pairs and separately for every output, on
cos w_k(a+b) and sin w_k(a+b), k in K. Restricted logits are P_K L plus each output's mean; excluded logits L - P_K L.
Both depend on the pair through a + b alone, so a g x c table holds them. The `_novel` forms fit the projection on
pairs the model has not seen (nor their mirrors) and evaluate it on training pairs: in-sample, memorized logits leak
into the projection.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.fourier import angles, frequency_parts, n_frequencies
from grokinterp.measures.base import (
    NO_READOUT,
    Column,
    Frequencies,
    Snapshot,
    Subset,
    Undefined,
    as_frequencies,
    measure,
)
from grokinterp.measures.losses import cross_entropy_from_logits

Level = Literal["logit", "neuron"]


def _averages(values: Tensor, sums: Tensor) -> Float[Tensor, "g c"]:
    """Mean of the rows of each sum class."""
    order = int(sums.max()) + 1
    counts = torch.bincount(sums, minlength=order).to(values.device, torch.float64)
    table = torch.zeros(order, values.shape[1], dtype=torch.float64, device=values.device)
    return table.index_add(0, sums, values.double()) / counts[:, None]


def _prepared(
    logits: Tensor, labels: Tensor, sums: Tensor, frequencies: Frequencies, mask: Tensor | None
) -> tuple[Tensor, tuple[int, ...], Tensor, Tensor, Tensor]:
    """Averages by sum class, keys, and labels, sums and pairs that count, all where the logits are."""
    labels, sums = labels.to(logits.device), sums.to(logits.device)
    inside = sums >= 0  # products with zero are outside of the group's grid
    table = _averages(logits[inside], sums[inside])
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
    return frequency_parts(snapshot.neuron_averages, keys) @ snapshot.neuron_logit_map.double()


def _sums_and_pairs(snapshot: Snapshot, subset: Subset) -> tuple[Tensor, Tensor]:
    """Sum classes of all inputs, and which inputs count: those of the subset inside the group's grid."""
    sums = snapshot.task.sum_class
    assert sums is not None
    return sums, snapshot.mask(subset) & (sums >= 0)


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
    sums, pairs = _sums_and_pairs(snapshot, subset)
    if not pairs.any():
        return Undefined(f"no {subset} pairs")
    table = _key_part(snapshot, keys, level).sum(dim=0)
    if constant:
        table = table + snapshot.logits[sums >= 0].mean(dim=0)
    return cross_entropy_from_logits(table[sums[pairs]], snapshot.task.labels[pairs]).item()


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
    sums, pairs = _sums_and_pairs(snapshot, subset)
    if not pairs.any():
        return Undefined(f"no {subset} pairs")
    part = _key_part(snapshot, keys, level).sum(dim=0)
    return cross_entropy_from_logits(snapshot.logits[pairs] - part[sums[pairs]], snapshot.task.labels[pairs]).item()


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
    sums, pairs = _sums_and_pairs(snapshot, subset)
    logits, labels, chosen = snapshot.logits[pairs], snapshot.task.labels[pairs], sums[pairs]
    frequencies = tuple(range(1, n_frequencies(int(sums.max()) + 1) + 1))
    parts = _key_part(snapshot, frequencies, level)
    return torch.stack([cross_entropy_from_logits(logits - part[chosen], labels) for part in parts])


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
    sums, pairs = _sums_and_pairs(snapshot, subset)
    labels, chosen = snapshot.task.labels[pairs], sums[pairs]
    frequencies = tuple(range(1, n_frequencies(int(sums.max()) + 1) + 1))
    mean = snapshot.logits[sums >= 0].mean(dim=0)
    parts = _key_part(snapshot, frequencies, level) + mean
    return torch.stack([cross_entropy_from_logits(part[chosen], labels) for part in parts])


def cross_fit(
    snapshot: Snapshot, keys: tuple[int, ...]
) -> tuple[Float[Tensor, "t c"], Float[Tensor, "t c"], Bool[Tensor, " n"]] | str:
    """Least squares of each output on {1, cos w_k(a+b), sin w_k(a+b)} over held-out pairs.

    Returns:
        The constant and the key part of the fit, predicted on the training pairs, and the training pairs; or the
        reason why there is no fit.
    """
    task = snapshot.task
    sums, held_out = task.sum_class, task.held_out_mask
    assert sums is not None
    if not keys:
        return _NO_KEYS
    assert held_out is not None
    assert task.train_mask is not None
    learned, trained = held_out & (sums >= 0), task.train_mask & (sums >= 0)
    order = int(sums.max()) + 1
    theta = angles(order, keys)
    waves = torch.cat([theta.cos(), theta.sin()])
    waves = waves[waves.square().sum(dim=1) > 1e-6]  # the Nyquist frequency has no sine
    unknowns = len(waves) + 1
    if int(learned.sum()) < 4 * unknowns:
        return f"{int(learned.sum())} held-out pairs are too few to fit {unknowns} coefficients"
    design = torch.cat([torch.ones(1, order, dtype=torch.float64), waves]).T  # [g, unknowns]
    fitted = torch.linalg.lstsq(design[sums[learned]], snapshot.logits[learned]).solution
    rows = design[sums[trained]]
    return rows[:, :1] @ fitted[:1], rows[:, 1:] @ fitted[1:], trained


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
    constant, part, trained = fit
    return cross_entropy_from_logits(constant + part, snapshot.task.labels[trained]).item()


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
    _, part, trained = fit
    return cross_entropy_from_logits(snapshot.logits[trained] - part, snapshot.task.labels[trained]).item()
