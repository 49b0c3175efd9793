"""The resume point, `resume.safetensors`: everything that the next update of a run depends on.

A training writes it every `resume_every` updates. To resume the run, it is read, checked against the configuration and
the metrics that it was written with, and copied into weights, optimizer and random generators.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokinterp.config import RecordedConfig, RunConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.models.shapes import hidden_matrices, parameter_shapes
from grokinterp.runs.checksums import DIFFERS, sha256
from grokinterp.runs.files import exists, file_checksum, parse_json, read_bytes, write_atomically
from grokinterp.runs.metrics import DAMAGED, METRICS, is_repaired
from grokinterp.runs.tensors import (
    LARGEST_RECORDED,
    Shapes,
    describe_misfit,
    deserialize,
    digest,
    max_bytes,
    serialize,
)
from grokinterp.tasks import AnyTask

RESUME = "resume.safetensors"
_ENTRY = "resume_point"  # the metadata, as JSON: `step`, `configs` and `metrics`
_STATE = ("weights:", "optimizer:", "batches:", "dropout:", "interventions:")


def write_resume_point(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the resume point of a run. It names the config.json and the metrics that it belongs to.

    Args:
        folder: the run folder.
        step: number of updates made.
        tensors: everything that the next update depends on, by name, on the CPU.

    Raises:
        RunError: the folder is not writable, or the disk is full. The previous resume point remains.
    """
    metrics = folder / METRICS
    lines = [metrics.stat().st_size, file_checksum(metrics)] if exists(metrics) else None
    _write(folder, tensors, {"step": step, "configs": [file_checksum(folder / "config.json")], "metrics": lines})


def _write(folder: Path, tensors: Mapping[str, Tensor], entry: Mapping[str, Any]) -> None:
    write_atomically(folder / RESUME, serialize(tensors, {_ENTRY: json.dumps(entry)}))


def admit_config(folder: Path, config: RunConfig, next_config: RunConfig) -> None:
    """Lets the resume point, if there is one, belong to a configuration that is about to replace config.json, too.

    Args:
        folder: the run folder.
        config: of the run.
        next_config: the same with more steps.

    Raises:
        RunError: the resume point is damaged, or cannot be written.
    """
    if exists(folder / RESUME):
        tensors, entry = _read(folder, config)
        configs = [file_checksum(folder / "config.json"), sha256(next_config.to_json().encode())]
        _write(folder, tensors, {**entry, "configs": configs})


def read_resume_point(folder: Path, config: RunConfig) -> tuple[int, dict[str, Tensor]] | None:
    """Reads the step and the tensors of a run's resume point; None if there is none yet.

    Args:
        folder: the run folder.
        config: of the run.

    Raises:
        RunError: the resume point is damaged, or belongs to another config.json or other metrics.
    """
    if not exists(folder / RESUME):
        return None
    tensors, entry = _read(folder, config)
    _require_same_run(folder, entry)
    return entry["step"], tensors


def _read(folder: Path, config: RunConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of the resume point."""
    file = folder / RESUME
    try:
        content = deserialize(read_bytes(file, limit=_max_size(config)), file)
    except RunError as error:
        raise _unusable(str(error)) from None
    last = config.schedule.steps if config.schedule else 0
    tensors = content.tensors
    try:
        _verify_old_checksum(tensors)
        entry = _parse_metadata(content.metadata)
        unknown = [name for name in tensors if not name.startswith(_STATE)]
        if not 0 <= entry["step"] <= last or unknown:
            raise ValueError(f"unknown tensor {unknown[0]}" if unknown else f"step {entry['step']} of {last}")
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(f"{file} is damaged ({error})") from None
    return tensors, entry


def _verify_old_checksum(tensors: dict[str, Tensor]) -> None:
    """Verifies and removes the tensor in which an earlier version stored a checksum of the others."""
    stored = tensors.pop("sha256", None)
    if stored is not None and bytes(stored.tolist()).hex() != digest(tensors):
        raise ValueError(DIFFERS)


def _parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    if _ENTRY in metadata:
        return parse_json(metadata[_ENTRY])
    step = metadata.get("step", "")  # of an earlier version, which recorded only the step
    if not (step.isdecimal() and step.isascii()):
        raise ValueError(f"its step is {step!r}")
    return {"step": int(step[:20])}


def _require_same_run(folder: Path, entry: Mapping[str, Any]) -> None:
    """Checks that config.json and the metrics are those with which a resume point was written."""
    if "configs" in entry and file_checksum(folder / "config.json") not in entry["configs"]:
        raise _unusable(
            f"{folder / RESUME} was written with another config.json: this one is damaged, or one of the two files is "
            "from another run"
        )
    if entry.get("metrics") is None:
        return
    size, checksum = entry["metrics"]
    metrics = folder / METRICS
    if file_checksum(metrics, size) != checksum and not is_repaired(metrics, entry["step"]):
        raise RunError(
            f"{folder / RESUME} was written with other lines in {METRICS}, so one of them is damaged or from another "
            f"run: restore the original, or set damaged lines aside with `grokinterp verify --repair {folder}`, whose "
            f"{METRICS}.{DAMAGED} must then stay in the folder, or train again with --restart (in Python, restart=True)"
        )


def _unusable(problem: str) -> RunError:
    return RunError(f"{problem}. Restore the original files, or train again (--restart; in Python, restart=True).")


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
    matrices = hidden_matrices(parameters)
    for name, shape in parameters.items():
        if isinstance(config.model, TransformerConfig) and not config.model.trains(name):
            continue
        slots = optimizer.slots_of(hidden_matrix=name in matrices)
        shapes |= {f"optimizer:{name}:{slot}": () if slot == "step" else shape for slot in slots}
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
    return _unusable(f"{file} does not fit config.json ({problem})")
