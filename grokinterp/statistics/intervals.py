"""Confidence intervals: bootstrap intervals over seeds, and the ratio of two arms."""

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

# Resampling one or two seeds returns little but the seeds: an interval would suggest more than the data show.
MIN_SEEDS = 3

_STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "geometric_mean": lambda x, axis=-1: np.exp(np.mean(np.log(x), axis=axis)),
    "median": np.median,
}


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why it is undefined.

    >>> Interval(low=0.9, high=1.1, level=0.95, method="bootstrap").high
    1.1

    Attributes:
        low: lower end; NaN if the interval is undefined.
        high: upper end; infinite if the data set no upper limit.
        level: nominal confidence, such as 0.95.
        method: how the interval was computed.
        reason: why the interval is undefined; empty if it is defined.
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
    """A statistic of n seeds, with its confidence interval.

    >>> Estimate(2.0, Interval(1.0, 3.0, 0.95, "bootstrap"), n=5, statistic="mean").value
    2.0
    """

    value: float
    interval: Interval
    n: int
    statistic: str


@dataclass(frozen=True)
class ArmRatio:
    """The ratio of a quantity in arm A to the same quantity in arm B.

    >>> arm = ratio_of_arms(np.array([40.0, 42.0, 39.0]), np.array([20.0, 21.0, 19.0]))
    >>> arm.k_a, arm.n_a, round(arm.ratio, 1)
    (3, 3, 2.0)

    Attributes:
        ratio: `statistic` of arm A divided by that of arm B; NaN if either is undefined (an unreached median).
        interval: bootstrap interval over the seeds of each arm.
        statistic: the statistic whose ratio is taken.
        k_a, n_a: number of runs of arm A that reached the event, and number of all its runs.
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
    """Raise ConfigError unless the confidence level lies between 0 and 1."""
    if not 0 < level < 1:
        raise ConfigError(f"level={level:g} is not a confidence level: give a number between 0 and 1, such as 0.95")


def undefined(level: float, method: str, reason: str) -> Interval:
    """An undefined interval with its reason."""
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
    """A statistic of uncensored seeds, with a bootstrap interval over the seeds.

        >>> estimate = bootstrap_interval(np.array([4000, 2650, 1250, 800]), "median")
        >>> estimate.value, estimate.n
        (1950.0, 4)

    With fewer than 3 seeds the interval is undefined: its ends are NaN and `reason` says so. If all seeds agree, the
    interval is a point. With 3 to about 10 seeds both methods give intervals that are too narrow: their actual coverage
    is below `level`.

    Args:
        values: one number per seed.
        statistic: `mean`, `geometric_mean` or `median`.
        method: `percentile`, or `BCa` (bias-corrected and accelerated, Efron 1987). If BCa is undefined, the result is
            the percentile interval, and its `method` says so.
        level: nominal confidence.
        resamples: number of bootstrap resamples.
        seed: seed or generator of the resampling.

    Raises:
        ConfigError: no values, a value that is not finite, or a geometric mean of a value that is not positive.

    Source: Efron and Tibshirani 1993.
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
    """The ratio of a quantity in arm A to the same quantity in arm B, with a bootstrap interval over the seeds of each.

        >>> ratio = ratio_of_arms(np.array([42_000, 32_000, 76_000]), np.array([54_000, 40_000, 42_000]))
        >>> round(ratio.ratio, 3), ratio.statistic
        (1.04, 'geometric_mean')

    If every run reached the event, the ratio is that of geometric means, with a BCa interval. If some are censored, it
    is that of Kaplan-Meier medians, with a percentile interval that is open at the end where a resampled arm has no
    median. The two arms are resampled independently. With fewer than 3 seeds in an arm, the interval is undefined.

    Args:
        a: T of each run of arm A that reached the event, and the last step of each run that did not.
        b: the same for arm B.
        reached_a: True for the runs of arm A that reached the event (default: all).
        reached_b: the same for arm B.
        statistic: `geometric_mean`, `median` or `mean` (common in published ratios). The default is
            `geometric_mean`, or `median` if a run is censored.
        level: nominal confidence.
        resamples: number of bootstrap resamples.
        seed: seed or generator of the resampling.

    Raises:
        ConfigError: an arm without runs, values that are not positive, or a mean over an arm with censored runs.
    """
    check_level(level)
    arms = [np.asarray(arm, dtype=float) for arm in (a, b)]
    masks = [
        np.ones(len(arm), dtype=bool) if reached is None else reached
        for arm, reached in zip(arms, (reached_a, reached_b), strict=True)
    ]
    censored = sum(int((~reached).sum()) for reached in masks)
    statistic = statistic or ("median" if censored else "geometric_mean")
    for name, arm in zip(("arm A", "arm B"), arms, strict=True):
        _check_values(arm, statistic, name)
        if not (arm > 0).all():
            raise ConfigError(f"{name} has a value of {arm.min():g}: a ratio needs positive values")
    if censored and statistic != "median":
        raise ConfigError(
            f"{statistic} would hide {censored} runs that did not reach the event: use statistic='median', or pass "
            "only the runs that did and say so"
        )
    if censored:
        ratio, interval = _ratio_of_medians(arms, masks, level, resamples, seed)
    else:
        function = _STATISTICS[statistic]

        def quotient(x: Any, y: Any, axis: int = -1) -> Any:
            return function(x, axis=axis) / function(y, axis=axis)

        ratio = float(quotient(arms[0], arms[1]))
        interval = _bootstrap((arms[0], arms[1]), quotient, "BCa", level, resamples, seed)
    counts = [(int(reached.sum()), len(reached)) for reached in masks]
    return ArmRatio(ratio, interval, statistic, *counts[0], *counts[1])


