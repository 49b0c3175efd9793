"""ValueTable returns the values that were put into it, whatever is put, forgotten, saved and restored."""

import json
import math
import random
from typing import Any

import pandas as pd
import pytest

from grokinterp.analysis.measure_calls import Value
from grokinterp.analysis.table import ValueTable


class PlainTable:
    """The same done the obvious way: a dictionary of values, tables made row by row."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.checksums: dict[int, str] = {}
        self.values: dict[tuple[str, int], Value] = {}

    def put(self, measure: str, key: str, step: int, checksum: str, value: Value) -> None:
        if self.checksums.get(step, checksum) != checksum:
            self.forget(step)
        if self.keys.get(measure, key) != key:
            self.values = {place: stored for place, stored in self.values.items() if place[0] != measure}
        self.keys[measure], self.checksums[step] = key, checksum
        self.values[measure, step] = value

    def forget(self, step: int) -> None:
        self.checksums.pop(step, None)
        self.values = {place: stored for place, stored in self.values.items() if place[1] != step}

    def timeline(self, measures: list[str], steps: list[int]) -> dict[int, dict[str, float]]:
        rows = {step: [self.values.get((measure, step), Value()).scalars for measure in measures] for step in steps}
        return {
            step: {name: x for scalars in expected for name, x in scalars.items()} for step, expected in rows.items()
        }

    def frequencies(self, measures: list[str], steps: list[int]) -> dict[tuple[int, int], dict[str, float]]:
        expected: dict[tuple[int, int], dict[str, float]] = {}
        for step in steps:
            for measure in measures:
                for name, values in self.values.get((measure, step), Value()).arrays.items():
                    for k, value in enumerate(values, start=1):
                        expected.setdefault((step, k), {})[name] = value
        return expected

    def reasons(self, measures: list[str], steps: list[int]) -> dict[str, dict[str, list[int]]]:
        expected: dict[str, dict[str, list[int]]] = {}
        for measure in measures:
            for step in sorted(steps):
                for column, reason in self.values.get((measure, step), Value()).reasons.items():
                    expected.setdefault(column, {}).setdefault(reason, []).append(step)
        return expected


def known(frame: pd.DataFrame) -> dict[Any, dict[str, float]]:
    """The numbers of each row without NaN, which also stands for a missing value."""
    return {index: {str(n): x for n, x in row.items() if not math.isnan(x)} for index, row in frame.iterrows()}  # pyright: ignore


def without_nan(rows: dict[Any, dict[str, float]]) -> dict[Any, dict[str, float]]:
    return {index: {name: x for name, x in row.items() if not math.isnan(x)} for index, row in rows.items()}


def assert_same(table: ValueTable, plain: PlainTable) -> None:
    measures, steps = sorted(plain.keys), sorted(plain.checksums)
    assert table.checksums == plain.checksums
    assert table.keys == plain.keys
    for measure in measures:
        for step in range(-1, 300):
            assert table.has(measure, plain.keys[measure], step) == ((measure, step) in plain.values)
            assert not table.has(measure, "another", step)
    timeline, frequencies = table.tables(measures, steps)
    assert known(timeline) == without_nan(plain.timeline(measures, steps))
    assert known(frequencies) == without_nan(plain.frequencies(measures, steps))
    assert table.reasons(measures, steps) == plain.reasons(measures, steps)


def random_value(chance: random.Random, measure: str) -> Value:
    value = Value()
    for i in range(chance.randint(0, 2)):
        value.scalars[f"{measure}.{i}"] = chance.choice([chance.gauss(0, 1), math.nan, math.inf, 0.0])
        if not math.isfinite(value.scalars[f"{measure}.{i}"]):
            value.reasons[f"{measure}.{i}"] = chance.choice(["too late", "too soon"])
    if chance.random() < 0.5:
        value.arrays[f"{measure} array"] = [chance.gauss(0, 1) for _ in range(chance.randint(1, 4))]
    return value


@pytest.mark.parametrize("seed", range(4))
def test_a_table_equals_a_dictionary_of_values(seed):
    chance = random.Random(seed)
    table, plain = ValueTable(), PlainTable()
    for i in range(700):
        step = chance.randint(0, 150)
        if chance.random() < 0.05:
            table.forget(step)
            plain.forget(step)
            continue
        measure = chance.choice("abc")
        key = "old" if i < 350 or measure == "a" else "new"
        given = (measure, key, step, str(chance.random() < 0.02), random_value(chance, measure))
        table.put(*given)
        plain.put(*given)
    assert len(plain.checksums) > 100  # more than the initial capacity
    assert_same(table, plain)

    index = json.loads(json.dumps(table.index()))
    again = ValueTable()
    again.restore(index, dict(table.checksums), *table.tables(sorted(table.keys), sorted(table.checksums)))
    assert again.reasons("abc", sorted(plain.checksums)) == plain.reasons(list("abc"), sorted(plain.checksums))
    for measure, key in plain.keys.items():
        assert all(again.has(measure, key, s) == ((measure, s) in plain.values) for s in plain.checksums)
    for ours, theirs in zip(
        again.tables("abc", sorted(plain.checksums)), table.tables("abc", sorted(plain.checksums)), strict=True
    ):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    extra = ("b", "new", 299, "x", Value({"b.0": 3.0}, {"b array": [1.0] * 9}))
    again.put(*extra)
    plain.put(*extra)
    assert again.array("b", "b array", 299) == [1.0] * 9
    assert known(again.tables(["b"], [299])[1]) == {(299, k): {"b array": 1.0} for k in range(1, 10)}


def test_an_array_has_its_own_length():
    table = ValueTable()
    table.put("a", "key", 0, "x", Value({}, {"a": [1.0, 2.0]}))
    table.put("a", "key", 1, "x", Value({}, {"a": [3.0, 4.0, 5.0]}))
    assert table.array("a", "a", 0) == [1.0, 2.0]
    assert table.array("a", "none", 0) == []
    assert table.tables(["a"], [0, 1])[1].index.tolist() == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]


def test_five_thousand_checkpoints_take_a_few_megabytes():
    """50 numbers and 7 arrays over 56 frequencies, as in the mainline; as Python objects they take 30 kB per step."""
    table = ValueTable()
    for step in range(5000):
        scalars = {f"number {i}": 0.5 for i in range(50)}
        table.put("a", "key", step, "x", Value(scalars, {f"array {i}": [0.5] * 56 for i in range(7)}))
    columns = table._measures["a"]
    size = sum(
        column.nbytes for column in (*columns.scalars.values(), *columns.arrays.values(), *columns.lengths.values())
    )
    assert size < 2 * 5000 * 8 * (50 + 7 * 57)
