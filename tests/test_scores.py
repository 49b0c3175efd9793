"""Fast forms of losses and spectra against slow, obvious ones, where precision is easily lost."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from grokinterp.measures import (
    Activity,
    Snapshot,
    cosine_coefficients,
    excluded_loss,
    excluded_loss_novel,
    excluded_loss_per_frequency,
    loss,
    neuron_frequencies,
    restricted_loss,
    restricted_loss_novel,
    restricted_loss_per_frequency,
)
from grokinterp.measures.scores import cross_entropy_by_input
from grokinterp.runs.run import Run
from grokinterp.tasks import Task

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def long_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross entropy of each row in extended precision: log(1 + sum over wrong classes of exp(l_j - l_y))."""
    logits = logits.astype(np.longdouble)
    gaps = logits - logits[np.arange(len(labels)), labels][:, None]
    gaps[np.arange(len(labels)), labels] = -np.inf
    largest = gaps.max(axis=1, keepdims=True)
    odds = np.exp(gaps - largest).sum(axis=1)
    small = np.log1p(odds * np.exp(np.minimum(largest[:, 0], 0)))
    large = largest[:, 0] + np.log(odds + np.exp(-np.maximum(largest[:, 0], 0)))
    return np.where(largest[:, 0] < 0, small, large)


@pytest.mark.parametrize("gap", [-60.0, -5.0, 0.0, 5.0, 20.0, 40.0, 80.0])
def test_a_loss_keeps_its_digits_however_small_or_large(gap):
    labels = torch.arange(50) % 7
    logits = normal(50, 7)
    logits[torch.arange(50), labels] += gap
    expected = long_losses(logits.numpy(), labels.numpy())
    np.testing.assert_allclose(cross_entropy_by_input(logits, labels), expected.astype(float), rtol=1e-12)


def test_with_gradients_the_loss_is_the_same_and_its_gradient_is_softmax_minus_label():
    labels, logits = torch.arange(30) % 5, normal(30, 5).requires_grad_()
    losses = cross_entropy_by_input(logits, labels)
    torch.testing.assert_close(losses.detach(), cross_entropy_by_input(logits.detach(), labels), rtol=1e-14, atol=0)
    losses.sum().backward()
    expected = logits.detach().softmax(dim=1) - torch.nn.functional.one_hot(labels, 5)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-15)


