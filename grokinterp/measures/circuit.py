"""The trigonometric circuit in the logits: cosine coefficients and similarities, explained variance."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.measures.base import Column, Frequencies, as_frequencies, measure
from grokinterp.measures.fourier import angles, frequency_parts, n_frequencies
from grokinterp.measures.scores import centered_squares_by_input
from grokinterp.measures.snapshot import Snapshot, Undefined, rows_of


@dataclass(frozen=True)
class CosineFit:
    """Projections of the class-centered logits on cos w_k(a+b-c) and, as a noise floor, on sin w_k(a+b-c).

    Attributes:
        coefficient: `[k]`, beta_k, the least-squares amplitude of cos w_k(a+b-c), in logits.
        cosine: `[k]`, cosine similarity with cos w_k(a+b-c).
        sine: `[k]`, cosine similarity with sin w_k(a+b-c); 0 for the Nyquist frequency, whose sine is zero.
        has_sine: `[k]`, False for the Nyquist frequency.
    """

    coefficient: Float[Tensor, " k"]
    cosine: Float[Tensor, " k"]
    sine: Float[Tensor, " k"]
    has_sine: Bool[Tensor, " k"]


def fit_cosines(sums: Float[Tensor, "g c"], n: int, norm: Float[Tensor, ""], classes: Int[Tensor, " g"]) -> CosineFit:
    """Projects the class-centered logits of some pairs on cos and sin w_k(a+b-c), for every frequency.

    cos w_k(a+b-c) depends on the pair only through a+b, so the sum of the logits over the pairs of each sum class is
    all that is needed; of those sums, only the totals along the diagonals c = a+b-m count.

    Args:
        sums: `[g, c]`, the logits summed over the pairs of each sum class.
        n: number of pairs.
        norm: Frobenius norm of the pairs' class-centered logits.
        classes: `[g]`, the classes in the group's order.
    """
    order, means = len(classes), means_by_offset(sums, n, classes)
    theta = angles(order, range(1, n_frequencies(order) + 1))
    cos, sin = theta.cos(), theta.sin()
    cos_square, sin_square = cos.square().sum(dim=1), sin.square().sum(dim=1)
    has_sine = sin_square > 1e-6
    cos_norm, sin_norm = (n * cos_square).sqrt(), (n * sin_square).sqrt()
    sine = torch.where(has_sine, n * (sin @ means) / (sin_norm.clamp_min(1e-6) * norm), 0.0)
    return CosineFit((cos @ means) / cos_square, n * (cos @ means) / (cos_norm * norm), sine, has_sine)


def means_by_offset(sums: Float[Tensor, "g c"], n: int, classes: Int[Tensor, " g"]) -> Float[Tensor, " g"]:
    """`[g]`, the mean class-centered logit of some pairs by the offset a + b - c; the arguments are those above."""
    table = sums[:, classes]
    table = table - table.mean(dim=1, keepdim=True)
    s = torch.arange(len(classes))
    return table[s[:, None], (s[:, None] - s[None, :]) % len(classes)].sum(dim=0) / max(n, 1)


def centered_norm(snapshot: Snapshot, pairs: Literal["all", "held_out"]) -> Float[Tensor, ""]:
    """Norm of the logits of some pairs of the grid, centered over the classes of the task's group."""

    def squares() -> Tensor:
        classes = snapshot.pair_grid.classes
        every_class = len(classes) == snapshot.logits.shape[1]  # their order does not matter
        return centered_squares_by_input(snapshot.logits if every_class else snapshot.logits[:, classes])

    return snapshot.remember("centered_squares", squares)[snapshot.grid_mask(pairs)].sum().sqrt()


def cosine_fit(snapshot: Snapshot, pairs: Literal["all", "held_out"]) -> CosineFit:
    """The fit to `all` or to the `held_out` pairs of the grid, computed once."""

    def fit() -> CosineFit:
        sums, counts = snapshot.class_sums(pairs)
        return fit_cosines(sums, int(counts.sum()), centered_norm(snapshot, pairs), snapshot.pair_grid.classes)

    return snapshot.remember(("cosine_fit", pairs), fit)


