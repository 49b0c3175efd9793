"""Restricted loss (from the key frequencies alone) and excluded loss (without them).

Nanda et al. 2023 (arXiv:2301.05217), section 5.1. P_K projects the logits L, over pairs and separately for every
output, on cos w_k(a+b) and sin w_k(a+b) for the key frequencies k in K, with w_k = 2 pi k / g and g the order of the
group (p for addition mod p). Here and in the other measures, a + b stands for the sum class of the task's own operation
(`task.sum_class`), such as a - b for subtraction. Restricted logits are P_K L plus the mean of each output over pairs;
excluded logits are L - P_K L. The projection depends on the pair only through a + b, so a table of size g x c holds it.

The projection averages over training pairs too, so memorized logits leak into it; `grokinterp.measures.progress_novel`
has the cross-fitted forms that avoid this.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures.base import Column, Frequencies, as_frequencies, measure
from grokinterp.measures.checks import require_labeled
from grokinterp.measures.fourier import class_sums, frequency_parts, n_frequencies
from grokinterp.measures.losses import cross_entropy_from_logits
from grokinterp.measures.neurons import neuron_averages
from grokinterp.measures.scores import cross_entropy_less_each, cross_entropy_less_table, cross_entropy_of_table
from grokinterp.measures.snapshot import Snapshot, Subset, Undefined
from grokinterp.tasks import SumClasses

Level = Literal["logit", "neuron"]

NO_KEYS = "no key frequencies"
_REFERENCE_KEYS = "the key frequencies of the reference step"


def _prepare(
    logits: Tensor, labels: Tensor, sums: Tensor, frequencies: Frequencies, mask: Tensor | None
) -> tuple[Tensor, tuple[int, ...], Tensor, Tensor, Tensor]:
    """Averages by sum class, keys, labels, sums and the mask of pairs to evaluate, on the device of the logits."""
    require_labeled(logits, labels, sums=sums, mask=mask)
    if sums is None or sums.is_floating_point() or not len(sums) or int(sums.max()) < 0:
        raise ConfigError("sums must be task.sum_class, the sum class of each input as an integer")
    if mask is not None and mask.dtype != torch.bool:
        raise ConfigError(f"mask must be boolean, but is {mask.dtype}")
    labels, sums = labels.to(logits.device), sums.to(logits.device)
    in_grid = sums >= 0  # products with zero lie outside the group's grid
    order = int(sums.max()) + 1
    counts = torch.bincount(sums[in_grid], minlength=order)
    table = class_sums(logits[in_grid].double(), sums[in_grid], order) / counts[:, None]
    pairs = in_grid if mask is None else in_grid & mask.to(logits.device)
    return table, as_frequencies(frequencies, len(table)), labels, sums, pairs


def restricted_loss_from_logits(
    logits: Float[Tensor, "n c"],
    labels: Int[Tensor, " n"],
    sums: Int[Tensor, " n"],
    frequencies: Frequencies,
    mask: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Restricted loss as a differentiable scalar, for use inside a training loop.

    >>> from grokinterp.tasks import Task
    >>> task = Task.modular_addition(p=7)
    >>> classes = torch.arange(7)
    >>> logits = (9 * torch.cos(2 * torch.pi * 2 * (task.labels[:, None] - classes) / 7)).requires_grad_()
    >>> value = restricted_loss_from_logits(logits, task.labels, task.sum_class, frequencies=2)
    >>> value.backward()
    >>> logits.grad.shape
    torch.Size([49, 7])

    Args:
        logits: `[n, c]`, the logits of all inputs of the task.
        labels: `[n]`, `task.labels`.
        sums: `[n]`, `task.sum_class`, the sum class of each input: (a + b) mod p for addition; -1 for inputs outside
            the grid of the group, which do not count.
        frequencies: the key frequencies K.
        mask: `[n]`, True for the pairs that the loss is averaged over; by default all.

    Returns:
        Scalar tensor in nats; NaN without key frequencies.

    Raises:
        ConfigError: an argument has another shape or dtype, or a frequency is out of range.

    Source:
        Nanda et al. 2023, section 5.1.
    """
    table, keys, labels, sums, pairs = _prepare(logits, labels, sums, frequencies, mask)
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
    """Excluded loss, with all key frequencies removed together, as a differentiable scalar for a training loop.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> task = snapshot.task
    >>> value = excluded_loss_from_logits(snapshot.logits, task.labels, task.sum_class, (8, 14, 21), task.train_mask)
    >>> value.item() > math.log(67)  # worse than a uniform guess
    True

    Args:
        logits: `[n, c]`, the logits of all inputs of the task.
        labels: `[n]`, `task.labels`.
        sums: `[n]`, `task.sum_class`, the sum class of each input: (a + b) mod p for addition; -1 for inputs outside
            the grid of the group, which do not count.
        frequencies: the key frequencies K.
        mask: `[n]`, True for the pairs that the loss is averaged over; by default all, in the paper the training pairs.

    Returns:
        Scalar tensor in nats; NaN without key frequencies.

    Raises:
        ConfigError: an argument has another shape or dtype, or a frequency is out of range.

    Source:
        Nanda et al. 2023, section 5.1.
    """
    table, keys, labels, sums, pairs = _prepare(logits, labels, sums, frequencies, mask)
    if not keys:
        return logits.new_tensor(math.nan, dtype=torch.float64)
    part = frequency_parts(table, keys).sum(dim=0)
    return cross_entropy_from_logits(logits[pairs].double() - part[sums[pairs]], labels[pairs])


