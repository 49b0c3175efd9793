"""safetensors files: named tensors, without anything executable, with a checksum."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from grokinterp.errors import RunError
from grokinterp.runs.checksums import CHECKSUM, DIFFERS, PREFIX, has_checksum
from grokinterp.runs.files import MAX_RECORDED_NUMBERS, MAX_TENSOR_HEADER_BYTES, parse_json

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


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Serializes tensors to the content of a safetensors file, with a checksum of tensors and metadata.

    Args:
        tensors: by name, on the CPU.
        metadata: strings to store with them.
    """
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = save(contents, metadata={**metadata, CHECKSUM: PREFIX + digest(contents, metadata)})
    size = int.from_bytes(data[:8], "little")
    # safetensors writes the metadata in random order; the bytes of a run must be reproducible.
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def deserialize(data: bytes, path: Path) -> TensorFile:
    """Parses the content of a safetensors file, and verifies its checksum; files of earlier versions have none.

    Args:
        data: the content.
        path: the file, for messages.

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
    if has_checksum(metadata):
        stored = metadata.pop(CHECKSUM, None)
        if stored != PREFIX + digest(tensors, metadata):
            raise damaged(path, DIFFERS)
    return TensorFile(tensors, metadata)


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


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = MappingProxyType({})) -> str:
    """SHA-256 over metadata, names, dtypes, shapes and bytes, in the order of the names, in hexadecimal."""
    checksum = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode() if metadata else b"")
    for name, tensor in sorted(tensors.items()):
        checksum.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        checksum.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()
