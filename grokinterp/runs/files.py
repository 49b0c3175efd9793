"""File access for run folders: atomic writes, and reads that do not trust the file.

Nothing here writes through a symlink, waits for a pipe, or reads more bytes than a file of its kind can have. Symlinks
are followed when reading, because caches of shared runs consist of them.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from grokinterp.errors import RunError

# Limits on what a run folder may hold; a file beyond them is refused instead of filling memory.
MAX_FILE_BYTES = 1 << 32
MAX_JSON_BYTES = 64 << 20  # status.json needs 110 bytes per checkpoint
MAX_CONFIG_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
MAX_TENSOR_HEADER_BYTES = 16 << 20  # usually 100 bytes per tensor
MAX_RECORDED_NUMBERS = 1 << 28  # in a recorded model, whose configuration does not give its size
MAX_STEP = 10**12
_CHUNK = 1 << 20  # bytes

# Flags that some systems lack: do not wait for a pipe's writer, do not follow symlinks.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def write_atomically(path: Path, content: bytes | str, *, sync_parent: bool = True) -> None:
    """Replaces the content of `path` atomically: after a crash it has either the old content or the new.

    Args:
        path: the file. A symlink is replaced; its target is not touched.
        content: the new content.
        sync_parent: also sync the folder, so that the rename survives a power cut; if False, call `sync_folder` later.

    Raises:
        RunError: the folder is not writable, or the disk is full. No partial file is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    # Random, because processes in different containers or on different machines can have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _create(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        if sync_parent:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise access_error("write", path, error) from None


def _create(path: Path) -> BinaryIO:
    """Creates and opens a file that does not exist."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS | _BINARY, 0o666), "wb")


def append(path: Path, line: str) -> None:
    """Appends a line to a file, completely or not at all.

    Raises:
        RunError: the file is not writable, or is a symlink.
    """
    with accessing("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS | _NO_WAITING | _BINARY, 0o666)
    try:
        status = _require_regular(path, descriptor)
        if status.st_nlink > 1:  # the other name may belong to another run, or to someone else
            raise RunError(f"{path} has another name (a hard link), which would change too: replace it with a copy")
        before = status.st_size
        data = line.encode()
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # otherwise the next line would be appended to half of this one
                os.ftruncate(descriptor, before)
            raise access_error("write", path, error) from None
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Waits until everything written to a file is on the disk.

    Raises:
        RunError: the disk reports an error.
    """
    _sync(path, os.O_RDWR | _NO_LINKS | _NO_WAITING | _BINARY)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut, on systems that can sync a folder (POSIX).

    Raises:
        RunError: the disk reports an error.
    """
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    with accessing("write", path):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> None:
    """Creates `path` and its parents.

    Raises:
        RunError: the folder cannot be created, or a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror or error}; choose another folder") from None


def make_subfolder(folder: Path, name: str) -> Path:
    """Creates a folder inside an existing one unless it exists, and returns its path.

    Raises:
        RunError: the subfolder cannot be created, for instance because `folder` was deleted meanwhile, or is a symlink
            to somewhere else.
    """
    path = folder / name
    with accessing("write", path):
        path.mkdir(exist_ok=True)
    require_inside(path, folder)
    return path


def remove(path: Path) -> None:
    """Removes a file or a symlink if it exists.

    Raises:
        RunError: it cannot be removed.
    """
    with accessing("remove", path):
        path.unlink(missing_ok=True)


def temporary_names(names: str) -> re.Pattern[str]:
    """Pattern of the temporary names under which `write_atomically` writes files whose names match `names`."""
    return re.compile(rf"\.(?:{names})\.\d+(-[0-9a-f]{{8}})?\.tmp")


