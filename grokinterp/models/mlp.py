"""MLP baselines as HookedRootModule, with the hooks and `run_with_cache` of TransformerLens."""

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from grokinterp.config import MLPConfig
from grokinterp.models import mlp_forward
from grokinterp.models.shapes import Shapes


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
        for name, shape in shapes.items():
            *path, parameter = name.split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(parameter, nn.Parameter(torch.empty(shape)))
        for i in range(config.depth):
            layer = self.get_submodule(f"layers.{i}")
            layer.hook_pre, layer.hook_post = HookPoint(), HookPoint()
        self.setup()

    def forward(self, inputs: Real[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Computes the logits of each input."""
        hooks = self.hook_dict
        weights = dict(self.named_parameters())
        return mlp_forward.mlp(weights, inputs, self.config, lambda name, value: hooks[name](value)).logits
