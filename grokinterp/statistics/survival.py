"""kaplan_meier: the share of runs that got there by each step, where some were not followed for long enough to know."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Bool, Float, Real

from grokinterp.errors import ConfigError
from grokinterp.statistics.intervals import Interval, check_level, undefined

# 5/6 of 4/5 of 3/4 is a half, but not to the last bit.
_HALF = 1e-9


@dataclass(frozen=True)
class Share:
    """The share of runs that got there by a step.

    Attributes:
        step: the step.
        share: of all runs; NaN beyond the last step at which any run was still followed.
        interval: its confidence interval.
    """

    step: float
    share: float
    interval: Interval


@dataclass(frozen=True)
class Survival:
    """The Kaplan-Meier curve of the time to an event, here most often T_grok.

    Attributes:
        times: T of each run that got there, and the last step of each that did not.
        reached: which did.
        steps: steps at which a run got there or was last seen, increasing.
        surviving: share of runs that have not got there by each of `steps`.
        lower: its lower confidence limit by the log-log transform (Kalbfleisch and Prentice 1980); NaN while it is 1.
        upper: its upper limit; once the curve is at 0, the last one before.
        median: by when half of all runs got there; NaN where fewer did (or exactly half did and the rest never).
        median_interval: where the curve's own log-log confidence limits cross a half (Brookmeyer and Crowley 1982);
            its upper end is infinite where the upper limit never does.
        restricted_mean: mean of min(T, `restricted_to`), the area under the curve: the mean that a budget allows.
        restricted_mean_interval: with Greenwood's variance and a normal quantile, not below 0.
        restricted_to: the step up to which that mean counts.
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
        """Runs."""
        return len(self.times)

    @property
    def k(self) -> int:
        """Runs that got there."""
        return int(self.reached.sum())

    def share_by(self, step: float) -> Share:
        """The share of runs that got there by a step.

        Its interval is Wilson's (1927) while the share is a plain k of n: before any run was lost from sight, and while
        no run got there. After that it is from the log-log limits of the curve.
        """
        i = int(np.searchsorted(self.steps, step, side="right")) - 1
        left = 1.0 if i < 0 else float(self.surviving[i])
        if step > self.steps[-1] and left > 0:
            reason = f"no run was followed beyond step {self.steps[-1]:g}"
            return Share(step, math.nan, undefined(self.level, "Kaplan-Meier", reason))
        followed = int((self.reached | (self.times >= step)).sum())
        if followed == self.n or left == 1:
            there = scipy.stats.binomtest(round((1 - left) * followed), followed)
            limits = there.proportion_ci(self.level, method="wilson")
            return Share(step, 1 - left, Interval(float(limits.low), float(limits.high), self.level, "Wilson"))
        ends = (1 - float(self.upper[i]), 1 - float(self.lower[i]))
        return Share(step, 1 - left, Interval(*ends, self.level, "Kaplan-Meier, log-log"))


def kaplan_meier(
    times: Real[np.ndarray, " n"],
    reached: Bool[np.ndarray, " n"],
    *,
    restricted_to: float | None = None,
    level: float = 0.95,
) -> Survival:
    """The Kaplan-Meier (1958) estimate of when runs get there, with those that did not censored at their last step.

    Args:
        times: T of each run that got there, and the last step of each that did not.
        reached: which did.
        restricted_to: up to which step the restricted mean counts; by default the last step of `times`.
        level: of the confidence intervals.

    Raises:
        ConfigError: there are no runs; a time is negative or not finite; `restricted_to` lies beyond what was followed.
    """
    check_level(level)
    t = np.asarray(times, dtype=float)
    if not len(t):
        raise ConfigError("no runs were given: a survival curve needs at least one")
    if not (np.isfinite(t) & (t >= 0)).all():
        raise ConfigError(f"times must be finite and 0 or more, and {t[~(np.isfinite(t) & (t >= 0))][0]:g} is not")
    curve = scipy.stats.ecdf(scipy.stats.CensoredData.right_censored(t, ~reached)).sf
    steps, left = np.asarray(curve.quantiles, dtype=float), np.asarray(curve.probabilities, dtype=float)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Greenwood's formula has no value where the curve is at 1, or at 0: there is no limit to tell there.
        warnings.filterwarnings("ignore", "The confidence interval is undefined")
        limits = curve.confidence_interval(level, method="log-log")
    lower = np.where(left == 0, 0.0, limits.low.probabilities)
    upper = pd.Series(np.asarray(limits.high.probabilities)).ffill().fillna(1.0).to_numpy()
    until = float(steps[-1]) if restricted_to is None else float(restricted_to)
    if until < 0 or (until > steps[-1] and left[-1] > 0):
        raise ConfigError(f"restricted_to={until:g} lies outside what was followed, 0 to {steps[-1]:g}")
    mean, deviation = _restricted_mean(t, reached, steps, left, until)
    quantile = float(scipy.stats.norm.ppf(0.5 + level / 2))
    return Survival(
        times=t,
        reached=reached,
        steps=steps,
        surviving=left,
        lower=lower,
        upper=upper,
        median=_crossing(steps, left),
        median_interval=_median_interval(steps, lower, upper, level),
        restricted_mean=mean,
        restricted_mean_interval=Interval(
            max(0.0, mean - quantile * deviation), min(until, mean + quantile * deviation), level, "Greenwood, normal"
        ),
        restricted_to=until,
        level=level,
    )


def _crossing(steps: Float[np.ndarray, " s"], left: Float[np.ndarray, " s"]) -> float:
    """The median: where the curve falls below a half; the middle of a stretch on which it is one."""
    at, below = np.flatnonzero(left <= 0.5 + _HALF), np.flatnonzero(left < 0.5 - _HALF)
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
    left: Float[np.ndarray, " s"],
    until: float,
) -> tuple[float, float]:
    """Area under the curve up to a step, and its standard error (Klein and Moeschberger 2003, section 4.5)."""
    edges = np.clip(np.concatenate([[0.0], steps, [until]]), 0, until)
    areas = np.concatenate([[1.0], left]) * np.diff(edges)
    after = np.cumsum(areas[::-1])[::-1]
    variance = 0.0
    for i, step in enumerate(steps):
        events, at_risk = int((reached & (times == step)).sum()), int((times >= step).sum())
        if step <= until and 0 < events < at_risk:
            variance += float(after[i + 1]) ** 2 * events / (at_risk * (at_risk - events))
    return float(areas.sum()), math.sqrt(variance)
