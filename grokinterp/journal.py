"""Journal: the cells of an analysis under way, a line a checkpoint, so that a killed one can be gone on with."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from grokinterp.errors import RunError
from grokinterp.jobs import Cell


@dataclass(frozen=True)
class Entry:
    """What was computed of one checkpoint: cells by measure and key, of weights with that checksum."""

    step: int
    checksum: str
    cells: list[tuple[str, str, Cell]]


class Journal:
    """A file that entries are added to. What a kill cuts short is the last line, which does not count."""

    def __init__(self, path: Path):
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, entry: Entry) -> None:
        """Adds an entry; it is in the hands of the system when this returns, and outlives this process.

        Raises:
            RunError: the disk is full, or cannot be written to.
        """
        cells = [[measure, key, asdict(cell)] for measure, key, cell in entry.cells]
        line = json.dumps({"step": entry.step, "checksum": entry.checksum, "cells": cells}).encode()
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
                line = b"\n" + line  # ends a line that was cut
            self._file.write(line + b"\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror or error}; free or unlock that place") from None

    def entries(self) -> Iterator[Entry]:
        """What was added, oldest first; damaged lines are left out."""
        with contextlib.suppress(OSError), self.path.open("rb") as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    yield _parsed(line)

    def remove(self) -> None:
        """Removes the file: what it holds is kept elsewhere now."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _parsed(line: bytes) -> Entry:
    content = json.loads(line)
    cells = [(str(measure), str(key), _cell(**parts)) for measure, key, parts in content["cells"]]
    return Entry(int(content["step"]), str(content["checksum"]), cells)


def _cell(scalars: dict[str, float], arrays: dict[str, Iterable[float]], reasons: dict[str, str]) -> Cell:
    return Cell(
        {str(name): float(value) for name, value in scalars.items()},
        {str(name): [float(value) for value in values] for name, values in arrays.items()},
        {str(name): str(reason) for name, reason in reasons.items()},
    )
