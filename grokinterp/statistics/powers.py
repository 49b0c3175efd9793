"""Power laws y = c x^exponent, fitted by least squares or, with right-censored y, by maximum likelihood."""

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
    """A straight line fitted to log y against log x.

    >>> fit = fit_power_law(np.array([1.0, 2.0, 4.0]), np.array([8.0, 4.0, 2.0]))
    >>> round(fit.exponent, 3), fit.n
    (-1.0, 3)

    Attributes:
        exponent: slope of the line.
        interval: confidence interval of the slope; NaN, with a reason, for two points.
        prefactor: y at x = 1.
        spread: standard deviation of ln y about the line, with n - 2 in the denominator; 0.1 is about 10 % of y.
        n: number of points used.
        n_censored: number of censored points among them.
        n_settings: number of distinct x among them.
        method: `least squares` or `censored likelihood`.
        level: confidence level of the interval.
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
    _center: float
    _covariance: Float[np.ndarray, "2 2"]

    def at(self, x: Real[np.ndarray, " m"]) -> pd.DataFrame:
        """The line and its pointwise confidence band at some x. The band is that of the line, not of a single run.

        Returns:
            Columns `x`, `y`, `low`, `high`; the band is NaN if the interval of the exponent is undefined.
        """
        from_center = np.log(np.asarray(x, dtype=float)) - self._center
        line = math.log(self.prefactor) + self.exponent * (from_center + self._center)
        design = np.stack([np.ones_like(from_center), from_center])
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
    """Fit y = c x^exponent over settings and seeds; each run is a point, and ln y is normal about the line.

        >>> fit = fit_power_law(np.array([0.5, 1.0, 2.0, 5.0]), np.array([4000, 2650, 1250, 800]))
        >>> round(fit.exponent, 2), fit.method
        (-0.73, 'least squares')

    `least squares` has Student's t interval. `censored likelihood` (Tobin 1958, log-normal) uses the last step of a
    run that did not reach the event as a lower bound on its y. Its interval is that of the profile likelihood, with a
    limit on the likelihood ratio that reproduces Student's t interval exactly if nothing is censored. Both methods
    assume that seeds scatter equally at every x. Neither models the grid of steps at which y was evaluated.

    Args:
        x: the setting of each run.
        y: the measured value, or the last step of a run that did not reach the event. Such a step of 0 or less carries
            no information and is left out.
        reached: True for the runs that reached the event (default: all).
        method: default is least squares if nothing is censored, and the censored likelihood otherwise.
        level: confidence level.

    Raises:
        ConfigError: an x or a reached y is not positive and finite; there are fewer than 2 distinct x, or fewer than 2
            at which a run reached the event; `method` is least squares but some runs are censored; or the reached runs
            lie exactly on a line, so that no scatter is left to weigh the censored runs by.
    """
    check_level(level)
    log_x, log_y, reached = _logs(x, y, reached)
    censored = int((~reached).sum())
    if method == "least squares" and censored:
        raise ConfigError(f"least squares would leave out {censored} censored runs: use method='censored likelihood'")
    if method == "censored likelihood" or censored:
        return _censored(log_x, log_y, reached, level)
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

    >>> x, y = np.repeat([1.0, 2.0, 4.0], 3), np.array([100.0, 110, 90, 50, 55, 45, 25, 28, 22])
    >>> interval = bootstrap_exponent(x, y, resamples=99)
    >>> bool(interval.low < -1 < interval.high)
    True

    The interval does not assume that seeds scatter equally at every x. With few seeds per setting it is too narrow, and
    if a setting has fewer than 3 seeds it is undefined. Resamples without a fit (for instance because all their runs
    are censored) are left out, and `method` says how many; if they are more than one in twenty, the interval is
    undefined.

    Args:
        x: as in `fit_power_law`.
        y: as in `fit_power_law`.
        reached: as in `fit_power_law`.
        level: nominal confidence.
        resamples: number of bootstrap resamples.
        seed: seed or generator of the resampling.

    Raises:
        ConfigError: as `fit_power_law`.
    """
    fit_power_law(x, y, reached, level=level)  # raises if there is no fit
    log_x, log_y, reached = _logs(x, y, reached)
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
            beta = _maximize(_design(log_x[i]), log_y[i], reached[i]).beta if not reached[i].all() else None
        except ConfigError:
            continue
        exponents.append(np.polyfit(log_x[i], log_y[i], 1)[0] if beta is None else beta[1])
    if lost := resamples - len(exponents):
        method += f" ({lost} without a fit)"
    if lost > resamples / 20:
        return undefined(level, method, f"{lost} of {resamples} resamples have no fit: too few runs got there")
    low, high = np.quantile(exponents, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, method)


