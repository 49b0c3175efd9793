"""Checks of the logits, labels and weights that a caller passes."""

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.tasks import Task

_CLEARLY_RIGHT = 0.9  # an accuracy that no wrong order of rows or classes gives by chance,
_CLEARLY_BETTER = 0.1  # and by how much it must exceed that of the logits as they are


@runtime_checkable
class Array(Protocol):
    """A tensor, a NumPy array, or what NumPy takes for one."""

    def __array__(self) -> Any: ...


def require_task(task: Any) -> None:
    """Raises a ConfigError unless the value is a task."""
    if not isinstance(task, Task):
        raise ConfigError(f"task must be a Task, for instance Task.modular_addition(p=113), but is {task!r}")


def as_tensor(logits: Any, name: str) -> Tensor:
    """A tensor or NumPy array as a tensor.

    Raises:
        ConfigError: the value is neither.
    """
    try:
        if isinstance(logits, Array):
            return torch.as_tensor(logits)
    except (TypeError, ValueError, RuntimeError):  # an array of objects, for instance
        pass
    raise ConfigError(f"{name} must be a tensor or an array of logits, but is {type(logits).__name__}")


def checked_logits(task: Task, logits: Any, name: str) -> Float[Tensor, "n c"]:
    """`[n, c]`, the logits of all inputs without the column of `=`.

    Raises:
        ConfigError: they have another shape or are not floating point.
    """
    require_task(task)
    logits = as_tensor(logits, name)
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


def warn_if_not_logits(task: Task, logits: Float[Tensor, "n c"]) -> None:
    """Warns if values that were passed as logits look like something else; see `resemblance`.

    The text has no numbers of the model, so that Python shows it once and not at every step of a training loop.
    """
    if problem := resemblance(task, logits):
        warnings.warn(f"are these the logits of {task.config.title}? {problem}", stacklevel=3)


def resemblance(task: Task, logits: Float[Tensor, "n c"]) -> str:
    """What values that were passed as logits look like instead; empty if nothing speaks against them.

    Log-probabilities are fine: softmax maps them to the same probabilities as the logits.

    Args:
        task: the task.
        logits: `[n, c]`, in the order of `task.inputs`.
    """
    is_share = bool((logits.min() >= 0) & ((logits.sum(dim=1) - 1).abs().max() < 1e-3))
    if is_share and bool(((logits > 0) & (logits < 1)).any()):  # a one-hot answer is not a softmax
        return "they look like probabilities (each row is non-negative and sums to 1): pass the values before softmax"
    rows = torch.ones(len(logits), dtype=torch.bool) if task.train_mask is None else task.train_mask
    answers, labels = logits.argmax(dim=1), task.labels

    def accuracy(found: Tensor) -> float:
        return (found == labels)[rows].double().mean().item()

    as_given = accuracy(answers)
    if as_given > 1 - _CLEARLY_BETTER:
        return ""
    alternatives = {
        f"their classes look shifted by one (column {shift} would be class 0)": (answers - shift) % task.n_classes
        for shift in (1, task.n_classes - 1)
    }
    if task.mirror is not None:
        mirrored = torch.where(task.mirror >= 0, answers[task.mirror], -1)
        alternatives["their rows look transposed (the row of (a, b) holds the answer for (b, a))"] = mirrored
    for text, found in alternatives.items():
        better = accuracy(found)
        if better >= max(_CLEARLY_RIGHT, as_given + _CLEARLY_BETTER):
            return text
    return ""


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
