"""Ridge regression by gradient descent with weight decay, solved exactly at every step.

Xu, Vardi and Safran 2026, *To Grok Grokking: Provable Grokking in Ridge Regression* (arXiv:2601.19791), prove that this
model groks: it fits its training set early, generalizes badly long after, and generalizes in the end. In the basis of
the right singular vectors of the features each coordinate of the weights moves on its own, geometrically, so that no
step has to be taken to know where training stands after a million.
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
    """The singular value decomposition of Φ, zero singular values left out.

    Attributes:
        left: [n, r] left singular vectors.
        singular: [r] singular values, falling; μ = singular² are the positive eigenvalues of ΦᵀΦ.
        right: [m, r] right singular vectors.
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
    """A training set, where training starts, and what the targets are on fresh inputs; all in float64.

    Attributes:
        features: Φ, [n, m]: row i is φ(x_i).
        targets: y, [n].
        start: θ(0), [m].
        population: the distribution that fresh inputs come from.
        init_variance: ν², the variance that each entry of θ(0) was drawn with.
    """

    features: Float[Tensor, "n m"]
    targets: Float[Tensor, " n"]
    start: Float[Tensor, " m"]
    population: Population
    init_variance: float

    def __post_init__(self):
        if {t.dtype for t in (self.features, self.targets, self.start)} != {torch.float64}:
            raise ConfigError("features, targets and start must be float64: give .double()")
        if not bool(self.features.isfinite().all()) or not bool(self.features.any()):
            raise ConfigError("features must be finite, and not all zero")

    @property
    def n(self) -> int:
        """Training examples."""
        return len(self.features)

    @property
    def m(self) -> int:
        """Features, which are as many as weights."""
        return self.features.shape[1]

    @cached_property
    def spectrum(self) -> Spectrum:
        """The decomposition of the features; computed once."""
        left, singular, right = torch.linalg.svd(self.features, full_matrices=False)
        kept = singular > singular[0] * max(self.n, self.m) * torch.finfo(torch.float64).eps
        return Spectrum(left[:, kept], singular[kept], right[kept].T.contiguous())

    @cached_property
    def unseen(self) -> Float[Tensor, " m"]:
        """The part of θ(0) that no training example sees: weight decay alone acts on it."""
        right = self.spectrum.right
        return self.start - right @ (right.T @ self.start)

    @cached_property
    def moments(self) -> Float[Tensor, "k k"]:
        """Second moments of the functions of each right singular vector, of `unseen`, and of the target."""
        return self.population.moments(torch.cat([self.spectrum.right, self.unseen[:, None]], dim=1))


def gaussian_problem(
    n: int = 100,
    m: int = 1000,
    *,
    init_variance: float = 1.0,
    teacher_norm: float = 1.0,
    seed: int = 0,
) -> RidgeProblem:
    """Gaussian features φ ~ N(0, I_m / m), and targets <θ*, φ>: the setting of Figure 2 of Xu et al. 2026.

    Settings that differ in `init_variance` or `teacher_norm` alone share their random draws.

    Args:
        n: training examples.
        m: features.
        init_variance: ν²; θ(0) ~ N(0, ν² I_m).
        teacher_norm: ‖θ*‖; 0 is the zero teacher of Theorem 4.1.
        seed: of everything drawn.

    Raises:
        ConfigError: a size below 1, a variance that is not positive, or a negative norm.
    """
    require(n=n, m=m, init_variance=init_variance)
    if not 0 <= teacher_norm < math.inf:
        raise ConfigError(f"teacher_norm must be at least 0 and finite, but is {teacher_norm}")
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, m, generator=generator, dtype=torch.float64) / math.sqrt(m)
    direction = torch.randn(m, generator=generator, dtype=torch.float64)
    start = math.sqrt(init_variance) * torch.randn(m, generator=generator, dtype=torch.float64)
    teacher = teacher_norm * direction / direction.norm()
    return RidgeProblem(features, features @ teacher, start, LinearTeacher(teacher, 1 / m), init_variance)


