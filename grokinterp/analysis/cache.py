"""The cache of `analyze` in a run's `analysis/` folder, which never serves stale values and survives interruptions.

Values are appended to a journal as they are computed. At the end, the tables and their index replace the older ones,
and the journal is removed.
"""

import contextlib
import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import grokinterp
from grokinterp.analysis.measure_calls import Value
from grokinterp.analysis.table import ValueTable
from grokinterp.errors import RunError, logger
from grokinterp.measures import Measure
from grokinterp.runs.checksums import sha256, with_checksum, without_checksum
from grokinterp.runs.files import (
    accessing,
    append,
    exists,
    make_subfolder,
    parse_json,
    read_bytes,
    read_lines,
    remove,
    remove_leftovers,
    write_atomically,
)
from grokinterp.runs.locks import hold
from grokinterp.runs.run import Run
from grokinterp.runs.tables import MAX_NUMBERS, MAX_TABLE_BYTES, read_table

_VERSION = 1
log = logger(__name__)

_SOURCES = ("measures", "models", "tasks", "config", "runs", "analysis/measure_calls.py", "display.py", "errors.py")
_TABLES = ("timeline.parquet", "frequencies.parquet")
# Largest sizes of analysis.json and of a table: a constant, and bytes per checkpoint.
_MAX_INDEX_BYTES, _MAX_TABLE_BYTES = (4 << 20, 2000), (1 << 20, 1 << 16)
_MAX_ENTRIES = 1000, 20  # of the journal: at least, and per checkpoint
_MAX_FREQUENCIES = 1 << 10  # per step: half of the largest modulus, and more
# Regular expression of the names that are written in the folder.
_FILES = r"(?:analysis|summary)\.json|(?:timeline|frequencies)\.parquet|\.(?:timeline|frequencies)\.parquet\.next|" + (
    r"(?:report|comparison)\.html"
)
_ATTEMPTS = 5  # to read files that another process is replacing

StepValues = list[tuple[str, str, Value]]  # measure, its key, its value


@cache
def _package_digest() -> str:
    """A digest that changes with any source line that could change a number."""
    root = Path(grokinterp.__file__).parent
    digest = hashlib.sha256()
    for source in _SOURCES:
        for file in sorted((root / source).glob("*.py")) or [root / source]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def run_digest(run: Run) -> str:
    """A digest that changes with the task, its split or the model of a run: values depend on them, too.

    Of a user's module, the architecture and the source of `forward` count.
    """
    mask = run.classification.train_mask
    split = b"" if mask is None else mask.numpy().tobytes()
    own = run.own_model
    model = run.config.model if own is None else (repr(own), _source(type(own.module).forward))
    return sha256(repr((run.config.task, model)).encode() + split)


def measure_key(measure: Measure, frequencies: tuple[int, ...], run: str) -> str:
    """Identifies what a measure computes: its name, version, source and options, the key frequencies, and the run.

    Args:
        measure: the measure.
        frequencies: the key frequencies.
        run: the `run_digest`.
    """
    function = inspect.unwrap(measure.function)
    source = "" if function.__module__.startswith("grokinterp.") else _source(function)
    options = [(column.name, sorted(column.options.items())) for column in measure.columns]
    parts = (measure.name, measure.version, source, options, frequencies if measure.uses_reference else (), run)
    return sha256((repr(parts) + _package_digest()).encode())


def _source(function: Any) -> str:
    """A user's function with whatever it may call or read: the rest of its module, its defaults and its closure."""
    try:
        text = inspect.getsource(inspect.getmodule(function) or function)
    except (OSError, TypeError):
        try:
            text = inspect.getsource(function)
        except (OSError, TypeError):
            text = repr(function.__code__.co_code) if hasattr(function, "__code__") else repr(function)
    closure = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    environment = (getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None), closure)
    return text + function.__qualname__ + repr(environment)