def _key_part(snapshot: Snapshot, keys: tuple[int, ...], level: Level) -> Float[Tensor, "k g c"]:
    """The part of the logits on each frequency, by sum class; at the neuron level, of the neurons' linear contribution.

    Raises:
        ConfigError: no such level.
        MissingNeedError: at the neuron level, the snapshot has no neurons or no linear path from them to the logits.
    """
    if level == "logit":
        return frequency_parts(snapshot.logit_averages, keys)
    if level != "neuron":
        raise ConfigError(f"level {level!r} is not known: logit or neuron")
    if snapshot.neuron_logit_map is None:
        raise MissingNeedError("the neuron level", "neurons", snapshot.why_no_map)
    return frequency_parts(neuron_averages(snapshot), keys) @ snapshot.neuron_logit_map.double()


def _inputs(snapshot: Snapshot, subset: Subset) -> SumClasses:
    """The inputs of a subset that lie in the group's grid."""
    snapshot.mask(subset)  # raises if the subset is unknown
    return snapshot.task.sum_classes(subset)


def _mean(snapshot: Snapshot) -> Float[Tensor, " c"]:
    """The mean logits over the grid."""
    sums, counts = snapshot.class_sums("all")
    return sums.sum(dim=0) / counts.sum()


def keys_of(snapshot: Snapshot, frequencies: Frequencies) -> tuple[int, ...]:
    """The key frequencies as integers, checked against the order of the task's group."""
    return as_frequencies(frequencies, snapshot.pair_grid.order)


