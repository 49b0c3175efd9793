"""When training overfits and when it generalizes, found exactly."""

import math
from dataclasses import dataclass

from grokinterp.theory.ridge import RidgeSolution, require


@dataclass(frozen=True)
class Crossing:
    """When a loss crosses a threshold.

    Attributes:
        when: the step; inf where it does not come, -inf where it was before training began.
        threshold: of the loss.
        reason: why there is no step; empty where there is one.
    """

    when: float
    threshold: float
    reason: str = ""

    @property
    def step(self) -> int | None:
        """The step; None where there is none."""
        return int(self.when) if math.isfinite(self.when) else None


@dataclass(frozen=True)
class GrokkingTimes:
    """The times of Xu et al. 2026 (Section 2), and a relative one for losses that do not fall to c.

    Attributes:
        overfit: t1(ε), the last step with train loss >= ε.
        generalize: t2(c), the first step with population loss <= c.
        halfway: the first step with population loss halfway, or less, between `plateau` and `limit`.
        plateau: population loss at the first step from which the train loss stays below ε.
        limit: population loss at the end of training.
    """

    overfit: Crossing
    generalize: Crossing
    halfway: Crossing
    plateau: float
    limit: float

    @property
    def t1(self) -> int | None:
        return self.overfit.step

    @property
    def t2(self) -> int | None:
        return self.generalize.step

    @property
    def delay(self) -> int | None:
        """t2 - t1, the grokking time; None where either is."""
        return None if self.t1 is None or self.t2 is None else self.t2 - self.t1


def grokking_times(solution: RidgeSolution, *, eps: float = 0.01, c: float = 0.01) -> GrokkingTimes:
    """t1(ε) and t2(c), exact to the step, whether or not the losses are monotone.

    Args:
        solution: a trajectory.
        eps: ε, of the train loss.
        c: of the population loss.

    Raises:
        ConfigError: a threshold is not positive.
    """
    require(eps=eps, c=c)
    train, population = solution.train_loss, solution.population_loss
    limit, fitted = population.limit, None
    if train.limit >= eps:
        said = f"the train loss ends at {train.limit:.4g}, not below ε = {eps:g}: the weight decay is too strong to fit"
        overfit = Crossing(math.inf, eps, said)
    else:
        t1 = train.last_at_least(eps)
        fitted = 0 if t1 is None else t1 + 1
        said = f"the train loss is below ε = {eps:g} from the start"
        overfit = Crossing(-math.inf, eps, said) if t1 is None else Crossing(t1, eps)
    t2 = population.first_at_most(c)
    said = f"the population loss ends at {limit:.4g} and is above c = {c:g} at every step"
    generalize = Crossing(math.inf, c, said) if t2 is None else Crossing(t2, c)
    if fitted is None:
        return GrokkingTimes(overfit, generalize, Crossing(math.inf, math.nan, overfit.reason), math.nan, limit)
    plateau = solution.population_losses([fitted])[0].item()
    middle = (plateau + limit) / 2
    step = population.first_at_most(middle) if plateau > limit else None
    said = f"the population loss at t1, {plateau:.4g}, is not above its limit, {limit:.4g}: there is no plateau"
    halfway = Crossing(math.inf, middle, said) if step is None else Crossing(step, middle)
    return GrokkingTimes(overfit, generalize, halfway, plateau, limit)
