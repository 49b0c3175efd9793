"""kaplan_meier: the share of runs that reached an event by each step, with right-censored runs."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Bool, Float, Real

from grokinterp.errors import ConfigError
from grokinterp.statistics.intervals import Interval, check_level, undefined

# 5/6 of 4/5 of 3/4 is a half, but not exactly in floating point.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Share:
    """The share of runs that reached the event by a step.

    >>> curve = kaplan_meier(np.array([10.0, 20.0, 50.0]), np.array([True, True, False]))
    >>> round(curve.share_by(30).share, 3)
    0.667

    Attributes:
        step: the step.
        share: share of all runs; NaN beyond the last step at which any run was followed.
        interval: confidence interval of the share.
    """

    step: float
    share: float
    interval: Interval


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier curve of the time to an event, usually T_grok.

    >>> curve = kaplan_meier(np.array([10.0, 20.0, 50.0]), np.array([True, True, False]))
    >>> curve.k, curve.n, curve.median
    (2, 3, 20.0)

    Attributes:
        times: T of each run that reached the event, and the last step of each run that did not.
        reached: True for the runs that reached the event.
        steps: steps at which a run reached the event or was censored, increasing.
        surviving: share of runs that have not reached the event by each of `steps`.
        lower: lower confidence limit of the curve by the log-log transform (Kalbfleisch and Prentice 1980); NaN while
            the curve is 1.
        upper: upper confidence limit; once the curve is at 0, the last limit before that.
        median: step by which half of all runs reached the event; NaN if fewer did (or exactly half, the rest never).
        median_interval: steps at which the log-log confidence limits of the curve cross one half (Brookmeyer and
            Crowley 1982); the upper end is infinite if the upper limit never does.
        restricted_mean: mean of min(T, `restricted_to`), the area under the curve.
        restricted_mean_interval: interval by Greenwood's variance and a normal quantile, cut off at 0.
        restricted_to: step up to which the restricted mean counts.
        level: confidence level of every interval.
    """

    times: Float[np.ndarray, " n"]
    reached: Bool[np.ndarray, " n"]
    steps: Float[np.ndarray, " s"]
    surviving: Float[np.ndarray, " s"]
    lower: Float[np.ndarray, " s"]
    upper: Float[np.ndarray, " s"]
    median: float
    median_interval: Interval
    restricted_mean: float
    restricted_mean_interval: Interval
    restricted_to: float
    level: float

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.times)

    @property
    def k(self) -> int:
        """Number of runs that reached the event."""
        return int(self.reached.sum())

    def share_by(self, step: float) -> Share:
        """The share of runs that reached the event by a step.

        While the share is a plain k of n (no run is censored yet, or no run has reached the event), its interval is
        Wilson's (1927). After that, the interval comes from the log-log limits of the curve.
        """
        i = int(np.searchsorted(self.steps, step, side="right")) - 1
        surviving = 1.0 if i < 0 else float(self.surviving[i])
        if step > self.steps[-1] and surviving > 0:
            reason = f"no run was followed beyond step {self.steps[-1]:g}"
            return Share(step, math.nan, undefined(self.level, "Kaplan-Meier", reason))
        followed = int((self.reached | (self.times >= step)).sum())
        if followed == self.n or surviving == 1:
            test = scipy.stats.binomtest(round((1 - surviving) * followed), followed)
            limits = test.proportion_ci(self.level, method="wilson")
            return Share(step, 1 - surviving, Interval(float(limits.low), float(limits.high), self.level, "Wilson"))
        ends = (1 - float(self.upper[i]), 1 - float(self.lower[i]))
        return Share(step, 1 - surviving, Interval(*ends, self.level, "Kaplan-Meier, log-log"))


