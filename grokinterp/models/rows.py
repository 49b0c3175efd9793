"""Logits of many inputs without gradients, a chunk of rows at a time, so that the activations stay in the CPU cache."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from grokinterp.config import TransformerConfig
from grokinterp.models.folding import Attended, Folded, PairRows, Weights, attend, fold, offset_of, pair_rows
from grokinterp.models.forward import ACTIVATIONS, Activations
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


def neurons_before(folded: Folded, z: Tensor, rows: PairRows, relu: bool) -> Float[Tensor, "*r n m"]:
    """Computes the input of the neurons, or with `relu` the output of ReLU."""
    return product(z, folded.to_neurons, offset_of(folded.neuron_offset, rows), relu=relu)


def logits_of(folded: Folded, z: Tensor, neurons: Tensor, rows: PairRows) -> Float[Tensor, "*r n c"]:
    """Computes the logits from attended values and neurons."""
    direct = product(z, folded.direct, offset_of(folded.logit_offset, rows))
    return product(neurons, folded.readout, direct)


def _last_position_chunks(
    folded: Folded, tokens: Tensor, config: TransformerConfig
) -> Iterator[tuple[slice, Attended, Tensor, PairRows]]:
    of_all, relu = pair_rows(folded, tokens), config.activation == "relu"
    for pairs in row_chunks(len(tokens), config.d_mlp, tokens.device):
        rows = of_all.part(pairs)
        attended = attend(folded, rows, config.n_heads)
        before = neurons_before(folded, attended.z, rows, relu)
        yield pairs, attended, before if relu else ACTIVATIONS[config.activation](before), rows


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
    for pairs, attended, neurons, rows in _last_position_chunks(folded, tokens, config):
        out[pairs] = logits_of(folded, attended.z, neurons, rows)
    return out


@torch.no_grad()
def last_position_pre_activations(
    weights: Weights, tokens: Int[Tensor, "n t"], config: TransformerConfig
) -> Float[Tensor, "n m"]:
    """Computes what the activation function of `last_position` is applied to."""
    folded = fold(weights, config, product)
    of_all, out = pair_rows(folded, tokens), folded.readout.new_empty(len(tokens), config.d_mlp)
    for pairs in row_chunks(len(tokens), config.d_mlp, tokens.device):
        rows = of_all.part(pairs)
        out[pairs] = neurons_before(folded, attend(folded, rows, config.n_heads).z, rows, False)
    return out


@torch.no_grad()
def last_position_activations(
    weights: Weights, tokens: Int[Tensor, "n t"], config: TransformerConfig, dtype: torch.dtype | None = None
) -> Activations:
    """Computes the logits as `last_position_by_rows` does, and keeps the neurons and the attention."""
    folded = fold(weights, config, product)
    neurons = folded.readout.new_empty(len(tokens), config.d_mlp)
    attention = neurons.new_empty(len(tokens), config.n_heads, tokens.shape[1])
    logits = neurons.new_empty(len(tokens), folded.readout.shape[1], dtype=dtype or neurons.dtype)
    for pairs, attended, chunk, rows in _last_position_chunks(folded, tokens, config):
        neurons[pairs] = chunk
        attention[pairs] = attended.attention.movedim(0, -1)
        logits[pairs] = logits_of(folded, attended.z, chunk, rows)
    return Activations(logits, neurons, folded.readout, attention)
