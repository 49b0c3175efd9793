"""The number of CPU threads of a training, on which the rounding of its updates depends."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grokinterp.config import MLPConfig, RegressionConfig, RunConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.runs.environment import cores, latest_environment
from grokinterp.runs.run import Run

# Floating-point operations of an update up to which a core spends much of its time on starting operations: a second
# thread then costs more than it saves, and a stack of runs saves time.
SMALL_UPDATE = 2e8


def choose_threads(config: RunConfig, threads: int | None = None, begun: Run | None = None, runs: int = 1) -> int:
    """Returns the number of threads for a training on the CPU.

    >>> import grokinterp as gi
    >>> choose_threads(gi.preset("demo").replace({"task.p": 31}))
    1

    A resumed run keeps its number, as far as this process may use so many cores. A new run whose updates are small
    gets one thread; any other gets PyTorch's number, which is that of the cores or OMP_NUM_THREADS.

    Args:
        config: of the run.
        threads: the number that the caller demands; None: choose it.
        begun: the run to resume; None for a new run.
        runs: number of runs trained together.

    Raises:
        ConfigError: `threads` is not between 1 and the number of cores.
    """
    available = cores()
    if threads is not None:
        if not 1 <= threads <= available:
            raise ConfigError(
                f"--threads {threads} is not possible: this process may use {available} core{'s'[: available > 1]}, "
                "so give a number from 1 to that"
            )
        return threads
    recorded = None if begun is None else latest_environment(begun.environment).get("threads")
    if isinstance(recorded, int) and recorded >= 1:
        return min(recorded, available)
    return 1 if runs * count_operations(config) <= SMALL_UPDATE else torch.get_num_threads()


def count_operations(config: RunConfig) -> float:
    """Approximate floating-point operations of an update: per weight and example, two forward and four backward."""
    model, task = config.model, config.task
    outputs = task.d_out if isinstance(task, RegressionConfig) else task.p
    examples = int((task.train_fraction or 0.0) * task.n_inputs)
    if config.optimizer is not None:
        examples = min(examples, config.optimizer.batch_size or examples)
    if isinstance(model, TransformerConfig):
        attention = 4 * model.d_model * model.n_heads * model.head_width
        weights = model.n_layers * (attention + 2 * model.d_model * model.d_mlp) + model.d_model * outputs
    elif isinstance(model, MLPConfig):
        weights = model.depth * model.width**2 + model.width * outputs
    else:
        weights = 0
    return 6.0 * examples * weights


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Context manager within which PyTorch computes with some number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
