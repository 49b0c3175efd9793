"""metrics.jsonl: one line an evaluated step, read back as columns."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import RunError
from grokinterp.runs.files import exists, parse_json, read_lines, read_tail

_MOST_COLUMNS = 200
_LONGEST = 1 << 16  # bytes of two lines
LAST_STEP = 10**12  # of any run


@dataclass(frozen=True)
class MetricLine:
    """A whole line of metrics.jsonl.

    Attributes:
        step: the step that was evaluated.
        values: every number but the step; NaN where it was not finite.
        text: the line, with its end.
    """

    step: int
    values: dict[str, float]
    text: str


def metric_lines(file: Path, *, tolerant: bool = False) -> Iterator[MetricLine]:
    """Each whole line; a last line without its end was cut by a crash and does not count.

    Args:
        file: metrics.jsonl; there is none before the first evaluation.
        tolerant: end at the first damaged line, which a power cut can leave.

    Raises:
        RunError: a line is damaged, or the file cannot be read.
    """
    if not exists(file):
        return
    for number, line in enumerate(read_lines(file), start=1):
        if not line.endswith(b"\n"):
            return
        found = _parsed(line)
        if found is None:
            if tolerant:
                return
            raise RunError(f"{file}, line {number} is damaged: resume the run, which writes later lines anew")
        yield found


def last_line(file: Path) -> MetricLine | None:
    """The last whole line, without reading those before it; None where there is none.

    Raises:
        RunError: it is damaged, or the file cannot be read.
    """
    if not exists(file):
        return None
    whole, _, _ = read_tail(file, _LONGEST).rpartition(b"\n")
    if not whole:
        return None
    found = _parsed(whole.rpartition(b"\n")[2] + b"\n")
    if found is None:
        raise RunError(f"{file}: its last line is damaged: resume the run, which writes later lines anew")
    return found


def read_metrics(file: Path) -> pd.DataFrame:
    """One row an evaluated step, indexed by step; NaN where a line lacks a column. The last of two equal steps counts.

    Raises:
        RunError: a line is damaged, or there are more columns than any run has.
    """
    steps, columns = array("q"), dict[str, "array[float]"]()
    for line in metric_lines(file):
        for name, value in line.values.items():
            if name not in columns:
                if len(columns) == _MOST_COLUMNS:
                    raise RunError(f"{file} is damaged: it has more than {_MOST_COLUMNS} columns")
                columns[name] = array("d", [math.nan]) * len(steps)
            columns[name].append(value)
        steps.append(line.step)
        for column in columns.values():
            if len(column) < len(steps):
                column.append(math.nan)
    data = {name: np.frombuffer(column, dtype=float) for name, column in columns.items()}
    frame = pd.DataFrame(data, index=pd.Index(np.array(steps, dtype=np.int64), name="step"))
    return frame.loc[~frame.index.duplicated(keep="last")].sort_index()


def _parsed(line: bytes) -> MetricLine | None:
    try:
        text = line.decode("utf-8")
        row = parse_json(text)
        step = row.pop("step")
        values = {str(name): _number(value) for name, value in row.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if not (type(step) is int and 0 <= step <= LAST_STEP):
        return None
    return MetricLine(step, values, text)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)
