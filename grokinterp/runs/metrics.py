"""metrics.jsonl: one line per evaluated step, read back as a table."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import RunError
from grokinterp.runs.files import MAX_STEP, exists, parse_json, read_lines, read_tail

METRICS = "metrics.jsonl"
_MAX_COLUMNS = 200
_MAX_LINE_BYTES = 1 << 15


@dataclass(frozen=True)
class MetricLine:
    """A complete line of metrics.jsonl.

    Attributes:
        step: the evaluated step.
        values: every number except the step; NaN if it was not finite.
        text: the line, with its newline.
    """

    step: int
    values: dict[str, float]
    text: str


def metric_lines(file: Path, *, tolerant: bool = False) -> Iterator[MetricLine]:
    """Yields each complete line; ignores a last line without newline, which a crash cut short.

    Args:
        file: metrics.jsonl, which does not exist before the first evaluation.
        tolerant: stop at the first damaged line, which a power cut can leave, instead of raising.

    Raises:
        RunError: a line is damaged, or the file cannot be read.
    """
    if not exists(file):
        return
    for number, data in enumerate(read_lines(file), start=1):
        if not data.endswith(b"\n"):
            return
        line = _parse(data)
        if line is None:
            if tolerant:
                return
            raise RunError(f"{file}, line {number} is damaged: resume the run to write this and later lines again")
        yield line


def last_line(file: Path) -> MetricLine | None:
    """The last complete line, read without those before it; None if there is none.

    Raises:
        RunError: the line is damaged, or the file cannot be read.
    """
    if not exists(file):
        return None
    text, _, _ = read_tail(file, 2 * _MAX_LINE_BYTES).rpartition(b"\n")
    if not text:
        return None
    line = _parse(text.rpartition(b"\n")[2] + b"\n")
    if line is None:
        raise RunError(f"{file}: its last line is damaged: resume the run to write it again")
    return line


def read_metrics(file: Path) -> pd.DataFrame:
    """Reads metrics.jsonl as a table.

    Returns:
        One row per evaluated step, indexed by step; NaN if a line lacks a column. If a step occurs twice, the last
        line counts.

    Raises:
        RunError: a line is damaged, or there are more columns than any run has.
    """
    steps, columns = array("q"), dict[str, "array[float]"]()
    for line in metric_lines(file):
        for name, value in line.values.items():
            if name not in columns:
                if len(columns) == _MAX_COLUMNS:
                    raise RunError(f"{file} is damaged: it has more than {_MAX_COLUMNS} columns")
                columns[name] = array("d", [math.nan]) * len(steps)
            columns[name].append(value)
        steps.append(line.step)
        for column in columns.values():
            if len(column) < len(steps):
                column.append(math.nan)
    data = {name: np.frombuffer(column, dtype=float) for name, column in columns.items()}
    frame = pd.DataFrame(data, index=pd.Index(np.array(steps, dtype=np.int64), name="step"))
    return frame.loc[~frame.index.duplicated(keep="last")].sort_index()


def _parse(data: bytes) -> MetricLine | None:
    try:
        text = data.decode("utf-8")
        row = parse_json(text)
        step = row.pop("step")
        values = {str(name): _number(value) for name, value in row.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if not (type(step) is int and 0 <= step <= MAX_STEP):
        return None
    return MetricLine(step, values, text)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
