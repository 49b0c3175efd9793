"""Evidence: what the runs of a recipe came to, arm by arm."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError, nearest
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep

_ALL: Mapping[str, Any] = {}


class Evidence:
    """The sweeps of a recipe that was run.

    Attributes:
        sweeps: by the name of the arm.
        tables: of these, with every run, read once.
        quick: whether it is the quick form.
    """

    def __init__(self, sweeps: Mapping[str, Sweep], quick: bool):
        self.sweeps, self.quick = sweeps, quick
        self.tables = {name: sweep.table for name, sweep in sweeps.items()}

    def table(self, arm: str, where: Mapping[str, Any] = _ALL) -> pd.DataFrame:
        """The rows of an arm's table that have these values, without runs that failed or did not come to their end.

        Raises:
            ConfigError: there is no such arm, or no such column.
        """
        if arm not in self.tables:
            raise ConfigError(f"no arm {arm!r}: {nearest(arm, self.tables)}")
        table = self.tables[arm]
        table = table.loc[_came_to_something(table)]
        for name, value in where.items():
            if name not in table:
                raise ConfigError(f"the table of arm {arm} has no column {name!r}: {nearest(name, list(table))}")
            table = table.loc[_matches(table[name], value)]
        return table

    def runs(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[Run]:
        """The runs of these rows, in their order."""
        return [Run.open(self.sweeps[arm].path / name) for name in self.table(arm, where)["run"]]

    def metrics(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[pd.DataFrame]:
        """What was evaluated during each of these runs, by step."""
        return [run.metrics for run in self.runs(arm, where)]

    @property
    def lost(self) -> tuple[str, ...]:
        """Runs that failed or did not come to their end, each with the reason; they are not in the evidence."""
        return tuple(
            f"run {arm}/{row['run']} {row['failure'] or row['status']}"
            for arm, table in self.tables.items()
            for _, row in table.loc[~_came_to_something(table)].iterrows()
        )

    @property
    def diverged(self) -> tuple[str, ...]:
        """Runs that diverged, which are in the evidence."""
        return tuple(
            f"run {arm}/{row['run']} diverged: {row['failure']}"
            for arm, table in self.tables.items()
            for _, row in table.loc[table["outcome"] == "diverged"].iterrows()
        )

    @property
    def seconds(self) -> float:
        """What the runs took, added up."""
        every = [run for sweep in self.sweeps.values() for run in sweep.runs]
        return sum(float((run.status.get("timing") or {}).get("seconds") or 0.0) for run in every)


def _came_to_something(table: pd.DataFrame) -> np.ndarray:
    """Which runs have an outcome, and not one that a crash left them with."""
    ended = ~np.isin(list(table["status"]), ["failed", "missing"])
    return ended & np.array([isinstance(outcome, str) and outcome != "undetermined" for outcome in table["outcome"]])


def _matches(column: pd.Series, value: Any) -> pd.Series:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return pd.Series(
            np.isclose(np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float), value), column.index
        )
    return column == value
