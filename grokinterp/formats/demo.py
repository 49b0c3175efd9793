"""The grokking demo of TransformerLens: one dict with model, configuration, checkpoints, losses and split.

In this form people also publish such models. A checkpoint of epoch e was saved after e + 1 updates; the losses of epoch
e were computed before its update, so they belong to the weights after e updates. Epoch -1 is before all updates.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from grokinterp.config import OPERATIONS, TaskConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import as_number, load_pickle, state_dict_of
from grokinterp.formats.imported import Imported, Losses, Place
from grokinterp.formats.transformer_lens import ALLOWED, HookedConfig, read_config, read_weights, trained_biases
from grokinterp.runs.files import MAX_STEP

_FIELDS = ("model", "config", "checkpoints", "checkpoint_epochs", "train_losses", "test_losses", "train_indices")


def find(source: Path) -> list[Place]:
    """The runs at a place: one that is a file."""
    files = [source] if source.is_file() and source.suffix in (".pth", ".pt") else []
    return [Place(file, file.name) for file in files if _fits(load_pickle(file, ALLOWED))]


def _fits(content: Any) -> bool:
    return isinstance(content, Mapping) and "checkpoints" in content and "train_losses" in content


def read(place: Path) -> Imported:
    """Reads a run with all its checkpoints.

    Raises:
        RunError: the file is damaged, or the architecture cannot be read.
    """
    content = load_pickle(place, ALLOWED)
    missing = [name for name in _FIELDS if name not in content]
    if missing:
        raise RunError(f"{place} is no run of the grokking demo: it lacks {missing[0]!r}")
    stored = content["config"]
    if not isinstance(stored, HookedConfig | dict):
        raise RunError(f"{place}: its config is no configuration of TransformerLens")
    model, p = read_config(stored if isinstance(stored, dict) else vars(stored), place)
    task = TaskConfig("add", p, None, "unknown")
    states = _states(content, place)
    last = max(states)
    final = read_weights(states[last], model, task, place)
    model = replace(model, biases=trained_biases(final))
    operation = content.get("operation", "add")  # which only our export adds
    if operation not in OPERATIONS:
        raise RunError(f"{place}: the operation {reprlib.repr(operation)} is unknown")
    task = replace(task, operation=operation)
    indices = content["train_indices"]
    if not isinstance(indices, Tensor) or indices.is_floating_point() or indices.ndim != 1:
        raise RunError(f"{place}: 'train_indices' is no list of integers")
    return Imported(
        task=task,
        model=model,
        checkpoints={step: partial(read_weights, state, model, task, place) for step, state in states.items()},
        train_indices=indices.tolist(),
        losses=_losses(content, states, place),
        settings={"epochs": last},
    )


def _states(content: Mapping[str, Any], file: Path) -> dict[int, dict[str, Tensor]]:
    """The state dicts by step; the final model is one of them, or comes after them."""
    epochs, checkpoints, losses = content["checkpoint_epochs"], content["checkpoints"], content["train_losses"]
    valid = isinstance(epochs, list) and isinstance(checkpoints, list) and isinstance(losses, list)
    steps = [epoch for epoch in epochs if type(epoch) is int and -1 <= epoch < MAX_STEP] if valid else []
    if not valid or not len(steps) == len(epochs) == len(checkpoints):
        raise RunError(f"{file}: 'checkpoints' and 'checkpoint_epochs' do not fit each other")
    states = {epoch + 1: state_dict_of(state, file) for epoch, state in zip(epochs, checkpoints, strict=True)}
    if list(states) != [0]:  # otherwise, the model has not been trained
        states.setdefault(max([len(losses), *states]), state_dict_of(content["model"], file))
    return dict(sorted(states.items()))


def _losses(content: Mapping[str, Any], states: Mapping[int, Any], file: Path) -> dict[int, Losses]:
    train, test = content["train_losses"], content["test_losses"]
    if not isinstance(test, list) or len(test) != len(train):
        raise RunError(f"{file}: 'train_losses' and 'test_losses' are no lists of one length")
    found: dict[int, Losses] = {}
    for step in states:
        a, b = (as_number(values[step]) if step < len(train) else None for values in (train, test))
        if a is not None and b is not None:
            found[step] = (a, b)
    return found
