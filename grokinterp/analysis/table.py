"""Cells: what every measure gave at every step, in columns, so that thousands of checkpoints take little memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grokinterp.analysis.measure_calls import Cell

Reasons = dict[str, dict[str, list[int]]]


@dataclass
class _Block:
    """The cells of one measure; what a row holds is told by `Cells`, and rows that are not held are NaN.

    Attributes:
        key: identifies what was computed.
        held: the rows whose cell is known.
        scalars: by column, a number a row.
        arrays: by column, numbers over frequencies a row; NaN beyond its length.
        lengths: by column of `arrays`, how many these are; 0 where there is no array.
        reasons: by column and reason, the rows.
    """

    key: str
    held: set[int] = field(default_factory=set)
    scalars: dict[str, Float[np.ndarray, " rows"]] = field(default_factory=dict)
    arrays: dict[str, Float[np.ndarray, "rows k"]] = field(default_factory=dict)
    lengths: dict[str, Int[np.ndarray, " rows"]] = field(default_factory=dict)
    reasons: dict[str, dict[str, set[int]]] = field(default_factory=dict)

    def put(self, row: int, room: int, cell: Cell) -> None:
        self.drop(row)
        self.held.add(row)
        for name, value in cell.scalars.items():
            if name not in self.scalars:
                self.scalars[name] = np.full(room, np.nan)
            self.scalars[name][row] = value
        for name, values in cell.arrays.items():
            self.widen(name, room, len(values))
            self.arrays[name][row, : len(values)] = values
            self.lengths[name][row] = len(values)
        for name, reason in cell.reasons.items():
            self.reasons.setdefault(name, {}).setdefault(reason, set()).add(row)

    def widen(self, name: str, room: int, width: int) -> None:
        """Makes room for arrays of that length in a column of them."""
        if name not in self.arrays:
            self.arrays[name], self.lengths[name] = np.full((room, width), np.nan), np.zeros(room, dtype=np.int64)
        more = width - self.arrays[name].shape[1]
        if more > 0:
            self.arrays[name] = np.pad(self.arrays[name], ((0, 0), (0, more)), constant_values=np.nan)

    def lengthen(self, more: int) -> None:
        """Makes room for more rows."""
        self.scalars = {n: np.pad(column, (0, more), constant_values=np.nan) for n, column in self.scalars.items()}
        self.arrays = {
            n: np.pad(column, ((0, more), (0, 0)), constant_values=np.nan) for n, column in self.arrays.items()
        }
        self.lengths = {n: np.pad(column, (0, more)) for n, column in self.lengths.items()}

    def drop(self, row: int) -> None:
        if row not in self.held:
            return
        self.held.remove(row)
        for column in (*self.scalars.values(), *self.arrays.values()):
            column[row] = np.nan
        for lengths in self.lengths.values():
            lengths[row] = 0
        for by_reason in self.reasons.values():
            for rows in by_reason.values():
                rows.discard(row)


class Cells:
    """The cells of a run by measure and step.

    A measure's cells are all of one key, and a step's of weights with one checksum: with another of either, the older
    ones are forgotten.

    Attributes:
        checksums: by step, SHA-256 of the weights that its cells were computed from.
    """

    def __init__(self) -> None:
        self.checksums: dict[int, str] = {}
        self._rows: dict[int, int] = {}
        self._room = 64
        self._blocks: dict[str, _Block] = {}

    @property
    def keys(self) -> dict[str, str]:
        """The key of each measure."""
        return {name: block.key for name, block in self._blocks.items()}

    def has(self, measure: str, key: str, step: int) -> bool:
        """Whether a cell is known."""
        block = self._blocks.get(measure)
        return block is not None and block.key == key and self._rows.get(step) in block.held

    def put(self, measure: str, key: str, step: int, checksum: str, cell: Cell) -> None:
        """Keeps a cell, and forgets those of another key or checksum."""
        if self.checksums.get(step, checksum) != checksum:
            self.forget(step)
        self.checksums[step] = checksum
        row = self._row(step)
        block = self._blocks.get(measure)
        if block is None or block.key != key:
            block = self._blocks[measure] = _Block(key)
        block.put(row, self._room, cell)

    def forget(self, step: int) -> None:
        """Drops all cells of a step."""
        if self.checksums.pop(step, None) is not None:
            for block in self._blocks.values():
                block.drop(self._rows[step])

    def array(self, measure: str, column: str, step: int) -> list[float]:
        """An array over frequencies; empty where there is none."""
        block, row = self._blocks[measure], self._rows[step]
        return block.arrays[column][row, : block.lengths[column][row]].tolist() if column in block.arrays else []

    def tables(self, measures: Iterable[str], steps: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The timeline (by step) and the table over frequencies (by step and k) of some measures and steps."""
        rows = [self._rows[step] for step in steps]
        blocks = [self._blocks[name] for name in measures if name in self._blocks]
        index = pd.Index(np.array(steps, dtype=np.int64), name="step")
        timeline = pd.DataFrame({n: column[rows] for block in blocks for n, column in block.scalars.items()}, index)
        arrays = {
            name: (column[rows], block.lengths[name][rows])
            for block in blocks
            for name, column in block.arrays.items()
            if block.lengths[name][rows].any()
        }
        lengths = (
            np.max([length for _, length in arrays.values()], axis=0) if arrays else np.zeros(len(rows), dtype=int)
        )
        width = int(lengths.max(initial=0))
        inside = np.arange(width) < lengths[:, None]  # [step, k]: whether any array reaches that far at that step
        long: dict[str, Any] = {"step": np.repeat(index.to_numpy(), lengths), "k": np.nonzero(inside)[1] + 1}
        for name, (values, _) in arrays.items():
            padded = np.pad(values, ((0, 0), (0, max(0, width - values.shape[1]))), constant_values=np.nan)
            long[name] = padded[:, :width][inside]
        return timeline, pd.DataFrame(long).set_index(["step", "k"])

    def reasons(self, measures: Iterable[str], steps: Iterable[int]) -> Reasons:
        """column -> reason -> steps, for what could not be computed."""
        at = {self._rows[step]: step for step in steps}
        found: Reasons = {}
        for name in measures:
            for column, by_reason in self._blocks[name].reasons.items():
                for reason, rows in by_reason.items():
                    inside = sorted(at[row] for row in rows if row in at)
                    if inside:
                        found.setdefault(column, {})[reason] = inside
        return found

    def index(self) -> dict[str, Any]:
        """By measure what `tables`, of everything, leave unsaid; `restore` reads it. `null` stands for all steps."""
        known = sorted(self.checksums)

        def said(rows: Iterable[int]) -> list[int] | None:
            inside = set(rows)
            steps = [step for step in known if self._rows[step] in inside]
            return None if len(steps) == len(known) else steps

        return {
            name: {
                "key": block.key,
                "steps": said(block.held),
                "scalars": list(block.scalars),
                "arrays": {n: said(np.flatnonzero(length).tolist()) for n, length in block.lengths.items()},
                "reasons": self.reasons([name], known),
            }
            for name, block in sorted(self._blocks.items())
        }

    def restore(
        self,
        index: Mapping[str, Any],
        checksums: Mapping[int, str],
        timeline: pd.DataFrame,
        frequencies: pd.DataFrame,
    ) -> None:
        """Takes over what `index`, `checksums` and `tables` of all measures and steps said.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they do not belong together.
        """
        steps = sorted(checksums)
        self.checksums |= checksums
        at = {step: self._row(step) for step in steps}
        lengths = frequencies.groupby(level="step").size().reindex(steps, fill_value=0).to_numpy(dtype=np.int64)
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        rows = np.array([at[step] for step in steps], dtype=np.int64)
        for name, entry in index.items():
            held = steps if entry["steps"] is None else entry["steps"]
            block = self._blocks[name] = _Block(str(entry["key"]), {at[step] for step in held})
            chosen = np.isin(steps, held)
            for column in entry["scalars"]:
                block.scalars[column] = np.full(self._room, np.nan)
                block.scalars[column][rows[chosen]] = timeline.loc[held, column].to_numpy(dtype=float)
            for column, with_array in entry["arrays"].items():
                chosen = np.isin(steps, steps if with_array is None else with_array)
                values = np.full(inside.shape, np.nan)
                values[inside] = frequencies[column].to_numpy(dtype=float)
                block.widen(column, self._room, inside.shape[1])
                block.arrays[column][rows[chosen]] = values[chosen]
                block.lengths[column][rows[chosen]] = lengths[chosen]
            for column, by_reason in entry["reasons"].items():
                block.reasons[column] = {reason: {at[step] for step in steps} for reason, steps in by_reason.items()}

    def _row(self, step: int) -> int:
        row = self._rows.setdefault(step, len(self._rows))
        if row >= self._room:
            more = self._room
            self._room += more
            for block in self._blocks.values():
                block.lengthen(more)
        return row
