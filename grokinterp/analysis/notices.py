"""notices: the warnings of an analysis, one line each, which name the steps they concern."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from grokinterp.analysis.key_rules import disagreeing_rules
from grokinterp.analysis.phases import known_values
from grokinterp.analysis.transition import THRESHOLDS, Transition
from grokinterp.config import PLAIN, RecordedConfig
from grokinterp.measures import Reference
from grokinterp.measures.fourier import n_frequencies
from grokinterp.runs.findings import STABILITY_KINDS, StabilityMonitor, findings_in
from grokinterp.runs.run import Run
from grokinterp.statistics.outcomes import Outcome

# An event lies between two evaluated steps, and the delay is the difference of two events. If either interval is longer
# than a quarter of the delay, the delay is not known any better than that.
_COARSE = 0.25
# The share of the delay that the rise of accuracy takes, from a tenth of the way up to nine tenths. A straight line
# takes about 84 %; two thirds is already more gradual than any sudden transition.
_GRADUAL = 2 / 3
_DENSE = 0.75  # the share of all frequencies above which a spectrum is not sparse,
_MIN_DENSE = 8  # if there are at least so many frequencies
_PHASES = ("memorization_end", "circuit_formation_end", "cleanup_end")
# Stability is judged over the whole run; another environment changes bits, and the report shows it with the run.
_ELSEWHERE = (*STABILITY_KINDS, "environment_changed")
_ABSORBED = 2.0**-24  # half of the distance from 1 to the next float32


def notices(
    run: Run,
    reference: Reference,
    transition: Transition,
    timeline: pd.DataFrame,
    reasons: Mapping[str, Mapping[str, Sequence[int]]],
) -> list[str]:
    """Warnings about anything in a run or its analysis that may change a conclusion.

    What is expected, or only explains a number, is said where that number stands: doubles of key frequencies, a run
    without key frequencies, and a run that was resumed in another environment.

    Args:
        run: the run.
        reference: its key frequencies.
        transition: its events and phases.
        timeline: its measures, indexed by step.
        reasons: column -> reason -> steps, for what could not be computed.
    """
    return [
        *(finding.message for finding in findings_in(run.status) if finding.kind not in _ELSEWHERE),
        *_stability_notices(run.metrics),
        *_checkpoint_notices(timeline, reasons),
        *_collapse_notices(run),
        *_grid_notices(transition),
        *_rise_notices(transition),
        *_key_notices(run, reference),
        *_ratio_notices(timeline),
    ]


def _stability_notices(metrics: pd.DataFrame) -> Iterator[str]:
    """Falls of accuracy and rises of loss over the whole run; training warns only of the first of each kind."""
    monitor = StabilityMonitor()
    for step, row in zip(metrics.index, metrics.to_dict("records"), strict=True):
        monitor.add(int(step), {str(name): value for name, value in row.items()})
    yield from (finding.message for finding in monitor.findings)


def _rise_notices(transition: Transition) -> Iterator[str]:
    """A run that generalizes late counts as grokked, however slowly its accuracy on unseen pairs rises."""
    start, end = (transition.evidence.get(name) for name in ("accuracy_rise_10_percent", "accuracy_rise_90_percent"))
    delay = transition.delay[THRESHOLDS[0]]
    if transition.outcome != Outcome.GROKKED or not delay or start is None or end is None:
        return
    if end - start > _GRADUAL * delay:
        yield (
            "no sudden transition: accuracy on unseen pairs rises gradually; a tenth of its rise is complete at step "
            f"{start:.0f}, nine tenths at step {end:.0f} (the delay is {delay} steps)"
        )


def _checkpoint_notices(timeline: pd.DataFrame, reasons: Mapping[str, Mapping[str, Sequence[int]]]) -> Iterator[str]:
    for quantity, column, reason in (
        ("weights", "weight_norm", "the value is not finite"),
        ("logits", "accuracy", "the logits are not finite"),
    ):
        steps = reasons.get(column, {}).get(reason)
        if steps:
            yield f"{quantity} are not finite at {_checkpoints(steps)}: nothing is computed from them there"
    for column, subset in (("train_loss", "training"), ("test_loss", "test")):
        series = known_values(timeline, column)
        steps = series.index.to_numpy()[series.to_numpy() == 0].tolist()
        if steps:
            yield (
                f"the {subset} loss is exactly 0 in float64 at {_checkpoints(steps)}: every margin there is above 745, "
                "and neither its logarithm nor a ratio with it means anything"
            )


def _checkpoints(steps: Sequence[int]) -> str:
    noun = "checkpoint" if len(steps) == 1 else "checkpoints"
    return f"{len(steps)} {noun}, the first at step {min(steps)}"


def _collapse_notices(run: Run) -> Iterator[str]:
    """Softmax collapse, inferred from the loss: for a recorded loop, or a run older than `training.numerics`."""
    recorded = isinstance(run.config.model, RecordedConfig)
    older = run.config.loss_dtype == PLAIN and "warnings" not in run.status
    losses = known_values(run.metrics, "train_loss")
    if not (recorded or older) or losses.empty or losses.min() >= _ABSORBED:
        return
    step = int(losses.index[int((losses.to_numpy() < _ABSORBED).argmax())])
    explanation = "this run was trained on PyTorch's float32 cross entropy"
    if recorded:
        explanation = (
            "if this model was trained on PyTorch's float32 cross entropy, most of its examples gave their correct "
            "class no gradient there"
        )
    yield (
        f"softmax collapse is likely from step {step} on, where the training loss is {losses[step]:.2g}, which plain "
        f"float32 cannot distinguish from 0 (limit 6e-8): {explanation}"
    )


def _grid_notices(transition: Transition) -> Iterator[str]:
    intervals: dict[tuple[int, int], list[str]] = {}
    with_delay = transition.outcome == Outcome.GROKKED

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
        events = "; ".join(f"{' and '.join(names)} in ({a}, {b}]" for (a, b), names in intervals.items())
        scale = "the delay" if with_delay else "the step itself"
        yield (
            f"coarse grid: {events}: these intervals are longer than a quarter of {scale}; evaluate and save "
            "checkpoints more often there"
        )
    for name in _PHASES[:2]:
        boundary, formed = getattr(transition, name), transition.circuit_formation_end.step
        if "coarse grid" in boundary.flags:
            yield (
                f"coarse grid: {name}, step {boundary.step}, rests on fewer than 10 evaluated steps before the circuit "
                f"had formed, at step {formed}"
            )


def _key_notices(run: Run, reference: Reference) -> Iterator[str]:
    keys, group = reference.frequencies, run.classification.group
    count = 0 if group is None else n_frequencies(group.order)
    if keys.rule != "given" and count >= _MIN_DENSE and len(keys.values) > _DENSE * count:
        level = "" if keys.threshold is None else f" (threshold {keys.threshold:.3g})"
        yield (
            f"dense spectrum: {len(keys.values)} of {count} frequencies are key by the rule {keys.rule}{level} at step "
            f"{keys.step}, so restricted and excluded loss separate little; for fewer, call key_frequencies with a "
            "larger threshold and pass its result to analyze as frequencies"
        )
    if keys.values and reference.generalizes is False:
        yield (
            f"the model does not generalize at the reference step {keys.step}: its key frequencies may belong to a "
            "circuit that is still forming, or to none; measures that use them do not tell which"
        )
    if reference.lost:
        yield (
            f"keys at T_grok(0.95) that are no longer keys at step {keys.step}: {list(reference.lost)}; the columns "
            "that end in _union, and the figures, use every key since T_grok"
        )
    others = {} if group is None else disagreeing_rules(reference, group.order)
    if keys.rule != "given" and keys.values and reference.generalizes is not False and others:
        rules = "; ".join(f"{rule} {list(values)}" for rule, values in others.items())
        yield (
            f"the rules for key frequencies disagree at step {keys.step}, by more than doubles: {keys.rule} "
            f"{list(keys.values)}; {rules}"
        )


def _ratio_notices(timeline: pd.DataFrame) -> Iterator[str]:
    if not {"ratio_from_keys", "circuit_efficiency_ratio"} <= set(timeline):
        return
    factor = timeline["ratio_from_keys"] / timeline["circuit_efficiency_ratio"]
    mixed = timeline["generalized_margin_share"].between(0.2, 0.9)
    steps = [int(step) for step in timeline.index[mixed & ((factor > 5) | (factor < 0.2))]]
    if steps:
        yield (
            f"the margin ratio and the one from key frequencies differ by more than a factor of 5 at {len(steps)} "
            f"steps, {steps[0]} to {steps[-1]}: the key frequencies may miss part of the circuit"
        )
