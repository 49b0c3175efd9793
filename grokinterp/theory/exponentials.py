"""Losses of gradient descent on a quadratic, as functions of the step: sums of exponentials, searched exactly."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Into how many parts a range of steps is cut at each look, evenly in log(step).
_CUTS = 64
# Bounds are widened by this share of the terms they are made of, for the rounding of their sums.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ExponentialSum:
    """f(t) = Σ_ij gram[i, j] (rates[i] rates[j])^t at whole steps t >= 0.

    Attributes:
        rates: [k] what each mode is multiplied by in a step, in (-1, 1]; only the last is 1: it stands for what stays.
        gram: [k, k] symmetric.
    """

    rates: Float[Tensor, " k"]
    gram: Float[Tensor, "k k"]

    @property
    def limit(self) -> float:
        """What f tends to."""
        return self.gram[-1, -1].item()

    def at(self, steps: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
        """f at steps, which are whole numbers >= 0 in float64."""
        powers = self.rates ** steps[:, None]  # [t, k]
        return ((powers @ self.gram) * powers).sum(dim=1)

    def first_at_most(self, threshold: float) -> int | None:
        """The first step with f <= threshold; None where there is none.

        No monotonicity is assumed. With rates >= 0, f = P - N, a positive part minus a negative one, and both fall; so
        on the steps from a to b, f lies between P(b) - N(a) and P(a) - N(b). Parts in which these rule out a crossing
        are dropped, the others cut again, down to single steps. Where rates are negative, even and odd steps, on each
        of which they are not, are searched apart.
        """
        found = [
            2 * step + parity if halved else step
            for half, parity, halved in self._halves()
            if (step := half._search(0, half._end_of_first(threshold), lambda low, _: low <= threshold)) is not None
        ]
        return min(found, default=None)

    def last_at_least(self, threshold: float) -> int | None:
        """The last step with f >= threshold; None where f is below at every step. Searched as `first_at_most`.

        Raises:
            ArithmeticError: the limit of f is not below the threshold, so that there need be no last step.
        """
        if self.limit >= threshold:
            raise ArithmeticError(f"the limit {self.limit:.4g} is not below {threshold:.4g}")
        found = []
        for half, parity, halved in self._halves():
            end = _doubled(lambda t, half=half: half._parts(_steps(t))[0].item() < threshold)
            step = half._search(0, end, lambda _, high: high >= threshold, backwards=True)
            if step is not None:
                found.append(2 * step + parity if halved else step)
        return max(found, default=None)

    def _end_of_first(self, threshold: float) -> int:
        """A step after which nothing can be the first at most the threshold."""
        if self.limit < threshold:  # f <= P
            return _doubled(lambda t: self._parts(_steps(t))[0].item() <= threshold)
        return _doubled(lambda t: self.limit - self._parts(_steps(t))[1].item() >= threshold)

    def _halves(self) -> list[tuple["ExponentialSum", int, bool]]:
        """Sums with rates >= 0 only: this one, or one over its even and one over its odd steps."""
        if bool((self.rates >= 0).all()):
            return [(self, 0, False)]
        squared, odd = self.rates.square(), self.gram * self.rates[:, None] * self.rates
        return [(ExponentialSum(squared, self.gram), 0, True), (ExponentialSum(squared, odd), 1, True)]

    @cached_property
    def _signed(self) -> tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]:
        return self.gram.clamp(min=0), (-self.gram).clamp(min=0)

    def _parts(self, steps: Float[Tensor, " t"]) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
        """P and N at steps; f = P - N."""
        powers = self.rates ** steps[:, None]
        positive, negative = (((powers @ part) * powers).sum(dim=1) for part in self._signed)
        return positive, negative

    def _search(
        self, low: int, high: int, admits: Callable[[float, float], bool], *, backwards: bool = False
    ) -> int | None:
        """The first (or last) step from low to high, both included, whose value `admits` takes as both its bounds."""
        cuts = np.geomspace(low + 1, high + 1, _CUTS + 1).astype(np.int64) - 1
        starts = sorted({low, *(cut for cut in cuts.tolist() if low < cut <= high)})
        ends = [start - 1 for start in starts[1:]] + [high]
        first, last = _steps(*starts), _steps(*ends)
        values, (positive, negative), (positive_end, negative_end) = (
            self.at(first),
            self._parts(first),
            self._parts(last),
        )
        slack = _ROUNDING * (positive + negative)
        lower = torch.where(first == last, values, positive_end - negative - slack).tolist()
        upper = torch.where(first == last, values, positive - negative_end + slack).tolist()
        order = range(len(starts))
        for i in reversed(order) if backwards else order:
            if not admits(lower[i], upper[i]):
                continue
            if starts[i] == ends[i]:
                return starts[i]
            found = self._search(starts[i], ends[i], admits, backwards=backwards)
            if found is not None:
                return found
        return None


def _steps(*steps: int) -> Float[Tensor, " t"]:
    return torch.tensor(steps, dtype=torch.float64)


def _doubled(holds: Callable[[int], bool]) -> int:
    """A step at which something holds that, once it holds, holds for good."""
    step = 1
    while not holds(step):
        step *= 2
    return step