def remove_leftovers(folder: Path, names: str) -> None:
    """Removes the temporary files that interrupted calls of `write_atomically` left directly in a folder.

    Args:
        folder: a folder of a run or sweep.
        names: regular expression of the files written there. Temporary files of other names belong to someone else.

    Raises:
        RunError: one of them cannot be removed.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    pattern = temporary_names(names)
    for entry in sorted(folder.iterdir()):
        if pattern.fullmatch(entry.name) and (entry.is_symlink() or not entry.is_dir()):
            remove(entry)


def read_bytes(path: Path, *, limit: int = MAX_JSON_BYTES) -> bytes:
    """Reads a file.

    Args:
        path: a regular file, or a symlink to one.
        limit: largest size in bytes that a file of this kind can have.

    Raises:
        RunError: the file is missing, is not a regular file, is larger than `limit`, or cannot be read.
    """
    with _open(path) as file, accessing("read", path):
        size = os.fstat(file.fileno()).st_size
        _require_size(path, size, limit)
        return file.read(size)


def file_checksum(path: Path, size: int = MAX_FILE_BYTES) -> str:
    """Computes the SHA-256 of a file of at most 4 GB without loading it into memory.

    Args:
        path: the file.
        size: number of bytes from the start that count; of a shorter file, all do.

    Raises:
        RunError: as in `read_bytes`.
    """
    checksum = hashlib.sha256()
    with _open(path) as file, accessing("read", path):
        _require_size(path, os.fstat(file.fileno()).st_size, MAX_FILE_BYTES)
        while data := file.read(min(size, _CHUNK)):
            checksum.update(data)
            size -= len(data)
    return checksum.hexdigest()


def free_name(path: Path, suffix: str) -> Path:
    """The first of NAME.SUFFIX, NAME.SUFFIX-2, NAME.SUFFIX-3, ... that does not exist."""
    first = path.with_name(f"{path.name}.{suffix}")
    later = (path.with_name(f"{path.name}.{suffix}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([first], later) if not exists(name))


def _require_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise RunError(f"{path} is damaged: it has {size:,} bytes, and a file of its kind has at most {limit:,}")


def read_tail(path: Path, size: int) -> bytes:
    """Reads the last `size` bytes of a file, or all of it if it is shorter.

    Raises:
        RunError: the file is missing, is not a regular file, or cannot be read.
    """
    with _open(path) as file, accessing("read", path):
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yields each line of a file with its newline, which the last line may lack, in little memory.

    A line of more than a megabyte is damaged: it is yielded as an empty line.

    Raises:
        RunError: the file is missing, is not a regular file, cannot be read, or has a line of more than 64 megabytes.
    """
    with _open(path) as file:
        while True:
            with accessing("read", path):
                line = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            rest, skipped = line, 0
            while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
                skipped += len(rest)
                _require_size(path, skipped, MAX_JSON_BYTES)
                with accessing("read", path):
                    rest = file.readline(MAX_LINE_BYTES)
                line = b"\n"
            yield line


def read_text(path: Path, *, limit: int = MAX_JSON_BYTES) -> str:
    """Reads a text file.

    Raises:
        RunError: as in `read_bytes`, or the text is not UTF-8.
    """
    try:
        return read_bytes(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: it is not UTF-8 ({error.reason} at byte {error.start})") from None


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has a lone surrogate, which cannot be encoded.
    """
    try:
        content = json.loads(text)
        if b"\\ud" in text.lower() if isinstance(text, bytes) else "\\ud" in text.lower():  # perhaps a lone surrogate
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def exists(path: Path) -> bool:
    """Whether the name is in use, even by a broken symlink.

    Raises:
        RunError: the system refuses to tell, for instance because the folder may not be entered.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise access_error("read", path, error) from None
    return True


def file_state(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and modification time, one of which changes when a file does; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def require_inside(path: Path, folder: Path) -> None:
    """Checks that `path`, with symlinks resolved, is inside `folder`.

    Raises:
        RunError: it is outside.
    """
    target, root = os.path.realpath(path), os.path.realpath(folder)
    if target != root and not target.startswith(root.rstrip(os.sep) + os.sep):
        raise RunError(
            f"{path} is a symlink to somewhere outside {folder}. Replace it with a copy of its target, or delete it."
        )


def access_error(action: str, path: Path, error: OSError) -> RunError:
    """The error for a file that the system refuses to read, write or remove (`action`)."""
    return RunError(f"cannot {action} {path}: {error.strerror or error}; check permissions and free disk space")


@contextlib.contextmanager
def accessing(action: str, path: Path) -> Iterator[None]:
    """Context manager for code that reads, writes or removes a file (`action`).

    Raises:
        RunError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise access_error(action, path, error) from None


def _open(path: Path) -> BufferedReader:
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
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path} is not a regular file. Restore the original file.")
    return status
