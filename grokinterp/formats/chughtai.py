"""Chughtai, Chan, and Nanda 2023 (github bilal-chughtai/rep-theory-mech-interp): `model.pt` beside `cfg.json`.

Final weights of a transformer or of an MLP. The split follows from the seed: `torch.randperm`, except that seed 0 did
not shuffle. Cyclic groups only: the other groups of that project are not modular arithmetic.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from grokinterp.config import MLPConfig, TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import integer, load_json, load_pickle, number, state_dict_of, tensors, text
from grokinterp.formats.imported import Imported, Place
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.files import MAX_STEP, exists

_IGNORED = ("mask", "IGNORE", "x_embed", "y_embed")
_MLP_NAMES = {"embed_a.W_E": "W_x", "embed_b.W_E": "W_y", "layers.0.W": "W", "unembed.W_U": "W_U"}


def find(source: Path) -> list[Place]:
    """The models at a place."""
    folder = source.parent if source.name in ("model.pt", "cfg.json") else source
    folders = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    return [Place(path, path.name) for path in folders if exists(path / "cfg.json") and exists(path / "model.pt")]


def read(place: Path) -> Imported:
    """Reads a model.

    Raises:
        RunError: a file is missing or damaged, or the group is not cyclic.
    """
    file, weights_file = place / "cfg.json", place / "model.pt"
    config = load_json(file)
    group = text(config, "group", file)
    if group != "CyclicGroup":
        raise RunError(f"{file}: {group} is no cyclic group; only modular addition (CyclicGroup) is read")
    p, seed = integer(config, "group_parameter", file, low=3), integer(config, "seed", file, low=0, high=1 << 62)
    fraction = number(config, "frac_train", file)
    steps = integer(config, "num_epochs", file, high=MAX_STEP)
    state = state_dict_of(load_pickle(weights_file), weights_file)
    task = TaskConfig("add", p, None, "unknown")
    kind = text(config, "model", file)
    if kind not in ("Transformer", "OneLayerMLP"):
        raise RunError(f"{file}: the model is {kind!r}, but Transformer or OneLayerMLP is expected")
    model = TransformerConfig() if kind == "Transformer" else _mlp_config(state, weights_file)
    names = {} if kind == "Transformer" else _MLP_NAMES
    shapes = parameter_shapes(model, task)
    stored = tensors(state, {names.get(name, name): shape for name, shape in shapes.items()}, weights_file, _IGNORED)
    weights = {name: stored[names.get(name, name)] for name in shapes}
    drawn = TaskConfig("add", p, fraction, "torch", seed) if 0 < fraction < 1 else None
    return Imported(
        task=task,
        model=model,
        checkpoints={steps: lambda: weights},
        train_indices=list(range(int(fraction * p * p))) if drawn is not None and seed == 0 else None,
        split_reason="the first pairs, because the authors' code does not shuffle for seed 0",
        splits=() if drawn is None or seed == 0 else (drawn,),
        losses=_losses(place, steps),
        settings={
            name: config[name] for name in ("lr", "weight_decay", "betas", "seed", "num_epochs") if name in config
        },
    )


def _mlp_config(state: Mapping[str, Tensor], file: Path) -> MLPConfig:
    for name in ("W_x", "W"):
        if name not in state or state[name].ndim != 2:
            raise RunError(f"{file} lacks the matrix {name!r}")
    d_embed, width = state["W_x"].shape[1], state["W"].shape[1]
    return MLPConfig(input="concat", shared_embedding=False, d_embed=d_embed, depth=1, width=width, biases=False)


def _losses(place: Path, step: int) -> dict[int, tuple[float, float]]:
    """The losses that the authors computed from these weights, if they are there."""
    file = place / "summary_metrics.json"
    if not exists(file):
        return {}
    metrics = load_json(file)
    return {step: (number(metrics, "train_loss", file), number(metrics, "test_loss", file))}
