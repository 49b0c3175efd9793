"""Opening other people's files: pickles only by torch's weights-only loader, which executes no code of theirs."""

import math
import re
import reprlib
import stat
import zipfile
from collections.abc import Collection, Mapping, Sequence
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
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RunError(f"{file} is no regular file")
        _require_plain_archive(file, status.st_size)
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
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{file} is damaged ({shorten(str(error))})") from None


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
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RunError(f"{file} holds no state dict: {reprlib.repr(name)} is not the name of a tensor")
    return dict(content)


def text(content: Mapping[Any, Any], name: str, file: Path) -> str:
    """An entry of another project's configuration that must be text.

    Raises:
        RunError: it is missing or something else.
    """
    return _entry(content, name, str, "text", file)


def integer(
    content: Mapping[Any, Any], name: str, file: Path, *, low: int = 1, high: int = 1 << 20, default: int | None = None
) -> int:
    """An entry of another project's configuration that must be an integer in low .. high.

    Raises:
        RunError: it is missing, no integer, or out of range.
    """
    if name not in content and default is not None:
        return default
    value = _entry(content, name, int, "an integer", file)
    if isinstance(value, bool) or not low <= value <= high:
        raise RunError(f"{file}: {name!r} must be an integer from {low:,} to {high:,}")
    return value


def number(content: Mapping[Any, Any], name: str, file: Path) -> float:
    """An entry of another project's configuration that must be a finite number.

    Raises:
        RunError: it is missing, no number, or not finite.
    """
    found = as_number(_entry(content, name, (int, float), "a number", file))
    if found is None:
        raise RunError(f"{file}: {name!r} must be a finite number")
    return found


def as_number(value: Any) -> float | None:
    """A finite number as a float; None for everything else."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _entry(content: Mapping[Any, Any], name: str, kinds: Any, expected: str, file: Path) -> Any:
    if name not in content:
        raise RunError(f"{file} has no {name!r}")
    if not isinstance(content[name], kinds):
        raise RunError(f"{file}: {name!r} must be {expected}, but is {reprlib.repr(content[name])}")
    return content[name]


def require_plain(tensor: Tensor, name: str, file: Path) -> None:
    """Raises an error unless a tensor is an ordinary one whose numbers are all in the file.

    Raises:
        RunError: it is sparse, quantized, without data, or a view that repeats numbers.
    """
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() > tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1):
        raise RunError(f"{file}: {name!r} is no plain tensor")


def tensors(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], file: Path, ignored: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors with these names in float32, checked against their shapes.

    Args:
        state: the tensors in the file.
        shapes: of those that are wanted.
        file: named in messages.
        ignored: last parts of the names of others that the file may hold.

    Raises:
        RunError: one is missing, has another shape or no numbers, or there are others.
    """
    for name, shape in shapes.items():
        if name not in state:
            raise RunError(f"{file} lacks the tensor {name!r}")
        require_plain(state[name], name, file)
        if tuple(state[name].shape) != tuple(shape):
            raise RunError(f"{file}: {name!r} has shape {list(state[name].shape)}, but {list(shape)} is expected")
        if not state[name].is_floating_point():
            raise RunError(f"{file}: {name!r} holds {state[name].dtype}, not floating point")
    for name in state:
        if name not in shapes and name.rsplit(".", 1)[-1] not in ignored:
            raise RunError(f"{file} has a tensor {name!r}, which this architecture lacks")
    return {name: state[name].detach().float() for name in shapes}
