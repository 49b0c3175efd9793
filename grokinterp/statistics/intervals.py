"""Intervals: what one is, bootstrap intervals over seeds, and the ratio of two arms."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, Real

from grokinterp.errors import ConfigError, nearest

Statistic = Literal["mean", "geometric_mean", "median"]

# Fewer than three seeds resampled give the seeds themselves: an interval would say more than they know.
MIN_SEEDS = 3

_STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "geometric_mean": lambda x, axis=-1: np.exp(np.mean(np.log(x), axis=axis)),
    "median": np.median,
}


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why there is none.

    Attributes:
        low: lower end; NaN where there is no interval.
        high: upper end; infinite where the data set no upper limit.
        level: nominal confidence, such as 0.95.
        method: how it was found.
        reason: why there is none; empty where there is one.
    """

    low: float
    high: float
    level: float
    method: str
    reason: str = ""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Estimate:
    """A number from n seeds, with its interval."""

    value: float
    interval: Interval
    n: int
    statistic: str


@dataclass(frozen=True)
class ArmRatio:
    """How many times as large a quantity is in arm A as in arm B.

    Attributes:
        ratio: of the two arms' `statistic`; NaN where either has none (a median that was not reached).
        interval: by a bootstrap over the seeds of each arm.
        statistic: what the ratio is of.
        k_a, n_a: how many runs of arm A got there, and of how many.
        k_b, n_b: the same for arm B.
    """

    ratio: float
    interval: Interval
    statistic: Statistic
    k_a: int
    n_a: int
    k_b: int
    n_b: int


def check_level(level: float) -> None:
    """Raises ConfigError unless a confidence level lies between 0 and 1."""
    if not 0 < level < 1:
        raise ConfigError(f"level={level:g} is no confidence level: give one between 0 and 1, such as 0.95")


def undefined(level: float, method: str, reason: str) -> Interval:
    """No interval, and why."""
    return Interval(math.nan, math.nan, level, method, reason)


def bootstrap_interval(
    values: Real[np.ndarray, " n"],
    statistic: Statistic = "median",
    *,
    method: Literal["percentile", "BCa"] = "BCa",
    level: float = 0.95,
    resamples: int = 9999,
    seed: int | np.random.Generator = 0,
) -> Estimate:
    """A statistic of seeds none of which is censored, with a bootstrap interval over them (Efron and Tibshirani 1993).

    With fewer than 3 seeds the estimate has no interval: its ends are NaN and its reason says so. Where all seeds agree
    the interval is a point. With 3 to about 10 seeds either method is too narrow: real coverage is below `level`.

    Args:
        values: one number a seed.
        statistic: `mean`, `geometric_mean` or `median`.
        method: `percentile`, or `BCa`: bias-corrected and accelerated (Efron 1987); where BCa is undefined the
            percentile interval is given, and its method says so.
        level: nominal confidence.
        resamples: how often the seeds are drawn anew.
        seed: of the resampling, or a generator.

    Raises:
        ConfigError: no values, one that is not finite, or a geometric mean of one that is not positive.
    """
    check_level(level)
    x = np.asarray(values, dtype=float)
    _check_values(x, statistic, "values")
    value = float(_STATISTICS[statistic](x))
    interval = _bootstrap((x,), _STATISTICS[statistic], method, level, resamples, seed)
    return Estimate(value, interval, len(x), statistic)


def ratio_of_arms(
    a: Real[np.ndarray, " n_a"],
    b: Real[np.ndarray, " n_b"],
    reached_a: Bool[np.ndarray, " n_a"] | None = None,
    reached_b: Bool[np.ndarray, " n_b"] | None = None,
    *,
    statistic: Statistic | None = None,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int | np.random.Generator = 0,
) -> ArmRatio:
    """A quantity in arm A over the same in arm B, with a bootstrap interval over the seeds of each.

    Where every run got there the ratio is of geometric means, with a BCa interval. Where some are censored it is of
    Kaplan-Meier medians, with a percentile interval that is open at the end at which a resampled arm has no median.
    The arms are resampled apart. With fewer than 3 seeds in an arm there is a ratio and no interval.

    Args:
        a: T of each run of arm A that got there, the last step of each that did not.
        b: the same for arm B.
        reached_a: which of arm A got there; all by default.
        reached_b: the same for arm B.
        statistic: `geometric_mean`, `median`, or `mean` (as published ratios often are); by default the first, and the
            second where a run is censored.
        level: nominal confidence.
        resamples: how often the seeds are drawn anew.
        seed: of the resampling, or a generator.

    Raises:
        ConfigError: an arm without runs; values that are not positive; a mean of either kind where runs are censored.
    """
    check_level(level)
    arms = [np.asarray(arm, dtype=float) for arm in (a, b)]
    there = [
        np.ones(len(arm), dtype=bool) if reached is None else reached
        for arm, reached in zip(arms, (reached_a, reached_b), strict=True)
    ]
    censored = sum(int((~reached).sum()) for reached in there)
    chosen: Statistic = statistic or ("median" if censored else "geometric_mean")
    for name, arm in zip(("arm A", "arm B"), arms, strict=True):
        _check_values(arm, chosen, name)
        if not (arm > 0).all():
            raise ConfigError(f"{name} has a value of {arm.min():g}: a ratio needs positive ones")
    if censored and chosen != "median":
        raise ConfigError(
            f"{chosen} would hide {censored} runs that did not get there: take statistic='median', or give only those "
            "that did and say so"
        )
    if not censored:
        function = _STATISTICS[chosen]

        def quotient(x: Any, y: Any, axis: int = -1) -> Any:
            return function(x, axis=axis) / function(y, axis=axis)

        ratio = float(quotient(arms[0], arms[1]))
        interval = _bootstrap((arms[0], arms[1]), quotient, "BCa", level, resamples, seed)
    else:
        ratio, interval = _ratio_of_medians(arms, there, level, resamples, seed)
    counts = [(int(reached.sum()), len(reached)) for reached in there]
    return ArmRatio(ratio, interval, chosen, *counts[0], *counts[1])


