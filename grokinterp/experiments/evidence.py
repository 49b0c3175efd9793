"""Evidence: the results of a recipe's runs, arm by arm."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, nearest
from grokinterp.experiments.records.folder import has_bf16_products
from grokinterp.experiments.records.record import Record
from grokinterp.runs.files import exists
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome
from grokinterp.sweep.folder import table_of_rows
from grokinterp.sweep.rows import Row, config_columns

_ALL: Mapping[str, Any] = {}
# Columns that claims may use; those of a run that is missing are empty.
_FINAL = ("final.train_loss", "final.train_accuracy", "final.test_loss", "final.test_accuracy")


@dataclass(frozen=True)
class Entry:
    """One run of an arm.

    Attributes:
        name: of the run in the arm.
        config: its configuration in the arm.
        record: of the run, or of one that serves in its place; None if it has not been trained, or failed.
        failure: why it failed.
        folder: of the run, with its checkpoints, if it was trained here.
    """

    name: str
    config: RunConfig
    record: Record | None = None
    failure: str | None = None
    folder: Path | None = None

    def row(self) -> Row:
        """Its row in the table of the arm."""
        if self.record is not None:
            return {"run": self.name, "failure": None, **self.record.row(self.config)}
        status = RunStatus.MISSING if self.failure is None else RunStatus.FAILED
        return {
            **{"run": self.name, "status": status.value, "failure": self.failure, "outcome": None},
            **dict.fromkeys(_FINAL),
            **config_columns(self.config),
        }


class Evidence:
    """The runs of a recipe, each represented by its record.

    >>> Evidence("ridge", {}, quick=True).lost
    ()

    Attributes:
        recipe: name of the recipe.
        entries: the runs of each arm, by name of the arm.
        tables: the table of each arm, with a row for every run, also those that are missing.
        quick: whether this is the quick form.
    """

    def __init__(self, recipe: str, entries: Mapping[str, Iterable[Entry]], quick: bool):
        self.recipe, self.quick = recipe, quick
        self.entries = {arm: tuple(runs) for arm, runs in entries.items()}
        self.tables = {arm: table_of_rows([entry.row() for entry in runs]) for arm, runs in self.entries.items()}

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that have runs with an outcome."""
        return tuple(arm for arm in self.entries if len(self.table(arm)))

    def table(self, arm: str, where: Mapping[str, Any] = _ALL) -> pd.DataFrame:
        """The rows of an arm's table that match `where`, without runs that failed or are missing.

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

    def records(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[Record]:
        """The records of these rows, in the order of the table."""
        return [entry.record for entry in self._selected(arm, where) if entry.record is not None]

    def metrics(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[pd.DataFrame]:
        """The thinned metrics of each of these runs, by step."""
        return [record.metrics for record in self.records(arm, where)]

    def extracted(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[Mapping[str, Any]]:
        """What `Arm.extract` took from the checkpoints of each of these runs."""
        return [record.extracted.get(self.recipe, {}) for record in self.records(arm, where)]

    def runs(self, arm: str, where: Mapping[str, Any] = _ALL) -> list[Run]:
        """Those of these runs whose checkpoints are on this machine, for figures."""
        folders = [entry.folder for entry in self._selected(arm, where)]
        return [Run.open(folder) for folder in folders if folder is not None and exists(folder / "config.json")]

    def _selected(self, arm: str, where: Mapping[str, Any]) -> list[Entry]:
        """The entries of these rows of an arm's table."""
        by_name = {entry.name: entry for entry in self.entries[arm]}
        return [by_name[name] for name in self.table(arm, where)["run"]]

    def _recorded(self) -> list[tuple[str, str, Record]]:
        """Every record, with its arm and run."""
        return [
            (arm, entry.name, entry.record)
            for arm, runs in self.entries.items()
            for entry in runs
            if entry.record is not None
        ]

    @property
    def lost(self) -> tuple[str, ...]:
        """Runs that failed, each with the reason. They are not part of the evidence."""
        return tuple(
            f"run {arm}/{entry.name} {entry.failure}"
            for arm, runs in self.entries.items()
            for entry in runs
            if entry.failure is not None and entry.record is None
        )

    @property
    def missing(self) -> int:
        """Number of runs that have not been trained."""
        return sum(entry.record is None and entry.failure is None for runs in self.entries.values() for entry in runs)

    @property
    def partial(self) -> bool:
        """Whether an arm has some of its runs but not all, so that they decide no assertion."""
        return any(
            any(entry.record is not None for entry in runs) and any(entry.record is None for entry in runs)
            for runs in self.entries.values()
        )

    @property
    def bf16(self) -> bool:
        """Whether some runs were trained with bf16 products, so that they decide no assertion."""
        return any(has_bf16_products(record) for _, _, record in self._recorded())

    @property
    def diverged(self) -> tuple[str, ...]:
        """Runs that diverged. They are part of the evidence."""
        return tuple(
            f"run {arm}/{name} diverged: {record.reason}"
            for arm, name, record in self._recorded()
            if record.outcome == Outcome.DIVERGED
        )

    @property
    def seconds(self) -> float:
        """The summed training time of all runs."""
        return sum(record.seconds or 0.0 for _, _, record in self._recorded())


def _has_outcome(table: pd.DataFrame) -> np.ndarray:
    return np.array(
        [isinstance(outcome, str) and outcome != Outcome.UNDETERMINED for outcome in table["outcome"]], dtype=bool
    )


def _matches(column: pd.Series, value: Any) -> pd.Series:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return pd.Series(
            np.isclose(np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float), value), column.index
        )
    return column == value
