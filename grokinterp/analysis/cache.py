"""What `analyze` has already computed for a run: tables that a changed rule or weight never serves stale, nor a kill.

Cells go to a journal as they come; at the end tables and their index replace the older ones, and the journal goes.
"""

import contextlib
import hashlib
import inspect
import io
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import grokinterp
from grokinterp.analysis.measure_calls import Cell
from grokinterp.analysis.table import Cells
from grokinterp.errors import RunError
from grokinterp.measures import Measure
from grokinterp.runs.files import (
    append,
    cannot,
    exists,
    make_subfolder,
    parse_json,
    read_bytes,
    read_lines,
    remove,
    write_atomically,
)
from grokinterp.runs.locks import hold

_VERSION = 1
log = logging.getLogger(__name__)

_SOURCES = ("measures", "models", "tasks", "config", "runs/run.py", "analysis/measure_calls.py")
_TABLES = ("timeline.parquet", "frequencies.parquet")
_LARGEST = 1 << 31  # bytes of a table
_ATTEMPTS = 5  # to read what another process is about to replace


@cache
def _package_digest() -> str:
    """Changes with any line that could change a number."""
    root = Path(grokinterp.__file__).parent
    digest = hashlib.sha256()
    for source in _SOURCES:
        for file in sorted((root / source).glob("*.py")) or [root / source]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def measure_key(measure: Measure, frequencies: tuple[int, ...]) -> str:
    """Identifies what a measure computes: its name, version, source, options, and the reference it is given."""
    function = inspect.unwrap(measure.function)
    own = ""
    if not function.__module__.startswith("grokinterp."):
        own = _source(function)
    options = [(column.name, sorted(column.options.items())) for column in measure.columns]
    parts = (measure.name, measure.version, own, options, frequencies if measure.uses_reference else ())
    return hashlib.sha256((repr(parts) + _package_digest()).encode()).hexdigest()


def _source(function: Any) -> str:
    """A user's function with what it may call or read: the rest of its module, defaults, what it closes over."""
    try:
        text = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            text = repr(function.__code__.co_code) if hasattr(function, "__code__") else repr(function)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    around = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None), cells)
    return text + function.__qualname__ + repr(around)


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
                    yield _parsed_entry(line)

    def remove(self) -> None:
        """Removes the file: what it holds is kept elsewhere now.

        Raises:
            RunError: it cannot be removed.
        """
        remove(self.path)
        self._begun = False


def _parsed_entry(line: bytes) -> Entry:
    content = parse_json(line)
    cells = [(str(measure), str(key), _restored_cell(**parts)) for measure, key, parts in content["cells"]]
    return Entry(int(content["step"]), str(content["checksum"]), cells)


def _restored_cell(scalars: dict[str, float], arrays: dict[str, Iterable[float]], reasons: dict[str, str]) -> Cell:
    return Cell(
        {str(name): float(value) for name, value in scalars.items()},
        {str(name): [float(value) for value in values] for name, values in arrays.items()},
        {str(name): str(reason) for name, reason in reasons.items()},
    )


