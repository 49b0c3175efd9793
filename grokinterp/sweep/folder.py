"""Sweep: a folder of runs that differ in some configuration fields, and the table of their results."""

import contextlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.config.run import config_fields
from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.runs.checksums import read_checked_json, with_checksum
from grokinterp.runs.files import (
    access_error,
    exists,
    make_folder,
    make_subfolder,
    remove,
    remove_leftovers,
    require_inside,
    write_atomically,
)
from grokinterp.runs.folders import as_path, read_stable
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.tables import table_bytes
from grokinterp.statistics.formatting import setting
from grokinterp.sweep.grid import Point
from grokinterp.sweep.jobs import Failure
from grokinterp.sweep.rows import COLUMNS, Row, config_columns, is_number, summarize
from grokinterp.training.preparation import has_ended, may_follow

_VERSION = 1
_FILE, FAILURES, TABLE = "sweep.json", "failures", "sweep.parquet"


@dataclass(frozen=True, repr=False)
class Sweep(Carded):
    """A folder of runs. They share a base configuration, and each is an ordinary run folder at a point of its own.

    >>> import grokinterp as gi
    >>> config = gi.preset("demo").replace({"schedule.steps": 1})
    >>> sweep = gi.train_sweep("checkpoints/sweep", config, grid={"model_seed": [0, 1]})
    >>> len(sweep.table), list(sweep.axes)
    (2, ['model_seed'])

    Attributes:
        path: the folder.
        base: configuration that all runs share.
        points: the values that each run sets in it.
    """

    path: Path
    base: RunConfig
    points: tuple[Point, ...]

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("to_pandas", "to_dataframe", "df", "results", "data"): "sweep.table, a DataFrame with one row per run",
        ("report", "to_html", "plot"): "gi.write_sweep_report(sweep.table, sweep.axes, sweep.name, path)",
        ("train", "fit", "resume", "run"): "gi.train_sweep(sweep.path), which goes on with it",
    }

    def _card(self) -> Card:
        by_axis = {axis: [setting(point.values.get(axis)) for point in self.points] for axis in self.axes}
        values = {axis: ", ".join(dict.fromkeys(shown)) for axis, shown in by_axis.items()}
        counts = ", ".join(f"{count:,} {status}" for status, count in sorted(self.statuses().items()))
        facts = {"runs": f"{len(self.points):,}: {counts}", "task": self.base.task.title, **values}
        return Card(f"Sweep {self.path}", facts, ["sweep.table", "sweep.runs", "gi.train_sweep(sweep.path)"])

    @staticmethod
    def open(path: str | Path) -> "Sweep":
        """Open the sweep in a folder.

        Raises:
            RunError: the folder holds no sweep, or its sweep.json is damaged.
            ConfigError: the base configuration is damaged or has another format version.
        """
        folder = as_path(path)
        file = folder / _FILE
        if not exists(file):
            raise RunError(f"{folder} is not a sweep: it has no {_FILE}")
        try:
            content = read_checked_json(file)
            version = content["format_version"]
            if version != _VERSION:
                raise RunError(
                    f"{file} has format version {version!r}, but this grokinterp reads version {_VERSION}: install the "
                    "release that wrote the file"
                )
            base = json.dumps(content["base"])
            points = tuple(Point(str(run["name"]), dict(run["values"])) for run in content["runs"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}): run the full sweep command in another folder") from None
        sweep = Sweep(folder, RunConfig.from_json(base, str(file)), points)
        names, fields = {point.name for point in points}, set(config_fields(sweep.base))
        if not all(map(_is_folder_name, names)):
            raise RunError(f"{file} is damaged: the name of a run is not a valid folder name")
        if not points or len(names) < len(points) or any(not set(point.values) <= fields for point in points):
            raise RunError(f"{file} is damaged: it has no runs, two runs of one name, or an unknown config field")
        return sweep

    def write(self) -> None:
        """Write sweep.json, the description of the sweep.

        Raises:
            ConfigError: the folder holds a different sweep. A sweep may grow by points and by schedule.steps.
            RunError: the folder is a run, or cannot be written to.
        """
        if exists(self.path / _FILE):
            self._refuse_different(Sweep.open(self.path))
        elif exists(self.path / "config.json"):
            raise RunError(f"{self.path} is a run: choose another folder for a sweep")
        else:
            for name in (TABLE, "report.html", FAILURES):
                if exists(self.path / name):
                    raise RunError(f"{self.path / name} exists, but is of no sweep: choose another folder")
        make_folder(self.path)
        runs = [{"name": point.name, "values": dict(point.values)} for point in self.points]
        content = {"format_version": _VERSION, "base": json.loads(self.base.to_json()), "runs": runs}
        write_atomically(self.path / _FILE, json.dumps(with_checksum(content), indent=1) + "\n")

    def _refuse_different(self, stored: "Sweep") -> None:
        configs = {point.name: point.valid_config(self.base) for point in self.points}
        for point in stored.points:
            old, new = point.valid_config(stored.base), configs.get(point.name)
            grown = old is not None and new is not None and may_follow(new, old)
            if point.name not in configs or not (grown or new == old):
                raise ConfigError(
                    f"{self.path} holds a different sweep: its run {point.name} is not in this one; a sweep may grow "
                    "by values and by schedule.steps, otherwise choose another folder"
                )

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Dotted names of the fields that have more than one value, including seeds."""
        fields = dict.fromkeys(field for point in self.points for field in point.values)
        values = {field: {json.dumps(point.values.get(field)) for point in self.points} for field in fields}
        return tuple(field for field in fields if len(values[field]) > 1)

    @property
    def runs(self) -> list[Run]:
        """The runs that have started, in the order of the points."""
        return [Run.open(self.path / point.name) for point in self.points if self._has_started(point)]

    def point(self, name: str) -> Point:
        """The point of a run.

        Args:
            name: name of the run.

        Raises:
            ConfigError: the sweep has no such run.
        """
        for point in self.points:
            if point.name == name:
                return point
        raise ConfigError(f"{self.path} has no run {name!r}; it has {len(self.points)}, such as {self.points[0].name}")

    def ended_run(self, point: Point, config: RunConfig) -> Run | None:
        """The run at a point, if training it with `config` would make no further update."""
        if not self._has_started(point):
            return None
        run = Run.open(self.path / point.name)
        return run if may_follow(config, run.config) and has_ended(run, config) else None

    def _status(self, point: Point) -> dict[str, Any]:
        """status.json of a run, without reading its configuration; empty if the run has not started."""
        run = Run(self.path / point.name, self.base)
        return read_stable(run.path, lambda: run.status if self._has_started(point) else {})

    def _has_started(self, point: Point) -> bool:
        return exists(self.path / point.name / "config.json")

    @property
    def failures(self) -> dict[str, Failure]:
        """The failed runs by name, including diverged runs."""
        return {point.name: failure for point in self.points if (failure := self.failure_of(point)) is not None}

    def failure_of(self, point: Point) -> Failure | None:
        """Why a run failed; None if it did not, or if it was resumed outside the sweep and finished."""
        file = self.path / FAILURES / f"{point.name}.json"
        failure = None
        with contextlib.suppress(GrokinterpError, ValueError, TypeError):  # a damaged file counts as none
            failure = Failure.from_json(read_checked_json(file))
        if failure is not None and failure.kind != "killed":
            return failure
        status = self._status(point)
        if failure is not None and status.get("status") != RunStatus.FINISHED:
            return failure
        diverged = status.get("status") == RunStatus.DIVERGED
        return Failure("diverged", str(status.get("reason", ""))) if diverged else None

    def record_failure(self, name: str, failure: Failure | None) -> None:
        """Write a run's failure to failures/NAME.json, or delete that file. A diverged run has status.json instead.

        Args:
            name: name of the run.
            failure: None if the run did not fail.

        Raises:
            RunError: the folder cannot be written to.
        """
        file = self.path / FAILURES / f"{name}.json"
        if failure is not None and failure.kind != "diverged":
            make_subfolder(self.path, FAILURES)
            write_atomically(file, json.dumps(with_checksum(asdict(failure)), indent=1) + "\n")
        elif exists(file):
            require_inside(file.parent, self.path)
            remove(file)

    def remove_leftovers(self) -> None:
        """Remove what a crash left of interrupted writes, and restore runs that they had moved aside."""
        names = sorted(point.name for point in self.points)
        remove_leftovers(self.path, r"sweep\.json|sweep\.parquet|report\.html")
        remove_leftovers(self.path / FAILURES, rf"(?:{'|'.join(map(re.escape, names))})\.json")
        for name in names:
            incoming = self.path / f".{name}.tmp"  # a run that was being received from a cluster
            if _is_plain_folder(incoming):
                _remove_folder(incoming)
            run, backup = self.path / name, self.path / f".{name}.old"
            if not _is_plain_folder(backup):
                continue
            if exists(run):
                _remove_folder(backup)
            else:
                backup.replace(run)

    def statuses(self) -> Counter[str]:
        """Number of runs by `RunStatus`, or `damaged` if the status cannot be read."""
        counts: Counter[str] = Counter()
        for point in self.points:
            try:
                status = self._status(point).get("status")
                counts[status or (RunStatus.RUNNING if self._has_started(point) else RunStatus.MISSING)] += 1
            except GrokinterpError:
                counts["damaged"] += 1
        return counts

    @property
    def table(self) -> pd.DataFrame:
        """The results so far, one row per run. `Sweep.collect` lists the columns and writes the table to a file."""
        return table_of_rows([self._row(point) for point in self.points])

    def collect(self) -> pd.DataFrame:
        """Write the table to sweep.parquet.

        Returns:
            One row per run, with the columns `run`; `status` (a `RunStatus`); `failure`; `outcome`; `step`;
            `T_train_θ`, `T_grok_θ` and `T_grok_novel_θ` for θ = 0.95 and 0.99, in steps, each with the evaluated step
            before it (`..._after`); `delay_θ`, and `delay_0.95_0.99` = T_grok(0.95) - T_train(0.99); L2 norm
            (`weight_norm_at_T_grok_θ`) and RMS (`weight_rms_at_T_grok_θ`) of the trained weights; `final.NAME`, every
            metric and measure at the last checkpoint; and every field of the configuration by dotted name.

        Raises:
            RunError: the folder cannot be written to.
        """
        table = self.table
        write_atomically(self.path / TABLE, table_bytes(table))
        return table

    def _row(self, point: Point) -> Row:
        row: Row = {"run": point.name, "status": RunStatus.MISSING.value, "failure": None, "outcome": None}
        try:
            config = point.config(self.base)
        except ConfigError as error:
            columns = config_columns(self.base)
            values = {name: value if _fits(value, columns[name]) else None for name, value in point.values.items()}
            return row | {"status": RunStatus.FAILED.value, "failure": f"invalid: {error}"} | columns | values
        try:
            failure = self.failure_of(point)
            row |= read_stable(self.path / point.name, lambda: self._summarize(point, config))
        except GrokinterpError as error:
            failure = Failure("error", str(error))
        except Exception as error:  # a damaged run must not hide the other runs
            failure = Failure("error", f"{type(error).__name__}: {error}")
        if failure is not None:
            status = row["status"] if failure.kind == "diverged" else RunStatus.FAILED.value
            row |= {"status": status, "failure": str(failure)}
        return row | config_columns(config)

    def _summarize(self, point: Point, config: RunConfig) -> Row:
        if not self._has_started(point):
            return {}
        run = Run.open(self.path / point.name)
        if may_follow(run.config, config) and run.config != config:
            raise RunError(f"{run.path} has more steps than the sweep: run the sweep again with that schedule.steps")
        if not may_follow(config, run.config):
            raise RunError(f"{run.path} holds a run of a different configuration: move it elsewhere")
        return summarize(run, measures=False)


def _is_folder_name(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..") and name.isprintable() and len(name.encode()) <= 255


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise access_error("remove", folder, error) from None


def _fits(value: Any, example: Any) -> bool:
    """Whether an invalid value has the type of a valid one, so that both can be in one column."""
    if isinstance(example, bool | str):
        return type(value) is type(example)
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def table_of_rows(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table with one type per column, as Parquet requires."""
    rows = list(rows)
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    ordered = sorted(names, key=lambda name: name.startswith("final."))  # these come last; the sort is stable
    return pd.DataFrame({name: _column(name, [row.get(name) for row in rows]) for name in ordered})


def _column(name: str, values: list[Any]) -> pd.Series:
    kinds = {type(value) for value in values if value is not None}
    if is_number(name):
        return pd.Series(values, dtype=float)
    if kinds and kinds <= {int, float}:
        integers = kinds == {int} and None not in values
        return pd.Series(values, dtype=int if integers else float)
    if len(kinds) > 1:
        values = [None if value is None else _text(value) for value in values]
    return pd.Series(values, dtype=None if kinds == {bool} and None not in values else object)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
