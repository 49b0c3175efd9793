"""Power laws, y = c x^exponent: by least squares, or by maximum likelihood where some y are only known to be larger."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Bool, Float, Real

from grokinterp.errors import ConfigError
from grokinterp.statistics.intervals import MIN_SEEDS, Interval, check_level, undefined

Method = Literal["least squares", "censored likelihood"]


@dataclass(frozen=True)
class PowerLaw:
    """A straight line through log y against log x.

    Attributes:
        exponent: its slope.
        interval: the slope's confidence interval; NaN, with the reason, where two points leave nothing to judge by.
        prefactor: y at x = 1.
        spread: standard deviation of ln y about the line, n - 2 in the denominator; 0.1 is about 10 % of y.
        n: points used.
        n_censored: how many of them are censored.
        n_settings: distinct x among them.
        method: `least squares`, or `censored likelihood`.
        level: of the confidence interval.
    """

    exponent: float
    interval: Interval
    prefactor: float
    spread: float
    n: int
    n_censored: int
    n_settings: int
    method: Method
    level: float
    _centre: float
    _covariance: Float[np.ndarray, "2 2"]

    def at(self, x: Real[np.ndarray, " m"]) -> pd.DataFrame:
        """The line and its pointwise confidence band (of the line, not of a run) at some x.

        Returns:
            Columns `x`, `y`, `low`, `high`; the band is NaN where the exponent has no interval.
        """
        from_centre = np.log(np.asarray(x, dtype=float)) - self._centre
        line = math.log(self.prefactor) + self.exponent * (from_centre + self._centre)
        design = np.stack([np.ones_like(from_centre), from_centre])
        deviation = np.sqrt(np.einsum("im,ij,jm->m", design, self._covariance, design))
        half = _t_quantile(self.n, self.level) * deviation if self.n > 2 else np.full(len(line), np.nan)
        return pd.DataFrame({"x": x, "y": np.exp(line), "low": np.exp(line - half), "high": np.exp(line + half)})


def fit_power_law(
    x: Real[np.ndarray, " n"],
    y: Real[np.ndarray, " n"],
    reached: Bool[np.ndarray, " n"] | None = None,
    *,
    method: Method | None = None,
    level: float = 0.95,
) -> PowerLaw:
    """Fits y = c x^exponent over settings and seeds, each run a point, with ln y normal about the line.

    `least squares` has Student's t interval. `censored likelihood` (Tobin 1958; log-normal) lets a run that did not get
    there say that its y is larger than its last step; its interval is the profile likelihood's, with the limit on the
    likelihood ratio that makes it Student's t interval exactly when nothing is censored. Both take seeds to scatter
    alike at every x; the grid on which y was evaluated is not modelled.

    Args:
        x: the setting of each run.
        y: what was measured, or the last step of a run that did not get there. One of 0 or less says nothing then, and
            is left out.
        reached: which runs got there; all by default.
        method: by default least squares where nothing is censored, else the censored likelihood.
        level: confidence level.

    Raises:
        ConfigError: an x, or a y that was reached, is not positive and finite; fewer than 2 distinct x, or than 2 at
            which a run got there; least squares is asked for over censored runs; runs lie on a line so exactly that
            their scatter cannot weigh the censored ones.
    """
    check_level(level)
    there = np.ones(len(x), dtype=bool) if reached is None else reached
    log_x, log_y, there = _logs(np.asarray(x, dtype=float), np.asarray(y, dtype=float), there)
    censored = int((~there).sum())
    if method == "least squares" and censored:
        raise ConfigError(f"least squares would leave out {censored} censored runs: take method='censored likelihood'")
    if method == "censored likelihood" or censored:
        return _censored(log_x, log_y, there, level)
    return _least_squares(log_x, log_y, level)


def bootstrap_exponent(
    x: Real[np.ndarray, " n"],
    y: Real[np.ndarray, " n"],
    reached: Bool[np.ndarray, " n"] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 999,
    seed: int | np.random.Generator = 0,
) -> Interval:
    """A percentile interval for the exponent, from resampling the seeds within each setting (each distinct x).

    It does not take seeds to scatter alike at every x, and with few seeds a setting it is too narrow. A setting with
    fewer than 3 seeds leaves no interval. A resample without a fit (all its runs censored, say) is left out, and
    `method` says how many were; where that is more than one in twenty there is no interval.

    Args and errors are those of `fit_power_law`; `resamples` and `seed` those of the resampling.
    """
    there = np.ones(len(x), dtype=bool) if reached is None else reached
    fit_power_law(x, y, there, level=level)  # for its errors
    log_x, log_y, there = _logs(np.asarray(x, dtype=float), np.asarray(y, dtype=float), there)
    members = [np.flatnonzero(log_x == value) for value in np.unique(log_x)]
    method = f"percentile bootstrap over seeds within {len(members)} settings, {resamples} resamples"
    if few := sum(len(m) < MIN_SEEDS for m in members):
        reason = f"{few} of {len(members)} settings have fewer than {MIN_SEEDS} seeds to resample"
        return undefined(level, method, reason)
    generator = np.random.default_rng(seed)
    exponents = []
    for _ in range(resamples):
        i = np.concatenate([generator.choice(m, len(m)) for m in members])
        try:
            beta = _maximize(_design(log_x[i]), log_y[i], there[i]).beta if not there[i].all() else None
        except ConfigError:
            continue
        exponents.append(np.polyfit(log_x[i], log_y[i], 1)[0] if beta is None else beta[1])
    if lost := resamples - len(exponents):
        method += f" ({lost} without a fit)"
    if lost > resamples / 20:
        return undefined(level, method, f"{lost} of {resamples} resamples have no fit: too few runs got there")
    low, high = np.quantile(exponents, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method)


def _logs(x: np.ndarray, y: np.ndarray, reached: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of the runs that can be used, or the reason why no line goes through them."""
    if len(x) != len(y) or len(x) != len(reached):
        raise ConfigError(f"x, y and reached must be of one length, and are of {len(x)}, {len(y)} and {len(reached)}")
    for name, values in (("x", x), ("y", y[reached])):
        if bad := [float(value) for value in values if not (math.isfinite(value) and value > 0)]:
            raise ConfigError(f"{name} = {bad[0]:g} has no logarithm: a power law needs positive numbers; leave it out")
    kept = reached | (y > 0)
    x, y, reached = x[kept], y[kept], reached[kept]
    if len(np.unique(x)) < 2:
        raise ConfigError(f"{len(np.unique(x))} distinct x: a power law needs at least 2")
    if len(np.unique(x[reached])) < 2:
        raise ConfigError(
            f"runs got there at {len(np.unique(x[reached]))} distinct x: the exponent has no finite estimate; a power "
            "law needs runs that got there at 2 or more"
        )
    return np.log(x), np.log(y), reached


