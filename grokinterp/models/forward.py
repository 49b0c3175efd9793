"""Exact logits straight from weights: what the modules compute, without what the answer does not need.

Of a 1-layer transformer without LayerNorm only the last position is computed, and its keys, values and attention
scores once per (token, position), then gathered: pairs share them. The functions are differentiable in the weights
and know nothing of transformer_lens; a test holds them to HookedTransformer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from grokinterp.config import MLPConfig, TransformerConfig

Weights = Mapping[str, Tensor]
Hook = Callable[[str, Tensor], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "quadratic": torch.square,
}


@dataclass(frozen=True)
class Activations:
    """What one forward pass gave, at the position where the answer is read.

    Attributes:
        logits: `[n, c]`.
        neurons: `[n, m]`, after the activation function, of the last layer.
        neuron_logit_map: `[m, c]`, so that `neurons @ neuron_logit_map` is what the neurons add to the logits; None
            where the way from there to the logits is not linear.
        attention: `[n, h, t]`, the attention from the last position, of the last layer; None for an MLP.
    """

    logits: Float[Tensor, "n c"]
    neurons: Float[Tensor, "n m"]
    neuron_logit_map: Float[Tensor, "m c"] | None
    attention: Float[Tensor, "n h t"] | None = None


def has_last_position_form(config: TransformerConfig) -> bool:
    """Whether `last_position` computes this architecture."""
    return config.n_layers == 1 and config.normalization == "none"


def last_position(weights: Weights, tokens: Int[Tensor, "n t"], config: TransformerConfig) -> Activations:
    """The last position of a 1-layer transformer without LayerNorm.

    Args:
        weights: under TransformerLens names.
        tokens: the operands, then `=` where the model takes it.
        config: the architecture; `has_last_position_form` must hold.
    """
    W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
    part = {name.removeprefix("blocks.0.attn."): w for name, w in weights.items() if name.startswith("blocks.0.attn.")}
    mlp = {name.removeprefix("blocks.0.mlp."): w for name, w in weights.items() if name.startswith("blocks.0.mlp.")}
    n_positions, operand_tokens = tokens.shape[1], tokens[:, :2]

    # `=` is one token (the last row of W_E), so everything about it is computed once and broadcast.
    x_last = (W_E[-1:] if config.equals_token else W_E) + W_pos[n_positions - 1]  # [v, d], v = 1 or p
    q = torch.einsum("vd,hde->vhe", x_last, part["W_Q"]) + part["b_Q"]
    last_token = torch.zeros_like(tokens[:, 0]) if config.equals_token else tokens[:, -1]

    scores, values = [], []
    for position in range(n_positions):
        is_equals = config.equals_token and position == n_positions - 1
        x = x_last if is_equals else W_E + W_pos[position]  # [u, d]
        k = torch.einsum("ud,hde->uhe", x, part["W_K"]) + part["b_K"]
        v = torch.einsum("ud,hde->uhe", x, part["W_V"]) + part["b_V"]
        table = torch.einsum("vhe,uhe->vuh", q, k) / math.sqrt(config.head_width)
        key_token = last_token if is_equals else operand_tokens[:, position]
        scores.append(F.embedding(last_token * len(x) + key_token, table.flatten(0, 1)))  # [n, h]
        values.append(F.embedding(key_token, v.flatten(1)))  # [n, h e]
    attention = torch.stack(scores, dim=2).softmax(dim=2)  # [n, h, t]
    weighted = [
        attention[:, :, i, None] * rearrange(value, "n (h e) -> n h e", h=config.n_heads)
        for i, value in enumerate(values)
    ]
    z = weighted[0] + sum(weighted[1:])
    attended = rearrange(z, "n h e -> n (h e)") @ part["W_O"].flatten(0, 1) + part["b_O"]
    resid_mid = F.embedding(last_token, x_last) + attended
    neurons = ACTIVATIONS[config.activation](resid_mid @ mlp["W_in"] + mlp["b_in"])
    W_U = weights["unembed.W_U"]
    logits = (resid_mid + neurons @ mlp["W_out"] + mlp["b_out"]) @ W_U + weights["unembed.b_U"]
    return Activations(logits, neurons, mlp["W_out"] @ W_U, attention)


def _no_hook(name: str, value: Tensor) -> Tensor:
    return value


def mlp(weights: Weights, inputs: Int[Tensor, "n 2"], config: MLPConfig, hook: Hook = _no_hook) -> Activations:
    """An MLP baseline; `hook(name, value)` sees, and may replace, each named activation."""
    activation = ACTIVATIONS[config.activation]
    a, b = inputs.unbind(dim=1)
    gathered = config.input == "one_hot"
    if gathered:
        # A one-hot vector times a matrix is a row of it: x is already what the first layer's matrix gives.
        W_0 = weights["layers.0.W"]
        x = F.embedding(a, W_0[: len(W_0) // 2]) + F.embedding(b, W_0[len(W_0) // 2 :])
    else:
        tables = ("embed.W_E", "embed.W_E") if "embed.W_E" in weights else ("embed_a.W_E", "embed_b.W_E")
        left, right = F.embedding(a, weights[tables[0]]), F.embedding(b, weights[tables[1]])
        x = hook("hook_embed", left + right if config.input == "sum" else torch.cat([left, right], dim=1))
    neurons, readout = x, weights["unembed.W_U"]
    for i in range(config.depth):
        layer = {name.removeprefix(f"layers.{i}."): w for name, w in weights.items() if name.startswith(f"layers.{i}.")}
        residual = config.architecture == "residual"
        normed = F.layer_norm(x, x.shape[1:], layer["ln.w"], layer["ln.b"]) if residual else x
        product = normed if gathered and i == 0 else normed @ layer["W"]
        pre = hook(f"layers.{i}.hook_pre", product + layer["b"] if config.biases else product)
        neurons = hook(f"layers.{i}.hook_post", activation(pre))
        if residual:
            out = neurons @ layer["W_out"]
            x = x + 0.5 * (out + layer["b_out"] if config.biases else out)
        else:
            x = neurons
    logits = x @ readout
    if config.biases:
        logits = logits + weights["unembed.b_U"]
    if config.architecture == "residual":
        readout = 0.5 * weights[f"layers.{config.depth - 1}.W_out"] @ readout
    return Activations(logits, neurons, readout)