@dataclass(frozen=True)
class RidgeSolution:
    """Gradient descent on (1/2n) ‖Φθ - y‖² + (λ/2) ‖θ‖² (Equation 1), known at every step.

    With v_k the right singular vectors and μ_k the eigenvalues of ΦᵀΦ,
    <v_k, θ(t)> = limit_k + rate_k^t (start_k - limit_k) and rate_k = 1 - η (μ_k/n + λ); what is orthogonal to all v_k
    shrinks by 1 - η λ a step.

    Attributes:
        problem: what was trained on.
        weight_decay: λ.
        lr: η.
    """

    problem: RidgeProblem
    weight_decay: float
    lr: float

    @cached_property
    def rates(self) -> Float[Tensor, " r"]:
        """What the distance of each seen coordinate from its limit is multiplied by in a step; in (-1, 1)."""
        return 1 - self.lr * (self._curvature + self.weight_decay)

    @property
    def unseen_rate(self) -> float:
        """1 - η λ, what the unseen part of the weights is multiplied by in a step."""
        return 1 - self.lr * self.weight_decay

    @property
    def minimizer(self) -> Float[Tensor, " m"]:
        """θ*_λ, the minimum of the objective, where training ends."""
        return self.problem.spectrum.right @ self._limits

    @cached_property
    def train_loss(self) -> ExponentialSum:
        """L_n = (1/2n) ‖Φθ(t) - y‖², without the penalty, as a function of the step."""
        spectrum, targets = self.problem.spectrum, self.problem.targets
        seen = spectrum.left.T @ targets
        missed = targets - spectrum.left @ seen  # what no weights could fit
        moving = spectrum.singular * self._distances
        staying = -seen * self.weight_decay / (self._curvature + self.weight_decay)
        gram = torch.diag(torch.cat([moving.square(), (staying.square().sum() + missed.square().sum())[None]]))
        gram[:-1, -1] = gram[-1, :-1] = moving * staying
        return ExponentialSum(torch.cat([self.rates, _one()]), gram / (2 * self.problem.n))

    @cached_property
    def population_loss(self) -> ExponentialSum:
        """L = E[(<θ(t), φ(x)> - y(x))²] over fresh inputs, without 1/2, as a function of the step."""
        r = len(self.rates)
        # Each mode, and what stays, as combinations of the functions that `moments` is of.
        modes = torch.zeros(r + 2, r + 2, dtype=torch.float64)
        modes[:r, :r] = torch.diag(self._distances)
        modes[r, r] = 1
        modes[:r, -1], modes[-1, -1] = self._limits, -1
        gram = modes.T @ self.problem.moments @ modes
        rates = torch.cat([self.rates, torch.tensor([self.unseen_rate], dtype=torch.float64), _one()])
        return ExponentialSum(rates, (gram + gram.T) / 2)

    def weights(self, steps: Sequence[int]) -> Float[Tensor, "t m"]:
        """θ(t) at steps >= 0."""
        t = as_steps(steps)[:, None]
        seen = self._limits + self.rates**t * self._distances  # [t, r]
        return seen @ self.problem.spectrum.right.T + self.unseen_rate**t * self.problem.unseen

    def weight_norms(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """‖θ(t)‖ at steps >= 0."""
        t = as_steps(steps)[:, None]
        seen = self._limits + self.rates**t * self._distances
        unseen = self.unseen_rate ** t[:, 0] * self.problem.unseen.norm()
        return (seen.square().sum(dim=1) + unseen.square()).sqrt()

    def train_losses(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """L_n at steps >= 0."""
        return self.train_loss.at(as_steps(steps))

    def population_losses(self, steps: Sequence[int]) -> Float[Tensor, " t"]:
        """L at steps >= 0."""
        return self.population_loss.at(as_steps(steps))

    def update_error(self, steps: Sequence[int]) -> float:
        """How far θ(t + 1) is from one step of gradient descent from θ(t), relative to ‖θ(0)‖; the largest over steps.

        The update is made with Φ itself, not with its decomposition; so 0, up to rounding, at every step means that
        this is the trajectory of gradient descent.
        """
        now, problem = self.weights(steps), self.problem
        residual = now @ problem.features.T - problem.targets  # [t, n]
        gradient = residual @ problem.features / problem.n + self.weight_decay * now
        error = self.weights([step + 1 for step in steps]) - (now - self.lr * gradient)
        return (error.norm(dim=1).max() / problem.start.norm()).item()

    @cached_property
    def _curvature(self) -> Float[Tensor, " r"]:
        return self.problem.spectrum.singular.square() / self.problem.n

    @cached_property
    def _limits(self) -> Float[Tensor, " r"]:
        spectrum = self.problem.spectrum
        seen = spectrum.left.T @ self.problem.targets
        return spectrum.singular * seen / self.problem.n / (self._curvature + self.weight_decay)

    @cached_property
    def _distances(self) -> Float[Tensor, " r"]:
        return self.problem.spectrum.right.T @ self.problem.start - self._limits


def solve(problem: RidgeProblem, weight_decay: float = 1e-4, lr: float = 1.0) -> RidgeSolution:
    """The trajectory of gradient descent on a ridge regression.

    Args:
        problem: the training set and the start.
        weight_decay: λ > 0, of the penalty (λ/2) ‖θ‖².
        lr: η.

    Raises:
        ConfigError: λ or η is not positive, too small for float64, or η so large that training diverges.
    """
    require(weight_decay=weight_decay, lr=lr)
    if 1 - lr * weight_decay == 1:
        raise ConfigError(f"lr * weight_decay = {lr * weight_decay:g} is lost in rounding: give larger ones")
    largest = 2 / (weight_decay + problem.spectrum.largest / problem.n)
    if lr >= largest:
        raise ConfigError(f"lr {lr:g} diverges on these features: it must be below {largest:.4g}")
    return RidgeSolution(problem, float(weight_decay), float(lr))


def require(**values: float) -> None:
    """Refuses numbers that are not positive and finite.

    Raises:
        ConfigError: one of them is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive and finite, but is {value}")


def as_steps(steps: Sequence[int]) -> Float[Tensor, " t"]:
    """Steps as float64.

    Raises:
        ConfigError: one is negative.
    """
    if len(steps) and min(steps) < 0:
        raise ConfigError(f"steps count updates from 0 on, but {min(steps)} was given")
    return torch.tensor(steps, dtype=torch.float64)


def _one() -> Float[Tensor, " 1"]:
    return torch.ones(1, dtype=torch.float64)