def _t_quantile(n: int, level: float) -> float:
    return float(scipy.stats.t.ppf(0.5 + level / 2, n - 2))


def _least_squares(log_x: np.ndarray, log_y: np.ndarray, level: float) -> PowerLaw:
    n, centre = len(log_x), float(log_x.mean())
    line = scipy.stats.linregress(log_x, log_y)
    residual = log_y - line.intercept - line.slope * log_x
    variance = float(residual @ residual) / (n - 2) if n > 2 else math.nan
    if n > 2:
        half = _t_quantile(n, level) * math.sqrt(variance / float(((log_x - centre) ** 2).sum()))
        interval = Interval(float(line.slope) - half, float(line.slope) + half, level, "Student's t")
    else:
        interval = undefined(level, "Student's t", "2 points lie on a line whatever their scatter")
    return PowerLaw(
        exponent=float(line.slope),
        interval=interval,
        prefactor=math.exp(line.intercept),
        spread=math.sqrt(variance),
        n=n,
        n_censored=0,
        n_settings=len(np.unique(log_x)),
        method="least squares",
        level=level,
        _centre=centre,
        _covariance=variance * np.diag([1 / n, 1 / float(((log_x - centre) ** 2).sum())]),
    )


@dataclass(frozen=True)
class _Maximum:
    """Where the likelihood is largest: coefficients, scale, its logarithm there, and the coefficients' covariance."""

    beta: np.ndarray
    sigma: float
    log_likelihood: float
    covariance: np.ndarray


def _design(log_x: np.ndarray, centre: float = 0.0) -> np.ndarray:
    return np.stack([np.ones_like(log_x), log_x - centre], axis=1)


