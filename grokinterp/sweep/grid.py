"""What a sweep varies: points in the space of configurations, each a run with a name made of its coordinates."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, nearest

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
_UNSAFE = re.compile(r"[^\w.+^=,-]+")
_LONGEST_NAME = 160  # bytes; most file systems take 255, and temporary files have longer names
_MOST_RUNS = 100_000


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its folder: the coordinates, for instance `weight_decay=0.3,model_seed=0`.
        values: what is set in the base configuration, by dotted field.
    """

    name: str
    values: Mapping[str, Any]

    def config(self, base: RunConfig) -> RunConfig:
        """The configuration of this run.

        Raises:
            ConfigError: a value that makes no sense; the message begins with the run's name.
        """
        raw = json.loads(_as_json(base))
        for field, value in self.values.items():
            *sections, last = field.split(".")
            inner = raw
            for section in sections:
                inner = inner[section]
            inner[last] = value
        return RunConfig.from_json(json.dumps(raw), self.name)

    def config_if_possible(self, base: RunConfig) -> RunConfig | None:
        """The configuration of this run, None where a value makes no sense."""
        try:
            return self.config(base)
        except ConfigError:
            return None


def expand(
    base: RunConfig,
    *,
    grid: Mapping[str, Iterable[Any]] | None = None,
    zipped: Mapping[str, Iterable[Any]] | None = None,
    points: Iterable[Mapping[str, Any]] | None = None,
) -> tuple[Point, ...]:
    """All points of a sweep: each of `points` with each row of `zipped` with each cell of `grid`, the last fastest.

    >>> [point.name for point in expand(RunConfig(), grid={"optimizer.lr": [0.001, 0.002], "model_seed": range(2)})]
    ['lr=0.001,model_seed=0', 'lr=0.001,model_seed=1', 'lr=0.002,model_seed=0', 'lr=0.002,model_seed=1']

    Args:
        base: what the points have in common.
        grid: values by dotted config field, of which every combination is a run.
        zipped: values by dotted config field, as many of each; the first of all are one run, the second another.
        points: runs one by one, each as values by dotted config field.

    Raises:
        ConfigError: an unknown field, a field named twice, values that are not as many, or the same run twice.
    """
    grid = {field: _listed(field, values) for field, values in (grid or {}).items()}
    zipped = {field: _listed(field, values) for field, values in (zipped or {}).items()}
    listed = [{}] if points is None else list(points)
    if not listed or not all(isinstance(point, Mapping) for point in listed):
        raise ConfigError("points must be a list of runs, at least one, each with values by field")
    known = config_fields(base)
    fields = [*dict.fromkeys(field for point in listed for field in point), *zipped, *grid]
    if "model.kind" in fields:
        raise ConfigError("model.kind decides which other fields there are: make one sweep of each kind")
    for field in fields:
        if field not in known:
            raise ConfigError(f"{field} is not a field of this configuration: {nearest(field, known)}")
        if fields.count(field) > 1:
            raise ConfigError(f"{field} is given twice: name each field once in points, zip and grid")
    for field, values in {**grid, **zipped}.items():
        if not values:
            raise ConfigError(f"{field} has no values: give at least one, for instance {field}=0,1")
    counts = {field: len(values) for field, values in zipped.items()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} of {field}" for field, count in counts.items())
        raise ConfigError(f"zipped fields need as many values each, but there are {said}")
    count = math.prod(map(len, grid.values())) * max([1, *counts.values()]) * len(listed)
    if count > _MOST_RUNS:
        raise ConfigError(f"this sweep has {count:,} runs; at most {_MOST_RUNS:,} are possible: give fewer values")
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    cells = [dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values())]
    combined = [{**a, **b, **c} for a, b, c in itertools.product(listed, rows, cells)]
    combined = [{field: _plain(value) for field, value in values.items()} for values in combined]
    found = _named(combined, _short(fields))
    _refuse_twins(found, base)
    return found


def _listed(field: str, values: Any) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{field} needs a list of values, but {values!r} was given: write [{values!r}]")
    return list(values)


def _refuse_twins(points: Iterable[Point], base: RunConfig) -> None:
    """Raises where two points are one run, for instance 1 and "1"."""
    seen: dict[RunConfig, str] = {}
    for point in points:
        config = point.config_if_possible(base)
        name = point.name if config is None else seen.setdefault(config, point.name)
        if name != point.name:
            raise ConfigError(f"{name} and {point.name} are the same run: give each value once")


def config_fields(config: RunConfig) -> list[str]:
    """Every field of a configuration that a sweep may set, by dotted name."""
    return [name for name in flat_config(config) if name not in ("format_version", "model.kind")]


@lru_cache(maxsize=8)
def _as_json(base: RunConfig) -> str:
    """As JSON; every point of a sweep starts from it."""
    return base.to_json()


def flat_config(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain values by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(config.to_json()).items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def parse_values(assignment: str) -> tuple[str, list[Any]]:
    """`field=values` from a command line: values are separated by commas, and `0:5` is 0, 1, 2, 3, 4.

    >>> parse_values("model_seed=0:3")
    ('model_seed', [0, 1, 2])
    >>> parse_values("optimizer.betas=[0.9,0.98],[0.9,0.999]")
    ('optimizer.betas', [[0.9, 0.98], [0.9, 0.999]])

    Raises:
        ConfigError: another form.
    """
    field, equals, text = assignment.partition("=")
    if not (equals and field and text):
        raise ConfigError(f"{assignment!r} is not of the form FIELD=VALUES, for instance optimizer.weight_decay=0.3,1")
    values: list[Any] = []
    for part in re.split(r",(?![^\[]*\])", text):  # commas within brackets belong to a value
        numbers = _RANGE.fullmatch(part)
        if numbers:
            first, last, stride = (int(number) if number else 1 for number in numbers.groups())
            if stride == 0 or last <= first:
                raise ConfigError(f"{assignment!r}: {part} names no number; A:B goes from A to B, without B")
            if (last - first) // stride > _MOST_RUNS:
                raise ConfigError(f"{assignment!r}: {part} names more than {_MOST_RUNS:,} numbers: give fewer")
            values += range(first, last, stride)
        elif not part:
            raise ConfigError(f"{assignment!r} has an empty value: separate values by single commas")
        else:
            values.append(_value(part))
    return field, values


def _value(text: str) -> Any:
    """A number, true, false, null or a list where it reads as JSON; else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError: also a number of more than 4,300 digits
        return text


def _plain(value: Any) -> Any:
    """A value as JSON has it: numpy's and torch's numbers become Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(f"{value!r} is no value of a configuration field: give a number, a text or a list") from None
    return value


def _named(combined: Sequence[Mapping[str, Any]], short: Mapping[str, str]) -> tuple[Point, ...]:
    points: list[Point] = []
    taken: dict[str, Mapping[str, Any]] = {}
    for values in combined:
        parts = [f"{short[field]}={_text(value)}" for field, value in values.items()]
        name = _UNSAFE.sub("_", ",".join(parts)) or "run"
        if taken.get(name.lower()) == values:
            raise ConfigError(f"{name} is in the sweep twice: give each value once")
        if len(name.encode()) > _LONGEST_NAME or name.lower() in taken:  # some disks do not tell A from a
            digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
            name = f"{name.encode()[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"
        taken[name.lower()] = values
        points.append(Point(name, values))
    return tuple(points)


def _short(fields: Sequence[str]) -> dict[str, str]:
    """The last word of each field, or all of it where two share that word."""
    last = {field: field.rsplit(".", 1)[-1] for field in fields}
    return {field: word if list(last.values()).count(word) == 1 else field for field, word in last.items()}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "")
