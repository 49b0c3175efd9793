"""Training what has no record yet: the runs of one form of a recipe, arm by arm."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError, nearest
from grokinterp.experiments.evidence import Entry
from grokinterp.experiments.outcome import Progress
from grokinterp.experiments.recipe import Arm, Form, Recipe
from grokinterp.experiments.records.folder import Records, has_bf16_products, is_same_run
from grokinterp.experiments.records.record import Record
from grokinterp.experiments.records.recording import record_run
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep, train_sweep
from grokinterp.sweep.running import Progress as SweepProgress
from grokinterp.sweep.running import plan

_PARTS = 100  # progress steps per run


@dataclass(frozen=True)
class Choice:
    """Which of the runs without a record to train; everything by default.

    >>> Choice(seeds=(0, 1)).admits("mlp", "weight_decay=1,model_seed=2", 2)
    False

    Attributes:
        arms: names of arms; empty for all.
        only: names of runs; empty for all.
        seeds: values of `model_seed`; empty for all.
    """

    arms: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def admits(self, arm: str, name: str, seed: int) -> bool:
        """Whether a run is chosen."""
        return (
            (not self.arms or arm in self.arms)
            and (not self.only or name in self.only)
            and (not self.seeds or seed in self.seeds)
        )

    def require_known(self, form: Form) -> None:
        """Raises an error if it names an arm, a run or a seed that a form does not have.

        Raises:
            ConfigError: the first such name, with the nearest one.
        """
        configs = {(arm.name, name): config for arm in form.arms for name, config in configurations(arm).items()}
        for what, chosen, known in (
            ("arm", self.arms, [arm.name for arm in form.arms]),
            ("run", self.only, [name for _, name in configs]),
            ("seed", self.seeds, [config.model_seed for config in configs.values()]),
        ):
            for value in chosen:
                if value not in known:
                    raise ConfigError(f"no {what} {value!r}: {nearest(str(value), dict.fromkeys(map(str, known)))}")


ALL = Choice()


def configurations(arm: Arm) -> dict[str, RunConfig]:
    """The configuration of each run of an arm, by name of the run."""
    return {point.name: point.config(arm.base) for point in arm.expanded()}


def recorded(recipe: Recipe, form: Form, records: Records) -> dict[tuple[str, str], Record]:
    """The records that serve the runs of a form, by arm and run.

    Raises:
        RunError: a record is damaged.
    """
    found = {}
    for arm in form.arms:
        for name, config in configurations(arm).items():
            record = records.find(config, recipe.name if arm.extract else None)
            if record is not None:
                found[arm.name, name] = record
    return found


def record_of(run: Run, recipe: Recipe, arm: Arm, name: str, extracting: Collection[tuple[str, Arm]]) -> Record:
    """The record of a run of an arm, with what each arm that has the same run extracts from it.

    Raises:
        RunError: the run has not ended.
    """
    extracted = {
        other: dict(served.extract(run))
        for other, served in extracting
        if served.extract is not None
        and any(is_same_run(config, run.config) for config in configurations(served).values())
    }
    return record_run(run, recipe.name, f"{arm.name},{name}", extracted)


def train_missing(
    recipe: Recipe,
    form: Form,
    folder: Path,
    found: Mapping[tuple[str, str], Record],
    choice: Choice,
    progress: Progress | None,
    keep: Callable[[Record], Any],
    extracting: Collection[tuple[str, Arm]],
) -> dict[str, list[Entry]]:
    """Trains the runs of a form that have no record, and returns all of its runs.

    Args:
        recipe: the recipe.
        form: one of its forms.
        folder: each arm is a sweep in it.
        found: the records that exist, by arm and run.
        choice: which of the others to train.
        progress: called with the completed and the total number of parts.
        keep: called with the record of each run as soon as it has ended.
        extracting: arms that extract something from their runs, which may be the same as these; each with its recipe.

    Raises:
        KeyboardInterrupt: the user interrupted the training. Finished and interrupted runs stay in the folder.
    """
    total, before, entries = _PARTS * sum(len(arm.expanded()) for arm in form.arms), 0, {}
    for arm in form.arms:
        configs = configurations(arm)
        done = {name: found[arm.name, name] for name in configs if (arm.name, name) in found}
        wanted = [
            name
            for name, config in configs.items()
            if (name not in done or has_bf16_products(done[name])) and choice.admits(arm.name, name, config.model_seed)
        ]
        before += _PARTS * (len(configs) - len(wanted))
        failures, trained = dict[str, str](), dict[str, Record]()
        if wanted:
            place, parts = folder / arm.name, (before, total)
            trained, failures = _train(recipe, arm, place, wanted, parts, progress, keep, extracting)
        before += _PARTS * len(wanted)
        entries[arm.name] = [
            Entry(name, config, (done | trained).get(name), failures.get(name), folder / arm.name / name)
            for name, config in configs.items()
        ]
    if progress is not None:
        progress(total, total)
    return entries


def _train(
    recipe: Recipe,
    arm: Arm,
    folder: Path,
    wanted: Collection[str],
    parts: tuple[int, int],
    progress: Progress | None,
    keep: Callable[[Record], Any],
    extracting: Collection[tuple[str, Arm]],
) -> tuple[dict[str, Record], dict[str, str]]:
    """Trains some runs of an arm; returns their records, and by name why the others failed."""
    before, total = parts
    grid, points, interrupted = arm.grid or None, arm.points or None, False
    trained, failed = dict[str, Record](), dict[str, str]()
    planned = plan(folder, arm.base, grid=grid, points=points)

    def record_ended(sweep: Sweep) -> None:
        for name in wanted:
            point = sweep.point(name)
            run = None if name in trained or name in failed else sweep.ended_run(point, point.config(sweep.base))
            failure = None if run is None else sweep.failure_of(point)
            if run is not None and (failure is None or failure.kind == "diverged"):
                try:
                    trained[name] = record_of(run, recipe, arm, name, extracting)
                    keep(trained[name])
                except GrokinterpError as error:  # the other runs go on
                    failed[name] = str(error)

    def watch(state: SweepProgress) -> None:
        nonlocal interrupted
        interrupted = state.interrupted
        if state.done + len(state.failed) > len(trained) + len(failed):
            record_ended(planned)
        if progress is not None:
            partial = sum(step / steps for step, steps in state.running.values())
            progress(before + int(_PARTS * (state.done + len(state.failed) + partial)), total)

    sweep = train_sweep(folder, arm.base, grid=grid, points=points, only=wanted, watch=watch)
    if interrupted:
        raise KeyboardInterrupt
    record_ended(sweep)
    failed |= {name: str(failure) for name, failure in sweep.failures.items() if name in wanted}
    return trained, {name: failure for name, failure in failed.items() if name not in trained}
