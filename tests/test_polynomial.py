"""Polynomial regression: updates by autograd on every weight, the kernel by Jacobians, the population by samples."""

import pytest
import torch

from grokinterp.errors import ConfigError
from grokinterp.theory import polynomial_problem, train_polynomial

SCALE, CURVATURE = 0.7, 0.3


def network(weights: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """(α/m) Σ_i φ(w_i·x), as in the paper."""
    h = inputs @ weights.T
    return SCALE * (h + CURVATURE / 2 * h**2).mean(dim=1)


def plain_loop(problem, steps: int):
    """Gradient descent on the weights themselves: the weights and both losses at every step."""
    weights = problem.weights.clone().requires_grad_()
    start, lr = problem.weights, len(problem.weights) / SCALE**2
    trajectory = []
    for _ in range(steps + 1):
        train, test = (
            (network(weights, x) - network(start, x) - (x @ problem.teacher) ** 2 / 2).square().mean()
            for x in (problem.train_inputs, problem.test_inputs)
        )
        trajectory.append((weights.detach(), train.item(), test.item()))
        (gradient,) = torch.autograd.grad(train, weights)
        weights = (weights - lr * gradient).detach().requires_grad_()
    return trajectory


@pytest.fixture(scope="module")
def problem():
    return polynomial_problem(d=7, n_train=20, width=11, n_test=13, seed=3)


def test_mean_and_second_moment_are_those_of_the_weights(problem):
    loop = plain_loop(problem, 60)
    run = train_polynomial(problem, SCALE, CURVATURE, max_steps=60, look_every=1)
    weights, *_ = loop[-1]
    assert run.steps == tuple(range(61))
    assert run.train_loss.tolist() == pytest.approx([train for _, train, _ in loop], rel=1e-10)
    assert run.test_loss.tolist() == pytest.approx([test for *_, test in loop], rel=1e-10)
    assert run.weight_norm.tolist() == pytest.approx([each.norm().item() for each, *_ in loop], rel=1e-10)
    assert torch.allclose(run.mean, weights.mean(dim=0), rtol=1e-10, atol=1e-12)
    assert torch.allclose(run.second_moment, weights.T @ weights / 11, rtol=1e-10, atol=1e-12)
    assert run.train_loss[-1] < 0.7 * run.train_loss[0]  # the weights moved
    along = (weights @ problem.teacher).square().sum() / problem.teacher.square().sum() / weights.square().sum()
    assert run.teacher_share[-1].item() == pytest.approx(along.item(), rel=1e-10)


def test_the_kernel_is_that_of_the_gradients(problem):
    weights, *_ = plain_loop(problem, 40)[-1]
    run = train_polynomial(problem, SCALE, CURVATURE, max_steps=40, look_every=40)
    x = problem.test_inputs
    jacobian = torch.autograd.functional.jacobian(lambda w: network(w, x), weights).flatten(1)
    kernel, y = jacobian @ jacobian.T, (x @ problem.teacher) ** 2 / 2
    assert run.alignment[-1].item() == pytest.approx((y @ kernel @ y / (kernel.norm() * y @ y)).item(), rel=1e-10)


def test_the_population_loss_is_that_of_fresh_inputs(problem):
    weights, *_ = plain_loop(problem, 40)[-1]
    run = train_polynomial(problem, SCALE, CURVATURE, max_steps=40, look_every=40)
    x = torch.randn(400_000, 7, generator=torch.Generator().manual_seed(8), dtype=torch.float64) / 7**0.5
    errors = network(weights, x) - network(problem.weights, x) - (x @ problem.teacher) ** 2 / 2
    assert run.population_loss[-1].item() == pytest.approx(errors.square().mean().item(), rel=0.01)


def test_when_the_losses_fall(problem):
    """The first evaluated step at or below the fraction; none, with a reason, if there is no such step."""
    run = train_polynomial(problem, SCALE, CURVATURE, max_steps=60, look_every=1, share=0.6)
    below = [step for step, loss in zip(run.steps, run.train_loss, strict=True) if loss <= 0.6 * run.train_loss[0]]
    assert run.train_falls.step == below[0] > 0
    stopped = train_polynomial(problem, SCALE, CURVATURE, max_steps=25, look_every=10, share=1e-3)
    assert stopped.steps == (0, 10, 20, 25)
    assert stopped.test_falls.step is None
    assert stopped.delay is None
    assert "at step 25" in stopped.test_falls.reason


def test_training_stops_when_the_test_loss_has_fallen():
    """With more data than unknowns there is almost no delay."""
    problem = polynomial_problem(d=5, n_train=80, width=20, n_test=50, seed=1)
    run = train_polynomial(problem, curvature=0.5, max_steps=5000, look_every=10, until=0.3)
    assert run.test_loss[-1] <= 0.3 * run.test_loss[0] < run.test_loss[-2]
    assert run.steps[-1] < 5000
    assert run.delay is not None
    assert run.delay == run.test_falls.step - run.train_falls.step


def test_the_published_setting_first_gets_worse_on_unseen_inputs():
    """α = 1, ε = 0.02, D = 100, P = 550, N = 500. An independent loop peaked at step 600, at 1.27 times the start."""
    run = train_polynomial(polynomial_problem(seed=1), max_steps=900, look_every=50)
    assert 450 <= run.steps[int(run.test_loss.argmax())] <= 750
    assert 1.15 <= run.test_loss.max() / run.test_loss[0] <= 1.4
    assert (run.train_loss.diff() < 0).all()
    assert run.weight_norm[0].item() == pytest.approx((500 * 100) ** 0.5, rel=0.02)
    assert run.weight_norm[-1] > 1.05 * run.weight_norm[0]
    assert run.alignment[0] < 0.03  # at random, and badly aligned


def test_problems_share_their_draws():
    a, b = (polynomial_problem(d=4, n_train=6, width=width, n_test=3, seed=5) for width in (2, 9))
    assert torch.equal(a.teacher, b.teacher)
    assert torch.equal(a.train_inputs, b.train_inputs)
    assert a.weights.shape == (2, 4)
    assert a.targets(a.train_inputs)[0].item() == pytest.approx((a.train_inputs[0] @ a.teacher).item() ** 2 / 2)


def test_invalid_arguments_are_rejected(problem):
    with pytest.raises(ConfigError, match="scale must be positive"):
        train_polynomial(problem, 0.0)
    with pytest.raises(ConfigError, match="width must be positive"):
        polynomial_problem(width=0)
    for until in (-0.1, 1.0, float("nan")):
        with pytest.raises(
            ConfigError, match=r"until, a fraction of the first test loss, must lie in \[0, 1\), but is"
        ):
            train_polynomial(problem, max_steps=1, until=until)
    with pytest.raises(ConfigError, match="diverges by step"):
        train_polynomial(problem, 1e-3, 50.0, max_steps=2000)
