"""Statistics on a sweep's table: which runs replicate a setting, the outcome of each, and summaries of them."""

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
from grokinterp.statistics.outcomes import Outcome
from grokinterp.statistics.powers import PowerLaw, fit_power_law
from grokinterp.statistics.survival import Survival, kaplan_meier

SEEDS = ("model_seed", "task.data_seed")
"""The fields in which replicates of one setting differ."""

_NOT_CONFIG = ("T_", "delay_", "weight_norm_", "weight_rms_", "final.")
_RESULTS = ("run", "status", "failure", "step", "outcome")
_UNTRAINED = (Outcome.FAILED, Outcome.MISSING)


@dataclass(frozen=True)
class Observed:
    """One quantity of each run of a sweep, in the order of the table; see `observe`.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"outcome": ["grokked", "DNF_test"], "T_grok_0.95": [900.0, float("nan")]})
    >>> observed = observe(table.assign(status="finished", step=5000), "T_grok_0.95")
    >>> observed.values.tolist(), observed.censored.tolist()
    ([900.0, 5000.0], [False, True])

    Attributes:
        values: the quantity. For a censored run, the time waited by its last step. For a time of a run that never
            memorized, its last step, which is drawn but not counted. Otherwise NaN.
        reached: True for the runs that have the quantity itself.
        censored: True for the runs that are known only to take longer.
        outcomes: the `Outcome` of each run.
    """

    values: Float[np.ndarray, " n"]
    reached: Bool[np.ndarray, " n"]
    censored: Bool[np.ndarray, " n"]
    outcomes: tuple[str, ...]

    @property
    def followed(self) -> Bool[np.ndarray, " n"]:
        """True for the runs that a survival curve or a fit counts."""
        return self.reached | self.censored


def observe(table: pd.DataFrame, quantity: str) -> Observed:
    """One quantity of each run of a sweep, and its meaning for runs that lack a number.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> observe(table, "T_grok_0.95").reached.tolist()
    [True, True, True, False]

    A quantity that a run reaches in time (`T_...` or `delay_...`) is right-censored if the run did not reach it by its
    last step. The censoring value of T is that step; that of a delay is the number of steps since T_train. Runs that
    diverged, failed or did not start are neither reached nor censored. The same holds for runs that never memorized
    (DNF_train), unless the quantity is T_train itself.

    Args:
        table: a sweep's table, one row per run.
        quantity: a numeric column of the table, such as `T_grok_0.95`, `delay_0.95_0.99` or `final.test_accuracy`.

    Raises:
        ConfigError: the table lacks the column, or the column has values that are not numbers.
    """
    _require(table, [quantity, "status", "outcome", "step"])
    try:
        value = table[quantity].astype(float).to_numpy(dtype=float, copy=True)
    except (TypeError, ValueError):
        raise ConfigError(f"{quantity} has values that are not numbers: choose a numeric column") from None
    step = table["step"].astype(float).to_numpy()
    outcomes = tuple(map(_outcome, table["status"].tolist(), table["outcome"].tolist()))
    outcome = np.array(outcomes, dtype=object)
    excluded = np.isin(outcome, [Outcome.DIVERGED, *_UNTRAINED])
    never_memorized = (outcome == Outcome.DNF_TRAIN) & (not quantity.startswith("T_train"))
    reached = ~excluded & ~never_memorized & np.isfinite(value)
    waited = step - _start(table, quantity)
    censored = ~excluded & ~never_memorized & ~reached & np.isfinite(waited)
    value[~reached] = np.nan
    value[censored] = waited[censored]
    if quantity.startswith(("T_", "delay_")):
        value[never_memorized] = step[never_memorized]
    return Observed(value, reached, censored, outcomes)


def _outcome(status: Any, outcome: Any) -> str:
    if status in _UNTRAINED:
        return str(status)
    if isinstance(outcome, str):
        return outcome
    return Outcome.DIVERGED if status == "diverged" else Outcome.UNDETERMINED


def _start(table: pd.DataFrame, quantity: str) -> np.ndarray:
    """The step from which a quantity counts; NaN if the run has not reached that step or the quantity is not a time."""
    if quantity.startswith("T_"):
        return np.zeros(len(table))
    if quantity.startswith("delay_"):
        # delay_0.95 is T_grok(0.95) - T_train(0.95), delay_0.95_0.99 is T_grok(0.95) - T_train(0.99).
        column = f"T_train_{quantity.rsplit('_', 1)[-1]}"
        _require(table, [column])
        return table[column].astype(float).to_numpy()
    return np.full(len(table), np.nan)


