"""Building the task and the model that a configuration describes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

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
from grokinterp.models.initialization import initial_parameters
from grokinterp.models.memory import require_memory
from grokinterp.models.shapes import parameter_shapes
from grokinterp.models.version_4 import to_version_4
from grokinterp.tasks import AnyTask, RegressionTask, Task

_COPIES_OF_INPUTS = 3  # in memory while the inputs are made


class ModularModel(Protocol):
    """What a model must provide: named parameters, hooks, and logits of `[n, t]` tokens, operands or vectors.

    >>> import grokinterp as gi
    >>> model = gi.Run.open("checkpoints/run42").model(4200)
    >>> model.W_E.shape
    torch.Size([68, 64])
    """

    def __call__(self, tokens: Real[Tensor, "n t"]) -> Float[Tensor, "n *position c"]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def run_with_cache(self, *args: Any, **options: Any) -> Any: ...


def task_of(config: RunConfig, train_indices: Tensor | None = None) -> AnyTask:
    """Makes the task of a run, with `=` in its tokens if the model reads one.

    >>> task_of(RunConfig()).tokens[0].tolist()
    [0, 0, 113]

    Args:
        config: configuration of the run.
        train_indices: positions of the training inputs, for a split stored with the run.

    Raises:
        ConfigError: the inputs do not fit into memory, or the indices do not make a split.
    """
    inputs = f"the {config.task.n_inputs:,} inputs of {config.task.title}"
    require_memory(8 * _COPIES_OF_INPUTS * _count_numbers(config.task), inputs)
    if isinstance(config.task, RegressionConfig):
        return RegressionTask.from_config(config.task)
    equals = isinstance(config.model, TransformerConfig | RecordedConfig) and config.model.equals_token
    return Task.from_config(config.task, equals_token=equals, train_indices=train_indices)


def _count_numbers(task: AnyTaskConfig) -> int:
    """How many numbers all inputs and labels take, including the teacher of a regression and its activations."""
    if isinstance(task, RegressionConfig):
        width = task.teacher_width
        teacher = width * (task.d_in + task.d_out + (task.teacher_depth - 1) * width)
        return teacher + task.n_inputs * (task.d_in + task.d_out + 2 * width)
    return task.n_inputs * (task.operands + 2)


def build_model(
    config: RunConfig | ModelConfig, task: AnyTask, seed: int | None = None, device: str = "cpu"
) -> nn.Module:
    """Builds a freshly initialized model with the hooks of TransformerLens; see `Run.model` for its class.

    >>> import grokinterp as gi
    >>> task = gi.Task.modular_addition(p=7, equals_token=False)
    >>> model = build_model(gi.MLPConfig(width=16), task, seed=0)
    >>> model(task.tokens).shape
    torch.Size([49, 7])

    Args:
        config: configuration of a run (whose `model_seed` is the default seed) or of a model.
        task: gives the number of operands, of their values, and of classes; or the sizes of inputs and outputs.
        seed: seed of the initialization, which is drawn on the CPU for every device.
        device: device of the model.

    Raises:
        ConfigError: the model is recorded (its architecture is not known), cannot read the inputs of the task, or does
            not fit into memory.
    """
    parameters = initial_parameters(config, task, seed)
    config = config.model if isinstance(config, RunConfig) else config
    if isinstance(config, TransformerConfig):
        from grokinterp.models.transformer import build_transformer

        model = build_transformer(config, task.config)
    else:
        from grokinterp.models.modules import MLP

        assert isinstance(config, MLPConfig)  # initial_parameters refuses recorded models
        model = MLP(config, parameter_shapes(config, task.config))
    return move_model(set_weights(model, parameters), device)


def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Copies weights into a model of `build_model`; parameters among them also say whether they are trained.

    Args:
        model: the model.
        weights: the weights by their names in checkpoints.
    """
    is_bridge = not set(weights) <= {name for name, _ in model.named_parameters()}
    translate: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = to_version_4 if is_bridge else dict
    # Buffers of a HookedTransformer (mask, IGNORE) are not among the weights.
    found = model.load_state_dict(translate(weights), strict=False)
    assert not found.unexpected_keys
    state = model.state_dict(keep_vars=True)
    for name, weight in weights.items():
        if isinstance(weight, nn.Parameter):
            for target in translate({name: weight}):
                state[target].requires_grad_(weight.requires_grad)
    return model


def move_model(model: Any, device: str | torch.device) -> nn.Module:
    """Moves a model to a device; a HookedTransformer also notes the device in its configuration, silently here."""
    return model.to(device, print_details=False) if hasattr(model, "cfg") else model.to(device)
