"""The exact steps at which training overfits and generalizes."""

import math
from dataclasses import dataclass

from grokinterp.theory.ridge import RidgeSolution, require


@dataclass(frozen=True)
class Crossing:
    """The step at which a loss crosses a threshold.

    >>> Crossing(120.0, 0.01).step, Crossing(float("inf"), 0.01, "never").step
    (120, None)

    Attributes:
        when: the step; inf if the loss never crosses, -inf if it is past the threshold from the start.
        threshold: threshold of the loss.
        reason: why there is no step; empty if there is one.
    """

    when: float
    threshold: float
    reason: str = ""

    @property
    def step(self) -> int | None:
        """The step; None if there is none."""
        return int(self.when) if math.isfinite(self.when) else None


@dataclass(frozen=True)
class GrokkingTimes:
    """The times t1 and t2 of Xu et al. 2026 (Section 2), and a relative time for losses that do not fall to c.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> times = grokking_times(solve(gaussian_problem(n=100, m=1000), weight_decay=1e-3, lr=1.0))
    >>> times.t1 < times.t2
    True

    Attributes:
        overfit: t1(ε), the last step with train loss >= ε.
        generalize: t2(c), the first step with population loss <= c.
        halfway: the first step at which the population loss is at most halfway from `plateau` to `limit`.
        plateau: population loss at step t1 + 1, from which on the train loss stays below ε.
        limit: limit of the population loss as training goes on.
    """

    overfit: Crossing
    generalize: Crossing
    halfway: Crossing
    plateau: float
    limit: float

    @property
    def t1(self) -> int | None:
        """t1(ε) in steps; None if there is none."""
        return self.overfit.step

    @property
    def t2(self) -> int | None:
        """t2(c) in steps; None if there is none."""
        return self.generalize.step

    @property
    def delay(self) -> int | None:
        """t2 - t1, the grokking time in steps; None if either is missing."""
        return None if self.t1 is None or self.t2 is None else self.t2 - self.t1


def grokking_times(solution: RidgeSolution, *, eps: float = 0.01, c: float = 0.01) -> GrokkingTimes:
    """t1(ε) and t2(c), exact to the step, even if the losses are not monotone.

    >>> from grokinterp.theory import gaussian_problem, solve
    >>> times = grokking_times(solve(gaussian_problem(n=100, m=1000), weight_decay=1e-4))
    >>> times.t1 < 500 < 20_000 < times.t2
    True

    Args:
        solution: a trajectory.
        eps: ε, the threshold of the train loss.
        c: the threshold of the population loss.

    Returns:
        The times in steps, each with a reason where there is none.

    Raises:
        ConfigError: a threshold is not positive.

    Source:
        Xu et al. 2026, Section 2.
    """
    require(eps=eps, c=c)
    train, population = solution.train_loss, solution.population_loss
    limit = population.limit
    t2 = population.first_at_most(c)
    above = f"the population loss ends at {limit:.4g} and is above c = {c:g} at every step"
    generalize = Crossing(math.inf, c, above) if t2 is None else Crossing(t2, c)
    if train.limit >= eps:
        weak_fit = (
            f"the train loss ends at {train.limit:.4g}, not below ε = {eps:g}: the weight decay is too strong to fit"
        )
        never = Crossing(math.inf, math.nan, weak_fit)
        return GrokkingTimes(Crossing(math.inf, eps, weak_fit), generalize, never, math.nan, limit)
    t1 = train.last_at_least(eps)
    below = f"the train loss is below ε = {eps:g} from the start"
    overfit = Crossing(-math.inf, eps, below) if t1 is None else Crossing(t1, eps)
    plateau = solution.population_losses([0 if t1 is None else t1 + 1])[0].item()
    midpoint = (plateau + limit) / 2
    step = population.first_at_most(midpoint) if plateau > limit else None
    flat = f"the population loss after t1, {plateau:.4g}, is not above its limit, {limit:.4g}: there is no plateau"
    halfway = Crossing(math.inf, midpoint, flat) if step is None else Crossing(step, midpoint)
    return GrokkingTimes(overfit, generalize, halfway, plateau, limit)
