"""What Xu et al. 2026 prove: bounds on the times t1 and t2, envelopes of the losses, and what they assume."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.population import LinearTeacher
from grokinterp.theory.ridge import RidgeSolution, as_steps, require

# Both sides of an inequality that holds with equality somewhere are computed with this relative error, or less.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Condition:
    """Something that a theorem assumes: `value` is to be below `limit`."""

    name: str
    statement: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Bound:
    """A bound on t1 from above, or on t2 from below, in steps.

    Attributes:
        name: what the columns of a sweep call it.
        source: where it is stated.
        value: in steps; NaN where the formula has no value, and negative where it says nothing.
        upper: whether it bounds from above.
        conditions: what it assumes, as far as it can be checked on this problem.
    """

    name: str
    source: str
    value: float
    upper: bool
    conditions: tuple[Condition, ...]

    @property
    def applies(self) -> bool:
        """Whether the formula has a value and every condition holds."""
        return not math.isnan(self.value) and all(condition.holds for condition in self.conditions)

    def admits(self, when: float) -> bool | None:
        """Whether a time, `Crossing.when`, keeps to the bound; None where the formula has no value."""
        if math.isnan(self.value):
            return None
        return when <= self.value if self.upper else when >= self.value


@dataclass(frozen=True)
class Bounds:
    """The bounds on t1 and t2 of Xu et al. 2026.

    Attributes:
        t1: (6) of Theorem 4.2.
        t2: (7) of Theorem 4.2.
        t1_gaussian: (8), for Gaussian features.
        t2_gaussian: (8), for Gaussian features.
        t1_sharp: the logarithm that (6) simplifies.
        t2_sharp: the logarithm that (7) simplifies.
        probability: with which, at least, the start is such that the bounds on t2 hold (Theorem 4.1).
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
        return (self.t1, self.t2, self.t1_gaussian, self.t2_gaussian, self.t1_sharp, self.t2_sharp)


def bounds(solution: RidgeSolution, *, eps: float = 0.01, c: float = 0.01) -> Bounds:
    """The bounds (6), (7) and (8) of Xu et al. 2026, and the sharper forms of Theorems 4.4 and 4.5.

    b² is the largest ‖φ(x_i)‖² of the training set, which is what the proof of (6) uses of it. (8) is stated for
    c = ε and φ ~ N(0, I_m / m); on other features its value is reported, and its conditions say that it does not apply.

    Args:
        solution: a trajectory with targets <θ*, φ(x)>.
        eps: ε, of t1.
        c: of t2.

    Raises:
        ConfigError: the targets are not linear in the features, or a threshold is not positive.
    """
    require(eps=eps, c=c)
    teacher = linear_teacher(solution)
    problem, decay, lr = solution.problem, solution.weight_decay, solution.lr
    n, m, nu2 = problem.n, problem.m, problem.init_variance
    start, norm = problem.start.square().sum().item(), teacher.teacher.norm().item()
    slowest, least = problem.spectrum.smallest / n, teacher.smallest_eigenvalue
    mean_square = problem.features.square().sum().item() / n
    b2 = problem.features.square().sum(dim=1).max().item()
    distance = (problem.start - solution.minimizer).square().sum().item()
    size = _smallest_step_left(solution)

    step_size = Condition("step size", "η (λ_max/n + λ_min/n + 2 λ) <= 2", size, 2.0)
    weak = Condition("weak decay", "λ ‖θ*‖² <= 2 ε", decay * norm**2, 2 * eps)
    far = Condition("start outweighs the teacher", "‖θ(0) - θ*_λ‖² <= 3 ‖θ(0)‖²", distance, 3 * start)
    over = Condition("over-parameterized", "n < m", n + 1, m)
    typical = Condition(
        "typical start",
        "(m - n) ν² / 2 <= ‖unseen part of θ(0)‖²",
        (m - n) * nu2 / 2,
        problem.unseen.square().sum().item(),
    )
    gaussian = Condition("isotropic features", "m λ_min(Σ) = 1", abs(m * least - 1), 1e-9)
    short = Condition("features of typical length", "b² <= 3/2", b2, 1.5)
    small = Condition("start of typical length", "9 ‖θ(0)‖² <= 14 m ν²", 9 * start, 14 * m * nu2)
    above = Condition("threshold above the teacher's", "‖θ*‖² / m < c", norm**2 / m, math.nextafter(c, 0))
    equal = Condition("one threshold", "c = ε", abs(c - eps), 0.0)
    gentle = Condition("gentle decay", "η λ <= 0.01", lr * decay, 0.01)
    half = Condition("gentle decay", "η λ <= 1/2", lr * decay, 0.5)

    reach = math.sqrt(c / least) + norm if least > 0 else math.nan
    left = (m - n) * nu2 / 2 / reach**2 if m > n else math.nan  # (7)'s logarithm is of this
    gap = lr * slowest + lr * decay
    fit, unseen = (step_size, weak, far), (over, typical)
    return Bounds(
        t1=Bound(
            "t1_bound",
            "Theorem 4.2, (6)",
            math.log(6 * b2 * start / eps) / (2 * lr * slowest),
            True,
            fit,
        ),
        t2=Bound("t2_bound", "Theorem 4.2, (7)", math.log(left) / (4 * lr * decay), False, (*unseen, half)),
        t1_gaussian=Bound(
            "t1_bound_gaussian",
            "Remark A.14, (8)",
            math.log(14 * m * nu2 / eps) / (2 * lr * slowest),
            True,
            (*fit, gaussian, short, small, equal, above),
        ),
        t2_gaussian=Bound(
            "t2_bound_gaussian",
            "Remark A.14, (8)",
            math.log((m - n) * nu2 / (8 * m * eps)) / (2.02 * lr * decay) if m > n else math.nan,
            False,
            (*unseen, gaussian, equal, above, gentle),
        ),
        t1_sharp=Bound(
            "t1_bound_sharp",
            "Theorem 4.4",
            math.log(eps / (6 * mean_square * start)) / (2 * math.log1p(-gap)) if gap < 1 else math.nan,
            True,
            fit,
        ),
        t2_sharp=Bound(
            "t2_bound_sharp",
            "Theorem 4.5",
            math.log(left) / (-2 * math.log1p(-lr * decay)) if lr * decay < 1 else math.nan,
            False,
            unseen,
        ),
        probability=start_probability(n, m),
    )


