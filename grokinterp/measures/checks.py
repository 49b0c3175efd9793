"""Checks of the logits, labels and weights that a caller passes."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.tasks import Task


def require_task(task: Any) -> None:
    """Raises a ConfigError unless the value is a task."""
    if not isinstance(task, Task):
        raise ConfigError(f"task must be a Task, for instance Task.modular_addition(p=113), but is {task!r}")


def require_tensor(logits: Any, name: str) -> None:
    """Raises a ConfigError unless the value is a tensor."""
    if not isinstance(logits, Tensor):
        hint = ": use torch.from_numpy" if type(logits).__module__ == "numpy" else ""
        raise ConfigError(f"{name} must be a tensor of logits, but is {type(logits).__name__}{hint}")


def checked_logits(task: Task, logits: Tensor, name: str) -> Float[Tensor, "n c"]:
    """`[n, c]`, the logits of all inputs without the column of `=`.

    Raises:
        ConfigError: they have another shape or are not floating point.
    """
    require_task(task)
    require_tensor(logits, name)
    n, c = len(task.inputs), task.n_classes
    shape = tuple(logits.shape)
    flat = logits.flatten(0, 1) if logits.ndim == 3 and shape[:2] == (task.p, task.p) else logits
    if flat.ndim != 2 or len(flat) != n or flat.shape[1] < c or not logits.is_floating_point():
        raise ConfigError(
            f"{name} of {task.config.title} must be floating point, of shape [{n}, {c}]"
            f"{f' or [{task.p}, {task.p}, {c}]' if n == task.p**2 else ''} (extra classes are dropped), "
            f"but are {logits.dtype} of shape {list(shape)}"
        )
    return flat[:, :c]


def require_weights(weights: Mapping[str, Tensor] | None) -> None:
    """Checks weights that a caller passes.

    Raises:
        ConfigError: they are not None and not tensors by name, or there are none.
    """
    if weights is None:
        return
    if not isinstance(weights, Mapping):
        raise ConfigError(f"weights must be a dict of tensors by name, but is {type(weights).__name__}")
    if not weights:
        raise ConfigError("weights is empty: give the parameters by name, or None if they are not available")
    wrong = next((name for name, w in weights.items() if not isinstance(w, Tensor)), None)
    if wrong is not None:
        raise ConfigError(f"weights[{wrong!r}] must be a tensor, but is {type(weights[wrong]).__name__}")


def require_labeled(logits: Tensor, labels: Tensor, **by_input: Tensor | None) -> None:
    """Checks the arguments of a function of logits and labels.

    Args:
        logits: must be floating point, `[n, c]`.
        labels: must be integers in 0 .. c - 1, `[n]`; their range is checked on the CPU only, so that nothing waits.
        by_input: further arguments by name; each must be None or have shape `[n]`.

    Raises:
        ConfigError: a check fails; the message names the argument, what it is, and what was expected.
    """
    for name, value in {"logits": logits, "labels": labels, **by_input}.items():
        if not isinstance(value, Tensor) and not (value is None and name in by_input):
            raise ConfigError(f"{name} must be a tensor, but is {type(value).__name__}")
    if logits.ndim != 2 or not logits.is_floating_point():
        came = f"{logits.dtype} of shape {list(logits.shape)}"
        raise ConfigError(f"logits must be floating point, of shape [n, c], but are {came}")
    n, c = logits.shape
    for name, value in {"labels": labels, **by_input}.items():
        if value is not None and value.shape != (n,):
            raise ConfigError(
                f"{name} must have shape [{n}], one entry per row of the logits, but is {list(value.shape)}"
            )
    is_integer = not (labels.is_floating_point() or labels.is_complex()) and labels.dtype != torch.bool
    if not is_integer or (len(labels) and labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() < c):
        raise ConfigError(f"labels must be integers in 0 .. {c - 1}, the {c} classes of the logits")
