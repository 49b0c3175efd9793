"""A measure with its arguments (`MeasureCall`), and what one call returns at one checkpoint (`Value`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch

from grokinterp.errors import ConfigError, GrokinterpError, MissingNeedError
from grokinterp.measures import Column, Measure, Snapshot, find_measure, key_frequencies
from grokinterp.measures.base import Rule
from grokinterp.measures.fourier import n_frequencies


@dataclass
class Value:
    """What one measure call returns at one checkpoint.

    Attributes:
        scalars: a number per column; NaN where it is undefined.
        arrays: numbers over frequencies k = 1, 2, ... per column.
        reasons: per column, why a number is missing or not finite.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureCall:
    """A measure with its arguments.

    Attributes:
        measure: the measure.
        frequencies: the key frequencies, used only by measures that need a reference.
        source: the text from which `call_from` rebuilds this call in another process; None if the measure exists only
            in this process.
    """

    measure: Measure
    frequencies: tuple[int, ...] = ()
    source: str | None = None


def measure_call(measure: str | Callable[..., Any], frequencies: tuple[int, ...]) -> MeasureCall:
    """The call of a measure given by name, by `package.module:function`, or as a function."""
    registered = find_measure(measure)
    if isinstance(measure, str) and ":" in measure:
        return MeasureCall(registered, frequencies, measure)
    return MeasureCall(registered, frequencies, registered.name if registered.is_built_in else None)


def key_frequencies_call(rule: Rule) -> MeasureCall:
    """A call that finds the key frequencies of a checkpoint; `ValueTable.key_frequencies` reads its result."""

    def is_key(snapshot: Snapshot, *, rule: Rule) -> torch.Tensor:
        group = snapshot.task.group
        if group is None:
            raise MissingNeedError("key_frequencies", "grid", snapshot.task.why_no_group)
        keys = key_frequencies(snapshot, rule).values
        return torch.tensor([float(k in keys) for k in range(1, n_frequencies(group.order) + 1)])

    column = Column("is_key", f"1 where frequency k is a key by the rule {rule}, else 0", {"rule": rule}, True)
    return MeasureCall(Measure("key_frequencies", is_key, ("grid",), 1, (column,)), (), f"keys {rule}")


def union_call(call: MeasureCall, frequencies: tuple[int, ...]) -> MeasureCall:
    """The first column of a measure once more, as `..._union`, with every key frequency since T_grok(0.95)."""
    measure, first = call.measure, call.measure.columns[0]
    definition = f"{first.name} with every key since T_grok(0.95), not only those of the reference step"
    column = Column(f"{first.name}_union", definition, first.options)
    union = Measure(f"{measure.name}_union", measure.function, measure.needs, measure.version, (column,))
    return MeasureCall(union, frequencies, None if call.source is None else f"union {call.source}")


def call_from(source: str, frequencies: tuple[int, ...]) -> MeasureCall:
    """Rebuilds a call from its `source`."""
    kind, _, name = source.rpartition(" ")
    if kind == "keys":
        return key_frequencies_call(name)  # pyright: ignore[reportArgumentType]
    call = measure_call(name, frequencies)
    return union_call(call, frequencies) if kind == "union" else call


def use_neurons(calls: Sequence[MeasureCall]) -> bool:
    """Whether one of the calls uses neurons, in some column at least."""
    return any(
        "neurons" in call.measure.needs
        or any(column.options.get("level") == "neuron" for column in call.measure.columns)
        for call in calls
    )


def evaluate(call: MeasureCall, snapshot: Snapshot) -> Value:
    """Computes every column of a call's measure at one checkpoint; what it cannot compute is NaN with a reason.

    Raises:
        ConfigError: a user's measure raises an error or returns something that is not a number.
    """
    value, measure = Value(), call.measure
    arguments: tuple[Any, ...] = (call.frequencies,) if measure.uses_reference else ()
    for column in measure.columns:
        if len(measure.columns) > 1 and column.name in value.scalars:
            continue  # an earlier call returned several columns (a dataclass of numbers)
        try:
            _store(value, measure, column.name, measure.function(snapshot, *arguments, **column.options))
        except MissingNeedError as error:
            if not column.per_frequency:
                value.scalars[column.name] = math.nan
            value.reasons[column.name] = error.reason
        except GrokinterpError:
            raise
        except Exception as error:
            if measure.is_built_in:  # a defect of this package
                raise
            place = "" if snapshot.step is None else f" at step {snapshot.step}"
            raise ConfigError(f"measure {measure.name!r} failed{place}: {type(error).__name__}: {error}") from error
    return value


def _store(value: Value, measure: Measure, name: str, result: Any) -> None:
    if isinstance(result, torch.Tensor) and result.ndim == 1:
        value.arrays[name] = result.double().tolist()
        if not torch.isfinite(result).all():
            value.reasons[name] = "the value is not finite"
        return
    if is_dataclass(result) and not isinstance(result, type):
        parts = {f.name: getattr(result, f.name) for f in fields(result)}
        numbers = {column.name: parts[column.name] for column in measure.columns if column.name in parts}
    elif isinstance(result, dict):
        numbers = {f"{name}.{key}": part for key, part in result.items()}
    else:
        numbers = {name: result}
    for key, number in numbers.items():
        if not isinstance(number, (int, float, torch.Tensor)):
            raise ConfigError(
                f"measure {measure.name!r} returned {type(number).__name__}: a measure returns a number, a tensor over "
                "frequencies, a dict of numbers, or a dataclass of numbers"
            )
        value.scalars[key] = float(number)
        if not math.isfinite(value.scalars[key]):
            value.reasons[key] = getattr(number, "reason", "") or "the value is not finite"
