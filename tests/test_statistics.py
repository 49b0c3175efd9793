"""Statistics against slow, obvious code, textbook data, published numbers, and simulations with a known truth."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import optimize, stats

import grokinterp as gi
from grokinterp.statistics import (
    bootstrap_exponent,
    bootstrap_interval,
    fit_power_law,
    kaplan_meier,
    ratio_of_arms,
)
from grokinterp.statistics.intervals import resampled_medians

# Freireich et al. 1963, weeks of remission of leukemia, as in Kalbfleisch and Prentice 1980 and many textbooks since.
TREATED = np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35])
RELAPSED = np.arange(21) < 9
CONTROL = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23])

# Manir and Rupa 2026: steps from memorizing to generalizing.
MLP = np.array([54_000, 40_000, 42_000, 48_000, 44_000])
TRANSFORMER = np.array([42_000, 32_000, 76_000, 30_000, 74_000])
DECAY = np.array([5e-5, 1e-4, 5e-4, 1e-3])
DELAY = np.array([388_000, 220_000, 45_333, 25_333])


def slow_survival(times, reached) -> dict[float, Fraction]:
    surviving, curve = Fraction(1), {}
    for t in sorted(set(times.tolist())):
        at_risk = sum(1 for other in times if other >= t)
        events = sum(1 for other, event in zip(times, reached, strict=True) if other == t and event)
        surviving *= 1 - Fraction(events, at_risk)
        curve[t] = surviving
    return curve


def slow_median(times, reached) -> float:
    curve = slow_survival(times, reached)
    at = [t for t, surviving in curve.items() if surviving <= Fraction(1, 2)]
    below = [t for t, surviving in curve.items() if surviving < Fraction(1, 2)]
    return (at[0] + below[0]) / 2 if below else math.nan


def censored_times(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    event, end = generator.integers(1, 15, n), generator.integers(1, 20, n)
    return np.minimum(event, end), event <= end


@pytest.mark.parametrize("seed", range(30))
def test_kaplan_meier_is_the_product_of_surviving_shares(seed):
    times, reached = censored_times(seed)
    curve, slow = kaplan_meier(times, reached), slow_survival(times, reached)
    assert curve.steps.tolist() == list(slow)
    np.testing.assert_allclose(curve.surviving, [float(share) for share in slow.values()], rtol=1e-12, atol=1e-15)
    np.testing.assert_equal(curve.median, slow_median(times, reached))
    assert (curve.n, curve.k) == (12, reached.sum())


def test_leukemia_remission_matches_the_printed_values():
    treated, control = kaplan_meier(TREATED, RELAPSED), kaplan_meier(CONTROL, np.ones(21, dtype=bool))
    printed = {6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for week, surviving in printed.items():
        assert 1 - treated.share_by(week).share == pytest.approx(surviving, abs=6e-4)
    assert (treated.median, treated.median_interval.low, treated.median_interval.high) == (23, 13, math.inf)
    assert (control.median, control.median_interval.low, control.median_interval.high) == (8, 4, 11)
    # Greenwood's standard error at 10 weeks is 0.0963 (Kalbfleisch and Prentice, table 1.2); its log-log limits:
    surviving, error = 0.7529, 0.0963
    spread = 1.959964 * error / (surviving * abs(math.log(surviving)))
    i = treated.steps.tolist().index(10)
    assert treated.lower[i] == pytest.approx(surviving ** math.exp(spread), abs=2e-3)
    assert treated.upper[i] == pytest.approx(surviving ** math.exp(-spread), abs=2e-3)
    assert (control.surviving[-1], control.lower[-1]) == (0, 0)
    # The formula is undefined at the last step: the limit stays where it was.
    assert control.upper[-1] == control.upper[-2] < 1


def test_the_restricted_mean_of_remission_is_an_area():
    curve = kaplan_meier(TREATED, RELAPSED, restricted_to=23)
    slow, area = slow_survival(TREATED, RELAPSED), Fraction(0)
    for week in range(23):  # steps are whole weeks
        passed = [surviving for t, surviving in slow.items() if t <= week]
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


def test_the_median_of_uncensored_runs_alone_would_be_too_small():
    """Exponential times with mean 100, censored at 100: why censored runs have to count."""
    times = np.random.default_rng(0).exponential(100, 400)
    curve = kaplan_meier(np.minimum(times, 100), times < 100)
    assert curve.median == np.median(times) == pytest.approx(100 * math.log(2), rel=0.2)
    assert np.median(times[times < 100]) < 0.6 * curve.median


def test_the_share_by_a_step_is_k_of_n_with_wilsons_interval():
    reached = np.array([True, True, True, False, False])
    share = kaplan_meier(np.array([10, 20, 30, 100, 100]), reached).share_by(50)
    z, n, p = 1.959963984540054, 5, 0.6
    center, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share.share == pytest.approx(0.6)
    assert share.interval.low == pytest.approx((center - half) / (1 + z * z / n))
    assert share.interval.high == pytest.approx((center + half) / (1 + z * z / n))


def test_the_share_by_a_step_with_censored_runs_and_without_events():
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
    ("times", "reached", "options", "message"),
    [
        ([], [], {}, "no runs"),
        ([-1.0], [True], {}, "0 or more"),
        ([math.nan], [True], {}, "finite"),
        ([5.0], [False], {"restricted_to": 6}, "outside the steps that were followed"),
        ([5.0], [False], {"level": 95}, "is not a confidence level"),
    ],
)
def test_kaplan_meier_refuses_bad_input(times, reached, options, message):
    with pytest.raises(gi.ConfigError, match=message):
        kaplan_meier(np.array(times, dtype=float), np.array(reached, dtype=bool), **options)


@pytest.mark.parametrize("seed", range(20))
def test_a_resampled_median_is_that_of_repeated_runs(seed):
    times, reached = censored_times(seed)
    weights = np.random.default_rng(seed).multinomial(12, [1 / 12] * 12, size=6)
    medians = resampled_medians(times.astype(float), reached, weights)
    for median, counts in zip(medians, weights, strict=True):
        slow = slow_median(np.repeat(times, counts), np.repeat(reached, counts))
        assert median == slow or (math.isinf(median) and math.isnan(slow))


def test_bootstrap_intervals_match_the_exact_distribution():
    """Three seeds have 27 equally likely resamples: their means can be listed."""
    values = np.array([1.0, 2.0, 6.0])
    means = sorted(np.mean([a, b, c]) for a in values for b in values for c in values)
    # 0.1 and 0.9 of 27 lie inside the third and the twenty-fifth mean, away from any edge.
    estimate = bootstrap_interval(values, "mean", method="percentile", level=0.8)
    assert (estimate.interval.low, estimate.interval.high) == (pytest.approx(means[2]), pytest.approx(means[24]))
    assert (estimate.value, estimate.n) == (3, 3)


def test_bca_matches_efrons_formula():
    """Efron 1987: z0 from the share of resamples below the estimate, the acceleration from the jackknife."""
    values = np.random.default_rng(3).gamma(2, size=12)
    estimate = bootstrap_interval(values, "mean", resamples=40_000, seed=1)
    draws = values[np.random.default_rng(2).integers(0, 12, (40_000, 12))].mean(axis=1)
    z0 = stats.norm.ppf((draws < values.mean()).mean())
    jackknife = np.array([np.delete(values, i).mean() for i in range(12)])
    gap = jackknife.mean() - jackknife
    a = (gap**3).sum() / (6 * (gap**2).sum() ** 1.5)
    z = z0 + np.array([-1.959964, 1.959964])
    ends = np.quantile(draws, stats.norm.cdf(z0 + z / (1 - a * z)))
    assert [estimate.interval.low, estimate.interval.high] == pytest.approx(ends, rel=0.02)
    plain = bootstrap_interval(values, "mean", method="percentile").interval
    assert estimate.interval.high > 1.02 * plain.high


def test_a_bootstrap_is_determined_by_its_seed():
    values = np.random.default_rng(0).lognormal(size=20)
    first, again = (bootstrap_interval(values, "mean", seed=7) for _ in range(2))
    assert first == again
    assert first != bootstrap_interval(values, "mean", seed=8)
    assert first == bootstrap_interval(values, "mean", seed=np.random.default_rng(7))


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(n):
    estimate = bootstrap_interval(MLP[:n])
    assert estimate.value == np.median(MLP[:n])
    assert math.isnan(estimate.interval.low)
    assert f"{n} seed" in estimate.interval.reason


def test_the_method_says_if_bca_is_undefined():
    assert bootstrap_interval(np.array([5.0, 5, 5, 5])).interval.method == "all seeds agree"
    near = bootstrap_interval(np.array([5.0, 5, 5, 5, 9]), "median").interval
    assert "BCa is undefined" in near.method
    assert (near.low, near.high) == (5, 9)


@pytest.mark.parametrize(
    ("values", "statistic", "message"),
    [([], "mean", "no values"), ([math.inf], "mean", "inf is not"), ([0.0], "geometric_mean", "positive"),
     ([1.0], "medain", "did you mean 'median'")],
)  # fmt: skip
def test_bootstrap_interval_refuses_bad_input(values, statistic, message):
    with pytest.raises(gi.ConfigError, match=message):
        bootstrap_interval.__wrapped__(np.array(values), statistic)


def test_the_published_ratio_of_transformer_to_mlp():
    """Manir and Rupa 2026: 50,800 +- 22,565 over 45,600 +- 5,550 (ddof 1), a ratio of 1.11."""
    assert (MLP.mean(), TRANSFORMER.mean()) == (45_600, 50_800)
    assert MLP.std(ddof=1) == pytest.approx(5_550, abs=1)
    assert TRANSFORMER.std(ddof=1) == pytest.approx(22_565, abs=1)
    ratio = ratio_of_arms(TRANSFORMER, MLP, statistic="mean")
    assert ratio.ratio == pytest.approx(1.11, abs=5e-3)
    assert 1.0 in ratio.interval
    assert (ratio.k_a, ratio.n_a, ratio.k_b, ratio.n_b) == (5, 5, 5, 5)
    logs = np.log(TRANSFORMER).mean() - np.log(MLP).mean()
    assert ratio_of_arms(TRANSFORMER, MLP).ratio == pytest.approx(math.exp(logs))
    assert ratio_of_arms(TRANSFORMER, MLP).statistic == "geometric_mean"


def test_the_interval_of_equal_arms_covers_one_at_the_nominal_rate():
    generator, covered = np.random.default_rng(0), 0
    for _ in range(150):
        a, b = generator.lognormal(sigma=0.4, size=(2, 15))
        covered += 1.0 in ratio_of_arms(a, b, resamples=400).interval
    assert 0.88 <= covered / 150 <= 0.985


def test_a_ratio_with_censored_runs_uses_medians():
    a, reached = np.array([10_000, 12_000, 14_000, 60_000, 60_000]), np.array([True, True, True, False, False])
    b = np.array([5_000, 6_000, 7_000, 8_000, 9_000])
    ratio = ratio_of_arms(a, b, reached)
    assert ratio.statistic == "median"
    assert ratio.ratio == pytest.approx(14_000 / 7_000)
    assert (ratio.k_a, ratio.n_a, ratio.k_b, ratio.n_b) == (3, 5, 5, 5)
    assert ratio.interval.low > 1
    assert math.isinf(ratio.interval.high)  # many resamples of arm A have no median
    inverse = ratio_of_arms(b, a, None, reached)
    assert inverse.interval.low == 0
    assert inverse.interval.high < 1
    with pytest.raises(gi.ConfigError, match="geometric_mean would hide 2 runs"):
        ratio_of_arms(a, b, reached, statistic="geometric_mean")


def test_the_ratio_is_nan_if_an_arm_never_reaches_the_event():
    never = ratio_of_arms(np.array([100, 100, 100]), MLP, np.zeros(3, dtype=bool))
    assert math.isnan(never.ratio)
    assert (never.k_a, never.n_a) == (0, 3)
    neither = ratio_of_arms(MLP, MLP, np.zeros(5, dtype=bool), np.array([True, True, False, False, False]))
    assert (neither.interval.low, neither.interval.high) == (0, math.inf)  # most resamples leave the ratio open
    assert math.isinf(never.interval.low)
    assert "2 seeds" in ratio_of_arms(MLP[:2], MLP).interval.reason
    with pytest.raises(gi.ConfigError, match="arm B has a value of 0: a geometric mean needs positive values"):
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


def test_least_squares_matches_the_textbook():
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
def test_the_censored_fit_maximizes_the_likelihood(seed):
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
        profile = optimize.minimize(
            lambda p, end=end: minus_log_likelihood([p[0], end, p[1]]),
            slow[[0, 2]],
            method="Nelder-Mead",
            options=options,
        )
        ratio = 2 * (profile.fun - minus_log_likelihood(slow))
        assert ratio == pytest.approx(16 * math.log(1 + stats.t.ppf(0.975, 14) ** 2 / 14), rel=1e-6)


@pytest.mark.slow
def test_the_censored_fit_is_unbiased_and_leaving_runs_out_is_not():
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
    ("x", "y", "reached", "message"),
    [
        ([0, 1], [1, 1], [1, 1], "x = 0 has no logarithm"),
        ([1, 2], [1, -3], [1, 1], "y = -3 has no logarithm"),
        ([1, 2], [1, math.nan], [1, 1], "y = nan"),
        ([2, 2], [1, 3], [1, 1], "1 distinct x"),
        ([1, 2, 2], [9, 3, 4], [0, 1, 1], "reached the event at 1 distinct x"),
        ([1, 2], [9, 9], [0, 0], "reached the event at 0 distinct x"),
        ([1, 2, 3], [9, 8, 7], [1, 1, 0], "exactly on a line"),
        ([1, 2, 3], [9, 8], [1, 1], "must have one length"),
    ],
)
def test_fit_power_law_refuses_bad_input_in_one_line(x, y, reached, message):
    with pytest.raises(gi.ConfigError, match=message) as error:
        fit_power_law.__wrapped__(np.array(x, float), np.array(y, float), np.array(reached, bool))
    assert "\n" not in str(error.value)


def test_least_squares_over_censored_runs_is_refused_and_a_zero_wait_is_left_out():
    x, y, reached = np.array([1.0, 2, 4, 4]), np.array([9.0, 5, 2, 0]), np.array([True, True, True, False])
    assert fit_power_law(x, y, reached).n == 3  # a run censored at 0 carries no information
    with pytest.raises(gi.ConfigError, match="would leave out 1 censored"):
        fit_power_law(x, np.array([9.0, 5, 2, 2]), reached, method="least squares")


def test_a_bootstrap_of_the_exponent_agrees_with_students_t_if_both_apply():
    x = np.repeat([0.1, 0.3, 1.0, 3.0], 25)
    y = 500 * x**-0.8 * np.random.default_rng(1).lognormal(sigma=0.3, size=100)
    bootstrap, fit = bootstrap_exponent(x, y, seed=1), fit_power_law(x, y).interval
    assert bootstrap.low == pytest.approx(fit.low, abs=0.2 * (fit.high - fit.low))
    assert bootstrap.high == pytest.approx(fit.high, abs=0.2 * (fit.high - fit.low))
    assert bootstrap == bootstrap_exponent(x, y, seed=1)
    reached = y < 2500
    cut, censored = np.minimum(y, 2500), fit_power_law(x, np.minimum(y, 2500), reached)
    interval = bootstrap_exponent(x, cut, reached, resamples=150)
    assert censored.n_censored > 10
    assert interval.low < censored.exponent < interval.high
    assert interval.high - interval.low == pytest.approx(censored.interval.high - censored.interval.low, rel=0.35)


def test_a_bootstrap_resamples_seeds_within_their_setting():
    """Seeds that agree in every setting leave nothing to resample, however badly the settings fit a line."""
    interval = bootstrap_exponent(np.repeat([1.0, 2, 4], 3), np.repeat([9.0, 8, 1], 3))
    assert interval.high - interval.low < 1e-9
    few = bootstrap_exponent(np.array([1.0, 2, 2, 2]), np.array([9.0, 8, 7, 6]))
    assert "1 of 2 settings have fewer than 3 seeds" in few.reason
    rare = np.array([True, True, True, True, False, False])
    lost = bootstrap_exponent(np.repeat([1.0, 2], 3), np.array([5.0, 6, 7, 3, 9, 9]), rare, resamples=60)
    assert "have no fit" in lost.reason
