"""What a resume point must hold, known from the configuration; nothing is copied from one that holds anything else."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from grokinterp.config import RunConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.tensors import Shapes, misfit
from grokinterp.tasks import AnyTask

_ADVICE = "delete it, and the run resumes from its start"


def state_shapes(config: RunConfig, step: int) -> Shapes:
    """The float32 tensors of the resume point after `step` updates: weights, and what the optimizer remembers."""
    assert config.optimizer is not None
    shapes = parameter_shapes(config.model, config.task)
    found = {f"weights:{name}": shape for name, shape in shapes.items()}
    if step == 0:
        return found
    if config.optimizer.name == "sgd":
        slots = ["momentum_buffer"] if config.optimizer.momentum else []
    else:
        slots = ["exp_avg", "exp_avg_sq"]
    for name, shape in shapes.items():
        if isinstance(config.model, TransformerConfig) and not config.model.trains(name):
            continue
        found |= {f"optimizer:{name}:{slot}": shape for slot in slots}
        if config.optimizer.name != "sgd":
            found[f"optimizer:{name}:step"] = ()
    return found


def require_state(state: Mapping[str, Tensor], config: RunConfig, task: AnyTask, step: int, file: Path) -> None:
    """Refuses a resume point that is not of this configuration.

    Args:
        state: its tensors.
        config: of the run.
        task: of the run.
        step: number of updates made.
        file: for the message.

    Raises:
        RunError: something is missing, of another shape, or out of range.
    """
    own = {name: tensor for name, tensor in state.items() if name.startswith(("weights:", "optimizer:"))}
    wrong = misfit(own, state_shapes(config, step))
    if not wrong:
        assert task.train_mask is not None
        pending, n = state.get("batches:pending"), int(task.train_mask.sum())
        if pending is None or pending.dtype != torch.int64 or pending.ndim != 1 or len(pending) > n:
            wrong = "it has no order of the next minibatches"
        elif len(pending) and not 0 <= int(pending.min()) <= int(pending.max()) < n:
            wrong = "its minibatches hold examples that there are not"
    if not wrong:
        try:
            torch.Generator().set_state(state["batches:order"])
        except (KeyError, RuntimeError, TypeError):
            wrong = "it has no random state that the next minibatches are drawn from"
    if wrong:
        raise RunError(f"{file} does not fit config.json ({wrong}): {_ADVICE}")


@contextlib.contextmanager
def restoring(file: Path) -> Iterator[None]:
    """Says of a resume point from which something cannot be put back that it is damaged.

    Raises:
        RunError: in place of what went wrong.
    """
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise RunError(f"{file} does not fit config.json ({type(error).__name__}: {error}): {_ADVICE}") from None
