"""The real discrete Fourier transform on Z_n, for odd and even n, along one axis or two.

The components are always in the order constant, cos 1, sin 1, cos 2, sin 2, ..., with angular frequencies
w_k = 2 pi k / n. For even n the last component is the cosine of the Nyquist frequency n/2, whose sine is zero on the
integers and has no component.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


def n_frequencies(n: int) -> int:
    """The number of frequencies k = 1, 2, ... on Z_n: floor(n / 2), including the Nyquist frequency.

    >>> n_frequencies(113), n_frequencies(8)
    (56, 4)
    """
    return n // 2


def angles(n: int, frequencies: Sequence[int] | Int[Tensor, " k"]) -> Float[Tensor, "k n"]:
    """The angles w_k x in radians, for each frequency k and each x = 0 .. n-1.

    >>> angles(4, [1]).tolist() == [[0.0, torch.pi / 2, torch.pi, 3 * torch.pi / 2]]
    True

    k x is reduced mod n first, so large products lose no digits.
    """
    k = torch.as_tensor(frequencies, dtype=torch.int64)
    products = torch.outer(k, torch.arange(n)) % n
    return products.double() * (2 * math.pi / n)


def fourier_basis(n: int) -> Float[Tensor, "n n"]:
    """The orthonormal real Fourier basis of R^n in float64, one component per row.

    >>> basis = fourier_basis(5)
    >>> bool(torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64)))
    True
    """
    theta = angles(n, range(1, n_frequencies(n) + 1))
    pairs = rearrange(torch.stack([theta.cos(), theta.sin()]), "wave k n -> (k wave) n")
    rows = torch.cat([torch.ones(1, n, dtype=torch.float64), pairs])[:n]  # drops the last sine for even n
    return rows / rows.norm(dim=1, keepdim=True)


def component_frequencies(n: int) -> Int[Tensor, " n"]:
    """The frequency of each component (row) of `fourier_basis(n)`.

    >>> component_frequencies(6).tolist()
    [0, 1, 1, 2, 2, 3]
    """
    return (torch.arange(n) + 1) // 2


def real_dft(x: Float[Tensor, "n *rest"]) -> Float[Tensor, "n *rest"]:
    """The real DFT along the first axis, in float64. It is orthogonal, so it preserves norms.

    >>> x = torch.randn(7, 2, dtype=torch.float64)
    >>> bool(torch.isclose(real_dft(x).norm(), x.norm()))
    True
    """
    return torch.tensordot(fourier_basis(x.shape[0]).to(x.device), x.double(), dims=1)


def real_dft_2d(x: Float[Tensor, "n n *rest"]) -> Float[Tensor, "n n *rest"]:
    """The real DFT along the first two axes: out[f, g] is component f along the first and g along the second.

    >>> x = torch.randn(5, 5, 3, dtype=torch.float64)
    >>> real_dft_2d(x).shape
    torch.Size([5, 5, 3])
    """
    return real_dft(real_dft(x).transpose(0, 1)).transpose(0, 1)


def component_norms(x: Float[Tensor, "n *rest"]) -> Float[Tensor, " n"]:
    """The norm of each Fourier component along the first axis, taken over all other axes.

    >>> component_norms(torch.ones(9, 1)).round().tolist()  # only the constant
    [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    For an embedding `[n, d]` these are the n norms of Nanda et al. 2023, section 4.1.
    """
    return real_dft(x).flatten(1).norm(dim=1) if x.ndim > 1 else real_dft(x).abs()


def frequency_power(x: Float[Tensor, "n *rest"]) -> Float[Tensor, " k"]:
    """The squared norm at each frequency k = 1 .. floor(n/2) along the first axis, cosine plus sine.

    >>> x = torch.arange(7)
    >>> frequency_power(torch.cos(2 * torch.pi * 2 * x / 7)).round(decimals=3).abs().tolist()
    [0.0, 3.5, 0.0]

    Args:
        x: `[n, ...]`.

    Returns:
        `[k]`, summed over all other axes; the constant is left out.
    """
    return power_by_frequency(component_norms(x).square())


def power_by_frequency(squares: Float[Tensor, "n *rest"]) -> Float[Tensor, "k *rest"]:
    """Adds up the squares of the components of each frequency k = 1 .. floor(n/2); the constant is left out.

    >>> power_by_frequency(torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0])).tolist()
    [3.0, 7.0]
    """
    n = len(squares)
    power = squares.new_zeros(n_frequencies(n) + 1, *squares.shape[1:])
    return power.index_add(0, component_frequencies(n).to(squares.device), squares)[1:]


def class_sums(
    values: Float[Tensor, "n x"], sums: Int[Tensor, " n"], order: int, rows_at_once: int = 512
) -> Float[Tensor, "g x"]:
    """Adds up the rows of each class, in float64; differentiable.

    >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 0]), order=2).tolist()
    [[5.0], [2.0]]

    Args:
        values: `[n, x]`, one row for each input.
        sums: `[n]`, the class of each row, in 0 .. order-1.
        order: number of classes g.
        rows_at_once: number of rows converted to float64 at a time.

    Returns:
        `[g, x]`, the sum for each class.
    """
    table = torch.zeros(order, values.shape[1], dtype=torch.float64, device=values.device)
    if values.dtype == torch.float64:
        return table.index_add(0, sums, values)
    for rows, classes in zip(values.split(rows_at_once), sums.split(rows_at_once), strict=True):
        table = table.index_add(0, classes, rows.double())
    return table


def sum_class_averages(grid: Float[Tensor, "g g c"]) -> Float[Tensor, "g c"]:
    """The mean of grid[a, b] over the pairs with a + b = s (mod g), for each s.

    >>> grid = torch.arange(3.0)[:, None, None].expand(3, 3, 1)  # the value a
    >>> sum_class_averages(grid).flatten().tolist()
    [1.0, 1.0, 1.0]

    This projects the grid on functions of a + b, the only part that a generalizing circuit for modular addition uses.
    """
    g = grid.shape[0]
    a = torch.arange(g, device=grid.device)
    sums = (a[:, None] + a[None, :]) % g
    return class_sums(grid.flatten(0, 1), sums.flatten(), g) / g


def frequency_parts(table: Float[Tensor, "g c"], frequencies: Sequence[int]) -> Float[Tensor, "k g c"]:
    """The projection of each column on cos w_k s and sin w_k s, separately for each frequency.

    >>> table = torch.cos(angles(7, [2])).T  # [7, 1]
    >>> parts = frequency_parts(table, [1, 2])
    >>> bool(torch.allclose(parts[1], table)), bool(parts[0].abs().max() < 1e-9)
    (True, True)

    Row s of part k of `sum_class_averages(L)` is (P_k L)[a, b] for every a + b = s, so projecting all p^2 pairs on
    cos w_k(a+b) and sin w_k(a+b) needs no basis of size p^2.

    Args:
        table: `[g, c]`, one row for each s = 0 .. g-1.
        frequencies: the frequencies k.

    Returns:
        `[k, g, c]`, in float64.
    """
    g = table.shape[0]
    theta = angles(g, frequencies).to(table.device)
    waves = torch.stack([theta.cos(), theta.sin()], dim=1)  # [k, 2, g]
    norms = waves.norm(dim=2, keepdim=True)
    waves = torch.where(norms > 1e-6, waves / norms.clamp_min(1e-6), 0.0)  # the sine of Nyquist is zero
    return waves.transpose(1, 2) @ (waves @ table.double())