class Journal:
    """A file of computed values, one line per checkpoint. A line cut short by an interruption is ignored."""

    def __init__(self, path: Path):
        self.path = path
        self._begun = False

    def append(self, step: int, checksum: str, values: StepValues) -> None:
        """Appends the values of a checkpoint. They are passed to the operating system and outlive this process.

        Raises:
            RunError: the disk is full or not writable.
        """
        cells = [[measure, key, asdict(value)] for measure, key, value in values]
        line = json.dumps(with_checksum({"step": step, "weights": checksum, "cells": cells})) + "\n"
        # The first line starts with a newline: it ends a line that an earlier interruption cut short.
        append(self.path, line if self._begun else "\n" + line)
        self._begun = True

    def entries(self) -> Iterator[tuple[int, str, StepValues]]:
        """The step, the checksum of its weights and its values, oldest first; damaged lines are skipped."""
        with contextlib.suppress(RunError):  # there is no journal
            for line in read_lines(self.path):
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    yield _parsed_entry(line)

    def remove(self) -> None:
        """Removes the file once its values are in the tables.

        Raises:
            RunError: it cannot be removed.
        """
        remove(self.path)
        self._begun = False


def _parsed_entry(line: bytes) -> tuple[int, str, StepValues]:
    content = without_checksum(parse_json(line))
    values = [(str(measure), str(key), _parsed_value(**parts)) for measure, key, parts in content["cells"]]
    return int(content["step"]), str(content["weights"]), values


def _parsed_value(scalars: dict[str, float], arrays: dict[str, Iterable[float]], reasons: dict[str, str]) -> Value:
    return Value(
        {str(name): float(scalar) for name, scalar in scalars.items()},
        {str(name): [float(x) for x in array] for name, array in arrays.items()},
        {str(name): str(reason) for name, reason in reasons.items()},
    )


