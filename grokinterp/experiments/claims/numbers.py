"""Building blocks of claims: columns as arrays, medians, slopes and verdicts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.experiments.outcome import Verdict, verdict
from grokinterp.statistics import settings

T_TRAIN, T_GROK = "T_train_0.99", "T_grok_0.95"


def fewest_runs(table: pd.DataFrame, axes: Sequence[str]) -> int:
    """The number of runs of the setting that has the fewest; 0 without runs. Axes that the table lacks do not vary."""
    varied = [axis for axis in axes if axis in table]
    return min(len(runs) for _, runs in table.groupby(varied, dropna=False)) if varied and len(table) else len(table)


def counted(n: int, noun: str) -> str:
    """A number with its noun, such as `1 run` or `3 runs`."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def times_by_setting(times: Mapping[Any, float] | pd.Series, at: str = "at") -> str:
    """Times with their settings, such as `900 at 0.1, never at 0.5`."""
    return ", ".join(
        f"{f'{time:,.0f}' if np.isfinite(time) else 'never'} {at} {value if isinstance(value, str) else f'{value:g}'}"
        for value, time in times.items()
    )


def unanimous_verdict(hits: int, n: int, at_least: int) -> Verdict:
    """Supported if all n runs are hits, not supported if none is; inconclusive in between or below `at_least` runs."""
    return "inconclusive" if n < at_least or 0 < hits < n else verdict(hits == n, n)


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as float64, with NaN for None."""
    return table[name].to_numpy(dtype=float)


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are neither NaN nor infinite."""
    return values[np.isfinite(values)]


def rows_with(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows in which a column is finite, such as those of runs that reached a time."""
    return table.loc[np.isfinite(column(table, name))]


def sweep_over(table: pd.DataFrame, varied: str) -> pd.DataFrame:
    """The rows whose column `varied` names this setting."""
    return table.loc[table["varied"] == varied]


def median_times(table: pd.DataFrame, axis: str, name: str) -> dict[Any, float]:
    """Median of a time over the runs at each value of an axis, in order; infinite if half of them never reached it."""
    medians = {}
    for setting, runs in settings(table, [axis]):
        times = column(runs, name)
        medians[setting[axis]] = float(np.median(np.where(np.isfinite(times), times, np.inf)))
    return medians


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x."""
    return float(np.polyfit(x, y, 1)[0])


def exponent(table: pd.DataFrame, x: str, y: str) -> float:
    """Exponent of column y as a power of column x."""
    return slope(np.log(column(table, x)), np.log(column(table, y)))


def seed_slopes(table: pd.DataFrame, x: str, y: str) -> np.ndarray:
    """Exponent of column y as a power of column x, one per seed."""
    return np.array([exponent(runs, x, y) for _, runs in table.groupby("seed")])


def is_inverse(exponents: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether each exponent is -1 within a tolerance."""
    return np.abs(exponents + 1) <= tolerance


def relative_change(table: pd.DataFrame, name: str) -> np.ndarray:
    """(largest - smallest) / largest value of a column, one per seed."""
    values = [column(runs, name) for _, runs in table.groupby("seed")]
    return np.array([(x.max() - x.min()) / x.max() for x in values])
