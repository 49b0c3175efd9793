"""Claims about regularizers that take the place of weight decay, after Power et al. 2022."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.manir import grokked
from grokinterp.experiments.claims.numbers import T_GROK, column, finite, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import settings
from grokinterp.statistics.formatting import span

_RUNS = 3  # fewest runs of a setting that decide a claim


def needs_a_regularizer(plain: pd.DataFrame, decayed: pd.DataFrame) -> Claim:
    """Decide whether runs without regularizer memorize but do not generalize where runs with weight decay generalize.

    The budget of the runs without regularizer must be at least twice the latest T_grok(0.95) with weight decay.

    Args:
        plain: rows of runs without weight decay or another regularizer, with `outcome` and `step`.
        decayed: rows of the same runs with weight decay, with `outcome` and `T_grok_0.95`.
    """
    n = min(len(plain), len(decayed))
    decided = n >= _RUNS and grokked(decayed) == len(decayed) and _long_enough(plain, decayed)
    holds = set(plain["outcome"]) == {"DNF_test"}
    return Claim(
        "no regularizer",
        "Without weight decay or another regularizer, the network memorizes but does not generalize in twice the time "
        "in which it generalizes with weight decay.",
        "Power et al. 2022, Section 3.3: weight decay has a very large effect on data efficiency",
        f"without: {grokked(plain)} of {len(plain)} generalize in {_budget(plain)} steps; with "
        f"weight decay: {grokked(decayed)} of {len(decayed)}, T_grok(0.95) {_times(decayed)}",
        n,
        f"every run without is DNF_test; inconclusive with fewer than {_RUNS} runs, if a run with weight decay does "
        "not generalize, or if the budget is shorter than twice the latest T_grok(0.95)",
        verdict(holds, int(decided)),
    )


def replaces_weight_decay(
    regularizer: str,
    table: pd.DataFrame,
    axis: str,
    *,
    plain: pd.DataFrame,
    decayed: pd.DataFrame,
    published: str,
    should_hold: bool = True,
) -> Claim:
    """Decide whether a regularizer makes a network generalize that has no weight decay.

    Args:
        regularizer: its name, such as "L1".
        table: rows of runs with the regularizer and without weight decay, with `outcome`, `step` and `T_grok_0.95`.
        axis: the column with its strength; every strength is a setting.
        plain: rows of runs with neither, with `outcome`.
        decayed: rows of runs with weight decay, with `T_grok_0.95`.
        published: what the source states.
        should_hold: whether the claim is expected to hold.
    """
    strengths = settings(table, [axis])
    return Claim(
        f"{regularizer} for weight decay",
        f"{regularizer} can replace weight decay: without weight decay, the network generalizes.",
        published,
        "; ".join(f"{setting[axis]:g}: {_describe(runs)}" for setting, runs in strengths)
        + f" (weight decay: T_grok(0.95) {_times(decayed)})",
        len(table),
        f"at one strength at least, every run generalizes, and without the regularizer none does; not supported if no "
        f"run generalizes, with a budget of at least twice the latest T_grok(0.95) of weight decay; inconclusive "
        f"otherwise, and with fewer than {_RUNS} runs of a strength",
        _replacement_verdict([runs for _, runs in strengths], plain, decayed),
        should_hold,
        number=26,
        fewest=min(len(runs) for runs in (*(runs for _, runs in strengths), plain, decayed)),
    )


def _replacement_verdict(strengths: Sequence[pd.DataFrame], plain: pd.DataFrame, decayed: pd.DataFrame) -> Verdict:
    enough = bool(strengths) and min(len(runs) for runs in (*strengths, plain, decayed)) >= _RUNS
    if not enough or grokked(plain):
        return "inconclusive"
    if any(grokked(runs) == len(runs) for runs in strengths):
        return "supported"
    refuted = not any(grokked(runs) for runs in strengths) and all(_long_enough(runs, decayed) for runs in strengths)
    return "not supported" if refuted else "inconclusive"


def _budget(runs: pd.DataFrame) -> str:
    return span(column(runs, "step"), ",.0f") if len(runs) else "0"


def _long_enough(runs: pd.DataFrame, decayed: pd.DataFrame) -> bool:
    """Whether each run without weight decay trained for twice the latest T_grok(0.95) of the runs with weight decay."""
    latest = finite(column(decayed, T_GROK))
    return bool(len(latest)) and bool(column(runs, "step").min() >= 2 * np.max(latest))


def _times(runs: pd.DataFrame) -> str:
    times = finite(column(runs, T_GROK))
    return span(times, ",.0f") if len(times) else "never"


def _describe(runs: pd.DataFrame) -> str:
    """Format how many runs generalized, when, and the test accuracy of those that did not."""
    failed = runs.loc[~np.isfinite(column(runs, T_GROK))]
    text = f"{grokked(runs)} of {len(runs)}"
    text += f", T_grok(0.95) {_times(runs)}" if len(failed) < len(runs) else ""
    return text + (f", accuracy {span(column(failed, 'final.test_accuracy'), '.2f')}" if len(failed) else "")
