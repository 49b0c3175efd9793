"""Exact outputs of an MLP, computed from its weights: looks up rows instead of multiplying one-hot vectors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Real
from torch import Tensor

from grokinterp.config import MLPConfig
from grokinterp.models.folding import Weights, with_output_scale
from grokinterp.models.forward import ACTIVATIONS, Activations, Hook, no_hook, sum_of
from grokinterp.models.products import Matmul


def mlp(
    weights: Weights,
    inputs: Real[Tensor, "n k"],
    config: MLPConfig,
    hook: Hook = no_hook,
    matmul: Matmul = torch.matmul,
) -> Activations:
    """Computes an MLP on operands or vectors.

    Args:
        weights: the weights by name.
        inputs: `[n, k]`, operands or vectors.
        config: the architecture.
        hook: `hook(name, value)` receives each named activation and returns what replaces it.
        matmul: multiplies two matrices.
    """
    activation, weights = ACTIVATIONS[config.activation], with_output_scale(weights, config)
    operands, W_0 = inputs.unbind(dim=1), weights["layers.0.W"]
    tables = _first_layer_tables(weights, len(inputs), len(operands), config, matmul) if hook is no_hook else None
    if config.input in ("one_hot", "one_hot_sum"):
        # A one-hot vector times a matrix is a row of the matrix.
        tables = W_0.chunk(len(operands)) if config.input == "one_hot" else [W_0] * len(operands)
    is_multiplied = tables is not None
    if tables is not None:  # x is already multiplied by the matrix of the first layer
        x = sum_of([F.embedding(operand, table) for operand, table in zip(operands, tables, strict=True)])
    elif config.input in ("signs", "vector"):
        x = (2 * inputs - 1 if config.input == "signs" else inputs).to(W_0.dtype)
    else:
        names = _embeddings(weights, len(operands))
        embedded = [F.embedding(operand, weights[name]) for operand, name in zip(operands, names, strict=True)]
        x = hook("hook_embed", sum_of(embedded) if config.input == "sum" else torch.cat(embedded, dim=1))
    neurons, W_U, biases = x, weights["unembed.W_U"], weights["unembed.b_U"] if config.biases else None
    residual = config.architecture == "residual"
    for i in range(config.depth):
        layer = {name.removeprefix(f"layers.{i}."): w for name, w in weights.items() if name.startswith(f"layers.{i}.")}
        read = F.layer_norm(x, x.shape[1:], layer["ln.w"], layer["ln.b"]) if residual else x
        product = read if is_multiplied and i == 0 else matmul(read, layer["W"])
        pre = hook(f"layers.{i}.hook_pre", product + layer["b"] if config.biases else product)
        neurons = hook(f"layers.{i}.hook_post", activation(pre))
        if not residual:
            x = neurons
        elif i < config.depth - 1:
            out = matmul(neurons, layer["W_out"])
            x = x + 0.5 * (out + layer["b_out"] if config.biases else out)
    if not residual:
        return Activations(_plus(matmul(x, W_U), biases), neurons, W_U)
    # Two matrices follow the last neurons; their product has fewer columns if there are fewer classes than neurons.
    last = f"layers.{config.depth - 1}."
    readout = 0.5 * weights[f"{last}W_out"] @ W_U
    if config.biases:
        x = x + 0.5 * weights[f"{last}b_out"]
    if W_U.shape[1] <= W_U.shape[0]:
        logits = matmul(x, W_U) + matmul(neurons, readout)
    else:
        logits = matmul(x + 0.5 * matmul(neurons, weights[f"{last}W_out"]), W_U)
    return Activations(_plus(logits, biases), neurons, readout)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _embeddings(weights: Weights, operands: int) -> list[str]:
    """The names of the operands' embeddings."""
    return ["embed.W_E"] * operands if "embed.W_E" in weights else ["embed_a.W_E", "embed_b.W_E"]


def _first_layer_tables(
    weights: Weights, n: int, operands: int, config: MLPConfig, matmul: Matmul
) -> Sequence[Tensor] | None:
    """Multiplies every embedding by the matrix of the first layer: `[p, m]` for each operand, p products instead of n.

    Returns:
        None if n is not larger than p, or if the first layer reads something other than embeddings.
    """
    if config.input not in ("sum", "concat") or config.architecture == "residual":
        return None
    names, W_0 = _embeddings(weights, operands), weights["layers.0.W"]
    if n <= len(weights[names[0]]):
        return None
    if config.input == "sum":
        tables = {name: matmul(weights[name], W_0) for name in set(names)}
        return [tables[name] for name in names]
    return [matmul(weights[name], part) for name, part in zip(names, W_0.chunk(operands), strict=True)]
