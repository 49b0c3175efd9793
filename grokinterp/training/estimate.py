"""Estimates the cost of a run from a few trial updates, which are discarded."""

import time
from dataclasses import dataclass, replace

from grokinterp.config import RunConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.models import forward_for, initial_parameters
from grokinterp.models.forward import no_hook
from grokinterp.models.products import Products, multiplying_in
from grokinterp.training.gradients import gradients_function
from grokinterp.training.interventions import dropout_of
from grokinterp.training.optimizers import Updater
from grokinterp.training.preparation import check_products, task_to_train
from grokinterp.training.threads import choose_threads, using_threads

_TIME_LIMIT = 2.0  # seconds
_SAMPLE, _SLOW = 8, 0.2  # an update on 1/8 of the examples that takes more seconds than this is scaled up


@dataclass(frozen=True)
class Cost:
    """Time and disk space that a run needs.

    Attributes:
        steps: number of updates.
        seconds_per_step: measured time per update.
        seconds: time for all updates, without evaluations and writing.
        parameters: numbers in a checkpoint.
        checkpoints: number of checkpoints.
        checkpoint_bytes: size of a checkpoint.
        scaled: whether the time was measured on an eighth of the training examples and multiplied by 8.
        threads: with how many threads it was measured.
    """

    steps: int
    seconds_per_step: float
    seconds: float
    parameters: int
    checkpoints: int
    checkpoint_bytes: int
    scaled: bool = False
    threads: int = 1


def estimate(
    config: RunConfig,
    tries: int = 5,
    *,
    quick: bool = False,
    threads: int | None = None,
    products: Products = "float32",
) -> Cost:
    """Measures the time of an update on the CPU, without writing anything.

    Args:
        config: of the run.
        tries: number of trial updates; fewer are made if an update takes seconds.
        quick: measure an update on an eighth of its examples first and, if that is slow, only that.
        threads: number of threads; by default, that which `train` would choose.
        products: the format of products, as in `train`.

    Raises:
        ConfigError: the configuration cannot be trained, or the training does not fit into memory.
    """
    count = choose_threads(config, threads)
    check_products(products, "cpu")
    with using_threads(count), multiplying_in(products):
        return replace(_estimate(config, tries, quick), threads=count)


def _estimate(config: RunConfig, tries: int, quick: bool) -> Cost:
    task, settings = task_to_train(config, None, "cpu"), config.training()
    optimizer, schedule, train_mask = settings.optimizer, settings.schedule, task.require_split()
    weights = initial_parameters(config, task)
    forward, hook = forward_for(config.model, task), dropout_of(config, "cpu") or no_hook
    gradients = gradients_function(config, forward, weights, hook=hook)
    updater = Updater(weights.items(), optimizer, config.model_seed)
    size = optimizer.batch_size
    tokens, labels = task.tokens[train_mask][:size], task.labels[train_mask][:size]
    times = []

    def update(n: int | None = None) -> float:
        start = time.perf_counter()
        gradients(tokens[:n], labels[:n])
        updater.apply(len(times))
        return time.perf_counter() - start

    part = -(-len(labels) // _SAMPLE)
    sample = min(update(part), update(part)) if quick else 0.0
    scaled = sample > _SLOW
    while not scaled and len(times) < tries and sum(times) <= _TIME_LIMIT:
        times.append(update())
    median = _SAMPLE * sample if scaled else sorted(times)[(len(times) - 1) // 2]
    parameters = sum(w.numel() for w in weights.values())
    return Cost(
        steps=schedule.steps,
        seconds_per_step=median,
        seconds=median * schedule.steps,
        parameters=parameters,
        checkpoints=len(scheduled_steps(schedule.checkpoints, schedule.steps)),
        checkpoint_bytes=4 * parameters,
        scaled=scaled,
    )
