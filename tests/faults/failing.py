"""A failing disk: the n-th operation on a folder fails, once or from then on."""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# The error of each operation.
ERRORS = {
    "open": errno.EROFS,
    "write": errno.ENOSPC,
    "fsync": errno.EIO,
    "replace": errno.EACCES,
    "mkdir": errno.ENOSPC,
    "unlink": errno.EROFS,
}


class FailingDisk:
    """Counts the operations on a folder, and makes one of them fail.

    Attributes:
        log: the operations so far, each with the file name.
        fail_at: number of the operation that fails, from 0; None for none.
        forever: whether all later operations fail, too.
        hit: whether an operation has failed.
    """

    def __init__(self, folder: Path, fail_at: int | None = None, forever: bool = False):
        self.folder, self.fail_at, self.forever = str(folder), fail_at, forever
        self.log: list[tuple[str, str]] = []
        self.hit = False
        self.names: dict[int, str] = {}  # of open descriptors

    def does(self, operation: str, path: Any) -> None:
        """Logs an operation, and raises its error if it is to fail."""
        name = os.fspath(path) if not isinstance(path, int) else self.names.get(path, "")
        if not str(name).startswith(self.folder):
            return
        n = len(self.log)
        self.log.append((operation, Path(str(name)).name))
        if self.fail_at is not None and (n == self.fail_at or (self.forever and n > self.fail_at)):
            self.hit = True
            code = ERRORS[operation]
            raise OSError(code, os.strerror(code), str(name))

    def opened(self, descriptor: int, path: Any) -> int:
        self.names[descriptor] = os.fspath(path)
        return descriptor


class _File:
    """A file whose writing may fail halfway."""

    def __init__(self, file: Any, disk: FailingDisk, name: str):
        self.file, self.disk, self.name = file, disk, name

    def write(self, data: bytes) -> int:
        try:
            self.disk.does("write", self.name)
        except OSError:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise
        return self.file.write(data)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@contextmanager
def failing(disk: FailingDisk) -> Iterator[FailingDisk]:
    """Routes all operations of this process on the disk's folder through the disk."""
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace", "mkdir", "unlink", "fdopen")}
    written = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def open_descriptor(path, flags, *more, **options):
        if flags & written:
            disk.does("open", path)
        return disk.opened(real["open"](path, flags, *more, **options), path)

    def write(descriptor, data):
        try:
            disk.does("write", descriptor)
        except OSError:
            real["write"](descriptor, data[: len(data) // 2])
            raise
        return real["write"](descriptor, data)

    def fsync(descriptor):
        disk.does("fsync", descriptor)
        return real["fsync"](descriptor)

    def fdopen(descriptor, mode="r", *more, **options):
        file = real["fdopen"](descriptor, mode, *more, **options)
        return _File(file, disk, disk.names.get(descriptor, "")) if set(mode) & set("wa+") else file

    def open_file(file, mode="r", *more, **options):
        if set(mode) & set("wax+") and not isinstance(file, int):
            disk.does("open", file)
        return real_open(file, mode, *more, **options)

    def on_path(operation):
        def does(path, *more, **options):
            disk.does(operation, path)
            return real[operation](path, *more, **options)

        return does

    real_open = builtins.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "write", write)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "fdopen", fdopen)
        for operation in ("replace", "mkdir", "unlink"):
            patch.setattr(os, operation, on_path(operation))
        patch.setattr(builtins, "open", open_file)
        patch.setattr(io, "open", open_file)
        yield disk
