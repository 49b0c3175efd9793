"""Our own modules as HookedRootModule, with the hooks and `run_with_cache` of TransformerLens.

These are MLPs, and the transformers that a HookedTransformer cannot express.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.hook_points import HookPoint

from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.models import mlp_forward
from grokinterp.models.forward import ACTIVATIONS
from grokinterp.models.shapes import Shapes

_ATTENTION_HOOKS = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
_BLOCK_HOOKS = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")


class MLP(HookedRootModule):
    """An MLP on operands in 0 .. p-1, or on vectors.

    Parameters: `embed.W_E` (or `embed_a.W_E` and `embed_b.W_E`; none without embeddings), `layers.i.W [in, out]`,
    `layers.i.b`, in residual blocks also `layers.i.ln.w`, `.ln.b`, `.W_out`, `.b_out`; `unembed.W_U`, `unembed.b_U`.
    Hooks: `hook_embed` (with embeddings), `layers.i.hook_pre`, `layers.i.hook_post`.
    """

    def __init__(self, config: MLPConfig, shapes: Shapes):
        """Registers the parameters and hooks without setting the weights.

        Args:
            config: the architecture.
            shapes: the shape of each parameter by name; see `parameter_shapes`.
        """
        super().__init__()
        self.config = config
        if config.input in ("concat", "sum"):
            self.hook_embed = HookPoint()
        _register(self, shapes)
        for i in range(config.depth):
            _add_hooks(self.get_submodule(f"layers.{i}"), ("hook_pre", "hook_post"))
        self.setup()

    def forward(self, inputs: Real[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Computes the logits of each input."""
        hooks = self.hook_dict
        weights = dict(self.named_parameters())
        return mlp_forward.mlp(weights, inputs, self.config, lambda name, value: hooks[name](value)).logits


class Transformer(HookedRootModule):
    """A transformer on operands in 0 .. p-1, with the parameter and hook names of HookedTransformer.

    It also has what HookedTransformer lacks: LayerNorm after attention and MLP, the mean over positions as readout,
    constant attention, an embedding for each operand, and tanh. With `post_layernorm`, `hook_resid_mid` and
    `hook_resid_post` of a block are the outputs of its LayerNorms. With readout `mean`, the logits are `[n, 1, c]`,
    computed from the mean over positions at `unembed.hook_mean`.
    """

    def __init__(self, config: TransformerConfig, shapes: Shapes):
        """Registers the parameters and hooks without setting the weights.

        Args:
            config: the architecture.
            shapes: the shape of each parameter by name; see `parameter_shapes`.
        """
        super().__init__()
        self.config = config
        _register(self, shapes)
        _add_hooks(self, ("hook_embed", "hook_pos_embed"))
        for i in range(config.n_layers):
            _add_hooks(self.get_submodule(f"blocks.{i}"), _BLOCK_HOOKS)
            _add_hooks(self.get_submodule(f"blocks.{i}.attn"), _ATTENTION_HOOKS)
            _add_hooks(self.get_submodule(f"blocks.{i}.mlp"), ("hook_pre", "hook_post"))
        _add_hooks(self.get_submodule("unembed"), ("hook_mean",) if config.readout == "mean" else ())
        self.setup()

    def forward(self, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n position c"]:
        """Computes the logits at each position, or from the mean over positions."""
        config, hooks, weights = self.config, self.hook_dict, dict(self.named_parameters())
        positions = hooks["hook_pos_embed"](weights["pos_embed.W_pos"][: tokens.shape[1]].expand(len(tokens), -1, -1))
        x = hooks["hook_embed"](self._embedded(tokens, weights)) + positions
        for i in range(config.n_layers):
            x = self._block(f"blocks.{i}.", x, weights)
        if config.normalization == "layernorm" and config.final_norm:
            x = _layer_norm(x, weights, "ln_final")
        if config.readout == "mean":
            x = hooks["unembed.hook_mean"](x.mean(dim=1, keepdim=True))
        return config.output_scale * (x @ weights["unembed.W_U"] + weights["unembed.b_U"])

    def run_with_cache(self, *args: Any, **options: Any) -> Any:
        """As HookedTransformer does: the logits, and every activation, by name or as `cache["post", layer]`."""
        logits, cache = super().run_with_cache(*args, **options)
        return logits, ActivationCache(cache, self)

    def _embedded(self, tokens: Tensor, weights: Mapping[str, Tensor]) -> Float[Tensor, "n t d"]:
        if self.config.shared_embedding:
            return weights["embed.W_E"][tokens]
        first, rest = weights["embed_a.W_E"][tokens[:, :1]], weights["embed_b.W_E"][tokens[:, 1:]]
        return torch.cat([first, rest], dim=1)

    def _block(self, block: str, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The residual stream after a block."""
        config, hooks = self.config, self.hook_dict
        pre_norm, post_norm = config.normalization == "layernorm", config.normalization == "post_layernorm"
        x = hooks[f"{block}hook_resid_pre"](x)
        read = _layer_norm(x, weights, f"{block}ln1") if pre_norm else x
        x = x + hooks[f"{block}hook_attn_out"](self._attention(f"{block}attn.", read, weights))
        x = hooks[f"{block}hook_resid_mid"](_layer_norm(x, weights, f"{block}ln1") if post_norm else x)
        read = _layer_norm(x, weights, f"{block}ln2") if pre_norm else x
        pre = hooks[f"{block}mlp.hook_pre"](read @ weights[f"{block}mlp.W_in"] + weights[f"{block}mlp.b_in"])
        neurons = hooks[f"{block}mlp.hook_post"](ACTIVATIONS[config.activation](pre))
        x = x + hooks[f"{block}hook_mlp_out"](neurons @ weights[f"{block}mlp.W_out"] + weights[f"{block}mlp.b_out"])
        return hooks[f"{block}hook_resid_post"](_layer_norm(x, weights, f"{block}ln2") if post_norm else x)

    def _attention(self, attn: str, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        config, hooks = self.config, self.hook_dict
        q, k, v = (
            hooks[f"{attn}hook_{kind.lower()}"](
                torch.einsum("ntd,hde->nthe", x, weights[f"{attn}W_{kind}"]) + weights[f"{attn}b_{kind}"]
            )
            for kind in "QKV"
        )
        scores = torch.einsum("nqhe,nkhe->nhqk", q, k) / math.sqrt(config.head_width)
        if config.attention == "causal":
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        pattern = hooks[f"{attn}hook_attn_scores"](scores).softmax(dim=-1)
        if config.attention_rate != 1:
            pattern = config.attention_rate * pattern + (1 - config.attention_rate)
        z = hooks[f"{attn}hook_z"](torch.einsum("nhqk,nkhe->nqhe", hooks[f"{attn}hook_pattern"](pattern), v))
        return torch.einsum("nqhe,hed->nqd", z, weights[f"{attn}W_O"]) + weights[f"{attn}b_O"]


def _layer_norm(x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.w"], weights[f"{name}.b"])


def _register(root: nn.Module, shapes: Shapes) -> None:
    """Registers parameters by dotted name, without setting them."""
    for name, shape in shapes.items():
        *path, parameter = name.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(parameter, nn.Parameter(torch.empty(shape)))


def _add_hooks(module: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        module.add_module(name, HookPoint())