def _logs(
    x: np.ndarray, y: np.ndarray, reached: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, " n"]]:
    """Logarithms of the usable points, and which of them reached the event; ConfigError if they determine no line."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    reached = np.ones(len(x), dtype=bool) if reached is None else reached
    if len(x) != len(y) or len(x) != len(reached):
        raise ConfigError(f"x, y and reached must have one length, but have {len(x)}, {len(y)} and {len(reached)}")
    for name, values in (("x", x), ("y", y[reached])):
        if bad := [float(value) for value in values if not (math.isfinite(value) and value > 0)]:
            raise ConfigError(f"{name} = {bad[0]:g} has no logarithm: a power law needs positive numbers; leave it out")
    usable = reached | (y > 0)
    x, y, reached = x[usable], y[usable], reached[usable]
    if len(np.unique(x)) < 2:
        raise ConfigError(f"{len(np.unique(x))} distinct x: a power law needs at least 2")
    if len(np.unique(x[reached])) < 2:
        raise ConfigError(
            f"runs reached the event at {len(np.unique(x[reached]))} distinct x: a finite estimate of the exponent "
            "needs at least 2"
        )
    return np.log(x), np.log(y), reached


def _t_quantile(n: int, level: float) -> float:
    return float(scipy.stats.t.ppf(0.5 + level / 2, n - 2))


def _least_squares(log_x: np.ndarray, log_y: np.ndarray, level: float) -> PowerLaw:
    n, center = len(log_x), float(log_x.mean())
    line = scipy.stats.linregress(log_x, log_y)
    residual = log_y - line.intercept - line.slope * log_x
    variance = float(residual @ residual) / (n - 2) if n > 2 else math.nan
    if n > 2:
        half = _t_quantile(n, level) * math.sqrt(variance / float(((log_x - center) ** 2).sum()))
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
        _center=center,
        _covariance=variance * np.diag([1 / n, 1 / float(((log_x - center) ** 2).sum())]),
    )


@dataclass(frozen=True)
class _Maximum:
    """The maximum of the likelihood: coefficients, scale, log-likelihood, and covariance of the coefficients."""

    beta: np.ndarray
    sigma: float
    log_likelihood: float
    covariance: np.ndarray


def _design(log_x: np.ndarray, center: float = 0.0) -> np.ndarray:
    return np.stack([np.ones_like(log_x), log_x - center], axis=1)


def _maximize(design: np.ndarray, y: np.ndarray, reached: np.ndarray) -> _Maximum:
    """Maximum likelihood of y = design @ beta + normal noise, where y is a lower bound if it was not reached.

    In beta / sigma and 1 / sigma the log-likelihood is concave (Olsen 1978), so Newton steps, halved while they lead
    downhill, find its single maximum.
    """
    k, columns = int(reached.sum()), design.shape[1]
    z = np.concatenate([design, -y[:, None]], axis=1)
    beta, *_ = np.linalg.lstsq(design[reached], y[reached], rcond=None)
    residual = y[reached] - design[reached] @ beta
    sigma = math.sqrt(float(residual @ residual) / k)
    if sigma <= 1e-9 * max(1.0, float(np.ptp(y))):
        raise ConfigError(
            f"the {k} runs that reached the event lie exactly on a line: without scatter, the censored runs cannot be "
            "weighed; leave the censored runs out, or add seeds"
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
    n, center = len(log_x), float(log_x.mean())
    best = _maximize(_design(log_x, center), log_y, reached)
    slope, correction, constant = float(best.beta[1]), n / (n - 2), np.ones((n, 1))
    # In an uncensored fit, n ln(1 + t^2 / (n - 2)) is the likelihood ratio at the ends of Student's interval.
    limit = n * math.log1p(_t_quantile(n, level) ** 2 / (n - 2))

    def short_of_limit(exponent: float) -> float:
        profile = _maximize(constant, log_y - exponent * (log_x - center), reached).log_likelihood
        return limit - 2 * (best.log_likelihood - profile)

    reach = math.sqrt(correction * best.covariance[1, 1])
    ends = [_find_zero(short_of_limit, slope, direction * reach) for direction in (-1, 1)]
    return PowerLaw(
        exponent=slope,
        interval=Interval(ends[0], ends[1], level, "profile likelihood"),
        prefactor=math.exp(float(best.beta[0]) - slope * center),
        spread=best.sigma * math.sqrt(correction),
        n=n,
        n_censored=int((~reached).sum()),
        n_settings=len(np.unique(log_x)),
        method="censored likelihood",
        level=level,
        _center=center,
        _covariance=correction * best.covariance,
    )


def _find_zero(function: Callable[[float], float], start: float, reach: float) -> float:
    """The zero of a function in the direction of `reach`; it is positive at `start` and falls away from there."""
    inside, outside = start, start + reach
    for _ in range(60):
        if function(outside) < 0:
            return float(scipy.optimize.brentq(function, inside, outside, xtol=1e-10))
        inside, outside = outside, outside + 2 * (outside - inside)
    return math.copysign(math.inf, reach)
