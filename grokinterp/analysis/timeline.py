"""analyze: every measure at every checkpoint of a run, cached in the run.

The key frequencies of the last checkpoint come first, since measures are given them; then one checkpoint after another
is evaluated, of which each process holds one in memory; keys that died after grokking cost another pass.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from grokinterp.analysis.cache import AnalysisCache
from grokinterp.analysis.evaluator import Evaluator
from grokinterp.analysis.measure_calls import Job, keys_job, measure_job, union_job
from grokinterp.analysis.notices import cautions
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.table import Cells
from grokinterp.analysis.transition import find_transition, first_reaching
from grokinterp.errors import ConfigError, MissingNeedError, RunError
from grokinterp.measures import (
    RULES,
    KeyFrequencies,
    Reference,
    evaluation_pairs,
    key_frequencies,
    registered,
)
from grokinterp.measures.base import Rule, as_frequencies
from grokinterp.measures.frequencies import require_rule
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.run import Run

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
    wanted = _wanted(measures)
    cache = AnalysisCache(run.path / "analysis")
    evaluator = Evaluator(run, cache, workers, progress)
    reference = _reference(run, kept, evaluator, rule, frequencies, reference_step)
    with cache:
        analysis = _analysis(run, chosen, kept, wanted, rule, reference, evaluator)
        cache.save(analysis.summary())
    return analysis


def _analysis(
    run: Run,
    chosen: list[int],
    kept: list[int],
    wanted: list[Job],
    rule: Rule,
    reference: Reference,
    evaluator: Evaluator,
) -> Analysis:
    keys, metrics, cells = keys_job(rule), run.metrics, evaluator.cache.cells
    of = reference.frequencies.step
    assert of is not None
    read = evaluator.snapshot(of).checksum
    jobs = [keys, *(replace(job, frequencies=reference.frequencies.values) for job in wanted)]
    since = _since_grokking(run, kept, reference, metrics)
    selected = set(chosen)
    evaluator.fill({step: jobs if step in selected else [keys] for step in sorted({*chosen, *since})})
    since = [step for step in since if step not in evaluator.vanished]
    reference = _with_union(reference, {step: _keys_at(cells, step) for step in since})
    if reference.lost:
        unions = [union_job(job, reference.union) for job in jobs if job.measure.name in _PROGRESS]
        evaluator.fill({step: unions for step in chosen if step not in evaluator.vanished})
        jobs += unions
    chosen = [step for step in chosen if step not in evaluator.vanished]
    evaluator.require_unchanged(of, read)
    if not chosen:
        raise RunError(f"{run.path}: every checkpoint was removed while it was analyzed: analyze it again")

    names = [job.measure.name for job in jobs]
    timeline, long = cells.tables(names, chosen)
    config = run.config
    transition = find_transition(
        timeline,
        n_classes=run.classification.n_classes,
        metrics=metrics,
        cross_entropy=config.loss == "cross_entropy",
        memorization_budget=config.schedule.memorization_budget if config.schedule else None,
        status=str(run.status.get("status", "running")),
    )
    definitions = {column.name: column.definition for job in jobs for column in job.measure.columns}
    reasons = cells.reasons(names, chosen)
    warnings = (*evaluator.warnings(), *cautions(run, reference, transition, timeline, reasons))
    return Analysis(
        run,
        timeline,
        long,
        reference,
        transition,
        warnings,
        definitions,
        reasons,
        {step: cells.checksums[step] for step in chosen},
    )


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


def _reference(
    run: Run,
    kept: list[int],
    evaluator: Evaluator,
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
    snapshot = evaluator.snapshot(step)
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


def _since_grokking(run: Run, kept: Sequence[int], reference: Reference, metrics: pd.DataFrame) -> list[int]:
    """The steps from T_grok(0.95) on, at which keys may be found that the reference step has lost."""
    found, grokked = reference.frequencies, first_reaching(metrics, "test_accuracy", 0.95).step
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


def _keys_at(cells: Cells, step: int) -> set[int]:
    return {k for k, held in enumerate(cells.array("key_frequencies", "is_key", step), start=1) if held}
