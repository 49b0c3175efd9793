"""The grid of a sweep: points in the space of configurations, each a run named after its coordinates."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.config.checks import is_natural_number
from grokinterp.config.run import config_fields, json_value
from grokinterp.errors import ConfigError, nearest_field
from grokinterp.statistics.formatting import setting

_RANGE = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
_UNSAFE = re.compile(r"[^\w.+^=,-]+")
_MAX_NAME = 160  # bytes; most file systems allow 255, and names of temporary files are longer
_MAX_RUNS = 100_000


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: name of the run's folder, made of the coordinates: `weight_decay=0.3,model_seed=0`.
        values: values to set in the base configuration, by dotted field.
    """

    name: str
    values: Mapping[str, Any]

    def config(self, base: RunConfig) -> RunConfig:
        """The configuration of this run.

        Raises:
            ConfigError: a value is invalid; the message begins with the run's name.
        """
        return base.replace(self.values, self.name)

    def valid_config(self, base: RunConfig) -> RunConfig | None:
        """The configuration of this run; None if a value is invalid."""
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
    """All points of a sweep: every combination of `points`, `zipped` and `grid`; the last field varies fastest.

    >>> [point.name for point in expand(RunConfig(), grid={"optimizer.lr": [0.001, 0.002], "model_seed": range(2)})]
    ['lr=0.001,model_seed=0', 'lr=0.001,model_seed=1', 'lr=0.002,model_seed=0', 'lr=0.002,model_seed=1']

    Args:
        base: configuration that all points share.
        grid: values by dotted config field; every combination is a run.
        zipped: values by dotted config field, used in parallel: the first value of each field, then the second, ...
        points: single runs, each as values by dotted config field.

    Raises:
        ConfigError: a field is unknown or named twice, zipped fields differ in their number of values, or two runs are
            the same.
    """
    grid = {field: _as_list(field, values) for field, values in (grid or {}).items()}
    zipped = {field: _as_list(field, values) for field, values in (zipped or {}).items()}
    points = [{}] if points is None else list(points)
    if not points or not all(isinstance(point, Mapping) for point in points):
        raise ConfigError("points must be a list of at least one run, each with values by field")
    valid_fields = config_fields(base)
    fields = [*dict.fromkeys(field for point in points for field in point), *zipped, *grid]
    if "model.kind" in fields:
        raise ConfigError("model.kind determines which other fields exist: make one sweep per kind")
    for field in fields:
        if field not in valid_fields:
            raise ConfigError(f"{field} is not a field of this configuration: {nearest_field(field, valid_fields)}")
        if fields.count(field) > 1:
            raise ConfigError(f"{field} is given twice: name each field once in points, zip and grid")
    for field, values in {**grid, **zipped}.items():
        if not values:
            raise ConfigError(f"{field} has no values: give at least one, for instance {field}=0,1")
    counts = {field: len(values) for field, values in zipped.items()}
    if len(set(counts.values())) > 1:
        lengths = ", ".join(f"{count} of {field}" for field, count in counts.items())
        raise ConfigError(f"zipped fields need equally many values, but have {lengths}")
    count = math.prod(map(len, grid.values())) * max([1, *counts.values()]) * len(points)
    if count > _MAX_RUNS:
        raise ConfigError(f"this sweep has {count:,} runs, but at most {_MAX_RUNS:,} are possible: give fewer values")
    rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)] or [{}]
    cells = [dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values())]
    combinations = [{**a, **b, **c} for a, b, c in itertools.product(points, rows, cells)]
    result = _name_points(combinations, _short_names(fields))
    _refuse_equal_runs(result, base)
    return result


def _as_list(field: str, values: Any) -> list[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{field} needs a list of values, but is {values!r}: write [{values!r}]")
    return list(values)


def _refuse_equal_runs(points: Iterable[Point], base: RunConfig) -> None:
    """Raise if two points are the same run, for instance 1 and "1"."""
    names: dict[RunConfig, str] = {}
    for point in points:
        config = point.valid_config(base)
        name = point.name if config is None else names.setdefault(config, point.name)
        if name != point.name:
            raise ConfigError(f"{name} and {point.name} are the same run: give each value once")


def parse_values(assignment: str) -> tuple[str, list[Any]]:
    """Parse `FIELD=VALUES` from a command line: commas separate the values, and `0:5` means 0, 1, 2, 3, 4.

    >>> parse_values("model_seed=0:3")
    ('model_seed', [0, 1, 2])
    >>> parse_values("optimizer.betas=[0.9,0.98],[0.9,0.999]")
    ('optimizer.betas', [[0.9, 0.98], [0.9, 0.999]])

    Raises:
        ConfigError: the text does not have this form.
    """
    field, equals, text = assignment.partition("=")
    if not (equals and field and text):
        raise ConfigError(f"{assignment!r} is not of the form FIELD=VALUES, for instance optimizer.weight_decay=0.3,1")
    values: list[Any] = []
    for part in re.split(r",(?![^\[]*\])", text):  # commas within brackets belong to a value
        numbers = _RANGE.fullmatch(part)
        if numbers:
            if not all(is_natural_number(number.removeprefix("-")) for number in numbers.groups("1")):
                raise ConfigError(f"{assignment!r}: a number in {part} is too large")
            first, last, stride = (int(number) if number else 1 for number in numbers.groups())
            if stride == 0 or last <= first:
                raise ConfigError(f"{assignment!r}: {part} is empty; A:B goes from A to B and excludes B")
            if (last - first) // stride > _MAX_RUNS:
                raise ConfigError(f"{assignment!r}: {part} has more than {_MAX_RUNS:,} numbers: give fewer")
            values += range(first, last, stride)
        elif not part:
            raise ConfigError(f"{assignment!r} has an empty value: separate values by single commas")
        else:
            values.append(_parse_value(part))
    return field, values


def _parse_value(text: str) -> Any:
    """The value of JSON text (a number, true, false, null or a list); other text as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError also covers a number of more than 4,300 digits
        return text


def _name_points(combinations: Sequence[Mapping[str, Any]], short_names: Mapping[str, str]) -> tuple[Point, ...]:
    points: list[Point] = []
    values_by_name: dict[str, Mapping[str, Any]] = {}
    for combination in combinations:
        values = {field: json_value(value) for field, value in combination.items()}
        parts = [f"{short_names[field]}={_format_value(value)}" for field, value in values.items()]
        name = _UNSAFE.sub("_", ",".join(parts)) or "run"
        if values_by_name.get(name.lower()) == values:
            raise ConfigError(f"{name} is in the sweep twice: give each value once")
        if len(name.encode()) > _MAX_NAME or name.lower() in values_by_name:  # some file systems ignore case
            digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
            name = f"{name.encode()[: _MAX_NAME - 9].decode(errors='ignore')}-{digest}"
        values_by_name[name.lower()] = values
        points.append(Point(name, values))
    return tuple(points)


def _short_names(fields: Sequence[str]) -> dict[str, str]:
    """The last word of each field, or the full name if two fields share that word."""
    words = {field: field.rsplit(".", 1)[-1] for field in fields}
    return {field: word if list(words.values()).count(word) == 1 else field for field, word in words.items()}


def _format_value(value: Any) -> str:
    if isinstance(value, float | str):
        return setting(value)
    return json.dumps(value, separators=(",", ":")).replace('"', "")
