"""ValueTable: the values of every measure at every step, in columns, so that thousands of checkpoints fit in memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from grokinterp.analysis.measure_calls import Value

Reasons = dict[str, dict[str, list[int]]]


@dataclass
class _MeasureColumns:
    """The values of one measure in columns. `ValueTable` maps steps to rows; rows without a value are NaN.

    Attributes:
        key: identifies what was computed.
        rows: the rows that have a value.
        scalars: per column, a number per row.
        arrays: per column, numbers over frequencies per row, padded with NaN.
        lengths: per column of `arrays`, the number of frequencies; 0 where there is no array.
        reasons: per column and reason, the rows.
    """

    key: str
    rows: set[int] = field(default_factory=set)
    scalars: dict[str, Float[np.ndarray, " rows"]] = field(default_factory=dict)
    arrays: dict[str, Float[np.ndarray, "rows k"]] = field(default_factory=dict)
    lengths: dict[str, Int[np.ndarray, " rows"]] = field(default_factory=dict)
    reasons: dict[str, dict[str, set[int]]] = field(default_factory=dict)

    def put(self, row: int, capacity: int, value: Value) -> None:
        self.drop(row)
        self.rows.add(row)
        for name, scalar in value.scalars.items():
            if name not in self.scalars:
                self.scalars[name] = np.full(capacity, np.nan)
            self.scalars[name][row] = scalar
        for name, array in value.arrays.items():
            self.widen(name, capacity, len(array))
            self.arrays[name][row, : len(array)] = array
            self.lengths[name][row] = len(array)
        for name, reason in value.reasons.items():
            self.reasons.setdefault(name, {}).setdefault(reason, set()).add(row)

    def widen(self, name: str, capacity: int, width: int) -> None:
        """Makes room for arrays of that length in a column."""
        if name not in self.arrays:
            self.arrays[name] = np.full((capacity, width), np.nan)
            self.lengths[name] = np.zeros(capacity, dtype=np.int64)
        extra = width - self.arrays[name].shape[1]
        if extra > 0:
            self.arrays[name] = np.pad(self.arrays[name], ((0, 0), (0, extra)), constant_values=np.nan)

    def lengthen(self, extra: int) -> None:
        """Makes room for more rows."""
        self.scalars = {n: np.pad(column, (0, extra), constant_values=np.nan) for n, column in self.scalars.items()}
        below = ((0, extra), (0, 0))
        self.arrays = {n: np.pad(column, below, constant_values=np.nan) for n, column in self.arrays.items()}
        self.lengths = {n: np.pad(column, (0, extra)) for n, column in self.lengths.items()}

    def drop(self, row: int) -> None:
        if row not in self.rows:
            return
        self.rows.remove(row)
        for column in (*self.scalars.values(), *self.arrays.values()):
            column[row] = np.nan
        for lengths in self.lengths.values():
            lengths[row] = 0
        for by_reason in self.reasons.values():
            for rows in by_reason.values():
                rows.discard(row)


class ValueTable:
    """The values of a run by measure and step.

    All values of a measure have the same key, and all values of a step were computed from weights with the same
    checksum. A value with another key or checksum replaces the older ones.

    Attributes:
        checksums: by step, SHA-256 of the weights from which its values were computed.
    """

    def __init__(self) -> None:
        self.checksums: dict[int, str] = {}
        self._rows: dict[int, int] = {}
        self._capacity = 64
        self._measures: dict[str, _MeasureColumns] = {}

    @property
    def keys(self) -> dict[str, str]:
        """The key of each measure."""
        return {name: columns.key for name, columns in self._measures.items()}

    def has(self, measure: str, key: str, step: int) -> bool:
        """Whether the table holds a value."""
        columns = self._measures.get(measure)
        return columns is not None and columns.key == key and self._rows.get(step) in columns.rows

    def put(self, measure: str, key: str, step: int, checksum: str, value: Value) -> None:
        """Stores a value and drops those with another key or checksum."""
        if self.checksums.get(step, checksum) != checksum:
            self.forget(step)
        self.checksums[step] = checksum
        row = self._row(step)
        columns = self._measures.get(measure)
        if columns is None or columns.key != key:
            columns = self._measures[measure] = _MeasureColumns(key)
        columns.put(row, self._capacity, value)

    def forget(self, step: int) -> None:
        """Drops all values of a step."""
        if self.checksums.pop(step, None) is not None:
            for columns in self._measures.values():
                columns.drop(self._rows[step])

    def array(self, measure: str, column: str, step: int) -> list[float]:
        """An array over frequencies; empty if there is none."""
        columns, row = self._measures[measure], self._rows[step]
        return columns.arrays[column][row, : columns.lengths[column][row]].tolist() if column in columns.arrays else []

    def key_frequencies(self, step: int) -> set[int]:
        """The key frequencies that `key_frequencies_call` found at a step."""
        return {k for k, is_key in enumerate(self.array("key_frequencies", "is_key", step), start=1) if is_key}

    def tables(self, measures: Iterable[str], steps: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The timeline (by step) and the table over frequencies (by step and k) of some measures and steps."""
        rows = [self._rows[step] for step in steps]
        selected = [self._measures[name] for name in measures if name in self._measures]
        index = pd.Index(np.array(steps, dtype=np.int64), name="step")
        timeline = pd.DataFrame({n: column[rows] for m in selected for n, column in m.scalars.items()}, index)
        arrays = {
            name: (column[rows], columns.lengths[name][rows])
            for columns in selected
            for name, column in columns.arrays.items()
            if columns.lengths[name][rows].any()
        }
        no_array = np.zeros(len(rows), dtype=int)
        lengths = np.max([no_array, *(length for _, length in arrays.values())], axis=0)
        width = int(lengths.max(initial=0))
        inside = np.arange(width) < lengths[:, None]  # [step, k]: whether any array reaches that far at that step
        long: dict[str, Any] = {"step": np.repeat(index.to_numpy(), lengths), "k": np.nonzero(inside)[1] + 1}
        for name, (values, _) in arrays.items():
            padded = np.pad(values, ((0, 0), (0, max(0, width - values.shape[1]))), constant_values=np.nan)
            long[name] = padded[:, :width][inside]
        return timeline, pd.DataFrame(long).set_index(["step", "k"])

    def reasons(self, measures: Iterable[str], steps: Iterable[int]) -> Reasons:
        """column -> reason -> steps, for what could not be computed."""
        step_of = {self._rows[step]: step for step in steps}
        reasons: Reasons = {}
        for name in measures:
            for column, by_reason in self._measures[name].reasons.items():
                for reason, rows in by_reason.items():
                    inside = sorted(step_of[row] for row in rows if row in step_of)
                    if inside:
                        reasons.setdefault(column, {})[reason] = inside
        return reasons

    def index(self) -> dict[str, Any]:
        """By measure, what `tables` of everything does not tell; `restore` reads it. `null` stands for all steps."""
        all_steps = sorted(self.checksums)

        def steps_in(rows: Iterable[int]) -> list[int] | None:
            inside = set(rows)
            steps = [step for step in all_steps if self._rows[step] in inside]
            return None if len(steps) == len(all_steps) else steps

        return {
            name: {
                "key": columns.key,
                "steps": steps_in(columns.rows),
                "scalars": list(columns.scalars),
                "arrays": {n: steps_in(np.flatnonzero(length).tolist()) for n, length in columns.lengths.items()},
                "reasons": self.reasons([name], all_steps),
            }
            for name, columns in sorted(self._measures.items())
        }

    def restore(
        self, index: Mapping[str, Any], checksums: Mapping[int, str], timeline: pd.DataFrame, frequencies: pd.DataFrame
    ) -> None:
        """Restores the values from the `index`, `checksums` and `tables` of all measures and steps.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: they do not belong together.
        """
        steps = sorted(checksums)
        self.checksums |= checksums
        row_of = {step: self._row(step) for step in steps}
        lengths = frequencies.groupby(level="step").size().reindex(steps, fill_value=0).to_numpy(dtype=np.int64)
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        rows = np.array([row_of[step] for step in steps], dtype=np.int64)
        for name, entry in index.items():
            with_value = steps if entry["steps"] is None else entry["steps"]
            columns = _MeasureColumns(str(entry["key"]), {row_of[step] for step in with_value})
            self._measures[name] = columns
            selected = np.isin(steps, with_value)
            for column in entry["scalars"]:
                columns.scalars[column] = np.full(self._capacity, np.nan)
                columns.scalars[column][rows[selected]] = timeline.loc[with_value, column].to_numpy(dtype=float)
            for column, with_array in entry["arrays"].items():
                selected = np.isin(steps, steps if with_array is None else with_array)
                values = np.full(inside.shape, np.nan)
                values[inside] = frequencies[column].to_numpy(dtype=float)
                columns.widen(column, self._capacity, inside.shape[1])
                columns.arrays[column][rows[selected]] = values[selected]
                columns.lengths[column][rows[selected]] = lengths[selected]
            for column, by_reason in entry["reasons"].items():
                columns.reasons[column] = {reason: {row_of[s] for s in steps} for reason, steps in by_reason.items()}

    def _row(self, step: int) -> int:
        row = self._rows.setdefault(step, len(self._rows))
        if row >= self._capacity:
            extra = self._capacity
            self._capacity += extra
            for columns in self._measures.values():
                columns.lengthen(extra)
        return row
