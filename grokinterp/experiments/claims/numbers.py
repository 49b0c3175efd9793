"""What claims are decided with: slopes and spans of columns, seed by seed."""

import numpy as np
import pandas as pd

from grokinterp.experiments.outcome import Verdict


def verdict(holds: bool, n: int) -> Verdict:
    """Inconclusive where there was nothing to look at."""
    return "inconclusive" if n <= 0 else "supported" if holds else "not supported"


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x."""
    return float(np.polyfit(x, y, 1)[0])


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column of numbers; None is NaN."""
    return table[name].to_numpy(dtype=float)


def part_of(table: pd.DataFrame, varied: str) -> pd.DataFrame:
    return table.loc[table["varied"] == varied]


def seed_slopes(table: pd.DataFrame, x: str, y: str) -> np.ndarray:
    """By seed, the exponent of y as a power of x."""
    return np.array([slope(np.log(column(one, x)), np.log(column(one, y))) for _, one in table.groupby("seed")])


def relative_change(table: pd.DataFrame, name: str) -> np.ndarray:
    """By seed, the difference of the largest and the smallest value of a column, over the largest."""
    values = [column(one, name) for _, one in table.groupby("seed")]
    return np.array([(one.max() - one.min()) / one.max() for one in values])


def span(values: np.ndarray | list[float], spec: str = ".4g") -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:{spec}}" if f"{low:{spec}}" == f"{high:{spec}}" else f"{low:{spec}} to {high:{spec}}"
