"""Claims about psi's MLP with very few training pairs: it memorizes them and does not generalize."""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    T_TRAIN,
    column,
    counted,
    fewest_runs,
    median_times,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.claims.psi import FRACTION
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_SEEDS = 3  # fewer at a train fraction do not decide a claim
_SOONEST = 350  # psi's T_train(0.99) with half of all pairs, 4,704


def tiny_sets_are_memorized(table: pd.DataFrame) -> Claim:
    """Decide whether every run memorizes its few training pairs, no later than psi's baseline memorizes 4,704.

    Args:
        table: runs at tiny train fractions, with `task.train_fraction`, `task.p`, and `T_train_0.99`.
    """
    times = column(table, T_TRAIN)
    memorized = int(np.isfinite(times).sum())
    medians = median_times(table, FRACTION, T_TRAIN)
    by_pairs = {f"{_pairs(fraction, table)} pairs": time for fraction, time in medians.items()}
    return _claim(
        table,
        "tiny sets are memorized",
        "The MLP memorizes 2 % of all pairs, and even 0.2 %: such a training set is not too small to memorize.",
        'a review: a training set can be "too small to memorize"',
        f"{memorized} of {counted(len(table), 'run')} memorize; median T_train(0.99) "
        f"{times_by_setting(by_pairs, 'with')}"
        if len(table)
        else "not run",
        f"T_train(0.99) at most {_SOONEST} in every run, psi's time for 4,704 pairs",
        times <= _SOONEST,  # False for a run that never memorizes
    )


def tiny_sets_do_not_generalize(table: pd.DataFrame) -> Claim:
    """Decide whether every run ends as DNF_test with a test accuracy of at most 0.02.

    Args:
        table: runs at tiny train fractions, with `task.train_fraction`, `outcome`, and `final.test_accuracy`.
    """
    accuracy = column(table, "final.test_accuracy")
    only_memorized = table["outcome"].to_numpy(dtype=object) == "DNF_test"
    return _claim(
        table,
        "tiny sets do not generalize",
        "From so few training pairs, the MLP does not generalize.",
        "psi, train fraction 0.3 (2,822 pairs): test accuracy 0.002 at the end",
        f"{int(only_memorized.sum())} of {counted(len(table), 'run')} only memorize (DNF_test); test accuracy "
        f"{span(accuracy, '.4f')} at the end, where chance is 0.0103"
        if len(table)
        else "not run",
        "outcome DNF_test and final test accuracy at most 0.02 in every run",
        only_memorized & (accuracy <= 0.02),
    )


def _pairs(fraction: float, table: pd.DataFrame) -> int:
    """The number of training pairs at a train fraction."""
    return int(fraction * int(column(table, "task.p")[0]) ** 2)


def _claim(
    table: pd.DataFrame, name: str, statement: str, published: str, measured: str, threshold: str, met: np.ndarray
) -> Claim:
    """The claim that every run meets a criterion; inconclusive with fewer than three runs at some train fraction."""
    fewest = fewest_runs(table, [FRACTION])
    decision = verdict(bool(met.all()), len(table)) if fewest >= _SEEDS else "inconclusive"
    return Claim(name, statement, published, measured, len(table), threshold, decision, number=23, fewest=fewest)
