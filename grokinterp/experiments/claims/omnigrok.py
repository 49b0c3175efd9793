"""The claims of Liu, Michaud and Tegmark 2022, *Omnigrok*: the start's norm, and what weight decay does about it."""

from itertools import pairwise

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, slope, span, verdict
from grokinterp.experiments.outcome import Claim

_NUMBER = 19
_DECAY = "optimizer.weight_decay"
# T_grok(0.95) within this multiple of T_train(0.99) is no delay, as in `grokinterp.analysis.transition.Thresholds`.
_NO_DELAY = 2.0


def generalization_as_inverse_decay(table: pd.DataFrame, *, published: str) -> Claim:
    """T_grok(0.95) as a power of the weight decay, seed by seed.

    Args:
        table: of a sweep over weight decay and `model_seed`; runs that do not generalize, or have no decay, are left
            out of the fit.
        published: what the source says.
    """
    known = table.loc[(column(table, _DECAY) > 0) & (column(table, "T_grok_0.95") > 0)]
    fitted = [one for _, one in known.groupby("model_seed") if one[_DECAY].nunique() >= 3]
    slopes = [slope(np.log(column(one, _DECAY)), np.log(column(one, "T_grok_0.95"))) for one in fitted]
    n = sum(map(len, fitted))
    measured = f"exponent {span(slopes, '.2f')} for {len(slopes)} seeds" if slopes else "fewer than three decays a seed"
    if slopes:
        rows = pd.concat(fitted).groupby(_DECAY)["T_grok_0.95"].median()
        measured += "; " + ", ".join(f"{time:,.0f} at {decay:g}" for decay, time in rows.items())
        used = column(pd.concat(fitted), _DECAY)
        decades = np.log10(used.max() / used.min())
        measured += f" ({decades:.1f} decades)"
    without = table.loc[column(table, _DECAY) == 0]
    if len(without):
        reached = int(np.isfinite(column(without, "T_grok_0.95")).sum())
        measured += f"; without decay {reached} of {len(without)} generalize"
    lost = int(((column(table, _DECAY) > 0) & ~(column(table, "T_grok_0.95") > 0)).sum())
    measured += f"; {lost} runs with decay did not come to it" if lost else ""
    return Claim(
        "T_test as 1/γ",
        "The time to generalize is inversely proportional to weight decay.",
        published,
        measured,
        n,
        "exponent -1 ± 0.15 for every seed, of three decays or more",
        verdict(bool((np.abs(np.array(slopes) + 1) <= 0.15).all()), n),
        number=_NUMBER,
    )


def memorization_without_decay(table: pd.DataFrame, *, published: str) -> Claim:
    """T_train(0.99) does not depend on weight decay.

    Args:
        table: of a sweep over weight decay and `model_seed`, zero decay included.
        published: what the source says.
    """
    known = table.loc[np.isfinite(column(table, "T_train_0.99"))]
    seeds = [one for _, one in known.groupby("model_seed") if one[_DECAY].nunique() >= 2]
    # A time of 0 is of an untrained network that fits already: as good as the first step.
    factors = [column(one, "T_train_0.99").max() / max(column(one, "T_train_0.99").min(), 1.0) for one in seeds]
    n = sum(map(len, seeds))
    measured = (
        f"T_train(0.99) {span(column(known, 'T_train_0.99'), ',.0f')}, by a factor of {span(factors, '.2f')} a seed"
        if factors
        else "no two decays at which a seed memorizes"
    )
    lost = len(table) - len(known)
    measured += f"; {lost} runs do not memorize" if lost else ""
    return Claim(
        "T_train without γ",
        "The time to memorize does not depend on weight decay.",
        published,
        measured,
        n,
        "within a factor of 1.5 for every seed",
        verdict(bool((np.array(factors) <= 1.5).all()) and not lost, n),
        number=_NUMBER,
    )


