"""Opening other people's files: pickles only by torch's weights-only loader, which executes no code of theirs."""

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from grokinterp.errors import RunError, shorten
from grokinterp.runs.files import accessing, parse_json, read_bytes, read_text

MAX_FILE_BYTES = 8 << 30  # of a pickle or a safetensors file
MAX_CONFIG_BYTES = 1 << 20
_MOST_NAMED = 5

# A class that a file may contain, by the dotted names under which files know it.
Allowed = Mapping[str, type]


def load_pickle(file: Path, allowed: Allowed | None = None) -> Any:
    """Loads a file of `torch.save` onto the CPU without executing anything in it.

    Args:
        file: a `.pt` or `.pth` file.
        allowed: stand-ins for classes in the file, by the dotted name that the file uses.

    Raises:
        RunError: the file is missing or damaged, contains anything but tensors, plain values and these classes, or
            would take more memory than it says.
    """
    with accessing("read", file):
        size = file.stat().st_size
        _require_plain_archive(file, size)
        try:
            with safe_globals([(stand_in, name) for name, stand_in in (allowed or {}).items()]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except (FileNotFoundError, PermissionError):
            raise
        except MemoryError:
            raise RunError(f"{file} does not fit into memory") from None
        except Exception as error:  # the formats are old and many; whatever it is, the file cannot be read
            if type(error).__name__ == "UnpicklingError":
                raise _refused(file, str(error), allowed or {}) from None
            raise RunError(f"{file} is damaged, or not a file of torch.save ({shorten(str(error))})") from None


def _require_plain_archive(file: Path, size: int) -> None:
    """Raises an error if the file is an archive whose content is compressed or larger than the file itself."""
    if size > MAX_FILE_BYTES:
        raise RunError(f"{file} has {size:,} bytes, and at most {MAX_FILE_BYTES:,} are read")
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RunError(f"{file} is damaged ({error})") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise RunError(f"{file} is a compressed archive, which torch.save never writes: it is not opened")
    if sum(entry.file_size for entry in entries) > size:
        raise RunError(f"{file} claims to hold more bytes than it has: it is not opened")


def _refused(file: Path, message: str, allowed: Allowed) -> RunError:
    """The error for a file that the weights-only loader does not open, with what it wanted."""
    try:
        wanted = sorted(set(get_unsafe_globals_in_checkpoint(file)) - set(allowed))
    except Exception:  # what cannot be parsed at all
        wanted = re.findall(r"GLOBAL (\S+) was not an allowed global", message)
    if not wanted:
        return RunError(f"{file} is damaged, or contains more than tensors and plain values: it is not opened")
    more = f" and {len(wanted) - _MOST_NAMED} more" if len(wanted) > _MOST_NAMED else ""
    return RunError(
        f"{file} is not opened, because reading it calls {', '.join(wanted[:_MOST_NAMED])}{more}: if you trust it, "
        "load it yourself with torch.load(..., weights_only=False), and save only its tensors"
    )


def load_safetensors(file: Path) -> dict[str, Tensor]:
    """Loads the tensors of a safetensors file.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        return load_tensors(read_bytes(file, limit=MAX_FILE_BYTES))
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error})") from None


def load_json(file: Path) -> dict[str, Any]:
    """Loads a JSON object.

    Raises:
        RunError: the file is missing or damaged, or holds no object.
    """
    try:
        content = parse_json(read_text(file, limit=MAX_CONFIG_BYTES))
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise RunError(f"{file} is damaged (it holds no JSON object)")
    return content


def state_dict_of(content: Any, file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict.

    Raises:
        RunError: the content is anything else.
    """
    if not isinstance(content, Mapping) or not content:
        raise RunError(f"{file} holds no state dict")
    wrong = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if wrong is not None or not all(isinstance(name, str) for name in content):
        raise RunError(f"{file} holds no state dict: {wrong!r} is no tensor")
    return dict(content)


def required(content: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], file: Path) -> Any:
    """An entry of a configuration or dict of another project.

    Raises:
        RunError: it is missing, or of another type.
    """
    value = content.get(name)
    if name not in content:
        raise RunError(f"{file} has no {name!r}")
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise RunError(f"{file}: {name!r} is {json.dumps(value, default=repr)[:80]}")
    return value


def tensors(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], file: Path) -> dict[str, Tensor]:
    """The tensors with these names in float32, checked against their shapes.

    Raises:
        RunError: one is missing, or has another shape or no numbers.
    """
    for name, shape in shapes.items():
        if name not in state:
            raise RunError(f"{file} lacks the tensor {name!r}")
        if tuple(state[name].shape) != tuple(shape):
            raise RunError(f"{file}: {name!r} has shape {list(state[name].shape)}, but {list(shape)} is expected")
        if not state[name].is_floating_point():
            raise RunError(f"{file}: {name!r} holds {state[name].dtype}, not floating point")
    return {name: state[name].detach().float() for name in shapes}
