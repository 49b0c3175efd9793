"""What is checked and opened before a training: the device, the task, the folder of a resumed run, other weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grokinterp.config import OptimizerConfig, RegressionConfig, RunConfig, ScheduleConfig, require_fit
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import parameter_count, task_of
from grokinterp.models.memory import require_memory
from grokinterp.runs.resume_point import require_state
from grokinterp.runs.run import Run, parse_step
from grokinterp.runs.writer import RESUME, RunWriter
from grokinterp.tasks import AnyTask
from grokinterp.training.interventions import require_draws

_COPIES_OF_WEIGHTS = 5  # themselves, their gradients, two moments, and what is written
_COPIES_OF_LOGITS = 4  # of float32; the loss takes them in float64

GROKKED = "grokked"  # the reason why a run finished before its last step


def choose_device(wanted: str) -> str:
    """The device that `auto`, `cpu`, `cuda` or `mps` means here."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(f"device {wanted!r} is not known: auto, cpu, cuda or mps") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in counts:
        raise ConfigError(f"device {wanted!r} is not known: auto, cpu, cuda or mps")
    if (device.index or 0) >= counts[device.type]:
        raise ConfigError(f"device {wanted!r} was asked for, and this machine has none: use --device cpu")
    return wanted


def task_to_train(config: RunConfig, begun: Run | None, device: str) -> AnyTask:
    """The task of a new run, or of one to be resumed, after all checks that need no model.

    Raises:
        ConfigError: the configuration describes no training, or differs from that of the run to resume.
    """
    if config.optimizer is None or config.schedule is None:
        raise ConfigError("this configuration was recorded or imported, without optimizer and schedule: give both")
    if device.startswith("mps") and config.loss_dtype == "float64":
        raise ConfigError("mps has no float64: use --loss-dtype float32, which stays exact at small losses")
    if begun is not None:
        _refuse_another_config(begun, config, config.schedule)
    task = task_of(config) if begun is None else begun.task
    if task.train_mask is None:
        raise ConfigError("split 'unknown' is for models made elsewhere: to train, give a split and a train_fraction")
    if not device.startswith("cuda"):
        _require_memory(config, config.optimizer)
    return task


def _require_memory(config: RunConfig, optimizer: OptimizerConfig) -> None:
    """Refuses a training that does not fit: weights, gradients, what the optimizer remembers, and all logits."""
    require_fit(config.model, config.task)
    slow = {"none": 0, "ema": 1, "ma": optimizer.grokfast_window}[optimizer.grokfast]
    weights = (_COPIES_OF_WEIGHTS + slow) * parameter_count(config.model, config.task)
    outputs = config.task.d_out if isinstance(config.task, RegressionConfig) else config.task.p
    logits = _COPIES_OF_LOGITS * config.task.n_inputs * outputs
    require_memory(4 * (weights + logits), f"training {config.task.title} with this model")


def _refuse_another_config(run: Run, config: RunConfig, schedule: ScheduleConfig) -> None:
    stored = run.config
    if stored.schedule is None:
        raise ConfigError(f"{run.path} was recorded, not trained here: it cannot be resumed")
    if replace(stored, schedule=replace(stored.schedule, steps=schedule.steps)) != config:
        raise ConfigError(
            f"{run.path} was trained with another configuration: only schedule.steps may change when resuming; "
            "leave the other options out, or choose another folder"
        )
    if schedule.steps < stored.schedule.steps:
        raise ConfigError(
            f"{run.path} is to make {stored.schedule.steps} steps, more than the {schedule.steps} given: "
            "schedule.steps may only grow when resuming"
        )


def may_follow(new: RunConfig, old: RunConfig) -> bool:
    """Whether a run of the old configuration can be gone on with under the new one: only schedule.steps may grow."""
    if new.schedule is None or old.schedule is None:
        return new == old
    same = replace(old, schedule=replace(old.schedule, steps=new.schedule.steps)) == new
    return same and new.schedule.steps >= old.schedule.steps


def has_ended(run: Run, config: RunConfig) -> bool:
    """Whether resuming a run would make no update: all steps were made, or it grokked or diverged before."""
    assert config.schedule is not None
    status = run.status
    if status.get("status") == "finished":
        return status["step"] >= config.schedule.steps or status.get("reason") == GROKKED
    return status.get("status") == "diverged"


def reopen(run: Run, config: RunConfig, environment: Mapping[str, Any], device: str) -> RunWriter:
    """What fills the folder of a resumed run; its first environment is kept, and this one noted beside it.

    Raises:
        RunError: something that resuming needs is damaged, or random numbers that the run draws cannot be gone on with
            on this device, and nothing was written; or the folder cannot be written to.
    """
    assert config.schedule is not None
    writer = RunWriter(run.path, config)
    first, from_step = run.environment, run.status.get("step")
    before = first.get("resumed", [])
    if not isinstance(before, list):
        raise RunError(f"{run.path / 'environment.json'} is damaged: delete it, and resume the run to write it anew")
    point = writer.read_resume_point()
    if point is not None:
        require_state(point[1], run.config, run.task, point[0], run.path / RESUME)
        require_draws(config, point[1], device)
    writer.take_up(-1 if point is None else point[0])
    if config != run.config:
        writer.write_config(config)
    again = {**environment, "from_step": from_step, "to_step": config.schedule.steps}
    writer.write_environment({**first, "resumed": [*before, again]})
    return writer


def load_start(path: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Gives a model the weights that the run in a folder started from, where these were another run's."""
    source = Run.open(path).environment.get("start_from")
    if source is not None:
        load_from(source, parameters)


def load_from(reference: str, parameters: Mapping[str, nn.Parameter]) -> None:
    """Gives a model the weights of `RUN@STEP`.

    Raises:
        RunError: there are none, or they do not fit.
    """
    source, step = parse_step(reference)
    weights = Run.open(source).weights(step)
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in parameters.items()}:
        raise RunError(f"the weights of {reference} do not fit this model: give the same model and task options")
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    if "pos_embed.W_pos" in frozen and not torch.equal(weights["pos_embed.W_pos"], parameters["pos_embed.W_pos"].cpu()):
        raise RunError(
            f"the positions of {reference} were learned, and this model's are fixed: give model.positions learned"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