class AnalysisCache:
    """What a run's `analysis/` keeps, read when it is entered; and, of what is put there meanwhile, kept at once.

    One analysis at a time keeps what it computes: it holds the folder until it is left. Another one computes for
    itself, since to wait for hours for the end of other measures would be worse; it reads what is kept as it begins.

    Attributes:
        cells: what is known.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells = Cells()
        self._journal = Journal(folder / "unfinished.jsonl")
        self._holding = contextlib.ExitStack()
        self._refused: RunError | None = None
        self._said = False
        self._changed = False
        self._summary: Any = None

    def __enter__(self) -> "AnalysisCache":
        try:
            make_subfolder(self.folder.parent, self.folder.name)
            self._holding.enter_context(hold(self.folder))
        except RunError as error:  # another analysis is at work, or the disk is read-only: the run can still be read
            self._refused = error
        try:
            self._read()
        except BaseException:
            self._holding.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._holding.close()

    def put(self, step: int, checksum: str, cells: list[tuple[str, str, Cell]]) -> None:
        """Keeps what was computed of a checkpoint: cells by measure and key, of weights with that checksum."""
        for measure, key, cell in cells:
            self.cells.put(measure, key, step, checksum, cell)
        self._changed = True
        if self._may_keep():
            try:
                self._journal.append(Entry(step, checksum, cells))
            except RunError as error:
                self._refused = error
                self._may_keep()

    def save(self, summary: dict[str, Any]) -> None:
        """Writes the tables and `analysis.json`, where anything in them is new."""
        summary = json.loads(json.dumps(summary))  # lists for tuples, as it is read back
        if (not self._changed and summary == self._summary) or not self._may_keep():
            return
        try:
            self._write(summary)
        except RunError as error:
            self._refused = error
            self._may_keep()

    def _may_keep(self) -> bool:
        """Whether this analysis is the one that keeps what it computes; if not, that is said once."""
        if self._refused is not None and not self._said:
            self._said = True
            log.warning("the analysis was not cached: %s", self._refused)
        return self._refused is None

    def _write(self, summary: Any) -> None:
        for file in _TABLES:  # what a kill left the last time
            self._settle(file, self._digests().get(file))
        timeline, frequencies = self.cells.tables(sorted(self.cells.keys), sorted(self.cells.checksums))
        tables = {file: _parquet(table) for file, table in zip(_TABLES, (timeline, frequencies), strict=True)}
        content = {
            "format_version": _VERSION,
            "summary": summary,
            # Tables are renamed after the index that describes them is written: by these a reader knows them.
            "tables": {file: _digest(data) for file, data in tables.items()},
            "measures": self.cells.index(),
            "checksums": {str(step): checksum for step, checksum in sorted(self.cells.checksums.items())},
        }
        for file, data in tables.items():
            write_atomically(self.folder / _pending(file), data)
        # One line an entry: a list of five thousand steps is one that nobody reads.
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(part)}" for name, part in content.items())
        write_atomically(self.folder / "analysis.json", f"{{\n{lines}\n}}\n")
        for file, digest in content["tables"].items():
            self._settle(file, digest)
        self._journal.remove()
        self._changed, self._summary = False, summary

    def _settle(self, file: str, digest: str | None) -> None:
        """Gives a table that was written beside the old one its name, if the index means it; else it goes."""
        pending = self.folder / _pending(file)
        if not exists(pending):
            return
        if _digest(self._bytes(pending.name)) != digest:
            remove(pending)
            return
        try:
            pending.replace(self.folder / file)
        except OSError as error:
            raise cannot("write", self.folder / file, error) from None

    def _digests(self) -> dict[str, Any]:
        try:
            return dict(parse_json(self._bytes("analysis.json"))["tables"])
        except (ValueError, LookupError, TypeError):
            return {}

    def _read(self) -> None:
        """Takes over tables and journal; where another process saves meanwhile, once more."""
        for _ in range(_ATTEMPTS):
            before = self._bytes("analysis.json")
            self.cells, self._summary = Cells(), None
            try:
                if before:
                    self._restore(before)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                log.debug("%s is damaged or foreign (%s): computed anew", self.folder, error)
                self.cells, self._summary = Cells(), None
            for entry in self._journal.entries():
                for measure, key, cell in entry.cells:
                    self.cells.put(measure, key, entry.step, entry.checksum, cell)
                self._changed = True
            if self._bytes("analysis.json") == before:
                return

    def _restore(self, index: bytes) -> None:
        content = parse_json(index)
        if content.get("format_version") != _VERSION:
            raise ValueError("it is of another format")
        tables = [self._table(file, content["tables"][file]) for file in _TABLES]
        checksums = {int(step): str(value) for step, value in content["checksums"].items()}
        self.cells.restore(content["measures"], checksums, *tables)
        self._summary = content["summary"]

    def _table(self, file: str, digest: str) -> pd.DataFrame:
        for data in map(self._bytes, (file, _pending(file))):
            if _digest(data) == digest:
                return pd.read_parquet(io.BytesIO(data))
        raise ValueError(f"{file} is of another analysis")

    def _bytes(self, file: str) -> bytes:
        """What a file here holds; nothing where it cannot be read."""
        try:
            return read_bytes(self.folder / file, most=_LARGEST)
        except RunError:
            return b""


def _pending(file: str) -> str:
    return f".{file}.next"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()
