"""CyclicGroup: the order of operands and classes that turns an operation into addition."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from grokinterp.config import S5_OPERATIONS, TaskConfig, is_prime


@dataclass(frozen=True)
class CyclicGroup:
    """The order of operands and classes that turns an operation into addition on Z_g.

    operation(left[i], right[j]) = classes[(i + j) mod g]. The first g classes are those of the grid of pairs; a class
    that no pair of the grid has comes after them.

    Attributes:
        left: `[g]`, the first operands in group order.
        right: `[g]`, the second operands in group order.
        classes: `[c]`, the classes in group order.
    """

    left: Int[Tensor, " g"]
    right: Int[Tensor, " g"]
    classes: Int[Tensor, " c"]

    @property
    def order(self) -> int:
        """The number g of elements of the group."""
        return len(self.left)


def cyclic_group(config: TaskConfig) -> CyclicGroup | None:
    """The cyclic group of an operation; None for polynomials, products with composite p, S5 and parity."""
    p, name = config.p, config.operation
    residues = torch.arange(p)
    if name == "add":
        return CyclicGroup(residues, residues, residues)
    if name == "subtract":
        return CyclicGroup(residues, -residues % p, residues)
    if name in ("multiply", "multiply_nonzero", "divide") and is_prime(p):
        powers = _powers_of_primitive_root(p)
        inverses = powers[-torch.arange(p - 1) % (p - 1)]
        classes = torch.cat([powers, torch.zeros(1, dtype=torch.int64)])
        return CyclicGroup(powers, inverses if name == "divide" else powers, classes)
    return None


def why_no_group(config: TaskConfig) -> str:
    """Why `cyclic_group` returns None for an operation, for messages."""
    if config.operation in S5_OPERATIONS:
        return f"{config.operation} has no cyclic group: S5 is not cyclic, and not even commutative"
    if config.operation == "parity":
        return f"{config.title} has no cyclic group: it is not an operation on pairs"
    return f"{config.title} has no cyclic group"


def _powers_of_primitive_root(p: int) -> Tensor:
    """g^0, g^1, ..., g^(p-2) mod p for the smallest primitive root g of a prime p."""
    candidates = (torch.tensor([pow(root, i, p) for i in range(p - 1)]) for root in range(2, p))
    return next(powers for powers in candidates if len(powers.unique()) == p - 1)
