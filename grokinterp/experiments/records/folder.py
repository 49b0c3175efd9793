"""The folder of records: which runs of published experiments exist already, and which of them serve a configuration."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from grokinterp.config import RunConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import RunError
from grokinterp.experiments.records.computation import COMPUTATION, Computation
from grokinterp.experiments.records.record import Record, damaged
from grokinterp.runs.files import exists, make_folder, write_atomically
from grokinterp.runs.status import RunStatus
from grokinterp.training.stopping import is_dead, last_needed_step

_SOURCE = Path(__file__).parents[3] / "docs" / "reproductions" / "records"


def default_folder() -> Path:
    """Where records are kept: in the documentation of a source checkout, otherwise below the current folder."""
    return _SOURCE if exists(_SOURCE) else Path("reproductions") / "records"


def is_same_run(a: RunConfig, b: RunConfig) -> bool:
    """Whether two configurations describe one run: task, model, optimizer, seeds, and loss are equal.

    >>> from grokinterp.config.presets import preset
    >>> demo = preset("demo")
    >>> is_same_run(demo, demo.replace({"schedule.steps": 9})), is_same_run(demo, demo.replace({"model_seed": 9}))
    (True, False)
    """
    return identity(a) == identity(b)


def identity(config: RunConfig) -> str:
    """Everything of a configuration that an update depends on, as text."""
    content = json.loads(config.to_json())
    return json.dumps({name: value for name, value in content.items() if name != "schedule"}, sort_keys=True)


def serves(record: Record, config: RunConfig) -> bool:
    """Whether a record can stand for a run with this configuration, because it is the same run and covers it.

    It must have trained until the step at which such a run would end, given the record's own events, though not beyond
    the last step of its schedule, and it must have been evaluated at every step at which such a run is evaluated.

    >>> from grokinterp.experiments.records.recording import record_run
    >>> from grokinterp.runs.run import Run
    >>> record = record_run(Run.open("checkpoints/run42"), "demo", "run42")
    >>> longer = record.config.replace({"schedule.stop_factor": 9})
    >>> serves(record, record.config), serves(record, longer)
    (True, False)
    """
    if record.config.schedule is None or config.schedule is None or not is_same_run(record.config, config):
        return False
    row = record.row(config)
    times = (row[name] if row[name] is None else int(row[name]) for name in ("T_train_0.99", "T_grok_0.99"))
    # Rules end a run at an evaluated step, here at one of its own.
    needed = last_needed_step(replace(config.schedule, evaluate_every=record.config.schedule.evaluate_every), *times)
    if record.status == RunStatus.DIVERGED:
        ended = record.step < needed
    else:
        ended = record.step >= needed or (config.schedule.stop_when_dead and is_dead(record.reason))
    if not ended or record.step > config.schedule.steps:
        return False
    ours = scheduled_steps(record.config.schedule.evaluate_every, record.config.schedule.steps)
    theirs = scheduled_steps(config.schedule.evaluate_every, config.schedule.steps)
    last = min(needed, record.step)
    return {step for step in theirs if step <= last and step != config.schedule.steps} <= set(ours)


@dataclass
class Records:
    """The records in a folder: `RECIPE/NAME.json` of a run, `RECIPE/computation.json` of a recipe that trains none.

    >>> records = Records(Path("docs/reproductions/records"))
    >>> records.find(RunConfig()) is None
    True

    Attributes:
        folder: the folder, which need not exist yet.
    """

    folder: Path
    _by_run: dict[str, list[Record]] | None = field(default=None, init=False, repr=False)

    def __iter__(self) -> Iterator[Record]:
        """Every record of a run, in the order of the files.

        Raises:
            RunError: a file is damaged; the message names it.
        """
        return (record for same in self._read().values() for record in same)

    def find(self, config: RunConfig, extracted_for: str | None = None) -> Record | None:
        """The record that serves a configuration, if there is one; preferably of a run without bf16 products.

        Args:
            config: of the run that is needed.
            extracted_for: the recipe that needs something extracted from its checkpoints, if any.

        Raises:
            RunError: a file is damaged.
        """
        same = self._read().get(identity(config), [])
        found = [
            record
            for record in same
            if (extracted_for is None or extracted_for in record.extracted) and serves(record, config)
        ]
        return min(found, key=has_bf16_products, default=None)

    def add(self, record: Record) -> Path:
        """Writes a record and returns its path. A record of the same name is replaced.

        Raises:
            RunError: the folder cannot be written to.
        """
        file = self.folder / record.recipe / f"{record.name}.json"
        make_folder(file.parent)
        write_atomically(file, record.to_json())
        same = self._read().setdefault(identity(record.config), [])
        same[:] = [other for other in same if (other.recipe, other.name) != (record.recipe, record.name)] + [record]
        return file

    def computation(self, recipe: str) -> Computation | None:
        """The record of a recipe that trains no runs; None if there is none.

        Raises:
            RunError: the file is damaged.
        """
        file = self.folder / recipe / COMPUTATION
        if not exists(file):
            return None
        found = Computation.read(file)
        if found.recipe != recipe:
            raise damaged(str(file), f"it is of {found.recipe}")
        return found

    def add_computation(self, computation: Computation) -> Path:
        """Writes the record of a recipe that trains no runs, replaces an earlier one, and returns its path.

        Raises:
            RunError: the folder cannot be written to.
        """
        file = self.folder / computation.recipe / COMPUTATION
        make_folder(file.parent)
        write_atomically(file, computation.to_json())
        return file

    def _read(self) -> dict[str, list[Record]]:
        if self._by_run is None:
            by_run: dict[str, list[Record]] = {}
            files = (file for file in sorted(self.folder.glob("*/*.json")) if file.name != COMPUTATION)
            for record in map(_read_named, files):
                by_run.setdefault(identity(record.config), []).append(record)
            self._by_run = by_run
        return self._by_run


def _read_named(file: Path) -> Record:
    record = Record.read(file)
    if (record.recipe, f"{record.name}.json") != (file.parent.name, file.name):
        raise RunError(f"{file} is the record of {record.recipe}/{record.name}: rename it, or remove it")
    return record


def has_bf16_products(record: Record) -> bool:
    """Whether updates of the run multiplied rounded numbers; such runs point where to look but decide nothing."""
    return record.environment.get("products", "float32") != "float32"
