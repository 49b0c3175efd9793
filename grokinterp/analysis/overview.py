"""Overview: the few numbers that summarize an analysis, for a terminal or a page."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grokinterp.analysis.key_rules import reported_doubles
from grokinterp.analysis.phases import known_values
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.transition import Event, first_reaching
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome

# docs/numerics.md derives the bound, and tests/test_oracles.py enforces it.
PRECISION = (
    "Precision: measures are computed in float64 from float32 logits, whose rounding changes losses and measures by at "
    "most about 5e-5 of their values"
)


@dataclass(frozen=True)
class Milestone:
    """A step at which the measures of a run are worth reading.

    Attributes:
        name: `fits (99 %)`, `margin ratio = 1`, `generalizes (95 %)` or `end`.
        step: the evaluated step; None if the run does not reach the milestone.
        checkpoint: the analyzed step nearest to it; None outside the analyzed range.
        reason: why there is no step.
    """

    name: str
    step: int | None
    checkpoint: int | None
    reason: str = ""


def milestones(analysis: Analysis) -> list[Milestone]:
    """The steps T_train(0.99), margin ratio = 1 and T_grok(0.95), and the last analyzed step."""
    timeline, transition = analysis.timeline, analysis.transition
    ratio = first_reaching(timeline, "circuit_efficiency_ratio", 1)
    if ratio.step is None:
        unknown = known_values(timeline, "circuit_efficiency_ratio").empty
        last = int(timeline.index[-1])
        reason = analysis.why_missing("circuit_efficiency_ratio", last) if unknown else "the ratio stays below 1"
        ratio = Event(None, reason=reason)
    events = {
        "fits (99 %)": transition.T_train[0.99],
        "margin ratio = 1": ratio,
        "generalizes (95 %)": transition.T_grok[0.95],
        "end": Event(int(timeline.index[-1])),
    }
    steps = timeline.index.to_numpy()
    return [Milestone(name, e.step, _nearest(steps, e.step), e.reason) for name, e in events.items()]


def _nearest(steps: np.ndarray, step: int | None) -> int | None:
    """The element nearest to a step, the later of two; None outside their range."""
    if step is None or not steps[0] <= step <= steps[-1]:
        return None
    return int(min(reversed(steps), key=lambda candidate: abs(candidate - step)))


def value_at(analysis: Analysis, column: str, milestone: Milestone) -> float:
    """A column at a milestone: at its very step if it was evaluated there, else at its checkpoint; NaN if unknown."""
    places = ((analysis.metrics, milestone.step), (analysis.timeline, milestone.step))
    for frame, step in (*places, (analysis.timeline, milestone.checkpoint)):
        if step in frame.index and column in frame and not math.isnan(frame.at[step, column]):
            return float(frame.at[step, column])
    return math.nan


def headline(analysis: Analysis) -> str:
    """When the run fits its training set and when it generalizes, both at the same threshold; else why it does not.

    For an unfinished run, also how far it is.
    """
    status, schedule = analysis.run.status, analysis.run.config.schedule
    step = status.get("step")
    if schedule is None or step is None or status.get("status") not in (RunStatus.STOPPED, RunStatus.RUNNING):
        return _headline(analysis)
    share = f"{100 * step / schedule.steps:.0f} %"
    return f"{_headline(analysis)} ({status['status']} at step {step:,} of {schedule.steps:,}, {share})"


def _headline(analysis: Analysis) -> str:
    transition = analysis.transition
    fits, generalizes = transition.T_train, transition.T_grok
    if transition.outcome in (Outcome.GROKKED, Outcome.GENERALIZED_WITHOUT_DELAY):
        theta = 0.95 if generalizes[0.99].step is None else 0.99
        steps = f"at step {fits[theta].step:,}, generalizes at step {generalizes[theta].step:,}"
        return f"fits the training set {steps} (both at {100 * theta:.0f} %)"
    if transition.outcome == Outcome.DNF_TEST:
        last = max(int(frame.index[-1]) for frame in (analysis.metrics, analysis.timeline) if len(frame))
        fit = f"fits the training set at step {fits[0.99].step:,}"
        return f"{fit}, does not generalize by step {last:,} (both at 99 %)"
    return transition.reason


def key_doubles(analysis: Analysis) -> dict[tuple[int, int], list[str]]:
    """By (2k, k), the rules that report the double 2k of a key frequency k besides the key frequencies."""
    group = analysis.run.classification.group
    return {} if group is None else reported_doubles(analysis.reference, group.order)


def key_shares(analysis: Analysis) -> pd.DataFrame:
    """How much of the embedding and of the logits each key frequency carries.

    Returns:
        One row per key frequency k (index `k`), read at step `.attrs["step"]`, the reference step if it was analyzed
        and otherwise the last one. Columns, absent if not computed: `embedding`, the share of the embedding's variance
        over tokens; `logits`, the share of the logits' variance over classes that cos w_k(a+b-c) explains (its squared
        cosine similarity with the class-centered logits of all pairs).
    """
    reference, last = analysis.reference.frequencies, int(analysis.timeline.index[-1])
    step = reference.step if reference.step in analysis.timeline.index else last
    shares = pd.DataFrame(index=pd.Index(reference.values, name="k", dtype=int))
    shares.attrs["step"] = step
    if step in analysis.frequencies.index.unique("step"):
        spectra = analysis.frequencies.loc[step]
        if "embedding_power" in spectra:
            shares["embedding"] = spectra["embedding_power"] / spectra["embedding_power"].sum()
        if "cosine_similarity" in spectra:
            shares["logits"] = spectra["cosine_similarity"] ** 2
    return shares.dropna(axis="columns", how="all")
