"""metrics.jsonl: one line per evaluated step, each with a checksum, read back as a table."""

import json
import math
import shutil
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import RunError
from grokinterp.runs.checksums import with_checksum, without_checksum
from grokinterp.runs.files import (
    MAX_STEP,
    accessing,
    exists,
    file_state,
    free_name,
    parse_json,
    read_lines,
    read_tail,
    sync_file,
    write_atomically,
)

METRICS = "metrics.jsonl"
DAMAGED = "damaged"  # suffix of a damaged file that was set aside
_MAX_COLUMNS = 200
_MAX_LINE_BYTES = 1 << 15
_BYTES_PER_EVALUATION, _SLACK_BYTES = 1 << 13, 4 << 20


@dataclass(frozen=True)
class MetricLine:
    """A complete line of metrics.jsonl.

    Attributes:
        step: the evaluated step.
        values: every number except the step; NaN if it was not finite.
        text: the line, with its newline.
        checked: whether the line has a checksum; those of earlier versions have none.
    """

    step: int
    values: dict[str, float]
    text: str
    checked: bool


def metric_line(row: Mapping[str, float]) -> str:
    """The line of an evaluated step, with its checksum; NaN and infinities become null."""
    values = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(with_checksum(values)) + "\n"


def metric_lines(file: Path) -> Iterator[MetricLine]:
    """Yields each complete line; ignores a last line without newline, which a crash cut short.

    Args:
        file: metrics.jsonl, which does not exist before the first evaluation.

    Raises:
        RunError: a line is damaged, or the file cannot be read.
    """
    for number, line in _numbered_lines(file):
        if line is None:
            raise _damaged_line(file, number)
        yield line


def lines_up_to(file: Path, step: int) -> list[MetricLine]:
    """The lines up to a step. Later lines may be damaged, as a power cut can leave them.

    Raises:
        RunError: a line is damaged and an intact one of this or an earlier step follows it; or the file cannot be read.
    """
    damaged, lines = 0, list[MetricLine]()
    for number, line in _numbered_lines(file):
        if line is None:
            damaged = damaged or number
        elif line.step <= step:
            if damaged:
                raise _damaged_line(file, damaged)
            lines.append(line)
    return lines


def repair_metrics(file: Path) -> tuple[Path, int] | None:
    """Rewrites metrics.jsonl without its damaged lines, and keeps the damaged file under another name.

    Returns:
        The path of the damaged file and the number of its damaged lines; None if there are none.

    Raises:
        RunError: the file cannot be read or written.
    """
    lines, count = list[str](), 0
    for data in read_lines(file) if exists(file) else ():
        complete = data.endswith(b"\n")
        line = _parse(data if complete else data + b"\n")  # only the newline may be missing
        if line is not None:
            lines.append(line.text)
        elif complete:
            count += 1
    if not count:
        return None
    kept = free_name(file, DAMAGED)
    with accessing("copy", file):
        shutil.copyfile(file, kept)
    sync_file(kept)
    write_atomically(file, "".join(lines))
    return kept, count


def is_repaired(file: Path, step: int) -> bool:
    """Whether metrics.jsonl, up to a step, holds exactly the intact lines of a file that `repair_metrics` set aside."""
    lines = [line.text for line in lines_up_to(file, step)]
    for damaged in file.parent.glob(f"{file.name}.{DAMAGED}*"):
        found = [line for _, line in _numbered_lines(damaged)]
        if None in found and [line.text for line in found if line is not None and line.step <= step] == lines:
            return True
    return False


def _numbered_lines(file: Path) -> Iterator[tuple[int, MetricLine | None]]:
    """Each complete line with its number, counted from 1; None for a damaged line."""
    if not exists(file):
        return
    for number, data in enumerate(read_lines(file), start=1):
        if data.endswith(b"\n"):
            yield number, _parse(data)


def _damaged_line(file: Path, number: int) -> RunError:
    return RunError(
        f"{file}, line {number} is damaged: restore the original file, or set this line aside with "
        f"`grokinterp verify --repair {file.parent}`"
    )


def require_metrics_size(file: Path, config: RunConfig, checkpoints: int) -> None:
    """Checks, before they are parsed, that the metrics are not larger than the evaluations of a run can make them.

    Args:
        file: metrics.jsonl.
        config: of the run.
        checkpoints: number of checkpoints, which a recorded run evaluates.

    Raises:
        RunError: they are larger.
    """
    schedule = config.schedule
    evaluations = checkpoints if schedule is None else len(scheduled_steps(schedule.evaluate_every, schedule.steps))
    limit = _SLACK_BYTES + _BYTES_PER_EVALUATION * evaluations
    state = file_state(file)
    if state is not None and state[1] > limit:
        raise RunError(f"{file} is damaged: it has {state[1]:,} bytes, and this run writes at most {limit:,}")


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
        raise RunError(f"{file}: its last line is damaged; `grokinterp verify {file.parent}` lists all damage")
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
        content = parse_json(text)
        row = without_checksum(content)
        step = row.pop("step")
        values = {str(name): _number(value) for name, value in row.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    if not (type(step) is int and 0 <= step <= MAX_STEP):
        return None
    return MetricLine(step, values, text, checked=row is not content)


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
