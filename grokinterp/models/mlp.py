"""MLP baselines as HookedRootModule, with the hooks and `run_with_cache` of TransformerLens."""

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from grokinterp.config import MLPConfig
from grokinterp.models import mlp_forward


class _Embed(nn.Module):
    def __init__(self, p: int, width: int):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(p, width))


class _LayerNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.w = nn.Parameter(torch.ones(width))
        self.b = nn.Parameter(torch.zeros(width))


class _Layer(nn.Module):
    def __init__(self, n_in: int, config: MLPConfig):
        super().__init__()
        residual = config.architecture == "residual"
        self.W = nn.Parameter(torch.empty(n_in, config.width))
        if config.biases:
            self.b = nn.Parameter(torch.zeros(config.width))
        if residual:
            self.ln = _LayerNorm(n_in)
            self.W_out = nn.Parameter(torch.empty(config.width, n_in))
            if config.biases:
                self.b_out = nn.Parameter(torch.zeros(n_in))
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()


class _Unembed(nn.Module):
    def __init__(self, width: int, n_classes: int, biases: bool):
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(width, n_classes))
        if biases:
            self.b_U = nn.Parameter(torch.zeros(n_classes))


class MLP(HookedRootModule):
    """An MLP on operands in 0 .. p-1, or on vectors.

    Parameters: `embed.W_E` (or `embed_a.W_E` and `embed_b.W_E`; none without embeddings), `layers.i.W [in, out]`,
    `layers.i.b`, in residual blocks also `layers.i.ln.w`, `.ln.b`, `.W_out`, `.b_out`; `unembed.W_U`, `unembed.b_U`.
    Hooks: `hook_embed` (with embeddings), `layers.i.hook_pre`, `layers.i.hook_post`.
    """

    def __init__(self, config: MLPConfig, p: int, n_classes: int, operands: int = 2):
        """Builds the modules without setting the weights.

        Args:
            config: the architecture.
            p: number of values of an operand; ignored for vectors.
            n_classes: number of outputs.
            operands: number of operands, or of numbers in a vector.
        """
        super().__init__()
        self.config = config
        width_in = operands if config.input in ("signs", "vector") else operands * p
        if config.input in ("concat", "sum"):
            if config.shared_embedding:
                self.embed = _Embed(p, config.embedding_width)
            else:
                self.embed_a = _Embed(p, config.embedding_width)
                self.embed_b = _Embed(p, config.embedding_width)
            width_in = config.embedding_width * (operands if config.input == "concat" else 1)
            self.hook_embed = HookPoint()
        widths = [width_in] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(_Layer(width, config) for width in widths)
        self.unembed = _Unembed(config.width, n_classes, config.biases)
        self.setup()

    def forward(self, inputs: Real[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Computes the logits of each input."""
        hooks = self.hook_dict
        weights = dict(self.named_parameters())
        return mlp_forward.mlp(weights, inputs, self.config, lambda name, value: hooks[name](value)).logits
