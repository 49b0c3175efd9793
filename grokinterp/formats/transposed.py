"""Transformers whose matrices are stored the other way round than in TransformerLens: Nanda et al., Zhong et al."""

from collections.abc import Mapping
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from grokinterp.errors import RunError
from grokinterp.formats.files import require_plain, tensors


def read_transposed(state: Mapping[str, Tensor], layers: int, file: Path) -> dict[str, Tensor]:
    """Weights under TransformerLens names and in its layout; the biases that these transformers lack are 0.

    Args:
        state: W_E `[d, v]`, W_pos `[t, d]`, W_Q, W_K, W_V `[h, e, d]`, W_O `[d, h e]`, W_in `[m, d]`, b_in `[m]`, W_out
            `[d, m]`, b_out `[d]` and W_U `[d, c]`.
        layers: number of blocks.
        file: named in messages.

    Raises:
        RunError: a tensor is missing, or its shape does not fit the others.
    """
    for name in ("embed.W_E", "pos_embed.W_pos", "unembed.W_U", "blocks.0.attn.W_Q", "blocks.0.mlp.W_in"):
        if name not in state:
            raise RunError(f"{file} lacks the tensor {name!r}")
    heads, width, d = _sizes(state["blocks.0.attn.W_Q"], 3, "blocks.0.attn.W_Q", file)
    m, _ = _sizes(state["blocks.0.mlp.W_in"], 2, "blocks.0.mlp.W_in", file)
    _, vocabulary = _sizes(state["embed.W_E"], 2, "embed.W_E", file)
    positions, _ = _sizes(state["pos_embed.W_pos"], 2, "pos_embed.W_pos", file)
    _, classes = _sizes(state["unembed.W_U"], 2, "unembed.W_U", file)
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (d, vocabulary), "pos_embed.W_pos": (positions, d)}
    for i in range(layers):
        attn, mlp = f"blocks.{i}.attn.", f"blocks.{i}.mlp."
        shapes |= {f"{attn}W_{kind}": (heads, width, d) for kind in "QKV"}
        shapes |= {f"{attn}W_O": (d, heads * width), f"{mlp}W_in": (m, d), f"{mlp}b_in": (m,)}
        shapes |= {f"{mlp}W_out": (d, m), f"{mlp}b_out": (d,)}
    found = tensors(state, {**shapes, "unembed.W_U": (d, classes)}, file, ignored=("mask",))
    weights: dict[str, Tensor] = {}
    for name, tensor in found.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("W_Q", "W_K", "W_V"):
            weights[name] = rearrange(tensor, "h e d -> h d e")
        elif kind == "W_O":
            weights[name] = rearrange(tensor, "d (h e) -> h e d", h=heads)
        else:
            weights[name] = tensor.T if kind in ("W_E", "W_in", "W_out") else tensor
    for i in range(layers):
        weights |= {f"blocks.{i}.attn.b_{kind}": torch.zeros(heads, width) for kind in "QKV"}
        weights[f"blocks.{i}.attn.b_O"] = torch.zeros(d)
    return {**weights, "unembed.b_U": torch.zeros(classes)}


def _sizes(tensor: Tensor, dimensions: int, name: str, file: Path) -> tuple[int, ...]:
    require_plain(tensor, name, file)
    if tensor.ndim != dimensions:
        raise RunError(f"{file}: {name!r} has shape {list(tensor.shape)}, but {dimensions} dimensions are expected")
    return tuple(tensor.shape)
