"""Names and layouts of the weights in TransformerLens 4, whose TransformerBridge stores them as `nn.Linear` does."""

from collections.abc import Mapping

from einops import EinopsError, rearrange
from torch import Tensor

_LETTERS = {"q": "Q", "k": "K", "v": "V"}


def from_version_4(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """The state dict of a TransformerBridge under the names of version 3, without what is no parameter.

    Args:
        state: the state dict.
        heads: number of attention heads.

    Raises:
        ValueError: a tensor does not fit the number of heads.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        *path, kind = name.split(".")
        place, part = ".".join(path[:-1]), path[-1] if path else ""
        if kind not in ("weight", "bias"):
            continue
        is_weight = kind == "weight"
        try:
            if name in ("embed.weight", "pos_embed.weight"):
                found[f"{part}.{'W_E' if part == 'embed' else 'W_pos'}"] = tensor
            elif part == "unembed":
                found[f"unembed.{'W_U' if is_weight else 'b_U'}"] = tensor.T if is_weight else tensor
            elif part in _LETTERS:
                pattern = "(h e) d -> h d e" if is_weight else "(h e) -> h e"
                found[f"{place}.{'W' if is_weight else 'b'}_{_LETTERS[part]}"] = rearrange(tensor, pattern, h=heads)
            elif part == "o":
                found[f"{place}.{'W' if is_weight else 'b'}_O"] = (
                    rearrange(tensor, "d (h e) -> h e d", h=heads) if is_weight else tensor
                )
            elif part in ("in", "out"):
                found[f"{place}.{'W' if is_weight else 'b'}_{part}"] = tensor.T if is_weight else tensor
            elif part.startswith("ln"):
                found[f"{place}.{part}.{'w' if is_weight else 'b'}".removeprefix(".")] = tensor
        except (EinopsError, RuntimeError):
            raise ValueError(f"{name!r} of shape {list(tensor.shape)} does not fit {heads} heads") from None
    return found


def to_version_4(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of version 3 as the state dict of a TransformerBridge of version 4."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        place, kind = name.rsplit(".", 1)
        letter, _, part = kind.partition("_")
        suffix = "weight" if letter in ("W", "w") else "bias"
        if kind in ("W_E", "W_pos", "w", "b"):
            found[f"{place}.{suffix}"] = weight
        elif place == "unembed":
            found[f"unembed.{suffix}"] = weight.T if suffix == "weight" else weight
        elif part in "QKV":
            pattern = "h d e -> (h e) d" if suffix == "weight" else "h e -> (h e)"
            found[f"{place}.{part.lower()}.{suffix}"] = rearrange(weight, pattern)
        elif part == "O":
            found[f"{place}.o.{suffix}"] = rearrange(weight, "h e d -> d (h e)") if suffix == "weight" else weight
        else:
            found[f"{place}.{part}.{suffix}"] = weight.T if suffix == "weight" else weight
    return {name: tensor.contiguous() for name, tensor in found.items()}