@measure(
    "restricted_loss",
    needs=("grid", "reference"),
    columns=(
        Column("restricted_loss", f"loss over all pairs when the logits keep only {_REFERENCE_KEYS} and their mean"),
        Column("restricted_loss_train", "restricted loss over training pairs", {"subset": "train"}),
        Column("restricted_loss_test", "restricted loss over test pairs", {"subset": "test"}),
        Column(
            "restricted_loss_neuron",
            "restricted loss over all pairs, projecting the neurons of the last layer instead of the logits",
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
    """Loss when the logits keep only the key frequencies and their mean over pairs: CE(P_K L + mean L).

    It falls when the generalizing circuit can solve the task, even while memorization still hides the circuit.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
    >>> logits = sum(20 * torch.cos(2 * torch.pi * k * (a + b - c) / 31) for k in (3, 7))
    >>> snapshot = Snapshot.from_logits(Task.modular_addition(p=31), logits)
    >>> f"{restricted_loss(snapshot, (3, 7)):.2g}", f"{restricted_loss(snapshot, 3):.2g}", f"{math.log(31):.2g}"
    ('0.0026', '1', '3.4')

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies K.
        subset: the pairs to average the loss over; the projection always uses all pairs.
        level: `logit` projects the logits; `neuron` projects the activations of the last layer and adds the mean
            logits.
        constant: False leaves the mean out, which can change the loss by orders of magnitude.

    Returns:
        Nats; `Undefined` without key frequencies or if the subset is empty.

    Raises:
        MissingNeedError: the task has no cyclic group, the subset needs an unknown split, or the level needs neurons.
        ConfigError: a frequency is out of range, or there is no such subset or level.

    Source:
        Nanda et al. 2023, section 5.1 and Figure 7.
    """
    keys = keys_of(snapshot, frequencies)
    if not keys:
        return Undefined(NO_KEYS)
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
        Column("excluded_loss", f"loss over training pairs when {_REFERENCE_KEYS} are removed from the logits"),
        Column("excluded_loss_all", "excluded loss over all pairs", {"subset": "all"}),
        Column("excluded_loss_test", "excluded loss over test pairs", {"subset": "test"}),
        Column(
            "excluded_loss_neuron",
            "excluded loss over training pairs, projecting the neurons of the last layer instead of the logits",
            {"level": "neuron"},
        ),
    ),
)
def excluded_loss(
    snapshot: Snapshot, frequencies: Frequencies, *, subset: Subset = "train", level: Level = "logit"
) -> float:
    """Loss when all key frequencies are removed from the logits together: CE(L - P_K L).

    It stays low while the network answers training pairs from memory, and rises when it comes to rely on the circuit.
    Values above ln p are possible: the remaining logits can be confidently wrong.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
    >>> logits = 20 * torch.cos(2 * torch.pi * 7 * (a + b - c) / 31)
    >>> snapshot = Snapshot.from_logits(Task.modular_addition(p=31, train_fraction=0.3), logits)
    >>> round(excluded_loss(snapshot, 7), 4), round(math.log(31), 4)  # nothing is left: chance
    (3.434, 3.434)

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies K.
        subset: the pairs to average the loss over; in the paper the training pairs.
        level: `logit` projects the logits; `neuron` projects the activations of the last layer and keeps the direct
            path to the logits.

    Returns:
        Nats; `Undefined` without key frequencies or if the subset is empty.

    Raises:
        MissingNeedError: the task has no cyclic group, the subset needs an unknown split, or the level needs neurons.
        ConfigError: a frequency is out of range, or there is no such subset or level.

    Source:
        Nanda et al. 2023, section 5.1 and Figure 7.
    """
    keys = keys_of(snapshot, frequencies)
    if not keys:
        return Undefined(NO_KEYS)
    inputs = _inputs(snapshot, subset)
    if not len(inputs.inputs):
        return Undefined(f"no {subset} pairs")

    def losses(pairs: SumClasses) -> Tensor:
        return cross_entropy_less_table(snapshot.logits, _key_part(snapshot, keys, level).sum(dim=0), pairs)

    if level == "neuron":
        return losses(inputs).mean().item()

    def losses_of_all_pairs() -> Tensor:
        pairs = snapshot.task.sum_classes("all")
        return torch.zeros(len(snapshot.logits), dtype=torch.float64).index_copy_(0, pairs.inputs, losses(pairs))

    # Several columns average these losses, each over its subset.
    return snapshot.remember(("excluded", keys), losses_of_all_pairs)[inputs.inputs].mean().item()


@measure(
    "excluded_loss_per_frequency",
    needs=("grid",),
    columns=Column(
        "excluded_loss_k",
        "loss over training pairs when only frequency k is removed from the logits",
        per_frequency=True,
    ),
)
def excluded_loss_per_frequency(
    snapshot: Snapshot, *, subset: Subset = "train", level: Level = "logit"
) -> Float[Tensor, " k"]:
    """Loss when one frequency is removed from the logits, for each frequency: CE(L - P_k L).

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> (1 + excluded_loss_per_frequency(snapshot).topk(3).indices).sort().values.tolist()
    [8, 14, 21]

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        subset: the pairs to average the loss over.
        level: `logit` or `neuron`, as in `excluded_loss`.

    Returns:
        `[k]`, in nats, for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the task has no cyclic group, the subset needs an unknown split, or the level needs neurons.
        ConfigError: no such subset or level.

    Source:
        Nanda et al. 2023, appendix.
    """
    return cross_entropy_less_each(snapshot.logits, _all_parts(snapshot, level), _inputs(snapshot, subset))


def _all_parts(snapshot: Snapshot, level: Level) -> Float[Tensor, "k g c"]:
    frequencies = tuple(range(1, n_frequencies(snapshot.pair_grid.order) + 1))
    return snapshot.remember(("parts", level), lambda: _key_part(snapshot, frequencies, level))


@measure(
    "restricted_loss_per_frequency",
    needs=("grid",),
    columns=Column(
        "restricted_loss_k",
        "loss over all pairs when the logits keep only frequency k and their mean",
        per_frequency=True,
    ),
)
def restricted_loss_per_frequency(
    snapshot: Snapshot, *, subset: Subset = "all", level: Level = "logit"
) -> Float[Tensor, " k"]:
    """Loss when the logits keep only one frequency and their mean, for each frequency: CE(P_k L + mean L).

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> (1 + restricted_loss_per_frequency(snapshot).argsort()[:3]).sort().values.tolist()
    [8, 14, 21]

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        subset: the pairs to average the loss over.
        level: `logit` or `neuron`, as in `restricted_loss`.

    Returns:
        `[k]`, in nats, for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the task has no cyclic group, the subset needs an unknown split, or the level needs neurons.
        ConfigError: no such subset or level.
    """
    return cross_entropy_of_table(_all_parts(snapshot, level) + _mean(snapshot), _inputs(snapshot, subset))
