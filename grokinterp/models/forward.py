"""Exact logits of transformers, computed from their weights alone and without what the answer does not need.

`last_position` computes a 1-layer transformer without LayerNorm at its last position only, with folded products of
weight matrices. `prefix` computes any transformer: positions that depend on one operand are computed once per operand,
and the last layer only where the answer is read. `mlp_forward` computes MLPs. All are differentiable in the weights, do
not import transformer_lens, and are tested against HookedTransformer. Each calls `hook(name, value)` on named
activations (every activation of an MLP, `blocks.i.mlp.hook_post` of a transformer) and continues with the result.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.models.products import Matmul

Weights = Mapping[str, Tensor]
"""Parameters by name, as in a state dict."""
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
        logits: `[n, c]`.
        neurons: `[n, m]`, neurons of the last layer after the activation function.
        neuron_logit_map: `[m, c]`; `neurons @ neuron_logit_map` is what the neurons add to the logits. None if the
            logits are not linear in the neurons.
        attention: `[n, h, t]`, attention of the last layer from this position; None for an MLP.
    """

    logits: Float[Tensor, "n c"]
    neurons: Float[Tensor, "n m"]
    neuron_logit_map: Float[Tensor, "m c"] | None
    attention: Float[Tensor, "n h t"] | None = None


def has_last_position_form(config: TransformerConfig, operands: int = 2) -> bool:
    """Whether `last_position` can compute this architecture for this number of operands."""
    one_layer = config.n_layers == 1 and config.normalization == "none"
    return one_layer and operands == 2 and config.readout == "last"


