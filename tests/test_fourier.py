"""The real Fourier transform against numpy's complex transform and explicit projections."""

import numpy as np
import pytest
import torch

from grokinterp.measures.fourier import (
    angles,
    component_frequencies,
    component_norms,
    fourier_basis,
    frequency_parts,
    frequency_power,
    n_frequencies,
    real_dft,
    real_dft_2d,
    sum_class_averages,
)

SIZES = [3, 4, 5, 6, 7, 12, 13, 113, 118]
GROUPS = [3, 4, 5, 8, 11, 12]


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def real_from_complex(x: np.ndarray) -> np.ndarray:
    """Components constant, cos 1, sin 1, ... of each column, from numpy's rfft."""
    n = len(x)
    spectrum = np.fft.rfft(x, axis=0)
    rows = [spectrum[0].real / np.sqrt(n)]
    for k in range(1, n // 2 + 1):
        if 2 * k == n:
            rows.append(spectrum[k].real / np.sqrt(n))
        else:
            rows += [spectrum[k].real * np.sqrt(2 / n), -spectrum[k].imag * np.sqrt(2 / n)]
    return np.stack(rows)


@pytest.mark.parametrize("n", [1, 2, *SIZES, 401])
def test_basis_is_orthonormal(n):
    basis = fourier_basis(n)
    assert basis.shape == (n, n)
    assert basis.dtype == torch.float64
    np.testing.assert_allclose(basis @ basis.T, np.eye(n), atol=1e-13)


@pytest.mark.parametrize("n", SIZES)
def test_basis_rows_are_constant_then_cosine_before_sine(n):
    basis, x = fourier_basis(n).numpy(), np.arange(n)
    np.testing.assert_allclose(basis[0], 1 / np.sqrt(n), atol=1e-15)
    for k in range(1, (n - 1) // 2 + 1):
        np.testing.assert_allclose(basis[2 * k - 1], np.sqrt(2 / n) * np.cos(2 * np.pi * k * x / n), atol=1e-12)
        np.testing.assert_allclose(basis[2 * k], np.sqrt(2 / n) * np.sin(2 * np.pi * k * x / n), atol=1e-12)


@pytest.mark.parametrize("n", [2, 4, 6, 12, 118])
def test_nyquist_of_even_n_is_one_alternating_cosine(n):
    np.testing.assert_allclose(fourier_basis(n)[-1], (-1.0) ** np.arange(n) / np.sqrt(n), atol=1e-14)
    assert component_frequencies(n).tolist().count(n // 2) == 1


@pytest.mark.parametrize(
    ("n", "frequencies"), [(3, [0, 1, 1]), (4, [0, 1, 1, 2]), (5, [0, 1, 1, 2, 2]), (6, [0, 1, 1, 2, 2, 3])]
)
def test_each_component_names_its_frequency(n, frequencies):
    assert component_frequencies(n).tolist() == frequencies
    assert n_frequencies(n) == max(frequencies)


def test_angles_stay_exact_for_large_products():
    n = 9973
    k, x = 4986, np.arange(n)
    exact = 2 * np.pi * np.array([(k * int(i)) % n for i in x]) / n
    np.testing.assert_allclose(angles(n, [k])[0].cos(), np.cos(exact), atol=1e-15)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rest", [(), (5,), (2, 3)])
def test_real_dft_equals_numpy(n, rest):
    x = draw(n, *rest)
    np.testing.assert_allclose(real_dft(torch.tensor(x)), real_from_complex(x), atol=1e-11)


@pytest.mark.parametrize("n", SIZES)
def test_real_dft_2d_equals_numpy(n):
    x = draw(n, n)
    spectrum = np.fft.fft2(x)
    ours = real_dft_2d(torch.tensor(x)).numpy()
    wave = [(0, "cos")] + [
        (k, w) for k in range(1, n // 2 + 1) for w in ("cos", "sin") if not (w == "sin" and 2 * k == n)
    ]
    norm = [np.sqrt(n) if k == 0 or 2 * k == n else np.sqrt(n / 2) for k, _ in wave]
    expected = np.empty((n, n))
    for i, (k, first) in enumerate(wave):
        for j, (m, second) in enumerate(wave):
            plus, minus = spectrum[k, m], spectrum[k, -m]
            product = {
                ("cos", "cos"): (plus + minus).real / 2,
                ("sin", "sin"): (minus - plus).real / 2,
                ("cos", "sin"): (minus - plus).imag / 2,
                ("sin", "cos"): -(plus + minus).imag / 2,
            }[first, second]
            expected[i, j] = product / (norm[i] * norm[j])
    np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_real_dft_2d_transforms_trailing_columns_independently():
    x = draw(6, 6, 4)
    transformed = real_dft_2d(torch.tensor(x))
    for column in range(4):
        np.testing.assert_allclose(transformed[..., column], real_dft_2d(torch.tensor(x[..., column])), atol=1e-12)


@pytest.mark.parametrize("p", [5, 8, 113])
def test_cosine_of_a_sum_has_two_components(p):
    """Nanda et al. 2023: cos w(a+b) is (cos x cos - sin x sin) / sqrt 2 in the two-dimensional basis."""
    k = 2
    a = np.arange(p)
    u = np.sqrt(2) / p * np.cos(2 * np.pi * k * (a[:, None] + a[None, :]) / p)
    expected = np.zeros((p, p))
    expected[2 * k - 1, 2 * k - 1], expected[2 * k, 2 * k] = 1 / np.sqrt(2), -1 / np.sqrt(2)
    np.testing.assert_allclose(real_dft_2d(torch.tensor(u)), expected, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_parseval(n):
    x = draw(n, n)
    total = np.sum(x**2)
    assert real_dft(torch.tensor(x)).square().sum().item() == pytest.approx(total, rel=1e-12)
    assert real_dft_2d(torch.tensor(x)).square().sum().item() == pytest.approx(total, rel=1e-12)
    constant = n * np.sum(x.mean(axis=0) ** 2)
    assert frequency_power(torch.tensor(x)).sum().item() + constant == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rest", [(), (3,), (2, 2)])
def test_component_norms_and_frequency_power(n, rest):
    x = draw(n, *rest)
    squares = (real_from_complex(x).reshape(n, -1) ** 2).sum(axis=1)
    np.testing.assert_allclose(component_norms(torch.tensor(x)), np.sqrt(squares), atol=1e-11)

    magnitude = (np.abs(np.fft.rfft(x, axis=0)).reshape(n // 2 + 1, -1) ** 2).sum(axis=1)[1:]
    share = np.where(2 * np.arange(1, n // 2 + 1) == n, 1 / n, 2 / n)
    power = frequency_power(torch.tensor(x))
    assert power.shape == (n // 2,)
    np.testing.assert_allclose(power, share * magnitude, atol=1e-10)


@pytest.mark.parametrize("n", [4, 5, 118])
def test_all_power_of_a_pure_wave_is_at_its_frequency(n):
    for k in range(1, n // 2 + 1):
        wave = np.cos(2 * np.pi * k * np.arange(n) / n)
        expected = np.zeros(n // 2)
        expected[k - 1] = np.sum(wave**2)
        np.testing.assert_allclose(frequency_power(torch.tensor(wave)), expected, atol=1e-10)


def test_float32_tables_are_transformed_in_float64():
    x = torch.tensor(draw(7, 2), dtype=torch.float32)
    assert real_dft(x).dtype == torch.float64
    np.testing.assert_allclose(real_dft(x), real_from_complex(x.numpy().astype(np.float64)), atol=1e-14)


@pytest.mark.parametrize("g", GROUPS)
def test_sum_class_averages_against_a_loop(g):
    grid = draw(g, g, 3)
    expected = np.zeros((g, 3))
    for a in range(g):
        for b in range(g):
            expected[(a + b) % g] += grid[a, b] / g
    np.testing.assert_allclose(sum_class_averages(torch.tensor(grid)), expected, atol=1e-13)


def waves_of_a_sum(g: int, k: int) -> list[np.ndarray]:
    """u_k and v_k, unit vectors over the g^2 pairs; for the Nyquist frequency the sine vanishes."""
    a = np.arange(g)
    theta = (2 * np.pi * k * (a[:, None] + a[None, :]) / g).flatten()
    u = np.cos(theta) / np.linalg.norm(np.cos(theta))
    return [u] if 2 * k == g else [u, np.sin(theta) / np.linalg.norm(np.sin(theta))]


@pytest.mark.parametrize("g", GROUPS)
def test_frequency_parts_are_the_projections_of_all_pairs(g):
    grid = draw(g, g, 4)
    frequencies = list(range(1, g // 2 + 1))
    parts = frequency_parts(sum_class_averages(torch.tensor(grid)), frequencies).numpy()
    assert parts.shape == (len(frequencies), g, 4)
    sums = (np.arange(g)[:, None] + np.arange(g)[None, :]) % g
    flat = grid.reshape(g * g, 4)
    for part, k in zip(parts, frequencies, strict=True):
        projected = sum(np.outer(wave, wave @ flat) for wave in waves_of_a_sum(g, k))
        np.testing.assert_allclose(part[sums].reshape(g * g, 4), projected, atol=1e-12)


@pytest.mark.parametrize("g", GROUPS)
def test_all_frequency_parts_and_the_mean_make_up_the_table(g):
    table = draw(g, 3)
    parts = frequency_parts(torch.tensor(table), range(1, g // 2 + 1)).numpy()
    np.testing.assert_allclose(parts.sum(axis=0) + table.mean(axis=0), table, atol=1e-12)


def test_frequency_parts_follow_the_order_of_the_frequencies():
    table = torch.tensor(draw(11, 2))
    together = frequency_parts(table, [4, 1])
    np.testing.assert_allclose(together[0], frequency_parts(table, [4])[0], atol=1e-15)
    np.testing.assert_allclose(together[1], frequency_parts(table, [1])[0], atol=1e-15)


def test_no_frequencies_give_no_parts():
    assert frequency_parts(torch.tensor(draw(5, 2)), []).shape == (0, 5, 2)
