"""Journal: the cells of an analysis under way, a line a checkpoint, so that a killed one can be gone on with."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.jobs import Cell
from grokinterp.runs.files import append, parse_json, read_lines, remove


@dataclass(frozen=True)
class Entry:
    """What was computed of one checkpoint: cells by measure and key, of weights with that checksum."""

    step: int
    checksum: str
    cells: list[tuple[str, str, Cell]]


class Journal:
    """A file that entries are added to. What a kill cuts short is a line that does not count."""

    def __init__(self, path: Path):
        self.path = path
        self._begun = False

    def append(self, entry: Entry) -> None:
        """Adds an entry; it is in the hands of the system when this returns, and outlives this process.

        Raises:
            RunError: the disk is full, or cannot be written to.
        """
        cells = [[measure, key, asdict(cell)] for measure, key, cell in entry.cells]
        line = json.dumps({"step": entry.step, "checksum": entry.checksum, "cells": cells}) + "\n"
        # What a kill has cut short before is ended first.
        append(self.path, line if self._begun else "\n" + line)
        self._begun = True

    def entries(self) -> Iterator[Entry]:
        """What was added, oldest first; damaged lines are left out."""
        with contextlib.suppress(RunError):  # there is none
            for line in read_lines(self.path):
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    yield _parsed(line)

    def remove(self) -> None:
        """Removes the file: what it holds is kept elsewhere now.

        Raises:
            RunError: it cannot be removed.
        """
        remove(self.path)
        self._begun = False


def _parsed(line: bytes) -> Entry:
    content = parse_json(line)
    cells = [(str(measure), str(key), _cell(**parts)) for measure, key, parts in content["cells"]]
    return Entry(int(content["step"]), str(content["checksum"]), cells)


def _cell(scalars: dict[str, float], arrays: dict[str, Iterable[float]], reasons: dict[str, str]) -> Cell:
    return Cell(
        {str(name): float(value) for name, value in scalars.items()},
        {str(name): [float(value) for value in values] for name, values in arrays.items()},
        {str(name): str(reason) for name, reason in reasons.items()},
    )
