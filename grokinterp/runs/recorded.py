"""Snapshots of recorded runs: read from what was recorded, or computed again with the model that was recorded."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grokinterp.errors import ConfigError, RunError
from grokinterp.measures.own_model import NOT_NAMED, Activity, Parts, evaluating
from grokinterp.runs.tensors import describe_misfit
from grokinterp.tasks import Task

if TYPE_CHECKING:
    from grokinterp.measures import Snapshot

# What a file in logits/ may have beside the logits; all are of the same dtype.
_TABLES = ("embedding_0", "embedding_1")
_NEURONS, _MAP = "neurons", "neuron_logit_map"
_DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class OwnModel:
    """A user's module, with the names of its parts, that computes the logits of a recorded run from its weights."""

    module: nn.Module
    parts: Parts

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the module with recorded weights, in evaluation mode.

        Raises:
            ConfigError: the weights are not those of the module.
        """
        module = copy.deepcopy(self.module).eval()
        try:
            missing, unknown = module.load_state_dict(dict(weights), strict=False)
        except RuntimeError as error:
            raise ConfigError(f"the model does not fit the recorded weights: {error}") from None
        missing = sorted(set(missing) & {name for name, _ in module.named_parameters()})
        if missing or unknown:
            problem = f"it has no {unknown[0]}" if unknown else f"its {missing[0]} was not recorded"
            raise ConfigError(f"the model does not fit the recorded weights: {problem}")
        return module

    def snapshot(self, task: Task, weights: Mapping[str, Tensor], step: int) -> "Snapshot":
        """The snapshot that the model gives with recorded weights."""
        from grokinterp.measures import Snapshot

        module, parts = self.with_weights(weights), self.parts
        device = next((w.device for w in module.parameters()), torch.device("cpu"))

        def forward(changed: Mapping[str, Tensor]) -> Tensor:
            moved = {name: w.to(device) for name, w in changed.items()}
            with evaluating(module):
                logits = torch.func.functional_call(module, moved, (task.tokens.to(device),))
            return (logits[:, -1] if logits.ndim == 3 else logits).cpu()

        return Snapshot.from_model(
            task,
            module,
            weights=weights,
            forward=forward,
            step=step,
            embedding=parts.embedding,
            neurons=parts.neurons,
            unembedding=parts.unembedding,
        )


def outputs(snapshot: "Snapshot") -> dict[str, Tensor]:
    """What is recorded of a snapshot beside the weights: its logits, and its embedding and neurons if it has them."""
    tensors = {"logits": snapshot.logits, **dict(zip(_TABLES, snapshot.embedding or (), strict=False))}
    if snapshot.activity is not None:
        tensors[_NEURONS] = snapshot.activations.neurons
        if snapshot.activations.neuron_logit_map is not None:
            tensors[_MAP] = snapshot.activations.neuron_logit_map
    return tensors


def from_outputs(task: Task, tensors: Mapping[str, Tensor], **more: Any) -> "Snapshot":
    """The snapshot whose `outputs` were recorded.

    Args:
        task: the task.
        tensors: as `outputs` returns them.
        **more: further arguments of `Snapshot.from_logits`.
    """
    from grokinterp.measures import Snapshot

    tables = tuple(tensors[name].float() for name in _TABLES if name in tensors)
    activity = None
    if _NEURONS in tensors:
        readout = tensors.get(_MAP)
        activity = Activity(tensors[_NEURONS].float(), None if readout is None else readout.float(), None, NOT_NAMED)
    return replace(
        Snapshot.from_logits(task, tensors["logits"].float(), **more),
        embedding=tables or None,
        activity=None if activity is None else lambda: activity,
    )


def describe_bad_outputs(tensors: Mapping[str, Tensor], n: int, c: int, p: int) -> str:
    """Describes what is wrong with recorded outputs; empty if nothing is.

    Args:
        tensors: as `outputs` returns them.
        n: number of inputs.
        c: number of classes.
        p: number of rows that an embedding must have.
    """
    shapes: dict[str, tuple[int, ...]] = {"logits": (n, c)}
    for name in _TABLES:
        if name in tensors:
            shape = tuple(tensors[name].shape)
            shapes[name] = shape if len(shape) == 2 and shape[0] >= p else (p, *shape[1:2])
    if _NEURONS in tensors:
        width = tensors[_NEURONS].shape[-1] if tensors[_NEURONS].ndim else 0
        shapes[_NEURONS] = (n, width)
        if _MAP in tensors:
            shapes[_MAP] = (width, c)
    dtype = tensors["logits"].dtype if "logits" in tensors else torch.float32
    return describe_misfit(tensors, shapes, dtype if dtype in _DTYPES else torch.float32)


def no_logits(folder: Any, step: int) -> RunError:
    """The error for a step whose weights were recorded without logits."""
    return RunError(
        f"{folder} has weights of step {step}, but no logits: in Python, run.with_model(model) computes them again"
    )
