"""Forward and forward_for: the fastest exact forward pass for each architecture, behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Real
from torch import Tensor

from grokinterp.config import MLPConfig, ModelConfig, RecordedConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.models import forward as exact
from grokinterp.models import mlp_forward
from grokinterp.models.building import move_model
from grokinterp.models.folding import Weights, with_output_scale
from grokinterp.models.forward import Activations, Hook, no_hook
from grokinterp.models.products import Matmul, product
from grokinterp.models.rows import (
    last_position_activations,
    last_position_by_rows,
    last_position_pre_activations,
    logits_by_rows,
)
from grokinterp.models.shapes import parameter_shapes
from grokinterp.tasks import AnyTask, Task


@dataclass(frozen=True)
class Forward:
    """Logits and activations of one architecture as functions of its weights; see `forward_for`.

    >>> import grokinterp as gi
    >>> run = gi.load("checkpoints/run42")
    >>> forward_for(run.config.model, run.task).logits(run.weights("last"), run.task.tokens).shape
    torch.Size([4489, 67])

    Attributes:
        path: `last_position` (exact: computes only the position of the answer, with folded weight products), `prefix`
            (exact: computes shared positions once), `mlp` (looks up rows), or `module` (runs the module itself).
        activations: function of weights, `[n, t]` tokens, a matrix product, and a hook on the neurons; differentiable.
        config: the architecture.
    """

    path: Literal["last_position", "prefix", "mlp", "module"]
    activations: Callable[..., Activations]
    config: TransformerConfig | MLPConfig

    @property
    def last_neurons(self) -> str:
        """The prefix of the last layer's `hook_pre` and `hook_post`."""
        config = self.config
        is_mlp = isinstance(config, MLPConfig)
        return f"layers.{config.depth - 1}" if is_mlp else f"blocks.{config.n_layers - 1}.mlp"

    def logits(
        self, weights: Weights, tokens: Real[Tensor, "*r n t"], matmul: Matmul = torch.matmul, hook: Hook = no_hook
    ) -> Float[Tensor, "*r n c"]:
        """Computes the logits of the answer; differentiable in the weights.

        Args:
            weights: the weights by name; for the path `last_position` also stacked, `[r, ...]` each.
            tokens: `[n, t]`, the inputs; or `[r, n, t]`, those of each run of a stack.
            matmul: multiplies two matrices.
            hook: `hook(name, value)` receives the neurons and returns what replaces them.

        Returns:
            `[n, c]` logits.
        """
        return self.activations(weights, tokens, matmul=matmul, hook=hook).logits

    def logits_by_rows(
        self, weights: Weights, tokens: Real[Tensor, "n t"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "n c"]:
        """Computes the same logits without gradients, a chunk of rows at a time, which is faster and takes less memory.

        Args:
            weights: the weights by name.
            tokens: `[n, t]`, the inputs.
            dtype: dtype of the result (default: that of the weights).

        Returns:
            `[n, c]` logits.
        """
        config = self.config
        if isinstance(config, TransformerConfig) and self.path == "last_position":
            return last_position_by_rows(weights, tokens, config, dtype)
        width = config.d_mlp if isinstance(config, TransformerConfig) else config.width
        return logits_by_rows(partial(self.logits, matmul=product), weights, tokens, width, dtype)

    @torch.no_grad()
    def activity(self, weights: Weights, tokens: Real[Tensor, "n t"], dtype: torch.dtype | None = None) -> Activations:
        """Computes all activations without gradients: the logits, and what `logits_by_rows` drops.

        Args:
            weights: the weights by name.
            tokens: `[n, t]`, the inputs.
            dtype: dtype of the logits (default: that of the weights).
        """
        if isinstance(self.config, TransformerConfig) and self.path == "last_position":
            return last_position_activations(weights, tokens, self.config, dtype)
        found = self.activations(weights, tokens, matmul=product)
        return found if dtype is None else replace(found, logits=found.logits.to(dtype))

    @torch.no_grad()
    def pre_activations(self, weights: Weights, tokens: Real[Tensor, "n t"]) -> Float[Tensor, "n m"]:
        """Computes what the last layer's activation function is applied to, where the answer is read.

        Args:
            weights: the weights by name.
            tokens: `[n, t]`, the inputs.

        Raises:
            ConfigError: the answer is read from the mean over positions, of which each has its own.
        """
        config = self.config
        if isinstance(config, TransformerConfig) and config.readout == "mean":
            raise ConfigError("a transformer that is read from the mean over positions has pre-activations at each")
        if isinstance(config, TransformerConfig) and self.path == "last_position":
            return last_position_pre_activations(weights, tokens, config)
        kept: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> Tensor:
            kept[name] = value
            return value

        self.activations(weights, tokens, matmul=product, hook=keep)
        found = kept[f"{self.last_neurons}.hook_pre"]
        return found[:, -1] if found.ndim == 3 else found  # a module computes every position


def forward_for(config: ModelConfig, task: AnyTask, *, plain: bool = False) -> Forward:
    """Returns the fastest exact forward pass for an architecture.

    >>> forward_for(TransformerConfig(), Task.modular_addition(5)).path
    'last_position'
    >>> forward_for(TransformerConfig(n_layers=2), Task.modular_addition(5)).path
    'prefix'

    Args:
        config: the architecture.
        task: gives the number of operands, and what `plain` needs to build the module.
        plain: run the module itself, even if a faster form exists.

    Raises:
        ConfigError: the model is recorded: its architecture is not known.
    """
    if isinstance(config, MLPConfig):
        return Forward("mlp", partial(mlp_forward.mlp, config=config), config)
    if isinstance(config, RecordedConfig):
        raise ConfigError("a recorded model has no forward pass: only its logits were recorded")
    if plain:
        return Forward("module", _module_activations(config, task), config)
    if isinstance(task, Task) and exact.has_last_position_form(config, task.operands):
        return Forward("last_position", partial(exact.last_position, config=config), config)
    return Forward("prefix", partial(exact.prefix, config=config), config)


def _module_activations(config: TransformerConfig, task: AnyTask) -> Callable[..., Activations]:
    from grokinterp.models.modules import Transformer

    module: Any = Transformer(config, parameter_shapes(config, task.config))
    outputs: dict[str, Tensor] = {}
    replace = no_hook

    def replace_and_record(value: Tensor, hook: Any) -> Tensor:
        outputs[hook.name] = replace(hook.name, value) if ".mlp." in hook.name else value
        return outputs[hook.name]

    hidden = [f"blocks.{layer}.mlp.hook_post" for layer in range(config.n_layers)]
    pattern = f"blocks.{config.n_layers - 1}.attn.hook_pattern"
    for name in (*hidden, *(name.replace("post", "pre") for name in hidden), pattern):
        module.hook_dict[name].add_hook(replace_and_record)

    def activations(
        weights: Weights, tokens: Tensor, matmul: Matmul = torch.matmul, hook: Hook = no_hook
    ) -> Activations:
        nonlocal replace
        replace = hook
        if next(module.parameters()).device != tokens.device:
            move_model(module, tokens.device)
        logits = torch.func.functional_call(module, dict(weights), (tokens,))[:, -1]
        W_U = with_output_scale(weights, config)["unembed.W_U"]
        readout = weights[f"blocks.{config.n_layers - 1}.mlp.W_out"] @ W_U if config.reads_linearly else None
        neurons, attention = outputs[hidden[-1]], outputs[pattern]
        if config.readout == "mean":
            return Activations(logits, neurons.mean(dim=1), readout, attention.mean(dim=2))
        return Activations(logits, neurons[:, -1], readout, attention[:, :, -1])

    return activations
