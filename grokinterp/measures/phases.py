"""The phase of each neuron, and the network that is rebuilt from frequencies, amplitudes and phases alone."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import Column, measure, require_snapshot
from grokinterp.measures.fourier import angles
from grokinterp.measures.own_model import PreActivity
from grokinterp.measures.pairs import PairGrid
from grokinterp.measures.scores import hit_by_input
from grokinterp.measures.snapshot import Snapshot, Undefined
from grokinterp.measures.spectrum import neuron_logit_table

Wave = Literal["cosine", "square"]
PERMUTATIONS = 20
_NULL_PAIRS = 400  # enough for a standard error of 0.002 at the level of chance
_ROWS = 2048  # of pairs at once


@dataclass(frozen=True)
class NeuronPhases:
    """Each neuron as a cosine of one frequency in both operands and in the classes.

    >>> import grokinterp as gi
    >>> phases = neuron_phases(gi.load("checkpoints/run42").snapshot("last"))
    >>> phases.frequency.shape, phases.counts()
    (torch.Size([256]), {8: 68, 14: 95, 16: 10, 21: 76, 28: 7})

    Attributes:
        frequency: `[m]`, the frequency k of each neuron; 0 for one that reads no number.
        amplitude_a: `[m]`, A_a in A_a cos(w_k a - phase_a).
        amplitude_b: `[m]`, the same for b.
        amplitude_out: `[m]`, B in B cos(w_k c - phase_out), what one unit of the neuron adds to the logits.
        phase_a: `[m]`, in radians, from -pi to pi.
        phase_b: `[m]`.
        phase_out: `[m]`.
        misalignment: `[m]`, phase_a + phase_b - phase_out, from -pi to pi; 0 in a neuron of the trigonometric circuit.
        share: `[m]`, the share of the neuron's input power at k, of the power at all k >= 1.
        mean: `[m]`, the mean pre-activation; 0 for neurons that read one-hot numbers.
    """

    frequency: Int[Tensor, " m"]
    amplitude_a: Float[Tensor, " m"]
    amplitude_b: Float[Tensor, " m"]
    amplitude_out: Float[Tensor, " m"]
    phase_a: Float[Tensor, " m"]
    phase_b: Float[Tensor, " m"]
    phase_out: Float[Tensor, " m"]
    misalignment: Float[Tensor, " m"]
    share: Float[Tensor, " m"]
    mean: Float[Tensor, " m"]

    def counts(self) -> dict[int, int]:
        """The number of neurons of each frequency."""
        values, counts = self.frequency[self.frequency > 0].unique(return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def spread(self) -> dict[int, float]:
        """For each frequency, how far the phases are from being spread evenly: 0 if they are, 1 if all are alike.

        |sum B A exp(2 i phase_out)| / sum B A over its neurons, with A = (A_a + A_b) / 2: the part that does not cancel
        when the circuit's neurons are added up.
        """
        weight = self.amplitude_out * (self.amplitude_a + self.amplitude_b) / 2
        vectors = torch.polar(weight, 2 * self.phase_out)
        return {
            k: (vectors[mask].sum().abs() / weight[mask].sum().clamp_min(1e-300)).item()
            for k in self.counts()
            for mask in [self.frequency == k]
        }


def neuron_phases(snapshot: Snapshot) -> NeuronPhases:
    """Frequency, amplitudes and phases of every neuron of the last layer.

    With u_a(a) the mean over b of the pre-activation at (a, b), and u_b(b) the mean over a, F the DFT over the numbers,
    the frequency k >= 1 of a neuron is the one with most power in u_a and u_b together. A cos(w_k a - phi) has the
    phase phi = -arg F[k]; the output v(c), what the neuron adds to the logit of c, is read at the same k.

    >>> import grokinterp as gi
    >>> phases = neuron_phases(gi.load("checkpoints/run42").snapshot("last"))
    >>> bool(phases.misalignment.abs().median() < 0.2)
    True

    Args:
        snapshot: a checkpoint of a model of known architecture, of a task with a cyclic group.

    Returns:
        The phases of all m neurons, in float64. Operands and classes are in the order of the task's group.

    Raises:
        MissingNeedError: the model is one of your own, or the path from its neurons to the logits is not linear; or the
            task has no cyclic group.

    Source:
        He et al. 2026 (arXiv:2602.16849), section 3; Gromov 2023 (arXiv:2301.02679).
    """
    require_snapshot(snapshot, "neuron_phases")
    snapshot.require("neuron_phases", "grid", "pre_activations", "neurons")
    return snapshot.remember("neuron_phases", lambda: _phases(snapshot))


def neuron_inputs(snapshot: Snapshot) -> tuple[Float[Tensor, "g m"], Float[Tensor, "g m"]]:
    """`[g, m]` twice: the mean pre-activation of each neuron over b for each a, and over a for each b.

    Raises:
        MissingNeedError: the model is one of your own, or the task has no cyclic group.
    """
    snapshot.require("the inputs of neurons", "grid", "pre_activations")
    return snapshot.remember("neuron_inputs", lambda: _line_means(_before(snapshot).values, snapshot.pair_grid))


def _before(snapshot: Snapshot) -> PreActivity:
    before = snapshot.pre_activations
    if before is None:
        raise MissingNeedError("neuron_phases", "pre_activations", snapshot.lacks("pre_activations") or "")
    return before


def _phases(snapshot: Snapshot) -> NeuronPhases:
    of_a, of_b = neuron_inputs(snapshot)
    order = len(of_a)
    transformed_a, transformed_b = (_transform(table) for table in (of_a, of_b))
    transformed_out = _transform(neuron_logit_table(snapshot))
    power = transformed_a.abs().square() + transformed_b.abs().square()
    if order % 2 == 0:
        power[-1] /= 2  # the Nyquist frequency: its coefficient is the whole amplitude, not half of it, squared
    most, best = power.max(dim=0)
    total = power.sum(dim=0)
    at = [table.gather(0, best[None])[0] for table in (transformed_a, transformed_b, transformed_out)]
    phase_a, phase_b, phase_out = (-coefficient.angle() for coefficient in at)
    reads = total > 1e-24 * max(total.max().item(), 1e-300)
    return NeuronPhases(
        frequency=torch.where(reads, best + 1, 0),
        amplitude_a=at[0].abs(),
        amplitude_b=at[1].abs(),
        amplitude_out=at[2].abs(),
        phase_a=phase_a,
        phase_b=phase_b,
        phase_out=phase_out,
        misalignment=_wrap(phase_a + phase_b - phase_out),
        share=torch.where(reads, most / total.clamp_min(1e-300), 0.0),
        mean=torch.zeros_like(of_a[0]) if _before(snapshot).one_hot else of_a.mean(dim=0),
    )


def _line_means(values: Float[Tensor, "n m"], grid: PairGrid) -> tuple[Float[Tensor, "g m"], Float[Tensor, "g m"]]:
    """The mean over b for each a, and the mean over a for each b, in float64."""
    by_a, by_b = [], torch.zeros(grid.order, values.shape[1], dtype=torch.float64)
    for row in grid.indices:
        part = values[row].double()
        by_a.append(part.sum(dim=0))
        by_b += part
    return torch.stack(by_a) / grid.order, by_b / grid.order


def _transform(table: Float[Tensor, "g m"]) -> Tensor:
    """The complex amplitudes at k = 1 .. floor(g/2), so that each column is a sum of |z| cos(w_k x + arg z)."""
    order = len(table)
    found = torch.fft.rfft(table.double(), dim=0)[1:] * (2 / order)
    if order % 2 == 0:
        found[-1] /= 2
    return found


def _wrap(angle: Tensor) -> Tensor:
    """The same angle in (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2 * math.pi)


