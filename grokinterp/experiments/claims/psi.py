"""Claims about the MLP of Chopra 2026 (github AgentTorch/psi), decided from the tables and metrics of its sweeps.

The published numbers are those of psi's logs, one run per setting.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from grokinterp.experiments.claims.numbers import (
    T_GROK,
    T_TRAIN,
    column,
    counted,
    fewest_runs,
    finite,
    median_times,
    rows_with,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

DECAY, WIDTH, FRACTION, OPERATION = "optimizer.weight_decay", "model.width", "task.train_fraction", "task.operation"
_LABELS = {DECAY: "at decay", WIDTH: "at width", FRACTION: "at fraction", OPERATION: "for"}
# Grokking epochs of five logs of the same configuration, each from its own training run: psi's spread between seeds.
REPLICATES = (2350, 2650, 2300, 2300, 2200)
_GRID = 50  # steps between two lines of psi's logs


def no_grokking_at_little_data(table: pd.DataFrame) -> Claim:
    """Assertion 11, first half: decide whether test accuracy stays at or below 0.02 at a train fraction of 0.3.

    Args:
        table: runs at several train fractions, with `task.train_fraction` and `final.test_accuracy`.
    """
    runs = table.loc[np.isclose(column(table, FRACTION), 0.3)]
    accuracy = column(runs, "final.test_accuracy")
    return Claim.of_all(
        "30 % of the data",
        "At a train fraction of 0.3, the MLP does not grok within 5,000 epochs.",
        "test accuracy 0.002 at the end",
        f"test accuracy {span(accuracy, '.4f')} at the end" if len(runs) else "not run",
        "final test accuracy at most 0.02 in every run",
        accuracy <= 0.02,
        number=11,
    )


def no_grokking_without_decay(table: pd.DataFrame) -> Claim:
    """Assertion 12: decide whether no run generalizes at weight decay 0 and 0.1.

    Args:
        table: runs at several weight decays, with `optimizer.weight_decay` and `final.test_accuracy`.
    """
    runs = table.loc[column(table, DECAY) <= 0.1]
    accuracy = column(runs, "final.test_accuracy")
    return Claim.of_all(
        "little decay",
        "At weight decays of 0 and 0.1, the MLP does not grok within 5,000 epochs.",
        "test accuracy 0.009 and 0.007",
        f"test accuracy {span(accuracy, '.4f')}" if len(runs) else "not run",
        "final test accuracy below 0.05 in every run",
        accuracy < 0.05,
        number=12,
        fewest=fewest_runs(runs, [DECAY]),
    )


def norm_still_grows(metrics: Sequence[pd.DataFrame], decay: float, published: str, should_hold: bool = True) -> Claim:
    """Assertion 12: decide whether the norm of runs that do not generalize still grows over the last tenth of steps.

    Args:
        metrics: metrics by step of runs at the same weight decay, with `weight_norm`.
        decay: that weight decay.
        published: the published norm.
        should_hold: whether the claim is expected to hold.
    """
    growth = [_late_growth(pd.Series(run["weight_norm"])) for run in metrics]
    return Claim.of_all(
        f"norm at decay {decay:g}",
        f"At a weight decay of {decay:g}, the weight norm is still growing after 5,000 epochs.",
        published,
        f"changes by {span(growth, '+.2f')} over the last tenth of the steps" if growth else "not run",
        "grows over the last tenth of the steps in every run",
        [g > 0 for g in growth],
        should_hold=should_hold,
        number=12,
    )


def grokking_with_decay(table: pd.DataFrame, decays: str, published: str, should_hold: bool = True) -> Claim:
    """Assertion 12: decide whether every run reaches T_grok(0.95).

    Args:
        table: runs with sufficient weight decay, with `optimizer.weight_decay` and `T_grok_0.95`.
        decays: their weight decays, in words.
        published: the published times.
        should_hold: whether the claim is expected to hold.
    """
    reached, medians = len(rows_with(table, T_GROK)), median_times(table, DECAY, T_GROK)
    return Claim.of_all(
        f"decay {decays}",
        f"At a weight decay of {decays}, the MLP generalizes within 5,000 epochs.",
        published,
        f"{reached} of {counted(len(table), 'run')}; {_format_medians(medians, DECAY, T_GROK)}",
        "every run",
        np.isfinite(column(table, T_GROK)),
        should_hold=should_hold,
        number=12,
        fewest=fewest_runs(table, [DECAY]),
    )


def sooner_with_more_data(table: pd.DataFrame) -> Claim:
    """Assertion 11, second half: decide whether the median T_grok(0.95) falls with the train fraction from 0.5 on.

    Args:
        table: runs at several train fractions, with `task.train_fraction` and `T_grok_0.95`.
    """
    return _claim_of_medians(
        table.loc[column(table, FRACTION) > 0.45],
        FRACTION,
        T_GROK,
        _falls,
        "more data, earlier grokking",
        "For train fractions of 0.5 and above, T_grok(0.95) decreases as the train fraction increases.",
        "2,200 at fraction 0.5, 950 at 0.7, 450 at 0.9",
        11,
    )


def overfits_sooner_when_wide(table: pd.DataFrame) -> Claim:
    """Assertion 13, first half: decide whether the median T_train(0.99) falls with the width.

    Args:
        table: runs of several widths, with `model.width` and `T_train_0.99`.
    """
    return _claim_of_medians(
        table,
        WIDTH,
        T_TRAIN,
        _falls,
        "capacity and overfitting",
        "The wider the MLP, the sooner it overfits.",
        "1,150 at width 32, 700 at 64, 350 at 128, 200 at 256, 150 at 512",
        13,
    )


def groks_alike_whatever_the_width(table: pd.DataFrame, should_hold: bool = True) -> Claim:
    """Assertion 13, second half: decide whether each width's median T_grok(0.95) is within 20 % of their median.

    Args:
        table: runs of several widths, with `model.width` and `T_grok_0.95`.
        should_hold: whether the claim is expected to hold.
    """
    widths = sorted({int(width) for width in table[WIDTH]})
    claim = _claim_of_medians(
        table,
        WIDTH,
        T_GROK,
        _alike,
        f"capacity and grokking, widths {widths[0]} to {widths[-1]}" if widths else "capacity and grokking",
        "T_grok(0.95) is about the same at all widths (within 20 %).",
        "1,750 at width 32, 2,200 at 64, 2,300 at 128, 2,150 at 256, 1,950 at 512",
        13,
    )
    return replace(claim, should_hold=should_hold)


def operations_alike(table: pd.DataFrame) -> Claim:
    """Assertion 15: decide whether each operation's median T_grok(0.95) is within 20 % of their median.

    Args:
        table: runs of several operations, with `task.operation` and `T_grok_0.95`.
    """
    return _claim_of_medians(
        table,
        OPERATION,
        T_GROK,
        _alike,
        "operations",
        "Networks grok addition, subtraction, and multiplication at about the same time (within 20 %).",
        "2,300 for addition, 2,250 for subtraction, 2,000 for multiplication",
        15,
    )


def norm_peaks_and_falls(metrics: Sequence[pd.DataFrame]) -> Claim:
    """Assertion 14: decide whether the norm peaks at 400 to 600 epochs, then falls by 10 % and stays within 10 %.

    It must fall by at least 10 % of its peak by T_grok(0.95), and then change by less than 10 %.

    Args:
        metrics: metrics by step of the baseline runs, with `test_accuracy` and `weight_norm`; runs without T_grok(0.95)
            are ignored.
    """
    shapes = [_norm_shape(run) for run in metrics if (column(run, "test_accuracy") >= 0.95).any()]
    peaks, falls, changes = np.array(shapes, dtype=float).reshape(-1, 3).T
    met = (peaks >= 400) & (peaks <= 600) & (falls >= 0.1) & (changes < 0.1)
    return Claim.of_all(
        "norm",
        "The weight norm peaks at 400 to 600 epochs, falls by at least 10 % before T_grok(0.95), and then changes by "
        "less than 10 %.",
        "peak 72.8 at 500, 60.0 at T_grok(0.95), 58.5 at 9,950",
        f"peak at {span(peaks, ',.0f')}, falls by {span(100 * falls, '.0f')} %; largest change afterward "
        f"{span(100 * changes, '.1f')} %"
        if shapes
        else "no run reached T_grok(0.95)",
        "every run",
        met,
        number=14,
    )


def within_the_replicates(
    table: pd.DataFrame, published: Mapping[Any, tuple[int | None, int | None]], axis: str, should_hold: bool = True
) -> Claim:
    """Decide whether psi's single run of each setting could be one more of our runs.

    Its overfitting epoch, which its log resolves to 50 epochs, must match that of one of our runs. Its grokking epoch
    must lie in the 95 % prediction interval for one more run, around the geometric mean of our runs, with the spread of
    psi's own five replicates of one configuration (standard deviation of the logarithm, Student's t with 4 degrees of
    freedom).

    Args:
        table: our runs, with the axis, `T_train_0.99` and `T_grok_0.95`.
        published: psi's overfitting and grokking epochs by value of the axis; None if it did not grok.
        axis: the setting that the sweep varies.
        should_hold: whether the claim is expected to hold.
    """
    mismatches, n_compared = [], 0
    for value, epochs in published.items():
        runs = table.loc[table[axis] == value]
        for name, time, epoch, fits in zip(
            ("T_train", "T_grok"), (T_TRAIN, T_GROK), epochs, (_same_epoch, _in_prediction_interval), strict=True
        ):
            if not len(runs):
                continue
            n_compared += 1
            times = finite(column(runs, time))
            if not (len(times) == 0 if epoch is None else len(times) > 0 and fits(epoch, times)):
                ours = f"{span(times, ',.0f')} in {len(times)} of {len(runs)} runs" if len(times) else "never"
                theirs = "never" if epoch is None else f"{epoch:,}"
                mismatches.append(f"{name} at {_format_value(value)}: {theirs} published, {ours} here")
    return Claim(
        "same times as published",
        "The published overfitting and grokking epochs are consistent with our runs.",
        f"five replicates of one configuration: T_grok(0.95) {min(REPLICATES):,} to {max(REPLICATES):,}",
        f"{n_compared - len(mismatches)} of {n_compared} epochs are consistent"
        + (f"; mismatches: {'; '.join(mismatches)}" if mismatches else ""),
        len(table),
        "every published T_train(0.99) matches one of our runs on psi's grid, and every published T_grok(0.95) lies in "
        "our 95 % prediction interval, computed with psi's spread",
        verdict(not mismatches, n_compared),
        should_hold,
    )


def _same_epoch(epoch: float, times: np.ndarray) -> bool:
    return bool(times.min() <= epoch and times.max() > epoch - _GRID)


def _in_prediction_interval(epoch: float, times: np.ndarray) -> bool:
    spread = float(np.log(REPLICATES).std(ddof=1))
    reach = float(scipy.stats.t.ppf(0.975, len(REPLICATES) - 1)) * spread * math.sqrt(1 + 1 / len(times))
    return bool(abs(math.log(epoch) - np.log(times).mean()) <= reach)


def _falls(medians: Mapping[Any, float]) -> bool:
    return all(later < earlier for earlier, later in itertools.pairwise(medians.values()))


def _alike(medians: Mapping[Any, float]) -> bool:
    values = np.array(list(medians.values()))
    return bool((np.abs(values / np.median(values) - 1) <= 0.2).all())


def _claim_of_medians(
    table: pd.DataFrame,
    axis: str,
    time: str,
    holds: Callable[[Mapping[Any, float]], bool],
    name: str,
    statement: str,
    published: str,
    number: int,
) -> Claim:
    """The claim that the medians of a time over the values of an axis fall, or are alike; it needs two values."""
    medians = median_times(table, axis, time)
    return Claim(
        name,
        statement,
        published,
        _format_medians(medians, axis, time),
        len(table),
        "each larger setting has a smaller median"
        if holds is _falls
        else "each median within 20 % of the median of these medians",
        "inconclusive" if len(medians) < 2 else verdict(holds(medians), len(medians)),
        number=number,
        fewest=fewest_runs(table, [axis]),
    )


def _format_medians(medians: Mapping[Any, float], axis: str, time: str) -> str:
    label = {T_TRAIN: "T_train(0.99)", T_GROK: "T_grok(0.95)"}[time]
    return f"median {label} {times_by_setting(medians, _LABELS[axis])}" if medians else "not run"


def _format_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _late_growth(norm: pd.Series) -> float:
    """By how much the norm grows over the last tenth of the steps."""
    late = norm.loc[norm.index >= 0.9 * norm.index[-1]]
    return float(late.iloc[-1] - late.iloc[0])


def _norm_shape(metrics: pd.DataFrame) -> tuple[float, float, float]:
    """The step of the norm's peak, the fraction of it lost by T_grok(0.95), and the largest relative change after."""
    norm = pd.Series(metrics["weight_norm"])
    grokked = metrics.index[column(metrics, "test_accuracy") >= 0.95][0]
    before, after, level = norm.loc[:grokked], norm.loc[grokked:], float(norm.loc[grokked])
    return float(before.idxmax()), 1 - level / float(before.max()), float((after / level - 1).abs().max())