@dataclass(frozen=True)
class Folded:
    """A 1-layer transformer without LayerNorm, as tables over tokens and products of its matrices.

    With z the attended values of all heads: `neurons = act(z @ to_neurons + neuron_offset[last])` and
    `logits = z @ direct + neurons @ readout + logit_offset[last]`.

    Attributes:
        scores: for each position, `[v u, h]`, the attention score of every (last token, token).
        values: for each position, `[u, h e]`, the values of every token.
        to_neurons: `[z, m]`, W_O W_in.
        readout: `[m, c]`, W_out W_U.
        direct: `[z, c]`, W_O W_U.
        neuron_offset: `[v, m]`, what the residual stream of the last token and the biases add to the neurons' input.
        logit_offset: `[v, c]`, what they add to the logits.
    """

    scores: tuple[Float[Tensor, "_ h"], ...]
    values: tuple[Float[Tensor, "_ z"], ...]
    to_neurons: Float[Tensor, "z m"]
    readout: Float[Tensor, "m c"]
    direct: Float[Tensor, "z c"]
    neuron_offset: Float[Tensor, "v m"]
    logit_offset: Float[Tensor, "v c"]

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all tensors, in the order of `from_tensors`."""
        matrices = (self.to_neurons, self.readout, self.direct, self.neuron_offset, self.logit_offset)
        return *self.scores, *self.values, *matrices

    def rows(self, tokens: Int[Tensor, "n t"]) -> tuple[list[Tensor | None], list[Tensor | None], Tensor | None]:
        """Returns which row of each table belongs to each pair; None for a table with the single row of `=`.

        Returns:
            Rows of the scores for each position, of the values for each position, and of the two offsets.
        """
        a, b = tokens[:, 0].contiguous(), tokens[:, 1].contiguous()
        if len(self.neuron_offset) == 1:
            return [a, b, None], [a, b, None], None
        by_last = b * len(self.values[0])
        return [by_last + a, by_last + b], [a, b], b

    def map(self, function: Callable[[Tensor], Tensor]) -> "Folded":
        """Applies a function to each tensor."""
        return Folded.from_tensors([function(tensor) for tensor in self.tensors()])

    @staticmethod
    def from_tensors(tensors: Sequence[Tensor]) -> "Folded":
        """The inverse of `tensors`."""
        t = (len(tensors) - 5) // 2  # number of positions: each has two tables; five matrices follow
        return Folded(tuple(tensors[:t]), tuple(tensors[t : 2 * t]), *tensors[2 * t :])


def with_output_scale(weights: Weights, config: TransformerConfig | MLPConfig) -> Weights:
    """Multiplies the unembedding by `output_scale`, if it is not 1."""
    if config.output_scale == 1:
        return weights
    return {name: config.output_scale * w if name.startswith("unembed.") else w for name, w in weights.items()}


def no_hook(name: str, value: Tensor) -> Tensor:
    """Returns the activation unchanged."""
    return value


def _part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def fold(weights: Weights, config: TransformerConfig, matmul: Matmul = torch.matmul) -> Folded:
    """Computes everything about a 1-layer transformer that does not depend on the pair, once for all rows.

    The values are computed in float64 and rounded once: a rounding error here would be the same in every row, so sums
    of gradients over rows would not average it out. The derivatives are computed in the dtype of the weights.

    Args:
        weights: the weights by their TransformerLens names.
        config: the architecture; `has_last_position_form` must hold.
        matmul: multiplies two matrices.
    """
    W_E = weights["embed.W_E"]
    if W_E.dtype == torch.float64 or W_E.device.type == "mps":  # mps has no float64
        return _fold(weights, config, matmul)
    with torch.no_grad():
        doubles = {name: w.double() for name, w in weights.items()}
        exact = _fold(doubles, config, torch.matmul).map(lambda tensor: tensor.to(W_E.dtype))
    if not torch.is_grad_enabled():
        return exact
    rounded = _fold(weights, config, matmul)
    return Folded.from_tensors([a + (b - a).detach() for a, b in zip(rounded.tensors(), exact.tensors(), strict=True)])


def _fold(weights: Weights, config: TransformerConfig, matmul: Matmul) -> Folded:
    weights = with_output_scale(weights, config)
    attn, mlp = _part(weights, "blocks.0.attn."), _part(weights, "blocks.0.mlp.")
    W_E, W_pos, W_U = weights["embed.W_E"], weights["pos_embed.W_pos"], weights["unembed.W_U"]
    # `=` is a single token (the last row of W_E), so everything about it is computed once and broadcast.
    last = (W_E[-1:] if config.equals_token else W_E) + W_pos[-1]  # [v, d], v = 1 or p
    tables = [W_E + W_pos[0], W_E + W_pos[1], *([last] if config.equals_token else [])]  # [u, d] for each position
    q = torch.einsum("vd,hde->hve", last, attn["W_Q"]) + attn["b_Q"][:, None]
    score_map = torch.einsum("hve,hde->vdh", q, attn["W_K"]) / math.sqrt(config.head_width)
    score_bias = torch.einsum("hve,he->vh", q, attn["b_K"]) / math.sqrt(config.head_width)
    W_V, b_V = attn["W_V"].transpose(0, 1).flatten(1), attn["b_V"].flatten()
    scores = [(torch.einsum("ud,vdh->vuh", x, score_map) + score_bias[:, None]).flatten(0, 1) for x in tables]
    W_O = attn["W_O"].flatten(0, 1)
    stream = last + attn["b_O"]
    return Folded(
        scores=tuple(scores),
        values=tuple(matmul(x, W_V) + b_V for x in tables),
        to_neurons=matmul(W_O, mlp["W_in"]),
        readout=matmul(mlp["W_out"], W_U),
        direct=matmul(W_O, W_U),
        neuron_offset=stream @ mlp["W_in"] + mlp["b_in"],
        logit_offset=(stream + mlp["b_out"]) @ W_U + weights["unembed.b_U"],
    )


def attend(
    folded: Folded, tokens: Int[Tensor, "n t"], heads: int
) -> tuple[Float[Tensor, "n h t"], Float[Tensor, "n z"]]:
    """Returns the attention from the last position of each pair, and the values that it attends to."""
    score_rows, value_rows, _ = folded.rows(tokens)
    scores = [gather(table, row).expand(len(tokens), -1) for table, row in zip(folded.scores, score_rows, strict=True)]
    attention = torch.stack(scores, dim=2).softmax(dim=2)
    values = [
        gather(table, row).unflatten(1, (heads, -1)) for table, row in zip(folded.values, value_rows, strict=True)
    ]
    parts = [attention[:, :, i, None] * value for i, value in enumerate(values)]
    return attention, (parts[0] + sum(parts[1:])).flatten(1)


def gather(table: Float[Tensor, "u x"], row: Int[Tensor, " n"] | None) -> Float[Tensor, "n x"]:
    """Looks up rows of a table (None: its only row). The gradient of plain indexing would run on one core."""
    return table if row is None else F.embedding(row, table)


def last_position(
    weights: Weights,
    tokens: Int[Tensor, "n t"],
    config: TransformerConfig,
    matmul: Matmul = torch.matmul,
    hook: Hook = no_hook,
) -> Activations:
    """Computes the last position of a 1-layer transformer without LayerNorm.

    Args:
        weights: the weights by their TransformerLens names.
        tokens: `[n, t]`, the operands, followed by `=` if the model reads it.
        config: the architecture; `has_last_position_form` must hold.
        matmul: multiplies two matrices.
        hook: receives the neurons and returns what replaces them.
    """
    folded = fold(weights, config, matmul)
    attention, z = attend(folded, tokens, config.n_heads)
    last = folded.rows(tokens)[2]
    to_neurons, to_logits = gather(folded.neuron_offset, last), gather(folded.logit_offset, last)
    neurons = ACTIVATIONS[config.activation](matmul(z, folded.to_neurons) + to_neurons)
    neurons = hook("blocks.0.mlp.hook_post", neurons)
    logits = matmul(neurons, folded.readout) + matmul(z, folded.direct) + to_logits
    return Activations(logits, neurons, folded.readout, attention)


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
        hook: receives the neurons of a position, one row per pair, and returns what replaces them.
    """
    weights = with_output_scale(weights, config)
    W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
    n_positions = tokens.shape[1]
    streams = []
    for position in range(n_positions):
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
                attention.append(shares)
                parts = [shares[:, :, i, None] * streams[i].spread(values[i]) for i in sources]
                z, token, pre = parts[0] + sum(parts[1:]), None, query.spread(query.rows)
            resid_mid = pre + (matmul(z.flatten(1), block["attn.W_O"].flatten(0, 1)) + block["attn.b_O"])
            resid_mid = _layer_norm(resid_mid, block, "ln1") if post_norm else resid_mid
            if hook is not no_hook:
                resid_mid, token = _Stream(resid_mid, token).spread(resid_mid), None
            read = _layer_norm(resid_mid, block, "ln2") if pre_norm else resid_mid
            hidden = ACTIVATIONS[config.activation](matmul(read, block["mlp.W_in"]) + block["mlp.b_in"])
            neurons.append(hook(f"blocks.{layer}.mlp.hook_post", hidden))
            out = resid_mid + matmul(neurons[-1], block["mlp.W_out"]) + block["mlp.b_out"]
            outputs.append(_Stream(_layer_norm(out, block, "ln2") if post_norm else out, token))
        streams = outputs
    final = [_layer_norm(s.rows, weights, "ln_final") if pre_norm and config.final_norm else s.rows for s in streams]
    logits = matmul(_mean(final), weights["unembed.W_U"]) + weights["unembed.b_U"]
    W_out = weights[f"blocks.{config.n_layers - 1}.mlp.W_out"]
    readout = W_out @ weights["unembed.W_U"] if config.reads_linearly else None
    return Activations(logits, _mean(neurons), readout, _mean(attention))


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