def small_start_has_no_delay(table: pd.DataFrame) -> Claim:
    """Runs from a small start generalize as soon as they memorize.

    Args:
        table: of runs with a small `model.init_scale`.
    """
    train, test = column(table, "T_train_0.99"), column(table, "T_grok_0.95")
    memorized = np.isfinite(train)
    soon = test[memorized] <= _NO_DELAY * train[memorized]
    return Claim(
        "small start, no delay",
        "From a small start there is no delay, with weight decay or without.",
        "Omnigrok: α = 0.5 has none",
        f"{int(soon.sum())} of {int(memorized.sum())} without delay ({len(table)} runs)" + _times(train, test),
        int(memorized.sum()),
        "T_grok(0.95) at most twice T_train(0.99), every run",
        verdict(bool(soon.all()), int(memorized.sum())),
        number=_NUMBER,
    )


def held_norm_removes_delay(held: pd.DataFrame, free: pd.DataFrame) -> Claim:
    """Runs whose norm is held at its start have no delay, where free ones do.

    Args:
        held: rows of a sweep with `optimizer.constrain_norm`.
        free: rows without.
    """
    train, test = column(held, "T_train_0.99"), column(held, "T_grok_0.95")
    free_train, free_test = column(free, "T_train_0.99"), column(free, "T_grok_0.95")
    known = np.isfinite(train) & np.isfinite(test)
    soon = known & (test <= _NO_DELAY * train)
    delayed = np.isfinite(free_train) & ~(free_test <= _NO_DELAY * free_train)
    n = len(held) if len(held) and len(free) and np.isfinite(free_train).any() else 0
    return Claim(
        "held norm, no delay",
        "With the weight norm held at that of a small start, train and test accuracy rise together.",
        "Omnigrok: weights times 0.8, norm held after each step",
        f"held: {int(soon.sum())} of {len(held)} without delay{_times(train, test)}; "
        f"free: {int(delayed.sum())} of {len(free)} with{_times(free_train, free_test)}",
        n,
        "held: T_grok(0.95) at most twice T_train(0.99), every run; free: later, every run",
        verdict(bool(soon.all()) and bool(delayed.all()), n),
        number=_NUMBER,
    )


def larger_start_longer_delay(table: pd.DataFrame) -> Claim:
    """The larger the start, the longer the delay; runs that memorize only have the longest.

    Args:
        table: of a sweep over `model.init_scale`; runs that do not memorize are left out.
    """
    train, test = column(table, "T_train_0.99"), column(table, "T_grok_0.95")
    memorized = table.assign(delay=np.where(np.isfinite(test), test - train, np.inf)).loc[np.isfinite(train)]
    middles = {float(scale): float(np.median(one["delay"])) for scale, one in memorized.groupby("model.init_scale")}  # pyright: ignore
    delays = list(middles.values())
    rising = len(delays) > 1 and all(a <= b for a, b in pairwise(delays)) and delays[0] < delays[-1]
    said = ", ".join(
        f"{delay:,.0f} at {scale:g}" if np.isfinite(delay) else f"beyond the budget at {scale:g}"
        for scale, delay in middles.items()
    )
    lost = len(table) - len(memorized)
    return Claim(
        "larger start, longer delay",
        "The larger the weights at the start, the longer generalization lags behind memorization.",
        "Omnigrok: grokking from large starts, none from small ones",
        f"median delay {said or 'unknown'}" + (f"; {lost} runs do not memorize" if lost else ""),
        len(memorized),
        "the median delay never falls with the scale of the start, and is longer at the largest than at the smallest",
        verdict(rising, len(memorized) if len(middles) > 1 else 0),
    )


def _times(train: np.ndarray, test: np.ndarray) -> str:
    parts = [
        f"{name} {span(values[np.isfinite(values)], ',.0f')}"
        for name, values in (("T_train(0.99)", train), ("T_grok(0.95)", test))
        if np.isfinite(values).any()
    ]
    return f" ({', '.join(parts)})" if parts else ""
