"""ValueTable in columns are the cells that were put, whatever is put, forgotten, written down and taken over again."""

import json
import math
import random
from typing import Any

import pandas as pd
import pytest

from grokinterp.analysis.measure_calls import Value
from grokinterp.analysis.table import ValueTable


class PlainTable:
    """The same kept the obvious way: a dictionary of cells, tables made row by row."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.checksums: dict[int, str] = {}
        self.cells: dict[tuple[str, int], Value] = {}

    def put(self, measure: str, key: str, step: int, checksum: str, cell: Value) -> None:
        if self.checksums.get(step, checksum) != checksum:
            self.forget(step)
        if self.keys.get(measure, key) != key:
            self.cells = {where: kept for where, kept in self.cells.items() if where[0] != measure}
        self.keys[measure], self.checksums[step] = key, checksum
        self.cells[measure, step] = cell

    def forget(self, step: int) -> None:
        self.checksums.pop(step, None)
        self.cells = {where: kept for where, kept in self.cells.items() if where[1] != step}

    def timeline(self, measures: list[str], steps: list[int]) -> dict[int, dict[str, float]]:
        rows = {step: [self.cells.get((measure, step), Value()).scalars for measure in measures] for step in steps}
        return {step: {name: x for scalars in found for name, x in scalars.items()} for step, found in rows.items()}

    def frequencies(self, measures: list[str], steps: list[int]) -> dict[tuple[int, int], dict[str, float]]:
        found: dict[tuple[int, int], dict[str, float]] = {}
        for step in steps:
            for measure in measures:
                for name, values in self.cells.get((measure, step), Value()).arrays.items():
                    for k, value in enumerate(values, start=1):
                        found.setdefault((step, k), {})[name] = value
        return found

    def reasons(self, measures: list[str], steps: list[int]) -> dict[str, dict[str, list[int]]]:
        found: dict[str, dict[str, list[int]]] = {}
        for measure in measures:
            for step in sorted(steps):
                for column, reason in self.cells.get((measure, step), Value()).reasons.items():
                    found.setdefault(column, {}).setdefault(reason, []).append(step)
        return found


def known(frame: pd.DataFrame) -> dict[Any, dict[str, float]]:
    """The numbers of each row; NaN, which stands for none too, left out."""
    return {index: {str(n): x for n, x in row.items() if not math.isnan(x)} for index, row in frame.iterrows()}  # pyright: ignore


def without_nan(rows: dict[Any, dict[str, float]]) -> dict[Any, dict[str, float]]:
    return {index: {name: x for name, x in row.items() if not math.isnan(x)} for index, row in rows.items()}


def assert_same(cells: ValueTable, plain: PlainTable) -> None:
    measures, steps = sorted(plain.keys), sorted(plain.checksums)
    assert cells.checksums == plain.checksums
    assert cells.keys == plain.keys
    for measure in measures:
        for step in range(-1, 300):
            assert cells.has(measure, plain.keys[measure], step) == ((measure, step) in plain.cells)
            assert not cells.has(measure, "another", step)
    timeline, frequencies = cells.tables(measures, steps)
    assert known(timeline) == without_nan(plain.timeline(measures, steps))
    assert known(frequencies) == without_nan(plain.frequencies(measures, steps))
    assert cells.reasons(measures, steps) == plain.reasons(measures, steps)


def some_cell(chance: random.Random, measure: str) -> Value:
    cell = Value()
    for i in range(chance.randint(0, 2)):
        cell.scalars[f"{measure}.{i}"] = chance.choice([chance.gauss(0, 1), math.nan, math.inf, 0.0])
        if not math.isfinite(cell.scalars[f"{measure}.{i}"]):
            cell.reasons[f"{measure}.{i}"] = chance.choice(["too late", "too soon"])
    if chance.random() < 0.5:
        cell.arrays[f"{measure} array"] = [chance.gauss(0, 1) for _ in range(chance.randint(1, 4))]
    return cell


@pytest.mark.parametrize("seed", range(4))
def test_they_are_what_a_dictionary_of_cells_is(seed):
    chance = random.Random(seed)
    cells, plain = ValueTable(), PlainTable()
    for i in range(700):
        step = chance.randint(0, 150)
        if chance.random() < 0.05:
            cells.forget(step)
            plain.forget(step)
            continue
        measure = chance.choice("abc")
        key = "old" if i < 350 or measure == "a" else "new"
        given = (measure, key, step, str(chance.random() < 0.02), some_cell(chance, measure))
        cells.put(*given)
        plain.put(*given)
    assert len(plain.checksums) > 100  # more than there is room for at first
    assert_same(cells, plain)

    index = json.loads(json.dumps(cells.index()))
    again = ValueTable()
    again.restore(index, dict(cells.checksums), *cells.tables(sorted(cells.keys), sorted(cells.checksums)))
    assert again.reasons("abc", sorted(plain.checksums)) == plain.reasons(list("abc"), sorted(plain.checksums))
    for measure, kept in plain.keys.items():
        assert all(again.has(measure, kept, s) == ((measure, s) in plain.cells) for s in plain.checksums)
    for ours, theirs in zip(
        again.tables("abc", sorted(plain.checksums)), cells.tables("abc", sorted(plain.checksums)), strict=True
    ):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    extra = ("b", "new", 299, "x", Value({"b.0": 3.0}, {"b array": [1.0] * 9}))
    again.put(*extra)
    plain.put(*extra)
    assert again.array("b", "b array", 299) == [1.0] * 9
    assert known(again.tables(["b"], [299])[1]) == {(299, k): {"b array": 1.0} for k in range(1, 10)}


def test_an_array_has_its_own_length():
    cells = ValueTable()
    cells.put("a", "key", 0, "x", Value({}, {"a": [1.0, 2.0]}))
    cells.put("a", "key", 1, "x", Value({}, {"a": [3.0, 4.0, 5.0]}))
    assert cells.array("a", "a", 0) == [1.0, 2.0]
    assert cells.array("a", "none", 0) == []
    assert cells.tables(["a"], [0, 1])[1].index.tolist() == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]


def test_five_thousand_checkpoints_take_a_few_megabytes():
    """The mainline's: 50 numbers and 7 arrays over 56 frequencies, which as objects of Python took 30 kB a step."""
    cells = ValueTable()
    for step in range(5000):
        scalars = {f"number {i}": 0.5 for i in range(50)}
        cells.put("a", "key", step, "x", Value(scalars, {f"array {i}": [0.5] * 56 for i in range(7)}))
    block = cells._blocks["a"]
    size = sum(column.nbytes for column in (*block.scalars.values(), *block.arrays.values(), *block.lengths.values()))
    assert size < 2 * 5000 * 8 * (50 + 7 * 57)
