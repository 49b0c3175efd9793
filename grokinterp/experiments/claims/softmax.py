"""The claims of Prieto et al. 2025, *Grokking at the Edge of Numerical Stability*, and what became of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim

_CHOU = "Chou 2025 could not reproduce Figures 2a, 6b and 15a"


def float32_absorbs(curves: Sequence[pd.DataFrame]) -> Claim:
    """Training without regularization ends where the softmax of plain float32 collapses.

    Args:
        curves: of `grokinterp.experiments.softmax.absorption_of_run`, of runs without weight decay.
    """
    ends = np.array([curve["absorbed"].iloc[-1] for curve in curves], dtype=float)
    lost = np.array([curve["lost_gradient"].iloc[-1] for curve in curves], dtype=float)
    lost = lost[np.isfinite(lost)]
    first = [float(hit.index[0]) for curve in curves if len(hit := curve.loc[curve["absorbed"] > 0])]
    n = len(curves)
    measured = f"{span(100 * ends, '.0f')} % of the training examples at the end" if n else "no runs"
    measured += f", the first at step {span(first, ',.0f')}" if first else ""
    measured += f"; plain float32 would lose {span(100 * lost, '.0f')} % of the gradient there" if len(lost) else ""
    return Claim(
        "softmax collapse",
        "Without regularization the logits grow until plain float32 absorbs all classes but the correct one.",
        "Prieto et al. 2025, Figure 2; " + _CHOU,
        measured + "; trained in a form that does not collapse",
        n,
        "at least half of the training examples at the end, in every run",
        verdict(bool((ends >= 0.5).all()), n),
    )


def generalizes(
    table: pd.DataFrame, *, means: str, published: str, budget_decides: bool = True, should_hold: bool = True
) -> Claim:
    """Runs without weight decay generalize by some means.

    Args:
        table: of these runs.
        means: what they have in place of weight decay, for the name and the statement.
        published: what the source says.
        budget_decides: whether runs that have only memorized when they end say that they never generalize.
        should_hold: whether we expect it.
    """
    train, test = column(table, "T_train_0.99"), column(table, "T_grok_0.95")
    known, memorized = np.isfinite(test), np.isfinite(train)
    n = int(memorized.sum())
    measured = f"{int(known.sum())} of {len(table)} generalize"
    if known.any():
        measured += f", T_grok(0.95) {span(test[known], ',.0f')}"
    if n:
        measured += f"; T_train(0.99) {span(train[memorized], ',.0f')}"
    waiting = memorized & ~known
    if waiting.any():
        measured += f"; the others have memorized by step {span(column(table, 'step')[waiting], ',.0f')}"
    decided = n if budget_decides or not waiting.any() else 0
    measured += "; too short to say never" if waiting.any() and not decided else ""
    return Claim(
        f"{means} without decay",
        f"Without weight decay, {means} lets the network generalize.",
        published,
        measured,
        n,
        "every run that memorizes",
        verdict(not waiting.any(), decided),
        should_hold,
    )


def sooner_than(fast: pd.DataFrame, slow: pd.DataFrame, *, means: str) -> Claim:
    """The runs of one table generalize before those of another.

    Args:
        fast: of the runs that should be sooner.
        slow: of the others; those that do not generalize count as later.
        means: what the fast ones have.
    """
    one, other = column(fast, "T_grok_0.95"), column(slow, "T_grok_0.95")
    n = len(one) if len(other) and np.isfinite(column(slow, "T_train_0.99")).any() else 0
    held = (
        bool(n)
        and bool(np.isfinite(one).all())
        and bool((np.max(one) < np.where(np.isfinite(other), other, np.inf)).all())
    )
    reached = other[np.isfinite(other)]
    said = f"{len(reached)} of {len(other)} of the others" + (f", at {span(reached, ',.0f')}" if len(reached) else "")
    known = one[np.isfinite(one)]
    return Claim(
        f"{means} is sooner",
        f"With {means} generalization comes before it does under plain cross entropy.",
        "Prieto et al. 2025, Figures 1 and 6; " + _CHOU,
        f"{len(known)} of {len(one)}" + (f" at {span(known, ',.0f')}" if len(known) else "") + f"; {said}",
        n,
        "every run before every other",
        verdict(held, n),
    )


def decay_is_fast(table: pd.DataFrame, *, within: int = 250) -> Claim:
    """AdamW with strong weight decay solves the task in a few hundred steps.

    Args:
        table: of runs with weight decay.
        within: steps by which the test accuracy is to be 0.95.
    """
    test = column(table, "T_grok_0.95")
    known = test[np.isfinite(test)]
    held = len(known) == len(test) and bool((known <= within).all())
    return Claim(
        "strong decay is fast",
        "With a learning rate of 1e-2 AdamW with strong weight decay needs none of this.",
        "Chou 2025: weight decay 2 to 10, 40 % of the pairs, at most 150 to 250 epochs",
        f"T_grok(0.95) {span(known, ',.0f')}, {len(known)} of {len(test)}" if len(known) else f"0 of {len(test)}",
        len(table),
        f"at most {within} steps, every run",
        verdict(held, len(table)),
    )
