"""cautions: what a reader should know before believing an analysis, a line each that names its steps."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from grokinterp.analysis.phases import known_values
from grokinterp.analysis.transition import THRESHOLDS, Transition
from grokinterp.config import PLAIN, RecordedConfig
from grokinterp.measures import Reference
from grokinterp.runs.findings import findings_in
from grokinterp.runs.run import Run

# An event lies between two evaluated steps. The delay is the difference of two events: where either interval is longer
# than a quarter of it, the delay is not known to better than that.
_COARSE = 0.25
_PHASES = ("memorization_end", "circuit_formation_end", "cleanup_end")
_ABSORBED = 2.0**-24  # half of the distance from 1 to the next float32


def cautions(
    run: Run,
    reference: Reference,
    transition: Transition,
    timeline: pd.DataFrame,
    reasons: Mapping[str, Mapping[str, Sequence[int]]],
) -> list[str]:
    """Everything about a run, or about what was computed of it, that makes a number mean less than it seems to.

    Args:
        run: the run.
        reference: its key frequencies.
        transition: its events and phases.
        timeline: its measures, indexed by step.
        reasons: column -> reason -> steps, for what could not be computed.
    """
    found = [finding.message for finding in findings_in(run.status)]
    found += _of_checkpoints(timeline, reasons)
    found += _of_a_training_that_nobody_watched(run)
    found += _of_the_grid(transition)
    found += _of_the_keys(reference)
    found += _of_the_ratios(timeline)
    return found


def _of_checkpoints(timeline: pd.DataFrame, reasons: Mapping[str, Mapping[str, Sequence[int]]]) -> Iterator[str]:
    for what, column, reason in (
        ("weights", "weight_norm", "the value is not finite"),
        ("logits", "accuracy", "the logits are not finite"),
    ):
        steps = reasons.get(column, {}).get(reason)
        if steps:
            yield f"{what} are not finite at {_checkpoints(steps)}: nothing is computed from them there"
    for column, subset in (("train_loss", "training"), ("test_loss", "test")):
        series = known_values(timeline, column)
        steps = [] if series is None else series.index.to_numpy()[series.to_numpy() == 0].tolist()
        if steps:
            yield (
                f"the {subset} loss is exactly 0 in float64 at {_checkpoints(steps)}: every margin there is above 745, "
                "and neither its logarithm nor a ratio with it means anything"
            )


def _checkpoints(steps: Sequence[int]) -> str:
    return f"{len(steps)} checkpoint{'s' * (len(steps) > 1)}, the first at step {min(steps)}"


def _of_a_training_that_nobody_watched(run: Run) -> Iterator[str]:
    """Softmax collapse, from the loss alone: of somebody else's loop, or of a run older than `training.numerics`."""
    recorded = isinstance(run.config.model, RecordedConfig)
    older = run.config.loss_dtype == PLAIN and "warnings" not in run.status
    losses = known_values(run.metrics, "train_loss")
    if not (recorded or older) or losses is None or losses.min() >= _ABSORBED:
        return
    step = int(losses.index[int((losses.to_numpy() < _ABSORBED).argmax())])
    trained = "this run was trained" if older else "if this model was trained"
    yield (
        f"softmax collapse is to be expected from step {step} on, where the training loss is {losses[step]:.2g}, below "
        f"what plain float32 can tell from 0 (6e-8): {trained} on PyTorch's float32 cross entropy"
        + ", most of its examples gave their correct class no gradient there"
        * recorded
    )


def _of_the_grid(transition: Transition) -> Iterator[str]:
    intervals: dict[tuple[int, int], list[str]] = {}
    with_delay = transition.outcome == "grokked"

    def add(name: str, step: int | None, previous: int | None, delay: int | None) -> None:
        if step and transition.T_grok[THRESHOLDS[0]].step is not None:
            scale = delay if with_delay and delay else step
            if step - (previous or 0) > _COARSE * scale:
                intervals.setdefault((previous or 0, step), []).append(name)

    for theta in THRESHOLDS:
        for name, event in (("T_train", transition.T_train[theta]), ("T_grok", transition.T_grok[theta])):
            add(f"{name}({theta})", event.step, event.previous, transition.delay[theta])
    for name in _PHASES:
        boundary = getattr(transition, name)
        add(name, boundary.step, boundary.previous, transition.delay[THRESHOLDS[0]])
    if intervals:
        said = "; ".join(f"{' and '.join(names)} in ({a}, {b}]" for (a, b), names in intervals.items())
        compared = "the delay" if with_delay else "the step itself"
        yield (
            f"coarse grid: {said}: intervals of more than a quarter of {compared}; evaluate, and keep checkpoints, "
            "more often there"
        )
    for name in _PHASES[:2]:
        boundary, formed = getattr(transition, name), transition.circuit_formation_end.step
        if "coarse grid" in boundary.flags:
            yield (
                f"coarse grid: fewer than 10 steps were looked at before the circuit had formed, at step {formed}, and "
                f"{name}, step {boundary.step}, rests on them"
            )


def _of_the_keys(reference: Reference) -> Iterator[str]:
    found = reference.frequencies
    if found.values and reference.generalizes is False:
        yield (
            f"keys of a model that does not generalize, at the reference step {found.step}: the measures that use them "
            "describe no circuit"
        )
    if not found.values:
        yield f"no key frequencies by the rule {found.rule} at step {found.step}: {found.reason}"
    if reference.lost:
        yield (
            f"keys at T_grok(0.95) that are no longer keys at step {found.step}: {list(reference.lost)}; the columns "
            "that end in _union use every key since T_grok, and so do the figures"
        )
    if found.rule != "given" and len(set(reference.by_rule.values())) > 1:
        said = "; ".join(f"{rule} {list(values)}" for rule, values in reference.by_rule.items())
        yield f"the rules for key frequencies disagree at step {found.step}: {said}"


def _of_the_ratios(timeline: pd.DataFrame) -> Iterator[str]:
    if not {"ratio_from_keys", "circuit_efficiency_ratio"} <= set(timeline):
        return
    factor = timeline["ratio_from_keys"] / timeline["circuit_efficiency_ratio"]
    mixed = timeline["generalized_margin_share"].between(0.2, 0.9)
    apart = [int(step) for step in timeline.index[mixed & ((factor > 5) | (factor < 0.2))]]
    if apart:
        yield (
            f"the circuit efficiency ratio and the one from key frequencies differ by more than a factor 5 at "
            f"{len(apart)} steps, {apart[0]} to {apart[-1]}: the key frequencies may miss part of the circuit"
        )
