"""Transformers as TransformerLens builds them: a HookedTransformer in version 3, a TransformerBridge in version 4.

Architectures that the installed version cannot express are built as our own `modules.Transformer`, which has the same
parameter and hook names as a HookedTransformer.
"""

import warnings
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import transformer_lens
from torch import Tensor, nn

from grokinterp.config import RegressionConfig, TaskConfig, TransformerConfig
from grokinterp.models.modules import Transformer
from grokinterp.models.shapes import parameter_shapes, sizes

# Version 4 raises an ImportError where `hasattr` asks for a removed name, so only the version tells what is there.
MAJOR = int(version("transformer-lens").split(".")[0])


def build_transformer(config: TransformerConfig, task: TaskConfig | RegressionConfig) -> nn.Module:
    """Builds a transformer on the CPU, without setting its weights.

    It is a HookedTransformer, with version 4 of TransformerLens a TransformerBridge, and where neither can express the
    architecture, a `Transformer` with the same hooks.

    Inputs are `a b =`; those of Power et al. 2022 are `<eos> a op b =`, where the two additional tokens are the same in
    every input. Their loss is the mean over the answer and the `<eos>` after it; this loss covers only the answer.

    Args:
        config: the architecture.
        task: gives the number of operands, of their values, and of classes.
    """
    if not is_expressible(config):
        return Transformer(config, parameter_shapes(config, task))
    return _hooked_transformer(config, task) if MAJOR < 4 else _bridge(config, task)


def is_expressible(config: TransformerConfig) -> bool:
    """Whether the installed TransformerLens can express an architecture."""
    plain = config.normalization != "post_layernorm" and config.readout == "last" and config.activation != "tanh"
    plain = plain and config.attention_rate == 1 and config.shared_embedding
    return plain and (MAJOR < 4 or config.final_norm)


def _common(config: TransformerConfig, task: TaskConfig | RegressionConfig) -> dict[str, Any]:
    """What the configurations of both versions have in common."""
    p, n_classes, operands = sizes(task)
    return {
        "n_layers": config.n_layers,
        "n_heads": config.n_heads,
        "d_model": config.d_model,
        "d_head": config.head_width,
        "act_fn": config.activation,
        "normalization_type": None if config.normalization == "none" else "LN",
        "attention_dir": config.attention,
        "d_vocab": p + 1 if config.equals_token else p,
        "d_vocab_out": n_classes + 1 if config.equals_logit else n_classes,
        "n_ctx": operands + config.equals_token,
        "init_weights": False,
        "device": "cpu",
    }


def _hooked_transformer(config: TransformerConfig, task: TaskConfig | RegressionConfig) -> nn.Module:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    hooked_config = HookedTransformerConfig(d_mlp=config.d_mlp, **_common(config, task))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        model = HookedTransformer(hooked_config)
    if not config.final_norm:
        model.ln_final = nn.Identity()
        model.setup()  # names the hooks
    _scale_output(model.unembed, config)
    return model


def _bridge(config: TransformerConfig, task: TaskConfig | RegressionConfig) -> nn.Module:
    from transformer_lens.config import TransformerBridgeConfig

    bridge_config = TransformerBridgeConfig(**_common(config, task))
    bridge_config.d_mlp = config.d_mlp  # the constructor does not take it
    state = torch.random.get_rng_state()
    bridges: Any = transformer_lens
    model = bridges.TransformerBridge.boot_native(bridge_config)
    torch.random.set_rng_state(state)  # nn.Linear draws weights
    _scale_output(model.unembed, config)
    return model


def _scale_output(unembed: nn.Module, config: TransformerConfig) -> None:
    if config.output_scale != 1:
        unembed.register_forward_hook(partial(_scale_logits, config.output_scale))


def _scale_logits(scale: float, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return scale * logits
