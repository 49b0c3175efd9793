"""analyze: every measure at every checkpoint of a run, in two passes, cached in the run.

The first pass finds the reference (key frequencies of the last checkpoint, and of those since T_grok); the second
evaluates one checkpoint after another, of which only one is in memory at a time.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from grokinterp.analysis import Analysis
from grokinterp.cache import AnalysisCache, Cell, measure_key
from grokinterp.errors import ConfigError, MissingNeedError, RunError
from grokinterp.measures import (
    RULES,
    Column,
    KeyFrequencies,
    Measure,
    Reference,
    Snapshot,
    evaluation_pairs,
    find_measure,
    key_frequencies,
    registered,
)
from grokinterp.measures.base import Rule, as_frequencies
from grokinterp.measures.frequencies import require_rule
from grokinterp.run import Run
from grokinterp.transition import Transition, find_transition, first_reaching

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
        progress: called with the number of checkpoints done and to do.

    Raises:
        RunError: no such run, nothing was kept, or not at the steps asked for.
        ConfigError: an unknown measure or rule, or a frequency out of range.
    """
    run = Run.open(run) if not isinstance(run, Run) else run
    kept = run.steps
    if not kept:
        raise RunError(f"{run.path} kept no checkpoint yet: there is nothing to analyze")
    chosen = select_steps(kept, steps)
    cache = AnalysisCache(run.path / "analysis")
    snapshots = _Snapshots(run, cache)
    wanted = _wanted(measures)
    by_name = {m.name: m for m in wanted}
    if len(by_name) < len(wanted):
        raise ConfigError(f"two measures share a name: {sorted(m.name for m in wanted)}; rename one")
    keys_measure = _keys_measure(rule)
    reference = _reference(run, kept, snapshots, keys_measure, rule, frequencies, reference_step)

    jobs: list[tuple[Measure, tuple[int, ...]]] = [(keys_measure, ())]
    jobs += [(m, reference.frequencies.values) for m in by_name.values()]
    if reference.lost:
        jobs += [(_with_union(by_name[name]), reference.union) for name in _PROGRESS if name in by_name]
    for done, step in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen))
        for measure, given in jobs:
            snapshots.cell(measure, given, step)
    if progress is not None:
        progress(len(chosen), len(chosen))

    names = [measure.name for measure, _ in jobs]
    timeline, long = cache.tables(names, chosen)
    config = run.config
    transition = find_transition(
        timeline,
        n_classes=run.task.n_classes,
        metrics=run.metrics,
        cross_entropy=config.loss == "cross_entropy",
        memorization_budget=config.schedule.memorization_budget if config.schedule else None,
        status=str(run.status.get("status", "running")),
    )
    definitions = {column.name: column.definition for measure, _ in jobs for column in measure.columns}
    reasons: dict[str, dict[str, list[int]]] = {}
    for name in names:
        for step in chosen:
            for column, reason in cache.cells[name, step].reasons.items():
                reasons.setdefault(column, {}).setdefault(reason, []).append(step)
    warnings = _warnings(reference, transition, timeline)
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


def _wanted(measures: Sequence[str | Callable[..., Any]] | None) -> list[Measure]:
    if measures is None:
        return list(registered().values())
    asked = [find_measure(what) for what in measures]
    core = [find_measure(name) for name in CORE_MEASURES]
    return [*core, *(measure for measure in asked if measure not in core)]


