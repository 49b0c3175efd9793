"""The real discrete Fourier transform on Z_n, for odd and even n, along one axis or two.

Component order, everywhere: constant, cos 1, sin 1, cos 2, sin 2, ... For even n the last one is the cosine of the
Nyquist frequency n/2 alone, since its sine vanishes on the integers. w_k = 2 pi k / n.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


def n_frequencies(n: int) -> int:
    """How many frequencies k = 1, 2, ... Z_n has: floor(n / 2), the Nyquist frequency included."""
    return n // 2


def angles(n: int, frequencies: Sequence[int] | Int[Tensor, " k"]) -> Float[Tensor, "k n"]:
    """w_k x in radians, for each frequency and each x = 0 .. n-1; reduced mod n first, so exact for large k x."""
    k = torch.as_tensor(frequencies, dtype=torch.int64)
    products = torch.outer(k, torch.arange(n)) % n
    return products.double() * (2 * math.pi / n)


def fourier_basis(n: int) -> Float[Tensor, "n n"]:
    """The orthonormal real Fourier basis of R^n, one component a row, float64.

    >>> basis = fourier_basis(5)
    >>> bool(torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64)))
    True
    """
    theta = angles(n, range(1, n_frequencies(n) + 1))
    pairs = rearrange(torch.stack([theta.cos(), theta.sin()]), "wave k n -> (k wave) n")
    rows = torch.cat([torch.ones(1, n, dtype=torch.float64), pairs])[:n]  # even n: the last sine is dropped
    return rows / rows.norm(dim=1, keepdim=True)


def component_frequencies(n: int) -> Int[Tensor, " n"]:
    """The frequency that each component of `fourier_basis(n)` belongs to: 0, 1, 1, 2, 2, ..."""
    return (torch.arange(n) + 1) // 2


def real_dft(x: Float[Tensor, "n *rest"]) -> Float[Tensor, "n *rest"]:
    """The real DFT along the first axis, in float64; an orthogonal map, so norms are kept."""
    return torch.tensordot(fourier_basis(x.shape[0]).to(x.device), x.double(), dims=1)


def real_dft_2d(x: Float[Tensor, "n n *rest"]) -> Float[Tensor, "n n *rest"]:
    """The real DFT along the first two axes: out[f, g] belongs to component f of the first, g of the second."""
    return real_dft(real_dft(x).transpose(0, 1)).transpose(0, 1)


def component_norms(x: Float[Tensor, "n *rest"]) -> Float[Tensor, " n"]:
    """The norm of each Fourier component along the first axis, over all other axes (Nanda et al. 2023, section 4.1)."""
    return real_dft(x).flatten(1).norm(dim=1) if x.ndim > 1 else real_dft(x).abs()


def frequency_power(x: Float[Tensor, "n *rest"]) -> Float[Tensor, " k"]:
    """Squared norm per frequency k = 1 .. floor(n/2) along the first axis: cosine plus sine; the constant left out."""
    n = x.shape[0]
    squares = component_norms(x).square()
    power = torch.zeros(n_frequencies(n) + 1, dtype=squares.dtype, device=squares.device)
    return power.index_add(0, component_frequencies(n).to(squares.device), squares)[1:]


def class_sums(
    values: Float[Tensor, "n x"], sums: Int[Tensor, " n"], order: int, rows_at_once: int = 512
) -> Float[Tensor, "g x"]:
    """The sum of the rows of each class, in float64; differentiable.

    Args:
        values: a row for each input.
        sums: the class of each row, in 0 .. order-1.
        order: number of classes.
        rows_at_once: rows converted to float64 at a time.
    """
    table = torch.zeros(order, values.shape[1], dtype=torch.float64, device=values.device)
    if values.dtype == torch.float64:
        return table.index_add(0, sums, values)
    for rows, of_rows in zip(values.split(rows_at_once), sums.split(rows_at_once), strict=True):
        table = table.index_add(0, of_rows, rows.double())
    return table


def sum_class_averages(grid: Float[Tensor, "g g c"]) -> Float[Tensor, "g c"]:
    """The mean of grid[a, b] over the pairs with a + b = s (mod g), for each s.

    The projection of the grid on functions of a + b: what the generalizing circuit of modular addition can use.
    """
    g = grid.shape[0]
    a = torch.arange(g, device=grid.device)
    sums = (a[:, None] + a[None, :]) % g
    return class_sums(grid.flatten(0, 1), sums.flatten(), g) / g


def frequency_parts(table: Float[Tensor, "g c"], frequencies: Sequence[int]) -> Float[Tensor, "k g c"]:
    """The part of each column that lies on cos w_k s and sin w_k s, for each of the frequencies.

    Applied to `sum_class_averages(L)`, row s of part k is (P_k L)[a, b] for every a + b = s: the projection of the p^2
    pairs on cos w_k(a+b), sin w_k(a+b) never needs a p^2-sized basis.
    """
    g = table.shape[0]
    theta = angles(g, frequencies).to(table.device)
    waves = torch.stack([theta.cos(), theta.sin()], dim=1)  # [k, 2, g]
    norms = waves.norm(dim=2, keepdim=True)
    waves = torch.where(norms > 1e-6, waves / norms.clamp_min(1e-6), torch.zeros_like(waves))  # Nyquist has no sine
    return waves.transpose(1, 2) @ (waves @ table.double())
