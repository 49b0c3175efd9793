"""Nanda et al. 2023 (github progress-measures-paper): their transformers, whose logits include one for `=`.

Three forms are read: a file of final weights with losses (`saved_runs/*.pth`), a file with all state dicts of a run
(`full_run_data.pth`), and the folder that their code writes (`init.pth`, `0.pth`, `100.pth`, ..., `final.pth`).

The weights of epoch e were saved after e + 1 updates; the losses of epoch e were computed before its update, so they
are one update older. Some files keep only every tenth test loss. The split is Python's shuffle of all pairs with a seed
that most files do not hold; it is then found by the recorded losses.
"""

import re
import reprlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from grokinterp.config import Operation, TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import as_number, integer, load_pickle, number, state_dict_of
from grokinterp.formats.imported import Imported, Losses, Place, Weights
from grokinterp.formats.transformer_lens import ALLOWED, HookedConfig
from grokinterp.formats.transposed import read_transposed
from grokinterp.runs.files import MAX_STEP, exists

_INITIAL, _FINAL = "init.pth", "final.pth"
_EPOCH = re.compile(r"[0-9]{1,12}\.pth")
_OPERATIONS: dict[str, Operation] = {"add": "add", "subtract": "subtract", "x2xyy2": "x^2+xy+y^2"}
_ACTIVATIONS: dict[str, Literal["relu", "gelu"]] = {"ReLU": "relu", "GeLU": "gelu"}
_FRACTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.2, 0.1)
_SEEDS = range(10)
_SAVE_EVERY = 100
_SETTINGS = ("lr", "weight_decay", "frac_train", "seed", "num_epochs")


def find(source: Path) -> list[Place]:
    """The models at a place: one that is a file, so that several in a folder are never confused with checkpoints."""
    if source.is_dir():
        ours = exists(source / "config.json") or exists(source / "train_data.pth")  # of another format
        first = next((source / name for name in (_INITIAL, _FINAL) if exists(source / name)), None)
        return [Place(source, source.name)] if not ours and first is not None and _fits(_load(first)) else []
    files = [source] if source.suffix == ".pth" and source.is_file() else []
    return [Place(file, file.name) for file in files if _fits(_load(file))]


def _load(file: Path) -> Any:
    return load_pickle(file, ALLOWED)


def _fits(content: Any) -> bool:
    if not isinstance(content, Mapping) or "checkpoints" in content:
        return False
    has_losses = "train_losses" in content and "test_losses" in content
    return ("model" in content and (has_losses or "train_data" in content)) or ("state_dicts" in content and has_losses)


def read(place: Path) -> Imported:
    """Reads a run.

    Raises:
        RunError: the file is damaged, or holds another model.
    """
    files = _files(place) if place.is_dir() else {}
    last = _load(files[max(files)] if files else place)
    if not isinstance(last, Mapping):
        raise RunError(f"{place} holds no run of Nanda et al.")
    config = _config(last.get("config"), place)
    losses = _losses(last, place) if "train_losses" in last else {}
    states: dict[int, Any]
    if files:
        states = {step: partial(_state_in, file) for step, file in files.items()}
    elif "state_dicts" in last:
        states = {step: partial(state_dict_of, state, place) for step, state in _states(last, config, place).items()}
    else:
        states = {max(losses, default=0): partial(state_dict_of, last.get("model"), place)}
    model, p = _architecture(states[max(states)](), config, place)
    name = config.get("fn_name", "add")
    if name not in _OPERATIONS:
        raise RunError(f"{place}: the operation {reprlib.repr(name)} is none of {', '.join(_OPERATIONS)}")
    task = TaskConfig(_OPERATIONS[name], p, None, "unknown")
    return Imported(
        task=task,
        model=model,
        checkpoints={step: partial(_weights, state, model.n_layers, place) for step, state in sorted(states.items())},
        train_indices=_train_indices(place / _INITIAL, p) if exists(place / _INITIAL) else None,
        splits=_splits(task, config, place),
        losses=losses,
        settings={"epochs": max(states), **{name: config[name] for name in _SETTINGS if name in config}},
        notes=("the recorded losses are one update older than the weights",),
    )


def _files(folder: Path) -> dict[int, Path]:
    """The files of a folder by step."""
    files = {int(file.stem) + 1: file for file in folder.iterdir() if _EPOCH.fullmatch(file.name)}
    if exists(folder / _INITIAL):
        files[0] = folder / _INITIAL
    if exists(folder / _FINAL):
        files[len(_numbers(_load(folder / _FINAL), "train_losses", folder / _FINAL))] = folder / _FINAL
    return dict(sorted(files.items()))


