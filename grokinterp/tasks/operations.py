"""The operations: their inputs in row-major order, and their answers."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from grokinterp.config import S5_OPERATIONS, TaskConfig
from grokinterp.tasks.permutations import s5_answers

_POLYNOMIALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "multiply_nonzero": lambda a, b: a * b,
    "x^2+y^2": lambda a, b: a**2 + b**2,
    "x^2+xy+y^2": lambda a, b: a**2 + a * b + b**2,
    "x^2+xy+y^2+x": lambda a, b: a**2 + a * b + b**2 + a,
    "x^3+xy": lambda a, b: a**3 + a * b,
    "x^3+xy^2+y": lambda a, b: a**3 + a * b**2 + b,
}
COMMUTATIVE = frozenset({"add", "multiply", "multiply_nonzero", "x^2+y^2", "x^2+xy+y^2"})


def all_inputs(config: TaskConfig) -> Int[Tensor, "n k"]:
    """All inputs of an operation in row-major order; for parity, 0 .. 2^k - 1 in binary, the highest bit first."""
    if config.operation == "parity":
        return torch.cartesian_prod(*[torch.arange(2)] * config.operands)
    first = torch.arange(1 if config.operation == "multiply_nonzero" else 0, config.p)
    second = torch.arange(1 if config.operation in ("multiply_nonzero", "divide") else 0, config.p)
    return torch.cartesian_prod(first, second)


def answers(config: TaskConfig, inputs: Int[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """The result of the operation for each input."""
    p = config.p
    if config.operation == "parity":
        return inputs.sum(dim=1) % 2
    a, b = inputs.unbind(dim=1)
    if config.operation in S5_OPERATIONS:
        return s5_answers(config.operation, a, b)
    if config.operation == "divide":
        inverse = torch.tensor([0] + [pow(x, -1, p) for x in range(1, p)])
        return a * inverse[b] % p
    return _POLYNOMIALS[config.operation](a, b) % p
