"""snapshot: weights of a known architecture, evaluated on every input of a task."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from grokinterp.config import MLPConfig, ModelConfig
from grokinterp.errors import ConfigError
from grokinterp.measures import Activity, Snapshot
from grokinterp.measures.own_model import PreActivity
from grokinterp.models.dispatch import Forward, forward_for
from grokinterp.models.forward import ACTIVATIONS
from grokinterp.models.memory import require_memory
from grokinterp.models.shapes import parameter_shapes
from grokinterp.tasks import Task


def snapshot(
    task: Task, config: ModelConfig, weights: Mapping[str, Tensor], *, step: int | None = None, neurons: bool = False
) -> Snapshot:
    """Makes a snapshot of weights of any architecture that a configuration describes.

    >>> import grokinterp as gi
    >>> run = gi.load("checkpoints/run42")
    >>> taken = gi.snapshot(run.task, run.config.model, run.weights("last"))
    >>> gi.measures.key_frequencies(taken).values
    (8, 14, 21)

    Args:
        task: the task; its tokens must end in `=` if the model reads one.
        config: the architecture.
        weights: the parameters by name, as `Run.weights` returns them.
        step: number of optimizer updates made.
        neurons: keep the neurons from the forward pass; otherwise, the first use of them takes a second one.

    Raises:
        ConfigError: the architecture is unknown, the weights are not of it, or the logits do not fit into memory.
    """
    shapes = parameter_shapes(config, task.config)
    wrong = next((name for name in shapes if name not in weights or tuple(weights[name].shape) != shapes[name]), None)
    if wrong is not None or len(weights) != len(shapes):
        name = wrong or next(name for name in weights if name not in shapes)
        expected = f"shape {list(shapes[name])}" if name in shapes else "no such parameter"
        found = f"shape {list(weights[name].shape)}" if name in weights else "none"
        raise ConfigError(f"the weights are not of this architecture: {name} has {found}, but {expected} is expected")
    return evaluated(task, forward_for(config, task), weights, step=step, neurons=neurons)


def evaluated(
    task: Task,
    forward: Forward,
    weights: Mapping[str, Tensor],
    *,
    step: int | None = None,
    neurons: bool = False,
    checksum: str = "",
) -> Snapshot:
    """The snapshot of weights that are known to fit a forward pass; the arguments are those of `snapshot`."""
    n, c = len(task.inputs), task.n_classes
    require_memory(16 * n * c, f"the logits of {n:,} inputs and {c:,} classes")  # float64, two copies
    trains = getattr(forward.config, "trains", lambda name: True)
    kept = forward.activity(weights, task.tokens, torch.float64) if neurons else None
    logits = kept.logits if kept else forward.logits_by_rows(weights, task.tokens, torch.float64)
    return Snapshot(
        task,
        logits[:, :c],
        step=step,
        weights=weights,
        trained=tuple(name for name in weights if trains(name)),
        forward=lambda changed: forward.logits(changed, task.tokens),
        activity=lambda: Activity.of(kept or forward.activity(weights, task.tokens)),
        pre_activity=None
        if getattr(forward.config, "readout", "last") == "mean"
        else partial(_pre_activity, task, forward, weights),
        checksum=checksum,
    )


def _pre_activity(task: Task, forward: Forward, weights: Mapping[str, Tensor]) -> PreActivity:
    config = forward.config
    one_hot = isinstance(config, MLPConfig) and config.input in ("one_hot", "one_hot_sum") and config.depth == 1
    values = forward.pre_activations(weights, task.tokens)
    return PreActivity(values, ACTIVATIONS[config.activation], one_hot)
