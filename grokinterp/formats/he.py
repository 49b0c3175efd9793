"""He et al. 2026 (github Y-Agent/modular-addition-feature-learning): a folder with a file for each checkpoint.

`0.pth`, `200.pth`, ..., each with weights, losses and accuracies; `final.pth`; `train_data.pth`, `test_data.pth`. The
models are MLPs with one hidden layer without biases on the sum of one-hot vectors or of learned embeddings. The losses
in a checkpoint are one update older than its weights. Some runs train on all pairs.

A checkpoint `N.pth` was saved after N + 1 updates, the first of which has learning rate 0; its step here is N, the
number of updates that changed the weights.
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from grokinterp.config import MLPConfig, TaskConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import as_number, load_pickle, require_plain, state_dict_of, tensors
from grokinterp.formats.imported import Imported, Losses, Place, Weights
from grokinterp.runs.files import exists

_STEP = re.compile(r"[0-9]{1,12}\.pth")
_ACTIVATION = re.compile(r"_(ReLU|GeLU|Quad)_")
_ACTIVATIONS: dict[str, Literal["relu", "gelu", "quadratic"]] = {"ReLU": "relu", "GeLU": "gelu", "Quad": "quadratic"}
_DECAY = re.compile(r"_decay_([0-9.e-]+)_")


def find(source: Path) -> list[Place]:
    """The runs at a place."""
    folders = [source, *sorted(source.iterdir())] if source.is_dir() else []
    return [
        Place(path, path.name)
        for path in folders
        if exists(path / "train_data.pth") and (exists(path / "final.pth") or _checkpoint_files(path))
    ]


def _checkpoint_files(folder: Path) -> dict[int, Path]:
    return {int(file.stem): file for file in folder.iterdir() if _STEP.fullmatch(file.name)}


def read(place: Path) -> Imported:
    """Reads a run with all its checkpoints.

    Raises:
        RunError: a file is missing or damaged, or the folder's name does not say which activation function was used.
    """
    activation = _ACTIVATION.search(place.name)
    if activation is None:
        raise RunError(f"{place}: the folder's name must say the activation function (_ReLU_, _GeLU_ or _Quad_)")
    files = dict(sorted(_checkpoint_files(place).items()))
    final = place / "final.pth"
    if exists(final):
        step = _dict(load_pickle(final), final).get("epoch")
        if type(step) is int and step not in files:
            files[step] = final
    if not files:
        raise RunError(f"{place} has no checkpoints")
    last = max(files)
    state = state_dict_of(_dict(load_pickle(files[last]), files[last])["model"], files[last])
    model, names = _architecture(state, _ACTIVATIONS[activation[1]], files[last])
    p = len(state["mlp.W_out"])
    pairs, others = (_pairs(place / f"{name}_data.pth", p) for name in ("train", "test"))
    everything = len(pairs) == p * p
    if not everything and (pairs & others or len(pairs) + len(others) != p * p):
        raise RunError(f"{place}: the training and test pairs are no split of the {p * p} pairs")
    decay = _DECAY.search(place.name)
    return Imported(
        task=TaskConfig("add", p, 1.0, "all") if everything else TaskConfig("add", p, None, "unknown"),
        model=model,
        checkpoints={step: partial(_weights, files[step], names) for step in sorted(files)},
        train_indices=None if everything else sorted(a * p + b for a, b in pairs),
        losses={step: found for step, file in files.items() if (found := _losses(_dict(load_pickle(file), file)))},
        settings={"folder": place.name, **({"weight_decay": decay[1]} if decay else {})},
        notes=("the recorded losses are one update older than the weights",),
    )


def _dict(content: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or "model" not in content:
        raise RunError(f"{file} holds no checkpoint: it has no 'model'")
    return content


def _architecture(
    state: Mapping[str, Tensor], activation: Literal["relu", "gelu", "quadratic"], file: Path
) -> tuple[MLPConfig, dict[str, tuple[str, tuple[int, ...]]]]:
    """The architecture, and by our name of each matrix theirs with its shape; theirs are transposed."""
    for name in ("mlp.W_in", "mlp.W_out"):
        if name not in state or state[name].ndim != 2:
            raise RunError(f"{file} lacks the matrix {name!r}")
    (width, n_in), (p, _) = state["mlp.W_in"].shape, state["mlp.W_out"].shape
    common = {"depth": 1, "width": width, "activation": activation, "biases": False}
    names = {"layers.0.W": ("mlp.W_in", (width, n_in)), "unembed.W_U": ("mlp.W_out", (p, width))}
    if "embed.W_E" in state:
        return MLPConfig(input="sum", d_embed=n_in, **common), {"embed.W_E": ("embed.W_E", (n_in, p)), **names}
    return MLPConfig(input="one_hot_sum", **common), names


def _weights(file: Path, names: Mapping[str, tuple[str, tuple[int, ...]]]) -> Weights:
    state = state_dict_of(_dict(load_pickle(file), file)["model"], file)
    found = tensors(state, dict(names.values()), file, ("basis",))
    return {ours: found[theirs].T for ours, (theirs, _) in names.items()}


def _losses(content: Mapping[str, Any]) -> Losses | None:
    train, test = as_number(content.get("train_loss")), as_number(content.get("test_loss"))
    return None if train is None or test is None else (train, test)


def _pairs(file: Path, p: int) -> set[tuple[int, int]]:
    """The pairs in a data file: a list of pairs, or a tensor of pairs and one of labels."""
    content = load_pickle(file)
    if isinstance(content, tuple | list) and len(content) == 2 and isinstance(content[0], Tensor):
        require_plain(content[0], "the pairs", file)
        content = content[0].tolist()
    valid = (
        isinstance(content, list)
        and len(content) <= p * p
        and all(
            isinstance(pair, tuple | list) and len(pair) == 2 and all(type(x) is int and 0 <= x < p for x in pair)
            for pair in content
        )
    )
    if not valid:
        raise RunError(f"{file} holds no pairs of numbers below {p}")
    return {(a, b) for a, b in content}
