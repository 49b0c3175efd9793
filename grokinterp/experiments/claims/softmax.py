"""Claims of Prieto et al. 2025 (*Grokking at the Edge of Numerical Stability*) and Chou 2025's replication of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import T_GROK, T_TRAIN, column, finite, rows_with, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_CHOU = "Chou 2025 could not reproduce Figures 2a, 6b, and 15a"


def float32_absorbs(curves: Sequence[pd.DataFrame]) -> Claim:
    """Decide whether training without regularization ends where the softmax of plain float32 collapses.

    Source: Prieto et al. 2025, Figure 2.

    Args:
        curves: results of `grokinterp.experiments.softmax.absorption_of_run` for runs without weight decay, with
            `absorbed` and `lost_gradient` by step.
    """
    ends = np.array([curve["absorbed"].iloc[-1] for curve in curves], dtype=float)
    lost = finite(np.array([curve["lost_gradient"].iloc[-1] for curve in curves], dtype=float))
    first = [float(hit.index[0]) for curve in curves if len(hit := curve.loc[curve["absorbed"] > 0])]
    n = len(curves)
    measured = f"absorption in {span(100 * ends, '.0f')} % of the training examples at the end" if n else "no runs"
    measured += f", where plain float32 would lose {span(100 * lost, '.0f')} % of the gradient" if len(lost) else ""
    measured += f"; first absorption at step {span(first, ',.0f')}" if first else ""
    return Claim.of_all(
        "softmax collapse",
        "Without regularization, the logits grow until, in plain float32, the correct class absorbs all others in the "
        "sum of the softmax.",
        "Prieto et al. 2025, Figure 2; " + _CHOU,
        measured + "; trained with a loss that does not collapse",
        "absorption in at least half of the training examples at the end, in every run",
        ends >= 0.5,
    )


def generalizes(
    table: pd.DataFrame, *, means: str, published: str, budget_decides: bool = True, should_hold: bool = True
) -> Claim:
    """Decide whether runs without weight decay generalize by some other means.

    Args:
        table: these runs, with `T_train_0.99`, `T_grok_0.95` and `step`.
        means: what they use in place of weight decay, for the name and the statement.
        published: what the source states.
        budget_decides: whether runs that have only memorized by their last step count as never generalizing. If not,
            they make the claim inconclusive.
        should_hold: whether the claim is expected to hold.
    """
    memorized = rows_with(table, T_TRAIN)
    n, times = len(memorized), finite(column(table, T_GROK))
    waiting = memorized.loc[~np.isfinite(column(memorized, T_GROK))]
    too_short = bool(len(waiting)) and not budget_decides
    measured = f"{len(times)} of {len(table)} generalize"
    if len(times):
        measured += f", T_grok(0.95) {span(times, ',.0f')}"
    if n:
        measured += f"; T_train(0.99) {span(column(memorized, T_TRAIN), ',.0f')}"
    if len(waiting):
        measured += f"; runs that only memorize stop at step {span(column(waiting, 'step'), ',.0f')}"
    if too_short:
        measured += "; too few steps to conclude that they never generalize"
    return Claim(
        f"no decay, {means}",
        f"Without weight decay, {means} lets the network generalize.",
        published,
        measured,
        n,
        "every run that memorizes also generalizes",
        verdict(not len(waiting), 0 if too_short else n),
        should_hold,
    )


def sooner_than(fast: pd.DataFrame, slow: pd.DataFrame, *, means: str) -> Claim:
    """Decide whether all runs of one table generalize before any of another. Source: Prieto et al. 2025.

    Args:
        fast: the runs that should be sooner, with `T_grok_0.95`.
        slow: the other runs, with `T_train_0.99` and `T_grok_0.95`; those that do not generalize count as later.
        means: what the fast runs use.
    """
    soon, late = (finite(column(runs, T_GROK)) for runs in (fast, slow))
    n = len(fast) if len(rows_with(slow, T_TRAIN)) else 0
    holds = len(soon) == len(fast) > 0 and bool(soon.max() < late.min(initial=np.inf))
    return Claim(
        f"{means} generalizes earlier",
        f"With {means}, the network generalizes earlier than under plain cross entropy.",
        "Prieto et al. 2025, Figures 1 and 6; " + _CHOU,
        f"{len(soon)} of {len(fast)}"
        + (f" at {span(soon, ',.0f')}" if len(soon) else "")
        + f"; {len(late)} of {len(slow)} under plain cross entropy"
        + (f", at {span(late, ',.0f')}" if len(late) else ""),
        n,
        "every run earlier than every run under plain cross entropy",
        verdict(holds, n),
    )


def decay_is_fast(table: pd.DataFrame, *, within: int = 250) -> Claim:
    """Decide whether AdamW with strong weight decay solves the task in a few hundred steps. Source: Chou 2025.

    Args:
        table: runs with weight decay, with `T_grok_0.95`.
        within: number of steps by which test accuracy must reach 0.95.
    """
    times, n = finite(column(table, T_GROK)), len(table)
    return Claim.of_all(
        "strong decay is fast",
        "At a learning rate of 1e-2, AdamW with strong weight decay generalizes early, without StableMax or ⊥Grad.",
        "Chou 2025: with weight decay 2 to 10 and 40 % of the pairs, generalizes within 150 to 250 epochs",
        f"T_grok(0.95) {span(times, ',.0f')}, {len(times)} of {n}" if len(times) else f"0 of {n}",
        f"T_grok(0.95) at most {within} steps in every run",
        column(table, T_GROK) <= within,
    )
