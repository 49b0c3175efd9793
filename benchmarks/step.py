"""An update of any run, timed with the package on the path: this one, or that of an earlier commit."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from grokinterp.config import RunConfig
from grokinterp.models import forward_for, initial_parameters, task_of
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.writer import RunWriter
from grokinterp.training.preparation import load_from
from grokinterp.training.trainer import _Loop


def loop_of(config: RunConfig, weights_from: str | None = None, compiled: bool = False, **options: Any) -> _Loop:
    torch.set_num_threads(_threads(config))
    task = task_of(config)
    parameters = initial_parameters(config, task)
    if weights_from is not None:
        load_from(weights_from, parameters)
    forward = forward_for(config.model, task)
    folder = Path(tempfile.mkdtemp()) / "run"
    writer = RunWriter.create(folder, config, describe_environment("cpu", forward.path), task)
    return _Loop(config, writer, task, parameters, forward, "cpu", [], compiled, **options)


def _threads(config: RunConfig) -> int:
    try:
        from grokinterp.training.threads import choose_threads
    except ImportError:  # an earlier commit, which left the number to PyTorch
        return torch.get_num_threads()
    return choose_threads(config)


def update(config: str, products: str | None = None) -> Callable[[], Any]:
    """An update of the run with this config.json; earlier commits do not know `products`."""
    options = {} if products is None else {"products": products}
    return loop_of(RunConfig.from_json(config, "config"), **options).update
