"""The resume point, `resume.safetensors`: everything that the next update of a run depends on.

A training writes it every `resume_every` updates. To resume the run, it is read, checked against the configuration,
and copied into weights, optimizer and random generators.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from grokinterp.config import RecordedConfig, RunConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.files import exists, read_bytes, write_atomically
from grokinterp.runs.tensors import LARGEST_RECORDED, Shapes, describe_misfit, deserialize, max_bytes, serialize
from grokinterp.tasks import AnyTask

RESUME = "resume.safetensors"


def write_resume_point(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the resume point of a run.

    Args:
        folder: the run folder.
        step: number of updates made.
        tensors: everything that the next update depends on, by name, on the CPU.

    Raises:
        RunError: the folder is not writable, or the disk is full. The previous resume point remains.
    """
    write_atomically(folder / RESUME, serialize(tensors, {"step": str(step)}, digest=True))


def read_resume_point(folder: Path, config: RunConfig) -> tuple[int, dict[str, Tensor]] | None:
    """Reads the step and the tensors of a run's resume point; None if there is none yet.

    Args:
        folder: the run folder.
        config: of the run.

    Raises:
        RunError: the resume point is damaged.
    """
    file = folder / RESUME
    if not exists(file):
        return None
    try:
        content = deserialize(read_bytes(file, limit=_max_size(config)), file)
        step = content.metadata.get("step", "")
        last = config.schedule.steps if config.schedule else 0
        if not (step.isdecimal() and step.isascii() and int(step[:20]) <= last):
            raise RunError(f"{file} is damaged (its step is {step!r})")
    except RunError as error:
        raise RunError(f"{error}: delete it to resume the run from its start") from None
    return int(step), content.tensors


def _max_size(config: RunConfig) -> int:
    """Largest possible size of the resume point in bytes."""
    if isinstance(config.model, RecordedConfig):  # a recorded run has no resume point
        return max_bytes(LARGEST_RECORDED)
    optimizer = config.optimizer
    window = optimizer.grokfast_window if optimizer is not None and optimizer.grokfast == "ma" else 1
    return max_bytes(parameter_shapes(config.model, config.task), copies=4 + window)


def state_shapes(config: RunConfig, step: int) -> Shapes:
    """Shapes of the float32 tensors in the resume point after `step` updates: weights and optimizer state."""
    optimizer = config.training().optimizer
    parameters = parameter_shapes(config.model, config.task)
    shapes = {f"weights:{name}": shape for name, shape in parameters.items()}
    if step == 0:
        return shapes
    for name, shape in parameters.items():
        if isinstance(config.model, TransformerConfig) and not config.model.trains(name):
            continue
        shapes |= {f"optimizer:{name}:{slot}": shape for slot in optimizer.state_slots}
        if optimizer.name != "sgd":  # the others count their updates
            shapes[f"optimizer:{name}:step"] = ()
    return shapes


def require_state(state: Mapping[str, Tensor], config: RunConfig, task: AnyTask, step: int, file: Path) -> None:
    """Checks that a resume point fits the configuration.

    Args:
        state: the tensors of the resume point.
        config: of the run.
        task: of the run.
        step: number of updates made.
        file: the resume point, for the message.

    Raises:
        RunError: a tensor is missing, has another shape, or is out of range.
    """
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(("weights:", "optimizer:"))}
    problem = describe_misfit(tensors, state_shapes(config, step)) or _describe_bad_batches(state, task)
    if problem:
        raise _misfit_error(file, problem)


def _describe_bad_batches(state: Mapping[str, Tensor], task: AnyTask) -> str:
    """Describes what is wrong with the state of the minibatches; empty if it is valid."""
    pending, n = state.get("batches:pending"), int(task.require_split().sum())
    if pending is None or pending.dtype != torch.int64 or pending.ndim != 1 or len(pending) > n:
        return "it has no valid order of the next minibatches"
    if len(pending) and not 0 <= int(pending.min()) <= int(pending.max()) < n:
        return "its minibatches refer to training examples that do not exist"
    try:
        torch.Generator().set_state(state["batches:order"])
    except (KeyError, RuntimeError, TypeError):
        return "it has no valid random state for the next minibatches"
    return ""


@contextlib.contextmanager
def restoring(file: Path) -> Iterator[None]:
    """Context manager for code that restores state from a resume point: an error means that the file does not fit.

    Raises:
        RunError: instead of the original error.
    """
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise _misfit_error(file, f"{type(error).__name__}: {error}") from None


def _misfit_error(file: Path, problem: str) -> RunError:
    return RunError(f"{file} does not fit config.json ({problem}): delete it to resume the run from its start")
