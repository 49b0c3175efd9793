"""The formula behind the logits, sum of A_k cos(w_k(a+b-c) - delta_k), and the pairs that it decides for certain."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.measures.base import Column, Frequencies, as_frequencies, measure, require_snapshot
from grokinterp.measures.circuit import centered_norm, means_by_offset
from grokinterp.measures.fourier import angles, frequency_parts
from grokinterp.measures.progress import NO_KEYS
from grokinterp.measures.snapshot import Snapshot, Undefined

Formula = Literal["cosines", "projection"]
_ROWS = 2048  # of pairs at once


@dataclass(frozen=True)
class FormulaFit:
    """The least-squares fit of sum over k of A_k cos(w_k(a+b-c) - delta_k) to the class-centered logits of all pairs.

    >>> import grokinterp as gi
    >>> fit = formula_fit(gi.load("checkpoints/run42").snapshot("last"), (8, 14, 21))
    >>> [round(amplitude) for amplitude in fit.amplitude.tolist()], fit.accuracy
    ([17, 47, 7], 1.0)

    Attributes:
        frequencies: the key frequencies k.
        amplitude: `[k]`, A_k in logits.
        phase: `[k]`, delta_k in radians, 0 in the trigonometric circuit; 0 for the Nyquist frequency.
        explained: the share of the sum of squares of the class-centered logits that the formula explains.
        margin: the formula's value at the right class minus its largest value at another class; the same for all pairs.
        accuracy: 1 if the formula answers every pair right, else 0.
    """

    frequencies: tuple[int, ...]
    amplitude: Float[Tensor, " k"]
    phase: Float[Tensor, " k"]
    explained: float
    margin: float
    accuracy: float


def formula_fit(snapshot: Snapshot, frequencies: Frequencies) -> FormulaFit:
    """Fits the formula of the trigonometric circuit to the logits.

    On the whole cube of pairs and classes the cosines and sines are orthogonal, so each coefficient is a projection.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(7)] * 3, indexing="ij")
    >>> logits = 20 * torch.cos(2 * torch.pi * 3 * (a + b - c) / 7)
    >>> fit = formula_fit(Snapshot.from_logits(Task.modular_addition(p=7), logits), 3)
    >>> round(fit.amplitude.item(), 3), fit.accuracy, round(fit.explained, 6)
    (20.0, 1.0, 1.0)

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies.

    Returns:
        The fit; `explained` is `Undefined` without key frequencies, or if the logits are constant over classes.

    Raises:
        MissingNeedError: the task has no cyclic group.
        ConfigError: a frequency is out of range.

    Source:
        Nanda et al. 2023, section 4.2, with phases.
    """
    require_snapshot(snapshot, "formula_fit")
    snapshot.require("formula_fit", "grid")
    g = snapshot.pair_grid.order
    keys = as_frequencies(frequencies, g)
    sums, counts = snapshot.class_sums("all")
    offsets = means_by_offset(sums, int(counts.sum()), snapshot.pair_grid.classes)
    theta = angles(g, keys)
    cos, sin = theta.cos(), theta.sin()
    of_cos = (cos @ offsets) / cos.square().sum(dim=1)
    squares = sin.square().sum(dim=1)
    of_sin = torch.where(squares > 1e-6, (sin @ offsets) / squares.clamp_min(1e-6), 0.0)
    curve = of_cos @ cos + of_sin @ sin  # by offset a + b - c
    margin = (curve[0] - curve[1:].max()).item() if keys else Undefined(NO_KEYS)
    total = centered_norm(snapshot, "all").square().item()
    explained = g * g * curve.square().sum().item() / total if total > 0 else Undefined("constant logits")
    return FormulaFit(
        frequencies=keys,
        amplitude=torch.hypot(of_cos, of_sin),
        phase=torch.atan2(of_sin, of_cos),
        explained=explained if keys else Undefined(NO_KEYS),
        margin=margin,
        accuracy=float(margin > 0) if keys else Undefined(NO_KEYS),
    )


@measure(
    "formula_explained",
    needs=("grid", "reference"),
    columns=Column(
        "formula_explained", "share of the class-centered logits explained by cosines and sines of w_k(a+b-c)"
    ),
)
def formula_explained(snapshot: Snapshot, frequencies: Frequencies) -> float:
    """Share of the sum of squares of the class-centered logits explained by cosines and sines of w_k(a+b-c).

    >>> import grokinterp as gi
    >>> formula_explained(gi.load("checkpoints/run42").snapshot("last"), (8, 14, 21)) > 0.9
    True

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies.

    Returns:
        From 0 to 1; see `formula_fit`.

    Raises:
        MissingNeedError: the task has no cyclic group.
        ConfigError: a frequency is out of range.
    """
    return formula_fit(snapshot, frequencies).explained


@measure(
    "guaranteed_share",
    needs=("grid", "reference"),
    costly=True,
    columns=(
        Column("guaranteed_share", "share of pairs that the formula decides, whatever the rest of the logits does"),
        Column(
            "guaranteed_share_bound",
            "lower bound of the guaranteed share from norms alone",
            {"by_norm": True},
        ),
    ),
)
def guaranteed_share(
    snapshot: Snapshot, frequencies: Frequencies, *, formula: Formula = "cosines", by_norm: bool = False
) -> float:
    """The share of pairs that a formula decides, whatever the rest of the logits does.

    With the class-centered logits L = S + R, S the formula and R the rest, a pair is guaranteed if S at its label
    exceeds S at every other class by more than 2 max |R| over the pair's row. Then the network answers it right.

    >>> from grokinterp.tasks import Task
    >>> a, b, c = torch.meshgrid(*[torch.arange(7)] * 3, indexing="ij")
    >>> logits = 20 * torch.cos(2 * torch.pi * 3 * (a + b - c) / 7)
    >>> guaranteed_share(Snapshot.from_logits(Task.modular_addition(p=7), logits), 3)
    1.0

    Args:
        snapshot: a checkpoint of a task with a cyclic group.
        frequencies: the key frequencies.
        formula: `cosines`, the fit of `formula_fit`; or `projection`, P_K L plus the mean over pairs, whose shape over
            classes is free.
        by_norm: return the lower bound 1 - |R|^2 / (n (d/2)^2) instead, where d is the smallest margin of S: at most
            |R|^2 / (d/2)^2 pairs can have a row of R with an entry of d/2 or more.

    Returns:
        From 0 to 1; `Undefined` without key frequencies or if the logits are not finite.

    Raises:
        MissingNeedError: the task has no cyclic group.
        ConfigError: a frequency is out of range.
    """
    grid = snapshot.pair_grid
    keys = as_frequencies(frequencies, grid.order)
    if not keys:
        return Undefined(NO_KEYS)
    if not snapshot.finite:
        return Undefined("the logits are not finite")
    table = _formula_table(snapshot, keys, formula)
    guaranteed = guaranteed_pairs(snapshot, table)
    if not by_norm:
        return guaranteed.double().mean().item()
    margins = _margins(table, grid.classes)
    if margins.min() <= 0:
        return 0.0
    rows = snapshot.centred[grid.indices.flatten()]
    rest = (rows - table[grid.sums[grid.indices.flatten()]]).square().sum()
    return max(0.0, 1 - (rest / (len(rows) * (margins.min() / 2) ** 2)).item())


def guaranteed_pairs(snapshot: Snapshot, table: Float[Tensor, "g c"]) -> Tensor:
    """For each pair of the grid, row by row: whether the formula decides it.

    Args:
        snapshot: the checkpoint.
        table: `[g, c]`, the formula's class-centered logits of each sum class.
    """
    grid = snapshot.pair_grid
    margins, found = _margins(table, grid.classes), []
    for pairs in grid.indices.flatten().split(_ROWS):
        sums = grid.sums[pairs]
        logits = snapshot.logits[pairs]
        rest = logits - logits.mean(dim=1, keepdim=True) - table[sums]
        found.append(margins[sums] > 2 * rest.abs().amax(dim=1))
    return torch.cat(found)


def _formula_table(snapshot: Snapshot, keys: tuple[int, ...], formula: Formula) -> Float[Tensor, "g c"]:
    """The formula's logits by sum class, centered over all classes; 0 at classes outside the group."""
    averages, grid = snapshot.logit_averages, snapshot.pair_grid
    if formula == "projection":
        table = frequency_parts(averages, keys).sum(dim=0) + averages.mean(dim=0)
    else:
        fit, g = formula_fit(snapshot, keys), grid.order
        s = torch.arange(g)
        curve = (fit.amplitude[:, None] * (angles(g, keys) - fit.phase[:, None]).cos()).sum(dim=0)
        table = torch.zeros_like(averages)
        table[:, grid.classes] = curve[(s[:, None] - s[None, :]) % g]
    return table - table.mean(dim=1, keepdim=True)


def _margins(table: Tensor, classes: Tensor) -> Float[Tensor, " g"]:
    """By sum class: the value at the right class minus the largest at another."""
    right = table.gather(1, classes[:, None])
    others = table.scatter(1, classes[:, None], float("-inf"))
    return right[:, 0] - others.amax(dim=1)
