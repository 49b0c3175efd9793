"""snapshot: weights of a known architecture, evaluated on every input of a task."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from grokinterp.config import MLPConfig, ModelConfig
from grokinterp.errors import ConfigError
from grokinterp.measures import Activity, Snapshot
from grokinterp.measures.own_model import Embedded, PreActivity
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
        embedded=_embedded(task, forward, weights),
        checksum=checksum,
    )


def _pre_activity(task: Task, forward: Forward, weights: Mapping[str, Tensor]) -> PreActivity:
    config = forward.config
    one_hot = isinstance(config, MLPConfig) and config.input in ("one_hot", "one_hot_sum") and config.depth == 1
    values = forward.pre_activations(weights, task.tokens)
    return PreActivity(values, ACTIVATIONS[config.activation], one_hot)


def _embedded(task: Task, forward: Forward, weights: Mapping[str, Tensor]) -> Embedded | None:
    """The model as a function of embeddings: the same architecture, with a table of its own for each operand."""
    config = forward.config
    if task.operands != 2 or (isinstance(config, MLPConfig) and config.input in ("signs", "vector")):
        return None
    one_hot = isinstance(config, MLPConfig) and config.input in ("one_hot", "one_hot_sum")
    if one_hot:
        identity = torch.eye(task.p, dtype=weights["layers.0.W"].dtype)
        tables = identity, identity
    else:
        names = ("embed.W_E", "embed.W_E") if config.shared_embedding else ("embed_a.W_E", "embed_b.W_E")
        tables = (weights[names[0]][: task.p], weights[names[1]][: task.p])
    if isinstance(config, MLPConfig):
        is_sum = config.input in ("sum", "one_hot_sum")
        kind = "sum" if is_sum else "concat"
        changed = replace(config, input=kind, shared_embedding=False, d_embed=tables[0].shape[1])
    else:
        is_sum, changed = False, replace(config, shared_embedding=False)
    others = {name: weight for name, weight in weights.items() if not name.startswith("embed")}
    equals = getattr(config, "equals_token", False)
    last = weights["embed.W_E" if config.shared_embedding else "embed_b.W_E"][-1:] if equals else None

    def logits(of_a: Tensor, of_b: Tensor) -> Tensor:
        rows = torch.arange(len(of_a))
        tokens = torch.stack([rows, rows, *([torch.full_like(rows, len(rows))] if equals else [])], dim=1)
        table_b = of_b if last is None else torch.cat([of_b, last.to(of_b.dtype)])
        given = {name: weight.to(of_a.dtype) for name, weight in others.items()}
        return forward_for(changed, task).logits({**given, "embed_a.W_E": of_a, "embed_b.W_E": table_b}, tokens)

    return Embedded(tables, logits, is_sum)
