"""Preparation of a training: the device, the task, the folder of a resumed run, and weights from another run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.config.run import flat_config
from grokinterp.errors import ConfigError, RunError, logger, one_line
from grokinterp.models import task_of
from grokinterp.models.memory import require_memory, training_memory
from grokinterp.models.products import Products, has_bf16_products
from grokinterp.runs.checkpoints import file_name, parse_step
from grokinterp.runs.checksums import sha256
from grokinterp.runs.environment import latest_environment, rounding_changes
from grokinterp.runs.files import MAX_FILE_BYTES, accessing, exists, free_name, read_bytes
from grokinterp.runs.findings import Finding
from grokinterp.runs.locks import LOCK_NAME, hold
from grokinterp.runs.metrics import METRICS, metric_lines, require_metrics_size
from grokinterp.runs.resume_point import RESUME, read_resume_point, require_state
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.tensors import deserialize
from grokinterp.runs.writer import START, RunWriter, require_vacant
from grokinterp.tasks import AnyTask
from grokinterp.training.interventions import require_draws
from grokinterp.training.stopping import ended_by_rule

log = logger(__name__)


def choose_device(name: str) -> str:
    """Resolves `auto` to a device, and checks that this machine has the device.

    Raises:
        ConfigError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in counts:
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or mps")
    if (device.index or 0) >= counts[device.type]:
        raise ConfigError(f"this machine has no device {name!r}: use --device cpu")
    return name


def check_products(products: str, device: str | None, begun: Run | None = None) -> None:
    """Raises an error unless updates can multiply matrices in this format, and those of a run that has begun did.

    Args:
        products: `float32` or `bf16`.
        device: on which to train; None for another machine.
        begun: the run to resume, if any.

    Raises:
        ConfigError: the format is unknown, or is not that of the run to resume, or this machine does not have it.
    """
    if products not in get_args(Products):
        raise ConfigError(f"unknown products {products!r}: use float32 or bf16")
    recorded = "float32" if begun is None else begun.environment.get("products", "float32")
    if begun is not None and recorded != products:
        raise ConfigError(
            f"{begun.path} was trained with products in {recorded}, and all updates of a run must be computed in the "
            f"same way: resume it with --products {recorded} (in Python, products={recorded!r})"
        )
    if products == "float32" or device is None:
        return
    if torch.device(device).type != "cpu":
        raise ConfigError(
            f"--products bf16 works only on the CPU, but the device is {device}: omit it, or use --device cpu"
        )
    if not has_bf16_products():
        raise ConfigError("PyTorch has no bf16 products on this processor: use --products float32")


def task_to_train(config: RunConfig, begun: Run | None, device: str) -> AnyTask:
    """Makes all checks that need no model, and returns the task.

    Args:
        config: what to train.
        begun: the run to resume; None for a new run.
        device: on which to train.

    Raises:
        ConfigError: the configuration cannot be trained, or differs from that of the run to resume.
    """
    if not isinstance(config, RunConfig):
        hint = f"gi.preset({config!r})" if isinstance(config, str) else "gi.preset(name)"
        raise ConfigError(
            f"config must be a RunConfig, but is {type(config).__name__}: give {hint}, with other values by "
            '.replace({"task.p": 59})'
        )
    training = config.training()
    if device.startswith("mps") and config.loss_dtype == "float64":
        raise ConfigError("mps has no float64: use --loss-dtype float32, which is exact for small losses")
    if begun is not None:
        _require_same_config(begun, config, training.schedule)
    task = task_of(config) if begun is None else begun.task
    task.require_split()
    if not device.startswith("cuda"):
        require_memory(training_memory(config), f"training {config.task.title} with this model")
    return task


def _require_same_config(run: Run, config: RunConfig, schedule: ScheduleConfig) -> None:
    stored = run.config
    if stored.schedule is None:
        raise ConfigError(f"{run.path} was recorded, not trained here: it cannot be resumed")
    if replace(stored, schedule=replace(stored.schedule, steps=schedule.steps)) != config:
        old, new = flat_config(stored), flat_config(config)
        names = (name for name in dict.fromkeys([*old, *new]) if name != "schedule.steps")
        differing = next(name for name in names if old.get(name) != new.get(name))
        raise ConfigError(
            f"{run.path} was trained with another configuration: {differing} was {old.get(differing)}, not "
            f"{new.get(differing)}; only schedule.steps may change when resuming: omit the other options, or choose "
            "another folder"
        )
    if schedule.steps < stored.schedule.steps:
        raise ConfigError(
            f"{run.path} has {stored.schedule.steps} steps, more than the {schedule.steps} given: "
            "schedule.steps may only grow when resuming"
        )


def may_follow(new: RunConfig, old: RunConfig) -> bool:
    """Whether a run of the old configuration can be resumed with the new one, which may have more steps."""
    if new.schedule is None or old.schedule is None:
        return new == old
    same = replace(old, schedule=replace(old.schedule, steps=new.schedule.steps)) == new
    return same and new.schedule.steps >= old.schedule.steps


def has_ended(run: Run, config: RunConfig) -> bool:
    """Whether resuming a run would make no update: it has made all steps, a rule ended it, or it has diverged."""
    status = run.status
    if status.get("status") == RunStatus.FINISHED:
        return status["step"] >= config.training().schedule.steps or ended_by_rule(status.get("reason"))
    return status.get("status") == RunStatus.DIVERGED


def run_to_resume(folder: Path, resume: bool) -> Run | None:
    """The run in a folder; None if a new run is to start there.

    Raises:
        RunError: the folder holds something else, or `resume` is False and it holds a run.
    """
    if resume and exists(folder / "config.json"):
        return Run.open(folder)
    require_vacant(folder)
    return None


