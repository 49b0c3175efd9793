"""CyclicGroup: the orders of operands and classes in which an operation is addition."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from grokinterp.config import S5_OPERATIONS, TaskConfig, is_prime
from grokinterp.errors import ConfigError


@dataclass(frozen=True)
class CyclicGroup:
    """The orders of operands and classes in which an operation is addition on Z_g.

    operation(left[i], right[j]) = classes[(i + j) mod g]; classes that no pair in the grid has come after the first g.
    """

    left: Int[Tensor, " g"]
    right: Int[Tensor, " g"]
    classes: Int[Tensor, " c"]

    @property
    def order(self) -> int:
        return len(self.left)


def cyclic_group(config: TaskConfig) -> CyclicGroup | None:
    """The cyclic group behind an operation, or None (polynomials; products for composite p; S5; parity)."""
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
    """What to say of an operation that `cyclic_group` gives None for."""
    if config.operation in S5_OPERATIONS:
        return f"{config.operation} has no cyclic group behind it: S5 is not cyclic, and does not even commute"
    if config.operation == "parity":
        return f"{config.title} is no operation on pairs: no cyclic group is behind it"
    return f"{config.title} has no cyclic group behind it"


def _powers_of_primitive_root(p: int) -> Tensor:
    """g^0, g^1, ..., g^(p-2) mod p for the smallest g whose powers are all nonzero residues."""
    for root in range(2, p):
        powers = [1]
        while (following := powers[-1] * root % p) != 1:
            powers.append(following)
        if len(powers) == p - 1:
            return torch.tensor(powers)
    raise ConfigError(f"{p} has no primitive root; the operation needs a prime")
