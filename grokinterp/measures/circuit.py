"""The trigonometric circuit in logits and neurons: cosine coefficients, explained variance, neurons' frequencies."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.fourier import angles, fourier_basis, frequency_parts, n_frequencies
from grokinterp.measures.base import Column, Frequencies, Snapshot, Undefined, as_frequencies, measure


@dataclass(frozen=True)
class CosineFit:
    """How much of the class-centred logits is cos w_k(a+b-c), and, as a noise floor, sin w_k(a+b-c).

    Attributes:
        coefficient: `[k]`, beta_k: the least-squares amplitude of cos w_k(a+b-c), in logits.
        cosine: `[k]`, cosine similarity with cos w_k(a+b-c).
        sine: `[k]`, cosine similarity with sin w_k(a+b-c); 0 for the Nyquist frequency, which has none.
        has_sine: `[k]`.
    """

    coefficient: Float[Tensor, " k"]
    cosine: Float[Tensor, " k"]
    sine: Float[Tensor, " k"]
    has_sine: Bool[Tensor, " k"]


def diagonal_means(
    logits: Float[Tensor, "n c"], sums: Int[Tensor, " n"], classes: Int[Tensor, " g"]
) -> Float[Tensor, " g"]:
    """g[m]: the mean over the pairs given of the class-centred logit at c = a + b - m.

    Args:
        logits: of the pairs.
        sums: a + b mod g of the pairs, in the group's order.
        classes: the classes in the group's order.
    """
    order = len(classes)
    centred = logits[:, classes].double()
    centred = centred - centred.mean(dim=1, keepdim=True)
    table = torch.zeros(order, order, dtype=torch.float64).index_add(0, sums, centred)
    m = torch.arange(order)
    return table[m[:, None], (m[:, None] - m[None, :]) % order].sum(dim=0) / max(len(sums), 1)


def fit_cosines(logits: Float[Tensor, "n c"], sums: Int[Tensor, " n"], classes: Int[Tensor, " g"]) -> CosineFit:
    """Projects the class-centred logits of some pairs on cos and sin w_k(a+b-c), for every frequency.

    Args:
        logits: of the pairs.
        sums: a + b mod g of the pairs.
        classes: the classes in the group's order.
    """
    order = len(classes)
    means = diagonal_means(logits, sums, classes)
    centred = logits[:, classes].double()
    norm = (centred - centred.mean(dim=1, keepdim=True)).norm()
    theta = angles(order, range(1, n_frequencies(order) + 1))
    cos, sin = theta.cos(), theta.sin()
    cos_square, sin_square = cos.square().sum(dim=1), sin.square().sum(dim=1)
    has_sine = sin_square > 1e-6
    n = len(sums)
    cos_norm, sin_norm = (n * cos_square).sqrt(), (n * sin_square).sqrt()
    sine = torch.where(has_sine, n * (sin @ means) / (sin_norm.clamp_min(1e-6) * norm), 0.0)
    return CosineFit((cos @ means) / cos_square, n * (cos @ means) / (cos_norm * norm), sine, has_sine)


def _all_pairs_fit(snapshot: Snapshot) -> CosineFit:
    group, sums = snapshot.task.group, snapshot.task.sum_class
    assert group is not None
    assert sums is not None
    inside = sums >= 0
    return fit_cosines(snapshot.logits[inside], sums[inside], group.classes[: group.order])


@measure(
    "cosine_coefficients",
    needs=("grid",),
    columns=(
        Column(
            "cosine_coefficient", "amplitude beta_k of cos w_k(a+b-c) in the logits, over all pairs", per_frequency=True
        ),
    ),
)
def cosine_coefficients(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Least-squares amplitude beta_k, in logits, of cos w_k(a+b-c), for each frequency, over all pairs.

    Nanda et al. 2023 (section 4.2) scale it by the norm of the cosine cube instead: <L, q_k> = beta_k p sqrt(p/2).
    """
    return _all_pairs_fit(snapshot).coefficient


@measure(
    "cosine_similarities",
    needs=("grid",),
    columns=(
        Column(
            "cosine_similarity", "cosine similarity of the class-centred logits with cos w_k(a+b-c)", per_frequency=True
        ),
    ),
)
def cosine_similarities(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Cosine similarity of the class-centred logits with cos w_k(a+b-c) over all pairs (Chughtai et al. 2023)."""
    return _all_pairs_fit(snapshot).cosine


@measure(
    "logit_variance_explained",
    needs=("grid", "reference"),
    columns=(
        Column("logit_variance_explained", "share of the logits' variance over pairs on the key frequencies of a + b"),
    ),
)
def logit_variance_explained(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """|P_K(L - mean L)|^2 / |L - mean L|^2, means over pairs (Nanda et al. 2023, section 4.2)."""
    grid = snapshot.grid
    assert grid is not None
    keys = as_frequencies(frequencies, len(grid))
    total = (grid - grid.mean(dim=(0, 1))).square().sum().item()
    if not keys:
        return Undefined("no key frequencies")
    if total <= (1e-12 * grid.norm().item()) ** 2:  # what rounding leaves of a constant
        return Undefined("constant logits")
    part = frequency_parts(snapshot.logit_averages, keys).sum(dim=0)
    return len(grid) * part.square().sum().item() / total  # each sum class holds g pairs


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

    Raises:
        MissingNeedError: no neurons, or no group behind the task.
    """
    for need in ("neurons", "grid"):
        reason = snapshot.lacks(need)
        if reason is not None:
            raise MissingNeedError("neuron_frequencies", need, reason)
    where, neurons = snapshot.task.grid_indices, snapshot.neurons
    assert where is not None
    assert neurons is not None
    grid = neurons.double()[where]
    grid = grid - grid.mean(dim=(0, 1))
    order = len(grid)
    basis = fourier_basis(order)
    squares = torch.einsum("fa,abm,gb->fgm", basis, grid, basis).square()
    total = grid.square().sum(dim=(0, 1))
    shares = []
    for k in range(1, n_frequencies(order) + 1):
        rows = torch.tensor([0, *(row for row in (2 * k - 1, 2 * k) if row < order)])
        block = squares[rows[:, None], rows[None, :]].sum(dim=(0, 1)) - squares[0, 0]
        shares.append(block)
    alive = total > 1e-12 * max(total.max().item(), 1e-300)
    share = torch.where(alive, torch.stack(shares) / total.clamp_min(1e-300), 0.0)
    explained, best = share.max(dim=0)
    return NeuronFrequencies(torch.where(alive, best + 1, 0), explained)