def resampled_medians(
    times: Float[np.ndarray, " n"], reached: Bool[np.ndarray, " n"], weights: Int[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    """Kaplan-Meier medians of many resamples at once, infinite where not reached.

    Args:
        times: T of each run, or the step it was last seen at.
        reached: which of the two.
        weights: how often each run stands in each resample.
    """
    order = np.lexsort((~reached, times))  # at equal steps, runs that got there come before those only followed so far
    t, w = times[order], weights[:, order]
    at_risk = np.cumsum(w[:, ::-1], axis=1)[:, ::-1]
    left = np.cumprod(1 - w * reached[order] / np.maximum(at_risk, 1), axis=1)
    at, below = left <= 0.5 + 1e-9, left < 0.5 - 1e-9
    medians = (t[at.argmax(axis=1)] + t[below.argmax(axis=1)]) / 2
    return np.where(below.any(axis=1), medians, np.inf)


def _ratio_of_medians(
    arms: list[np.ndarray],
    there: list[np.ndarray],
    level: float,
    resamples: int,
    seed: int | np.random.Generator,
) -> tuple[float, Interval]:
    once = [
        float(resampled_medians(arm, reached, np.ones((1, len(arm)), dtype=int))[0])
        for arm, reached in zip(arms, there, strict=True)
    ]
    ratio = once[0] / once[1] if all(map(math.isfinite, once)) else math.nan
    method = f"percentile bootstrap of Kaplan-Meier medians, {resamples} resamples"
    if reason := _too_few(arms):
        return ratio, undefined(level, method, reason)
    generator = np.random.default_rng(seed)
    medians = [
        resampled_medians(arm, reached, generator.multinomial(len(arm), [1 / len(arm)] * len(arm), size=resamples))
        for arm, reached in zip(arms, there, strict=True)
    ]
    # A resample in which neither arm has a median says nothing of the ratio: it counts at both ends.
    with np.errstate(invalid="ignore"):
        ratios = medians[0] / medians[1]
    low, high = (np.where(np.isnan(ratios), end, ratios) for end in (0.0, np.inf))
    tail = (1 - level) / 2
    ends = [float(np.quantile(x, q, method="inverted_cdf")) for x, q in ((low, tail), (high, 1 - tail))]
    return ratio, Interval(ends[0], ends[1], level, method)


def _bootstrap(
    samples: tuple[np.ndarray, ...],
    function: Callable[..., Any],
    method: str,
    level: float,
    resamples: int,
    seed: int | np.random.Generator,
) -> Interval:
    said = f"{method} bootstrap, {resamples} resamples"
    if reason := _too_few(samples):
        return undefined(level, said, reason)
    if all((x == x[0]).all() for x in samples):
        point = float(function(*samples))
        return Interval(point, point, level, "all seeds agree")

    def limits(method: str) -> Any:
        # Seeds of which most agree leave BCa without a value: that is said below, by what is given instead.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            return scipy.stats.bootstrap(
                samples,
                function,
                method=method,
                confidence_level=level,
                n_resamples=resamples,
                vectorized=True,
                rng=np.random.default_rng(seed),
            ).confidence_interval

    ends = limits(method)
    if not (math.isfinite(ends.low) and math.isfinite(ends.high)):
        ends, said = limits("percentile"), f"percentile bootstrap, {resamples} resamples ({method} is undefined here)"
    return Interval(float(ends.low), float(ends.high), level, said)


def _too_few(samples: Any) -> str:
    least = min(len(x) for x in samples)
    seeds = "1 seed" if least == 1 else f"{least} seeds"
    return f"{seeds}: resampling needs at least {MIN_SEEDS}" if least < MIN_SEEDS else ""


def _check_values(x: np.ndarray, statistic: str, name: str) -> None:
    if statistic not in _STATISTICS:
        raise ConfigError(f"unknown statistic {statistic!r}: {nearest(statistic, _STATISTICS)}")
    if not len(x):
        raise ConfigError(f"{name}: no values were given")
    if not np.isfinite(x).all():
        raise ConfigError(
            f"{name}: {x[~np.isfinite(x)][0]:g} is not a finite number; leave such runs out, or censor them"
        )
    if statistic == "geometric_mean" and not (x > 0).all():
        raise ConfigError(f"{name} has a value of {x.min():g}: a geometric mean needs positive ones")
