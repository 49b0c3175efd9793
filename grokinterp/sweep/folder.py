"""Sweep: a folder of runs that differ in some configuration fields, and the table of what became of them."""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.runs.files import (
    cannot,
    exists,
    make_folder,
    make_subfolder,
    parse_json,
    read_text,
    remove,
    remove_leftovers,
    require_inside,
    write_atomically,
)
from grokinterp.runs.run import Run, settled
from grokinterp.sweep.grid import Point, config_fields
from grokinterp.sweep.jobs import Failure
from grokinterp.sweep.rows import COLUMNS, Row, config_columns, is_number, kept_summary, summarize
from grokinterp.training.preparation import has_ended, may_follow

_VERSION = 1
_FILE, _FAILURES = "sweep.json", "failures"

State = Literal["missing", "begun", "ended", "summarized"]


@dataclass(frozen=True)
class Sweep:
    """Runs of one base configuration, each at its own point, each an ordinary run folder.

    Attributes:
        path: the folder.
        base: what the runs have in common.
        points: what each run sets in it.
    """

    path: Path
    base: RunConfig
    points: tuple[Point, ...]

    @staticmethod
    def open(path: str | Path) -> "Sweep":
        """The sweep in that folder.

        Raises:
            RunError: there is none, or its sweep.json is damaged.
            ConfigError: its base configuration is damaged or of another format version.
        """
        folder = Path(path)
        file = folder / _FILE
        if not exists(file):
            raise RunError(f"{folder} is not a sweep: it holds no {_FILE}")
        text = read_text(file)
        try:
            content = parse_json(text)
            version = content["format_version"]
            if version != _VERSION:
                raise RunError(
                    f"{file} has format version {version!r}, and this grokinterp reads version {_VERSION}: install the "
                    "release that wrote it"
                )
            base = json.dumps(content["base"])
            points = tuple(Point(str(run["name"]), dict(run["values"])) for run in content["runs"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}): give the sweep's options again in another folder") from None
        found = Sweep(folder, RunConfig.from_json(base, str(file)), points)
        names, known = {point.name for point in points}, set(config_fields(found.base))
        if not all(_names_a_folder(name) for name in names):
            raise RunError(f"{file} is damaged: a run's name is no name of a folder")
        if not points or len(names) < len(points) or any(not set(point.values) <= known for point in points):
            raise RunError(f"{file} is damaged: no runs, two of one name, or a field that the configuration lacks")
        return found

    def write(self) -> None:
        """Writes sweep.json, which says what the sweep is.

        Raises:
            ConfigError: the folder holds another sweep. One may grow: by points, and by more schedule.steps.
            RunError: the folder holds something else, or cannot be written to.
        """
        if exists(self.path / _FILE):
            self._refuse_another(Sweep.open(self.path))
        elif exists(self.path / "config.json"):
            raise RunError(f"{self.path} is a run: choose another folder for a sweep")
        make_folder(self.path)
        runs = [{"name": point.name, "values": dict(point.values)} for point in self.points]
        content = {"format_version": _VERSION, "base": json.loads(self.base.to_json()), "runs": runs}
        write_atomically(self.path / _FILE, json.dumps(content, indent=1) + "\n")

    def _refuse_another(self, stored: "Sweep") -> None:
        ours = {point.name: point.config_if_possible(self.base) for point in self.points}
        for point in stored.points:
            old, new = point.config_if_possible(stored.base), ours.get(point.name)
            grown = old is not None and new is not None and may_follow(new, old)
            if point.name not in ours or not (grown or new == old):
                raise ConfigError(
                    f"{self.path} holds another sweep: its run {point.name} is not among the runs given; a sweep may "
                    "grow by values and by schedule.steps, else choose another folder"
                )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The fields, by dotted name, that have more than one value, seeds among them."""
        fields = dict.fromkeys(field for point in self.points for field in point.values)
        values = {field: {json.dumps(point.values.get(field)) for point in self.points} for field in fields}
        return tuple(field for field in fields if len(values[field]) > 1)

    @property
    def runs(self) -> list[Run]:
        """Those that have begun, in the order of the points."""
        return [Run.open(self.path / point.name) for point in self.points if self._begun(point)]

    def point(self, name: str) -> Point:
        """The point of that name.

        Raises:
            ConfigError: there is none.
        """
        found = next((point for point in self.points if point.name == name), None)
        if found is None:
            raise ConfigError(
                f"{self.path} has no run {name!r}; it has {len(self.points)}, such as {self.points[0].name}"
            )
        return found

    def state(self, point: Point, config: RunConfig) -> State:
        """How far a run is; a summarized one needs nothing more."""
        if not self._begun(point):
            return "missing"
        run = Run.open(self.path / point.name)
        if not may_follow(config, run.config) or not has_ended(run, config):
            return "begun"
        return "ended" if kept_summary(run) is None else "summarized"

    def _status(self, point: Point) -> dict[str, Any]:
        """The status of a run, for which nobody needs to read its configuration; empty before it began."""
        run = Run(self.path / point.name, self.base)
        return settled(run.path, lambda: run.status if self._begun(point) else {})

    def _begun(self, point: Point) -> bool:
        return exists(self.path / point.name / "config.json")

    @property
    def failures(self) -> dict[str, Failure]:
        """By run, why it has not come to its end; diverged runs are among them."""
        found = {point.name: self.failure_of(point) for point in self.points}
        return {name: failure for name, failure in found.items() if failure is not None}

    def failure_of(self, point: Point) -> Failure | None:
        """Why a run has not come to its end; None where nothing went wrong."""
        file = self.path / _FAILURES / f"{point.name}.json"
        with contextlib.suppress(GrokinterpError, ValueError, TypeError):  # damaged: the run itself may say it
            return Failure.of(parse_json(read_text(file)))
        status = self._status(point)
        return Failure("diverged", str(status.get("reason", ""))) if status.get("status") == "diverged" else None

    def note(self, name: str, failure: Failure | None) -> None:
        """Keeps why a run failed, or forgets it; a diverged run says it itself.

        Raises:
            RunError: the folder cannot be written to.
        """
        file = self.path / _FAILURES / f"{name}.json"
        if failure is not None and failure.kind != "diverged":
            make_subfolder(self.path, _FAILURES)
            write_atomically(file, json.dumps(asdict(failure), indent=1) + "\n")
        elif exists(file):
            require_inside(file.parent, self.path)
            remove(file)

    def tidy(self) -> None:
        """Removes what writes that a crash cut short have left, and puts back what they had moved away."""
        remove_leftovers(self.path)
        remove_leftovers(self.path / _FAILURES)
        names = {point.name for point in self.points}
        for leftover in (entry for entry in self.path.glob(".*.tmp") if entry.is_dir() and not entry.is_symlink()):
            _remove_folder(leftover)
        for outgoing in (self.path / f".{name}.old" for name in sorted(names)):
            run = self.path / outgoing.name[1 : -len(".old")]
            if outgoing.is_symlink() or not outgoing.is_dir():
                continue
            if exists(run):
                _remove_folder(outgoing)
            else:
                outgoing.replace(run)

    def statuses(self) -> Counter[str]:
        """How many runs have which status; `missing` before they began, `damaged` where it cannot be read."""
        found: Counter[str] = Counter()
        for point in self.points:
            try:
                status = self._status(point).get("status")
                found[status or ("running" if self._begun(point) else "missing")] += 1
            except GrokinterpError:
                found["damaged"] += 1
        return found

    @property
    def table(self) -> pd.DataFrame:
        """One row a run, as of now: see `Sweep.collect`, which also writes it to sweep.parquet."""
        return _frame([self._row(point) for point in self.points])

    def collect(self) -> pd.DataFrame:
        """Writes sweep.parquet.

        Columns: `run`; `status` (`missing` before it began, `failed`, or the run's own); `failure`; `outcome`; `step`;
        `T_train_θ`, `T_grok_θ` and `T_grok_novel_θ` for θ = 0.95 and 0.99, in steps, each with the evaluated step
        before it (`..._after`); `delay_θ`, and `delay_0.95_0.99` = T_grok(0.95) - T_train(0.99); L2 norm
        (`weight_norm_at_T_grok_θ`) and RMS (`weight_rms_at_T_grok_θ`) of the trained weights; `final.NAME` of every
        metric and measure at the last checkpoint; and every field of the configuration by dotted name.

        Raises:
            RunError: the folder cannot be written to.
        """
        table = self.table
        write_atomically(self.path / "sweep.parquet", table.to_parquet(index=False))
        return table

    def _row(self, point: Point) -> Row:
        row: Row = {"run": point.name, "status": "missing", "failure": None, "outcome": None}
        try:
            config = point.config(self.base)
        except ConfigError as error:
            columns = config_columns(self.base)
            given = {name: value if _fits(value, columns[name]) else None for name, value in point.values.items()}
            return row | {"status": "failed", "failure": f"invalid: {error}"} | columns | given
        try:
            failure = self.failure_of(point)
            row |= settled(self.path / point.name, lambda: self._came_to(point, config))
        except GrokinterpError as error:
            failure = Failure("error", str(error))
        except Exception as error:  # a damaged run must not hide the others
            failure = Failure("error", f"{type(error).__name__}: {error}")
        if failure is not None:
            row |= {"status": row["status"] if failure.kind == "diverged" else "failed", "failure": str(failure)}
        return row | config_columns(config)

    def _came_to(self, point: Point, config: RunConfig) -> Row:
        if not self._begun(point):
            return {}
        run = Run.open(self.path / point.name)
        if not may_follow(config, run.config):
            raise RunError(f"{run.path} holds a run of another configuration")
        return summarize(run, measures=False)


def _names_a_folder(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..") and name.isprintable() and len(name.encode()) <= 255


def _remove_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise cannot("remove", folder, error) from None


def _fits(value: Any, known: Any) -> bool:
    """Whether a value that makes no sense can stand in a column with those that do."""
    if isinstance(known, bool | str):
        return type(value) is type(known)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 2**63


def _frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table whose columns have one kind of value each, as Parquet wants it."""
    rows = list(rows)
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    ordered = sorted(names, key=lambda name: name.startswith("final."))  # stable: these come last
    return pd.DataFrame({name: _column(name, [row.get(name) for row in rows]) for name in ordered})


def _column(name: str, values: list[Any]) -> pd.Series:
    kinds = {type(value) for value in values if value is not None}
    if is_number(name):
        return pd.Series(values, dtype=float)
    if kinds and kinds <= {int, float}:
        whole = kinds == {int} and None not in values
        return pd.Series(values, dtype=int if whole else float)
    if len(kinds) > 1:
        values = [None if value is None else _text(value) for value in values]
    return pd.Series(values, dtype=None if kinds == {bool} and None not in values else object)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
