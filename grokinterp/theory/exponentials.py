"""Sums of exponentials, which the losses of gradient descent on a quadratic are, searched exactly for crossings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Number of parts that each search cuts a range of steps into, evenly in log(step).
_CUTS = 64
# Bounds are widened by this fraction of the sum of their terms, to allow for rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ExponentialSum:
    """f(t) = Σ_ij gram[i, j] (rates[i] rates[j])^t at whole steps t >= 0.

    >>> f = ExponentialSum(torch.tensor([0.5, 1.0]).double(), torch.eye(2).double())  # 0.25^t + 1
    >>> f.limit
    1.0

    Attributes:
        rates: `[k]`, the factor of each mode per step, in (-1, 1]; only the last is 1, for the constant mode.
        gram: `[k, k]`, symmetric.
    """

    rates: Float[Tensor, " k"]
    gram: Float[Tensor, "k k"]

    @property
    def limit(self) -> float:
        """The limit of f as t grows."""
        return self.gram[-1, -1].item()

    def at(self, steps: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
        """f at steps, given as whole numbers >= 0 in float64."""
        powers = self.rates ** steps[:, None]  # [t, k]
        return ((powers @ self.gram) * powers).sum(dim=1)

    def first_at_most(self, threshold: float) -> int | None:
        """The first step with f <= threshold; None if there is none.

        f need not be monotone. With rates >= 0, f = P - N is the difference of two positive sums that both fall, so on
        the steps from a to b it lies between P(b) - N(a) and P(a) - N(b). The search drops ranges in which these bounds
        rule out a crossing and cuts the remaining ones again, down to single steps. If some rates are negative, it
        searches even and odd steps separately, since the rates over two steps are positive.
        """
        steps = [
            stride * step + offset
            for part, offset, stride in self._nonnegative()
            if (step := part._search(0, part._end_of_first(threshold), lambda low, _: low <= threshold)) is not None
        ]
        return min(steps, default=None)

    def last_at_least(self, threshold: float) -> int | None:
        """The last step with f >= threshold; None if f is below at every step. The search is as in `first_at_most`.

        Raises:
            ArithmeticError: the limit of f is not below the threshold, so there may be no last step.
        """
        if self.limit >= threshold:
            raise ArithmeticError(f"the limit {self.limit:.4g} is not below {threshold:.4g}")
        steps = []
        for part, offset, stride in self._nonnegative():
            end = _first_power_of_two(lambda t, part=part: part._parts(_steps(t))[0].item() < threshold)
            if (step := part._search(0, end, lambda _, high: high >= threshold, backwards=True)) is not None:
                steps.append(stride * step + offset)
        return max(steps, default=None)

    def _end_of_first(self, threshold: float) -> int:
        """A step after which f cannot reach the threshold for the first time."""
        if self.limit < threshold:  # f <= P
            return _first_power_of_two(lambda t: self._parts(_steps(t))[0].item() <= threshold)
        return _first_power_of_two(lambda t: self.limit - self._parts(_steps(t))[1].item() >= threshold)

    def _nonnegative(self) -> list[tuple["ExponentialSum", int, int]]:
        """Sums with rates >= 0, offset and stride of their steps: this sum, or its even steps and its odd steps."""
        if bool((self.rates >= 0).all()):
            return [(self, 0, 1)]
        squared, odd = self.rates.square(), self.gram * self.rates[:, None] * self.rates
        return [(ExponentialSum(squared, self.gram), 0, 2), (ExponentialSum(squared, odd), 1, 2)]

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
        """The first (or last) step in low .. high that is admitted; None if there is none.

        `admits(lower, upper)` says whether a value between two bounds can qualify; for a single step both bounds are
        the value.
        """
        cuts = np.geomspace(low + 1, high + 1, _CUTS + 1).astype(np.int64) - 1
        starts = sorted({low, *(cut for cut in cuts.tolist() if low < cut <= high)})
        ends = [start - 1 for start in starts[1:]] + [high]
        first, last = _steps(*starts), _steps(*ends)
        values, (positive, negative) = self.at(first), self._parts(first)
        positive_end, negative_end = self._parts(last)
        slack = _ROUNDING * (positive + negative)
        lower = torch.where(first == last, values, positive_end - negative - slack).tolist()
        upper = torch.where(first == last, values, positive - negative_end + slack).tolist()
        order = range(len(starts))
        for i in reversed(order) if backwards else order:
            if not admits(lower[i], upper[i]):
                continue
            if starts[i] == ends[i]:
                return starts[i]
            if (step := self._search(starts[i], ends[i], admits, backwards=backwards)) is not None:
                return step
        return None


def _steps(*steps: int) -> Float[Tensor, " t"]:
    return torch.tensor(steps, dtype=torch.float64)


def _first_power_of_two(holds: Callable[[int], bool]) -> int:
    """The smallest power of two that satisfies a condition which stays true once it is true."""
    step = 1
    while not holds(step):
        step *= 2
    return step
