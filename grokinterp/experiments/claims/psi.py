"""The claims about the MLP of AgentTorch/psi, decided from tables and metrics of its sweeps."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import settings

DECAY, WIDTH, FRACTION, OPERATION = "optimizer.weight_decay", "model.width", "task.train_fraction", "task.operation"
# Five logs of one configuration that psi trained anew each time: what its seeds alone change.
REPLICATES = (2350, 2650, 2300, 2300, 2200)
_GRID = 50  # steps between two lines of psi's logs


def no_grokking_at_little_data(table: pd.DataFrame) -> Claim:
    """Assertion 11, first half: at a train fraction of 0.3 test accuracy stays at 0.02 or below.

    Args:
        table: runs at several train fractions.
    """
    little = table.loc[np.isclose(column(table, FRACTION), 0.3)]
    accuracy = column(little, "final.test_accuracy")
    return Claim(
        "30 % of the data",
        "At a train fraction of 0.3 the MLP does not grok within 5,000 epochs.",
        "test accuracy 0.002 at the end",
        f"test accuracy {span(accuracy, '.4f')} at the end" if len(little) else "not run",
        len(little),
        "at most 0.02 in every run",
        verdict(bool((accuracy <= 0.02).all()), len(little)),
        number=11,
    )


def sooner_with_more_data(table: pd.DataFrame) -> Claim:
    """Assertion 11, second half: T_grok(0.95) falls with the train fraction from 0.5 on."""
    enough = table.loc[column(table, FRACTION) > 0.45]
    medians = _medians(enough, FRACTION, "T_grok_0.95")
    return Claim(
        "more data, sooner",
        "Above, T_grok(0.95) falls with the train fraction.",
        "2,200, 950, 450 at 0.5, 0.7, 0.9",
        _listed(medians, "fraction"),
        len(enough),
        "median falls at every step",
        _falls(medians),
        number=11,
    )


def no_grokking_without_decay(table: pd.DataFrame) -> Claim:
    """Assertion 12: at weight decay 0 and 0.1 nothing generalizes.

    Args:
        table: runs at several weight decays.
    """
    weak = table.loc[column(table, DECAY) <= 0.1]
    accuracy = column(weak, "final.test_accuracy")
    return Claim(
        "little decay",
        "At weight decay 0 and 0.1 the MLP does not grok in 5,000 epochs.",
        "test accuracy 0.009 and 0.007",
        f"test accuracy {span(accuracy, '.4f')}" if len(weak) else "not run",
        len(weak),
        "below 0.05 in every run",
        verdict(bool((accuracy < 0.05).all()), len(weak)),
        number=12,
    )


def norm_still_grows(metrics: Sequence[pd.DataFrame], decay: float, published: str, should_hold: bool = True) -> Claim:
    """Assertion 12: where nothing generalizes the norm still grows at the end, over the last tenth of the steps.

    Args:
        metrics: of runs at one weight decay.
        decay: which.
        published: its norm in print.
        should_hold: whether we expect it to.
    """
    growth = [_late_growth(one) for one in metrics]
    return Claim(
        f"norm at decay {decay:g}",
        f"At weight decay {decay:g} the weight norm still grows after 5,000 epochs.",
        published,
        f"changes by {span(growth, '+.2f')} over the last tenth" if growth else "not run",
        len(growth),
        "grows in every run",
        verdict(all(g > 0 for g in growth), len(growth)),
        should_hold,
        number=12,
    )


def grokking_with_decay(table: pd.DataFrame, decays: str, published: str, should_hold: bool = True) -> Claim:
    """Assertion 12: every run reaches T_grok(0.95).

    Args:
        table: runs with enough weight decay.
        decays: which, in words.
        published: their times in print.
        should_hold: whether we expect it to.
    """
    reached = int(np.isfinite(column(table, "T_grok_0.95")).sum())
    medians = _listed(_medians(table, DECAY, "T_grok_0.95"), "decay") if len(table) else "not run"
    return Claim(
        f"decay {decays}",
        f"At weight decay {decays} the MLP generalizes within 5,000 epochs.",
        published,
        f"{reached} of {len(table)} runs; {medians}",
        len(table),
        "every run",
        verdict(reached == len(table), len(table)),
        should_hold,
        number=12,
    )


def overfits_sooner_when_wide(table: pd.DataFrame) -> Claim:
    """Assertion 13, first half: T_train(0.99) falls with the width."""
    medians = _medians(table, WIDTH, "T_train_0.99")
    return Claim(
        "capacity and overfitting",
        "The wider, the sooner the MLP overfits.",
        "1,150, 700, 350, 200, 150 at widths 32 to 512",
        _listed(medians, "width"),
        len(table),
        "median falls at every step",
        _falls(medians),
        number=13,
    )


def groks_alike_whatever_the_width(table: pd.DataFrame, should_hold: bool = True) -> Claim:
    """Assertion 13, second half: median T_grok(0.95) of each width within 20 % of the median over widths."""
    widths = sorted({int(width) for width in table[WIDTH]})
    claim = _alike(
        _medians(table, WIDTH, "T_grok_0.95"),
        f"capacity and grokking, widths {widths[0]} to {widths[-1]}" if widths else "capacity and grokking",
        "T_grok(0.95) does not depend on the width, within 20 %.",
        "1,750, 2,200, 2,300, 2,150, 1,950 at widths 32 to 512",
        "width",
        len(table),
        13,
    )
    return replace(claim, should_hold=should_hold)


def operations_alike(table: pd.DataFrame) -> Claim:
    """Assertion 15: median T_grok(0.95) of each operation within 20 % of the median over operations."""
    return _alike(
        _medians(table, OPERATION, "T_grok_0.95"),
        "operations",
        "Addition, subtraction and multiplication are grokked at the same time, within 20 %.",
        "2,300, 2,250, 2,000",
        "operation",
        len(table),
        15,
    )


def norm_peaks_and_falls(metrics: Sequence[pd.DataFrame]) -> Claim:
    """Assertion 14: the norm peaks at 400 to 600 epochs, has lost 10 % by T_grok(0.95), and then changes by under 10 %.

    Args:
        metrics: of runs of the baseline, by step.
    """
    shapes = [shape for shape in map(_norm_shape, metrics) if shape is not None]
    peaks, falls, later = (np.array([shape[name] for shape in shapes]) for name in ("peak", "fall", "later"))
    holds = bool(((peaks >= 400) & (peaks <= 600) & (falls >= 0.1) & (later < 0.1)).all())
    return Claim(
        "norm",
        "The weight norm peaks at 400 to 600 epochs, falls by at least 10 % before T_grok(0.95), and then changes by "
        "less than 10 %.",
        "peak 72.8 at 500, 60.0 at T_grok(0.95), 58.5 at 9,950",
        f"peak at {span(peaks, ',.0f')}, falls by {span(100 * falls, '.0f')} %, then changes by at most "
        f"{span(100 * later, '.1f')} %"
        if shapes
        else "no run reached T_grok(0.95)",
        len(shapes),
        "every run",
        verdict(holds, len(shapes)),
        number=14,
    )


def within_the_replicates(
    table: pd.DataFrame,
    published: Mapping[Any, tuple[int | None, int | None]],
    axis: str,
    should_hold: bool = True,
) -> Claim:
    """Whether psi's single run of each setting could be one of ours.

    Its overfitting epoch, which its log knows to 50 epochs, must be that of one of ours. Its grokking epoch must lie in
    the 95 % prediction interval for one more run, about the geometric mean of ours, with the spread of psi's own five
    replicates of one configuration (the standard deviation of their logarithm, Student's t with 4 degrees of freedom).

    Args:
        table: our runs.
        published: by the value of the axis, psi's overfitting and grokking epochs; None where it did not grok.
        axis: what was swept.
        should_hold: whether we expect it of all of them.
    """
    outside, compared = [], 0
    for value, (overfit, grok) in published.items():
        runs = table.loc[table[axis] == value]
        for name, there, fits in (("T_train", overfit, _same_epoch), ("T_grok", grok, _one_more_run)):
            ours = column(runs, "T_train_0.99" if name == "T_train" else "T_grok_0.95")
            if not len(ours):
                continue
            compared += 1
            known = ours[np.isfinite(ours)]
            if not (len(known) == 0 if there is None else len(known) > 0 and fits(there, known)):
                outside.append(f"{name} at {_plain(value)}: {there} there, {_times(ours)} here")
    return Claim(
        "same times as published",
        "The published overfitting and grokking epochs could be those of one more of our runs.",
        f"five replicates of one configuration: T_grok(0.95) {min(REPLICATES):,} to {max(REPLICATES):,}",
        f"{compared - len(outside)} of {compared}" + (f"; not {'; '.join(outside)}" if outside else ""),
        len(table),
        "all: T_train(0.99) on psi's grid, T_grok(0.95) in the 95 % prediction interval with psi's spread",
        verdict(not outside, compared),
        should_hold,
    )


def _same_epoch(there: float, ours: np.ndarray) -> bool:
    return bool(ours.min() <= there and ours.max() > there - _GRID)


def _one_more_run(there: float, ours: np.ndarray) -> bool:
    spread = float(np.log(REPLICATES).std(ddof=1))
    reach = float(scipy.stats.t.ppf(0.975, len(REPLICATES) - 1)) * spread * math.sqrt(1 + 1 / len(ours))
    return bool(abs(math.log(there) - np.log(ours).mean()) <= reach)


def _medians(table: pd.DataFrame, axis: str, quantity: str) -> dict[Any, float]:
    """Medians over seeds by value of the axis, in order; infinite where half of the runs never got there."""
    found = {}
    for setting, runs in settings(table, [axis]):
        times = np.where(np.isfinite(column(runs, quantity)), column(runs, quantity), np.inf)
        found[setting[axis]] = float(np.median(times))
    return found


def _falls(medians: Mapping[Any, float]) -> Verdict:
    values = list(medians.values())
    return verdict(all(later < earlier for earlier, later in itertools.pairwise(values)), max(len(values) - 1, 0))


def _alike(
    medians: Mapping[Any, float], name: str, statement: str, published: str, axis: str, n: int, number: int
) -> Claim:
    values = np.array(list(medians.values()))
    holds = len(values) > 1 and bool((np.abs(values / np.median(values) - 1) <= 0.2).all())
    return Claim(
        name,
        statement,
        published,
        _listed(medians, axis),
        n,
        "each median within 20 % of their median",
        verdict(holds, max(len(values) - 1, 0)),
        number=number,
    )


def _listed(medians: Mapping[Any, float], axis: str) -> str:
    times = ", ".join(f"{t:,.0f}" if np.isfinite(t) else "never" for t in medians.values())
    return f"{times} at {axis} {', '.join(map(_plain, medians))}" if medians else "not run"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _times(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{span(known, ',.0f')} in {len(known)} of {len(values)}" if len(known) else "never"


def _late_growth(metrics: Any) -> float:
    """How much the norm grows over the last tenth of the steps."""
    norm = metrics["weight_norm"]
    late = norm.loc[norm.index >= 0.9 * norm.index[-1]]
    return float(late.iloc[-1] - late.iloc[0])


def _norm_shape(metrics: Any) -> dict[str, float] | None:
    """Where the norm peaks, what share of the peak it has lost at T_grok(0.95), and its largest change from then on."""
    accuracy, norm = metrics["test_accuracy"], metrics["weight_norm"]
    reached = accuracy.index[accuracy >= 0.95]
    if not len(reached):
        return None
    before, after = norm.loc[: reached[0]], norm.loc[reached[0] :]
    there = float(norm.loc[reached[0]])
    return {
        "peak": float(before.idxmax()),
        "fall": 1 - there / float(before.max()),
        "later": float((after / there - 1).abs().max()),
    }