def test_impossible_classes_and_nan_logits():
    labels = torch.zeros(3, dtype=torch.int64)
    logits = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0], [math.nan, 0.0]], dtype=torch.float64)
    losses = cross_entropy_by_input(logits, labels)
    assert losses[0] == 0
    assert losses[1] == math.inf
    assert losses[2].isnan()


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 3000.0])
@pytest.mark.parametrize("p", [12, 13])
def test_excluded_losses_of_all_frequencies_at_any_scale_of_the_logits(scale, p):
    """From a scale of 300 on, the multiplied exponentials underflow and those losses are computed directly."""
    task = Task.modular_addition(p, 0.5)
    a, b, c = np.meshgrid(*[np.arange(p)] * 3, indexing="ij")
    logits = normal(p * p, p) + 5 * torch.from_numpy(np.cos(2 * np.pi * 3 * (a + b - c) / p)).reshape(p * p, p)
    snapshot = Snapshot.from_logits(task, scale * logits)
    train = task.train_mask.numpy()
    sums = (task.inputs.sum(dim=1) % p).numpy()
    L = snapshot.logits.numpy()
    expected = []
    for k in range(1, p // 2 + 1):
        part = np.zeros_like(L)
        for wave in (np.cos(2 * np.pi * k * sums / p), np.sin(2 * np.pi * k * sums / p)):
            norm = (wave**2).sum()
            part += np.outer(wave, wave @ L) / norm if norm > 1e-9 else 0.0
        expected.append(float(long_losses((L - part)[train], task.labels.numpy()[train]).mean()))
    # The projection rounds at 1e-16 of the logits, and a loss cannot be more accurate than its logits.
    tolerance = {"rel": 1e-9, "abs": 1e-13 * scale}
    assert excluded_loss_per_frequency(snapshot).tolist() == pytest.approx(expected, **tolerance)


def test_nan_logits_give_nan_without_an_error():
    logits = normal(121, 11)
    logits[7, 3] = math.nan
    snapshot = Snapshot.from_logits(Task.modular_addition(11, 0.9), logits)
    assert math.isnan(loss(snapshot))
    assert excluded_loss_per_frequency(snapshot, subset="all").isnan().all()


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("p", [10, 11])
def test_neuron_frequencies_by_two_dimensional_fourier_sums(p, offset):
    """All eight products of waves of a and of b, for each frequency, by brute force."""
    neurons = normal(p * p, 5) + offset
    snapshot = Snapshot(Task.modular_addition(p), normal(p * p, p), activity=lambda: Activity(neurons))
    frequencies = neuron_frequencies(snapshot)
    grid = neurons.numpy().reshape(p, p, 5)
    grid = grid - grid.mean(axis=(0, 1))
    x = np.arange(p)
    for m in range(5):
        shares = []
        for k in range(1, p // 2 + 1):
            angle = 2 * np.pi * k * x / p
            waves = [np.ones(p), np.cos(angle), np.sin(angle)]
            waves = [wave / np.linalg.norm(wave) for wave in waves if np.linalg.norm(wave) > 1e-9]
            squares = [(u @ grid[:, :, m] @ v) ** 2 for i, u in enumerate(waves) for j, v in enumerate(waves) if i or j]
            shares.append(sum(squares) / (grid[:, :, m] ** 2).sum())
        assert frequencies.frequency[m] == 1 + np.argmax(shares)
        assert frequencies.explained[m].item() == pytest.approx(max(shares), rel=1e-9)


@pytest.mark.parametrize("step", [0, 1000, 2500])
def test_a_real_checkpoint_against_the_textbook_formulas(step):
    """Restricted, excluded and cross-fitted losses and coefficients of run42, from p^3 arrays and design matrices."""
    snapshot, keys = Run.open(RUN42).snapshot(step), [8, 14, 21]
    task, p = snapshot.task, snapshot.task.p
    L, labels, train = snapshot.logits.numpy(), task.labels.numpy(), task.train_mask.numpy()
    sums = (task.inputs.sum(dim=1) % p).numpy()
    waves = {k: [f(2 * np.pi * k * sums / p) for f in (np.cos, np.sin)] for k in range(1, p // 2 + 1)}
    part = {k: sum(np.outer(w, w @ L) / (w @ w) for w in waves[k]) for k in waves}
    key_part = sum(part[k] for k in keys)
    mean = L.mean(axis=0)

    def mean_loss(logits, rows=slice(None)):
        return float(long_losses(logits[rows], labels[rows]).mean())

    close = {"rel": 1e-9, "abs": 1e-15}
    assert loss(snapshot) == pytest.approx(mean_loss(L), **close)
    assert restricted_loss(snapshot, keys) == pytest.approx(mean_loss(key_part + mean), **close)
    assert excluded_loss(snapshot, keys) == pytest.approx(mean_loss(L - key_part, train), **close)
    sample = (1, 8, 33)
    excluded, restricted = excluded_loss_per_frequency(snapshot), restricted_loss_per_frequency(snapshot)
    assert [excluded[k - 1].item() for k in sample] == pytest.approx(
        [mean_loss(L - part[k], train) for k in sample], **close
    )
    assert [restricted[k - 1].item() for k in sample] == pytest.approx(
        [mean_loss(part[k] + mean) for k in sample], **close
    )

    cube = L.reshape(p, p, p)
    a, b, c = np.meshgrid(*[np.arange(p)] * 3, indexing="ij")
    centered = cube - cube.mean(axis=2, keepdims=True)
    coefficients = cosine_coefficients(snapshot)
    for k in sample:
        cosine = np.cos(2 * np.pi * k * (a + b - c) / p)
        expected = (centered * cosine).sum() / (cosine**2).sum()
        assert coefficients[k - 1].item() == pytest.approx(expected, rel=1e-9, abs=1e-14)

    held_out = task.novel_mask.numpy()
    design = np.stack([np.ones(p * p), *(w for k in keys for w in waves[k])], axis=1)
    fit = np.linalg.lstsq(design[held_out], L[held_out], rcond=None)[0]
    assert restricted_loss_novel(snapshot, keys) == pytest.approx(mean_loss(design @ fit, train), rel=1e-9)
    without = L - design[:, 1:] @ fit[1:]
    assert excluded_loss_novel(snapshot, keys) == pytest.approx(mean_loss(without, train), rel=1e-9)
