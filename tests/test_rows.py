"""Logits computed a chunk of rows at a time: every row once, and the same numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.models import build_model, forward_for, rows
from grokinterp.models.rows import row_chunks
from grokinterp.tasks import Task

P = 17
SMALL = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
# The forward path, and an architecture that takes it.
PATHS: dict[str, tuple[str, Any]] = {
    "=": ("last_position", SMALL),
    "no =": ("last_position", replace(SMALL, equals_token=False)),
    "class of =": ("last_position", replace(SMALL, equals_logit=True)),
    "gelu": ("last_position", replace(SMALL, activation="gelu")),
    "gelu, no =": ("last_position", replace(SMALL, activation="gelu", equals_token=False)),
    "two layers": ("prefix", replace(SMALL, n_layers=2)),
    "layernorm, no =": ("prefix", replace(SMALL, normalization="layernorm", equals_token=False)),
    "mlp": ("mlp", MLPConfig(width=24)),
    "residual mlp": ("mlp", MLPConfig(input="sum", architecture="residual", width=24)),
    "plain module": ("module", SMALL),
}


@pytest.mark.parametrize("width", [1, 24, 512, 10_000, 1_000_000])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 127, 128, 129, 976, 3830, 3906, 3907, 12_769])
def test_every_row_is_in_one_chunk_in_order(n, width):
    chunks = list(row_chunks(n, width, torch.device("cpu")))
    assert [row for chunk in chunks for row in range(n)[chunk]] == list(range(n))
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert min(sizes) >= 1
    assert max(sizes) <= max(rows._CHUNK // width, 64)
    assert max(sizes) - min(sizes) <= len(sizes), "nearly equal: no chunk is a small remainder"


@pytest.mark.parametrize("device", ["cuda", "mps", "meta"])
def test_other_devices_compute_all_rows_at_once(device):
    assert list(row_chunks(12_769, 512, torch.device(device))) == [slice(0, 12_769)]


def small_chunks(monkeypatch) -> None:
    """The 289 pairs in 5 chunks of 58, the last one shorter."""
    monkeypatch.setattr(rows, "_CHUNK", 0)
    sizes = [chunk.stop - chunk.start for chunk in row_chunks(P * P, 24, torch.device("cpu"))]
    assert sizes == [58, 58, 58, 58, 57]


def randomized(config: Any, task: Task) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    weights = {}
    for name, parameter in build_model(config, task).named_parameters():
        weights[name] = (0.4 * torch.randn(parameter.shape, generator=generator)).requires_grad_()
    return weights


def task_for(config: Any) -> Task:
    return Task.of("add", P, train_fraction=0.5, equals_token=getattr(config, "equals_token", False))


@pytest.mark.parametrize("chunks", ["one chunk", "five chunks"])
@pytest.mark.parametrize("name", PATHS)
def test_logits_by_rows_equal_the_logits(name, chunks, matrix_products, monkeypatch):
    path, config = PATHS[name]
    task = task_for(config)
    forward = forward_for(config, task, plain=path == "module")
    assert forward.path == path
    if chunks == "five chunks":
        small_chunks(monkeypatch)
    weights = randomized(config, task)
    by_rows = forward.logits_by_rows(weights, task.tokens)
    assert by_rows.dtype == torch.float32
    assert not by_rows.requires_grad
    with torch.no_grad():
        expected = forward.logits(weights, task.tokens)
    assert by_rows.shape == expected.shape
    assert (by_rows - expected).norm() <= 1e-6 * expected.norm()

    exact = {name: weight.detach().double() for name, weight in weights.items()}
    if path != "module":  # its weights and buffers are float32
        expected = forward.logits(exact, task.tokens)
        torch.testing.assert_close(forward.logits_by_rows(exact, task.tokens), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_the_result_has_the_requested_dtype_and_the_same_numbers(name, monkeypatch):
    """Logits are computed in the dtype of the weights and then converted."""
    path, config = PATHS[name]
    task = task_for(config)
    small_chunks(monkeypatch)
    forward = forward_for(config, task, plain=path == "module")
    weights = randomized(config, task)
    wide = forward.logits_by_rows(weights, task.tokens, dtype=torch.float64)
    assert wide.dtype == torch.float64
    assert torch.equal(wide, forward.logits_by_rows(weights, task.tokens).double())


@pytest.mark.parametrize("name", PATHS)
def test_inputs_may_be_any_selection_in_any_order(name):
    path, config = PATHS[name]
    task = task_for(config)
    forward = forward_for(config, task, plain=path == "module")
    weights = randomized(config, task)
    selection = torch.tensor([288, 0, 5, 5, 17])
    part = forward.logits_by_rows(weights, task.tokens[selection])
    expected = forward.logits_by_rows(weights, task.tokens)
    torch.testing.assert_close(part, expected[selection], rtol=1e-5, atol=1e-5)
    single = forward.logits_by_rows(weights, task.tokens[selection[:1]])
    torch.testing.assert_close(single, expected[selection[:1]], rtol=1e-5, atol=1e-5)
