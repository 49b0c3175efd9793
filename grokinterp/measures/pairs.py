"""PairGrid: the inputs of a task on which its Fourier measures work."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from grokinterp.tasks import CyclicGroup


@dataclass(frozen=True)
class PairGrid:
    """The inputs of a task that form the g x g grid of its cyclic group.

    Attributes:
        group: the group, with the orders of operands and classes in which the operation is addition mod g.
        indices: `[g, g]`, position in `task.inputs` of the pair (left[i], right[j]).
        sums: `[n]`, sum class (i + j) mod g of each input; -1 for inputs outside the grid (products with zero).
    """

    group: CyclicGroup
    indices: Int[Tensor, "g g"]
    sums: Int[Tensor, " n"]

    @property
    def order(self) -> int:
        """The order g of the group."""
        return self.group.order

    @property
    def classes(self) -> Int[Tensor, " g"]:
        """The g classes that pairs in the grid have, in the group's order."""
        return self.group.classes[: self.group.order]