@measure(
    "cosine_coefficients",
    needs=("grid",),
    columns=Column(
        "cosine_coefficient", "amplitude beta_k of cos w_k(a+b-c) in the logits, over all pairs", per_frequency=True
    ),
)
def cosine_coefficients(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Least-squares amplitude beta_k of cos w_k(a+b-c) in the logits, for each frequency, over all pairs.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(7)] * 3, indexing="ij")
    >>> logits = 20 * torch.cos(2 * torch.pi * 3 * (a + b - c) / 7)
    >>> snapshot = Snapshot.from_logits(Task.modular_addition(p=7), logits)
    >>> cosine_coefficients(snapshot).abs().round().tolist()
    [0.0, 0.0, 20.0]

    Args:
        snapshot: a checkpoint of a task with a cyclic group.

    Returns:
        `[k]`, in logits, for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the task has no cyclic group.

    Source:
        Nanda et al. 2023, section 4.2. They scale the coefficient by the norm of the cosine cube instead:
        <L, q_k> = beta_k p sqrt(p/2).
    """
    return cosine_fit(snapshot, "all").coefficient


@measure(
    "cosine_similarities",
    needs=("grid",),
    columns=Column(
        "cosine_similarity",
        "cosine similarity of the class-centered logits with cos w_k(a+b-c), over all pairs",
        per_frequency=True,
    ),
)
def cosine_similarities(snapshot: Snapshot) -> Float[Tensor, " k"]:
    """Cosine similarity of the class-centered logits with cos w_k(a+b-c), for each frequency, over all pairs.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> (1 + cosine_similarities(snapshot).topk(3).indices).sort().values.tolist()
    [8, 14, 21]

    Args:
        snapshot: a checkpoint of a task with a cyclic group.

    Returns:
        `[k]`, from -1 to 1, for k = 1 .. floor(g/2).

    Raises:
        MissingNeedError: the task has no cyclic group.

    Source:
        Chughtai et al. 2023.
    """
    return cosine_fit(snapshot, "all").cosine


@measure(
    "logit_variance_explained",
    needs=("grid", "reference"),
    columns=Column(
        "logit_variance_explained",
        "fraction of the variance of the logits over pairs that lies on the key frequencies of the sum class",
    ),
)
def logit_variance_explained(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Fraction of the variance of the logits over pairs that lies on the key frequencies of the sum class.

    >>> import grokinterp as gi
    >>> snapshot = gi.Run.open("checkpoints/run42").snapshot(4200)
    >>> round(logit_variance_explained(snapshot, (8, 14, 21)), 2)
    0.99

    |P_K(L - mean L)|^2 / |L - mean L|^2, where the mean is over pairs and P_K projects, over pairs and separately for
    each output, on cos w_k(a+b) and sin w_k(a+b) for k in K.

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies K.

    Returns:
        From 0 to 1; `Undefined` without key frequencies or if the logits are constant.

    Raises:
        MissingNeedError: the task has no cyclic group.
        ConfigError: a frequency is out of range.

    Source:
        The notebook of Nanda et al. 2023. Their section 4.2 reports another quantity, the variance explained by a
        least-squares fit of sum_k alpha_k cos w_k(a+b-c).
    """
    keys = as_frequencies(frequencies, snapshot.pair_grid.order)
    if not keys:
        return Undefined("no key frequencies")
    total, norm = snapshot.remember("spread", lambda: _spread(snapshot))
    if total <= (1e-12 * norm) ** 2:  # rounding error of a constant
        return Undefined("constant logits")
    part = frequency_parts(snapshot.logit_averages, keys).sum(dim=0)
    return snapshot.pair_grid.order * part.square().sum().item() / total  # each sum class holds g pairs


def _spread(snapshot: Snapshot) -> tuple[float, float]:
    """|L - mean L|^2 and |L| over the pairs of the grid; the mean is over pairs."""
    logits = rows_of(snapshot.logits, snapshot.grid_mask("all"))
    return (logits - logits.mean(dim=0)).square().sum().item(), logits.norm().item()
