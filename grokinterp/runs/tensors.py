"""safetensors files: tensors by name, and nothing that could be executed; written with a checksum where asked for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from grokinterp.errors import RunError
from grokinterp.runs.files import parse_json

_LARGEST_HEADER = 16 << 20  # bytes; 100 a tensor are usual
_DIGEST = "sha256"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file holds.

    Attributes:
        tensors: by name, in the order of the names.
        metadata: words that were written with them.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, digest: bool = False) -> bytes:
    """Tensors as the content of a file.

    Args:
        tensors: by name, on the CPU.
        metadata: words to go with them.
        digest: add a checksum of the tensors, which `deserialize` then holds them to.
    """
    given = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if digest:  # as a tensor: safetensors writes several words of metadata in any order
        given[_DIGEST] = _digest(given)
    return save(given, metadata=dict(metadata))


def deserialize(data: bytes, path: Path) -> TensorFile:
    """Tensors from the content of a file.

    Args:
        data: the content.
        path: of the file, for messages.

    Raises:
        RunError: it is cut, is no safetensors file, claims what it does not hold, or is not what was written.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _LARGEST_HEADER):
        raise damaged(path, "it is cut, or no safetensors file")
    try:
        metadata = dict(parse_json(data[8 : 8 + size]).get("__metadata__") or {})
        tensors = dict(sorted(load(data).items()))
    # KeyError, TypeError, AttributeError: a dtype that torch lacks, or a header of another form
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    written = tensors.pop(_DIGEST, None)
    if written is not None and not torch.equal(written, _digest(tensors)):
        raise damaged(path, "its content is not what was written")
    return TensorFile(tensors, metadata)


def damaged(path: Path, why: str) -> RunError:
    """The error for a file whose content cannot be used."""
    return RunError(f"{path} is damaged ({why})")


def most_bytes(shapes: Shapes, copies: int = 1) -> int:
    """Bytes that a file of float32 tensors of these shapes has at most, its header included."""
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    return 8 + _LARGEST_HEADER + 4 * copies * numbers


def misfit(tensors: Mapping[str, Tensor], shapes: Shapes, dtype: torch.dtype = torch.float32) -> str:
    """What is wrong with tensors that are to have these names and shapes and this dtype; empty where nothing is."""
    missing = sorted(set(shapes) - set(tensors))
    if missing:
        return f"missing {_some(missing)}"
    unexpected = sorted(set(tensors) - set(shapes))
    if unexpected:
        return f"unexpected {_some(unexpected)}"
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            return f"{name} has shape {list(tensor.shape)} and not {list(shapes[name])}"
        if tensor.dtype != dtype:
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')} and not {str(dtype).removeprefix('torch.')}"
    return ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    """SHA-256 of names, dtypes, shapes and bytes, whatever the order."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(found.digest()), dtype=torch.uint8)
