"""The table of a sweep: which runs replicate one setting, what became of each, and the statistics of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from grokinterp.errors import ConfigError, nearest
from grokinterp.statistics.intervals import ArmRatio, ratio_of_arms
from grokinterp.statistics.powers import PowerLaw, fit_power_law
from grokinterp.statistics.survival import Survival, kaplan_meier

SEEDS = ("model_seed", "task.data_seed")

# What became of a run: its outcome, or why it has none.
FATES = (
    "grokked",
    "generalized_without_delay",
    "semi_grokked",
    "DNF_test",
    "DNF_train",
    "diverged",
    "undetermined",
    "failed",
    "missing",
)

_NOT_CONFIG = ("T_", "delay_", "weight_norm_", "weight_rms_", "final.")
_RESULTS = ("run", "status", "failure", "step", "outcome")


@dataclass(frozen=True)
class Observed:
    """One quantity of each run of a sweep, in the table's order.

    Attributes:
        values: the number; where a run is censored, what it had waited by its last step; of a time of a run that never
            memorized, its last step, to be drawn and not to be counted; else NaN.
        reached: which runs have the number itself.
        censored: which are known to have taken longer.
        fates: what became of each, one of `FATES`.
    """

    values: Float[np.ndarray, " n"]
    reached: Bool[np.ndarray, " n"]
    censored: Bool[np.ndarray, " n"]
    fates: tuple[str, ...]

    @property
    def followed(self) -> Bool[np.ndarray, " n"]:
        """Which runs a survival curve or a fit counts."""
        return self.reached | self.censored


def observe(table: pd.DataFrame, quantity: str) -> Observed:
    """One quantity of each run of a sweep, and what it means where there is no number.

    A quantity that a run reaches in time (a `T_` or a `delay_`) is censored where the run had not reached it by its
    last step: T is then that step, and a delay what had passed of it since T_train. Runs that never memorized
    (DNF_train; but not where the quantity is T_train itself), diverged, failed or were not begun are neither reached
    nor censored.

    Args:
        table: a sweep's table, one row a run.
        quantity: a column of it with numbers, such as `T_grok_0.95`, `delay_0.95_0.99` or `final.test_accuracy`.

    Raises:
        ConfigError: the table has no such column, or no numbers in it.
    """
    _require(table, [quantity, "status", "outcome", "step"])
    try:
        value = table[quantity].astype(float).to_numpy(dtype=float, copy=True)
    except (TypeError, ValueError):
        raise ConfigError(f"{quantity} is no quantity: the column has values that are not numbers") from None
    step = table["step"].astype(float).to_numpy()
    fates = tuple(_fate(*both) for both in zip(table["status"].tolist(), table["outcome"].tolist(), strict=True))
    fate = np.array(fates, dtype=object)
    apart = np.isin(fate, ["diverged", "failed", "missing"])
    never_memorized = (fate == "DNF_train") & (not quantity.startswith("T_train"))
    reached = ~apart & ~never_memorized & np.isfinite(value)
    waited = step - _began(table, quantity)
    censored = ~apart & ~never_memorized & ~reached & np.isfinite(waited)
    value[~reached] = np.nan
    value[censored] = waited[censored]
    if quantity.startswith(("T_", "delay_")):
        value[never_memorized] = step[never_memorized]
    return Observed(value, reached, censored, fates)


def _fate(status: Any, outcome: Any) -> str:
    if status in ("failed", "missing"):
        return str(status)
    if isinstance(outcome, str):
        return outcome
    return "diverged" if status == "diverged" else "undetermined"


def _began(table: pd.DataFrame, quantity: str) -> np.ndarray:
    """The step from which a quantity counts; NaN where the run has not come to it, or it is no time."""
    if quantity.startswith("T_"):
        return np.zeros(len(table))
    if quantity.startswith("delay_"):
        # delay_0.95 is T_grok(0.95) - T_train(0.95), delay_0.95_0.99 is T_grok(0.95) - T_train(0.99).
        column = f"T_train_{quantity.rsplit('_', 1)[-1]}"
        _require(table, [column])
        return table[column].astype(float).to_numpy()
    return np.full(len(table), np.nan)


def values_of(table: pd.DataFrame, axis: str) -> list[Any]:
    """The distinct values of an axis: numbers in order (False before True), then words in order, then None.

    Raises:
        ConfigError: the table has no such column.
    """
    _require(table, [axis])
    distinct = set(_plain(table, axis))
    known = sorted(distinct - {None}, key=lambda value: (isinstance(value, str), value))
    return known + [None] * (None in distinct)


def _plain(table: pd.DataFrame, column: str) -> list[Any]:
    """A column's values as Python's own, None for every way in which a table says that there is none."""
    return [
        None if unknown else value for value, unknown in zip(table[column].tolist(), table[column].isna(), strict=True)
    ]


def settings(table: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The runs of each setting, which agree in every axis but the seeds, in the order of `values_of`.

    Raises:
        ConfigError: the table lacks an axis.
    """
    found: list[tuple[dict[str, Any], pd.DataFrame]] = [({}, table)]
    for axis in _without_seeds(axes):
        found = [
            (setting | {axis: value}, _part(part, _equals(part, axis, value)))
            for setting, part in found
            for value in values_of(part, axis)
        ]
    return found


