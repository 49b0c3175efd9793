"""Nanda et al. 2023 (github progress-measures-paper): a dict with `model`, `train_losses` and `test_losses`.

Final weights of the transformer of that paper, whose logits include one for `=`, and the losses of training. The split
is Python's shuffle of all pairs with a seed that the file does not hold; it is found by the recorded losses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grokinterp.config import TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.formats.files import as_number, load_pickle, state_dict_of
from grokinterp.formats.imported import Imported, Place
from grokinterp.formats.transposed import read_transposed

_FRACTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.2, 0.1)
_SEEDS = range(10)


def find(source: Path) -> list[Place]:
    """The models at a place: one that is a file, so that several in a folder are never confused with checkpoints."""
    files = [source] if source.suffix == ".pth" and source.is_file() else []
    return [Place(file, file.name) for file in files if _fits(load_pickle(file))]


def _fits(content: Any) -> bool:
    fields = ("model", "train_losses", "test_losses")
    return isinstance(content, Mapping) and all(name in content for name in fields) and "config" not in content


def read(place: Path) -> Imported:
    """Reads a run.

    Raises:
        RunError: the file is damaged, or holds another model.
    """
    content = load_pickle(place)
    weights = read_transposed(state_dict_of(content["model"], place), 1, place)
    heads, d, width = weights["blocks.0.attn.W_Q"].shape
    vocabulary, positions = len(weights["embed.W_E"]), len(weights["pos_embed.W_pos"])
    if positions != 3 or weights["unembed.W_U"].shape[1] != vocabulary:
        raise RunError(f"{place} holds no model of modular addition: it reads {positions} tokens of {vocabulary}")
    p = vocabulary - 1
    model = TransformerConfig(
        n_heads=heads,
        d_model=d,
        d_head=None if heads * width == d else width,
        d_mlp=weights["blocks.0.mlp.W_in"].shape[1],
        biases="mlp",
        equals_logit=True,
        init="nanda",
    )
    train, test = (_numbers(content[name], name, place) for name in ("train_losses", "test_losses"))
    step = len(train)
    return Imported(
        task=TaskConfig("add", p, None, "unknown"),
        model=model,
        checkpoints={step: lambda: weights},
        splits=tuple(TaskConfig("add", p, fraction, "python", seed) for seed in _SEEDS for fraction in _FRACTIONS),
        losses={step: (train[-1], test[-1])},
        settings={"epochs": step},
    )


def _numbers(values: Any, name: str, file: Path) -> list[float]:
    found = [as_number(value) for value in values] if isinstance(values, list) else []
    numbers = [value for value in found if value is not None]
    if not numbers or len(numbers) < len(found):
        raise RunError(f"{file}: {name!r} is no list of finite numbers")
    return numbers
