"""How much memory this process may use, how much a training or an analysis needs, and how freed memory is kept."""

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from grokinterp.config import PLAIN, MLPConfig, ModelConfig, RunConfig, TransformerConfig
from grokinterp.errors import ConfigError
from grokinterp.models.container import CGROUP, memory_left
from grokinterp.models.forward import has_last_position_form
from grokinterp.models.shapes import parameter_count, sizes

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # malloc.h's M_ constants


@cache
def keep_freed_memory() -> bool:
    """Asks the C library to keep up to 256 MB of freed memory in this process.

    By default glibc returns a large array to the kernel when it is freed, and the kernel fetches and zeroes each page
    of the next one, although every update allocates the same arrays. That takes a tenth of the time of a training step.
    Only speed depends on this setting.

    Returns:
        Whether the C library accepted the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 256 << 20), (_TOP_PAD, 64 << 20))
    accepted = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(accepted)


def available_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that this process may still allocate: the least that the machine, the container and RLIMIT_AS allow.

    Args:
        cgroup: folder of the container's control group.
    """
    limits = [psutil.virtual_memory().available, memory_left(cgroup)]
    with suppress(ImportError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            limits.append(max(0, limit - psutil.Process().memory_info().vms))
    return min(limit for limit in limits if limit is not None)


def require_memory(need: int, subject: str) -> None:
    """Raises an error if something does not fit into memory, before any of it is allocated.

    Args:
        need: bytes that it takes.
        subject: what takes them, for the message.

    Raises:
        ConfigError: less memory is available.
    """
    available = available_memory()
    if need > available:
        raise ConfigError(
            f"{subject} takes about {need / 1e9:,.1f} GB of memory, "
            f"but only {available / 1e9:,.1f} GB are available: choose smaller sizes"
        )


# The constants of `training_memory` and `analysis_memory` are fitted to measured peaks (tests/test_memory.py): resident
# memory above that of the same process after a run of p = 7, on Linux with one thread. The 1-layer transformer trains
# in 58 MB at p = 113, 166 MB at 200 and 475 MB at 300, and is analyzed in 79, 362 and 1136 MB.
_FIXED = 48_000_000  # intermediate results of a chunk of rows, and the heap's overhead
_KEPT = 256_000_000  # freed memory that `keep_freed_memory` keeps: one phase's arrays can stay while the next runs
_COPIES_OF_WEIGHTS = 5  # weights, gradients, two moments, and the copy that is written
# Bytes per logit: float32, float64, and what the loss computes from them; in updates, with the gradient.
_EVALUATION = {"cross_entropy": 20, "mse": 44, "stablemax": 64}
_UPDATE = {"cross_entropy": 32, "mse": 48, "stablemax": 72}
_ANALYSIS = 40


def training_memory(config: RunConfig) -> int:
    """Estimates the bytes that a training on the CPU needs at its peak: from the true peak to twice as many.

    Args:
        config: of the run.
    """
    task, model, optimizer = config.task, config.model, config.training().optimizer
    slow = {"none": 0, "ema": 1, "ma": optimizer.grokfast_window}[optimizer.grokfast]
    weights = 4 * (_COPIES_OF_WEIGHTS + slow) * parameter_count(model, task)
    _, outputs, operands = sizes(task)
    evaluation = _EVALUATION[config.loss] * task.n_inputs * outputs
    rows = int((task.train_fraction or 0.0) * task.n_inputs)
    rows = min(rows, optimizer.batch_size or rows)
    update = rows * (4 * _kept_for_gradient(model, operands) + _UPDATE[config.loss] * outputs)
    exact = config.loss == "cross_entropy" and config.loss_dtype != PLAIN
    if isinstance(model, TransformerConfig) and has_last_position_form(model, operands) and exact and not model.dropout:
        update = 0  # computed in chunks
    return weights + evaluation + update - max(0, min(evaluation, update) - _KEPT) + _FIXED


def analysis_memory(config: RunConfig) -> int:
    """Estimates the bytes that analyzing a checkpoint needs at its peak: from the true peak to twice as many.

    Args:
        config: of the run; its task has classes.
    """
    _, outputs, operands = sizes(config.task)
    logits = _ANALYSIS * config.task.n_inputs * outputs
    model = config.model
    if isinstance(model, TransformerConfig) and has_last_position_form(model, operands):
        return logits + 4 * config.task.n_inputs * model.d_mlp + _FIXED  # the neurons; the rest is computed in chunks
    if isinstance(model, TransformerConfig):
        numbers = (operands + model.equals_token) * (model.d_mlp + 5 * _widths(model))
    else:
        numbers = (5 if model.architecture == "residual" else 3) * model.width if isinstance(model, MLPConfig) else 0
    activations = 4 * config.task.n_inputs * numbers
    return logits + activations + min(logits, activations, _KEPT) + _FIXED


def _kept_for_gradient(model: ModelConfig, operands: int) -> int:
    """Counts the numbers per input that autograd keeps, and those of the gradients that exist at the same time."""
    if isinstance(model, TransformerConfig):
        positions = operands + model.equals_token
        last = positions if model.readout == "mean" else 1  # positions at which the last layer is computed
        return ((model.n_layers - 1) * positions + last) * (2 * model.d_mlp + 8 * _widths(model))
    if isinstance(model, MLPConfig):
        looked_up = operands if model.input in ("one_hot", "one_hot_sum", "sum", "concat") else 0
        return model.width * (looked_up + (6 if model.architecture == "residual" else 3) * model.depth)
    return 0


def _widths(model: TransformerConfig) -> int:
    """The width of the residual stream; twice with LayerNorm, which keeps its input and its output."""
    return model.d_model if model.normalization == "none" else 2 * model.d_model


def release_freed_memory() -> None:
    """Returns freed memory to the kernel, for other processes to use."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
