"""Logits of many inputs without gradients, a chunk of rows at a time, so that what is between stays in the cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from grokinterp.config import TransformerConfig
from grokinterp.models.forward import ACTIVATIONS, Folded, Weights, fold
from grokinterp.models.products import product

# Numbers in the widest array of a chunk: 8 MB of float32, which stay in the third-level cache. Smaller chunks, for the
# second level, lose more to starting products than they win.
_CHUNK = 2_000_000


def row_chunks(n: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of 0 .. n of nearly equal length, of about 8 MB where a row is `width` numbers; one slice on a GPU."""
    target = max(_CHUNK // width, 64) if device.type == "cpu" else n
    count = max(-(-n // target), 1)
    size = -(-n // count)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


@torch.no_grad()
def logits_by_rows(
    logits: Callable[[Weights, Tensor], Tensor],
    weights: Weights,
    tokens: Real[Tensor, "n t"],
    width: int,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "n c"]:
    """Logits of all inputs by a forward pass that is called on one chunk of rows after another.

    Args:
        logits: the forward pass.
        weights: its weights.
        tokens: the inputs.
        width: numbers in the widest activation of one row.
        dtype: of the result; by default the weights'.
    """
    out: Tensor | None = None
    for rows in row_chunks(len(tokens), width, tokens.device):
        found = logits(weights, tokens[rows])
        if out is None:
            out = found.new_empty(len(tokens), found.shape[1], dtype=dtype or found.dtype)
        out[rows] = found
    assert out is not None  # there is no task without inputs
    return out


@dataclass(frozen=True)
class Attended:
    """What the last position of some pairs attends to, position by position, without gradients.

    Attributes:
        attention: for each position, `[n, h, 1]`.
        values: for each position, `[n, h, e]`, or `[1, h, e]` for that of `=`.
        z: the values it gathers, `[n, h e]`.
    """

    attention: list[Float[Tensor, "_ h 1"]]
    values: list[Float[Tensor, "_ h e"]]
    z: Float[Tensor, "n z"]


def attend_rows(
    folded: Folded, score_rows: Sequence[Tensor | None], value_rows: Sequence[Tensor | None], heads: int
) -> Attended:
    """Attention of some pairs, given by their rows in the tables of `folded` (see `Folded.rows`)."""
    scores = [_rows(table, row) for table, row in zip(folded.scores, score_rows, strict=True)]
    attention = _softmax(scores)
    values = [_rows(table, row).unflatten(1, (heads, -1)) for table, row in zip(folded.values, value_rows, strict=True)]
    z = attention[0] * values[0]
    for share, value in zip(attention[1:], values[1:], strict=True):
        z.addcmul_(share, value)
    return Attended(attention, values, z.flatten(1))


def _softmax(scores: list[Tensor]) -> list[Tensor]:
    """Over a handful of positions held apart: on so short an axis PyTorch's own is slow."""
    largest = scores[0]
    for score in scores[1:]:
        largest = torch.maximum(largest, score)
    powers = [(score - largest).exp_() for score in scores]
    total = powers[0] + sum(powers[1:])
    return [(power / total)[:, :, None] for power in powers]


def _rows(table: Tensor, row: Tensor | None) -> Tensor:
    return table if row is None else table.index_select(0, row)


def pick(rows: Sequence[Tensor | None], which: slice) -> list[Tensor | None]:
    """A part of each tensor; None stays None."""
    return [None if row is None else row[which] for row in rows]


def neurons_before(folded: Folded, z: Tensor, last: Tensor | None, relu: bool) -> Float[Tensor, "n m"]:
    """The neurons' input, or with `relu` what ReLU makes of it."""
    if last is None:
        return product(z, folded.to_neurons, folded.neuron_offset[0], relu=relu)
    before = product(z, folded.to_neurons, plus=folded.neuron_offset[last])
    return before.relu_() if relu else before


def logits_of(folded: Folded, z: Tensor, neurons: Tensor, last: Tensor | None) -> Float[Tensor, "n c"]:
    """The logits of attended values and neurons."""
    if last is None:
        direct = product(z, folded.direct, folded.logit_offset[0])
    else:
        direct = product(z, folded.direct, plus=folded.logit_offset[last])
    return product(neurons, folded.readout, plus=direct)


def _last_position_chunks(
    folded: Folded, tokens: Tensor, config: TransformerConfig
) -> Iterator[tuple[slice, Attended, Tensor, Tensor | None]]:
    score_rows, value_rows, last_rows = folded.rows(tokens)
    relu = config.activation == "relu"
    for rows in row_chunks(len(tokens), config.d_mlp, tokens.device):
        attended = attend_rows(folded, pick(score_rows, rows), pick(value_rows, rows), config.n_heads)
        last = None if last_rows is None else last_rows[rows]
        before = neurons_before(folded, attended.z, last, relu)
        yield rows, attended, before if relu else ACTIVATIONS[config.activation](before), last


@torch.no_grad()
def last_position_by_rows(
    weights: Weights, tokens: Int[Tensor, "n t"], config: TransformerConfig, dtype: torch.dtype | None = None
) -> Float[Tensor, "n c"]:
    """What `last_position` gives as logits, with its weight products made once for all chunks.

    Args:
        weights: under TransformerLens names.
        tokens: the inputs.
        config: the architecture, of which `has_last_position_form` must hold.
        dtype: of the result; by default the weights'.
    """
    folded = fold(weights, config, product)
    out = tokens.new_empty(len(tokens), folded.readout.shape[1], dtype=dtype or folded.readout.dtype)
    for rows, attended, neurons, last in _last_position_chunks(folded, tokens, config):
        out[rows] = logits_of(folded, attended.z, neurons, last)
    return out


@torch.no_grad()
def last_position_activity(
    weights: Weights, tokens: Int[Tensor, "n t"], config: TransformerConfig
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "m c"], Float[Tensor, "n h t"]]:
    """What `last_position` gives as neurons, as what they add to the logits, and as attention."""
    folded = fold(weights, config, product)
    neurons = folded.readout.new_empty(len(tokens), config.d_mlp)
    attention = neurons.new_empty(len(tokens), config.n_heads, tokens.shape[1])
    for rows, attended, of_rows, _ in _last_position_chunks(folded, tokens, config):
        neurons[rows] = of_rows
        attention[rows] = torch.cat(attended.attention, dim=2)
    return neurons, folded.readout, attention
