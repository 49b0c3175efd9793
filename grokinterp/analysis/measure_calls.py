"""What is computed at a checkpoint: a job is a measure with the key frequencies it is given; a cell is what it gave."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import Column, Measure, Snapshot, find_measure, key_frequencies
from grokinterp.measures.base import Rule


@dataclass
class Cell:
    """What one measure gave at one checkpoint."""

    scalars: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A measure and what it is given.

    Attributes:
        measure: the measure.
        frequencies: the key frequencies, for those that use them.
        source: what `job_from` finds it by in another process; None where it exists in this one only.
    """

    measure: Measure
    frequencies: tuple[int, ...] = ()
    source: str | None = None


def measure_job(what: str | Callable[..., Any], frequencies: tuple[int, ...]) -> Job:
    """The job of a measure by name, by `package.module:function`, or by the function itself."""
    measure = find_measure(what)
    own = measure.function.__module__.startswith("grokinterp.")
    source = what if isinstance(what, str) and ":" in what else measure.name if own else None
    return Job(measure, frequencies, source)


def keys_job(rule: Rule) -> Job:
    """Whether each frequency is a key at a checkpoint, by a rule: what lost keys are found by."""

    def is_key(snapshot: Snapshot, *, rule: Rule) -> torch.Tensor:
        group = snapshot.task.group
        found = key_frequencies(snapshot, rule).values  # raises where there is no group
        assert group is not None
        return torch.tensor([float(k in found) for k in range(1, group.order // 2 + 1)])

    column = Column("is_key", f"1 where frequency k is a key by the rule {rule}, else 0", {"rule": rule}, True)
    return Job(Measure("key_frequencies", is_key, ("grid",), 1, (column,)), (), f"keys {rule}")


def union_job(job: Job, frequencies: tuple[int, ...]) -> Job:
    """The first column of a job's measure a second time, with every key since T_grok."""
    measure, first = job.measure, job.measure.columns[0]
    definition = f"{first.definition}, with every key since T_grok(0.95)"
    column = Column(f"{first.name}_union", definition, first.options)
    union = Measure(f"{measure.name}_union", measure.function, measure.needs, measure.version, (column,))
    return Job(union, frequencies, None if job.source is None else f"union {job.source}")


def job_from(source: str, frequencies: tuple[int, ...]) -> Job:
    """The job that `source` names."""
    kind, _, name = source.rpartition(" ")
    if kind == "keys":
        return keys_job(name)  # pyright: ignore[reportArgumentType]
    job = measure_job(name, frequencies)
    return union_job(job, frequencies) if kind == "union" else job


def evaluate(job: Job, snapshot: Snapshot) -> Cell:
    """All columns of a job's measure at one checkpoint; what it cannot compute becomes NaN with the reason kept."""
    cell, measure = Cell(), job.measure
    given: tuple[Any, ...] = (job.frequencies,) if measure.uses_reference else ()
    for column in measure.columns:
        if len(measure.columns) > 1 and column.name in cell.scalars:
            continue  # one call gave several columns (a dataclass of numbers)
        try:
            value = measure.function(snapshot, *given, **column.options)
        except MissingNeedError as error:
            if not column.per_frequency:
                cell.scalars[column.name] = math.nan
            cell.reasons[column.name] = error.reason
            continue
        _store(cell, measure, column.name, value)
    return cell


def _store(cell: Cell, measure: Measure, name: str, value: Any) -> None:
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        cell.arrays[name] = value.double().tolist()
        if not torch.isfinite(value).all():
            cell.reasons[name] = "the value is not finite"
        return
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        numbers = {column.name: parts[column.name] for column in measure.columns if column.name in parts}
    elif isinstance(value, dict):
        numbers = {f"{name}.{key}": part for key, part in value.items()}
    else:
        numbers = {name: value}
    for key, number in numbers.items():
        if not isinstance(number, (int, float, torch.Tensor)):
            raise ConfigError(
                f"measure {measure.name!r} gave {type(number).__name__}: a measure gives a number, a tensor over "
                "frequencies, a dict of numbers, or a dataclass of numbers"
            )
        cell.scalars[key] = float(number)
        if not math.isfinite(cell.scalars[key]):
            cell.reasons[key] = getattr(number, "reason", "") or "the value is not finite"