@dataclass(frozen=True)
class IdealizedAccuracy:
    """The accuracy of the network that is rebuilt from its neurons' phases.

    >>> IdealizedAccuracy(0.99, 0.98, 0.01).idealized_accuracy_novel
    0.98

    Attributes:
        idealized_accuracy_all: on all pairs.
        idealized_accuracy_novel: on pairs whose mirror is not a training pair either.
        idealized_accuracy_null: the same as the one before with output phases permuted over neurons: the mean over 20
            permutations and (at most 400 of) the novel pairs, or of all pairs if the split is unknown.
    """

    idealized_accuracy_all: float
    idealized_accuracy_novel: float
    idealized_accuracy_null: float


@measure(
    "idealized_accuracy",
    needs=("grid", "pre_activations", "neurons"),
    columns=(
        Column("idealized_accuracy_all", "accuracy of the network rebuilt from its neurons' phases, on all pairs"),
        Column("idealized_accuracy_novel", "accuracy of the network rebuilt from its neurons' phases, on novel pairs"),
        Column(
            "idealized_accuracy_null",
            "accuracy on novel pairs of the network rebuilt with permuted output phases: the level of chance",
        ),
    ),
)
def idealized_accuracy(snapshot: Snapshot, *, wave: Wave = "cosine") -> IdealizedAccuracy:
    """Accuracy of the network rebuilt from each neuron's frequency, amplitudes and phases alone.

    A neuron reads A_a cos(w_k a - phi_a) + A_b cos(w_k b - phi_b) + its mean pre-activation, applies the model's
    activation function, and adds B cos(w_k c - psi) to the logits. All terms at other frequencies, and every other
    path, are dropped. It says how much of the answer phases and frequencies
    give, often long before the network itself answers by them. The null shows that the phases carry it.

    It does not say that the network has learned to compute this way: random neurons with a readout that memorizes sums
    have aligned phases too, and so has a lookup table with a neuron for each training pair. What tells a circuit from
    these is the share of each neuron's power at its frequency (`neuron_phases`): it stays at that of an untrained
    network, or lower, in both.

    >>> import grokinterp as gi
    >>> found = idealized_accuracy(gi.load("checkpoints/run42").snapshot("last"))
    >>> found.idealized_accuracy_all > 0.8, found.idealized_accuracy_null < 0.1
    (True, True)

    Args:
        snapshot: a checkpoint of a model of known architecture, of a task with a cyclic group.
        wave: of the inputs: `cosine`, or `square` for square waves with the same fundamental,
            A pi/4 sign cos(w_k a - phi).

    Returns:
        The accuracies; that on novel pairs is `Undefined` if the split is unknown or no pair is novel, all are if no
        neuron reads a number.

    Raises:
        MissingNeedError: the model is one of your own, or the path from its neurons to the logits is not linear; or the
            task has no cyclic group.

    Source:
        Swaroop 2026 (arXiv:2603.23784).
    """
    phases, task = neuron_phases(snapshot), snapshot.task
    if not phases.counts():
        finite = bool(torch.isfinite(_before(snapshot).values).all())
        nothing = Undefined("no neuron reads a number" if finite else "the pre-activations are not finite")
        return IdealizedAccuracy(nothing, nothing, nothing)
    rebuilt = _Rebuilt(snapshot, phases, wave)
    hits = rebuilt.hits()
    mask = task.held_out_mask if task.train_mask is not None else None
    novel = None if mask is None else mask[snapshot.pair_grid.indices.flatten()]
    reason = snapshot.lacks("split") or ("no pair is novel" if novel is None or not novel.any() else "")
    tested = torch.arange(len(hits)) if reason or novel is None else novel.nonzero().flatten()
    return IdealizedAccuracy(
        hits.mean().item(),
        Undefined(reason) if reason else hits[tested].mean().item(),
        rebuilt.null(tested),
    )


