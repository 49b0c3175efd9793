"""Statistics: against slow and obvious code, textbook data, published numbers, and simulation where truth is known."""

import json
import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import grokinterp as gi
from grokinterp.analysis.transition import Outcome
from grokinterp.statistics import (
    FATES,
    bootstrap_exponent,
    bootstrap_interval,
    compare,
    fit_power_law,
    kaplan_meier,
    observe,
    power_law,
    ratio_of_arms,
    remaining_axes,
    settings,
    summarize,
    survival,
    values_of,
)
from grokinterp.statistics.intervals import resampled_medians

# Freireich et al. 1963, weeks of remission of leukaemia, as in Kalbfleisch and Prentice 1980 and many textbooks since.
TREATED = np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35])
RELAPSED = np.arange(21) < 9
CONTROL = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23])

# Manir and Rupa 2026: steps from memorizing to generalizing.
MLP = np.array([54_000, 40_000, 42_000, 48_000, 44_000])
TRANSFORMER = np.array([42_000, 32_000, 76_000, 30_000, 74_000])
DECAY = np.array([5e-5, 1e-4, 5e-4, 1e-3])
DELAY = np.array([388_000, 220_000, 45_333, 25_333])


def slow_survival(times, reached) -> dict[float, Fraction]:
    left, curve = Fraction(1), {}
    for t in sorted(set(times.tolist())):
        at_risk = sum(1 for other in times if other >= t)
        events = sum(1 for other, there in zip(times, reached, strict=True) if other == t and there)
        left *= 1 - Fraction(events, at_risk)
        curve[t] = left
    return curve


def slow_median(times, reached) -> float:
    curve = slow_survival(times, reached)
    at = [t for t, left in curve.items() if left <= Fraction(1, 2)]
    below = [t for t, left in curve.items() if left < Fraction(1, 2)]
    return (at[0] + below[0]) / 2 if below else math.nan


