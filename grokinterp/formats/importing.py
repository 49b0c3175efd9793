"""import_run: a model or a run of others becomes a run folder, which everything here can read."""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError, nearest
from grokinterp.formats import chughtai, demo, he, nanda, pizza, state_dicts
from grokinterp.formats.imported import Imported, Place
from grokinterp.formats.splits import choose_split, evidence_as_json
from grokinterp.measures.scores import cross_entropy_by_input
from grokinterp.models import forward_for
from grokinterp.models.memory import require_memory
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.files import MAX_STEP, accessing, exists, make_folder
from grokinterp.runs.folders import as_path
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.tensors import describe_misfit
from grokinterp.runs.writer import RunWriter, require_vacant
from grokinterp.tasks import Task
from grokinterp.training.evaluation import evaluate

FORMATS: dict[str, ModuleType] = {
    "he": he,
    "chughtai": chughtai,
    "pizza": pizza,
    "demo": demo,
    "nanda": nanda,
    "state_dicts": state_dicts,
}
"""The formats by name, in the order in which they are tried."""

_DESCRIBED = "state_dicts"  # the format whose configuration can be given


def import_run(
    source: str | Path, run: str | Path, *, format: str | None = None, config: RunConfig | str | Path | None = None
) -> Run:
    """Imports a model, or a run with its checkpoints, that was trained elsewhere.

    >>> run = import_run("downloads/C113_T_seed1", "checkpoints/chughtai-1")  # doctest: +SKIP
    >>> run.analyze().transition.outcome  # doctest: +SKIP

    Nothing in the files is executed. Losses, accuracies and norms are computed anew from the weights.

    Args:
        source: the file or folder.
        run: the run folder to write, which must not exist or be empty.
        format: one of `FORMATS`; by default found by looking.
        config: task and architecture of state dicts without a config.json: a configuration, or a file like that one.

    Returns:
        The run, without optimizer and schedule.

    Raises:
        ConfigError: there is no such format, or it has its own configuration.
        RunError: the source is missing, damaged or of no known format, would execute code, or holds several models; or
            the run folder is not empty. Nothing is left of a run that could not be imported.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"no format {format!r}: {nearest(format, FORMATS)}")
    if config is not None and format not in (None, _DESCRIBED):
        raise ConfigError(f"format {format} has its own configuration: only format {_DESCRIBED} takes another one")
    path = Path(source).absolute()
    if config is None:
        place, name = _find_model(path, format)
        imported = FORMATS[name].read(place.path)
    else:
        config = config if isinstance(config, RunConfig) else Path(config)
        place, name = _find_model(path, _DESCRIBED, config)
        imported = state_dicts.read(place.path, config)
    return write_run(imported, as_path(run), {"format": name, "source": place.name})


def _find_model(source: Path, format: str | None, *config: RunConfig | Path) -> tuple[Place, str]:
    """The model at a place, and the name of its format.

    Raises:
        RunError: there is no model, or several.
    """
    if not exists(source):
        raise RunError(f"{source} does not exist")
    for name in FORMATS if format is None else [format]:
        with accessing("read", source):
            places = FORMATS[name].find(source, *config)
        if len(places) > 1:
            names = ", ".join(place.name for place in places[:5]) + (", ..." if len(places) > 5 else "")
            raise RunError(f"{source} holds {len(places)} models ({names}): give one of them")
        if places:
            return places[0], name
    known = ", ".join(FORMATS)
    what = "a model of a known format" if format is None else f"a model of the format {format}"
    raise RunError(
        f"{source} is not {what} (formats: {known}); state dicts need a config.json beside them, or config (--config)"
    )


def write_run(imported: Imported, folder: Path, origin: Mapping[str, Any]) -> Run:
    """Writes what was imported as a run.

    Args:
        imported: the model or run.
        folder: the run folder.
        origin: where it comes from, for environment.json.

    Raises:
        RunError: weights do not fit the architecture, or the folder is not empty.
    """
    steps = sorted(imported.checkpoints)
    if not steps or not 0 <= steps[0] <= steps[-1] <= MAX_STEP:
        raise RunError(f"the steps of its checkpoints must lie in 0 .. {MAX_STEP:,}")
    if exists(folder / "config.json"):
        raise RunError(f"{folder} already holds a run: choose another name")
    task, evidence = _task_of(imported, steps[-1])
    config = RunConfig(task.config, imported.model, None, None, loss=imported.loss)
    require_memory(16 * len(task.inputs) * task.n_classes, f"the logits of {len(task.inputs):,} inputs")
    forward = forward_for(imported.model, task)
    environment = {
        **describe_environment("cpu", forward.path),
        "imported": {**origin, "split": evidence, "settings": dict(imported.settings), "notes": list(imported.notes)},
    }
    shapes, trains = parameter_shapes(imported.model, task.config), getattr(imported.model, "trains", lambda name: True)
    require_vacant(folder)
    make_folder(folder.parent)
    with TemporaryDirectory(dir=folder.parent, prefix=".importing-") as temporary:
        written = Path(temporary) / "run"
        writer = RunWriter.create(written, config, environment, task)
        for step in steps:
            weights = imported.checkpoints[step]()
            problem = describe_misfit(weights, shapes)
            if problem:
                raise RunError(f"the weights of step {step} do not fit the architecture: {problem}")
            logits = forward.logits_by_rows(weights, task.tokens, torch.float64)
            trained = {name: weight for name, weight in weights.items() if trains(name)}
            row = {"step": step, **evaluate(task, logits, trained, imported.loss)}
            if step in imported.losses:
                row |= dict(zip(("recorded_train_loss", "recorded_test_loss"), imported.losses[step], strict=True))
            writer.save_checkpoint(step, weights)
            writer.append_metrics(row)
        writer.write_status(RunStatus.FINISHED, steps[-1], reason="imported")
        with accessing("write", folder):
            os.replace(written, folder)  # an empty folder is replaced
    return Run.open(folder)


def _task_of(imported: Imported, last: int) -> tuple[Task, Mapping[str, object]]:
    """The task with the split that was used, and the evidence for it."""
    equals = getattr(imported.model, "equals_token", False)
    if imported.train_indices is not None:
        task = Task.from_config(imported.task, equals_token=equals, train_indices=imported.train_indices)
        return task, {"reason": imported.split_reason}
    task = Task.from_config(imported.task, equals_token=equals)
    if imported.task.split != "unknown":
        return task, {"reason": task.why_no_split if task.train_mask is None else "given by the configuration"}
    forward = forward_for(imported.model, task)
    logits = forward.logits_by_rows(imported.checkpoints[last](), task.tokens, torch.float64)
    losses = cross_entropy_by_input(logits, task.labels)
    evidence = choose_split(losses, imported.losses.get(last), imported.splits)
    if evidence.config is not None:
        task = Task.from_config(evidence.config, equals_token=equals)
    return task, evidence_as_json(evidence)
