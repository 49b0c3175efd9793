"""Ridge regression by gradient descent with weight decay, solved exactly at every step.

Xu, Vardi, and Safran 2026, *To Grok Grokking: Provable Grokking in Ridge Regression* (arXiv:2601.19791), prove that
this model groks: it fits its training set early, still generalizes badly long after, and generalizes in the end. In the
basis of the right singular vectors of the features, each coordinate of the weights moves independently and
geometrically, so the state after a million steps follows without taking any step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.exponentials import ExponentialSum
from grokinterp.theory.population import LinearTeacher, Population


@dataclass(frozen=True)
class Spectrum:
    """The singular value decomposition of Φ, without zero singular values.

    >>> spectrum = solve(gaussian_problem(n=20, m=50), weight_decay=1e-3).problem.spectrum
    >>> spectrum.singular.shape
    torch.Size([20])

    Attributes:
        left: `[n, r]`, left singular vectors.
        singular: `[r]`, singular values in descending order; μ = singular² are the positive eigenvalues of ΦᵀΦ.
        right: `[m, r]`, right singular vectors.
    """

    left: Float[Tensor, "n r"]
    singular: Float[Tensor, " r"]
    right: Float[Tensor, "m r"]

    @property
    def largest(self) -> float:
        """λ_max(ΦᵀΦ)."""
        return self.singular[0].item() ** 2

    @property
    def smallest(self) -> float:
        """λ⁺_min(ΦᵀΦ), the smallest positive eigenvalue."""
        return self.singular[-1].item() ** 2


@dataclass(frozen=True)
class RidgeProblem:
    """A training set, initial weights, and the distribution of fresh inputs and targets, all in float64.

    >>> gaussian_problem(n=20, m=50).features.shape
    torch.Size([20, 50])

    Attributes:
        features: Φ, `[n, m]`; row i is φ(x_i).
        targets: y, `[n]`.
        start: θ(0), `[m]`.
        population: the distribution of fresh inputs and targets.
        init_variance: ν², the variance of the entries of θ(0).

    Raises:
        ConfigError: a tensor is not float64, or the features are not finite or all zero.
    """

    features: Float[Tensor, "n m"]
    targets: Float[Tensor, " n"]
    start: Float[Tensor, " m"]
    population: Population
    init_variance: float

    def __post_init__(self):
        if {t.dtype for t in (self.features, self.targets, self.start)} != {torch.float64}:
            raise ConfigError("features, targets and start must be float64: convert them with .double()")
        if not bool(self.features.isfinite().all()) or not bool(self.features.any()):
            raise ConfigError("features must be finite, and not all zero")

    @property
    def n(self) -> int:
        """Number of training examples."""
        return len(self.features)

    @property
    def m(self) -> int:
        """Number of features, which is the number of weights."""
        return self.features.shape[1]

    @cached_property
    def spectrum(self) -> Spectrum:
        """The singular value decomposition of the features, computed once."""
        left, singular, right = torch.linalg.svd(self.features, full_matrices=False)
        positive = singular > singular[0] * max(self.n, self.m) * torch.finfo(torch.float64).eps
        return Spectrum(left[:, positive], singular[positive], right[positive].T.contiguous())

    @cached_property
    def unseen(self) -> Float[Tensor, " m"]:
        """`[m]`, the part of θ(0) orthogonal to all training examples, on which only weight decay acts."""
        right = self.spectrum.right
        return self.start - right @ (right.T @ self.start)

    @cached_property
    def moments(self) -> Float[Tensor, "k k"]:
        """Second moments of the functions <v_k, φ> and <unseen, φ>, and of the target (see `Population.moments`)."""
        return self.population.moments(torch.cat([self.spectrum.right, self.unseen[:, None]], dim=1))


def gaussian_problem(
    n: int = 100, m: int = 1000, *, init_variance: float = 1.0, teacher_norm: float = 1.0, seed: int = 0
) -> RidgeProblem:
    """Gaussian features φ ~ N(0, I_m / m) and linear targets <θ*, φ>.

    >>> problem = gaussian_problem(n=20, m=50)
    >>> solve(problem, weight_decay=1e-3).problem is problem
    True

    Settings that differ only in `init_variance` or `teacher_norm` share their random draws.

    Args:
        n: number of training examples.
        m: number of features.
        init_variance: ν², with θ(0) ~ N(0, ν² I_m).
        teacher_norm: ‖θ*‖; 0 gives the zero teacher of Theorem 4.1.
        seed: seed of all random draws.

    Returns:
        The problem in float64, for `solve`.

    Raises:
        ConfigError: a size is below 1, the variance is not positive, or the norm is negative.

    Source:
        The setting of Figure 2 of Xu et al. 2026.
    """
    require(n=n, m=m, init_variance=init_variance)
    if not 0 <= teacher_norm < math.inf:
        raise ConfigError(f"teacher_norm must be at least 0 and finite, but is {teacher_norm}")
    features, direction, start = standard_normal(seed, (n, m), (m,), (m,))
    features, start = features / math.sqrt(m), math.sqrt(init_variance) * start
    teacher = teacher_norm * direction / direction.norm()
    return RidgeProblem(features, features @ teacher, start, LinearTeacher(teacher, 1 / m), init_variance)


@dataclass(frozen=True)
class RidgeSolution:
    """The exact trajectory of gradient descent on (1/2n) ‖Φθ - y‖² + (λ/2) ‖θ‖² (Equation 1 of Xu et al. 2026).

    >>> solution = solve(gaussian_problem(n=20, m=50), weight_decay=1e-3)
    >>> solution.weight_decay, solution.lr
    (0.001, 1.0)

    With v_k the right singular vectors of Φ and μ_k the eigenvalues of ΦᵀΦ,
    <v_k, θ(t)> = limit_k + rate_k^t (start_k - limit_k) with rate_k = 1 - η (μ_k/n + λ). The part of θ orthogonal to
    all v_k shrinks by the factor 1 - η λ per step.

    Attributes:
        problem: the problem.
        weight_decay: λ.
        lr: η.
    """

    problem: RidgeProblem
    weight_decay: float
    lr: float

    @cached_property
    def rates(self) -> Float[Tensor, " r"]:
        """`[r]`, rate_k, the factor per step of each coordinate's distance from its limit, in (-1, 1)."""
        return 1 - self.lr * (self._curvature + self.weight_decay)

    @property
    def unseen_rate(self) -> float:
        """1 - η λ, the factor per step of the part of the weights that no training example sees."""
        return 1 - self.lr * self.weight_decay

    @property
    def slowest_rate(self) -> float:
        """η (λ + λ_min(ΦᵀΦ)/n), the rate at which the slowest direction of the weights approaches its limit.

        λ_min is the smallest of all m eigenvalues. It is 0 if there are more features than training examples, because
        then no example sees some of the directions; these decay at the rate η λ.
        """
        seen_all = len(self.rates) == self.problem.m
        return self.lr * (self.weight_decay + (self._curvature[-1].item() if seen_all else 0.0))

    @property
    def minimizer(self) -> Float[Tensor, " m"]:
        """`[m]`, θ*_λ, the minimizer of the objective, to which training converges."""
        return self.problem.spectrum.right @ self._limits

    @cached_property
    def train_loss(self) -> ExponentialSum:
        """L_n = (1/2n) ‖Φθ(t) - y‖², without the penalty, as a function of the step."""
        spectrum, targets = self.problem.spectrum, self.problem.targets
        projections = spectrum.left.T @ targets
        residual = targets - spectrum.left @ projections  # no weights fit this part
        transient = spectrum.singular * self._distances
        constant = -projections * self.weight_decay / (self._curvature + self.weight_decay)
        gram = torch.diag(torch.cat([transient.square(), (constant.square().sum() + residual.square().sum())[None]]))
        gram[:-1, -1] = gram[-1, :-1] = transient * constant
        return ExponentialSum(torch.cat([self.rates, _one()]), gram / (2 * self.problem.n))

    @cached_property
    def population_loss(self) -> ExponentialSum:
        """L = E[(<θ(t), φ(x)> - y(x))²] over fresh inputs, without 1/2, as a function of the step."""
        r = len(self.rates)
        # Each mode, and last the constant one, as a combination of the functions behind `moments`.
        modes = torch.zeros(r + 2, r + 2, dtype=torch.float64)
        modes[:r, :r] = torch.diag(self._distances)
        modes[r, r] = 1
        modes[:r, -1], modes[-1, -1] = self._limits, -1
        gram = modes.T @ self.problem.moments @ modes
        rates = torch.cat([self.rates, torch.tensor([self.unseen_rate], dtype=torch.float64), _one()])
        return ExponentialSum(rates, (gram + gram.T) / 2)

    def weights(self, steps: Sequence[int]) -> Float[Tensor, "t m"]:
        """`[t, m]`, θ(t) at steps >= 0."""
        t = as_steps(steps)[:, None]
        coordinates = self._limits + self.rates**t * self._distances  # [t, r]
        return coordinates @ self.problem.spectrum.right.T + self.unseen_rate**t * self.problem.unseen

    def weight_norms(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """`[t]`, ‖θ(t)‖ at steps >= 0."""
        t = as_steps(steps)[:, None]
        coordinates = self._limits + self.rates**t * self._distances
        unseen = self.unseen_rate ** t[:, 0] * self.problem.unseen.norm()
        return (coordinates.square().sum(dim=1) + unseen.square()).sqrt()

    def train_losses(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """`[t]`, the train loss L_n at steps >= 0."""
        return self.train_loss.at(as_steps(steps))

    def population_losses(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """`[t]`, the population loss L at steps >= 0."""
        return self.population_loss.at(as_steps(steps))

    def update_error(self, steps: Sequence[int]) -> float:
        """The largest distance over steps of θ(t + 1) from one step of gradient descent from θ(t), relative to ‖θ(0)‖.

        The step uses Φ itself instead of its decomposition, so a value of 0 up to rounding confirms that this is the
        trajectory of gradient descent.
        """
        weights, problem = self.weights(steps), self.problem
        residual = weights @ problem.features.T - problem.targets  # [t, n]
        gradient = residual @ problem.features / problem.n + self.weight_decay * weights
        error = self.weights([step + 1 for step in steps]) - (weights - self.lr * gradient)
        return (error.norm(dim=1).max() / problem.start.norm()).item()

    @cached_property
    def _curvature(self) -> Float[Tensor, " r"]:
        return self.problem.spectrum.singular.square() / self.problem.n

    @cached_property
    def _limits(self) -> Float[Tensor, " r"]:
        spectrum = self.problem.spectrum
        projections = spectrum.left.T @ self.problem.targets
        return spectrum.singular * projections / self.problem.n / (self._curvature + self.weight_decay)

    @cached_property
    def _distances(self) -> Float[Tensor, " r"]:
        return self.problem.spectrum.right.T @ self.problem.start - self._limits


def solve(problem: RidgeProblem, weight_decay: float = 1e-4, lr: float = 1.0) -> RidgeSolution:
    """The exact trajectory of gradient descent on a ridge regression.

    After 1,000 steps this model fits its training set but does not generalize:

    >>> solution = solve(gaussian_problem(n=100, m=1000), weight_decay=1e-4, lr=1.0)
    >>> bool(solution.train_losses([1000])[0] < 0.01 < solution.population_losses([1000])[0])
    True

    Args:
        problem: the training set and the initial weights.
        weight_decay: λ > 0, of the penalty (λ/2) ‖θ‖².
        lr: η, the step size.

    Returns:
        The trajectory, which gives weights and losses at any step.

    Raises:
        ConfigError: λ or η is not positive, their product is too small for float64, or η is so large that training
            diverges.
    """
    require(weight_decay=weight_decay, lr=lr)
    if 1 - lr * weight_decay == 1:
        raise ConfigError(f"lr * weight_decay = {lr * weight_decay:g} is lost in rounding: increase them")
    largest = 2 / (weight_decay + problem.spectrum.largest / problem.n)
    if lr >= largest:
        raise ConfigError(f"lr {lr:g} diverges on these features: it must be below {largest:.4g}")
    return RidgeSolution(problem, float(weight_decay), float(lr))


def require(**values: float) -> None:
    """Checks that numbers are positive and finite.

    Raises:
        ConfigError: one of them is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive and finite, but is {value}")


def standard_normal(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Draws a float64 tensor of each shape in turn, with entries from N(0, 1), from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def as_steps(steps: Sequence[int]) -> Float[Tensor, " t"]:
    """Converts steps to float64.

    Raises:
        ConfigError: a step is negative.
    """
    if len(steps) and min(steps) < 0:
        raise ConfigError(f"steps count updates from 0, but one is {min(steps)}")
    return torch.tensor(steps, dtype=torch.float64)


def _one() -> Float[Tensor, " 1"]:
    return torch.ones(1, dtype=torch.float64)