def censored_times(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    event, end = generator.integers(1, 15, n), generator.integers(1, 20, n)
    return np.minimum(event, end), event <= end


@pytest.mark.parametrize("seed", range(30))
def test_kaplan_meier_is_the_product_of_shares_that_went_on(seed):
    times, reached = censored_times(seed)
    curve, slow = kaplan_meier(times, reached), slow_survival(times, reached)
    assert curve.steps.tolist() == list(slow)
    np.testing.assert_allclose(curve.surviving, [float(left) for left in slow.values()], rtol=1e-12, atol=1e-15)
    np.testing.assert_equal(curve.median, slow_median(times, reached))
    assert (curve.n, curve.k) == (12, reached.sum())


def test_remission_of_leukaemia_is_as_printed():
    treated, control = kaplan_meier(TREATED, RELAPSED), kaplan_meier(CONTROL, np.ones(21, dtype=bool))
    printed = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, left in printed.items():
        assert 1 - treated.share_by(week).share == pytest.approx(left, abs=6e-4)
    assert (treated.median, treated.median_interval.low, treated.median_interval.high) == (23, 13, math.inf)
    assert (control.median, control.median_interval.low, control.median_interval.high) == (8, 4, 11)
    # Greenwood's standard error at 10 weeks is 0.0963 (Kalbfleisch and Prentice, table 1.2); its log-log limits:
    left, error = 0.7529, 0.0963
    spread = 1.959964 * error / (left * abs(math.log(left)))
    i = treated.steps.tolist().index(10)
    assert treated.lower[i] == pytest.approx(left ** math.exp(spread), abs=2e-3)
    assert treated.upper[i] == pytest.approx(left ** math.exp(-spread), abs=2e-3)
    assert (control.surviving[-1], control.lower[-1]) == (0, 0)
    assert (
        control.upper[-1] == control.upper[-2] < 1
    )  # where the formula has no value, the curve is no higher than before


def test_the_restricted_mean_of_remission_is_an_area():
    curve = kaplan_meier(TREATED, RELAPSED, restricted_to=23)
    slow, area = slow_survival(TREATED, RELAPSED), Fraction(0)
    for week in range(23):  # steps are whole weeks
        passed = [left for t, left in slow.items() if t <= week]
        area += passed[-1] if passed else 1
    assert curve.restricted_mean == pytest.approx(float(area))
    assert curve.restricted_mean == pytest.approx(17.909, abs=1e-3)
    half = (curve.restricted_mean_interval.high - curve.restricted_mean_interval.low) / 2
    # SAS prints 1.6474, with its factor sqrt(k / (k - 1)) for 9 relapses.
    assert half * math.sqrt(9 / 8) == pytest.approx(1.959964 * 1.6474, abs=1e-3)


def test_without_censoring_the_restricted_mean_is_the_mean():
    curve = kaplan_meier(MLP, np.ones(5, dtype=bool))
    assert curve.restricted_mean == pytest.approx(45_600)
    half = curve.restricted_mean_interval.high - curve.restricted_mean
    assert half == pytest.approx(1.959964 * MLP.std(ddof=0) / math.sqrt(5), rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_with_one_budget_the_median_counts_censored_runs_as_infinite(seed):
    generator = np.random.default_rng(seed)
    times = generator.integers(1, 12, generator.integers(1, 9))
    reached = times < 8
    plain = np.median(np.where(reached, times, np.inf))
    median = kaplan_meier(np.minimum(times, 8), reached).median
    assert median == plain or (math.isnan(median) and math.isinf(plain))


def test_a_mean_of_those_that_finished_would_be_too_small():
    """The reason for it all: of exponential times with mean 100, cut at 100."""
    times = np.random.default_rng(0).exponential(100, 400)
    curve = kaplan_meier(np.minimum(times, 100), times < 100)
    assert curve.median == np.median(times) == pytest.approx(100 * math.log(2), rel=0.2)
    assert np.median(times[times < 100]) < 0.6 * curve.median


def test_the_share_by_a_step_is_k_of_n_with_wilsons_interval():
    reached = np.array([True, True, True, False, False])
    share = kaplan_meier(np.array([10, 20, 30, 100, 100]), reached).share_by(50)
    z, n, p = 1.959963984540054, 5, 0.6
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.share == pytest.approx(0.6)
    assert share.interval.low == pytest.approx((centre - half) / (1 + z * z / n))
    assert share.interval.high == pytest.approx((centre + half) / (1 + z * z / n))


def test_the_share_by_a_step_where_runs_were_lost_or_none_got_there():
    curve = kaplan_meier(TREATED, RELAPSED)
    assert "Kaplan-Meier" in curve.share_by(20).interval.method
    assert curve.share_by(20).interval.low == pytest.approx(1 - 0.8049, abs=1e-4)
    assert curve.share_by(0).share == 0
    assert math.isnan(curve.share_by(36).share)
    assert "followed" in curve.share_by(36).interval.reason
    none = kaplan_meier(np.array([50, 100, 100, 100]), np.zeros(4, dtype=bool))
    assert math.isnan(none.median)
    assert none.share_by(100).share == 0
    assert none.share_by(100).interval.high == pytest.approx(stats.binomtest(0, 3).proportion_ci(method="wilson").high)
    everyone = kaplan_meier(np.array([50, 60]), np.ones(2, dtype=bool))
    assert everyone.share_by(1000).share == 1


@pytest.mark.parametrize(
    ("times", "reached", "options", "said"),
    [
        ([], [], {}, "no runs"),
        ([-1.0], [True], {}, "0 or more"),
        ([math.nan], [True], {}, "finite"),
        ([5.0], [False], {"restricted_to": 6}, "outside what was followed"),
        ([5.0], [False], {"level": 95}, "no confidence level"),
    ],
)
def test_what_no_curve_can_be_made_of_is_refused(times, reached, options, said):
    with pytest.raises(gi.ConfigError, match=said):
        kaplan_meier(np.array(times, dtype=float), np.array(reached, dtype=bool), **options)


@pytest.mark.parametrize("seed", range(20))
def test_a_resampled_median_is_that_of_the_runs_repeated(seed):
    times, reached = censored_times(seed)
    weights = np.random.default_rng(seed).multinomial(12, [1 / 12] * 12, size=6)
    medians = resampled_medians(times.astype(float), reached, weights)
    for median, counts in zip(medians, weights, strict=True):
        slow = slow_median(np.repeat(times, counts), np.repeat(reached, counts))
        assert median == slow or (math.isinf(median) and math.isnan(slow))


def test_bootstrap_intervals_are_those_of_the_exact_distribution():
    """Three seeds have 27 equally likely resamples: their means can be listed."""
    values = np.array([1.0, 2.0, 6.0])
    means = sorted(np.mean([a, b, c]) for a in values for b in values for c in values)
    # 0.1 and 0.9 of 27 lie inside the third and the twenty-fifth mean, away from any edge.
    found = bootstrap_interval(values, "mean", method="percentile", level=0.8)
    assert (found.interval.low, found.interval.high) == (pytest.approx(means[2]), pytest.approx(means[24]))
    assert (found.value, found.n) == (3, 3)


def test_bca_is_efrons():
    """Efron 1987: z0 from the share of resamples below the estimate, the acceleration from the jackknife."""
    values = np.random.default_rng(3).gamma(2, size=12)
    found = bootstrap_interval(values, "mean", resamples=40_000, seed=1)
    draws = values[np.random.default_rng(2).integers(0, 12, (40_000, 12))].mean(axis=1)
    z0 = stats.norm.ppf((draws < values.mean()).mean())
    jackknife = np.array([np.delete(values, i).mean() for i in range(12)])
    gap = jackknife.mean() - jackknife
    a = (gap**3).sum() / (6 * (gap**2).sum() ** 1.5)
    z = z0 + np.array([-1.959964, 1.959964])
    ends = np.quantile(draws, stats.norm.cdf(z0 + z / (1 - a * z)))
    assert [found.interval.low, found.interval.high] == pytest.approx(ends, rel=0.02)
    plain = bootstrap_interval(values, "mean", method="percentile").interval
    assert found.interval.high > 1.02 * plain.high


def test_the_seed_of_a_bootstrap_decides_it():
    values = np.random.default_rng(0).lognormal(size=20)
    first, again = (bootstrap_interval(values, "mean", seed=7) for _ in range(2))
    assert first == again
    assert first != bootstrap_interval(values, "mean", seed=8)
    assert first == bootstrap_interval(values, "mean", seed=np.random.default_rng(7))


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(n):
    found = bootstrap_interval(MLP[:n])
    assert found.value == np.median(MLP[:n])
    assert math.isnan(found.interval.low)
    assert f"{n} seed" in found.interval.reason


def test_where_bca_is_undefined_it_is_said():
    assert bootstrap_interval(np.array([5.0, 5, 5, 5])).interval.method == "all seeds agree"
    near = bootstrap_interval(np.array([5.0, 5, 5, 5, 9]), "median").interval
    assert "BCa is undefined" in near.method
    assert (near.low, near.high) == (5, 9)


@pytest.mark.parametrize(
    ("values", "statistic", "said"),
    [([], "mean", "no values"), ([math.inf], "mean", "inf is not"), ([0.0], "geometric_mean", "positive"),
     ([1.0], "medain", "did you mean 'median'")],
)  # fmt: skip
def test_what_cannot_be_resampled_is_refused(values, statistic, said):
    with pytest.raises(gi.ConfigError, match=said):
        bootstrap_interval.__wrapped__(np.array(values), statistic)


def test_the_published_ratio_of_transformer_to_mlp():
    """Manir and Rupa 2026: 50,800 +- 22,565 over 45,600 +- 5,550 (ddof 1), a ratio of 1.11."""
    assert (MLP.mean(), TRANSFORMER.mean()) == (45_600, 50_800)
    assert MLP.std(ddof=1) == pytest.approx(5_550, abs=1)
    assert TRANSFORMER.std(ddof=1) == pytest.approx(22_565, abs=1)
    found = ratio_of_arms(TRANSFORMER, MLP, statistic="mean")
    assert found.ratio == pytest.approx(1.11, abs=5e-3)
    assert 1.0 in found.interval
    assert (found.k_a, found.n_a, found.k_b, found.n_b) == (5, 5, 5, 5)
    logs = np.log(TRANSFORMER).mean() - np.log(MLP).mean()
    assert ratio_of_arms(TRANSFORMER, MLP).ratio == pytest.approx(math.exp(logs))
    assert ratio_of_arms(TRANSFORMER, MLP).statistic == "geometric_mean"


def test_a_ratio_of_equal_arms_covers_one_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(150):
        a, b = generator.lognormal(sigma=0.4, size=(2, 15))
        covered += 1.0 in ratio_of_arms(a, b, resamples=400).interval
    assert 0.88 <= covered / 150 <= 0.985


def test_a_ratio_with_censored_runs_is_of_medians():
    a, there = np.array([10_000, 12_000, 14_000, 60_000, 60_000]), np.array([True, True, True, False, False])
    b = np.array([5_000, 6_000, 7_000, 8_000, 9_000])
    found = ratio_of_arms(a, b, there)
    assert found.statistic == "median"
    assert found.ratio == pytest.approx(14_000 / 7_000)
    assert (found.k_a, found.n_a, found.k_b, found.n_b) == (3, 5, 5, 5)
    assert found.interval.low > 1
    assert math.isinf(found.interval.high)  # many a resample of arm A has no median
    turned = ratio_of_arms(b, a, None, there)
    assert turned.interval.low == 0
    assert turned.interval.high < 1
    with pytest.raises(gi.ConfigError, match="geometric_mean would hide 2 runs"):
        ratio_of_arms(a, b, there, statistic="geometric_mean")


def test_a_ratio_of_an_arm_that_never_gets_there_is_not_a_number():
    never = ratio_of_arms(np.array([100, 100, 100]), MLP, np.zeros(3, dtype=bool))
    assert math.isnan(never.ratio)
    assert (never.k_a, never.n_a) == (0, 3)
    neither = ratio_of_arms(MLP, MLP, np.zeros(5, dtype=bool), np.array([True, True, False, False, False]))
    assert (neither.interval.low, neither.interval.high) == (0, math.inf)  # most resamples say nothing at all
    assert math.isinf(never.interval.low)
    assert "2 seeds" in ratio_of_arms(MLP[:2], MLP).interval.reason
    with pytest.raises(gi.ConfigError, match="arm B has a value of 0"):
        ratio_of_arms(MLP, np.array([0.0, 1, 2]))


def psi_steps(folder, weight_decay: float) -> tuple[int, int]:
    """T_train(0.99) and T_grok(0.95) of one of the published logs."""
    log = json.loads((folder / "psi" / f"wd_{weight_decay}.json").read_text())

    def first(curve: str, theta: float) -> int:
        return next(step for step, accuracy in zip(log["epoch"], log[curve], strict=True) if accuracy >= theta)

    return first("train_acc", 0.99), first("test_acc", 0.95)


def test_the_published_exponents_of_psi(public_data):
    decay = np.array([0.5, 1.0, 2.0, 5.0])
    memorized, grokked = np.array([psi_steps(public_data, w) for w in decay]).T
    assert grokked.tolist() == [4000, 2650, 1250, 800]
    assert fit_power_law(decay, grokked).exponent == pytest.approx(-0.73, abs=5e-3)
    assert fit_power_law(decay, grokked - memorized).exponent == pytest.approx(-1.12, abs=5e-3)
    # The runs at 0.1 did not grok in 5,000 steps: that makes the line steeper, never flatter.
    with_censored = fit_power_law(np.append(decay, 0.1), np.append(grokked, 5000), np.array([True] * 4 + [False]))
    assert with_censored.n_censored == 1
    assert with_censored.exponent <= fit_power_law(decay, grokked).exponent


def test_the_published_exponent_of_manir():
    np.testing.assert_allclose(DECAY * DELAY, [19.4, 22.0, 22.7, 25.3], atol=0.05)
    fit = fit_power_law(DECAY, DELAY)
    assert fit.exponent == pytest.approx(-0.93, abs=5e-3)
    assert -1 in fit.interval
    assert -0.83 not in fit.interval
    assert (fit.n, fit.n_censored, fit.n_settings, fit.method) == (4, 0, 4, "least squares")


def test_least_squares_is_the_textbooks():
    generator = np.random.default_rng(0)
    x = np.repeat([0.1, 0.3, 1.0, 3.0], 5)
    y = 500 * x**-0.8 * generator.lognormal(sigma=0.3, size=20)
    fit, design = fit_power_law(x, y), np.stack([np.ones(20), np.log(x)], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ np.log(y)
    spread = math.sqrt(((np.log(y) - design @ beta) ** 2).sum() / 18)
    half = 2.10092204 * spread * math.sqrt(inverse[1, 1])  # t(0.975, 18)
    assert (fit.exponent, fit.prefactor) == (pytest.approx(beta[1]), pytest.approx(math.exp(beta[0])))
    assert fit.spread == pytest.approx(spread)
    assert (fit.interval.low, fit.interval.high) == (pytest.approx(beta[1] - half), pytest.approx(beta[1] + half))
    band = fit.at(np.array([0.2]))
    at = np.array([1, math.log(0.2)])
    assert band["y"][0] == pytest.approx(math.exp(at @ beta))
    assert math.log(band["high"][0] / band["y"][0]) == pytest.approx(2.10092204 * spread * math.sqrt(at @ inverse @ at))
    assert band["y"][0] ** 2 == pytest.approx(band["low"][0] * band["high"][0])


@pytest.mark.parametrize("seed", range(5))
def test_the_censored_fit_of_uncensored_runs_is_least_squares(seed):
    x = np.repeat([0.1, 0.3, 1.0, 3.0], 3)
    y = 500 * x**-0.8 * np.random.default_rng(seed).lognormal(sigma=0.3, size=12)
    plain, censored = fit_power_law(x, y), fit_power_law(x, y, method="censored likelihood")
    for name in ("exponent", "prefactor", "spread"):
        assert getattr(censored, name) == pytest.approx(getattr(plain, name), rel=1e-9), name
    assert censored.interval.low == pytest.approx(plain.interval.low, rel=1e-7)
    assert censored.interval.high == pytest.approx(plain.interval.high, rel=1e-7)
    for column in ("y", "low", "high"):
        np.testing.assert_allclose(censored.at(x)[column], plain.at(x)[column], rtol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_censored_fit_is_where_the_likelihood_is_largest(seed):
    x = np.repeat([0.1, 0.3, 1.0, 3.0], 4)
    y = 500 * x**-0.8 * np.random.default_rng(seed).lognormal(sigma=0.4, size=16)
    reached, y = y < 2000, np.minimum(y, 2000)
    fit = fit_power_law(x, y, reached)

    def minus_log_likelihood(parameters):
        intercept, slope, log_sigma = parameters
        z = (np.log(y) - intercept - slope * np.log(x)) / math.exp(log_sigma)
        return -(stats.norm.logpdf(z[reached]) - log_sigma).sum() - stats.norm.logsf(z[~reached]).sum()

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 10_000, "maxfev": 10_000}
    slow = optimize.minimize(minus_log_likelihood, [6, -1, -1], method="Nelder-Mead", options=options).x
    assert 0 < fit.n_censored < 8
    assert fit.exponent == pytest.approx(slow[1], abs=1e-6)
    assert math.log(fit.prefactor) == pytest.approx(slow[0], abs=1e-6)
    assert fit.spread == pytest.approx(math.exp(slow[2]) * math.sqrt(16 / 14), rel=1e-6)
    # The band: from the curvature there, by finite differences.
    steps = 1e-4 * np.eye(3)
    curvature = np.array([
        [(minus_log_likelihood(slow + a + b) - minus_log_likelihood(slow + a - b) - minus_log_likelihood(slow - a + b)
          + minus_log_likelihood(slow - a - b)) / 4e-8 for b in steps]
        for a in steps
    ])  # fmt: skip
    at = np.array([1, math.log(0.1), 0])
    deviation = math.sqrt(at @ np.linalg.inv(curvature) @ at * 16 / 14)
    band = fit.at(np.array([0.1]))
    assert math.log(band["high"][0] / band["y"][0]) == pytest.approx(stats.t.ppf(0.975, 14) * deviation, rel=1e-3)
    for end in (fit.interval.low, fit.interval.high):
        held = optimize.minimize(
            lambda p, end=end: minus_log_likelihood([p[0], end, p[1]]),
            slow[[0, 2]],
            method="Nelder-Mead",
            options=options,
        )
        ratio = 2 * (held.fun - minus_log_likelihood(slow))
        assert ratio == pytest.approx(16 * math.log(1 + stats.t.ppf(0.975, 14) ** 2 / 14), rel=1e-6)


def test_the_censored_fit_is_unbiased_and_covers_where_leaving_runs_out_does_not():
    generator, x = np.random.default_rng(0), np.repeat([0.1, 0.25, 0.7, 2.0], 4)
    fits, naive = [], []
    for _ in range(100):
        y = 3000 / x * generator.lognormal(sigma=0.4, size=16)
        reached = y < 15_000
        fits.append(fit_power_law(x, np.minimum(y, 15_000), reached))
        naive.append(fit_power_law(x[reached], y[reached]).exponent)
    assert np.mean([fit.n_censored for fit in fits]) > 3
    exponents = np.array([fit.exponent for fit in fits])
    assert abs(exponents.mean() + 1) < 4 * exponents.std() / math.sqrt(100) < 0.06
    assert np.mean(naive) > -0.92
    covered = np.mean([-1 in fit.interval for fit in fits])
    assert 0.90 <= covered <= 0.99


def test_an_exact_law_is_found_exactly():
    fit = fit_power_law(np.array([1e-5, 1e-4, 1e-3]), np.array([224_836.0, 22_483.6, 2_248.36]))
    assert fit.exponent == pytest.approx(-1, abs=1e-12)
    assert fit.interval.high - fit.interval.low < 1e-10


def test_two_points_have_an_exponent_and_no_interval():
    fit = fit_power_law(np.array([1.0, 10.0]), np.array([100, 10]))
    assert fit.exponent == pytest.approx(-1)
    assert "2 points" in fit.interval.reason
    assert fit.at(np.array([10.0]))["y"][0] == pytest.approx(10)
    assert math.isnan(fit.at(np.array([10.0]))["low"][0])


@pytest.mark.parametrize(
    ("x", "y", "reached", "said"),
    [
        ([0, 1], [1, 1], [1, 1], "x = 0 has no logarithm"),
        ([1, 2], [1, -3], [1, 1], "y = -3 has no logarithm"),
        ([1, 2], [1, math.nan], [1, 1], "y = nan"),
        ([2, 2], [1, 3], [1, 1], "1 distinct x"),
        ([1, 2, 2], [9, 3, 4], [0, 1, 1], "got there at 1 distinct x"),
        ([1, 2], [9, 9], [0, 0], "got there at 0 distinct x"),
        ([1, 2, 3], [9, 8, 7], [1, 1, 0], "exactly on a line"),
        ([1, 2, 3], [9, 8], [1, 1], "one length"),
    ],
)
def test_what_no_line_goes_through_is_refused_in_one_line(x, y, reached, said):
    with pytest.raises(gi.ConfigError, match=said) as error:
        fit_power_law.__wrapped__(np.array(x, float), np.array(y, float), np.array(reached, bool))
    assert "\n" not in str(error.value)


def test_least_squares_over_censored_runs_is_refused_and_a_wait_of_nothing_left_out():
    x, y, reached = np.array([1.0, 2, 4, 4]), np.array([9.0, 5, 2, 0]), np.array([True, True, True, False])
    assert fit_power_law(x, y, reached).n == 3  # a run censored at 0 says nothing
    with pytest.raises(gi.ConfigError, match="would leave out 1 censored"):
        fit_power_law(x, np.array([9.0, 5, 2, 2]), reached, method="least squares")


def test_a_bootstrap_of_the_exponent_agrees_with_students_t_where_both_hold():
    x = np.repeat([0.1, 0.3, 1.0, 3.0], 25)
    y = 500 * x**-0.8 * np.random.default_rng(1).lognormal(sigma=0.3, size=100)
    found, fit = bootstrap_exponent(x, y, seed=1), fit_power_law(x, y).interval
    assert found.low == pytest.approx(fit.low, abs=0.2 * (fit.high - fit.low))
    assert found.high == pytest.approx(fit.high, abs=0.2 * (fit.high - fit.low))
    assert found == bootstrap_exponent(x, y, seed=1)
    reached = y < 2500
    cut, censored = np.minimum(y, 2500), fit_power_law(x, np.minimum(y, 2500), reached)
    interval = bootstrap_exponent(x, cut, reached, resamples=150)
    assert censored.n_censored > 10
    assert interval.low < censored.exponent < interval.high
    assert interval.high - interval.low == pytest.approx(censored.interval.high - censored.interval.low, rel=0.35)


def test_a_bootstrap_resamples_seeds_within_their_setting():
    """Seeds that agree in every setting leave nothing to resample, however badly the settings fit a line."""
    found = bootstrap_exponent(np.repeat([1.0, 2, 4], 3), np.repeat([9.0, 8, 1], 3))
    assert found.high - found.low < 1e-9
    few = bootstrap_exponent(np.array([1.0, 2, 2, 2]), np.array([9.0, 8, 7, 6]))
    assert "1 of 2 settings have fewer than 3 seeds" in few.reason
    rare = np.array([True, True, True, True, False, False])
    lost = bootstrap_exponent(np.repeat([1.0, 2], 3), np.array([5.0, 6, 7, 3, 9, 9]), rare, resamples=60)
    assert "have no fit" in lost.reason


def sweep_table() -> pd.DataFrame:
    """Three weight decays and two operations, with runs of every fate."""
    rows = []

    def add(decay, operation, seed, outcome, grok=math.nan, train=500.0, step=5000, status="finished", failure=None):
        rows.append({
            "run": f"optimizer.weight_decay={decay},model_seed={seed},{operation}", "task.operation": operation,
            "optimizer.weight_decay": decay, "model_seed": seed, "task.p": 97, "status": status, "failure": failure,
            "step": step, "outcome": outcome, "T_train_0.95": train, "T_train_0.99": train, "T_grok_0.95": grok,
            "T_grok_0.99": grok * 1.2, "delay_0.95_0.99": grok - train, "final.test_accuracy": 1.0 - seed / 10,
        })  # fmt: skip

    for seed, grok in enumerate([3000, 2500, 3500]):
        add(1.0, "add", seed, "grokked", grok)
    add(0.3, "add", 0, "DNF_test")
    add(0.3, "add", 1, "semi_grokked")
    add(0.3, "add", 2, "grokked", 4000)
    add(0.3, "add", 3, "grokked", 4500)
    add(0.3, "add", 4, "grokked", 4200)
    add(3.0, "add", 0, "DNF_train", train=math.nan)
    add(3.0, "add", 1, "grokked", 900, train=800)
    add(3.0, "add", 2, "diverged", step=120, status="diverged", train=math.nan)
    add(3.0, "add", 3, None, step=math.nan, status="failed", failure="out of memory", train=math.nan)
    add(3.0, "add", 4, None, step=math.nan, status="missing", train=math.nan)
    add(3.0, "add", 5, "undetermined", step=700, status="stopped", train=600)
    return pd.DataFrame(rows)


def test_runs_that_did_not_get_there_are_censored_or_apart():
    table = sweep_table()
    seen = observe(table, "T_grok_0.95")
    fates = np.array(seen.fates)
    assert seen.reached.sum() == 7
    assert fates[seen.censored].tolist() == ["DNF_test", "semi_grokked", "undetermined"]
    assert seen.values[seen.censored].tolist() == [5000, 5000, 700]
    assert seen.values[fates == "DNF_train"].tolist() == [5000]
    assert not seen.followed[fates == "DNF_train"].any()
    apart = np.isin(fates, ["diverged", "failed", "missing"])
    assert apart.sum() == 3
    assert np.isnan(seen.values[apart]).all()
    assert not seen.followed[apart].any()


def test_a_delay_is_censored_at_the_wait_since_memorizing():
    seen = observe(sweep_table(), "delay_0.95_0.99")
    assert seen.values[seen.censored].tolist() == [4500, 4500, 100]
    assert seen.values[seen.reached].tolist() == [2500, 2000, 3000, 3500, 4000, 3700, 100]
    later = sweep_table().assign(**{"T_train_0.99": lambda t: t["T_train_0.95"] + 50})
    assert observe(later, "delay_0.95_0.99").values[seen.censored].tolist() == [4450, 4450, 50]


def test_a_run_that_never_memorized_is_censored_in_t_train_and_nothing_is_in_a_final_number():
    table = sweep_table()
    train, final = observe(table, "T_train_0.99"), observe(table, "final.test_accuracy")
    assert np.array(train.fates)[train.censored].tolist() == ["DNF_train"]
    assert not final.censored.any()
    assert final.reached.sum() == 10


def test_a_threshold_above_the_outcomes_may_be_missed_by_a_run_that_grokked():
    table = sweep_table().assign(**{"T_grok_0.99": math.nan})
    assert observe(table, "T_grok_0.99").censored.sum() == 10


def test_replicates_are_summarized_with_both_kinds_of_dnf_apart():
    summary = summarize(sweep_table(), ["optimizer.weight_decay", "model_seed"]).set_index("optimizer.weight_decay")
    assert summary.index.tolist() == [0.3, 1.0, 3.0]
    row = summary.loc[0.3]
    assert (row["n"], row["k"], row["DNF_test"], row["semi_grokked"], row["DNF_train"]) == (5, 3, 1, 1, 0)
    assert row["median"] == 4500  # of 4000, 4200, 4500 and two that took longer
    assert row["mean_of_k"] == pytest.approx(12_700 / 3)
    assert row["std_of_k"] == pytest.approx(np.std([4000, 4500, 4200], ddof=1))
    assert (row["min_of_k"], row["max_of_k"]) == (4000, 4500)
    row = summary.loc[3.0]
    assert (row["n"], row["k"], row["DNF_train"], row["diverged"], row["failed"], row["missing"]) == (4, 1, 1, 1, 1, 1)
    assert row["undetermined"] == 1
    assert (row["median"], row["mean_of_k"]) == (900, 900)
    assert math.isnan(row["std_of_k"])


def test_a_setting_where_half_never_grokked_has_no_median():
    table = sweep_table()
    table = table[table["outcome"].isin(["DNF_test", "semi_grokked", "grokked"]) & (table["T_grok_0.95"] != 4000)]
    row = summarize(table, ["optimizer.weight_decay"]).iloc[0]
    assert (row["n"], row["k"]) == (4, 2)
    assert math.isnan(row["median"])
    assert row["mean_of_k"] == 4350


def test_a_summary_of_delays_below_zero_and_of_nothing():
    table = sweep_table().assign(**{"delay_0.95_0.99": [-50.0, 0, 100] + [math.nan] * 11})
    row = summarize(table, ["optimizer.weight_decay"], "delay_0.95_0.99").set_index("optimizer.weight_decay")
    assert (row.loc[1.0, "median"], row.loc[1.0, "min_of_k"]) == (0, -50)
    lost = table[table["status"].isin(["failed", "missing"])]
    row = summarize(lost, ["optimizer.weight_decay"]).iloc[0]
    assert (row["n"], row["k"], row["failed"], row["missing"]) == (0, 0, 1, 1)
    assert math.isnan(row["median"])


def test_the_tables_curve_ratio_and_exponent_are_those_of_the_arrays():
    table = sweep_table()
    curve = survival(table[table["optimizer.weight_decay"] == 0.3])
    assert (curve.n, curve.k, curve.median) == (5, 3, 4500)
    found = compare(table, {"optimizer.weight_decay": 0.3}, {"optimizer.weight_decay": 1.0})
    assert (found.statistic, found.ratio) == ("median", 1.5)
    assert (found.k_a, found.n_a, found.k_b, found.n_b) == (3, 5, 3, 3)
    x = np.array([1.0] * 3 + [0.3] * 5 + [3.0] * 2)
    y = np.array([3000, 2500, 3500, 5000, 5000, 4000, 4500, 4200, 900, 700])
    reached = np.array([True] * 3 + [False] * 2 + [True] * 4 + [False])
    fit, same = power_law(table, "optimizer.weight_decay"), fit_power_law(x, y, reached)
    assert (fit.exponent, fit.interval, fit.n_censored) == (same.exponent, same.interval, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: observe(t, "T_grok_0.9"), "did you mean 'T_grok_0.9[59]'"),
        (lambda t: observe(t, "task.operation"), "not numbers"),
        (lambda t: summarize(t, ["optimizer.weight_decy"]), "did you mean 'optimizer.weight_decay'"),
        (lambda t: power_law(t, "task.operation"), "not numeric"),
        (lambda t: compare(t, {"task.p": 97}, {"task.p": 3}), "no run has task.p = 3"),
        (lambda t: survival(t[t["status"] == "failed"]), "1 failed"),
        (lambda t: survival(t[:0]), "the table is empty"),
    ],
)
def test_a_table_that_does_not_have_it_is_refused(call, said):
    with pytest.raises(gi.ConfigError, match=said):
        call(sweep_table())


def test_values_of_an_axis_have_an_order():
    table = pd.DataFrame({"a": [10, 2, 2, 1], "b": ["x", None, "a", "x"], "c": [True, False, True, None]})
    assert values_of(table, "a") == [1, 2, 10]
    assert values_of(table, "b") == ["a", "x", None]
    assert values_of(table, "c") == [False, True, None]
    parts = settings(table.astype({"b": object}), ["b", "model_seed"])
    assert [(setting["b"], len(part)) for setting, part in parts] == [("a", 1), ("x", 2), (None, 1)]


def test_axes_that_remain_are_those_free_to_vary():
    table = sweep_table()
    assert remaining_axes(table, []) == ["optimizer.weight_decay"]
    assert remaining_axes(table, ["optimizer.weight_decay"]) == []
    table["optimizer.lr"] = 1e-3 * table["optimizer.weight_decay"]  # goes along with the weight decay
    table["model.kind"] = ["mlp", "transformer"] * 7
    assert remaining_axes(table, ["optimizer.weight_decay"]) == ["model.kind"]
    assert remaining_axes(table, []) == ["optimizer.weight_decay", "model.kind"]


def test_fates_are_the_outcomes_and_two_that_have_none():
    assert set(FATES) == {*get_args(Outcome), "failed", "missing"}
