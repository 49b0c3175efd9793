"""Exact ridge regression against step-by-step gradient descent, and its times against a search of every step."""

import math

import pytest
import torch

from grokinterp.errors import ConfigError
from grokinterp.theory import (
    ExponentialSum,
    LinearTeacher,
    RidgeProblem,
    RidgeSolution,
    gaussian_problem,
    grokking_times,
    solve,
)


def descend(solution: RidgeSolution, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Textbook gradient descent: the weights, the train loss and the population loss at steps 0, 1, …"""
    problem, n = solution.problem, solution.problem.n
    teacher, scale = problem.population.teacher, problem.population.covariance
    theta = problem.start.clone()
    weights, train, population = [], [], []
    for _ in range(steps + 1):
        residual = problem.features @ theta - problem.targets
        weights.append(theta)
        train.append((residual**2).sum() / (2 * n))
        off = theta - teacher
        population.append(off @ scale @ off if isinstance(scale, torch.Tensor) else scale * (off**2).sum())
        theta = theta - solution.lr * (problem.features.T @ residual / n + solution.weight_decay * theta)
    return torch.stack(weights), torch.stack(train), torch.stack(population)


def limit_lr(problem: RidgeProblem, weight_decay: float) -> float:
    """Where the largest eigenvalue of the objective's Hessian, computed without an SVD, makes training diverge."""
    hessian = problem.features.T @ problem.features / problem.n + weight_decay * torch.eye(problem.m).double()
    return 2 / torch.linalg.eigvalsh(hessian)[-1].item()


SETTINGS = [
    # n, m, teacher norm, λ, share of the largest stable η
    (20, 60, 1.0, 1e-2, 0.05),
    (20, 60, 0.0, 1e-2, 0.3),
    (20, 60, 1.0, 1e-3, 0.45),
    (20, 60, 3.0, 1e-2, 0.9),
    (20, 60, 0.0, 1e-1, 0.99),
    (60, 20, 1.0, 1e-2, 0.2),
    (60, 20, 2.0, 1e-3, 0.95),
    (60, 20, 0.0, 1e-2, 0.6),
    (1, 5, 1.0, 1e-2, 0.4),
    (30, 30, 1.0, 1e-2, 0.4),
]


@pytest.mark.parametrize(("n", "m", "norm", "decay", "share"), SETTINGS)
def test_the_closed_form_is_gradient_descent(n, m, norm, decay, share):
    problem = gaussian_problem(n, m, teacher_norm=norm, seed=3)
    solution = solve(problem, decay, share * limit_lr(problem, decay))
    weights, train, population = descend(solution, 2000)
    steps = list(range(2001))
    assert torch.allclose(solution.weights(steps), weights, rtol=0, atol=1e-8)
    assert torch.allclose(solution.train_losses(steps), train, rtol=1e-8, atol=1e-12)
    assert torch.allclose(solution.population_losses(steps), population, rtol=1e-8, atol=1e-12)
    assert torch.allclose(solution.weight_norms(steps), weights.norm(dim=1), rtol=1e-8, atol=1e-12)
    assert solution.update_error([0, 1, 50, 1999]) < 1e-12


def test_correlated_features_and_repeated_examples():
    """A covariance that is not isotropic, and a training set of rank 8 in 12 examples."""
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(15, 15, generator=generator, dtype=torch.float64) / 4
    rows = torch.randn(8, 15, generator=generator, dtype=torch.float64) @ mix
    features = torch.cat([rows, rows[:4]])
    teacher = torch.randn(15, generator=generator, dtype=torch.float64)
    start = torch.randn(15, generator=generator, dtype=torch.float64)
    problem = RidgeProblem(features, features @ teacher, start, LinearTeacher(teacher, mix.T @ mix), 1.0)
    assert len(problem.spectrum.singular) == 8
    solution = solve(problem, 0.02, 0.3)
    weights, train, population = descend(solution, 500)
    steps = list(range(501))
    assert torch.allclose(solution.weights(steps), weights, rtol=0, atol=1e-8)
    assert torch.allclose(solution.train_losses(steps), train, rtol=1e-8, atol=1e-12)
    assert torch.allclose(solution.population_losses(steps), population, rtol=1e-8, atol=1e-12)


def test_targets_that_no_weights_fit():
    base = gaussian_problem(30, 10, seed=1)
    noise = torch.randn(30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    problem = RidgeProblem(base.features, base.targets + noise, base.start, base.population, 1.0)
    solution = solve(problem, 1e-2, 0.5)
    _, train, _ = descend(solution, 300)
    assert torch.allclose(solution.train_losses(list(range(301))), train, rtol=1e-10)


def test_the_minimizer_solves_the_normal_equations():
    problem = gaussian_problem(25, 70, seed=4)
    hessian = problem.features.T @ problem.features / 25 + 0.03 * torch.eye(70).double()
    expected = torch.linalg.solve(hessian, problem.features.T @ problem.targets / 25)
    solution = solve(problem, 0.03, 1.0)
    assert torch.allclose(solution.minimizer, expected, atol=1e-12)
    assert torch.allclose(solution.weights([10_000])[0], expected, atol=1e-12)


def test_update_error_detects_a_wrong_trajectory(monkeypatch):
    solution = solve(gaussian_problem(20, 60), 1e-2, 1.0)
    right = solution.weights
    monkeypatch.setattr(RidgeSolution, "weights", lambda self, steps: right([step + step // 7 for step in steps]))
    assert solution.update_error([3, 6, 20]) > 1e-4


def by_every_step(solution: RidgeSolution, last: int, eps: float, c: float) -> tuple[int | None, int | None]:
    steps = list(range(last + 1))
    train, population = solution.train_losses(steps).tolist(), solution.population_losses(steps).tolist()
    above = [step for step in steps if train[step] >= eps]
    below = [step for step in steps if population[step] <= c]
    return (above[-1] if above else None), (below[0] if below else None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
@pytest.mark.parametrize(("norm", "decay"), [(0.0, 1e-2), (1.0, 1e-2), (4.0, 3e-2), (30.0, 1e-2)])
def test_times_agree_with_a_search_of_every_step(norm, decay, share, seed):
    problem = gaussian_problem(15, 60, teacher_norm=norm, seed=seed)
    solution = solve(problem, decay, share * limit_lr(problem, decay))
    train, population = solution.train_loss.limit, solution.population_loss.limit
    for eps, c in (
        (0.01, 0.01),
        (0.002 + train, 0.05 + population),
        (1.0001 * train + 1e-6, 1.0001 * population + 1e-6),
    ):
        times = grokking_times(solution, eps=eps, c=c)
        expected = by_every_step(solution, 30_000, eps, c)
        if train < eps:
            assert times.t1 == expected[0]
        else:
            assert times.t1 is None
            assert "not below" in times.overfit.reason
        assert times.t2 == expected[1]


def test_a_loss_that_dips_and_returns():
    """The start is past the teacher, from the far side: modes pass through zero, losses fall, rise, and level off."""
    base = gaussian_problem(15, 20, teacher_norm=3.0, seed=0)
    problem = RidgeProblem(base.features, base.targets, 3 * base.population.teacher, base.population, 1.0)
    solution = solve(problem, 0.05, 1.0)
    steps = list(range(5000))
    train, population = solution.train_losses(steps), solution.population_losses(steps)
    lowest = int(population.argmin())
    assert 5 < lowest < 4000
    assert population[lowest] < 0.8 * solution.population_loss.limit  # it is lower on the way than in the end
    c = (population[lowest].item() + solution.population_loss.limit) / 2
    step = solution.population_loss.first_at_most(c)
    assert step == by_every_step(solution, 5000, 1.0, c)[1]
    assert 0 < step <= lowest
    bottom = int(train.argmin())
    assert train[bottom] < 0.9 * train[-1]
    eps = train[-1].item() * 1.0005
    assert solution.train_loss.last_at_least(eps) == by_every_step(solution, 5000, eps, 1.0)[0]


def test_a_loss_that_rises_above_the_threshold_again():
    """f(t) = (0.9^t - 0.99^t)² + 0.1·0.9^(2t) starts below the threshold, rises above it, and falls: t1 is the last."""
    f = ExponentialSum(
        torch.tensor([0.9, 0.99, 1.0], dtype=torch.float64),
        torch.tensor([[1.1, -1, 0], [-1, 1, 0], [0, 0, 0]], dtype=torch.float64),
    )
    values = [(0.9**t - 0.99**t) ** 2 + 0.1 * 0.9 ** (2 * t) for t in range(600)]
    assert torch.allclose(f.at(torch.arange(600, dtype=torch.float64)), torch.tensor(values).double(), atol=1e-14)
    assert f.last_at_least(0.3) == max(t for t in range(600) if values[t] >= 0.3)
    assert values[0] < 0.3
    assert f.first_at_most(0.05) == min(t for t in range(600) if values[t] <= 0.05)
    assert f.last_at_least(1.0) is None


def test_a_dip_and_a_peak_of_four_hundred_steps_in_a_million():
    """(x - 1/2)² and x - x² with x = 0.999999^t: within 1e-8 of 0 and of 1/4 while |x - 1/2| <= 1e-4, nowhere else."""
    rates = torch.tensor([0.999999, 1.0], dtype=torch.float64)
    dip = ExponentialSum(rates, torch.tensor([[1.0, -0.5], [-0.5, 0.25]], dtype=torch.float64))
    assert dip.first_at_most(1e-8) == math.ceil(math.log(0.5001) / math.log(0.999999))
    peak = ExponentialSum(rates, torch.tensor([[-1.0, 0.5], [0.5, 0.0]], dtype=torch.float64))
    assert peak.last_at_least(0.25 - 1e-8) == math.floor(math.log(0.4999) / math.log(0.999999))
    assert dip.first_at_most(-1e-6) is None
    assert peak.last_at_least(0.25 + 1e-6) is None


def test_overshooting_steps_are_searched_on_both_parities():
    """With a rate of -0.98 beside 0.99, even steps lie above odd ones."""
    rates = torch.tensor([-0.98, 0.99, 1.0], dtype=torch.float64)
    gram = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 0.02]], dtype=torch.float64)
    f = ExponentialSum(rates, gram)
    values = [0.98 ** (2 * t) + 1.2 * (-1) ** t * (0.98 * 0.99) ** t + 0.99 ** (2 * t) + 0.02 for t in range(3000)]
    assert f.first_at_most(0.5) == min(t for t in range(3000) if values[t] <= 0.5)
    assert f.last_at_least(0.5) == max(t for t in range(3000) if values[t] >= 0.5)
    assert f.first_at_most(0.5) % 2 == 1
    assert f.last_at_least(0.5) % 2 == 0
    assert f.first_at_most(0.5) < f.last_at_least(0.5) - 10


def test_missing_times_have_a_reason():
    times = grokking_times(solve(gaussian_problem(20, 60, teacher_norm=5.0), 1e-2, 1.0), c=0.001)
    assert times.t2 is None
    assert "above c = 0.001 at every step" in times.generalize.reason
    assert times.delay is None
    assert times.limit < times.halfway.threshold < times.plateau
    assert times.halfway.step is not None
    early = grokking_times(solve(gaussian_problem(20, 60), 1e-2, 1.0), eps=100.0)
    assert early.t1 is None
    assert "from the start" in early.overfit.reason
    with pytest.raises(ArithmeticError, match="is not below"):
        solve(gaussian_problem(20, 60, teacher_norm=5.0), 1.0, 0.1).train_loss.last_at_least(1e-4)


def test_halfway_is_halfway():
    solution = solve(gaussian_problem(20, 60, teacher_norm=3.0), 1e-2, 1.0)
    times = grokking_times(solution)
    fitted = times.t1 + 1
    assert times.plateau == pytest.approx(descend(solution, fitted)[2][-1].item())
    assert times.halfway.step == by_every_step(solution, 3000, 1.0, (times.plateau + times.limit) / 2)[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e9}, "diverges on these features: it must be below"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must be positive"),
        ({"weight_decay": 1e-18}, "lost in rounding"),
        ({"lr": math.nan}, "lr must be positive and finite"),
    ],
)
def test_unsolvable_settings_are_rejected(change, message):
    with pytest.raises(ConfigError, match=message):
        solve(gaussian_problem(5, 20), **change)


def test_invalid_problems_are_rejected():
    good = gaussian_problem(5, 20)
    with pytest.raises(ConfigError, match="float64"):
        RidgeProblem(good.features.float(), good.targets, good.start, good.population, 1.0)
    with pytest.raises(ConfigError, match="not all zero"):
        RidgeProblem(0 * good.features, good.targets, good.start, good.population, 1.0)
    with pytest.raises(ConfigError, match="teacher_norm must be at least 0"):
        gaussian_problem(5, 20, teacher_norm=-1.0)
    with pytest.raises(ConfigError, match="n must be positive"):
        gaussian_problem(0, 20)
    with pytest.raises(ConfigError, match="steps count updates from 0"):
        solve(good).weights([-1])
    with pytest.raises(ConfigError, match="eps must be positive"):
        grokking_times(solve(good), eps=0.0)


def test_the_largest_step_size_is_the_one_that_converges():
    problem = gaussian_problem(20, 60)
    limit = limit_lr(problem, 1e-2)
    assert solve(problem, 1e-2, limit * (1 - 1e-9)).train_losses([1])[0].isfinite()
    with pytest.raises(ConfigError, match="diverges"):
        solve(problem, 1e-2, limit * (1 + 1e-9))


def test_draws_are_seeded_and_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    first, same, other = (gaussian_problem(10, 30, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.features, same.features)
    assert not torch.equal(first.features, other.features)
    louder = gaussian_problem(10, 30, init_variance=4.0, seed=1)
    assert torch.equal(louder.start, 2 * first.start)
    assert torch.equal(louder.features, first.features)
    assert first.population.teacher.norm().item() == pytest.approx(1.0)
    large = gaussian_problem(400, 500, init_variance=4.0)
    assert large.features.square().mean().item() == pytest.approx(1 / 500, rel=0.02)
    assert large.start.square().mean().item() == pytest.approx(4.0, rel=0.25)