def set_aside(path: Path) -> Path:
    """Renames the folder of a run that is to be trained again from its start, and returns its new path.

    Raises:
        RunError: there is no run, another process uses it, or it cannot be renamed.
    """
    Run.open(path)
    if path.name in ("", ".."):  # this process or its shell is inside the folder
        raise RunError(f"{path} cannot be renamed: give the path of the run folder by its name, from outside it")
    with hold(path), accessing("rename", path):
        kept = free_name(path, "replaced")
        path.replace(kept)
    (kept / LOCK_NAME).unlink(missing_ok=True)
    log.warning("%s: the earlier run is now in %s", path, kept)
    return kept


def open_folder(
    path: str | Path,
    config: RunConfig,
    task: AnyTask,
    environment: Mapping[str, Any],
    device: str,
    begun: Run | None,
    start: bytes | None = None,
) -> RunWriter:
    """Creates the folder of a new run, or prepares that of a run to be resumed (`begun`), and returns its writer.

    Raises:
        RunError: as in `RunWriter.create` and `reopen`.
    """
    if begun is not None:
        return reopen(begun, config, environment, device)
    return RunWriter.create(path, config, environment, task, start)


def reopen(run: Run, config: RunConfig, environment: Mapping[str, Any], device: str) -> RunWriter:
    """Prepares the folder of a run to be resumed, and returns its writer.

    Args:
        run: the run to resume.
        config: its configuration, perhaps with more steps.
        environment: of this process; environment.json keeps the first environment and adds this one to `resumed`. Its
            `start_from` is the checkpoint that the caller names as the start of the run, if any.
        device: on which to resume the run.

    Raises:
        RunError: a file that resuming needs is missing or damaged, or this device cannot continue the run's random
            numbers (in both cases nothing was written); or the folder is not writable.
    """
    writer = RunWriter(run.path, config=run.config)
    first, from_step = run.environment, run.status.get("step")
    before = first.get("resumed", [])
    if not isinstance(before, list):
        raise RunError(f"{run.path / 'environment.json'} is damaged: its entry `resumed` is not a list")
    require_metrics_size(run.path / METRICS, config, len(run.steps))
    point = read_resume_point(run.path, config)
    if point is not None:
        require_state(point[1], run.config, run.task, point[0], run.path / RESUME)
        require_draws(config, point[1], device)
    elif _has_progress(run):
        raise RunError(
            f"{run.path} has no resume point ({RESUME}), so it cannot be resumed: train in another folder, or start "
            "again with --restart (in Python, restart=True), which keeps this folder under another name"
        )
    else:
        _start_weights(run)  # raises now, before anything is written, if they are missing
    writer.prepare_resume(-1 if point is None else point[0])
    if config != run.config:
        writer.write_config(config)
    _note_other_rounding(writer, latest_environment(first), environment, 0 if point is None else point[0])
    entry = {**environment, "from_step": from_step, "to_step": config.training().schedule.steps}
    writer.write_environment({**first, "resumed": [*before, entry]})
    return writer


def _has_progress(run: Run) -> bool:
    """Whether a run has anything that starting from step 0 again would remove."""
    evaluated = (line.step for line in metric_lines(run.path / METRICS))
    return max([run.status.get("step", 0), *run.steps, *evaluated], default=0) > 0


def _note_other_rounding(writer: RunWriter, old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> None:
    """Warns if the updates from a step on are rounded otherwise than those of the run's latest session."""
    changes = rounding_changes(old, new)
    if changes and writer.findings is not None and step < writer.config.training().schedule.steps:
        message = one_line(
            f"the run was resumed at step {step} in another environment ({'; '.join(changes)}): from there on, it is "
            "not bit for bit the run that it would have been without the interruption"
        )
        writer.findings.append(Finding(step, "environment_changed", message))
        log.warning("%s: %s", writer.path, message)


def load_start(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Copies the weights that the run in a folder started from into parameters, if they came from another run.

    Raises:
        RunError: the copy of these weights is missing or damaged.
    """
    weights = _start_weights(Run.open(path))
    if weights is not None:
        _copy_weights(weights, parameters, str(path / START))


def _start_weights(run: Run) -> dict[str, Tensor] | None:
    """The copy of the weights of another run that a run started from; None if it started from an initialization."""
    if run.environment.get("start_from") is None:
        return None
    return deserialize(read_bytes(run.path / START, limit=MAX_FILE_BYTES), run.path / START).tensors


def load_from(reference: str, parameters: Mapping[str, nn.Parameter]) -> bytes:
    """Copies the weights of `RUN@STEP` into parameters.

    Returns:
        The content of the checkpoint.

    Raises:
        RunError: there is no such checkpoint, or it does not fit.
    """
    source, step = parse_step(reference)
    run = Run.open(source)
    data = run.read_checkpoint("weights", step)
    recorded = run.status.get("checksums", {}).get(f"weights/{file_name(step)}")
    if recorded is not None and recorded != sha256(data):
        raise RunError(f"the weights of {reference} are not those that were saved: `grokinterp verify {source}`")
    _copy_weights(run.parse_checkpoint("weights", step, data).tensors, parameters, reference)
    return data


def _copy_weights(weights: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], reference: str) -> None:
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in parameters.items()}:
        raise RunError(f"the weights of {reference} do not fit this model: give the same model and task options")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if "pos_embed.W_pos" in frozen and not torch.equal(weights["pos_embed.W_pos"], parameters["pos_embed.W_pos"].cpu()):
        raise RunError(
            f"{reference} has learned positions, but this model has fixed positions: set model.positions to learned"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
