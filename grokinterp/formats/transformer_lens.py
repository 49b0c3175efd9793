"""Weights and configurations of TransformerLens, versions 1 to 4, without importing it."""

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grokinterp.config import TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import as_number, integer, tensors
from grokinterp.models.shapes import parameter_shapes
from grokinterp.models.version_4 import from_version_4


class HookedConfig:
    """Stands in for the configuration in a pickle: only its attributes are read."""


class _Ignored:
    """Stands in for a NumPy number in a pickle, whose value is not needed."""

    def __init__(self, *parts: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


ALLOWED: Mapping[str, type] = {
    **dict.fromkeys(
        (
            "easy_transformer.EasyTransformerConfig.EasyTransformerConfig",
            "transformer_lens.EasyTransformerConfig.EasyTransformerConfig",
            "transformer_lens.HookedTransformerConfig.HookedTransformerConfig",
            "transformer_lens.config.HookedTransformerConfig.HookedTransformerConfig",
            "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig",
            "transformer_lens.config.transformer_bridge_config.TransformerBridgeConfig",
            "transformers.Config",  # of Nanda et al.
            "progress_measures_paper.transformers.Config",
            "__main__.Config",
        ),
        HookedConfig,
    ),
    **dict.fromkeys(
        ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtypes.Float64DType"),
        _Ignored,
    ),
}
"""Classes that a pickled configuration may contain, under the names of every version."""

# What a TransformerConfig cannot say, with the values that mean "not used".
_UNUSED = {"attn_only": (False,), "gated_mlp": (False,), "positional_embedding_type": ("standard",)}
_UNUSED |= {"n_key_value_heads": (None,), "parallel_attn_mlp": (False,), "shortformer_pos": (False,)}
_UNUSED |= {"use_attn_scale": (True,), "scale_attn_by_inverse_layer_idx": (False,), "use_local_attn": (False,)}
_UNUSED |= {"eps": (1e-5,), "attn_scores_soft_cap": (-1.0, 0.0), "output_logits_soft_cap": (-1.0, 0.0)}
_UNUSED |= {"final_rms": (False,), "uses_rms_norm": (False,), "attention_dir": ("causal", "bidirectional")}
_BUFFERS = ("mask", "IGNORE")
_ACTIVATIONS: dict[str, Literal["relu", "gelu"]] = {"relu": "relu", "gelu": "gelu"}


def read_config(config: Mapping[str, Any], file: Path) -> tuple[TransformerConfig, int]:
    """The architecture that a configuration of TransformerLens describes, with frozen biases, and the modulus.

    Args:
        config: the fields of a HookedTransformerConfig or a TransformerBridgeConfig.
        file: named in messages.

    Raises:
        RunError: a field is missing, or the architecture is another one.
    """
    for name, values in _UNUSED.items():
        if name in config and not any(type(config[name]) is type(value) and config[name] == value for value in values):
            raise RunError(f"{file}: models with {name} = {reprlib.repr(config[name])} are not read")
    sizes = {name: integer(config, name, file) for name in ("n_layers", "d_model", "n_ctx", "d_head", "n_heads")}
    d_mlp, d_vocab = (integer(config, name, file) for name in ("d_mlp", "d_vocab"))
    scale = as_number(config.get("attn_scale", -1.0))
    if scale is not None and scale > 0 and abs(scale - math.sqrt(sizes["d_head"])) > 1e-6:
        raise RunError(f"{file}: models with attn_scale = {scale:g} are not read")
    activation, normalization = config.get("act_fn"), config.get("normalization_type")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise RunError(f"{file}: the activation function {reprlib.repr(activation)} is not read; relu and gelu are")
    if normalization is not None and normalization != "LN":
        raise RunError(f"{file}: the normalization {reprlib.repr(normalization)} is not read; None and LN are")
    n_ctx, d_head = sizes.pop("n_ctx"), sizes.pop("d_head")
    if n_ctx not in (2, 3):
        raise RunError(f"{file}: inputs of {n_ctx} tokens are not pairs")
    p = d_vocab - 1 if n_ctx == 3 else d_vocab
    unset = config.get("d_vocab_out") is None or config["d_vocab_out"] == -1
    classes = d_vocab if unset else integer(config, "d_vocab_out", file)
    if classes not in (p, p + 1) or (classes == p + 1 and n_ctx == 2):
        raise RunError(f"{file}: {classes} classes do not fit {d_vocab} tokens")
    heads, d_model = sizes["n_heads"], sizes["d_model"]
    model = TransformerConfig(
        n_layers=sizes["n_layers"],
        n_heads=heads,
        d_model=d_model,
        d_head=None if d_head * heads == d_model else d_head,
        d_mlp=d_mlp,
        activation=_ACTIVATIONS[activation],
        normalization="none" if normalization is None else "layernorm",
        attention="bidirectional" if config.get("attention_dir") == "bidirectional" else "causal",
        equals_token=n_ctx == 3,
        equals_logit=classes == p + 1,
    )
    return model, p


def read_weights(
    state: Mapping[str, Tensor], model: TransformerConfig, task: TaskConfig, file: Path
) -> dict[str, Tensor]:
    """The parameters in a state dict of version 1 to 3, or of version 4 (`embed.weight`, ...), under our names.

    Biases that the file lacks are 0. Buffers (`mask`, `IGNORE`) are left out.

    Raises:
        RunError: a parameter is missing or has another shape.
    """
    shapes = parameter_shapes(model, task)
    if "embed.weight" in state:
        try:
            state = from_version_4(state, model.n_heads)
        except ValueError as error:
            raise RunError(f"{file}: {error}") from None
    given = {name: shape for name, shape in shapes.items() if name in state or not _is_bias(name)}
    found = tensors(state, given, file, _BUFFERS)
    return {name: found[name] if name in found else torch.zeros(shape) for name, shape in shapes.items()}


def trained_biases(weights: Mapping[str, Tensor]) -> Literal["frozen", "mlp", "trained"]:
    """Which biases have been trained, judged by which are not 0."""
    used = {name for name, weight in weights.items() if _is_bias(name) and bool(weight.any())}
    if not used:
        return "frozen"
    return "mlp" if all(".mlp." in name for name in used) else "trained"


def _is_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1].startswith("b_")
