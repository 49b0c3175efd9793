"""The last layer's neurons over the grid of pairs: their averages by sum class, and the frequency of each."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.measures.base import require_snapshot
from grokinterp.measures.fourier import class_sums, power_by_frequency, real_dft
from grokinterp.measures.snapshot import Snapshot, rows_of


def neuron_averages(snapshot: Snapshot) -> Float[Tensor, "g m"]:
    """`[g, m]`, the mean activations of each sum class, in the order of the task's group.

    Raises:
        MissingNeedError: the snapshot has no neurons, or the task has no cyclic group.
    """
    grid, mask = snapshot.pair_grid, snapshot.grid_mask("all")
    return class_sums(rows_of(snapshot.activations.neurons, mask), grid.sums[mask], grid.order) / grid.order


@dataclass(frozen=True)
class NeuronFrequencies:
    """The frequency that each neuron of the last layer responds to.

    >>> import grokinterp as gi
    >>> result = neuron_frequencies(gi.Run.open("checkpoints/run42").snapshot(4200))
    >>> result.frequency.shape
    torch.Size([256])

    Attributes:
        frequency: `[m]`, the frequency that explains most of each neuron's variance; 0 for a neuron that is constant
            over the pairs.
        explained: `[m]`, the fraction of the neuron's variance on the eight Fourier components of that frequency.
    """

    frequency: Int[Tensor, " m"]
    explained: Float[Tensor, " m"]

    def clusters(self, threshold: float = 0.85) -> dict[int, int]:
        """The number of neurons of each frequency, counting those with at least `threshold` of their variance on it."""
        clustered = self.frequency[(self.explained >= threshold) & (self.frequency > 0)]
        values, counts = clustered.unique(return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))


def neuron_frequencies(snapshot: Snapshot) -> NeuronFrequencies:
    """The fraction of each neuron's variance on products of {1, cos w_k, sin w_k}(a) and (b), and the best k.

    >>> from grokinterp.measures import Activity
    >>> from grokinterp.tasks import Task
    >>> task = Task.modular_addition(p=11)
    >>> a, b = task.inputs.double().T * 2 * torch.pi / 11
    >>> neurons = torch.stack([torch.cos(3 * (a + b)), torch.cos(5 * a)], dim=1)
    >>> snapshot = Snapshot(task, torch.zeros(121, 11).double(), activity=lambda: Activity(neurons))
    >>> neuron_frequencies(snapshot).clusters()
    {3: 1, 5: 1}

    Products of a wave of a and a wave of b span cos and sin of w_k(a+b) and of w_k(a-b). So the sums over the lines of
    the grid with constant a+b, a-b, a or b hold all eight components.

    Args:
        snapshot: a checkpoint with neurons, of a task with a cyclic group.

    Returns:
        Frequency and explained fraction of each of the m neurons.

    Raises:
        MissingNeedError: the snapshot has no neurons, or the task has no cyclic group.

    Source:
        Nanda et al. 2023, section 4.3.
    """
    require_snapshot(snapshot, "neuron_frequencies")
    snapshot.require("neuron_frequencies", "neurons", "grid")
    line_sums, squares = _line_sums(snapshot.activations.neurons, snapshot.pair_grid.indices)
    g = line_sums.shape[1]
    power = torch.stack([power_by_frequency(real_dft(table).square()) for table in line_sums])
    if g % 2 == 0:
        power[1, -1] = 0.0  # at the Nyquist frequency a+b and a-b give the same wave
    total = squares - line_sums[0].sum(dim=0).square() / g**2
    varies = total > 1e-12 * max(total.max().item(), 1e-300)
    explained, best = torch.where(varies, power.sum(dim=0) / g / total.clamp_min(1e-300), 0.0).max(dim=0)
    return NeuronFrequencies(torch.where(varies, best + 1, 0), explained)


def _line_sums(
    neurons: Float[Tensor, "n m"], indices: Int[Tensor, "g g"]
) -> tuple[Float[Tensor, "4 g m"], Float[Tensor, " m"]]:
    """Each neuron summed over the pairs of each a+b, a-b, a and b; and the sum of its squares.

    A constant is subtracted from each neuron first, so that a large mean does not cost digits of the squares.
    """
    g, m = len(indices), neurons.shape[1]
    b = torch.arange(g)
    sums, squares = torch.zeros(4, g, m, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    constant = neurons[indices[0]].double().mean(dim=0)
    in_order = torch.equal(indices.flatten(), torch.arange(g * g))
    # The same memory for every part, so small that it stays in the cache.
    buffer = torch.empty(max(512 // g, 1) * g, m, dtype=torch.float64)
    for a in torch.arange(g).split(len(buffer) // g):
        rows = slice(int(a[0]) * g, (int(a[-1]) + 1) * g)
        part = buffer[: len(a) * g].copy_(neurons[rows] if in_order else neurons[indices[a].flatten()])
        part.sub_(constant)
        for table, line in ((sums[0], a[:, None] + b), (sums[1], a[:, None] - b)):
            table.index_add_(0, (line % g).flatten(), part)
        lines = part.view(len(a), g, m)
        sums[2, a] = lines.sum(dim=1)
        for line in lines:
            sums[3].add_(line)
        squares += part.square_().sum(dim=0)
    return sums, squares
