"""The claims about parity of bits, decided from tables of runs with and without weight decay."""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict

DECAY = "optimizer.weight_decay"
_SEEDS = 3  # fewer decide nothing here
_STUCK = 0.75  # halfway from chance to right
_SOONER = 1.5


def stuck_without_decay(table: pd.DataFrame, what: str) -> Claim:
    """Assertion 22: without weight decay a network that memorized parity stays where it is.

    Stuck is a run whose test accuracy ends below 0.75, halfway from chance to right.

    Args:
        table: runs without weight decay, and with.
        what: the network, for the claim's name.
    """
    without, _ = _parts(table)
    accuracy = column(without, "final.test_accuracy")
    memorized = np.isfinite(column(without, "T_train_0.99"))
    accuracy = accuracy[memorized]
    n, stuck = len(accuracy), int((accuracy < _STUCK).sum())
    steps = f" after {span(column(without, 'step'), ',.0f')} steps" if n else ""
    found: Verdict = "inconclusive"
    if n >= _SEEDS and stuck in (0, n):
        found = "supported" if stuck == n else "not supported"
    return Claim(
        f"stuck, {what}",
        f"Without weight decay the {what} memorizes parity and is stuck there.",
        "stuck indefinitely",
        f"{stuck} of {n} stuck; test accuracy {span(accuracy, '.3f')}{steps}" if n else "no run memorized",
        n,
        f"test accuracy below {_STUCK} in every run of at least {_SEEDS} (in none: not supported)",
        found,
        should_hold=False,
        number=22,
    )


def sooner_with_decay(table: pd.DataFrame, what: str) -> Claim:
    """Whether weight decay is what makes parity generalize: T_grok(0.95) without it is 1.5 times that with it.

    A run that has not generalized counts with its last step, below which its time cannot be.

    Args:
        table: runs without weight decay, and with.
        what: the network, for the claim's name.
    """
    without, with_decay = _parts(table)
    late, soon = column(without, "T_grok_0.95"), column(with_decay, "T_grok_0.95")
    waited = np.where(np.isfinite(late), late, column(without, "step"))
    n = len(table)
    enough = min(len(waited), int(np.isfinite(soon).sum())) >= _SEEDS
    ratio = float(np.median(waited) / np.median(soon[np.isfinite(soon)])) if enough else float("nan")
    missing = int((~np.isfinite(late)).sum())
    more = f", {missing} of {len(late)} not by their last step" if missing else ""
    return Claim(
        f"decay, {what}",
        f"The {what} generalizes parity sooner with weight decay.",
        "with weight decay only",
        f"{ratio:.2f} times as late without: median {np.median(waited):,.0f}{more}; "
        f"with decay {np.median(soon[np.isfinite(soon)]):,.0f}"
        if enough
        else f"fewer than {_SEEDS} runs that generalized with decay, or as many without it",
        n,
        f"the median T_grok(0.95) is at least {_SOONER} times as late without",
        verdict(ratio >= _SOONER, n if enough else 0),
        should_hold=what == "MLP",
    )


def delayed(table: pd.DataFrame, what: str) -> Claim:
    """Whether parity is grokked at all: generalized long after it was memorized, in every run with weight decay.

    Args:
        table: runs without weight decay, and with.
        what: the network, for the claim's name.
    """
    _, with_decay = _parts(table)
    there = with_decay.loc[np.isfinite(column(with_decay, "T_grok_0.95"))]
    n, late = len(there), int((there["outcome"] == "grokked").sum())
    times = [
        f"{said} {span(column(there, name), ',.0f')}"
        for said, name in (("T_train(0.99)", "T_train_0.99"), ("T_grok(0.95)", "T_grok_0.95"))
        if n
    ]
    found: Verdict = "inconclusive"
    if n >= _SEEDS and late in (0, n):
        found = "supported" if late == n else "not supported"
    return Claim(
        f"delay, {what}",
        f"With weight decay the {what} groks parity: it memorizes first and generalizes later.",
        "a phase transition",
        f"{late} of {n} grokked; {', '.join(times)}" if n else "no run generalized",
        n,
        "every run grokked (none: not supported)",
        found,
        should_hold=what == "MLP",
    )


def _parts(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    decay = column(table, DECAY)
    return table.loc[decay == 0], table.loc[decay == 1]
