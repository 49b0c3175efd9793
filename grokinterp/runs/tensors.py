"""safetensors files: named tensors, without anything executable, optionally with a checksum."""

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
from grokinterp.runs.files import MAX_RECORDED_NUMBERS, MAX_TENSOR_HEADER_BYTES, parse_json

_CHECKSUM, _OLD_CHECKSUM = "checksum", "sha256"  # the old one does not cover the metadata
_NAMES_SHOWN = 3  # in a message

Shapes = Mapping[str, tuple[int, ...]]
LARGEST_RECORDED: Shapes = {"": (MAX_RECORDED_NUMBERS,)}  # stands for a recorded model, whose shapes are unknown


@dataclass(frozen=True)
class TensorFile:
    """The content of a safetensors file.

    Attributes:
        tensors: by name, sorted by name.
        metadata: the strings stored with them.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, checksum: bool = False) -> bytes:
    """Serializes tensors to the content of a safetensors file.

    Args:
        tensors: by name, on the CPU.
        metadata: strings to store with them; at most one if the bytes must be reproducible, because safetensors does
            not fix the order of several.
        checksum: add a checksum of tensors and metadata, which `deserialize` verifies.
    """
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if checksum:
        contents[_CHECKSUM] = _digest(contents, metadata)
    return save(contents, metadata=dict(metadata))


def deserialize(data: bytes, path: Path, *, checked: str | None = None) -> TensorFile:
    """Parses the content of a safetensors file.

    Args:
        data: the content.
        path: the file, for messages.
        checked: a metadata entry. If it is given, a checksum is verified and removed; a file that has this entry must
            have a checksum.

    Raises:
        RunError: the content is truncated, is not in safetensors format, contradicts its header, or fails its
            checksum.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_TENSOR_HEADER_BYTES):
        raise damaged(path, "truncated, or not a safetensors file")
    try:
        metadata = dict(parse_json(data[8 : 8 + size]).get("__metadata__") or {})
        tensors = dict(sorted(load(data).items()))
    # KeyError, TypeError, AttributeError: a dtype that torch lacks, or a header of another form
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    if checked is not None:
        _verify_checksum(tensors, metadata if checked in metadata else None, path)
    return TensorFile(tensors, metadata)


def _verify_checksum(tensors: dict[str, Tensor], metadata: Mapping[str, str] | None, path: Path) -> None:
    """Verifies and removes the checksum; `metadata` is None for a file of an earlier version."""
    stored = tensors.pop(_OLD_CHECKSUM if metadata is None else _CHECKSUM, None)
    if stored is None and metadata is not None:
        raise damaged(path, "it has no checksum")
    if stored is not None and not torch.equal(stored, _digest(tensors, metadata)):
        raise damaged(path, "its checksum does not match its content")


def damaged(path: Path, reason: str) -> RunError:
    """The error for a file whose content is unusable."""
    return RunError(f"{path} is damaged ({reason})")


def max_bytes(shapes: Shapes, copies: int = 1) -> int:
    """Largest possible size in bytes of a file of float32 tensors of these shapes, including its header."""
    numbers = sum(torch.Size(shape).numel() for shape in shapes.values())
    return 8 + MAX_TENSOR_HEADER_BYTES + 4 * copies * numbers


def describe_misfit(tensors: Mapping[str, Tensor], shapes: Shapes, dtype: torch.dtype = torch.float32) -> str:
    """Describes how tensors differ from the expected names, shapes and dtype; empty if they do not."""
    missing = sorted(set(shapes) - set(tensors))
    if missing:
        return f"missing {_list_names(missing)}"
    unexpected = sorted(set(tensors) - set(shapes))
    if unexpected:
        return f"unexpected {_list_names(unexpected)}"
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            return f"{name} has shape {list(tensor.shape)} instead of {list(shapes[name])}"
        if tensor.dtype != dtype:
            return f"{name} is {_dtype_name(tensor.dtype)} instead of {_dtype_name(dtype)}"
    return ""


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Tensor:
    """SHA-256 over metadata, names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256(b"" if metadata is None else json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