def kaplan_meier(
    times: Real[np.ndarray, " n"],
    reached: Bool[np.ndarray, " n"],
    *,
    restricted_to: float | None = None,
    level: float = 0.95,
) -> Survival:
    """The Kaplan-Meier estimate of the time to an event; runs without the event are censored at their last step.

        >>> curve = kaplan_meier(np.array([10, 20, 30, 100, 100]), np.array([True, True, True, False, False]))
        >>> curve.median, round(curve.share_by(50).share, 2)
        (30.0, 0.6)

    Args:
        times: T of each run that reached the event, and the last step of each run that did not.
        reached: True for the runs that reached the event.
        restricted_to: step up to which the restricted mean counts (default: the last step in `times`).
        level: confidence level of the intervals.

    Raises:
        ConfigError: there are no runs, a time is negative or not finite, or `restricted_to` lies beyond the last step.

    Source: Kaplan and Meier 1958.
    """
    check_level(level)
    t = np.asarray(times, dtype=float)
    if not len(t):
        raise ConfigError("there are no runs: a survival curve needs at least one")
    if not (np.isfinite(t) & (t >= 0)).all():
        raise ConfigError(f"times must be finite and 0 or more, and {t[~(np.isfinite(t) & (t >= 0))][0]:g} is not")
    curve = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(t, ~reached)).sf
    steps, surviving = np.asarray(curve.quantiles, dtype=float), np.asarray(curve.probabilities, dtype=float)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Greenwood's formula is undefined while the curve is 1 or 0.
        warnings.filterwarnings("ignore", "The confidence interval is undefined")
        limits = curve.confidence_interval(level, method="log-log")
    lower = np.where(surviving == 0, 0.0, limits.low.probabilities)
    upper = pd.Series(np.asarray(limits.high.probabilities)).ffill().fillna(1.0).to_numpy()
    until = float(steps[-1]) if restricted_to is None else float(restricted_to)
    if until < 0 or (until > steps[-1] and surviving[-1] > 0):
        raise ConfigError(f"restricted_to={until:g} lies outside the steps that were followed, 0 to {steps[-1]:g}")
    mean, deviation = _restricted_mean(t, reached, steps, surviving, until)
    quantile = float(scipy.stats.norm.ppf(0.5 + level / 2))
    return Survival(
        times=t,
        reached=reached,
        steps=steps,
        surviving=surviving,
        lower=lower,
        upper=upper,
        median=_crossing(steps, surviving),
        median_interval=_median_interval(steps, lower, upper, level),
        restricted_mean=mean,
        restricted_mean_interval=Interval(
            max(0.0, mean - quantile * deviation), min(until, mean + quantile * deviation), level, "Greenwood, normal"
        ),
        restricted_to=until,
        level=level,
    )


def _crossing(steps: Float[np.ndarray, " s"], surviving: Float[np.ndarray, " s"]) -> float:
    """The median: where the curve falls below one half, or the midpoint of a stretch at exactly one half."""
    at, below = np.flatnonzero(surviving <= 0.5 + _TOLERANCE), np.flatnonzero(surviving < 0.5 - _TOLERANCE)
    return float(steps[at[0]] + steps[below[0]]) / 2 if len(below) else math.nan


def _median_interval(
    steps: Float[np.ndarray, " s"], lower: Float[np.ndarray, " s"], upper: Float[np.ndarray, " s"], level: float
) -> Interval:
    method = "Brookmeyer-Crowley, log-log"
    below, above = np.flatnonzero(lower <= 0.5), np.flatnonzero(upper <= 0.5)
    if not len(below):
        return undefined(level, method, "the lower limit of the curve never falls to a half")
    return Interval(float(steps[below[0]]), float(steps[above[0]]) if len(above) else math.inf, level, method)


def _restricted_mean(
    times: Float[np.ndarray, " n"],
    reached: Bool[np.ndarray, " n"],
    steps: Float[np.ndarray, " s"],
    surviving: Float[np.ndarray, " s"],
    until: float,
) -> tuple[float, float]:
    """Area under the curve up to a step, and its standard error (Klein and Moeschberger 2003, section 4.5)."""
    edges = np.clip(np.concatenate([[0.0], steps, [until]]), 0, until)
    areas = np.concatenate([[1.0], surviving]) * np.diff(edges)
    after = np.cumsum(areas[::-1])[::-1]
    variance = 0.0
    for i, step in enumerate(steps):
        events, at_risk = int((reached & (times == step)).sum()), int((times >= step).sum())
        if step <= until and 0 < events < at_risk:
            variance += float(after[i + 1]) ** 2 * events / (at_risk * (at_risk - events))
    return float(areas.sum()), math.sqrt(variance)
