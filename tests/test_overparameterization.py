"""Ridge regression from fewer to more features than training examples: expected times, claims, and the figure."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad

from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.overparameterization import decide_overparameterization
from grokinterp.figures import ridge
from grokinterp.theory import RidgeSetting, expected_times, gaussian_problem, solve

N, DECAY, C = 100, 1e-4, 0.01
SIZES = (25, 50, 75, 100, 200, 4000)


@pytest.mark.parametrize(("n", "m"), [(30, 10), (30, 30), (30, 60)])
def test_the_slowest_rate_is_that_of_the_smallest_of_all_eigenvalues(n, m):
    problem = gaussian_problem(n, m, seed=5)
    smallest = torch.linalg.eigvalsh(problem.features.T @ problem.features / n)[0].item()
    assert solve(problem, 1e-3, 0.5).slowest_rate == pytest.approx(0.5 * (1e-3 + smallest), abs=1e-15)


def expected_losses(setting: RidgeSetting, step: int) -> tuple[float, float]:
    """Train and population loss at a step by adaptive quadrature of the Marchenko-Pastur density."""
    ratio = setting.m / setting.n
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    teacher = setting.teacher_norm**2 / setting.m

    def square(x: float) -> float:
        """E[(θ_k - θ*_k)²] in a direction with eigenvalue x."""
        rate = (1 - setting.lr * (x + setting.weight_decay)) ** step
        limit = x / (x + setting.weight_decay)
        return setting.init_variance * rate**2 + teacher * (limit - 1 - rate * limit) ** 2

    def density(x: float) -> float:
        return math.sqrt((x - low) * (high - x)) / (2 * math.pi * ratio * x)

    options = {"limit": 500, "points": [low + (high - low) * share for share in (1e-4, 1e-3, 1e-2, 0.1)]}
    population = quad(lambda x: density(x) * square(x / setting.m), low, high, **options)[0]
    train = quad(lambda x: density(x) * x / 2 * square(x / setting.m), low, high, **options)[0]
    return train, population + max(0.0, 1 - 1 / ratio) * square(0.0)


@pytest.mark.parametrize(
    "setting",
    [
        RidgeSetting(m=50),
        RidgeSetting(m=90, lr=0.5),
        RidgeSetting(m=200, init_variance=4.0),
        RidgeSetting(m=1000, weight_decay=1e-3, teacher_norm=0.5),
    ],
)
def test_the_expected_losses_cross_their_thresholds_at_the_expected_times(setting):
    times = expected_times(setting)
    t1, t2 = int(times.t1), int(times.t2)
    assert expected_losses(setting, t1)[0] >= C > expected_losses(setting, t1 + 1)[0]
    assert expected_losses(setting, t2 - 1)[1] > C >= expected_losses(setting, t2)[1]
    assert times.delay == t2 - t1


@pytest.mark.parametrize(("n", "m"), [(400, 200), (400, 800)])
def test_large_problems_have_the_expected_losses(n, m):
    times = expected_times(RidgeSetting(n=n, m=m))
    solutions = [solve(gaussian_problem(n, m, seed=seed), DECAY) for seed in range(6)]
    train = np.mean([solution.train_losses([int(times.t1)])[0].item() for solution in solutions])
    population = np.mean([solution.population_losses([int(times.t2)])[0].item() for solution in solutions])
    assert train == pytest.approx(C, rel=0.12)
    assert population == pytest.approx(C, rel=0.12)
    assert np.mean([solution.slowest_rate for solution in solutions]) == pytest.approx(times.slowest_rate, rel=0.12)


def test_times_that_do_not_exist():
    assert math.isnan(expected_times(RidgeSetting(m=200, teacher_norm=5.0)).t2)
    strong = expected_times(RidgeSetting(m=200, weight_decay=1.0, teacher_norm=5.0))
    assert math.isnan(strong.t1)
    assert math.isnan(strong.delay)
    with pytest.raises(ConfigError, match="lr 200 diverges"):
        expected_times(RidgeSetting(lr=200.0))


def table(seeds=range(3), sizes=SIZES, **changes) -> pd.DataFrame:
    """Hand-made runs: a fifth of ln(100) / (2 g) for m < n, and the formula of weight decay alone for m > n.

    `changes` maps a column, and m as its suffix, to a factor on its values, such as `delay_50=2`.
    """
    rows = []
    for m in sizes:
        rate = DECAY + (max(0.0, 1 - math.sqrt(m / N)) ** 2 / m)
        unseen = max(0.0, 1 - N / m)
        if unseen:
            t2 = math.log(unseen / (C - unseen / m)) / (2 * DECAY)
        else:
            t2 = 7800 if m == N else math.log(100) / (2 * rate) / 5
        rows += [
            {"m": m, "seed": seed, "slowest_rate": rate, "t2": t2 * (1 + 0.01 * seed), "delay": t2 * (1 + 0.01 * seed)}
            for seed in seeds
        ]
    result = pd.DataFrame(rows).assign(n=N, weight_decay=DECAY, lr=1.0, init_variance=1.0, teacher_norm=1.0)
    for name, factor in changes.items():
        column, m = name.rsplit("_", 1)
        result.loc[result["m"] == int(m), column] *= factor
    return result


def verdicts(runs: pd.DataFrame) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in decide_overparameterization(runs)}


def test_every_claim_holds_on_the_hand_made_runs():
    assert set(verdicts(table()).values()) == {"supported"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("m below and above n", {"delay_50": 9.0}),  # 9 times 279 steps is more than a tenth of the delay at 2 n
        ("m below and above n", {"delay_100": 3.0}),
        ("m below and above n", {"delay_100": 0.03}),
        ("m below and above n", {"delay_4000": 1.5}),
        ("m below and above n", {"delay_4000": math.nan}),
        ("spectral gap", {"delay_25": 3.0}),
        ("spectral gap", {"slowest_rate_25": 3.0}),
        ("weight decay alone", {"t2_200": 1.16}),
        ("weight decay alone", {"t2_4000": 0.83}),
        ("weight decay alone", {"t2_4000": math.nan}),
        ("random matrices", {"delay_75": 2.0}),
        ("random matrices", {"delay_100": 0.6}),
    ],
)
def test_each_claim_can_fail(name, changes):
    assert verdicts(table(**changes))[name] == "not supported"


def test_one_seed_is_enough_to_refute():
    runs = table()
    one = (runs["m"] == 25) & (runs["seed"] == 1)
    runs.loc[one, "delay"] *= 3.0
    assert verdicts(runs)["spectral gap"] == "not supported"
    assert verdicts(runs)["random matrices"] == "supported"  # it is about medians


@pytest.mark.parametrize(
    ("runs", "undecided"),
    [
        (table(seeds=range(2)), {"m below and above n", "spectral gap", "weight decay alone", "random matrices"}),
        (table(sizes=(25, 50, 75)), {"m below and above n", "weight decay alone"}),
        (table(sizes=(25, 50, 100, 200)), {"m below and above n", "spectral gap"}),
        (table(sizes=(200, 4000)), {"m below and above n", "spectral gap"}),
        (table(delay_50=math.nan), {"spectral gap"}),
        (table().iloc[:0], {"m below and above n", "spectral gap", "weight decay alone", "random matrices"}),
    ],
)
def test_too_few_runs_decide_nothing(runs, undecided):
    assert {name for name, verdict in verdicts(runs).items() if verdict == "inconclusive"} == undecided


def test_the_figure_shows_every_seed_the_median_and_the_expected_delay():
    runs = table()
    figure = ridge.overparameterization(runs)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.name for trace in points] == ["m < n", "m ≥ n"] * 2
    below = runs[runs["m"] < N]
    assert list(points[0].x) == list(below["m"] / N)
    assert list(points[0].y) == list(points[2].y) == list(below["delay"])
    assert list(points[2].x) == list(below["slowest_rate"])
    median = next(trace for trace in figure.data if trace.name == "median of the seeds")
    assert np.array_equal(median.y, runs.groupby("m")["delay"].median())
    expected = [trace for trace in figure.data if trace.name == "expected for large n and m"]
    assert expected[0].x[-1] == 40
    assert expected[0].y[-1] == expected[1].y[-1] == expected_times(RidgeSetting(m=4000)).delay
    limit = next(trace for trace in figure.data if trace.name == "ln(ν²/c) / (2 g)")
    assert limit.y[-1] == pytest.approx(math.log(100) / 2e-4)
    assert sum(trace.showlegend is not False for trace in figure.data) == 5
    assert figure.layout.yaxis.type == figure.layout.xaxis2.type == "log"


def test_the_figure_notes_missing_delays_and_refuses_other_tables():
    missing = ridge.overparameterization(table(delay_4000=math.nan))
    assert missing.layout.meta["notes"] == ["3 delays do not exist and are not drawn; the table gives the reasons"]
    with pytest.raises(ConfigError, match="no rows"):
        ridge.overparameterization(table().iloc[:0])
    with pytest.raises(ConfigError, match="the table varies n,"):
        ridge.overparameterization(pd.concat([table(), table().assign(n=50)]))
