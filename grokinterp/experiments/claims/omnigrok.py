"""Claims of Liu, Michaud, and Tegmark 2022 (*Omnigrok*) about initial weight norms and the effect of weight decay."""

from itertools import pairwise

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    T_GROK,
    T_TRAIN,
    column,
    counted,
    exponent,
    fewest_runs,
    finite,
    is_inverse,
    median_times,
    rows_with,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_NUMBER = 19
_DECAY = "optimizer.weight_decay"
# T_grok(0.95) within this multiple of T_train(0.99) is no delay, as in `grokinterp.analysis.transition.Thresholds`.
_NO_DELAY = 2.0


def generalization_as_inverse_decay(table: pd.DataFrame, *, published: str) -> Claim:
    """Decide whether T_grok(0.95), as a power of weight decay, has exponent -1 ± 0.15 for every seed.

    Args:
        table: a sweep's table over `optimizer.weight_decay` and `model_seed`, with `T_grok_0.95`. Runs that do not
            generalize or have no decay are excluded from the fit, and so are seeds with fewer than three decays.
        published: what the source states.
    """
    with_decay, without = table.loc[column(table, _DECAY) > 0], table.loc[column(table, _DECAY) == 0]
    runs = with_decay.loc[column(with_decay, T_GROK) > 0]
    fitted = [seed for _, seed in runs.groupby("model_seed") if len(set(seed[_DECAY])) >= 3]
    slopes = np.array([exponent(seed, _DECAY, T_GROK) for seed in fitted])
    measured = "fewer than three decays per seed"
    if fitted:
        times = pd.concat(fitted).groupby(_DECAY)[T_GROK].median()
        decades = np.log10(max(times.index) / min(times.index))
        measured = f"exponent {span(slopes, '.2f')} for {counted(len(slopes), 'seed')}; median T_grok(0.95) "
        measured += times_by_setting(pd.Series(times))
        measured += f" (over {decades:.1f} decades)"
    if len(without):
        measured += f"; without decay, {len(rows_with(without, T_GROK))} of {len(without)} generalize"
    lost = len(with_decay) - len(runs)
    measured += f"; {counted(lost, 'run')} with decay did not generalize" if lost else ""
    n = sum(map(len, fitted))
    return Claim(
        "T_test as 1/γ",
        "The time to generalize is inversely proportional to weight decay.",
        published,
        measured,
        n,
        "exponent -1 ± 0.15 for every seed, over three or more decays",
        verdict(bool(is_inverse(slopes, 0.15).all()), n),
        number=_NUMBER,
        fewest=len(fitted),
    )


def memorization_without_decay(table: pd.DataFrame, *, published: str) -> Claim:
    """Decide whether T_train(0.99) is independent of weight decay, within a factor of 1.5 for every seed.

    Args:
        table: a sweep's table over `optimizer.weight_decay` (zero included) and `model_seed`, with `T_train_0.99`.
        published: what the source states.
    """
    memorized = rows_with(table, T_TRAIN)
    seeds = [seed for _, seed in memorized.groupby("model_seed") if len(set(seed[_DECAY])) >= 2]
    # An untrained network that already fits has a time of 0; it counts as the first step.
    factors = np.array([column(seed, T_TRAIN).max() / max(column(seed, T_TRAIN).min(), 1.0) for seed in seeds])
    measured = "no two decays at which a seed memorizes"
    if seeds:
        times = span(column(memorized, T_TRAIN), ",.0f")
        measured = f"T_train(0.99) {times}, largest / smallest {span(factors, '.2f')} within each seed"
    lost = len(table) - len(memorized)
    measured += f"; {counted(lost, 'run')} did not memorize" if lost else ""
    n = sum(map(len, seeds))
    return Claim(
        "T_train independent of γ",
        "The time to memorize does not depend on weight decay.",
        published,
        measured,
        n,
        "within a factor of 1.5 for every seed",
        verdict(bool((factors <= 1.5).all()) and not lost, n),
        number=_NUMBER,
        fewest=fewest_runs(table, [_DECAY]),
    )