def _state_in(file: Path) -> dict[str, Tensor]:
    content = _load(file)
    return state_dict_of(content.get("model") if isinstance(content, Mapping) else None, file)


def _states(content: Mapping[str, Any], config: Mapping[str, Any], file: Path) -> dict[int, Any]:
    """The state dicts of a whole run by step."""
    states, epochs = content["state_dicts"], content.get("epochs")
    if not isinstance(states, list) or not states:
        raise RunError(f"{file}: 'state_dicts' is no list of state dicts")
    if not isinstance(epochs, list) or len(epochs) != len(states):  # some files count all epochs there
        every = integer(config, "save_every", file, default=_SAVE_EVERY)
        epochs = [every * i for i in range(len(states))]
    if not all(type(epoch) is int and 0 <= epoch < MAX_STEP for epoch in epochs):
        raise RunError(f"{file}: 'epochs' are no integers from 0 to {MAX_STEP:,}")
    return {epoch + 1: state for epoch, state in zip(epochs, states, strict=True)}


def _weights(state: Any, layers: int, place: Path) -> Weights:
    return read_transposed(state(), layers, place)


def _config(stored: Any, file: Path) -> Mapping[str, Any]:
    """The configuration, which most files lack."""
    content = vars(stored) if isinstance(stored, HookedConfig) else {} if stored is None else stored
    if not isinstance(content, Mapping):
        raise RunError(f"{file}: its config is no configuration")
    return {
        str(name): value for name, value in content.items() if value is None or isinstance(value, str | int | float)
    }


def _architecture(state: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> tuple[TransformerConfig, int]:
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    weights = read_transposed(state, max(1, len(blocks)), file)
    heads, d, width = weights["blocks.0.attn.W_Q"].shape
    vocabulary, positions = len(weights["embed.W_E"]), len(weights["pos_embed.W_pos"])
    if positions != 3 or weights["unembed.W_U"].shape[1] != vocabulary:
        raise RunError(f"{file} holds no model of modular addition: it reads {positions} tokens of {vocabulary}")
    activation = config.get("act_type", "ReLU")
    if activation not in _ACTIVATIONS:
        raise RunError(f"{file}: the activation function {reprlib.repr(activation)} is not read; ReLU and GeLU are")
    model = TransformerConfig(
        n_layers=max(1, len(blocks)),
        n_heads=heads,
        d_model=d,
        d_head=None if heads * width == d else width,
        d_mlp=weights["blocks.0.mlp.W_in"].shape[1],
        activation=_ACTIVATIONS[activation],
        biases="mlp",
        equals_logit=True,
        init="nanda",
    )
    return model, vocabulary - 1


def _losses(content: Mapping[str, Any], file: Path) -> dict[int, Losses]:
    """By step, the losses before its last update; the test loss may be that of a few epochs before."""
    train, test = (_numbers(content, name, file) for name in ("train_losses", "test_losses"))
    stride = max(1, round(len(train) / len(test)))
    return {e + 1: (train[e], test[e // stride]) for e in range(len(train)) if e // stride < len(test)}


def _numbers(content: Any, name: str, file: Path) -> list[float]:
    values = content.get(name) if isinstance(content, Mapping) else None
    found = [as_number(value) for value in values] if isinstance(values, list) else []
    numbers = [value for value in found if value is not None]
    if not numbers or len(numbers) < len(found):
        raise RunError(f"{file}: {name!r} is no list of finite numbers")
    return numbers


def _splits(task: TaskConfig, config: Mapping[str, Any], file: Path) -> tuple[TaskConfig, ...]:
    """The usual splits and that of the configuration, which in some files is not the one of the training."""
    seed = integer(config, "seed", file, low=0, high=1 << 62, default=0)
    fraction = number(config, "frac_train", file) if "frac_train" in config else 0.3
    seeds, fractions = {*_SEEDS, seed}, {*_FRACTIONS, *([fraction] if 0 < fraction < 1 else [])}
    return tuple(
        TaskConfig(task.operation, task.p, fraction, "python", seed) for seed in seeds for fraction in fractions
    )


def _train_indices(file: Path, p: int) -> list[int]:
    """Positions of the pairs that a run's first file lists."""
    content = _load(file)
    pairs = content.get("train_data") if isinstance(content, Mapping) else None
    valid = isinstance(pairs, list) and all(
        isinstance(pair, tuple | list) and len(pair) == 3 and all(type(x) is int and 0 <= x <= p for x in pair)
        for pair in pairs
    )
    if not valid or any(a == p or b == p for a, b, _ in pairs or []):
        raise RunError(f"{file}: 'train_data' is no list of inputs below {p}")
    return sorted(a * p + b for a, b, _ in pairs or [])
