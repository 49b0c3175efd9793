"""analyze: every measure at every checkpoint of a run, cached in the run.

The key frequencies of the last checkpoint come first, since measures are given them; then one checkpoint after another
is evaluated, of which each process holds one in memory; keys that died after grokking cost another pass.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grokinterp.analysis import Analysis
from grokinterp.cache import AnalysisCache, measure_key
from grokinterp.cautions import cautions
from grokinterp.errors import ConfigError, MissingNeedError, RunError
from grokinterp.jobs import Cell, Job, evaluate, keys_job, measure_job, union_job
from grokinterp.measures import (
    RULES,
    KeyFrequencies,
    Reference,
    Snapshot,
    evaluation_pairs,
    key_frequencies,
    registered,
)
from grokinterp.measures.base import Rule, as_frequencies
from grokinterp.measures.frequencies import require_rule
from grokinterp.memory import keep_freed_memory
from grokinterp.run import Run
from grokinterp.transition import find_transition, first_reaching
from grokinterp.workers import evaluate_in_workers, worker_count

log = logging.getLogger(__name__)

# What the transition is read from: computed whatever else is asked for.
CORE_MEASURES = (
    "loss",
    "accuracy",
    "weight_norm",
    "excluded_loss",
    "excluded_loss_novel",
    "restricted_loss_novel",
    "circuit_efficiency",
)
# What keys that died after grokking would distort: given a second time, with all keys since T_grok.
_PROGRESS = ("restricted_loss", "restricted_loss_novel", "excluded_loss", "excluded_loss_novel")


def analyze(
    run: Run | str | Path,
    *,
    measures: Sequence[str | Callable[..., Any]] | None = None,
    steps: str | Sequence[int] | None = None,
    rule: Rule = "cube_cosine",
    frequencies: Sequence[int] | None = None,
    reference_step: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """Computes measures at every checkpoint of a run, or reads them from the run's cache.

    Args:
        run: the run, or its folder.
        measures: names, `package.module:function`, or functions; by default all that are registered. What the
            transition is read from is always among them.
        steps: `A:B:C`, the step values from A to B (included) in strides of C; or a list of kept steps; by default
            every checkpoint.
        rule: how the key frequencies are found; see `grokinterp.measures.key_frequencies`.
        frequencies: key frequencies to use instead.
        reference_step: checkpoint whose key frequencies are used; by default the last.
        workers: processes that evaluate checkpoints; 0 for none but this one; by default one a core where it pays.
        progress: called with the number of checkpoints done and to do.

    Raises:
        RunError: no such run, nothing was kept, or not at the steps asked for.
        ConfigError: an unknown measure or rule, or a frequency out of range.
    """
    if workers is not None and not 0 <= workers <= 1000:
        raise ConfigError(f"workers must lie in 0 .. 1000, but is {workers}")
    run = Run.open(run) if not isinstance(run, Run) else run
    kept = run.steps
    if not kept:
        raise RunError(f"{run.path} kept no checkpoint yet: there is nothing to analyze")
    chosen = select_steps(kept, steps)
    keep_freed_memory()
    cells = _Cells(run, AnalysisCache(run.path / "analysis"), workers, progress)
    keys = keys_job(rule)
    wanted = _wanted(measures)
    reference = _reference(run, kept, cells, rule, frequencies, reference_step)
    jobs = [keys, *(replace(job, frequencies=reference.frequencies.values) for job in wanted)]
    since = _since_grokking(run, kept, reference)
    cells.fill({step: jobs if step in set(chosen) else [keys] for step in sorted({*chosen, *since})})
    reference = _with_union(reference, {step: _keys_at(cells.at(keys, step)) for step in since})
    if reference.lost:
        unions = [union_job(job, reference.union) for job in jobs if job.measure.name in _PROGRESS]
        cells.fill(dict.fromkeys(chosen, unions))
        jobs += unions

    names = [job.measure.name for job in jobs]
    cache = cells.cache
    timeline, long = cache.tables(names, chosen)
    config = run.config
    transition = find_transition(
        timeline,
        n_classes=run.classification.n_classes,
        metrics=run.metrics,
        cross_entropy=config.loss == "cross_entropy",
        memorization_budget=config.schedule.memorization_budget if config.schedule else None,
        status=str(run.status.get("status", "running")),
    )
    definitions = {column.name: column.definition for job in jobs for column in job.measure.columns}
    reasons: dict[str, dict[str, list[int]]] = {}
    for name in names:
        for step in chosen:
            for column, reason in cache.cells[name, step].reasons.items():
                reasons.setdefault(column, {}).setdefault(reason, []).append(step)
    warnings = cautions(run, reference, transition, timeline, reasons)
    analysis = Analysis(run, timeline, long, reference, transition, tuple(warnings), definitions, reasons)
    try:
        cache.save(analysis.summary())
    except RunError as error:  # a run on a read-only disk can still be read
        log.warning("the analysis was not cached: %s", error)
    return analysis


def select_steps(kept: Sequence[int], steps: str | Sequence[int] | None) -> list[int]:
    """The kept steps that a selection means.

    Raises:
        ConfigError: a selection of another form.
        RunError: nothing was kept there.
    """
    if steps is None:
        return list(kept)
    if isinstance(steps, str):
        parts = steps.split(":")
        well_formed = len(parts) <= 3 and all(not part or part.isdecimal() for part in parts)
        if not well_formed or (len(parts) == 3 and parts[2] and int(parts[2]) == 0):
            raise ConfigError(f"steps {steps!r}: give A:B:C, for instance 0:5000:100; each part may be left out")
        numbers = [int(part) if part else None for part in parts] + [None, None]
        first = numbers[0] or 0
        last = first if len(parts) == 1 else kept[-1] if numbers[1] is None else numbers[1]
        wanted = range(first, last + 1, numbers[2] or 1)
        found = [step for step in kept if step in wanted]
    else:
        missing = sorted(set(steps) - set(kept))
        if missing:
            raise RunError(f"no checkpoint was kept at {missing[:5]}; kept: {kept[0]} to {kept[-1]}")
        found = sorted(set(steps))
    if not found:
        raise RunError(f"no checkpoint was kept at steps {steps!r}; kept: {kept[0]} to {kept[-1]}, {len(kept)} in all")
    return found


def _wanted(measures: Sequence[str | Callable[..., Any]] | None) -> list[Job]:
    asked = list(registered()) if measures is None else [*CORE_MEASURES, *measures]
    jobs = {(job.measure.name, job.measure.function): job for job in (measure_job(what, ()) for what in asked)}
    names = [name for name, _ in jobs]
    if len(set(names)) < len(names):
        raise ConfigError(f"two measures share a name: {sorted(names)}; rename one")
    return list(jobs.values())


@dataclass
class _Cells:
    """Evaluates jobs that the cache does not hold; one checkpoint is in memory at a time."""

    run: Run
    cache: AnalysisCache
    workers: int | None
    progress: Callable[[int, int], None] | None
    current: Snapshot | None = None
    checksums: dict[int, str] = field(default_factory=dict)
    keys: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)

    def fill(self, plan: Mapping[int, Sequence[Job]]) -> None:
        """Computes the jobs of each step, where the cache does not hold them."""
        missing = {step: [job for job in jobs if self._cached(job, step) is None] for step, jobs in plan.items()}
        todo = {step: jobs for step, jobs in missing.items() if jobs}
        done = len(plan) - len(todo)
        self._tell(done, len(plan))
        count = worker_count(self.run, len(todo)) if self.workers is None else self.workers
        elsewhere = {step: [job for job in jobs if job.source is not None] for step, jobs in todo.items()}
        if count and any(elsewhere.values()):
            for step, cells in evaluate_in_workers(self.run, elsewhere, count):
                for job, cell in zip(elsewhere[step], cells, strict=True):
                    self._put(job, step, cell)
                done += 1
                self._tell(done, len(plan))
        for step, jobs in todo.items():
            for job in jobs:
                self.at(job, step)
            done += 1
            self._tell(min(done, len(plan)), len(plan))

    def at(self, job: Job, step: int) -> Cell:
        """What a job gives at a step."""
        cell = self._cached(job, step)
        if cell is None:
            cell = evaluate(job, self.snapshot(step))
            self._put(job, step, cell)
        return cell

    def snapshot(self, step: int) -> Snapshot:
        if self.current is None or self.current.step != step:
            self.current = None  # freed before the next is made
            self.current = self.run.snapshot(step)
        return self.current

    def _cached(self, job: Job, step: int) -> Cell | None:
        return self.cache.get(job.measure.name, self._key(job), step, self._checksum(step))

    def _put(self, job: Job, step: int, cell: Cell) -> None:
        self.cache.put(job.measure.name, self._key(job), step, self._checksum(step), cell)

    def _checksum(self, step: int) -> str:
        if step not in self.checksums:
            self.checksums[step] = self.run.checksum(step)
        return self.checksums[step]

    def _key(self, job: Job) -> str:
        which = (job.measure.name, job.frequencies)
        if which not in self.keys:
            self.keys[which] = measure_key(job.measure, job.frequencies)
        return self.keys[which]

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _reference(
    run: Run,
    kept: list[int],
    cells: _Cells,
    rule: Rule,
    frequencies: Sequence[int] | None,
    reference_step: int | None,
) -> Reference:
    """The key frequencies at the reference step."""
    require_rule(rule)
    step = kept[-1] if reference_step is None else reference_step
    if step not in kept:
        raise RunError(f"no checkpoint was kept at the reference step {step}; kept: {kept[0]} to {kept[-1]}")
    group = run.classification.group
    if group is None:
        reason = run.classification.why_no_group
        if frequencies is not None:
            raise ConfigError(f"frequencies were given, but {reason}")
        return Reference(KeyFrequencies((), rule, step=step, reason=reason))
    snapshot = cells.snapshot(step)
    generalizes = bool(snapshot.hits[evaluation_pairs(snapshot)].mean() >= 0.9)
    by_rule: dict[str, tuple[int, ...]] = {}
    for name in RULES:
        try:
            by_rule[name] = key_frequencies(snapshot, name).values  # pyright: ignore[reportArgumentType]
        except MissingNeedError as error:
            log.debug("rule %s: %s", name, error)
    if frequencies is not None:
        found = KeyFrequencies(as_frequencies(frequencies, group.order), "given", step=step)
    else:
        found = key_frequencies(snapshot, rule)
    return Reference(found, generalizes, found.values, (), by_rule)


def _since_grokking(run: Run, kept: Sequence[int], reference: Reference) -> list[int]:
    """The steps from T_grok(0.95) on, at which keys may be found that the reference step has lost."""
    found, grokked = reference.frequencies, first_reaching(run.metrics, "test_accuracy", 0.95).step
    if run.classification.group is None or found.rule == "given" or grokked is None or (found.step or 0) < grokked:
        return []
    return [step for step in kept if step >= grokked]


def _with_union(reference: Reference, keys: Mapping[int, set[int]]) -> Reference:
    """The reference with what the keys at each step since grokking say of it."""
    if not keys:
        return reference
    found = set(reference.frequencies.values)
    lost = tuple(sorted(keys[min(keys)] - found))
    return replace(reference, union=tuple(sorted(found.union(*keys.values()))), lost=lost)


def _keys_at(cell: Cell) -> set[int]:
    return {k for k, held in enumerate(cell.arrays.get("is_key", []), start=1) if held}
