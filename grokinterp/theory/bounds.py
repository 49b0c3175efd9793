"""Theorems of Xu et al. 2026: bounds on the times t1 and t2, envelopes of the losses, and their assumptions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.population import LinearTeacher
from grokinterp.theory.ridge import RidgeSolution, as_steps, require

# Tolerance for comparing the two sides of an inequality that can hold with equality: their relative rounding error.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """An assumption of a theorem: `value` must be at most `limit`.

    >>> Condition("step size", "η <= 1", value=0.5, limit=1.0).holds
    True

    Attributes:
        name: short name.
        statement: the assumption as a formula.
        value: its left side on this problem.
        limit: its right side on this problem.
    """

    name: str
    statement: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the value is at most the limit."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Bound:
    """An upper bound on t1, or a lower bound on t2, in steps.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> solution = solve(gaussian_problem(n=20, m=50), weight_decay=1e-3)
    >>> bounds(solution).t1.upper
    True

    Attributes:
        name: name of its columns in a sweep.
        source: where Xu et al. 2026 state it.
        value: in steps; NaN if the formula is undefined on this problem; a negative lower bound is vacuous.
        upper: True for an upper bound.
        conditions: its assumptions, as far as they can be checked on this problem.
    """

    name: str
    source: str
    value: float
    upper: bool
    conditions: tuple[Condition, ...]

    @property
    def applies(self) -> bool:
        """Whether the formula is defined and every condition holds."""
        return not math.isnan(self.value) and all(condition.holds for condition in self.conditions)

    def admits(self, when: float) -> bool | None:
        """Whether a time (`Crossing.when`) satisfies the bound; None if the formula is undefined."""
        if math.isnan(self.value):
            return None
        return when <= self.value if self.upper else when >= self.value


@dataclass(frozen=True)
class Bounds:
    """The bounds of Xu et al. 2026 on t1 and t2.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> solution = solve(gaussian_problem(n=20, m=50), weight_decay=1e-3)
    >>> bounds(solution).t2.upper
    False

    Attributes:
        t1: upper bound, Equation 6 (Theorem 4.2).
        t2: lower bound, Equation 7 (Theorem 4.2).
        t1_gaussian: upper bound for Gaussian features, Equation 8.
        t2_gaussian: lower bound for Gaussian features, Equation 8.
        t1_sharp: upper bound of Theorem 4.4, which Equation 6 simplifies.
        t2_sharp: lower bound of Theorem 4.5, which Equation 7 simplifies.
        probability: lower bound on the probability that the random start satisfies the assumption of the bounds on t2
            (Theorem 4.1).
    """

    t1: Bound
    t2: Bound
    t1_gaussian: Bound
    t2_gaussian: Bound
    t1_sharp: Bound
    t2_sharp: Bound
    probability: float

    @property
    def all(self) -> tuple[Bound, ...]:
        """The six bounds."""
        return (self.t1, self.t2, self.t1_gaussian, self.t2_gaussian, self.t1_sharp, self.t2_sharp)


def bounds(solution: RidgeSolution, *, eps: float = 0.01, c: float = 0.01) -> Bounds:
    """The bounds (6), (7) and (8) of Xu et al. 2026, and the sharper forms of Theorems 4.4 and 4.5.

    >>> from grokinterp.theory import gaussian_problem, grokking_times, solve
    >>> solution = solve(gaussian_problem(n=100, m=1000))
    >>> grokking_times(solution).t1 <= bounds(solution).t1.value
    True

    In these bounds b² is the largest ‖φ(x_i)‖² of the training set, as in the proof of (6). Equation 8 is stated for
    c = ε and φ ~ N(0, I_m / m); on other features its value is reported and its conditions say that it does not apply.

    Args:
        solution: a trajectory with targets <θ*, φ(x)>.
        eps: ε, the threshold of the train loss that defines t1.
        c: the threshold of the population loss that defines t2.

    Returns:
        Each bound in steps, with its conditions.

    Raises:
        ConfigError: the targets are not linear in the features, or a threshold is not positive.
    """
    require(eps=eps, c=c)
    teacher = linear_teacher(solution)
    problem, decay, lr = solution.problem, solution.weight_decay, solution.lr
    n, m, nu2 = problem.n, problem.m, problem.init_variance
    start, norm = problem.start.square().sum().item(), teacher.teacher.norm().item()
    slowest, smallest = problem.spectrum.smallest / n, teacher.smallest_eigenvalue
    mean_square = problem.features.square().sum().item() / n
    b2 = problem.features.square().sum(dim=1).max().item()
    distance = (problem.start - solution.minimizer).square().sum().item()
    # η (λ_max/n + λ_min/n + 2 λ): at most 2 if no coordinate shrinks more slowly than that of λ⁺_min.
    size = lr * ((problem.spectrum.largest + problem.spectrum.smallest) / n + 2 * decay)

    step_size = Condition("step size", "η (λ_max/n + λ_min/n + 2 λ) <= 2", size, 2.0)
    weak = Condition("weak decay", "λ ‖θ*‖² <= 2 ε", decay * norm**2, 2 * eps)
    far = Condition("start outweighs the teacher", "‖θ(0) - θ*_λ‖² <= 3 ‖θ(0)‖²", distance, 3 * start)
    overparameterized = Condition("over-parameterized", "n < m", n + 1, m)
    unseen_square = problem.unseen.square().sum().item()
    typical = Condition("typical start", "(m - n) ν² / 2 <= ‖unseen part of θ(0)‖²", (m - n) * nu2 / 2, unseen_square)
    gaussian = Condition("isotropic features", "m λ_min(Σ) = 1", abs(m * smallest - 1), 1e-9)
    short = Condition("features of typical length", "b² <= 3/2", b2, 1.5)
    small = Condition("start of typical length", "9 ‖θ(0)‖² <= 14 m ν²", 9 * start, 14 * m * nu2)
    above = Condition("threshold above the teacher's", "‖θ*‖² / m < c", norm**2 / m, math.nextafter(c, 0))
    equal = Condition("one threshold", "c = ε", abs(c - eps), 0.0)
    gentle = Condition("gentle decay", "η λ <= 0.01", lr * decay, 0.01)
    half = Condition("gentle decay", "η λ <= 1/2", lr * decay, 0.5)

    radius = math.sqrt(c / smallest) + norm if smallest > 0 else math.nan
    shrinkage = (m - n) * nu2 / 2 / radius**2 if m > n else math.nan  # argument of the logarithm in (7)
    gap = lr * slowest + lr * decay
    fit, unseen = (step_size, weak, far), (overparameterized, typical)
    t1 = math.log(6 * b2 * start / eps) / (2 * lr * slowest)
    t2 = math.log(shrinkage) / (4 * lr * decay)
    t1_gaussian = math.log(14 * m * nu2 / eps) / (2 * lr * slowest)
    t2_gaussian = math.log((m - n) * nu2 / (8 * m * eps)) / (2.02 * lr * decay) if m > n else math.nan
    t1_sharp = math.log(eps / (6 * mean_square * start)) / (2 * math.log1p(-gap)) if gap < 1 else math.nan
    t2_sharp = math.log(shrinkage) / (-2 * math.log1p(-lr * decay)) if lr * decay < 1 else math.nan
    gaussian_t1, gaussian_t2 = (*fit, gaussian, short, small, equal, above), (*unseen, gaussian, equal, above, gentle)
    return Bounds(
        t1=Bound("t1_bound", "Theorem 4.2, (6)", t1, True, fit),
        t2=Bound("t2_bound", "Theorem 4.2, (7)", t2, False, (*unseen, half)),
        t1_gaussian=Bound("t1_bound_gaussian", "Remark A.14, (8)", t1_gaussian, True, gaussian_t1),
        t2_gaussian=Bound("t2_bound_gaussian", "Remark A.14, (8)", t2_gaussian, False, gaussian_t2),
        t1_sharp=Bound("t1_bound_sharp", "Theorem 4.4", t1_sharp, True, fit),
        t2_sharp=Bound("t2_bound_sharp", "Theorem 4.5", t2_sharp, False, unseen),
        probability=start_probability(n, m),
    )


def step_sizes(solution: RidgeSolution) -> tuple[Condition, ...]:
    """Conditions on the step size η, from the least to the most restrictive.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> all(condition.holds for condition in step_sizes(solve(gaussian_problem(), weight_decay=1e-4, lr=0.1)))
    True

    `convergence`: training does not diverge. `monotone`: no coordinate overshoots. `theorem 4.1` and `theorem 4.2`: the
    sufficient conditions of Xu et al. 2026. These are conservative: η = 1 in their Figure 2 violates the last one.

    Args:
        solution: a trajectory.

    Returns:
        Four conditions, each with the limit on η as `limit`.
    """
    problem, decay, lr = solution.problem, solution.weight_decay, solution.lr
    largest = problem.spectrum.largest / problem.n
    mean_square = problem.features.square().sum().item() / problem.n
    b2 = problem.features.square().sum(dim=1).max().item()
    return (
        Condition("convergence", "η < 2 / (λ + λ_max/n)", lr, 2 / (decay + largest)),
        Condition("monotone", "η < 1 / (λ + λ_max/n)", lr, 1 / (decay + largest)),
        Condition("theorem 4.1", "η <= 2 / (L + 2 λ), L = ‖Φ‖²_F / n", lr, 2 / (mean_square + 2 * decay)),
        Condition("theorem 4.2", "η < 1 / (λ + b²)", lr, 1 / (decay + b2)),
    )


@dataclass(frozen=True)
class Stages:
    """The three inequalities of Theorem 4.1, for the zero teacher, along a trajectory.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> solution = solve(gaussian_problem(n=20, m=50, teacher_norm=0.0), weight_decay=1e-3)
    >>> stages(solution, [0, 10, 100]).overfits
    True

    Attributes:
        steps: the steps at which they are evaluated.
        train_loss: L_n at each step; the theorem bounds it above by `train_envelope`.
        train_envelope: (L/2) (1 - η λ⁺_min/n - η λ)^(2t) ‖θ(0)‖².
        population_loss: L at each step; the theorem bounds it below by `population_envelope`.
        population_envelope: λ_min(Σ) (1 - η λ)^(2t) (m - n) ν² / 2.
        weight_norm: ‖θ(t)‖; the theorem bounds it above by `norm_envelope`.
        norm_envelope: (1 - η λ)^t ‖θ(0)‖.
        probability: lower bound on the probability that the random start satisfies the second inequality.
        step_size: the condition of the theorem on η.
    """

    steps: Float[Tensor, " t"]
    train_loss: Float[Tensor, " t"]
    train_envelope: Float[Tensor, " t"]
    population_loss: Float[Tensor, " t"]
    population_envelope: Float[Tensor, " t"]
    weight_norm: Float[Tensor, " t"]
    norm_envelope: Float[Tensor, " t"]
    probability: float
    step_size: Condition

    @property
    def overfits(self) -> bool:
        """Whether the train loss is at most its envelope at every step."""
        return bool(_below(self.train_loss, self.train_envelope).all())

    @property
    def generalizes_late(self) -> bool:
        """Whether the population loss is at least its envelope at every step."""
        return bool(_below(self.population_envelope, self.population_loss).all())

    @property
    def generalizes(self) -> bool:
        """Whether the weight norm is at most its envelope at every step, so the population loss vanishes with it."""
        return bool(_below(self.weight_norm, self.norm_envelope).all())


def stages(solution: RidgeSolution, steps: Sequence[int]) -> Stages:
    """Evaluates Theorem 4.1 of Xu et al. 2026 along a trajectory with the zero teacher.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> trajectory = stages(solve(gaussian_problem(n=20, m=200, teacher_norm=0)), steps=range(0, 1000, 10))
    >>> trajectory.overfits, trajectory.generalizes_late, trajectory.generalizes
    (True, True, True)

    Args:
        solution: a trajectory on a problem with teacher θ* = 0.
        steps: the steps to evaluate, >= 0.

    Returns:
        Both sides of the three inequalities at each step.

    Raises:
        ConfigError: the teacher is not zero.
    """
    teacher = linear_teacher(solution)
    if bool(teacher.teacher.any()):
        raise ConfigError("Theorem 4.1 holds for the zero teacher: use gaussian_problem(teacher_norm=0)")
    problem, t = solution.problem, as_steps(steps)
    norm = problem.start.norm()
    mean_square = problem.features.square().sum() / problem.n
    slowest = 1 - solution.lr * (problem.spectrum.smallest / problem.n + solution.weight_decay)
    unseen = max(problem.m - problem.n, 0) * problem.init_variance / 2
    return Stages(
        t,
        solution.train_losses(steps),
        mean_square / 2 * slowest ** (2 * t) * norm.square(),
        solution.population_losses(steps),
        teacher.smallest_eigenvalue * solution.unseen_rate ** (2 * t) * unseen,
        solution.weight_norms(steps),
        solution.unseen_rate**t * norm,
        start_probability(problem.n, problem.m),
        step_sizes(solution)[2],
    )


def start_probability(n: int, m: int) -> float:
    """1 - 2 exp(-(m - n)/32), a lower bound on P(‖unseen part of θ(0)‖² >= (m - n) ν² / 2); 0 if m <= n."""
    return max(0.0, 1 - 2 * math.exp(-(m - n) / 32)) if m > n else 0.0


def linear_teacher(solution: RidgeSolution) -> LinearTeacher:
    """The teacher of a problem with targets that are linear in the features.

    Raises:
        ConfigError: the targets are not linear in the features.
    """
    population = solution.problem.population
    if not isinstance(population, LinearTeacher):
        raise ConfigError("the theorems assume targets <θ*, φ(x)>, but these targets are not linear in the features")
    return population


def _below(lower: Float[Tensor, " t"], upper: Float[Tensor, " t"]) -> Bool[Tensor, " t"]:
    return lower <= upper * (1 + _ROUNDING)
