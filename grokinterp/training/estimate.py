"""What a run will cost, measured by making a few steps of it that are thrown away."""

import time
from dataclasses import dataclass

from grokinterp.config import RunConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.models import forward_for, initial_parameters
from grokinterp.models.forward import no_hook
from grokinterp.training.gradients import gradients_function
from grokinterp.training.interventions import dropout_of
from grokinterp.training.optimizers import Updater
from grokinterp.training.preparation import task_to_train

_PATIENCE = 2.0  # seconds


@dataclass(frozen=True)
class Cost:
    """Time and disk that a run takes.

    Attributes:
        steps: updates.
        seconds_per_step: measured, in seconds.
        seconds: of all updates; evaluation and writing come on top.
        parameters: numbers in one checkpoint.
        checkpoints: how many are kept.
        checkpoint_bytes: size of one.
    """

    steps: int
    seconds_per_step: float
    seconds: float
    parameters: int
    checkpoints: int
    checkpoint_bytes: int


def estimate(config: RunConfig, tries: int = 5) -> Cost:
    """Builds the model, makes `tries` updates on the CPU (fewer where one takes seconds), and writes nothing.

    Raises:
        ConfigError: the configuration describes no training, or one that does not fit into memory.
    """
    task = task_to_train(config, None, "cpu")
    assert config.optimizer is not None
    assert config.schedule is not None
    assert task.train_mask is not None
    weights = initial_parameters(config, task)
    forward, hook = forward_for(config.model, task), dropout_of(config, "cpu") or no_hook
    gradients = gradients_function(config, forward, weights, hook=hook)
    updater = Updater(weights.items(), config.optimizer, config.model_seed)
    size = config.optimizer.batch_size
    tokens, labels = task.tokens[task.train_mask][:size], task.labels[task.train_mask][:size]
    times = []
    for step in range(tries):
        began = time.perf_counter()
        gradients(tokens, labels)
        updater.apply(step)
        times.append(time.perf_counter() - began)
        if sum(times) > _PATIENCE:
            break
    typical = sorted(times)[len(times) // 2]
    parameters = sum(w.numel() for w in weights.values())
    return Cost(
        steps=config.schedule.steps,
        seconds_per_step=typical,
        seconds=typical * config.schedule.steps,
        parameters=parameters,
        checkpoints=len(scheduled_steps(config.schedule.checkpoints, config.schedule.steps)),
        checkpoint_bytes=4 * parameters,
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
