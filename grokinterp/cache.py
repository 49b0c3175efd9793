"""What `analyze` has already computed for a run: parquet tables that a changed rule or weight never serves stale."""

import hashlib
import inspect
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

import grokinterp
from grokinterp.errors import RunError
from grokinterp.files import exists, make_subfolder, parse_json, read_bytes, write_atomically
from grokinterp.jobs import Cell
from grokinterp.measures import Measure

_VERSION = 1
_TABLES = ("timeline.parquet", "frequencies.parquet")
_LARGEST = 1 << 31  # bytes of a table
_SOURCES = ("measures", "models", "tasks", "fourier.py", "run.py", "jobs.py")


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


class AnalysisCache:
    """The cells of a run, by measure and step; read from `analysis/`, and written back there.

    A cell is valid as long as its measure's key and the checksum of its step's weights are what they were.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.keys: dict[str, str] = {}
        self.checksums: dict[int, str] = {}
        self.cells: dict[tuple[str, int], Cell] = {}
        try:
            self._load()
        # Damaged or foreign: computed anew. RecursionError: pandas reads JSON that lies in a table.
        except (RunError, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self.keys, self.checksums, self.cells = {}, {}, {}

    def get(self, measure: str, key: str, step: int, checksum: str) -> Cell | None:
        if self.keys.get(measure) != key or self.checksums.get(step) != checksum:
            return None
        return self.cells.get((measure, step))

    def put(self, measure: str, key: str, step: int, checksum: str, cell: Cell) -> None:
        if self.keys.get(measure) != key:
            self.cells = {where: kept for where, kept in self.cells.items() if where[0] != measure}
            self.keys[measure] = key
        if self.checksums.get(step) != checksum:
            self.cells = {where: kept for where, kept in self.cells.items() if where[1] != step}
            self.checksums[step] = checksum
        self.cells[measure, step] = cell

    def tables(self, measures: list[str], steps: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The timeline (by step) and the table over frequencies (by step and k) of some measures and steps."""
        rows, long = [], []
        for step in steps:
            row: dict[str, float] = {"step": step}
            arrays: dict[str, list[float]] = {}
            for measure in measures:
                cell = self.cells.get((measure, step), Cell())
                row |= cell.scalars
                arrays |= cell.arrays
            rows.append(row)
            if arrays:
                length = max(len(values) for values in arrays.values())
                block = pd.DataFrame({name: pd.Series(values, dtype=float) for name, values in arrays.items()})
                block.insert(0, "k", range(1, length + 1))
                block.insert(0, "step", step)
                long.append(block)
        timeline = pd.DataFrame(rows, columns=None if rows else ["step"]).set_index("step")
        frequencies = pd.concat(long, ignore_index=True) if long else pd.DataFrame(columns=["step", "k"])
        return timeline, frequencies.set_index(["step", "k"])

    def save(self, summary: dict[str, Any]) -> None:
        """Writes the tables and `analysis.json`.

        Raises:
            RunError: the run's folder cannot be written to.
        """
        make_subfolder(self.folder.parent, self.folder.name)
        measures, steps = sorted(self.keys), sorted(self.checksums)
        timeline, frequencies = self.tables(measures, steps)
        index: dict[str, Any] = {}
        for name in measures:
            mine = {step: cell for (measure, step), cell in self.cells.items() if measure == name}
            index[name] = {
                "key": self.keys[name],
                "steps": sorted(mine),
                "scalars": list(dict.fromkeys(column for cell in mine.values() for column in cell.scalars)),
                "arrays": {
                    column: [step for step, cell in mine.items() if column in cell.arrays]
                    for column in dict.fromkeys(column for cell in mine.values() for column in cell.arrays)
                },
                "reasons": _by_reason(mine),
            }
        tables = {"timeline.parquet": _parquet(timeline), "frequencies.parquet": _parquet(frequencies)}
        for file, data in tables.items():
            write_atomically(self.folder / file, data)
        content = {
            "format_version": _VERSION,
            "summary": summary,
            # An interrupted save leaves tables and index of different analyses; these tell.
            "tables": {file: hashlib.sha256(data).hexdigest() for file, data in tables.items()},
            "measures": index,
            "checksums": {str(step): checksum for step, checksum in self.checksums.items()},
        }
        write_atomically(self.folder / "analysis.json", json.dumps(content, indent=1) + "\n")

    def _load(self) -> None:
        file = self.folder / "analysis.json"
        if not exists(file):
            return
        content = parse_json(read_bytes(file, most=_LARGEST))
        if content.get("format_version") != _VERSION:
            raise ValueError("it is of another format")
        tables = {name: read_bytes(self.folder / name, most=_LARGEST) for name in _TABLES}
        for name, data in tables.items():
            if hashlib.sha256(data).hexdigest() != content["tables"][name]:
                raise ValueError(f"{name} is of another analysis")
        timeline, frequencies = (pd.read_parquet(io.BytesIO(data)) for data in tables.values())
        rows: dict[Any, dict[Any, float]] = timeline.to_dict("index")  # pyright: ignore[reportAssignmentType]
        blocks = {step: block for step, block in frequencies.groupby(level="step")}  # noqa: C416
        checksums = {int(step): str(value) for step, value in content["checksums"].items()}
        for name, entry in content["measures"].items():
            reasons = {
                (step, column): reason
                for column, by_reason in entry["reasons"].items()
                for reason, steps in by_reason.items()
                for step in steps
            }
            for step in entry["steps"]:
                columns = [column for column, steps in entry["arrays"].items() if step in steps]
                self.cells[name, step] = Cell(
                    {column: rows[step][column] for column in entry["scalars"]},
                    {column: blocks[step][column].tolist() for column in columns},
                    {column: reason for (where, column), reason in reasons.items() if where == step},
                )
            self.keys[name] = str(entry["key"])
        self.checksums = checksums


def _by_reason(cells: dict[int, Cell]) -> dict[str, dict[str, list[int]]]:
    """column -> reason -> steps."""
    found: dict[str, dict[str, list[int]]] = {}
    for step, cell in sorted(cells.items()):
        for column, reason in cell.reasons.items():
            found.setdefault(column, {}).setdefault(reason, []).append(step)
    return found


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()
