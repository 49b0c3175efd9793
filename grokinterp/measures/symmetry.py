"""Clock or pizza: how the two operands enter the logits, and how circular the embedding is (Zhong et al. 2023)."""

import functools
import random
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from grokinterp.errors import MissingNeedError
from grokinterp.measures.base import Column, measure
from grokinterp.measures.frequencies import evaluation_pairs
from grokinterp.measures.snapshot import Snapshot, Undefined
from grokinterp.measures.spectrum import embedding_table

TRIPLES, SEED = 100, 42
_COMPONENTS = 4  # principal components, of which two make a circle
PIZZA_SYMMETRICITY, CLOCK_SYMMETRICITY = 0.9, 0.6
PIZZA_IRRELEVANCE, CLOCK_IRRELEVANCE = 0.5, 0.6


@functools.lru_cache(maxsize=4)
def _triples(p: int) -> Int[Tensor, "100 3"]:
    """The first 100 triples (a, b, c) of Python's shuffle of all of them with seed 42."""
    numbers = list(range(p**3))
    random.Random(SEED).shuffle(numbers)
    chosen = torch.tensor(numbers[:TRIPLES])
    return torch.stack([chosen // p**2, chosen // p % p, chosen % p], dim=1)


@measure(
    "gradient_symmetricity",
    needs=("embedded",),
    costly=True,
    columns=Column(
        "gradient_symmetricity", "mean cosine of the gradients of a logit with respect to the embeddings of a and of b"
    ),
)
def gradient_symmetricity(snapshot: Snapshot) -> float:
    """Mean cosine between the gradients of a logit with respect to the embeddings of a and of b.

    Near 1 in a pizza, clearly lower in a clock. The mean is over the first 100 triples (a, b, c) of Python's shuffle of
    all of them with seed 42; gradients are taken in float64. A model into which only the sum of the embeddings enters
    has 1 by construction.

    >>> import grokinterp as gi
    >>> gradient_symmetricity(gi.load("checkpoints/run42").snapshot("last")) < 0.9
    True

    Args:
        snapshot: a checkpoint of a model of known architecture.

    Returns:
        From -1 to 1.

    Raises:
        MissingNeedError: the model is one of your own.

    Source:
        Zhong et al. 2023 (arXiv:2306.17844), section 4.1.
    """
    embedded = snapshot.embedded
    if embedded is None:
        raise MissingNeedError("gradient_symmetricity", "embedded", snapshot.lacks("embedded") or "")
    a, b, c = _triples(snapshot.task.p).T
    of_a, of_b = (
        table[numbers].detach().double().requires_grad_()
        for table, numbers in zip(embedded.tables, (a, b), strict=True)
    )
    chosen = embedded.logits(of_a, of_b).gather(1, c[:, None]).sum()
    gradients = torch.autograd.grad(chosen, (of_a, of_b))
    return torch.nn.functional.cosine_similarity(*gradients, dim=1, eps=1e-300).mean().item()


@measure(
    "distance_irrelevance",
    needs=("grid",),
    columns=Column("distance_irrelevance", "how little the correct logit depends on a - b: 1 if not at all"),
)
def distance_irrelevance(snapshot: Snapshot) -> float:
    """How little the correct logit depends on a - b: 1 if not at all (a clock), small in a pizza.

    With M[s, d] the logit of the right class at a + b = s and a - b = d: the mean over d of the standard deviation over
    s, divided by the standard deviation of M.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(7)] * 3, indexing="ij")
    >>> logits = torch.cos(2 * torch.pi * (a + b - c) / 7) * (1 + (a + b) % 7)  # depends on a + b alone
    >>> round(distance_irrelevance(Snapshot.from_logits(Task.modular_addition(p=7), logits)), 6)
    1.0

    Args:
        snapshot: a checkpoint of a task with a cyclic group of odd order.

    Returns:
        From 0 to 1; `Undefined` for even orders, where sum and difference do not determine the pair, and if all correct
        logits are equal.

    Raises:
        MissingNeedError: the task has no cyclic group.

    Source:
        Zhong et al. 2023 (arXiv:2306.17844), section 4.2. Their CSV files hold the same for the largest wrong logit.
    """
    grid = snapshot.pair_grid
    g = grid.order
    if g % 2 == 0:
        return Undefined("sum and difference do not determine the pair where the order is even")
    rows = grid.indices.flatten()
    correct = snapshot.logits[rows].gather(1, snapshot.task.labels[rows][:, None]).view(g, g)
    i, j = torch.meshgrid(torch.arange(g), torch.arange(g), indexing="ij")
    table = torch.empty(g, g, dtype=torch.float64)
    table[(i + j) % g, (i - j) % g] = correct
    spread = table.std(correction=0)
    if not spread > 1e-12 * table.abs().max():
        return Undefined("all correct logits are equal")
    return (table.std(dim=0, correction=0).mean() / spread).item()


@measure(
    "circularity",
    needs=("weights", "grid"),
    columns=Column("circularity", "how circular the first four principal components of the embedding are"),
)
def circularity(snapshot: Snapshot) -> float:
    """How circular the embedding is: 1 if each of its first four principal components is a sinusoid.

    For the projections v of the rows on a principal component: the largest over k >= 1 of
    2 |sum over t of v_t exp(2 pi i k t / g)|^2 / (g |v|^2), at most 1; the mean over four components.

    >>> import grokinterp as gi
    >>> circularity(gi.load("checkpoints/run42").snapshot("last")) > 0.8
    True

    Args:
        snapshot: a checkpoint with weights, of a task with a cyclic group.

    Returns:
        From 0 to 1; `Undefined` if the embedding has fewer than four components that vary, or is not finite.

    Raises:
        MissingNeedError: the snapshot has no weights or no embedding, or the task has no cyclic group.

    Source:
        Zhong et al. 2023 (arXiv:2306.17844), section 4.3.
    """
    table = embedding_table(snapshot)
    if not torch.isfinite(table).all():
        return Undefined("the embedding is not finite")
    u, s, _ = torch.linalg.svd(table - table.mean(dim=0), full_matrices=False)
    if len(s) < _COMPONENTS or s[_COMPONENTS - 1] <= 1e-12 * max(s[0].item(), 1e-300):
        return Undefined("the embedding has fewer than four components")
    power = torch.fft.fft(u[:, :_COMPONENTS], dim=0)[1:].abs().square()
    return (2 * power.amax(dim=0) / len(table)).clamp_max(1.0).mean().item()


@dataclass(frozen=True)
class CircuitVerdict:
    """Which of two published circuits a network looks like.

    >>> import grokinterp as gi
    >>> circuit_verdict(gi.load("checkpoints/run42").snapshot("last")).circuit
    'clock'

    Attributes:
        circuit: `clock`, `pizza`, or `neither`.
        reason: why, in a few words.
        gradient_symmetricity: see there; NaN with a reason if it cannot tell.
        distance_irrelevance: see there.
    """

    circuit: Literal["clock", "pizza", "neither"]
    reason: str
    gradient_symmetricity: float
    distance_irrelevance: float


def circuit_verdict(snapshot: Snapshot) -> CircuitVerdict:
    """Whether a network looks like a clock, a pizza, or neither.

    A pizza has gradient symmetricity of at least 0.9 and distance irrelevance of at most 0.5, a clock at most 0.6 and
    at least 0.6; these levels are ours, between the published models. A network that answers less than 90 % of the
    held-out pairs (of all pairs, if the split is unknown) has neither circuit. Where only the sum of the embeddings
    enters, gradient symmetricity is 1 by construction, so distance irrelevance decides alone; the reason says so.

    >>> import grokinterp as gi
    >>> circuit_verdict(gi.load("checkpoints/run42").snapshot(0)).reason
    'it answers 2 % of the pairs that it was not trained on'

    Args:
        snapshot: a checkpoint of a model of known architecture, of a task with a cyclic group.

    Raises:
        MissingNeedError: the model is one of your own, or the task has no cyclic group.

    Source:
        Zhong et al. 2023 (arXiv:2306.17844), section 4.
    """
    embedded = snapshot.embedded
    if embedded is None:
        raise MissingNeedError("circuit_verdict", "embedded", snapshot.lacks("embedded") or "")
    irrelevance = distance_irrelevance(snapshot)
    by_construction = Undefined("1 by construction: only the sum of the embeddings enters")
    symmetricity = by_construction if embedded.is_sum else gradient_symmetricity(snapshot)
    accuracy = snapshot.hits[evaluation_pairs(snapshot)].mean().item()
    known = snapshot.task.train_mask is not None

    def verdict(circuit: Literal["clock", "pizza", "neither"], reason: str) -> CircuitVerdict:
        return CircuitVerdict(circuit, reason, symmetricity, irrelevance)

    if accuracy < 0.9:
        which = "the pairs that it was not trained on" if known else "all pairs"
        return verdict("neither", f"it answers {100 * accuracy:.0f} % of {which}")
    if isinstance(irrelevance, Undefined):
        return verdict("neither", f"distance irrelevance: {irrelevance.reason}")
    if embedded.is_sum:
        if irrelevance <= PIZZA_IRRELEVANCE:
            return verdict("pizza", f"distance irrelevance {irrelevance:.2f} alone; gradient symmetricity cannot tell")
        return verdict("neither", f"distance irrelevance {irrelevance:.2f}, and gradient symmetricity cannot tell")
    values = f"gradient symmetricity {symmetricity:.2f}, distance irrelevance {irrelevance:.2f}"
    if symmetricity >= PIZZA_SYMMETRICITY and irrelevance <= PIZZA_IRRELEVANCE:
        return verdict("pizza", values)
    if symmetricity <= CLOCK_SYMMETRICITY and irrelevance >= CLOCK_IRRELEVANCE:
        return verdict("clock", values)
    return verdict("neither", f"{values}: between the two, or mixed")