def small_start_has_no_delay(table: pd.DataFrame) -> Claim:
    """Decide whether runs from a small initialization generalize as soon as they memorize. Source: Omnigrok.

    Args:
        table: runs with a small `model.init_scale`, with `T_train_0.99` and `T_grok_0.95`.
    """
    memorized = rows_with(table, T_TRAIN)
    soon, n = _without_delay(memorized), len(memorized)
    return Claim.of_all(
        "small start, no delay",
        "Networks with a small initialization generalize without delay, with or without weight decay.",
        "Omnigrok: no delay at α = 0.5",
        f"{counted(len(table), 'run')}; {int(soon.sum())} of the {n} that memorized have no delay"
        f"{_format_times(table)}",
        "T_grok(0.95) at most twice T_train(0.99) in every run",
        soon,
        number=_NUMBER,
        fewest=fewest_runs(table, [_DECAY]),
    )


def held_norm_removes_delay(constrained: pd.DataFrame, free: pd.DataFrame) -> Claim:
    """Decide whether runs whose norm is held at its initial value have no delay where free runs do. Source: Omnigrok.

    Args:
        constrained: rows of runs with `optimizer.constrain_norm`, with `T_train_0.99` and `T_grok_0.95`.
        free: rows of runs without it, with the same columns.
    """
    soon = _without_delay(constrained)
    memorized = np.isfinite(column(free, T_TRAIN))
    delayed = memorized & ~_without_delay(free)
    n = len(constrained) if len(constrained) and memorized.any() else 0
    return Claim(
        "held norm, no delay",
        "If the weight norm is held at that of a small initialization, train and test accuracy rise together.",
        "Omnigrok: weights scaled by 0.8, norm restored after each step",
        f"held norm: {int(soon.sum())} of {len(constrained)} without delay{_format_times(constrained)}; "
        f"free norm: {int(delayed.sum())} of {len(free)} with a delay{_format_times(free)}",
        n,
        "held norm: T_grok(0.95) at most twice T_train(0.99) in every run; free norm: later in every run",
        verdict(bool(soon.all()) and bool(delayed.all()), n),
        number=_NUMBER,
        fewest=min(len(constrained), len(free)),
    )


def larger_start_longer_delay(table: pd.DataFrame) -> Claim:
    """Decide whether the delay grows with the initialization. Source: Omnigrok.

    Runs that only memorize count as having the longest delay.

    Args:
        table: a sweep's table over `model.init_scale`, with `T_train_0.99` and `T_grok_0.95`; runs that do not memorize
            are ignored.
    """
    memorized = rows_with(table, T_TRAIN)
    memorized = memorized.assign(delay=column(memorized, T_GROK) - column(memorized, T_TRAIN))
    medians = median_times(memorized, "model.init_scale", "delay")
    delays = list(medians.values())
    rising = len(delays) > 1 and all(a <= b for a, b in pairwise(delays)) and delays[0] < delays[-1]
    measured = ", ".join(
        f"{delay:,.0f} at {scale:g}" if np.isfinite(delay) else f"beyond the budget at {scale:g}"
        for scale, delay in medians.items()
    )
    lost = len(table) - len(memorized)
    return Claim(
        "larger start, longer delay",
        "The larger the initial weights, the longer generalization lags behind memorization.",
        "Omnigrok: grokking from large initializations, none from small ones",
        f"median delay {measured or 'unknown'}" + (f"; {counted(lost, 'run')} did not memorize" if lost else ""),
        len(memorized),
        "the median delay never falls as the initialization scale grows, and is longer at the largest scale than at "
        "the smallest",
        verdict(rising, len(memorized) if len(medians) > 1 else 0),
    )


def _without_delay(runs: pd.DataFrame) -> np.ndarray:
    """Whether each run has T_grok(0.95) and T_train(0.99), and the first is at most twice the second."""
    train, test = column(runs, T_TRAIN), column(runs, T_GROK)
    return np.isfinite(train) & np.isfinite(test) & (test <= _NO_DELAY * train)


def _format_times(runs: pd.DataFrame) -> str:
    """Format the ranges of T_train(0.99) and T_grok(0.95) in parentheses; empty if no run has either."""
    times = {"T_train(0.99)": finite(column(runs, T_TRAIN)), "T_grok(0.95)": finite(column(runs, T_GROK))}
    parts = [f"{name} {span(values, ',.0f')}" for name, values in times.items() if len(values)]
    return f" ({', '.join(parts)})" if parts else ""
