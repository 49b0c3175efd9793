"""What may surround hostile content: checksums that fit it, odd names, other people's files, and broken streams."""

import ctypes
import hashlib
import io
import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MAX_SEALED = 8 << 20  # bytes of a file whose checksum is recomputed
_DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "I32": "int32", "U8": "uint8", "BOOL": "bool"}
_HEX_DIGEST = re.compile(rb"[0-9a-f]{64}")

# Names of files that do not belong to a run or sweep, and of runs.
NAMES = (
    *("-rf", "--help", "two\nlines", "\x1b[31mred", "[red]rich[/]", "<script>alert(1)</script>", "a b;$(id)`id`"),
    *("x" * 255, "é" * 127, os.fsdecode(b"not UTF-8 \xff\xfe"), "%s{0}", "‮gnol", "run@5", "every=1,2", "'\"\\"),
    *(".x.tmp", ".notes.txt.4711.tmp", "notes.txt", ".hidden", "step_000005.safetensors.bak", "step_x.safetensors"),
)

# --- checksums


def seal(folder: Path, original: Path) -> None:
    """Recomputes every checksum in a folder, so that its content is tested and not only its checksums.

    Args:
        folder: an edited copy of a run or sweep.
        original: the run or sweep, which has the original checksums.
    """
    for file in _regular_files(folder, ".safetensors"):
        _try(_seal_tensors, file)
    known = {name: _digest(file) for name, file in _by_name(original)}
    for _ in range(4):  # status.json has the checksums of other files, and summary.json that of status.json
        texts = [*_regular_files(folder, ".json"), *_regular_files(folder, ".jsonl")]
        for file in texts:
            _try(_seal_lines if file.suffix == ".jsonl" else _seal_json, file)
        current = {name: _digest(file) for name, file in _by_name(folder)}
        changed = {known[name]: digest for name, digest in current.items() if known.get(name, digest) != digest}
        if not changed:
            return
        for file in texts:
            _replace_digests(file, changed)
        known |= current


def checksum_of(content: dict[str, Any]) -> str:
    """The entry `checksum` of a JSON object: over its other entries."""
    others = {name: value for name, value in content.items() if name != "checksum"}
    canonical = json.dumps(others, sort_keys=True).encode()
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def _replace_digests(file: Path, changed: dict[bytes, bytes]) -> None:
    before = file.read_bytes()
    after = _HEX_DIGEST.sub(lambda match: changed.get(match[0], match[0]), before)
    if after != before:
        file.write_bytes(after)


def _seal_json(file: Path) -> None:
    file.write_bytes(_with_checksum(file.read_bytes()))


def _seal_lines(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(_try(_with_checksum, line, default=line) for line in lines))


def _with_checksum(text: bytes) -> bytes:
    """Replaces the checksum that a JSON object has of itself; the rest of the text stays as it is."""
    content = json.loads(text)
    stored = content.get("checksum")
    if not isinstance(stored, str) or not stored.startswith("sha256:"):  # none, or that of another file
        return text
    return text.replace(stored.encode(), checksum_of(content).encode())


def _seal_tensors(file: Path) -> None:
    """Replaces the digest of a safetensors file: an entry of the metadata, or a tensor in files of earlier versions."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    metadata = header.get("__metadata__", {})
    stored = metadata.pop("checksum", None)
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode() if stored and metadata else b"")
    for name in sorted(set(header) - {"sha256", "__metadata__"}):
        start, end = header[name]["data_offsets"]
        dtype = f"torch.{_DTYPES[header[name]['dtype']]}"
        digest.update(json.dumps([name, dtype, header[name]["shape"]]).encode() + body[start:end])
    if stored is not None:
        file.write_bytes(data[: 8 + size].replace(stored.encode(), f"sha256:{digest.hexdigest()}".encode()) + body)
        return
    first, last = header["sha256"]["data_offsets"]
    if last - first == 32:
        body[first:last] = digest.digest()
        file.write_bytes(struct.pack("<Q", size) + data[8 : 8 + size] + body)


def _try(action: Callable[[Any], Any], argument: Any, default: Any = None) -> Any:
    """The result of an action on damaged content; `default` if the content is too damaged for it."""
    try:
        return action(argument)
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, struct.error):
        return default


def _regular_files(folder: Path, suffix: str = "") -> Iterator[Path]:
    for file in sorted(folder.rglob(f"*{suffix}")):
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1 and file.stat().st_size < _MAX_SEALED:
            yield file


def _by_name(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((file.relative_to(folder).as_posix(), file) for file in _regular_files(folder))


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).hexdigest().encode()


# --- other people's files


def state_of(path: Path) -> tuple[Any, ...] | None:
    """What must stay the same of a file, link, pipe or folder."""
    try:
        status = path.lstat()
    except OSError:
        return None
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    target = os.readlink(path) if path.is_symlink() else ""
    return status.st_ino, status.st_mode, status.st_nlink, content, target


# --- permissions

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION = 0x20080522


def respect_permissions() -> None:
    """Makes permissions bind this process even if it is root's, as they bind other users (Linux)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = list(struct.unpack("=6I", data.raw[:24]))  # effective, permitted, inheritable, for 32 capabilities each
    for i in (0, 1):
        words[i] &= ~(1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH)
    data = ctypes.create_string_buffer(struct.pack("=6I", *words))
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


# --- streams


def _full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    _print_to_output("utf-8")


def _closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    _print_to_output("utf-8")


def _closed_output() -> None:
    os.close(1)
    sys.stdout = None  # as Python starts with a closed output


def _closed_errors() -> None:
    sys.stderr = None


def _ascii() -> None:
    _print_to_output("ascii")


def _print_to_output(encoding: str) -> None:
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding=encoding, errors="strict")


STREAMS: dict[str, Callable[[], None]] = {
    "full output": _full,
    "closed pipe": _closed_pipe,
    "closed output": _closed_output,
    "closed errors": _closed_errors,
    "ASCII output": _ascii,
}
