"""Claims about ridge regression with fewer and with more features m than training examples n.

With m < n, every direction of weight space is seen by the training examples, and the slowest one decays at the rate
g = η (λ + λ_min(ΦᵀΦ)/n) per step. With m > n, a fraction 1 - n/m of the directions is not seen, so g = η λ whatever m.
The criteria follow from the times expected for large random matrices (`grokinterp.theory.expected_times`): for m < n,
the delay is about a fifth of ln(ν²/c) / (2 g); for m of at least 2 n, it is 90 to 100 % of that.
"""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    column,
    fewest_runs,
    is_inverse,
    seed_slopes,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics import settings
from grokinterp.statistics.formatting import span
from grokinterp.theory import expected_times
from grokinterp.theory.sweep import setting_of

_SEEDS = 3  # fewer do not decide a claim
_THRESHOLD = 0.01  # c, of the population loss


def decide_overparameterization(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Decide the claims.

    Args:
        table: a table of `ridge_sweep` over m, from below n to above it, with c = ε = 0.01.
    """
    table = table.assign(ratio=table["m"] / table["n"])
    return (_grows_and_saturates(table), _inverse_rate(table), _decay_alone(table), _as_expected(table))


def _grows_and_saturates(table: pd.DataFrame) -> Claim:
    delays = {
        float(setting["ratio"]): column(runs.sort_values("seed"), "delay")
        for setting, runs in settings(table, ["ratio"])
    }
    met, measured, runs = np.empty(0), "not run at m = n/2, m = n, m = 2 n, and a larger m", table.iloc[:0]
    if {0.5, 1.0, 2.0} <= set(delays) and max(delays) > 2:
        ratios = [0.5, 1.0, 2.0, max(delays)]
        half, equal, double, largest = (delays[ratio] for ratio in ratios)
        met = (half < equal) & (equal < double) & (double >= 10 * half) & (largest <= 1.5 * double)
        runs = table.loc[np.isin(column(table, "ratio"), ratios)]
        medians = {ratio: float(np.median(delays[ratio])) for ratio in ratios}
        measured = (
            f"median delay {times_by_setting(medians, 'at m/n =')}; from n/2 to 2 n, it grows by a factor of "
            f"{span(double / half, '.0f')}; from 2 n on, by {span(largest / double, '.2f')}"
        )
    return _claim(
        runs,
        "m below and above n",
        "The delay grows as the number of features m passes the number of training examples n, and then saturates.",
        "not in the paper, whose theorems need m > n",
        measured,
        "for every seed: a longer delay at m = n than at n/2; at 2 n longer still and at least 10 times that at n/2; "
        "at the largest m, at most 1.5 times that at 2 n",
        met,
    )


def _inverse_rate(table: pd.DataFrame) -> Claim:
    below = table.loc[table["ratio"] < 1]
    rates = column(below, "slowest_rate")
    usable = below["m"].nunique() > 2 and bool((column(below, "delay") > 0).all())  # NaN > 0 is False
    slopes = seed_slopes(below, "slowest_rate", "delay") if usable else np.empty(0)
    return _claim(
        below if usable else below.iloc[:0],
        "spectral gap",
        "With fewer features than training examples, the delay is inversely proportional to the slowest decay rate "
        "g = η (λ + λ_min(ΦᵀΦ)/n).",
        "not in the paper; -1.04 expected for large random matrices",
        f"exponent {span(slopes, '.3f')}; g from {rates.min():.2g} to {rates.max():.2g}"
        if len(slopes)
        else "not run at three m < n, or a run has no delay",
        "exponent -1 ± 0.15 for every seed",
        is_inverse(slopes, 0.15),
    )


def _decay_alone(table: pd.DataFrame) -> Claim:
    above = table.loc[table["ratio"] >= 2]
    unseen = 1 - 1 / column(above, "ratio")
    start = unseen * column(above, "init_variance")
    end = _THRESHOLD - unseen * column(above, "teacher_norm") ** 2 / column(above, "m")
    predicted = np.log(start / end) / (2 * column(above, "lr") * column(above, "weight_decay"))
    ratios = column(above, "t2") / predicted
    return _claim(
        above,
        "weight decay alone",
        "With at least twice as many features as training examples, only weight decay sets the generalization time: "
        "it is the time in which weight decay shrinks the initial weights that no training example sees.",
        "t2 = ln((1 - n/m) ν² / (c - (1 - n/m) ‖θ*‖²/m)) / (2 η λ); the paper has a lower bound, (7)",
        f"t2 is {span(ratios, '.2f')} times the formula" if len(ratios) else "not run at m >= 2 n",
        "between 0.85 and 1.15 times the formula in every run",
        np.abs(ratios - 1) <= 0.15,
    )


def _as_expected(table: pd.DataFrame) -> Claim:
    factors = []
    for _, runs in settings(table, ["m"]):
        expected = expected_times(setting_of(runs.to_dict("records")[0]), eps=_THRESHOLD, c=_THRESHOLD)
        factors.append(float(np.median(column(runs, "delay"))) / expected.delay)
    return _claim(
        table,
        "random matrices",
        "The delay at every m is the one expected from the eigenvalue distribution of large random matrices.",
        "Marchenko and Pastur 1967; not in the paper",
        f"median delay {span(factors, '.2f')} times the expected one at {len(factors)} values of m"
        if factors
        else "not run",
        "median over the seeds within a factor of 1.5 of the expected delay at every m",
        [1 / 1.5 <= factor <= 1.5 for factor in factors],
    )


def _claim(
    runs: pd.DataFrame, name: str, statement: str, published: str, measured: str, threshold: str, met: object
) -> Claim:
    """The claim that every seed, run, or m meets a criterion; inconclusive with fewer than three seeds at some m."""
    fewest = fewest_runs(runs, ["m"])
    decision = verdict(bool(np.all(np.asarray(met, dtype=bool))), len(runs)) if fewest >= _SEEDS else "inconclusive"
    return Claim(name, statement, published, measured, len(runs), threshold, decision, number=24, fewest=fewest)
