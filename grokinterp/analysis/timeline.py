"""analyze: every measure at every checkpoint of a run, cached in the run.

From measure to DataFrame: a `MeasureCall`, evaluated at a checkpoint, gives a `Value`; a `ValueTable` collects the
values and makes the DataFrames.

The key frequencies of the reference checkpoint come first, because other measures need them. Then the checkpoints are
evaluated, one at a time in each process. Key frequencies that were lost after grokking cost another pass.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from grokinterp.analysis.cache import AnalysisCache
from grokinterp.analysis.evaluator import Evaluator
from grokinterp.analysis.measure_calls import MeasureCall, key_frequencies_call, measure_call, union_call
from grokinterp.analysis.notices import notices
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.transition import find_transition, first_reaching
from grokinterp.config.checks import is_natural_number
from grokinterp.errors import ConfigError, MissingNeedError, RunError, as_integer, logger
from grokinterp.measures import RULES, KeyFrequencies, Reference, evaluation_pairs, key_frequencies, registered
from grokinterp.measures.base import Rule, as_frequencies
from grokinterp.measures.frequencies import require_rule
from grokinterp.models.memory import analysis_memory, keep_freed_memory, require_memory
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus

log = logger(__name__)

# The transition is located from these, so they are always computed.
CORE_MEASURES = (
    "loss",
    "accuracy",
    "weight_norm",
    "excluded_loss",
    "excluded_loss_novel",
    "restricted_loss_novel",
    "circuit_efficiency",
)
# Lost key frequencies would distort these: they are computed a second time, with all keys since T_grok.
_PROGRESS = ("restricted_loss", "restricted_loss_novel", "excluded_loss", "excluded_loss_novel")


def analyze(
    run: Run | str | Path,
    *,
    measures: Sequence[str | Callable[..., Any]] | None = None,
    circuit: bool = False,
    steps: str | Sequence[int] | None = None,
    rule: Rule = "cube_cosine",
    frequencies: Sequence[int] | None = None,
    reference_step: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """Computes measures at every checkpoint of a run, or reads them from the run's cache.

    >>> analysis = analyze("checkpoints/run42", steps="0:4000:4000")
    >>> analysis.timeline["test_accuracy"].round(1).tolist()
    [0.0, 1.0]

    Args:
        run: the run, or its folder.
        measures: names, `package.module:function`, or functions (default: all registered measures except costly ones).
            The measures from which the transition is located are always included.
        circuit: also compute the costly measures, which take the circuit apart.
        steps: `A:B:C`, the step values from A to B (inclusive) with stride C, or a list of steps that have a
            checkpoint (default: every checkpoint).
        rule: the rule for key frequencies; see `grokinterp.measures.key_frequencies`.
        frequencies: key frequencies to use instead of a rule.
        reference_step: the checkpoint whose key frequencies are used (default: the last).
        workers: number of worker processes that evaluate checkpoints; 0 evaluates them in this process (default: one
            per core if there is enough work).
        progress: called with the number of finished checkpoints and their total.

    Raises:
        RunError: the run does not exist, or has no checkpoint at the selected steps.
        ConfigError: an unknown measure or rule, a frequency out of range, or an argument of a wrong type.
    """
    if workers is not None and not 0 <= as_integer(workers, "workers") <= 1000:
        raise ConfigError(f"workers must lie in 0 .. 1000, but is {workers}")
    if not isinstance(run, Run | str | Path):
        raise ConfigError(f"run must be a Run or the path of its folder, but is {type(run).__name__}")
    run = Run.open(run) if not isinstance(run, Run) else run
    checkpoints = run.steps
    if not checkpoints:
        raise RunError(f"{run.path} has no checkpoint yet: there is nothing to analyze")
    selection = select_steps(checkpoints, steps)
    require_memory(analysis_memory(run.config), f"analyzing {run.config.task.title} with this model")
    keep_freed_memory()
    calls = _measure_calls(measures, circuit)
    reference_step = checkpoints[-1] if reference_step is None else as_integer(reference_step, "reference_step")
    if reference_step not in checkpoints:
        raise RunError(f"no checkpoint at the reference step {reference_step}; {_available(checkpoints)}")
    cache = AnalysisCache(run.path / "analysis", run.steps)
    evaluator = Evaluator(run, cache, workers, progress)
    reference = _reference(run, evaluator, rule, frequencies, reference_step)
    with cache:
        analysis = _analysis(run, selection, calls, rule, reference, reference_step, evaluator)
        cache.save(analysis.summary())
    return analysis


def _analysis(
    run: Run,
    steps: list[int],
    calls: list[MeasureCall],
    rule: Rule,
    reference: Reference,
    reference_step: int,
    evaluator: Evaluator,
) -> Analysis:
    keys_call, metrics, values = key_frequencies_call(rule), run.metrics, evaluator.cache.values
    reference_checksum = evaluator.snapshot(reference_step).checksum
    calls = [keys_call, *(replace(call, frequencies=reference.frequencies.values) for call in calls)]
    later_steps = _steps_since_grokking(run, reference, reference_step, metrics)
    selection = set(steps)
    evaluator.fill({step: calls if step in selection else [keys_call] for step in sorted({*steps, *later_steps})})
    later_steps = [step for step in later_steps if step not in evaluator.vanished]
    reference = _with_union(reference, {step: values.key_frequencies(step) for step in later_steps})
    if reference.lost:
        union_calls = [union_call(call, reference.union) for call in calls if call.measure.name in _PROGRESS]
        evaluator.fill({step: union_calls for step in steps if step not in evaluator.vanished})
        calls += union_calls
    steps = [step for step in steps if step not in evaluator.vanished]
    evaluator.require_unchanged(reference_step, reference_checksum)
    if not steps:
        raise RunError(f"{run.path}: every checkpoint was removed during the analysis. Analyze the run again.")

    names = [call.measure.name for call in calls]
    timeline, frequencies = values.tables(names, steps)
    timeline.attrs["n_classes"] = run.classification.n_classes
    config = run.config
    transition = find_transition(
        timeline,
        metrics=metrics,
        cross_entropy=config.loss == "cross_entropy",
        memorization_budget=config.schedule.memorization_budget if config.schedule else None,
        status=str(run.status.get("status", RunStatus.RUNNING)),
    )
    reasons = values.reasons(names, steps)
    return Analysis(
        run,
        timeline,
        frequencies,
        reference,
        transition,
        (*evaluator.warnings(), *notices(run, reference, transition, timeline, reasons)),
        {column.name: column.definition for call in calls for column in call.measure.columns},
        reasons,
        {step: values.checksums[step] for step in steps},
    )


def select_steps(checkpoints: Sequence[int], steps: str | Sequence[int] | None) -> list[int]:
    """The checkpoints that a selection covers.

    >>> select_steps([0, 10, 20, 30, 40], "10:40:20")
    [10, 30]

    Args:
        checkpoints: the steps that have a checkpoint, ascending.
        steps: `A:B:C`, a list of steps, or None for all; see `analyze`.

    Raises:
        ConfigError: the selection is malformed.
        RunError: no checkpoint is selected.
    """
    if steps is None:
        return list(checkpoints)
    if isinstance(steps, str):
        parts = steps.split(":")
        well_formed = len(parts) <= 3 and all(not part or is_natural_number(part) for part in parts)
        if not well_formed or (len(parts) == 3 and parts[2] and int(parts[2]) == 0):
            raise ConfigError(f"steps {steps!r}: give A:B:C, for instance 0:5000:100; each part may be omitted")
        numbers = [int(part) if part else None for part in parts] + [None, None]
        first = numbers[0] or 0
        last = first if len(parts) == 1 else checkpoints[-1] if numbers[1] is None else numbers[1]
        values = range(first, last + 1, numbers[2] or 1)
        selection = [step for step in checkpoints if step in values]
    elif not isinstance(steps, Iterable):
        raise ConfigError(f"steps must be A:B:C or a list of steps, but is {steps!r}")
    else:
        steps = [as_integer(step, "each of the steps") for step in steps]
        missing = sorted(set(steps) - set(checkpoints))
        if missing:
            raise RunError(f"no checkpoint at {missing[:5]}; {_available(checkpoints)}")
        selection = sorted(set(steps))
    if not selection:
        raise RunError(f"no checkpoint at steps {steps!r}; {_available(checkpoints)}, {len(checkpoints)} in all")
    return selection


def _available(checkpoints: Sequence[int]) -> str:
    return f"available: {checkpoints[0]} to {checkpoints[-1]}"


def _measure_calls(measures: Sequence[str | Callable[..., Any]] | None, circuit: bool) -> list[MeasureCall]:
    if isinstance(measures, str):
        raise ConfigError(f"measures must be a list of measures, but is {measures!r}: write [{measures!r}]")
    by_default = [name for name, entry in registered().items() if not entry.costly]
    costly = [name for name, entry in registered().items() if entry.costly and circuit]
    requested = [*(by_default if measures is None else [*CORE_MEASURES, *measures]), *costly]
    calls = {(call.measure.name, call.measure.function): call for call in (measure_call(m, ()) for m in requested)}
    names = [name for name, _ in calls]
    if len(set(names)) < len(names):
        raise ConfigError(f"two measures have the same name: {sorted(names)}; rename one")
    return list(calls.values())


def _reference(run: Run, evaluator: Evaluator, rule: Rule, frequencies: Sequence[int] | None, step: int) -> Reference:
    """The key frequencies at the reference step."""
    require_rule(rule)
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
        keys = KeyFrequencies(as_frequencies(frequencies, group.order), "given", step=step)
    else:
        keys = key_frequencies(snapshot, rule)
    return Reference(keys, generalizes, keys.values, (), by_rule)


def _steps_since_grokking(run: Run, reference: Reference, reference_step: int, metrics: pd.DataFrame) -> list[int]:
    """The checkpoints from T_grok(0.95) on, whose key frequencies the reference step may have lost."""
    grokked = first_reaching(metrics, "test_accuracy", 0.95).step
    by_rule = reference.frequencies.rule != "given"
    if run.classification.group is None or not by_rule or grokked is None or reference_step < grokked:
        return []
    return [step for step in run.steps if step >= grokked]


def _with_union(reference: Reference, keys: Mapping[int, set[int]]) -> Reference:
    """The reference with the lost keys and the union of keys; `keys` are those at each checkpoint since grokking."""
    if not keys:
        return reference
    current = set(reference.frequencies.values)
    lost = tuple(sorted(keys[min(keys)] - current))
    return replace(reference, union=tuple(sorted(current.union(*keys.values()))), lost=lost)
