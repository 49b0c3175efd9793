"""The last layer's neurons over the grid of pairs: their averages by sum class, and the frequency of each."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.measures.fourier import class_sums, component_frequencies, n_frequencies, real_dft
from grokinterp.measures.snapshot import Snapshot


def neuron_averages(snapshot: Snapshot) -> Float[Tensor, "g m"]:
    """The mean activations of each sum class a + b, in the order of the task's group."""
    sums, group = snapshot.task.sum_class, snapshot.task.group
    assert snapshot.neurons is not None
    assert sums is not None
    assert group is not None
    inside = snapshot.inside("all")
    neurons = snapshot.neurons if bool(inside.all()) else snapshot.neurons[inside]
    return class_sums(neurons, sums[inside], group.order) / group.order


@dataclass(frozen=True)
class NeuronFrequencies:
    """Which frequency each neuron of the last layer responds to.

    Attributes:
        frequency: `[m]`, the best frequency of each; 0 for a neuron that is constant over the pairs.
        explained: `[m]`, the share of its variance on that frequency's eight components.
    """

    frequency: Int[Tensor, " m"]
    explained: Float[Tensor, " m"]

    def clusters(self, threshold: float = 0.85) -> dict[int, int]:
        """Number of neurons of which a frequency explains at least `threshold`, by frequency."""
        found = self.frequency[(self.explained >= threshold) & (self.frequency > 0)]
        values, counts = found.unique(return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


def neuron_frequencies(snapshot: Snapshot) -> NeuronFrequencies:
    """The share of each neuron's variance on products of {1, cos w_k, sin w_k}(a) and (b) (Nanda et al. 2023, 4.3).

    The products of a wave of a and a wave of b span what cos and sin of w_k(a+b) and of w_k(a-b) do, so sums over
    lines of the grid hold all eight components.

    Raises:
        MissingNeedError: no neurons, or no group behind the task.
    """
    for need in ("neurons", "grid"):
        reason = snapshot.lacks(need)
        if reason is not None:
            raise MissingNeedError("neuron_frequencies", need, reason)
    by_line, squares = _line_sums(snapshot)
    g = by_line.shape[1]
    power = torch.stack([_power(table) for table in by_line])
    if g % 2 == 0:
        power[1, -1] = 0.0  # at the Nyquist frequency a+b and a-b give the same wave
    total = squares - by_line[0].sum(dim=0).square() / g**2
    alive = total > 1e-12 * max(total.max().item(), 1e-300)
    explained, best = torch.where(alive, power.sum(dim=0) / g / total.clamp_min(1e-300), 0.0).max(dim=0)
    return NeuronFrequencies(torch.where(alive, best + 1, 0), explained)


def _line_sums(snapshot: Snapshot) -> tuple[Float[Tensor, "4 g m"], Float[Tensor, " m"]]:
    """Each neuron summed over the pairs of each a+b, a-b, a and b; and the sum of its squares.

    A constant is taken off each neuron first, so that the squares lose no digits to a large mean.
    """
    where, neurons = snapshot.task.grid_indices, snapshot.neurons
    assert where is not None
    assert neurons is not None
    g, m = len(where), neurons.shape[1]
    a, b = torch.arange(g)[:, None], torch.arange(g)[None, :]
    lines = [((a + b) % g).flatten(), ((a - b) % g).flatten(), (a + 0 * b).flatten(), (0 * a + b).flatten()]
    sums, squares = torch.zeros(4, g, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    constant = neurons[where[0]].double().mean(dim=0)
    for pairs in torch.arange(g * g).split(512):  # so that what is converted to float64 stays in the cache
        part = neurons[where.flatten()[pairs]].double() - constant
        for table, line in zip(sums, lines, strict=True):
            table.index_add_(0, line[pairs], part)
        squares += part.square_().sum(dim=0)
    return sums, squares


def _power(table: Float[Tensor, "g m"]) -> Float[Tensor, "k m"]:
    """Each column's power at each frequency k = 1 .. floor(g/2)."""
    g = len(table)
    power = torch.zeros(n_frequencies(g) + 1, table.shape[1], dtype=torch.float64)
    return power.index_add(0, component_frequencies(g), real_dft(table).square())[1:]
