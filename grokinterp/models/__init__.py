"""Models: building one from a configuration, and computing its logits from weights alone.

Everything here that needs no module avoids importing transformer_lens, which costs seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from grokinterp.config import (
    AnyTaskConfig,
    MLPConfig,
    ModelConfig,
    RecordedConfig,
    RegressionConfig,
    RunConfig,
    TransformerConfig,
)
from grokinterp.errors import ConfigError
from grokinterp.models import forward as exact
from grokinterp.models import mlp_forward
from grokinterp.models.forward import Activations, Hook, Weights, no_hook, with_output_scale
from grokinterp.models.initialization import initial_parameters
from grokinterp.models.memory import require_memory
from grokinterp.models.products import Matmul, product
from grokinterp.models.rows import last_position_activity, last_position_by_rows, logits_by_rows
from grokinterp.models.shapes import parameter_count
from grokinterp.tasks import AnyTask, RegressionTask, Task

__all__ = [
    "Activations",
    "Forward",
    "ModularModel",
    "Weights",
    "build_model",
    "forward_for",
    "initial_parameters",
    "parameter_count",
    "task_of",
]


_COPIES_OF_INPUTS = 3  # while they are made


class ModularModel(Protocol):
    """What a model must offer: named parameters, hooks, and logits of `[n, t]` tokens, operands or vectors."""

    def __call__(self, tokens: Real[Tensor, "n t"]) -> Float[Tensor, "n *position c"]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def run_with_cache(self, *args: Any, **options: Any) -> Any: ...


def task_of(config: RunConfig, train_indices: Tensor | None = None) -> AnyTask:
    """The task of a run, with `=` in its tokens where its model reads one.

    Raises:
        ConfigError: its inputs do not fit into memory, or the indices are no split.
    """
    numbers = _numbers_of(config.task)
    require_memory(8 * _COPIES_OF_INPUTS * numbers, f"the {config.task.n_inputs:,} inputs of {config.task.title}")
    if isinstance(config.task, RegressionConfig):
        return RegressionTask.from_config(config.task)
    equals = isinstance(config.model, TransformerConfig) and config.model.equals_token
    return Task.from_config(config.task, equals_token=equals, train_indices=train_indices)


def _numbers_of(task: AnyTaskConfig) -> int:
    """What is held of all inputs at a time, with their answers and whoever gives these."""
    if isinstance(task, RegressionConfig):
        width = task.teacher_width
        teacher = width * (task.d_in + task.d_out + (task.teacher_depth - 1) * width)
        return teacher + task.n_inputs * (task.d_in + task.d_out + 2 * width)
    return task.n_inputs * (task.operands + 2)


def build_model(
    config: RunConfig | ModelConfig, task: AnyTask, seed: int | None = None, device: str = "cpu"
) -> nn.Module:
    """A freshly initialized model: a `HookedTransformer`, or an MLP that is a `HookedRootModule`.

    Args:
        config: of a run (whose `model_seed` is the default seed) or of a model.
        task: gives the number of operands, of their values, and of classes; or the sizes of inputs and outputs.
        seed: of the initialization, which is drawn on the CPU whatever the device.
        device: where the model is put.

    Raises:
        ConfigError: a recorded model, whose architecture is not known, a model that cannot read the task's inputs, or
            one that does not fit into memory.
    """
    parameters = initial_parameters(config, task, seed)
    config = config.model if isinstance(config, RunConfig) else config
    if isinstance(task, Task):
        p, n_outputs, operands = task.p, task.n_classes, task.operands
    else:
        p, n_outputs, operands = 0, task.config.d_out, task.config.d_in
    if isinstance(config, TransformerConfig):
        from grokinterp.models.transformer import build_transformer

        model = build_transformer(config, p, n_outputs, operands)
    else:
        from grokinterp.models.mlp import MLP

        assert isinstance(config, MLPConfig)
        model = MLP(config, p, n_outputs, operands)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(parameters[name])
        parameter.requires_grad_(parameters[name].requires_grad)
    return _move(model, device)


@dataclass(frozen=True)
class Forward:
    """Logits and activations of one architecture as functions of its weights.

    Attributes:
        path: `last_position` (exact: only what the answer needs, weight products folded), `prefix` (exact: shared
            positions once), `mlp` (gathers), or `module` (the plain module's own).
        activations: from weights, `[n, t]` tokens, what multiplies matrices, and a hook on the neurons; differentiable.
        config: the architecture.
    """

    path: Literal["last_position", "prefix", "mlp", "module"]
    activations: Callable[..., Activations]
    config: TransformerConfig | MLPConfig

    def logits(
        self, weights: Weights, tokens: Real[Tensor, "n t"], matmul: Matmul = torch.matmul, hook: Hook = no_hook
    ) -> Float[Tensor, "n c"]:
        """Logits where the answer is read; differentiable in the weights. `hook(name, value)` may replace neurons."""
        return self.activations(weights, tokens, matmul=matmul, hook=hook).logits

    def logits_by_rows(
        self, weights: Weights, tokens: Real[Tensor, "n t"], dtype: torch.dtype | None = None
    ) -> Float[Tensor, "n c"]:
        """The same without gradients, a chunk of rows at a time: faster, and in little memory."""
        config = self.config
        if self.path == "last_position":
            assert isinstance(config, TransformerConfig)
            return last_position_by_rows(weights, tokens, config, dtype)
        width = config.d_mlp if isinstance(config, TransformerConfig) else config.width
        fast = partial(self.logits, matmul=product)
        return logits_by_rows(fast, weights, tokens, width, dtype)

    @torch.no_grad()
    def activity(
        self, weights: Weights, tokens: Real[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "n m"], Float[Tensor, "m c"] | None, Float[Tensor, "n h t"] | None]:
        """Neurons, what they add to the logits, and attention, as in `Activations`; without gradients."""
        if self.path == "last_position":
            assert isinstance(self.config, TransformerConfig)
            return last_position_activity(weights, tokens, self.config)
        found = self.activations(weights, tokens, matmul=product)
        return found.neurons, found.neuron_logit_map, found.attention


def _move(model: Any, device: str | torch.device) -> nn.Module:
    """Puts a model somewhere without a word; a HookedTransformer notes it in its configuration too."""
    return model.to(device, print_details=False) if hasattr(model, "cfg") else model.to(device)


def forward_for(config: ModelConfig, task: AnyTask, *, plain: bool = False) -> Forward:
    """The fastest exact forward pass there is for an architecture.

    Args:
        config: the architecture.
        task: gives the number of operands, and the module that a fallback needs.
        plain: True to use the module itself even where a faster form exists.
    """
    if isinstance(config, MLPConfig):
        return Forward("mlp", partial(mlp_forward.mlp, config=config), config)
    if isinstance(config, RecordedConfig):
        raise ConfigError("a recorded model has no forward pass: its logits were recorded")
    if plain:
        return Forward("module", _module_activations(config, task), config)
    if isinstance(task, Task) and exact.has_last_position_form(config, task.operands):
        return Forward("last_position", partial(exact.last_position, config=config), config)
    return Forward("prefix", partial(exact.prefix, config=config), config)


def _module_activations(config: TransformerConfig, task: AnyTask) -> Callable[..., Activations]:
    module: Any = build_model(config, task)
    last = config.n_layers - 1
    averaged = config.readout == "mean"
    kept: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any) -> None:
        kept[hook.name.rsplit(".", 1)[1]] = value

    replace = no_hook

    def replaced(value: Tensor, hook: Any) -> Tensor:
        return replace(hook.name, value)

    for layer in range(config.n_layers):
        module.hook_dict[f"blocks.{layer}.mlp.hook_post"].add_hook(replaced)
    for name in (f"blocks.{last}.mlp.hook_post", f"blocks.{last}.attn.hook_pattern"):
        module.hook_dict[name].add_hook(keep)

    def activations(
        weights: Weights, tokens: Tensor, matmul: Matmul = torch.matmul, hook: Hook = no_hook
    ) -> Activations:
        nonlocal replace
        replace = hook
        if next(module.parameters()).device != tokens.device:
            _move(module, tokens.device)
        logits = torch.func.functional_call(module, dict(weights), (tokens,))[:, -1]
        W_U = with_output_scale(weights, config)["unembed.W_U"]
        readout = weights[f"blocks.{last}.mlp.W_out"] @ W_U if config.reads_linearly else None
        neurons, attention = kept["hook_post"], kept["hook_pattern"]
        if averaged:
            return Activations(logits, neurons.mean(dim=1), readout, attention.mean(dim=2))
        return Activations(logits, neurons[:, -1], readout, attention[:, :, -1])

    return activations