def _without_seeds(axes: Sequence[str]) -> list[str]:
    return [axis for axis in axes if axis not in SEEDS]


def _part(table: pd.DataFrame, chosen: Any) -> pd.DataFrame:
    return pd.DataFrame(table[np.asarray(chosen, dtype=bool)])


def _equals(table: pd.DataFrame, axis: str, value: Any) -> Bool[np.ndarray, " n"]:
    return np.asarray(table[axis].isna() if value is None else table[axis] == value, dtype=bool)


def remaining_axes(table: pd.DataFrame, given: Sequence[str]) -> list[str]:
    """Configuration fields that vary though the given axes are fixed; neither seeds nor what follows from another."""
    _require(table, given)
    found: list[str] = []
    held = list(zip(*(_plain(table, axis) for axis in given), strict=True)) or [()] * len(table)
    for column in map(str, table.columns):
        if column in given or column in SEEDS or column in _RESULTS or column.startswith(_NOT_CONFIG):
            continue
        further = [(*known, value) for known, value in zip(held, _plain(table, column), strict=True)]
        if len(set(further)) > len(set(held)):
            found.append(column)
            held = further
    return found


def summarize(
    table: pd.DataFrame, axes: Sequence[str], quantity: str = "T_grok_0.95", *, level: float = 0.95
) -> pd.DataFrame:
    """The replicates of each setting in numbers.

    `median` is Kaplan and Meier's, over the runs that got there and those that had not by their last step; it is NaN
    where half of them never did. The mean, standard deviation (ddof 1) and extremes are over the `k` runs that got
    there alone, as is usual in print: read them with `k` and `n`.

    Args:
        table: a sweep's table, one row a run.
        axes: what was swept; seeds among them are passed over.
        quantity: of which the numbers are.
        level: confidence level of the median's interval.

    Returns:
        One row a setting: its axes; `n` runs with an outcome, `k` that reached the quantity; how many had each of
        `FATES`; `median`, `median_low`, `median_high`; `mean_of_k`, `std_of_k` (NaN for k < 2), `min_of_k`, `max_of_k`.

    Raises:
        ConfigError: the table lacks a column.
    """
    rows = []
    for setting, runs in settings(table, axes):
        seen = observe(runs, quantity)
        values = seen.values[seen.reached]
        row: dict[str, Any] = dict(setting)
        row |= {"n": sum(fate not in ("failed", "missing") for fate in seen.fates), "k": len(values)}
        row |= {fate: seen.fates.count(fate) for fate in FATES}
        row |= _median(seen, level)
        row |= {
            "mean_of_k": float(values.mean()) if len(values) else math.nan,
            "std_of_k": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            "min_of_k": float(values.min()) if len(values) else math.nan,
            "max_of_k": float(values.max()) if len(values) else math.nan,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _median(seen: Observed, level: float) -> dict[str, float]:
    """A time's median by Kaplan and Meier; of a number that may be negative, the plain one, without an interval."""
    values, reached = seen.values[seen.followed], seen.reached[seen.followed]
    if not len(values):
        return dict.fromkeys(("median", "median_low", "median_high"), math.nan)
    if (values < 0).any():
        middle = float(np.median(np.where(reached, values, np.inf)))
        return {
            "median": middle if math.isfinite(middle) else math.nan,
            "median_low": math.nan,
            "median_high": math.nan,
        }
    curve = kaplan_meier(values, reached, level=level)
    ends = curve.median_interval
    return {"median": curve.median, "median_low": ends.low, "median_high": ends.high}


def survival(table: pd.DataFrame, quantity: str = "T_grok_0.95", *, level: float = 0.95) -> Survival:
    """The Kaplan-Meier curve of a quantity over the runs of a table that are neither DNF_train nor without an outcome.

    Raises:
        ConfigError: the table lacks a column, or has no such run.
    """
    seen = _followed(table, quantity)
    return kaplan_meier(seen.values[seen.followed], seen.reached[seen.followed], level=level)


def compare(
    table: pd.DataFrame,
    arm_a: Mapping[str, Any],
    arm_b: Mapping[str, Any],
    quantity: str = "T_grok_0.95",
    **options: Any,
) -> ArmRatio:
    """A quantity in one arm over the same in another, with k of n of both; `options` are those of `ratio_of_arms`.

    Args:
        table: a sweep's table, one row a run.
        arm_a: what its runs have in common, such as `{"model.kind": "transformer"}`.
        arm_b: the same for the other arm.
        quantity: what is compared.
        options: `statistic`, `level`, `resamples`, `seed`.

    Raises:
        ConfigError: an arm has no run that can be counted, or the ratio cannot be made.
    """
    arms = []
    for arm in (arm_a, arm_b):
        _require(table, list(arm))
        chosen = np.ones(len(table), dtype=bool)
        for axis, value in arm.items():
            chosen &= _equals(table, axis, value)
        if not chosen.any():
            raise ConfigError(f"no run has {', '.join(f'{axis} = {value}' for axis, value in arm.items())}")
        arms.append(_followed(_part(table, chosen), quantity))
    return ratio_of_arms(
        *(seen.values[seen.followed] for seen in arms),
        *(seen.reached[seen.followed] for seen in arms),
        **options,
    )


def power_law(table: pd.DataFrame, axis: str, quantity: str = "T_grok_0.95", *, level: float = 0.95) -> PowerLaw:
    """The exponent of a quantity on a numeric axis, over every run of the table that got there or is censored.

    Runs that differ in another axis belong in tables of their own: `settings` parts them.

    Raises:
        ConfigError: the axis is not numeric; and as `fit_power_law`.
    """
    seen = _followed(table, quantity)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values_of(table, axis)):
        raise ConfigError(f"{axis} is not numeric: a power law needs numbers")
    x = table[axis].to_numpy(dtype=float)[seen.followed]
    return fit_power_law(x, seen.values[seen.followed], seen.reached[seen.followed], level=level)


def _followed(table: pd.DataFrame, quantity: str) -> Observed:
    seen = observe(table, quantity)
    if not seen.followed.any():
        counts = ", ".join(f"{count} {fate}" for fate, count in Counter(seen.fates).items())
        raise ConfigError(f"no run has {quantity}, nor was followed towards it ({counts or 'the table is empty'})")
    return seen


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise ConfigError(f"the table has no column {column!r}: {nearest(column, map(str, table.columns))}")
