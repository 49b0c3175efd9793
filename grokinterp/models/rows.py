"""Logits of many inputs without gradients, a chunk of rows at a time, so that the activations stay in the CPU cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from grokinterp.config import TransformerConfig
from grokinterp.models.forward import ACTIVATIONS, Folded, Weights, fold, gather
from grokinterp.models.products import product

# Numbers in the widest array of a chunk: 8 MB of float32, which stay in the third-level cache. Smaller chunks, for the
# second-level cache, lose more time by starting products than they save.
_CHUNK = 2_000_000


def row_chunks(n: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of 0 .. n of nearly equal length: about 8 MB each for rows of `width` numbers; on a GPU, one slice."""
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
    """Computes the logits of all inputs by calling a forward pass on one chunk of rows at a time.

    Args:
        logits: function of weights and `[n, t]` tokens to `[n, c]` logits.
        weights: the weights by name.
        tokens: `[n, t]`, the inputs, at least one.
        width: numbers per row in the widest activation.
        dtype: dtype of the result (default: that of the weights).
    """
    chunks = row_chunks(len(tokens), width, tokens.device)
    rows = next(chunks)
    chunk = logits(weights, tokens[rows])
    out = chunk.new_empty(len(tokens), chunk.shape[1], dtype=dtype or chunk.dtype)
    out[rows] = chunk
    for rows in chunks:
        out[rows] = logits(weights, tokens[rows])
    return out


@dataclass(frozen=True)
class Attended:
    """Attention from the last position of some pairs, without gradients.

    Attributes:
        attention: for each position, `[n, h, 1]`, the attention to it.
        values: for each position, `[n, h, e]`, or `[1, h, e]` for `=`.
        z: `[n, h e]`, the sum of the values weighted by attention.
    """

    attention: list[Float[Tensor, "_ h 1"]]
    values: list[Float[Tensor, "_ h e"]]
    z: Float[Tensor, "n z"]


def attend_rows(
    folded: Folded, score_rows: Sequence[Tensor | None], value_rows: Sequence[Tensor | None], heads: int
) -> Attended:
    """Computes the attention of some pairs, given by their rows in the tables of `folded` (see `Folded.rows`)."""
    scores = [gather(table, row) for table, row in zip(folded.scores, score_rows, strict=True)]
    attention = _softmax(scores)
    values = [
        gather(table, row).unflatten(1, (heads, -1)) for table, row in zip(folded.values, value_rows, strict=True)
    ]
    z = attention[0] * values[0]
    for share, value in zip(attention[1:], values[1:], strict=True):
        z.addcmul_(share, value)
    return Attended(attention, values, z.flatten(1))


def _softmax(scores: list[Tensor]) -> list[Tensor]:
    """Softmax over a few positions in separate tensors: on so short an axis, PyTorch's softmax is slow."""
    largest = reduce(torch.maximum, scores)
    powers = [(score - largest).exp_() for score in scores]
    total = powers[0] + sum(powers[1:])
    return [(power / total)[:, :, None] for power in powers]


def pick(tensors: Sequence[Tensor | None], rows: slice) -> list[Tensor | None]:
    """Selects rows of each tensor; None stays None."""
    return [None if tensor is None else tensor[rows] for tensor in tensors]


def neurons_before(folded: Folded, z: Tensor, last: Tensor | None, relu: bool) -> Float[Tensor, "n m"]:
    """Computes the input of the neurons, or with `relu` the output of ReLU."""
    return product(z, folded.to_neurons, folded.neuron_offset[0 if last is None else last], relu=relu)


def logits_of(folded: Folded, z: Tensor, neurons: Tensor, last: Tensor | None) -> Float[Tensor, "n c"]:
    """Computes the logits from attended values and neurons."""
    direct = product(z, folded.direct, folded.logit_offset[0 if last is None else last])
    return product(neurons, folded.readout, direct)


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
    """Computes the logits of `last_position`, with the weight products computed once for all chunks.

    Args:
        weights: the weights by their TransformerLens names.
        tokens: `[n, t]`, the inputs.
        config: the architecture; `has_last_position_form` must hold.
        dtype: dtype of the result (default: that of the weights).
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
    """Computes the neurons, the neuron-logit map and the attention of `last_position`."""
    folded = fold(weights, config, product)
    neurons = folded.readout.new_empty(len(tokens), config.d_mlp)
    attention = neurons.new_empty(len(tokens), config.n_heads, tokens.shape[1])
    for rows, attended, chunk, _ in _last_position_chunks(folded, tokens, config):
        neurons[rows] = chunk
        attention[rows] = torch.cat(attended.attention, dim=2)
    return neurons, folded.readout, attention