class _Rebuilt:
    """The rebuilt network."""

    def __init__(self, snapshot: Snapshot, phases: NeuronPhases, wave: Wave):
        self.function, grid = _before(snapshot).function, snapshot.pair_grid
        self.order = phases.frequency.argsort(stable=True)[int((phases.frequency == 0).sum()) :]
        self.counts = phases.counts()
        self.amplitude, self.phase = phases.amplitude_out[self.order], phases.phase_out[self.order]
        self.theta = angles(grid.order, phases.frequency[self.order])  # [m, g]
        inputs = ((phases.amplitude_a, phases.phase_a), (phases.amplitude_b, phases.phase_b))
        of_a, of_b = (size[self.order] * _wave(self.theta.T - phase[self.order], wave) for size, phase in inputs)
        self.of_a, self.of_b = of_a + phases.mean[self.order], of_b
        self.sums = grid.sums[grid.indices.flatten()]

    def hits(self) -> Float[Tensor, " n"]:
        """For each pair of the grid, row by row: 1 if the rebuilt network answers it right."""
        g, found = len(self.of_a), []
        out = self.amplitude[:, None] * (self.theta - self.phase[:, None]).cos()
        for a in torch.arange(g).split(max(1, _ROWS // g)):
            neurons = self.function(self.of_a[a][:, None] + self.of_b).flatten(0, 1)
            rows = slice(int(a[0]) * g, (int(a[-1]) + 1) * g)
            found.append(hit_by_input(neurons @ out, self.sums[rows]))
        return torch.cat(found)

    def null(self, pairs: Int[Tensor, " n"]) -> float:
        """Mean accuracy over permutations of the output phases, on at most 400 of some pairs, in float32.

        Neurons of one frequency are added up first: sum of B f(...) cos psi and of B f(...) sin psi, for every
        permutation; these are then multiplied by cos w_k c and sin w_k c. A tie counts as wrong.
        """
        g, sizes = len(self.of_a), list(self.counts.values())
        generator = torch.Generator().manual_seed(0)
        order = [torch.randperm(len(self.phase), generator=generator) for _ in range(PERMUTATIONS)]
        pairs = pairs[torch.randperm(len(pairs), generator=generator)[:_NULL_PAIRS]]
        phases = torch.stack([self.phase[permutation] for permutation in order], dim=1)
        tables = (torch.stack([phases.cos(), phases.sin()], dim=1) * self.amplitude[:, None, None]).float()  # [m, 2, r]
        waves = angles(g, list(self.counts))
        waves = torch.stack([waves.cos(), waves.sin()], dim=1).flatten(0, 1).float()  # [2k, g]
        neurons = self.function((self.of_a[pairs // g] + self.of_b[pairs % g]).float())
        parts = zip(neurons.split(sizes, dim=1), tables.flatten(1).split(sizes), strict=True)
        totals = torch.stack([part @ table for part, table in parts])  # [k, n, 2r]
        logits = totals.unflatten(2, (2, PERMUTATIONS)).permute(3, 1, 0, 2).flatten(2) @ waves  # [r, n, g]
        labels = self.sums[pairs][None, :, None].expand(PERMUTATIONS, -1, 1)
        right = (logits.gather(2, labels)[..., 0] == logits.amax(dim=2)) & logits.any(dim=2)
        return right.double().mean().item()


def _wave(angle: Tensor, wave: Wave) -> Tensor:
    return angle.cos() if wave == "cosine" else math.pi / 4 * angle.cos().sign()
