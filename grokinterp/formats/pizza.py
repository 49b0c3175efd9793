"""Zhong, Liu, Tegmark, and Andreas 2023 (github fjzzq2002/pizza): `model_ID.pt` beside `config_ID.json`.

Final weights of transformers with a share of constant attention, and of MLPs ("linear models" A to D and X). The split
was drawn without a seed, so it is unknown.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grokinterp.config import MLPConfig, TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import integer, load_json, load_pickle, number, state_dict_of, tensors
from grokinterp.formats.imported import Imported, Place, Weights
from grokinterp.formats.transposed import read_transposed
from grokinterp.runs.files import MAX_STEP, exists

_ACTIVATIONS: dict[str, Literal["relu", "gelu", "tanh"]] = {"relu": "relu", "gelu": "gelu", "tanh": "tanh"}
_SETTINGS = ("epoch", "lr", "weight_decay", "batch_size", "frac", "attn_coeff", "model_type", "runid")


def find(source: Path) -> list[Place]:
    """The models at a place."""
    if source.is_dir():
        files = sorted(source.glob("model_*.pt"))
    else:
        files = [source] if source.name.startswith("model_") else [_beside(source, "config_", "model_", ".pt")]
    return [Place(file, file.name) for file in files if exists(file) and exists(_config_file(file))]


def _config_file(file: Path) -> Path:
    return _beside(file, "model_", "config_", ".json")


def _beside(file: Path, prefix: str, other: str, suffix: str) -> Path:
    return file.with_name(other + file.stem.removeprefix(prefix) + suffix)


def read(place: Path) -> Imported:
    """Reads a model.

    Raises:
        RunError: a file is missing or damaged, or the model has an unknown form.
    """
    config_file = _config_file(place)
    config = load_json(config_file)
    p, step = integer(config, "C", config_file, low=3), integer(config, "epoch", config_file, high=MAX_STEP)
    text = config.get("funcs")
    if text is not None and str(text).replace(" ", "") != f"lambdax:(x[0]+x[1])%{p}":
        raise RunError(f"{config_file}: the function is {text!r}, and only addition mod {p} is read")
    state = state_dict_of(load_pickle(place), place)
    if "model_type" in config:
        model, weights, notes = _read_linear(str(config["model_type"]), state, p, place)
    elif config.get("use_linear"):
        raise RunError(f"{config_file}: models with use_linear are not read")
    else:
        model, weights, notes = _read_transformer(config, state, p, place, config_file)
    settings = {name: config[name] for name in _SETTINGS if name in config}
    task = TaskConfig("add", p, None, "unknown")
    return Imported(task, model, {step: lambda: weights}, settings=settings, notes=notes)


def _read_transformer(
    config: Mapping[str, Any], state: Mapping[str, Tensor], p: int, file: Path, config_file: Path
) -> tuple[TransformerConfig, Weights, tuple[str, ...]]:
    activation = _ACTIVATIONS.get(str(config.get("act_fn", "relu")).lower())
    if activation is None:
        raise RunError(f"{config_file}: unknown activation function {config.get('act_fn')!r}")
    layers = integer(config, "n_layers", config_file, high=100, default=1)
    rate = number(config, "attn_coeff", config_file)
    equals, separate = bool(config.get("eqn_sign", 0)), bool(config.get("diff_vocab", 0))
    weights = read_transposed(state, layers, file)
    heads, d, width = weights["blocks.0.attn.W_Q"].shape
    vocabulary = (2 * p if separate else p) + equals
    table, W_U = weights.pop("embed.W_E"), weights["unembed.W_U"]
    if len(table) != vocabulary or W_U.shape[1] != vocabulary:
        raise RunError(f"{file}: there are {len(table)} tokens, but {config_file.name} implies {vocabulary}")
    if separate:
        weights = {"embed_a.W_E": table[:p], "embed_b.W_E": table[p:], **weights}
    else:
        weights = {"embed.W_E": table, **weights}
    notes = ()
    if vocabulary > p:
        weights |= {"unembed.W_U": W_U[:, :p], "unembed.b_U": torch.zeros(p)}
        notes = (f"logits of {vocabulary - p} tokens that are never the answer were left out",)
    model = TransformerConfig(
        n_layers=layers,
        n_heads=heads,
        d_model=d,
        d_head=None if heads * width == d else width,
        d_mlp=weights["blocks.0.mlp.W_in"].shape[1],
        activation=activation,
        biases="mlp",
        equals_token=equals,
        attention="bidirectional",
        attention_rate=rate,
        shared_embedding=not separate,
    )
    return model, weights, notes


def _read_linear(
    kind: str, state: Mapping[str, Tensor], p: int, file: Path
) -> tuple[MLPConfig, Weights, tuple[str, ...]]:
    """Models A, B, C and X add the embeddings of a and b; model D puts them side by side."""
    depth = {"A": 1, "B": 2, "C": 2, "D": 1, "X": 1}.get(kind)
    if depth is None:
        raise RunError(f"{file}: unknown linear model {kind!r}; A, B, C, D and X are read")
    tables = {"embed_a": "embed1", "embed_b": "embed2"} if kind == "X" else {"embed": "embed"}
    first = f"{next(iter(tables.values()))}.weight"
    if first not in state or state[first].ndim != 2 or "l1.weight" not in state:
        raise RunError(f"{file} lacks the tensor {first!r} or 'l1.weight'")
    d, width = state[first].shape[1], state["l1.weight"].shape[0]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (p, d) for name in tables.values()}
    shapes |= {"l1.weight": (width, 2 * d if kind == "D" else d), "l1.bias": (width,), "unembed.weight": (p, width)}
    shapes |= {"l2.weight": (width, width), "l2.bias": (width,)} if depth == 2 else {}
    found = tensors(state, shapes, file)
    weights = {f"{ours}.W_E": found[f"{theirs}.weight"] for ours, theirs in tables.items()}
    for i in range(depth):
        weights |= {f"layers.{i}.W": found[f"l{i + 1}.weight"].T, f"layers.{i}.b": found[f"l{i + 1}.bias"]}
    notes = ()
    if kind == "C":  # l1(e_a) + l1(e_b) has the bias twice
        weights["layers.0.b"] = 2 * weights["layers.0.b"]
        notes = ("the bias of the first layer, which the model adds twice, was doubled; norms count the double",)
    weights |= {"unembed.W_U": found["unembed.weight"].T, "unembed.b_U": torch.zeros(p)}
    model = MLPConfig(
        input="concat" if kind == "D" else "sum", shared_embedding=kind != "X", d_embed=d, depth=depth, width=width
    )
    return model, weights, notes