def step_sizes(solution: RidgeSolution) -> tuple[Condition, ...]:
    """What has been asked of the step size η, from the widest to the narrowest that matters here.

    `convergence`: training does not diverge. `monotone`: no coordinate overshoots. `theorem 4.1` and `theorem 4.2` are
    the papers' sufficient conditions; they are conservative, and η = 1 in its Figure 2 does not meet the latter.
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

    Attributes:
        steps: where they were looked at.
        train_loss: L_n at each step, and `train_envelope`, which it is at most.
        train_envelope: (L/2) (1 - η λ⁺_min/n - η λ)^(2t) ‖θ(0)‖².
        population_loss: L at each step, and `population_envelope`, which it is at least.
        population_envelope: λ_min(Σ) (1 - η λ)^(2t) (m - n) ν² / 2.
        weight_norm: ‖θ(t)‖, and `norm_envelope`, which it is at most.
        norm_envelope: (1 - η λ)^t ‖θ(0)‖.
        probability: with which, at least, the start is such that the second inequality holds.
        step_size: what the theorem asks of η.
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
        """Whether the train loss keeps below its envelope."""
        return bool(_below(self.train_loss, self.train_envelope).all())

    @property
    def generalizes_late(self) -> bool:
        """Whether the population loss keeps above its envelope."""
        return bool(_below(self.population_envelope, self.population_loss).all())

    @property
    def generalizes(self) -> bool:
        """Whether the norm, and the population loss with it, falls as fast as its envelope."""
        return bool(_below(self.weight_norm, self.norm_envelope).all())


def stages(solution: RidgeSolution, steps: Sequence[int]) -> Stages:
    """Theorem 4.1 of Xu et al. 2026 along a trajectory of the zero teacher.

    Raises:
        ConfigError: the teacher is not zero.
    """
    teacher = linear_teacher(solution)
    if bool(teacher.teacher.any()):
        raise ConfigError("Theorem 4.1 is about the zero teacher: give gaussian_problem(teacher_norm=0)")
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
    """1 - 2 exp(-(m - n)/32): how likely, at least, the unseen part of θ(0) has squared norm >= (m - n) ν² / 2."""
    return max(0.0, 1 - 2 * math.exp(-(m - n) / 32)) if m > n else 0.0


def linear_teacher(solution: RidgeSolution) -> LinearTeacher:
    """The teacher of a problem whose targets are linear in the features.

    Raises:
        ConfigError: they are not.
    """
    population = solution.problem.population
    if not isinstance(population, LinearTeacher):
        raise ConfigError("the theorems are about targets <θ*, φ(x)>, and these targets are not linear in the features")
    return population


def _smallest_step_left(solution: RidgeSolution) -> float:
    """η (λ_max/n + λ_min/n + 2 λ): at most 2 where no coordinate shrinks more slowly than that of λ⁺_min."""
    spectrum, n = solution.problem.spectrum, solution.problem.n
    return solution.lr * ((spectrum.largest + spectrum.smallest) / n + 2 * solution.weight_decay)


def _below(lower: Float[Tensor, " t"], upper: Float[Tensor, " t"]) -> Bool[Tensor, " t"]:
    return lower <= upper * (1 + _ROUNDING)