def values_of(table: pd.DataFrame, axis: str) -> list[Any]:
    """The distinct values of an axis: numbers in order (False before True), then strings in order, then None.

    >>> import pandas as pd
    >>> values_of(pd.DataFrame({"model.activation": ["relu", "gelu", "relu"]}), "model.activation")
    ['gelu', 'relu']

    Raises:
        ConfigError: the table lacks the column.
    """
    _require(table, [axis])
    return sorted(set(_plain(table, axis)), key=lambda value: (value is None, isinstance(value, str), value))


def _plain(table: pd.DataFrame, column: str) -> list[Any]:
    """A column as Python values, with None for every kind of missing value."""
    return [
        None if missing else value for value, missing in zip(table[column].tolist(), table[column].isna(), strict=True)
    ]


def settings(table: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """The runs of each setting, in the order of `values_of`. Runs of one setting agree in every axis but the seeds.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> [(setting, len(runs)) for setting, runs in settings(table, ["optimizer.weight_decay"])]
    [({'optimizer.weight_decay': 1.0}, 2), ({'optimizer.weight_decay': 2.0}, 2)]

    Raises:
        ConfigError: the table lacks an axis.
    """
    _require(table, [])
    groups: list[tuple[dict[str, Any], pd.DataFrame]] = [({}, table)]
    for axis in axes:
        if axis in SEEDS:
            continue
        groups = [
            (setting | {axis: value}, _rows(runs, _equals(runs, axis, value)))
            for setting, runs in groups
            for value in values_of(runs, axis)
        ]
    return groups


def _rows(table: pd.DataFrame, mask: Bool[np.ndarray, " n"]) -> pd.DataFrame:
    return pd.DataFrame(table[mask])


def _equals(table: pd.DataFrame, axis: str, value: Any) -> Bool[np.ndarray, " n"]:
    return np.asarray(table[axis].isna() if value is None else table[axis] == value, dtype=bool)


def remaining_axes(table: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Configuration fields that still vary when `axes` are fixed, without seeds and fields that follow from others.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> remaining_axes(table, [])
    ['optimizer.weight_decay']
    """
    _require(table, axes)
    varying: list[str] = []
    cells = list(zip(*(_plain(table, axis) for axis in axes), strict=True)) or [()] * len(table)
    for column in map(str, table.columns):
        if column in axes or column in SEEDS or column in _RESULTS or column.startswith(_NOT_CONFIG):
            continue
        finer = [(*cell, value) for cell, value in zip(cells, _plain(table, column), strict=True)]
        if len(set(finer)) > len(set(cells)):
            varying.append(column)
            cells = finer
    return varying


def summarize(
    table: pd.DataFrame, axes: Sequence[str], quantity: str = "T_grok_0.95", *, level: float = 0.95
) -> pd.DataFrame:
    """Summary statistics of the replicates of each setting.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> summarize(table, ["optimizer.weight_decay"])[["optimizer.weight_decay", "k", "n"]].to_dict("list")
    {'optimizer.weight_decay': [1.0, 2.0], 'k': [2, 1], 'n': [2, 2]}

    `median` is the Kaplan-Meier median, which counts the runs that had not reached the quantity by their last step. It
    is NaN if half of the runs never reached it. The mean, the standard deviation (ddof 1) and the extremes cover only
    the `k` runs that reached it, as is usual in print: read them together with `k` and `n`.

    Args:
        table: a sweep's table, one row per run.
        axes: the fields that were swept; seeds among them are ignored.
        quantity: the column to summarize.
        level: confidence level of the median's interval.

    Returns:
        One row per setting: its axes; `n` runs with an outcome, `k` that reached the quantity; the number of runs with
        each `Outcome`; `median`, `median_low`, `median_high`; `mean_of_k`, `std_of_k` (NaN for k < 2), `min_of_k`,
        `max_of_k`.

    Raises:
        ConfigError: the table lacks a column.
    """
    rows = []
    for setting, runs in settings(table, axes):
        observed = observe(runs, quantity)
        values = observed.values[observed.reached]
        row: dict[str, Any] = dict(setting)
        row |= {"n": sum(outcome not in _UNTRAINED for outcome in observed.outcomes), "k": len(values)}
        row |= {outcome.value: observed.outcomes.count(outcome) for outcome in Outcome}
        row |= _median(observed, level)
        row |= {
            "mean_of_k": float(values.mean()) if len(values) else math.nan,
            "std_of_k": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
            "min_of_k": float(values.min()) if len(values) else math.nan,
            "max_of_k": float(values.max()) if len(values) else math.nan,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _median(observed: Observed, level: float) -> dict[str, float]:
    """The Kaplan-Meier median of a time; the plain median, without an interval, if some values are negative."""
    values, reached = observed.values[observed.followed], observed.reached[observed.followed]
    median, low, high = math.nan, math.nan, math.nan
    if (values < 0).any():
        plain = float(np.median(np.where(reached, values, np.inf)))
        median = plain if math.isfinite(plain) else math.nan
    elif len(values):
        curve = kaplan_meier(values, reached, level=level)
        median, low, high = curve.median, curve.median_interval.low, curve.median_interval.high
    return {"median": median, "median_low": low, "median_high": high}


def survival(table: pd.DataFrame, quantity: str = "T_grok_0.95", *, level: float = 0.95) -> Survival:
    """The Kaplan-Meier curve of a quantity over the runs of a table, without DNF_train runs and runs without outcome.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> curve = survival(table)
    >>> curve.k, curve.n
    (3, 4)

    Raises:
        ConfigError: the table lacks a column, or has no such run.
    """
    observed = _observe_followed(table, quantity)
    return kaplan_meier(observed.values[observed.followed], observed.reached[observed.followed], level=level)


def compare(
    table: pd.DataFrame,
    arm_a: Mapping[str, Any],
    arm_b: Mapping[str, Any],
    quantity: str = "T_grok_0.95",
    **options: Any,
) -> ArmRatio:
    """The ratio of a quantity between two arms of a sweep, with k of n for both.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0] * 3 + [2.0] * 3, "model_seed": [0, 1, 2] * 2})
    >>> table = table.assign(outcome="grokked", status="finished", step=5000)
    >>> table["T_grok_0.95"] = [4000.0, 4200.0, 3900.0, 2000.0, 2100.0, 1900.0]
    >>> round(compare(table, {"optimizer.weight_decay": 1.0}, {"optimizer.weight_decay": 2.0}).ratio, 1)
    2.0

    Args:
        table: a sweep's table, one row per run.
        arm_a: the values that define arm A by column, such as `{"model.kind": "transformer"}`.
        arm_b: the same for arm B.
        quantity: the column to compare.
        options: `statistic`, `level`, `resamples` and `seed`, as in `ratio_of_arms`.

    Raises:
        ConfigError: an arm has no run that counts, or the ratio is undefined.
    """
    arms = []
    for arm in (arm_a, arm_b):
        _require(table, list(arm))
        mask = np.ones(len(table), dtype=bool)
        for axis, value in arm.items():
            mask &= _equals(table, axis, value)
        if not mask.any():
            raise ConfigError(f"no run has {', '.join(f'{axis} = {value}' for axis, value in arm.items())}")
        arms.append(_observe_followed(_rows(table, mask), quantity))
    return ratio_of_arms(
        *(arm.values[arm.followed] for arm in arms), *(arm.reached[arm.followed] for arm in arms), **options
    )


def power_law(table: pd.DataFrame, axis: str, quantity: str = "T_grok_0.95", *, level: float = 0.95) -> PowerLaw:
    """The exponent of a quantity as a function of a numeric axis, over all reached and censored runs of the table.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"optimizer.weight_decay": [1.0, 1.0, 2.0, 2.0], "model_seed": [0, 1, 0, 1]})
    >>> table = table.assign(outcome=["grokked", "grokked", "grokked", "DNF_test"], status="finished", step=5000)
    >>> table = table.assign(**{"T_train_0.99": 200.0, "T_grok_0.95": [4000.0, 3000.0, 2000.0, float("nan")]})
    >>> power_law(table, "optimizer.weight_decay").n
    4

    Runs that differ in another axis belong in separate tables: split them with `settings`.

    Raises:
        ConfigError: the axis is not numeric; otherwise as `fit_power_law`.
    """
    observed = _observe_followed(table, quantity)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values_of(table, axis)):
        raise ConfigError(f"{axis} is not numeric: a power law needs numbers")
    x = table[axis].to_numpy(dtype=float)[observed.followed]
    return fit_power_law(x, observed.values[observed.followed], observed.reached[observed.followed], level=level)


def _observe_followed(table: pd.DataFrame, quantity: str) -> Observed:
    observed = observe(table, quantity)
    if not observed.followed.any():
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(observed.outcomes).items())
        raise ConfigError(
            f"no run has reached {quantity} or is censored in it ({counts or 'the table is empty'}): give a table with "
            "runs that memorized"
        )
    return observed


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise ConfigError(f"table must be a DataFrame, the table of a sweep, but is {type(table).__name__}")
    for column in columns:
        if column not in table.columns:
            raise ConfigError(f"the table has no column {column!r}: {nearest(column, map(str, table.columns))}")
