"""Claims about parity of bits, decided from tables of runs with and without weight decay.

Source: *Grokking as a phase transition in transformer training*, a memo of February 2026.
"""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import T_GROK, T_TRAIN, column, finite, rows_with, unanimous_verdict, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

DECAY = "optimizer.weight_decay"
_SEEDS = 3  # fewer seeds decide nothing
_STUCK = 0.75  # halfway between chance and perfect accuracy
_SOONER = 1.5


def stuck_without_decay(table: pd.DataFrame, network: str) -> Claim:
    """Assertion 22: decide whether a network that memorized parity without weight decay never generalizes.

    A run is stuck if its final test accuracy is below 0.75, halfway between chance and perfect.

    Args:
        table: runs with and without weight decay, with `optimizer.weight_decay`, `T_train_0.99`, `final.test_accuracy`
            and `step`.
        network: the kind of network, for the claim's name.
    """
    memorized = rows_with(_with_decay(table, 0), T_TRAIN)
    accuracy, n = column(memorized, "final.test_accuracy"), len(memorized)
    stuck = int((accuracy < _STUCK).sum())
    measured = "no run memorized"
    if n:
        steps = span(column(_with_decay(table, 0), "step"), ",.0f")
        measured = f"{stuck} of {n} stuck; test accuracy {span(accuracy, '.3f')} after {steps} steps"
    return Claim(
        f"stuck, {network}",
        f"Without weight decay, the {network} memorizes parity but does not generalize.",
        "stuck indefinitely",
        measured,
        n,
        f"final test accuracy below {_STUCK} in each of at least {_SEEDS} runs (not supported if in none of them)",
        unanimous_verdict(stuck, n, _SEEDS),
        should_hold=False,
        number=22,
    )


def sooner_with_decay(table: pd.DataFrame, network: str) -> Claim:
    """Decide whether weight decay makes parity generalize: T_grok(0.95) is at least 1.5 times as late without it.

    A run that has not generalized counts with its last step, a lower bound of its time.

    Args:
        table: runs with and without weight decay, with `optimizer.weight_decay`, `T_grok_0.95` and `step`.
        network: the kind of network, for the claim's name.
    """
    without = _with_decay(table, 0)
    late, soon = column(without, T_GROK), finite(column(_with_decay(table, 1), T_GROK))
    waited = np.where(np.isfinite(late), late, column(without, "step"))
    enough = min(len(waited), len(soon)) >= _SEEDS
    ratio = float(np.median(waited) / np.median(soon)) if enough else float("nan")
    missing = int((~np.isfinite(late)).sum())
    note = f" ({missing} of {len(late)} did not generalize by their last step)" if missing else ""
    return Claim(
        f"decay, {network}",
        f"The {network} generalizes on parity sooner with weight decay.",
        "generalizes only with weight decay",
        f"takes {'at least ' if missing else ''}{ratio:.2f} times as long without decay: median "
        f"{np.median(waited):,.0f}{note}, compared with {np.median(soon):,.0f} with decay"
        if enough
        else f"fewer than {_SEEDS} runs that generalized with decay, or fewer than {_SEEDS} runs without",
        len(table),
        f"the median T_grok(0.95) is at least {_SOONER} times as large without weight decay",
        verdict(ratio >= _SOONER, len(table) if enough else 0),
        should_hold=network == "MLP",
    )


def delayed(table: pd.DataFrame, network: str) -> Claim:
    """Decide whether parity groks: every run with weight decay that generalizes does so long after it memorizes.

    Args:
        table: runs with and without weight decay, with `optimizer.weight_decay`, `outcome`, `T_train_0.99` and
            `T_grok_0.95`.
        network: the kind of network, for the claim's name.
    """
    generalized = rows_with(_with_decay(table, 1), T_GROK)
    n, late = len(generalized), sum(outcome == "grokked" for outcome in generalized["outcome"])
    measured = "no run generalized"
    if n:
        train, test = (span(column(generalized, name), ",.0f") for name in (T_TRAIN, T_GROK))
        measured = f"{late} of {n} grokked; T_train(0.99) {train}, T_grok(0.95) {test}"
    return Claim(
        f"delay, {network}",
        f"With weight decay, the {network} groks parity: it memorizes first and generalizes later.",
        "a phase transition",
        measured,
        n,
        "every run grokked (not supported if none did)",
        unanimous_verdict(late, n, _SEEDS),
        should_hold=network == "MLP",
    )


def _with_decay(table: pd.DataFrame, decay: float) -> pd.DataFrame:
    return table.loc[column(table, DECAY) == decay]
