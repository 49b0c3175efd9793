"""Evidence: the results of a recipe's runs, arm by arm."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError, nearest
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome
from grokinterp.sweep import Sweep

_ALL: Mapping[str, Any] = {}


class Evidence:
    """The sweeps of a recipe after training.

    >>> Evidence({}, quick=True).lost
    ()

    Attributes:
        sweeps: the sweep of each arm, by name.
        tables: the table of each sweep with all its runs, read once.
        quick: whether this is the quick form.
    """

    def __init__(self, sweeps: Mapping[str, Sweep], quick: bool):
        self.sweeps, self.quick = sweeps, quick
        self.tables = {name: sweep.table for name, sweep in sweeps.items()}

    def table(self, arm: str, where: Mapping[str, Any] = _ALL) -> pd.DataFrame:
        """The rows of an arm's table that match `where`, without runs that failed or did not finish.

        Raises:
            ConfigError: there is no such arm or no such column.
        """
        if arm not in self.tables:
            raise ConfigError(f"no arm {arm!r}: {nearest(arm, self.tables)}")
        table = self.tables[arm]
        table = table.loc[_has_outcome(table)]
        for name, value in where.items():
            if name not in table:
                raise ConfigError(f"the table of arm {arm} has no column {name!r}: {nearest(name, list(table))}")
            table = table.loc[_matches(table[name], value)]
        return table

    def runs(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[Run]:
        """The runs of these rows, in the order of the table."""
        return [Run.open(self.sweeps[arm].path / name) for name in self.table(arm, where)["run"]]

    def metrics(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[pd.DataFrame]:
        """The metrics that each of these runs recorded during training, by step."""
        return [run.metrics for run in self.runs(arm, where)]

    @property
    def lost(self) -> tuple[str, ...]:
        """Runs that failed or did not finish, each with the reason. They are not part of the evidence."""
        return tuple(
            f"run {arm}/{row['run']} {row['failure'] or row['status']}"
            for arm, table in self.tables.items()
            for _, row in table.loc[~_has_outcome(table)].iterrows()
        )

    @property
    def diverged(self) -> tuple[str, ...]:
        """Runs that diverged. They are part of the evidence."""
        return tuple(
            f"run {arm}/{row['run']} diverged: {row['failure']}"
            for arm, table in self.tables.items()
            for _, row in table.loc[table["outcome"] == Outcome.DIVERGED].iterrows()
        )

    @property
    def seconds(self) -> float:
        """The summed training time of all runs."""
        runs = [run for sweep in self.sweeps.values() for run in sweep.runs]
        return sum(float((run.status.get("timing") or {}).get("seconds") or 0.0) for run in runs)


def _has_outcome(table: pd.DataFrame) -> np.ndarray:
    """Marks runs with an outcome; the metrics of a crashed run may suggest one, but it does not count."""
    ended = ~np.isin(list(table["status"]), [RunStatus.FAILED, RunStatus.MISSING])
    return ended & np.array(
        [isinstance(outcome, str) and outcome != Outcome.UNDETERMINED for outcome in table["outcome"]]
    )


def _matches(column: pd.Series, value: Any) -> pd.Series:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return pd.Series(
            np.isclose(np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float), value), column.index
        )
    return column == value