def _keys_measure(rule: Rule) -> Measure:
    """Whether each frequency is a key at a checkpoint, by a rule: what `lost` and `union` are read from."""

    def is_key(snapshot: Snapshot, *, rule: Rule) -> torch.Tensor:
        group = snapshot.task.group
        found = key_frequencies(snapshot, rule).values  # raises where there is no group
        assert group is not None
        return torch.tensor([float(k in found) for k in range(1, group.order // 2 + 1)])

    column = Column("is_key", f"1 where frequency k is a key by the rule {rule}, else 0", {"rule": rule}, True)
    return Measure("key_frequencies", is_key, ("grid",), 1, (column,))


def _with_union(measure: Measure) -> Measure:
    first = measure.columns[0]
    definition = f"{first.definition}, with every key since T_grok(0.95)"
    column = Column(f"{first.name}_union", definition, first.options)
    return Measure(f"{measure.name}_union", measure.function, measure.needs, measure.version, (column,))


@dataclass
class _Snapshots:
    """Evaluates cells that the cache does not hold; one checkpoint is in memory at a time."""

    run: Run
    cache: AnalysisCache
    current: Snapshot | None = None
    checksums: dict[int, str] = field(default_factory=dict)
    keys: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)

    def at(self, step: int) -> Snapshot:
        if self.current is None or self.current.step != step:
            self.current = None  # freed before the next is made
            self.current = self.run.snapshot(step)
        return self.current

    def cell(self, measure: Measure, frequencies: tuple[int, ...], step: int) -> Cell:
        if step not in self.checksums:
            self.checksums[step] = self.run.checksum(step)
        checksum = self.checksums[step]
        which = (measure.name, frequencies)
        if which not in self.keys:
            self.keys[which] = measure_key(measure, frequencies)
        cell = self.cache.get(measure.name, self.keys[which], step, checksum)
        if cell is None:
            cell = evaluate_measure(measure, self.at(step), frequencies)
            self.cache.put(measure.name, self.keys[which], step, checksum, cell)
        return cell


def evaluate_measure(measure: Measure, snapshot: Snapshot, frequencies: tuple[int, ...]) -> Cell:
    """All columns of a measure at one checkpoint; what it cannot compute becomes NaN with the reason kept."""
    cell = Cell()
    given: tuple[Any, ...] = (frequencies,) if measure.uses_reference else ()
    for column in measure.columns:
        if len(measure.columns) > 1 and column.name in cell.scalars:
            continue  # one call gave several columns (a dataclass of numbers)
        try:
            value = measure.function(snapshot, *given, **column.options)
        except MissingNeedError as error:
            if not column.per_frequency:
                cell.scalars[column.name] = math.nan
            cell.reasons[column.name] = error.reason
            continue
        _store(cell, measure, column.name, value)
    return cell


def _store(cell: Cell, measure: Measure, name: str, value: Any) -> None:
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        cell.arrays[name] = value.double().tolist()
        if not torch.isfinite(value).all():
            cell.reasons[name] = "the value is not finite"
        return
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        numbers = {column.name: parts[column.name] for column in measure.columns if column.name in parts}
    elif isinstance(value, dict):
        numbers = {f"{name}.{key}": part for key, part in value.items()}
    else:
        numbers = {name: value}
    for key, number in numbers.items():
        if not isinstance(number, (int, float, torch.Tensor)):
            raise ConfigError(
                f"measure {measure.name!r} gave {type(number).__name__}: a measure gives a number, a tensor over "
                "frequencies, a dict of numbers, or a dataclass of numbers"
            )
        cell.scalars[key] = float(number)
        if not math.isfinite(cell.scalars[key]):
            cell.reasons[key] = getattr(number, "reason", "") or "the value is not finite"


def _reference(
    run: Run,
    kept: list[int],
    snapshots: _Snapshots,
    keys_measure: Measure,
    rule: Rule,
    frequencies: Sequence[int] | None,
    reference_step: int | None,
) -> Reference:
    """The first pass: key frequencies at the reference step, and at every checkpoint since T_grok(0.95)."""
    require_rule(rule)
    step = kept[-1] if reference_step is None else reference_step
    if step not in kept:
        raise RunError(f"no checkpoint was kept at the reference step {step}; kept: {kept[0]} to {kept[-1]}")
    group = run.task.group
    if group is None:
        reason = run.task.why_no_group
        if frequencies is not None:
            raise ConfigError(f"frequencies were given, but {reason}")
        return Reference(KeyFrequencies((), rule, step=step, reason=reason))
    snapshot = snapshots.at(step)
    pairs = evaluation_pairs(snapshot)
    hits = snapshot.logits[pairs].argmax(dim=1) == run.task.labels[pairs]
    generalizes = bool(hits.double().mean() >= 0.9)
    by_rule: dict[str, tuple[int, ...]] = {}
    for name in RULES:
        try:
            by_rule[name] = key_frequencies(snapshot, name).values  # pyright: ignore[reportArgumentType]
        except MissingNeedError as error:
            log.debug("rule %s: %s", name, error)
    if frequencies is not None:
        found = KeyFrequencies(as_frequencies(frequencies, group.order), "given", step=step)
        return Reference(found, generalizes, found.values, (), by_rule)
    found = key_frequencies(snapshot, rule)
    grokked = first_reaching(run.metrics, "test_accuracy", 0.95).step
    union, lost = set(found.values), ()
    if grokked is not None and step >= grokked:
        since = [s for s in kept if s >= grokked]
        at = {s: _keys_at(snapshots.cell(keys_measure, (), s)) for s in since}
        union |= set().union(*at.values())
        lost = tuple(sorted(at[since[0]] - set(found.values))) if since else ()
    return Reference(found, generalizes, tuple(sorted(union)), lost, by_rule)


def _keys_at(cell: Cell) -> set[int]:
    return {k for k, held in enumerate(cell.arrays.get("is_key", []), start=1) if held}


def _warnings(reference: Reference, transition: Transition, timeline: pd.DataFrame) -> list[str]:
    found = reference.frequencies
    warnings = []
    if found.values and reference.generalizes is False:
        warnings.append("keys of a model that does not generalize: the measures that use them describe no circuit")
    if not found.values:
        warnings.append(f"no key frequencies by the rule {found.rule} at step {found.step}: {found.reason}")
    if reference.lost:
        warnings.append(
            f"keys at T_grok(0.95) that are no longer keys at step {found.step}: {list(reference.lost)}; the columns "
            "that end in _union use every key since T_grok, and so do the figures"
        )
    sets = set(reference.by_rule.values())
    if found.rule != "given" and len(sets) > 1:
        said = "; ".join(f"{rule} {list(values)}" for rule, values in reference.by_rule.items())
        warnings.append(f"the rules for key frequencies disagree at step {found.step}: {said}")
    for name in ("memorization_end", "circuit_formation_end"):
        if "coarse grid" in getattr(transition, name).flags:
            warnings.append(f"coarse grid: fewer than 10 steps were looked at before {name}")
    if {"ratio_from_keys", "circuit_efficiency_ratio"} <= set(timeline):
        factor = timeline["ratio_from_keys"] / timeline["circuit_efficiency_ratio"]
        mixed = timeline["generalized_margin_share"].between(0.2, 0.9)
        apart = [int(step) for step in timeline.index[mixed & ((factor > 5) | (factor < 0.2))]]
        if apart:
            warnings.append(
                f"the circuit efficiency ratio and the one from key frequencies differ by more than a factor 5 at "
                f"{len(apart)} steps, {apart[0]} to {apart[-1]}: the key frequencies may miss part of the circuit"
            )
    return warnings
