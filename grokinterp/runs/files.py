"""Files of a run: written whole or not at all, and read as what a stranger may have put there.

Nothing here writes through a link, waits for a pipe, or reads more than a file of its kind can hold. Links are read
through: caches of shared runs are made of them.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from grokinterp.errors import RunError

FileState = tuple[int, int, int] | None
MOST_TEXT = 64 << 20  # bytes of a JSON file; status.json has 110 a checkpoint
LARGEST_CONFIG = 1 << 20  # bytes
_LARGEST = 1 << 32  # bytes of any file
_LONGEST_LINE = 1 << 20

# Flags that not every system has: do not wait for a pipe's writer, do not go where a link leads.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, content: bytes | str, *, sync_parent: bool = True) -> None:
    """Replaces `path` by `content` in one instant; a crash leaves the old file or the new one.

    Args:
        path: the file. Where a link stands, the link is replaced, and what it leads to is left alone.
        content: what is to be in it.
        sync_parent: wait until the new name is on the disk too; else `sync_folder` is to do so later.

    Raises:
        RunError: the folder cannot be written to, or the disk is full. Nothing half written is left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _fresh(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if sync_parent:
            _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot("write", path, error) from None


def _fresh(path: Path) -> BinaryIO:
    """A new file of that name, opened; what a crash left there, a link even, is removed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS | _BINARY
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        descriptor = os.open(path, flags, 0o666)
    return os.fdopen(descriptor, "wb")


def append(path: Path, line: str) -> None:
    """Adds a line to a file, wholly or not at all.

    Raises:
        RunError: it cannot be written, or is a link.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS | _NO_WAITING | _BINARY, 0o666)
    except OSError as error:
        raise cannot("write", path, error) from None
    try:
        before = _require_regular(path, descriptor).st_size
        data = line.encode()
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # a later line must not be glued to the beginning of this one
                os.ftruncate(descriptor, before)
            raise cannot("write", path, error) from None
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Waits until what was written to a file is on the disk.

    Raises:
        RunError: the disk says that it is not.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | _NO_LINKS | _NO_WAITING | _BINARY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot("write", path, error) from None


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` last, where the system can (POSIX).

    Raises:
        RunError: the disk says that it cannot.
    """
    try:
        _sync(folder)
    except OSError as error:
        raise cannot("write", folder, error) from None


def _sync(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Creates `path` and its parents.

    Raises:
        RunError: it cannot be created, or a file stands there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror or error}; choose another place") from None


def make_subfolder(folder: Path, name: str) -> Path:
    """A folder inside another, which is made where it does not exist.

    Raises:
        RunError: it cannot be created, or it is a link to elsewhere.
    """
    path = folder / name
    make_folder(path)
    require_inside(path, folder)
    return path


def remove(path: Path) -> None:
    """Removes a file or a link, if there is one.

    Raises:
        RunError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("remove", path, error) from None


def remove_leftovers(folder: Path) -> None:
    """Removes what writes that a crash cut short have left directly in a folder.

    Raises:
        RunError: one cannot be removed.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    for entry in sorted(folder.glob(".*.tmp")):
        if entry.is_symlink() or not entry.is_dir():
            remove(entry)


def read_bytes(path: Path, *, most: int = MOST_TEXT) -> bytes:
    """What a file holds.

    Args:
        path: an ordinary file, or a link to one.
        most: bytes that a file of its kind can have.

    Raises:
        RunError: it is not there, is no ordinary file, is larger, or cannot be read.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        _require_size(path, size, most)
        try:
            return file.read(size)
        except OSError as error:
            raise cannot("read", path, error) from None


def checksum_of(path: Path) -> str:
    """SHA-256 of a file of at most 4 GB, in little memory.

    Raises:
        RunError: as `read_bytes`.
    """
    digest = hashlib.sha256()
    with _opened(path) as file:
        _require_size(path, os.fstat(file.fileno()).st_size, _LARGEST)
        try:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        except OSError as error:
            raise cannot("read", path, error) from None
    return digest.hexdigest()


def _require_size(path: Path, size: int, most: int) -> None:
    if size > most:
        raise RunError(f"{path} is damaged: it has {size:,} bytes, and no such file has more than {most:,}")


def read_tail(path: Path, most: int) -> bytes:
    """The last bytes of a file, at most so many.

    Raises:
        RunError: as `read_bytes`, whatever its size.
    """
    with _opened(path) as file:
        try:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read(most)
        except OSError as error:
            raise cannot("read", path, error) from None


def read_lines(path: Path) -> Iterator[bytes]:
    """Each line of a file with its end, the last one perhaps without; in little memory.

    Raises:
        RunError: as `read_bytes`, or a line has more than a megabyte.
    """
    with _opened(path) as file:
        while True:
            try:
                line = file.readline(_LONGEST_LINE)
            except OSError as error:
                raise cannot("read", path, error) from None
            if not line:
                return
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                raise RunError(f"{path} is damaged: it has a line of more than {_LONGEST_LINE:,} bytes")
            yield line


def read_text(path: Path, *, most: int = MOST_TEXT) -> str:
    """What a text file holds.

    Raises:
        RunError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most=most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: it is not UTF-8 ({error.reason} at byte {error.start})") from None


def parse_json(text: str | bytes) -> Any:
    """What a JSON text means.

    Raises:
        ValueError: it means nothing, is nested too deeply, or holds what no text can be written of.
    """
    try:
        content = json.loads(text)
        if b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower():  # half of a character?
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def exists(path: Path) -> bool:
    """Whether anything has that name, a link to nowhere even."""
    return os.path.lexists(path)


def state_of(path: Path) -> FileState:
    """What changes when a file is replaced, or added to; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def require_inside(path: Path, folder: Path) -> None:
    """Refuses what does not lie in a folder, wherever links lead.

    Raises:
        RunError: it leads out.
    """
    place, root = os.path.realpath(path), os.path.realpath(folder)
    if place != root and not place.startswith(root.rstrip(os.sep) + os.sep):
        raise RunError(f"{path} leads out of {folder}: put there what it leads to, or remove it")


def cannot(what: str, path: Path, error: OSError) -> RunError:
    """The error for a file that the system refuses to read, write or remove."""
    return RunError(f"cannot {what} {path}: {error.strerror or error}; free or unlock that place")


def _opened(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAITING | _BINARY)
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        _require_regular(path, descriptor)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: Path, descriptor: int) -> os.stat_result:
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise RunError(f"{path} is no ordinary file: put the file there that belongs there")
    return about
