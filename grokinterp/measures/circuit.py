"""The trigonometric circuit in the logits: cosine coefficients and similarities, explained variance."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grokinterp.measures.base import Column, Frequencies, as_frequencies, measure
from grokinterp.measures.fourier import angles, frequency_parts, n_frequencies
from grokinterp.measures.scores import centred_squares_by_input
from grokinterp.measures.snapshot import Snapshot, Undefined


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


def fit_cosines(sums: Float[Tensor, "g c"], n: int, norm: Float[Tensor, ""], classes: Int[Tensor, " g"]) -> CosineFit:
    """Projects the class-centred logits of some pairs on cos and sin w_k(a+b-c), for every frequency.

    cos w_k(a+b-c) depends on the pair through a+b alone, so the logits enter as their sum over the pairs of each sum
    class, of which only the sums along the diagonals c = a+b-m count.

    Args:
        sums: the logits, summed over the pairs of each sum class.
        n: number of pairs.
        norm: of the pairs' class-centred logits.
        classes: the classes in the group's order.
    """
    order = len(classes)
    table = sums[:, classes]
    table = table - table.mean(dim=1, keepdim=True)
    m = torch.arange(order)
    means = table[m[:, None], (m[:, None] - m[None, :]) % order].sum(dim=0) / max(n, 1)
    theta = angles(order, range(1, n_frequencies(order) + 1))
    cos, sin = theta.cos(), theta.sin()
    cos_square, sin_square = cos.square().sum(dim=1), sin.square().sum(dim=1)
    has_sine = sin_square > 1e-6
    cos_norm, sin_norm = (n * cos_square).sqrt(), (n * sin_square).sqrt()
    sine = torch.where(has_sine, n * (sin @ means) / (sin_norm.clamp_min(1e-6) * norm), 0.0)
    return CosineFit((cos @ means) / cos_square, n * (cos @ means) / (cos_norm * norm), sine, has_sine)


def centred_norm(snapshot: Snapshot, pairs: str) -> Float[Tensor, ""]:
    """Norm of the logits of `all` or of the `held_out` pairs, centred over the classes of the task's group."""

    def squares() -> Tensor:
        group = snapshot.task.group
        assert group is not None
        classes = group.classes[: group.order]
        whole = len(classes) == snapshot.logits.shape[1]  # in whatever order
        logits = snapshot.logits if whole else snapshot.logits[:, classes]
        return centred_squares_by_input(logits)

    return snapshot.remember("centred_squares", squares)[snapshot.inside(pairs)].sum().sqrt()


def cosine_fit(snapshot: Snapshot, pairs: Literal["all", "held_out"]) -> CosineFit:
    """The fit to `all` or to the `held_out` pairs of the grid."""
    group = snapshot.task.group
    assert group is not None

    def fit() -> CosineFit:
        sums, counts = snapshot.class_sums(pairs)
        return fit_cosines(sums, int(counts.sum()), centred_norm(snapshot, pairs), group.classes[: group.order])

    return snapshot.remember(("cosine_fit", pairs), fit)


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
    return cosine_fit(snapshot, "all").coefficient


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
    return cosine_fit(snapshot, "all").cosine


@measure(
    "logit_variance_explained",
    needs=("grid", "reference"),
    columns=(
        Column("logit_variance_explained", "share of the logits' variance over pairs on the key frequencies of a + b"),
    ),
)
def logit_variance_explained(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """|P_K(L - mean L)|^2 / |L - mean L|^2, means over pairs (Nanda et al. 2023, section 4.2)."""
    group = snapshot.task.group
    assert group is not None
    keys = as_frequencies(frequencies, group.order)
    if not keys:
        return Undefined("no key frequencies")
    total, norm = snapshot.remember("spread", lambda: _spread(snapshot))
    if total <= (1e-12 * norm) ** 2:  # what rounding leaves of a constant
        return Undefined("constant logits")
    part = frequency_parts(snapshot.logit_averages, keys).sum(dim=0)
    return group.order * part.square().sum().item() / total  # each sum class holds g pairs


def _spread(snapshot: Snapshot) -> tuple[float, float]:
    """|L - mean L|^2 and |L| over the pairs of the grid, means over pairs."""
    inside = snapshot.inside("all")
    logits = snapshot.logits if bool(inside.all()) else snapshot.logits[inside]
    return (logits - logits.mean(dim=0)).square().sum().item(), logits.norm().item()
