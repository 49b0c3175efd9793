"""The HookedTransformer of TransformerLens: the only file that imports it."""

import warnings
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components import TransformerBlock, Unembed
from transformer_lens.hook_points import HookPoint

from grokinterp.config import TransformerConfig


def build_transformer(config: TransformerConfig, p: int, n_classes: int, operands: int = 2) -> HookedTransformer:
    """Builds a HookedTransformer on operands in 0 .. p-1 on the CPU, without setting its weights.

    With `post_layernorm`, `hook_resid_mid` and `hook_resid_post` of a block are the outputs of its LayerNorms. With
    readout `mean`, the logits are `[n, 1, c]`, computed from the mean over positions at `unembed.hook_mean`.

    Inputs are `a b =`; those of Power et al. 2022 are `<eos> a op b =`, where the two additional tokens are the same in
    every input. Their loss is the mean over the answer and the `<eos>` after it; this loss covers only the answer.

    Args:
        config: the architecture.
        p: number of values of an operand; `=` is token p.
        n_classes: number of classes; with `equals_logit` the output has one more.
        operands: number of operands.
    """
    hooked_config = HookedTransformerConfig(
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        d_model=config.d_model,
        d_head=config.head_width,
        d_mlp=config.d_mlp,
        act_fn=config.activation,
        normalization_type=None if config.normalization == "none" else "LN",
        attention_dir=config.attention,
        d_vocab=p + 1 if config.equals_token else p,
        d_vocab_out=n_classes + 1 if config.equals_logit else n_classes,
        n_ctx=operands + config.equals_token,
        init_weights=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        # HookedTransformer announces its removal in version 4, which pyproject.toml excludes.
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        model = HookedTransformer(hooked_config)
    if config.normalization == "post_layernorm":
        for layer in range(config.n_layers):
            model.blocks[layer] = _PostNormBlock(model.cfg, layer)
    if config.normalization == "post_layernorm" or not config.final_norm:
        model.ln_final = nn.Identity()
    if config.readout == "mean":
        model.unembed = _MeanUnembed(model.cfg)
    model.setup()  # names the hooks of the replaced modules
    if config.output_scale != 1:
        model.unembed.register_forward_hook(partial(_scale_logits, config.output_scale))
    return model


def _scale_logits(scale: float, module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
    return scale * logits


class _PostNormBlock(TransformerBlock):
    """A block whose LayerNorms come after attention and MLP are added to the residual stream (Power et al. 2022)."""

    def forward(
        self,
        resid_pre: Float[Tensor, "n t d"],
        shortformer_pos_embed: Any = None,
        past_kv_cache_entry: Any = None,
        attention_mask: Any = None,
    ) -> Float[Tensor, "n t d"]:
        """Computes the residual stream after the block; HookedTransformer passes the other arguments."""
        stream = self.hook_resid_pre(resid_pre)
        options = {"past_kv_cache_entry": past_kv_cache_entry, "attention_mask": attention_mask}
        attended = self.hook_attn_out(self.attn(query_input=stream, key_input=stream, value_input=stream, **options))
        resid_mid = self.hook_resid_mid(self.ln1(stream + attended))
        return self.hook_resid_post(self.ln2(resid_mid + self.hook_mlp_out(self.mlp(resid_mid))))


class _MeanUnembed(Unembed):
    """An unembedding that reads the mean over positions."""

    def __init__(self, cfg: HookedTransformerConfig):
        super().__init__(cfg)
        self.hook_mean = HookPoint()

    def forward(self, residual: Float[Tensor, "n t d"]) -> Float[Tensor, "n 1 c"]:
        """Computes the logits as if there were one position."""
        return super().forward(self.hook_mean(residual.mean(dim=1, keepdim=True)))
