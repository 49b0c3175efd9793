"""State dicts: a file, or a folder with one a step (`ep100.pth`, `step_200.safetensors`, ...), beside a `config.json`.

The configuration is one of ours (`task`, `model`) or of TransformerLens (`d_model`, `n_heads`, ...), the latter with
`operation` and `train_indices` if these are known. Transformers may have the names of TransformerLens 1 to 3, those of
version 4, or the layout of Nanda et al.; MLPs have our names.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from grokinterp.config import OPERATIONS, MLPConfig, RegressionConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.formats.files import load_json, load_pickle, load_safetensors, state_dict_of, tensors
from grokinterp.formats.imported import Imported, Loss, Place, Weights
from grokinterp.formats.transformer_lens import read_config, read_weights, trained_biases
from grokinterp.formats.transposed import read_transposed
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.files import exists

CONFIG, SPLIT = "config.json", "split.safetensors"
WEIGHTS, REVISIONS = "model.safetensors", "revisions.txt"  # of a folder for the Hugging Face Hub
_SUFFIXES = (".pth", ".pt", ".safetensors")
_NUMBER = re.compile(r"(?<![0-9.])([0-9]{1,12})$")


def find(source: Path, config: RunConfig | Path | None = None) -> list[Place]:
    """The runs at a place: a file or a folder with a configuration beside it or in it, unless one is given."""
    folder = source if source.is_dir() else source.parent
    files = (
        list(checkpoint_files(folder).values()) if source.is_dir() else [source] if source.suffix in _SUFFIXES else []
    )
    return [Place(source, source.name)] if files and (config is not None or exists(folder / CONFIG)) else []


def revision(step: int) -> str:
    """Name of the revision, and of its folder, that holds a checkpoint."""
    return f"step{step}"


def checkpoint_files(folder: Path) -> dict[int, Path]:
    """The files with a number at the end of their names, by this number; of a folder for the Hub, its checkpoints.

    Raises:
        RunError: the folder does not exist, or two files have the same number.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder")
    files: dict[int, Path] = {}
    if exists(folder / WEIGHTS):
        for place in folder.glob(f"step*/{WEIGHTS}"):
            number = _NUMBER.search(place.parent.name)
            if number is not None:
                files[int(number[1])] = place
        return files or {_stored_step(folder / WEIGHTS): folder / WEIGHTS}
    for file in sorted(folder.iterdir()):
        number = _NUMBER.search(file.stem)
        if file.suffix in _SUFFIXES and number is not None:
            other = files.setdefault(int(number[1]), file)
            if other != file:
                raise RunError(f"{folder} has two files for step {int(number[1])}: {other.name} and {file.name}")
    return files


def read(place: Path, config: RunConfig | Path | None = None) -> Imported:
    """Reads a run with all its checkpoints.

    Args:
        place: the file or folder.
        config: the configuration, or its file; by default, the one beside the file or in the folder.

    Raises:
        RunError: a file is damaged, or the weights do not fit the configuration.
    """
    folder = place if place.is_dir() else place.parent
    files = checkpoint_files(folder) if place.is_dir() else {_step_of(place): place}
    if isinstance(config, RunConfig):
        task, model, indices, loss = _from_own(config, folder, folder)
    else:
        task, model, indices, loss = _from_file(folder / CONFIG if config is None else config)
    read_one = partial(_weights, model=model, task=task)
    if isinstance(model, TransformerConfig) and model.biases == "frozen":
        model = replace(model, biases=trained_biases(read_one(files[max(files)])))
    return Imported(
        task=task,
        model=model,
        checkpoints={step: partial(read_one, file) for step, file in sorted(files.items())},
        train_indices=indices,
        loss=loss,
    )


def _step_of(file: Path) -> int:
    number = _NUMBER.search(file.stem)
    return _stored_step(file) if number is None else int(number[1])


def _stored_step(file: Path) -> int:
    """The step in the metadata of a safetensors file; 0 if it has none."""
    if file.suffix != ".safetensors":
        return 0
    try:
        with safe_open(file, "pt") as content:
            step = (content.metadata() or {}).get("step", "0")
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged ({error})") from None
    return int(step) if step.isdecimal() and len(step) <= 12 else 0


_Description = tuple[TaskConfig, TransformerConfig | MLPConfig, list[int] | None, Loss]


def _from_own(config: RunConfig, file: Path, folder: Path) -> _Description:
    """The task, the architecture, the positions of the training inputs if they are stored, and the loss."""
    if isinstance(config.task, RegressionConfig) or not isinstance(config.model, TransformerConfig | MLPConfig):
        raise RunError(f"{file}: neither regressions nor recorded models can be imported")
    indices = None
    if config.task.split == "given":
        stored = load_safetensors(folder / SPLIT).get("train_indices")
        if stored is None:
            raise RunError(f"{folder / SPLIT} is damaged: it has no 'train_indices'")
        indices = stored.tolist()
    return config.task, config.model, indices, config.loss


def _from_file(file: Path) -> _Description:
    """The same from a file, which is ours or one of TransformerLens."""
    content = load_json(file)
    if "model" in content:
        config = RunConfig.from_json(json.dumps({**content, "optimizer": None, "schedule": None}), str(file))
        return _from_own(config, file, file.parent)
    model, p = read_config(content, file)
    indices = content.get("train_indices")
    if indices is not None and not (isinstance(indices, list) and all(type(index) is int for index in indices)):
        raise RunError(f"{file}: 'train_indices' is no list of integers")
    operation = content.get("operation", "add")
    if operation not in OPERATIONS:
        raise RunError(f"{file}: the operation {operation!r} is none of {', '.join(OPERATIONS)}")
    try:
        return TaskConfig(operation, p, None, "unknown"), model, indices, "cross_entropy"
    except ConfigError as error:
        raise RunError(f"{file}: {error}") from None


def _weights(file: Path, model: TransformerConfig | MLPConfig, task: TaskConfig) -> Weights:
    state = load_state_dict(file)
    if isinstance(model, MLPConfig):
        return tensors(state, parameter_shapes(model, task), file)
    if _is_transposed(state, model):
        return read_transposed(state, model.n_layers, file)
    return read_weights(state, model, task, file)


def load_state_dict(file: Path) -> dict[str, Tensor]:
    """The state dict in a file, alone or as the entry `model` of a dict.

    Raises:
        RunError: the file is damaged, would execute code, or holds no state dict.
    """
    return state_dict_of(_load(file), file)


def _load(file: Path) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return load_safetensors(file)
    content = load_pickle(file)
    inner = content.get("model") if isinstance(content, Mapping) else None  # as Nanda et al. save them
    return inner if isinstance(inner, Mapping) else content


def _is_transposed(state: Mapping[str, Tensor], model: TransformerConfig) -> bool:
    """Whether W_Q is `[h, e, d]` instead of `[h, d, e]`; where d = e, whether W_O is a matrix instead of one a head."""
    W_Q, W_O = state.get("blocks.0.attn.W_Q"), state.get("blocks.0.attn.W_O")
    if W_Q is None or W_O is None:
        return False
    return W_O.ndim == 2 and tuple(W_Q.shape[1:]) == (model.head_width, model.d_model)
