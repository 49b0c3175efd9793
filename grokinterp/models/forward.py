"""Exact logits of transformers, computed from their weights alone and without what the answer does not need.

`last_position` computes a 1-layer transformer without LayerNorm at its last position only, with folded products of
weight matrices. `prefix` computes any transformer: positions that depend on one operand are computed once per operand,
and the last layer only where the answer is read. `mlp_forward` computes MLPs. All are differentiable in the weights, do
not import transformer_lens, and are tested against HookedTransformer. Each calls `hook(name, value)` on named
activations (every activation of an MLP, those of a transformer's neurons before and after their activation function)
and continues with the result.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import TransformerConfig
from grokinterp.models.folding import Weights, attend, fold, offset_of, pair_rows, with_output_scale
from grokinterp.models.products import Matmul

Hook = Callable[[str, Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "quadratic": torch.square,
}


@dataclass(frozen=True)
class Activations:
    """The result of a forward pass at the position where the answer is read, or its mean over positions.

    >>> import grokinterp as gi
    >>> from grokinterp.models import forward_for
    >>> run = gi.load("checkpoints/run42")
    >>> forward = forward_for(run.config.model, run.task)
    >>> forward.activations(run.weights("last"), run.task.tokens[:3]).logits.shape
    torch.Size([3, 67])

    Attributes:
        logits: `[n, c]`; of a stack of runs, which `last_position` computes, all tensors have a leading dimension r.
        neurons: `[n, m]`, neurons of the last layer after the activation function.
        neuron_logit_map: `[m, c]`; `neurons @ neuron_logit_map` is what the neurons add to the logits. None if the
            logits are not linear in the neurons.
        attention: `[n, h, t]`, attention of the last layer from this position; None for an MLP.
    """

    logits: Float[Tensor, "... n c"]
    neurons: Float[Tensor, "... n m"]
    neuron_logit_map: Float[Tensor, "... m c"] | None
    attention: Float[Tensor, "... n h t"] | None = None


def has_last_position_form(config: TransformerConfig, operands: int = 2) -> bool:
    """Whether `last_position` can compute this architecture for this number of operands."""
    one_layer = config.n_layers == 1 and config.normalization == "none"
    plain = config.attention_rate == 1 and config.shared_embedding
    return one_layer and plain and operands == 2 and config.readout == "last"


def no_hook(name: str, value: Tensor) -> Tensor:
    """Returns the activation unchanged."""
    return value


def _part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def last_position(
    weights: Weights,
    tokens: Int[Tensor, "*r n t"],
    config: TransformerConfig,
    matmul: Matmul = torch.matmul,
    hook: Hook = no_hook,
) -> Activations:
    """Computes the last position of a 1-layer transformer without LayerNorm.

    Args:
        weights: the weights by their TransformerLens names.
        tokens: `[n, t]` or, of a stack of runs, `[r, n, t]`: the operands, followed by `=` if the model reads it.
        config: the architecture; `has_last_position_form` must hold.
        matmul: multiplies two matrices.
        hook: receives the neurons, before and after their activation function, and returns what replaces them.
    """
    folded = fold(weights, config, matmul)
    rows = pair_rows(folded, tokens)
    attended = attend(folded, rows, config.n_heads)
    z, to_neurons, to_logits = attended.z, offset_of(folded.neuron_offset, rows), offset_of(folded.logit_offset, rows)
    pre = hook("blocks.0.mlp.hook_pre", matmul(z, folded.to_neurons) + to_neurons)
    neurons = hook("blocks.0.mlp.hook_post", ACTIVATIONS[config.activation](pre))
    logits = matmul(neurons, folded.readout) + matmul(z, folded.direct) + to_logits
    return Activations(logits, neurons, folded.readout, attended.attention.movedim(0, -1))


@dataclass(frozen=True)
class _Stream:
    """The residual stream at one position: one row per pair, or one row per token and the token of each pair."""

    rows: Float[Tensor, "u d"]
    token: Int[Tensor, " n"] | None

    def spread(self, rows: Tensor) -> Tensor:
        """Expands what was computed per row to one row per pair."""
        if self.token is None:
            return rows
        if len(rows) == 1:  # of `=`; a gradient summed by index would lose digits with every row
            return rows.expand(len(self.token), *rows.shape[1:])
        return F.embedding(self.token, rows.flatten(1)).unflatten(1, rows.shape[1:])


def prefix(
    weights: Weights,
    tokens: Int[Tensor, "n t"],
    config: TransformerConfig,
    matmul: Matmul = torch.matmul,
    hook: Hook = no_hook,
) -> Activations:
    """Computes any transformer that a TransformerConfig describes.

    Before attention every position depends on one operand only, and with causal attention the first position does so in
    every layer: such rows are computed once per token. The last layer is computed only where the answer is read.

    Args:
        weights: the weights by their TransformerLens names.
        tokens: `[n, t]`, the operands, followed by `=` if the model reads it.
        config: the architecture.
        matmul: multiplies two matrices.
        hook: receives the neurons of a position, one row per pair, before and after their activation function, and
            returns what replaces them.
    """
    weights = with_output_scale(weights, config)
    W_pos, n_positions = weights["pos_embed.W_pos"], tokens.shape[1]
    streams = []
    for position in range(n_positions):
        W_E = weights["embed.W_E" if config.shared_embedding else "embed_b.W_E" if position else "embed_a.W_E"]
        is_equals = config.equals_token and position == n_positions - 1
        rows = (W_E[-1:] if is_equals else W_E) + W_pos[position]
        streams.append(_Stream(rows, torch.zeros_like(tokens[:, 0]) if is_equals else tokens[:, position]))
    pre_norm, post_norm = config.normalization == "layernorm", config.normalization == "post_layernorm"
    causal, averaged = config.attention == "causal", config.readout == "mean"
    neurons, attention = [], []
    for layer in range(config.n_layers):
        block = _part(weights, f"blocks.{layer}.")
        inputs = [_Stream(_layer_norm(s.rows, block, "ln1"), s.token) for s in streams] if pre_norm else streams
        project = partial(_heads, block=block, matmul=matmul)
        keys = [project(s.rows, "K") for s in inputs]
        values = [project(s.rows, "V") for s in inputs]
        positions = range(n_positions) if averaged or layer < config.n_layers - 1 else [n_positions - 1]
        outputs, neurons, attention = [], [], []
        for position in positions:
            query = streams[position]
            if causal and position == 0:  # it attends only to itself
                z, token, pre = values[0], query.token, query.rows
            else:
                q = project(inputs[position].rows, "Q")
                sources = range(position + 1 if causal else n_positions)
                scores = [_scores(query, q, streams[i], keys[i]) / math.sqrt(config.head_width) for i in sources]
                shares = torch.stack(scores, dim=2).softmax(dim=2)
                if config.attention_rate != 1:
                    shares = config.attention_rate * shares + (1 - config.attention_rate)
                attention.append(shares)
                parts = [shares[:, :, i, None] * streams[i].spread(values[i]) for i in sources]
                z, token, pre = parts[0] + sum(parts[1:]), None, query.spread(query.rows)
            resid_mid = pre + (matmul(z.flatten(1), block["attn.W_O"].flatten(0, 1)) + block["attn.b_O"])
            resid_mid = _layer_norm(resid_mid, block, "ln1") if post_norm else resid_mid
            if hook is not no_hook:
                resid_mid, token = _Stream(resid_mid, token).spread(resid_mid), None
            read = _layer_norm(resid_mid, block, "ln2") if pre_norm else resid_mid
            before = hook(f"blocks.{layer}.mlp.hook_pre", matmul(read, block["mlp.W_in"]) + block["mlp.b_in"])
            neurons.append(hook(f"blocks.{layer}.mlp.hook_post", ACTIVATIONS[config.activation](before)))
            if config.reads_linearly and layer == config.n_layers - 1:
                outputs.append(_Stream(resid_mid, token))
                continue
            out = resid_mid + matmul(neurons[-1], block["mlp.W_out"]) + block["mlp.b_out"]
            outputs.append(_Stream(_layer_norm(out, block, "ln2") if post_norm else out, token))
        streams = outputs
    W_out, b_out = (weights[f"blocks.{config.n_layers - 1}.mlp.{name}"] for name in ("W_out", "b_out"))
    W_U, b_U = weights["unembed.W_U"], weights["unembed.b_U"]
    if not config.reads_linearly:
        final = [_layer_norm(s.rows, weights, "ln_final") if pre_norm else s.rows for s in streams]
        return Activations(matmul(_mean(final), W_U) + b_U, _mean(neurons), None, _mean(attention))
    # Where all that follows the neurons is linear, their mean over positions is multiplied, by the narrower product.
    readout, resid_mid, hidden = W_out @ W_U, _mean([s.rows for s in streams]) + b_out, _mean(neurons)
    if W_U.shape[1] <= W_U.shape[0]:
        logits = matmul(resid_mid, W_U) + matmul(hidden, readout) + b_U
    else:
        logits = matmul(resid_mid + matmul(hidden, W_out), W_U) + b_U
    return Activations(logits, hidden, readout, _mean(attention))


def _heads(x: Float[Tensor, "u d"], kind: str, block: Weights, matmul: Matmul) -> Float[Tensor, "u h e"]:
    """The queries, keys or values (`kind` Q, K or V) of every head."""
    W, b = block[f"attn.W_{kind}"], block[f"attn.b_{kind}"]
    return matmul(x, W.transpose(0, 1).flatten(1)).unflatten(1, b.shape) + b


def _scores(query: _Stream, q: Tensor, key: _Stream, k: Tensor) -> Float[Tensor, "n h"]:
    """q . k for each pair, looked up in a table over (token, token) if both depend on one token."""
    if query.token is not None and key.token is not None:
        table = torch.einsum("vhe,uhe->vuh", q, k)
        if len(q) == 1:
            return _Stream(table[0], key.token).spread(table[0])
        return F.embedding(query.token * len(k) + key.token, table.flatten(0, 1))
    return (query.spread(q) * key.spread(k)).sum(dim=2)


def _layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    # If F.layer_norm multiplied by the weights, it would sum their gradients row by row and lose digits.
    return F.layer_norm(x, x.shape[1:]) * weights[f"{name}.w"] + weights[f"{name}.b"]


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors; `sum` alone would start with 0."""
    return sum(tensors[1:], tensors[0])


def _mean(positions: Sequence[Tensor]) -> Tensor:
    return positions[0] if len(positions) == 1 else sum_of(positions) / len(positions)
