"""The symmetric group S5: its 120 elements, their multiplication table, and the operations on them.

Element i is the i-th permutation of (0, 1, 2, 3, 4) in lexicographic order, so element 0 is the identity. A permutation
x is stored as the row of its values x(0) ... x(4). Permutations compose like functions: (x y)(i) = x(y(i)), y first.
Power et al. 2022 (arXiv:2201.02177, code) compose in the other order, x first: their x y is our y x, their x y x is the
same as ours, and their x y x^-1 is our x^-1 y x. Both conventions give the same task up to the names of operands and
classes.
"""

from itertools import permutations

import torch
from jaxtyping import Int
from torch import Tensor


def s5_elements() -> Int[Tensor, "120 5"]:
    """All permutations of (0, 1, 2, 3, 4), one per row: column i of row x contains x(i).

    >>> s5_elements()[:2].tolist()
    [[0, 1, 2, 3, 4], [0, 1, 2, 4, 3]]
    """
    return torch.tensor(list(permutations(range(5))))


def s5_table() -> Int[Tensor, "120 120"]:
    """The multiplication table: row x and column y contain the number of the element x y (first y, then x).

    >>> swap_first_two, swap_last_two = 24, 1
    >>> s5_elements()[s5_table()[swap_first_two, swap_last_two]].tolist()
    [1, 0, 2, 4, 3]
    """
    elements = s5_elements()
    return _numbers(elements[:, elements])  # [x, y, i] is x(y(i))


def s5_inverses() -> Int[Tensor, " 120"]:
    """The number of each element's inverse."""
    return _numbers(s5_elements().argsort(dim=1))


def s5_answers(operation: str, x: Int[Tensor, " n"], y: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The number of x y, x y x or x y x^-1 for each pair of elements.

    Args:
        operation: `s5_xy`, `s5_xyx` or `s5_xyx^-1`.
        x: `[n]`, numbers of the first elements.
        y: `[n]`, numbers of the second elements.
    """
    table = s5_table()
    product = table[x, y]
    if operation == "s5_xy":
        return product
    return table[product, x if operation == "s5_xyx" else s5_inverses()[x]]


def _numbers(rows: Int[Tensor, "*shape 5"]) -> Int[Tensor, "*shape"]:
    digits = 5 ** torch.arange(4, -1, -1)  # numbers in base 5 have the lexicographic order of the permutations
    return torch.searchsorted((s5_elements() * digits).sum(dim=1), (rows * digits).sum(dim=-1))