class AnalysisCache:
    """Context manager for a run's `analysis/` folder: loads cached values on entry and saves new ones as they arrive.

    The first analysis locks the folder and writes to it until it exits. A second one does not wait, since the first
    may take hours: it reads what the folder holds when it starts, and caches nothing.

    Attributes:
        values: the cached and the new values.
    """

    def __init__(self, folder: Path, steps: Collection[int]):
        """Prepares the cache; reads and writes nothing yet.

        Args:
            folder: `analysis/` of the run.
            steps: the run's checkpoints; values at other steps are ignored.
        """
        self.folder = folder
        self.steps = frozenset(steps)
        self.values = ValueTable()
        self._journal = Journal(folder / "unfinished.jsonl")
        self._lock = contextlib.ExitStack()
        self._failure: RunError | None = None
        self._warned = False
        self._changed = False
        self._summary: Any = None

    def __enter__(self) -> "AnalysisCache":
        try:
            make_subfolder(self.folder.parent, self.folder.name)
            self._lock.enter_context(hold(self.folder))
            remove_leftovers(self.folder, _FILES)
        except RunError as error:  # another analysis holds the lock, or the disk is read-only
            self._failure = error
        try:
            self._read()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def put(self, step: int, checksum: str, values: StepValues) -> None:
        """Caches the values of a checkpoint whose weights have that checksum."""
        for measure, key, value in values:
            self.values.put(measure, key, step, checksum, value)
        self._changed = True
        self._write_or_warn(lambda: self._journal.append(step, checksum, values))

    def save(self, summary: dict[str, Any]) -> None:
        """Writes the tables and `analysis.json` if anything in them is new."""
        summary = json.loads(json.dumps(summary))  # tuples become lists, as when it is read back
        if self._changed or summary != self._summary:
            self._write_or_warn(lambda: self._write(summary))

    def _write_or_warn(self, write: Callable[[], None]) -> None:
        """Calls `write`; after a failure, of this call or before, logs one warning and writes nothing any more."""
        if self._failure is None:
            try:
                write()
            except RunError as error:
                self._failure = error
        if self._failure is not None and not self._warned:
            self._warned = True
            log.warning("the analysis was not cached: %s", self._failure)

    def _write(self, summary: Any) -> None:
        for file in _TABLES:  # left over from an interrupted save
            self._settle(file, self._digests().get(file))
        timeline, frequencies = self.values.tables(sorted(self.values.keys), sorted(self.values.checksums))
        tables = {file: table.to_parquet() for file, table in zip(_TABLES, (timeline, frequencies), strict=True)}
        content = {
            "format_version": _VERSION,
            "summary": summary,
            # The tables get their final names after this index is written; a reader matches them by these digests.
            "tables": {file: sha256(data) for file, data in tables.items()},
            "measures": self.values.index(),
            "checksums": {str(step): checksum for step, checksum in sorted(self.values.checksums.items())},
        }
        for file, data in tables.items():
            write_atomically(self.folder / _pending(file), data)
        # One line per entry: indented lists of thousands of steps would be unreadable.
        entries = with_checksum(content).items()
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(part)}" for name, part in entries)
        write_atomically(self.folder / "analysis.json", f"{{\n{lines}\n}}\n")
        for file, checksum in content["tables"].items():
            self._settle(file, checksum)
        self._journal.remove()
        self._changed, self._summary = False, summary

    def _settle(self, file: str, checksum: str | None) -> None:
        """Renames a pending table to its final name if the index refers to it; removes it otherwise."""
        pending = self.folder / _pending(file)
        if not exists(pending):
            return
        if sha256(self._bytes(pending.name)) != checksum:
            remove(pending)
            return
        with accessing("write", self.folder / file):
            pending.replace(self.folder / file)

    def _digests(self) -> dict[str, Any]:
        try:
            return dict(_parse_index(self._bytes("analysis.json"))["tables"])
        except (ValueError, LookupError, TypeError):
            return {}

    def _read(self) -> None:
        """Loads the tables and the journal; starts again if another process saves in the meantime."""
        for _ in range(_ATTEMPTS):
            before = self._bytes("analysis.json")
            self.values, self._summary = ValueTable(), None
            try:
                if before:
                    self._restore(before)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                log.debug("%s is damaged or of another version (%s): recomputing", self.folder, error)
                self.values, self._summary = ValueTable(), None
            for step, checksum, values in self._journaled():
                for measure, key, value in values:
                    self.values.put(measure, key, step, checksum, value)
                self._changed = True
            if self._bytes("analysis.json") == before:
                return

    def _journaled(self) -> Iterator[tuple[int, str, StepValues]]:
        """The entries of the journal for checkpoints of this run, as long as their columns fit into memory."""
        widths: dict[tuple[str, str], int] = {}
        # Each interrupted analysis adds at most one entry per checkpoint; what is beyond the limit is computed again.
        limit = _MAX_ENTRIES[0] + _MAX_ENTRIES[1] * len(self.steps)
        for step, checksum, values in itertools.islice(self._journal.entries(), limit):
            if step not in self.steps:
                continue
            for measure, _, value in values:
                widths |= {(measure, name): 1 for name in value.scalars}
                widths |= {
                    (measure, name): max(len(a), widths.get((measure, name), 0)) for name, a in value.arrays.items()
                }
            if sum(widths.values()) * len(self.steps) > MAX_NUMBERS:
                log.warning("%s is damaged (more columns than any run has): it is not used", self._journal.path)
                return
            yield step, checksum, values

    def _restore(self, index: bytes) -> None:
        content = _parse_index(index)
        if content.get("format_version") != _VERSION:
            raise ValueError("another format version")
        checksums = {int(step): str(value) for step, value in content["checksums"].items()}
        rows = len(checksums)  # of deleted checkpoints, too
        if rows > 2 * len(self.steps) + 1000:
            raise ValueError(f"it has {rows:,} checkpoints, and the run has {len(self.steps):,}")
        timeline, frequencies = _TABLES
        tables = (
            self._table(timeline, content["tables"][timeline], rows),
            self._table(frequencies, content["tables"][frequencies], rows * _MAX_FREQUENCIES),
        )
        self.values.restore(content["measures"], checksums, *tables)
        self._summary = content["summary"]

    def _table(self, file: str, expected: str, rows: int) -> pd.DataFrame:
        for data in map(self._bytes, (file, _pending(file))):
            if sha256(data) == expected:
                return read_table(data, rows).to_pandas()
        raise ValueError(f"{file} does not belong to this analysis.json")

    def _bytes(self, file: str) -> bytes:
        """The content of a file in the folder; empty if it cannot be read."""
        try:
            constant, per_step = _MAX_INDEX_BYTES if file.endswith(".json") else _MAX_TABLE_BYTES
            return read_bytes(self.folder / file, limit=min(constant + per_step * len(self.steps), MAX_TABLE_BYTES))
        except RunError:
            return b""


def _parse_index(index: bytes) -> dict[str, Any]:
    return without_checksum(parse_json(index))


def _pending(file: str) -> str:
    return f".{file}.next"