def _maximize(design: np.ndarray, y: np.ndarray, reached: np.ndarray) -> _Maximum:
    """Maximum likelihood of y = design @ beta + normal, where y is a lower bound wherever it was not reached.

    In beta / sigma and 1 / sigma the log likelihood is concave (Olsen 1978), so that Newton's steps, halved while they
    lead down, find its one maximum.
    """
    k, columns = int(reached.sum()), design.shape[1]
    z = np.concatenate([design, -y[:, None]], axis=1)
    beta, *_ = np.linalg.lstsq(design[reached], y[reached], rcond=None)
    residual = y[reached] - design[reached] @ beta
    sigma = math.sqrt(float(residual @ residual) / k)
    if sigma <= 1e-9 * max(1.0, float(np.ptp(y))):
        raise ConfigError(
            f"the {k} runs that got there lie exactly on a line: without scatter the censored ones cannot be weighed"
        )
    gamma = np.append(beta, 1.0) / sigma

    def value(gamma: np.ndarray) -> float:
        if gamma[-1] <= 0:
            return -math.inf
        u = z @ gamma
        normal = -0.5 * u[reached] ** 2 + math.log(gamma[-1]) - 0.5 * math.log(2 * math.pi)
        return float(normal.sum() + scipy.special.log_ndtr(u[~reached]).sum())

    best = value(gamma)
    information = np.eye(columns + 1)
    for _ in range(100):
        u = z @ gamma
        hazard = np.exp(-0.5 * u**2 - 0.5 * math.log(2 * math.pi) - scipy.special.log_ndtr(u))
        slope = z.T @ np.where(reached, -u, hazard)
        slope[-1] += k / gamma[-1]
        information = (z * np.where(reached, 1.0, hazard * (hazard + u))[:, None]).T @ z
        information[-1, -1] += k / gamma[-1] ** 2
        step = np.linalg.solve(information, slope)
        gain = float(slope @ step)
        if gain < 1e-18 * max(1.0, abs(best)):
            break
        while value(gamma + step) < best and np.abs(step).max() > 1e-14:
            step /= 2
        gamma = gamma + step
        best = value(gamma)
    jacobian = np.concatenate([np.eye(columns), -gamma[:-1, None] / gamma[-1]], axis=1) / gamma[-1]
    covariance = jacobian @ np.linalg.inv(information) @ jacobian.T
    return _Maximum(gamma[:-1] / gamma[-1], 1 / float(gamma[-1]), best, covariance)


def _censored(log_x: np.ndarray, log_y: np.ndarray, reached: np.ndarray, level: float) -> PowerLaw:
    n, centre = len(log_x), float(log_x.mean())
    found = _maximize(_design(log_x, centre), log_y, reached)
    slope, correction, constant = float(found.beta[1]), n / (n - 2), np.ones((n, 1))
    # n ln(1 + t^2 / (n - 2)) is the likelihood ratio at the ends of Student's interval in an uncensored fit.
    limit = n * math.log1p(_t_quantile(n, level) ** 2 / (n - 2))

    def short_of_limit(exponent: float) -> float:
        held = _maximize(constant, log_y - exponent * (log_x - centre), reached).log_likelihood
        return limit - 2 * (found.log_likelihood - held)

    reach = math.sqrt(correction * found.covariance[1, 1])
    ends = [_where_zero(short_of_limit, slope, direction * reach) for direction in (-1, 1)]
    return PowerLaw(
        exponent=slope,
        interval=Interval(ends[0], ends[1], level, "profile likelihood"),
        prefactor=math.exp(float(found.beta[0]) - slope * centre),
        spread=found.sigma * math.sqrt(correction),
        n=n,
        n_censored=int((~reached).sum()),
        n_settings=len(np.unique(log_x)),
        method="censored likelihood",
        level=level,
        _centre=centre,
        _covariance=correction * found.covariance,
    )


def _where_zero(function: Callable[[float], float], start: float, reach: float) -> float:
    """Where a function that is positive at `start` and falls away from it crosses zero, in the direction of `reach`."""
    inside, outside = start, start + reach
    for _ in range(60):
        if function(outside) < 0:
            return float(scipy.optimize.brentq(function, inside, outside, xtol=1e-10))
        inside, outside = outside, outside + 2 * (outside - inside)
    return math.copysign(math.inf, reach)