def resampled_medians(
    times: Float[np.ndarray, " n"], reached: Bool[np.ndarray, " n"], weights: Int[np.ndarray, "b n"]
) -> Float[np.ndarray, " b"]:
    """Kaplan-Meier medians of many resamples at once; infinite if the median is not reached.

    Args:
        times: T of each run, or the last step of a censored run.
        reached: True for the runs that reached the event.
        weights: number of times each run occurs in each resample.
    """
    order = np.lexsort((~reached, times))  # at equal steps, events come before censoring
    t, w = times[order], weights[:, order]
    at_risk = np.cumsum(w[:, ::-1], axis=1)[:, ::-1]
    surviving = np.cumprod(1 - w * reached[order] / np.maximum(at_risk, 1), axis=1)
    at, below = surviving <= 0.5 + 1e-9, surviving < 0.5 - 1e-9
    medians = (t[at.argmax(axis=1)] + t[below.argmax(axis=1)]) / 2
    return np.where(below.any(axis=1), medians, np.inf)


def _ratio_of_medians(
    arms: list[np.ndarray], masks: list[np.ndarray], level: float, resamples: int, seed: int | np.random.Generator
) -> tuple[float, Interval]:
    a, b = (
        float(resampled_medians(arm, reached, np.ones((1, len(arm)), dtype=int))[0])
        for arm, reached in zip(arms, masks, strict=True)
    )
    ratio = a / b if math.isfinite(a) and math.isfinite(b) else math.nan
    method = f"percentile bootstrap of Kaplan-Meier medians, {resamples} resamples"
    if reason := _too_few(arms):
        return ratio, undefined(level, method, reason)
    generator = np.random.default_rng(seed)
    medians = [
        resampled_medians(arm, reached, generator.multinomial(len(arm), [1 / len(arm)] * len(arm), size=resamples))
        for arm, reached in zip(arms, masks, strict=True)
    ]
    # A resample in which neither arm has a median leaves the ratio open: it counts at both ends.
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
    name = f"{method} bootstrap, {resamples} resamples"
    if reason := _too_few(samples):
        return undefined(level, name, reason)
    if all((x == x[0]).all() for x in samples):
        point = float(function(*samples))
        return Interval(point, point, level, "all seeds agree")

    def limits(method: str) -> Any:
        # BCa is undefined if most seeds agree; the percentile interval below then replaces it.
        options = {"method": method, "confidence_level": level, "n_resamples": resamples, "vectorized": True}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            bootstrap = scipy.stats.bootstrap(samples, function, rng=np.random.default_rng(seed), **options)
        return bootstrap.confidence_interval

    ends = limits(method)
    if not (math.isfinite(ends.low) and math.isfinite(ends.high)):
        ends, name = limits("percentile"), f"percentile bootstrap, {resamples} resamples ({method} is undefined here)"
    return Interval(float(ends.low), float(ends.high), level, name)


def _too_few(samples: Any) -> str:
    n = min(len(x) for x in samples)
    seeds = "1 seed" if n == 1 else f"{n} seeds"
    return f"{seeds}: resampling needs at least {MIN_SEEDS}" if n < MIN_SEEDS else ""


def _check_values(x: np.ndarray, statistic: str, name: str) -> None:
    if statistic not in _STATISTICS:
        raise ConfigError(f"unknown statistic {statistic!r}: {nearest(statistic, _STATISTICS)}")
    if not len(x):
        raise ConfigError(f"{name}: no values; give at least one")
    if not np.isfinite(x).all():
        raise ConfigError(
            f"{name}: {x[~np.isfinite(x)][0]:g} is not a finite number: leave such runs out, or censor them"
        )
    if statistic == "geometric_mean" and not (x > 0).all():
        raise ConfigError(f"{name} has a value of {x.min():g}: a geometric mean needs positive values")
