"""Two-dimensional Fourier spectra over (a, b) of the neurons and the logits, and how much depends on a + b alone."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.measures.base import Column, measure, require_snapshot
from grokinterp.measures.fourier import power_by_frequency, real_dft
from grokinterp.measures.snapshot import Snapshot, Undefined

Level = Literal["neuron", "logit"]
_OUTPUTS = 64  # neurons or classes at once


@dataclass(frozen=True)
class Spectra:
    """Power of functions of (a, b), each of which is a neuron or a logit, without their means.

    >>> import grokinterp as gi
    >>> spectra = logit_spectra(gi.load("checkpoints/run42").snapshot("last"))
    >>> int(spectra.power.sum(dim=1).argmax())
    14

    Attributes:
        power: `[k, k]`, of all outputs together, at frequency 0, 1, ... in a (rows) and in b (columns).
        total: `[x]`, the variance of each output over pairs, times their number.
        diagonal: `[x]`, the share of each output's power where both frequencies are equal and not 0.
        axes: `[x]`, the share that depends on a alone or on b alone.
        off: `[x]`, the rest.
        symmetric: `[x]`, the share that stays the same when a and b change places.
        sum_class: `[x]`, the share that depends on a + b alone.
    """

    power: Float[Tensor, "k k"]
    total: Float[Tensor, " x"]
    diagonal: Float[Tensor, " x"]
    axes: Float[Tensor, " x"]
    off: Float[Tensor, " x"]
    symmetric: Float[Tensor, " x"]
    sum_class: Float[Tensor, " x"]

    def share(self, name: Literal["diagonal", "axes", "off", "symmetric", "sum_class"]) -> float:
        """The share in all outputs together; `Undefined` if all are constant."""
        total = self.total.sum().item()
        return (getattr(self, name) @ self.total).item() / total if total > 0 else Undefined("constant over pairs")


def neuron_spectra(snapshot: Snapshot) -> Spectra:
    """Spectra of the last layer's neurons over (a, b).

    >>> import grokinterp as gi
    >>> spectra = neuron_spectra(gi.load("checkpoints/run42").snapshot("last"))
    >>> spectra.diagonal.shape
    torch.Size([256])

    Args:
        snapshot: a checkpoint with neurons, of a task with a cyclic group.

    Raises:
        MissingNeedError: the snapshot has no neurons, or the task has no cyclic group.

    Source:
        Nanda et al. 2023, section 4.3.
    """
    require_snapshot(snapshot, "neuron_spectra")
    snapshot.require("neuron_spectra", "neurons", "grid")
    return snapshot.remember("neuron_spectra", lambda: _spectra(snapshot.activations.neurons, snapshot))


def logit_spectra(snapshot: Snapshot) -> Spectra:
    """Spectra of the logits of each class over (a, b); logits are centered over classes first.

    >>> import grokinterp as gi
    >>> spectra = logit_spectra(gi.load("checkpoints/run42").snapshot("last"))
    >>> spectra.share("diagonal") > 0.9
    True

    Args:
        snapshot: a checkpoint of a task with a cyclic group.

    Raises:
        MissingNeedError: the task has no cyclic group.

    Source:
        Nanda et al. 2023, section 4.2.
    """
    require_snapshot(snapshot, "logit_spectra")
    snapshot.require("logit_spectra", "grid")
    return snapshot.remember("logit_spectra", lambda: _spectra(snapshot.centred, snapshot))


def _spectra(values: Float[Tensor, "n x"], snapshot: Snapshot) -> Spectra:
    indices = snapshot.pair_grid.indices
    g = len(indices)
    sums = (torch.arange(g)[:, None] + torch.arange(g)) % g
    power = torch.zeros(g // 2 + 1, g // 2 + 1, dtype=torch.float64)
    parts: list[Tensor] = []
    for columns in torch.arange(values.shape[1]).split(_OUTPUTS):
        table = values[:, columns][indices].double()  # [g, g, x]
        table = table - table.mean(dim=(0, 1))
        squares = real_dft(real_dft(table).transpose(0, 1)).transpose(0, 1).square()
        by_frequency = _by_frequency(_by_frequency(squares).transpose(0, 1)).transpose(0, 1)
        power += by_frequency.sum(dim=2)
        total = by_frequency.sum(dim=(0, 1))
        diagonal = by_frequency.diagonal(dim1=0, dim2=1)[:, 1:].sum(dim=1)
        axes = by_frequency[0].sum(dim=0) + by_frequency[:, 0].sum(dim=0)
        symmetric = ((table + table.transpose(0, 1)) / 2).square().sum(dim=(0, 1))
        by_sum = torch.zeros(g, len(columns), dtype=torch.float64)
        by_sum.index_add_(0, sums.flatten(), table.flatten(0, 1))
        parts.append(torch.stack([total, diagonal, axes, symmetric, by_sum.square().sum(dim=0) / g]))
    total, diagonal, axes, symmetric, sum_class = torch.cat(parts, dim=1)
    varies = total > 1e-24 * max(total.max().item(), 1e-300)
    shares = [
        torch.where(varies, part / total.clamp_min(1e-300), 0.0) for part in (diagonal, axes, symmetric, sum_class)
    ]
    off = torch.where(varies, 1 - shares[0] - shares[1], 0.0)
    return Spectra(power, total, shares[0], shares[1], off, shares[2], shares[3])


def _by_frequency(squares: Tensor) -> Tensor:
    """Adds up the squares of each frequency k = 0, 1, ... along the first axis."""
    return torch.cat([squares[:1], power_by_frequency(squares)])


@measure(
    "spectrum_shares",
    needs=("grid",),
    costly=True,
    columns=tuple(
        Column(
            f"{level}_{part}_share",
            f"share of the {level}s' variance over pairs that {meaning}",
            {"level": level, "part": part},
        )
        for level in ("neuron", "logit")
        for part, meaning in (
            ("diagonal", "has the same frequency in a and in b"),
            ("symmetric", "stays the same when a and b change places"),
            ("sum_class", "depends on a + b alone"),
        )
    ),
)
def spectrum_shares(
    snapshot: Snapshot,
    *,
    level: Level = "logit",
    part: Literal["diagonal", "axes", "off", "symmetric", "sum_class"] = "diagonal",
) -> float:
    """A share of the variance over pairs of all neurons, or of all logits, together; see `Spectra`.

    >>> import grokinterp as gi
    >>> spectrum_shares(gi.load("checkpoints/run42").snapshot("last"), part="sum_class") > 0.9
    True

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        level: `neuron` (those of the last layer) or `logit`.
        part: the share.

    Returns:
        From 0 to 1; `Undefined` if nothing varies over pairs.

    Raises:
        MissingNeedError: the snapshot has no neurons (for their level), or the task has no cyclic group.
    """
    return (neuron_spectra(snapshot) if level == "neuron" else logit_spectra(snapshot)).share(part)
