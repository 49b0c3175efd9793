"""find_transition: when a run fits its training set (T_train), when it generalizes (T_grok), and its phases.

Events and phase ends are evaluated steps. Each carries the evaluated step before it, so that the resolution of the
grid is never hidden. An event that does not occur is None with a reason.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd

from grokinterp.analysis.phases import Boundary, first_from, known_values, locate_phases
from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError
from grokinterp.runs.status import RunStatus
from grokinterp.statistics.outcomes import Outcome

THRESHOLDS = (0.95, 0.99)


@dataclass(frozen=True)
class Event:
    """The first evaluated step at which a condition holds.

    Attributes:
        step: the step, or None.
        previous: the evaluated step before it, at which the condition does not hold; None at the first one.
        reason: why there is no step.
    """

    step: int | None
    previous: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Thresholds:
    """The boundaries between the outcomes.

    Attributes:
        without_delay_factor: a run generalizes without delay if T_grok(0.95) is within this multiple of T_train(0.99),
        without_delay_accuracy: or if its accuracy on unseen pairs at T_train(0.99) is at least this (and at least one
            and a half times chance).
        semi_grokked_from: a semi-grokked plateau lies above this accuracy (and above twice chance or, with fewer than
            5 classes, a quarter of the way from chance to 1),
        semi_grokked_to: below this one,
        flatness: and changes by no more than this over the last quarter.
    """

    without_delay_factor: float = 2.0
    without_delay_accuracy: float = 0.5
    semi_grokked_from: float = 0.05
    semi_grokked_to: float = 0.95
    flatness: float = 0.02


@dataclass(frozen=True, repr=False)
class Transition(Carded):
    """The transition of a run from memorization to generalization.

    >>> import grokinterp as gi
    >>> transition = gi.load("checkpoints/run42").transition
    >>> transition.outcome, transition.T_train[0.99].step, transition.T_grok[0.99].step
    ('grokked', 130, 2490)

    Attributes:
        outcome: `grokked`: train accuracy reaches 0.99 first, test accuracy 0.95 later.
            `generalized_without_delay`: it generalizes within twice T_train(0.99), or has half of the unseen pairs
            (with 2 classes, three quarters) right by then. `semi_grokked`: its accuracy on unseen pairs settles between
            chance and 0.95. `DNF_test`: only train accuracy reaches its threshold. `DNF_train`: not even that, within
            its budget. `diverged`: NaN, Inf, or a final train loss over twice chance. `undetermined`: unfinished, a
            single step, or an unknown split.
        reason: why it is that outcome, in a few words.
        T_train: by threshold 0.95 and 0.99, first evaluated step with that train accuracy.
        T_grok: the same for accuracy on all test inputs.
        T_grok_novel: the same for test pairs whose mirror is not a training pair either; all None without such pairs.
        delay: T_grok - T_train at each threshold; None if either is.
        memorization_end: where the phase of pure memorization ends, by the excluded loss; T_train is earlier.
        circuit_formation_end: where the test loss falls below that of a uniform guess.
        cleanup_end: where the weight norm has settled again.
        evidence: the numbers behind the verdicts, by name.
    """

    outcome: Outcome
    reason: str
    T_train: dict[float, Event]
    T_grok: dict[float, Event]
    T_grok_novel: dict[float, Event]
    delay: dict[float, int | None]
    memorization_end: Boundary
    circuit_formation_end: Boundary
    cleanup_end: Boundary
    evidence: dict[str, float | None] = field(default_factory=dict)

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("t_grok", "grok_step", "grokking_step", "grokked_at"): "T_grok[0.99].step",
        ("t_train", "memorized_at"): "T_train[0.99].step",
        ("phases",): "memorization_end, circuit_formation_end and cleanup_end",
    }

    def _card(self) -> Card:
        def steps(events: dict[float, Event]) -> str:
            shown = (
                f"{'never' if e.step is None else f'{e.step:,}'} (at {100 * theta:.0f} %)"
                for theta, e in events.items()
            )
            return ", ".join(shown)

        facts = {"reason": self.reason, "T_train": steps(self.T_train), "T_grok": steps(self.T_grok)}
        for name in ("memorization_end", "circuit_formation_end", "cleanup_end"):
            end = getattr(self, name)
            facts[name.removesuffix("_end").replace("_", " ")] = (
                f"none: {end.reason}" if end.step is None else f"step {end.step:,}"
            )
        return Card(f"Transition: {self.outcome}", facts, ["transition.T_grok[0.99].step", "transition.evidence"])


def find_transition(
    timeline: pd.DataFrame,
    *,
    n_classes: float | None = None,
    metrics: pd.DataFrame | None = None,
    memorization_budget: int | None = None,
    status: str = RunStatus.FINISHED,
    cross_entropy: bool = True,
    thresholds: Thresholds = Thresholds(),
    phases: bool = True,
) -> Transition:
    """Locates the transition from memorization to generalization.

    >>> table = pd.DataFrame({"train_accuracy": [0.1, 1.0, 1.0, 1.0], "test_accuracy": [0.1, 0.1, 0.2, 1.0]})
    >>> table.index = pd.Index([0, 100, 1000, 2000], name="step")
    >>> transition = find_transition(table, n_classes=10)
    >>> transition.T_train[0.99].step, transition.T_grok[0.95].step
    (100, 2000)

    Args:
        timeline: indexed by step; columns used if present: `train_loss`, `test_loss`, `train_accuracy`,
            `test_accuracy`, `novel_accuracy`, `weight_norm`, `excluded_loss_novel` (else `excluded_loss`),
            `restricted_loss_novel`, `circuit_efficiency_ratio`.
        n_classes: number of classes; its logarithm is the loss of a uniform guess. Infinite for a regression, where no
            guess is right by chance. By default that of the run from which the table comes.
        metrics: losses, accuracies and norm on a finer grid than the timeline's, if available.
        memorization_budget: steps within which train accuracy must reach 0.99 (default: all).
        status: the run's status: `finished`, `stopped`, `running` or `diverged`.
        cross_entropy: False if the losses in `metrics` are of another kind (squared errors, StableMax): they are then
            ignored, and no phases are located.
        thresholds: the boundaries between the outcomes.
        phases: False leaves the phases unlocated, which saves time.

    Returns:
        The transition; curves that do not show one raise nothing.

    Raises:
        ConfigError: `n_classes` is not given, and the table comes from no run.
    """
    if not isinstance(timeline, pd.DataFrame):
        raise ConfigError(f"timeline must be a DataFrame, but is {type(timeline).__name__}")
    if "step" in timeline.columns:  # after reset_index
        timeline = timeline.set_index("step")
    n_classes = n_classes if n_classes is not None else timeline.attrs.get("n_classes")
    if n_classes is None:
        raise ConfigError(
            "n_classes is missing: give the number of possible answers (p for an operation mod p); an accuracy of "
            "1 / n_classes is chance, and log(n_classes) is the loss of a uniform guess"
        )
    curves = timeline if metrics is None or metrics.empty else metrics
    events = {
        name: {theta: first_reaching(curves, column, theta) for theta in THRESHOLDS}
        for name, column in (("train", "train_accuracy"), ("test", "test_accuracy"), ("novel", "novel_accuracy"))
    }
    delay = {theta: _difference(events["test"][theta].step, events["train"][theta].step) for theta in THRESHOLDS}
    usable = curves if cross_entropy else curves.drop(columns=["train_loss", "test_loss"], errors="ignore")
    outcome, reason = _outcome(usable, events, n_classes, memorization_budget, status, thresholds)
    if outcome in (Outcome.DIVERGED, Outcome.DNF_TRAIN) or len(curves) == 1 or not cross_entropy or not phases:
        why = reason if cross_entropy else "trained on another loss: the phases are defined by cross entropy"
        unlocated = Boundary(None, reason=why if phases else "not located")
        boundaries = unlocated, unlocated, unlocated
    else:
        boundaries = locate_phases(timeline, curves, math.log(n_classes))
    evidence = _evidence(usable if curves is timeline else timeline, curves, events, math.log(n_classes))
    return Transition(outcome, reason, events["train"], events["test"], events["novel"], delay, *boundaries, evidence)


def first_reaching(curves: pd.DataFrame, name: str, theta: float) -> Event:
    """The first row at which a column is at least theta, whatever follows."""
    series = known_values(curves, name)
    if series.empty:
        return Event(None, reason=f"no {name.replace('_', ' ')} was recorded")
    reached = np.flatnonzero(series.to_numpy() >= theta)
    if not len(reached):
        return Event(None, reason=f"{name.replace('_', ' ')} never reached {theta}; its largest is {series.max():.3f}")
    if len(series) == 1:
        return Event(None, reason=f"only step {series.index[0]:,} was evaluated: it occurred then or earlier")
    i = int(reached[0])
    return Event(int(series.index[i]), int(series.index[i - 1]) if i else None)


def _difference(later: int | None, earlier: int | None) -> int | None:
    return None if later is None or earlier is None else later - earlier


def _outcome(
    curves: pd.DataFrame,
    events: dict[str, dict[float, Event]],
    n_classes: float,
    memorization_budget: int | None,
    status: str,
    thresholds: Thresholds,
) -> tuple[Outcome, str]:
    train_loss = known_values(curves, "train_loss")
    if status == RunStatus.DIVERGED:
        return Outcome.DIVERGED, "the loss became NaN or infinite"
    if not train_loss.empty and len(curves) > 1 and train_loss.iloc[-1] > 2 * math.log(n_classes):
        return Outcome.DIVERGED, "the final train loss is more than twice that of a uniform guess"
    if known_values(curves, "train_accuracy").empty or known_values(curves, "test_accuracy").empty:
        return Outcome.UNDETERMINED, "the train/test split, or the accuracy on it, is unknown"
    if len(curves) < 2:
        return Outcome.UNDETERMINED, "a single step was evaluated"
    memorized, generalized = events["train"][0.99].step, events["test"][0.95].step
    budget = int(curves.index[-1]) if memorization_budget is None else memorization_budget
    unfinished = status in (RunStatus.RUNNING, RunStatus.STOPPED)
    if memorized is None or memorized > budget:
        if unfinished and (memorization_budget is None or int(curves.index[-1]) < budget):
            return Outcome.UNDETERMINED, "the run is unfinished: train accuracy has not reached 0.99 yet"
        trained = min(budget, int(curves.index[-1]))  # a rule may have ended the run before its budget
        aside = "" if generalized is None else f", though test accuracy reached 0.95 at step {generalized}"
        return Outcome.DNF_TRAIN, f"train accuracy did not reach 0.99 within {trained} steps{aside}"
    if generalized is not None:
        return _grokked_or_not(curves, memorized, generalized, n_classes, thresholds)
    if unfinished:
        reason = f"the run is unfinished: T_train(0.99) = {memorized}, test accuracy has not reached 0.95 yet"
        return Outcome.UNDETERMINED, reason
    series = known_values(curves, "novel_accuracy", "test_accuracy")
    quarter = pd.Series(series[series.index >= series.index[-1] * 0.75])
    change = _fitted_change(quarter)
    chance = 1 / n_classes
    lower_bound = max(thresholds.semi_grokked_from, min(2 * chance, chance + (1 - chance) / 4))  # clearly above chance
    above_chance = lower_bound < series.iloc[-1] < thresholds.semi_grokked_to
    if above_chance and len(quarter) >= 3 and abs(change) <= thresholds.flatness:
        return Outcome.SEMI_GROKKED, f"{str(series.name).replace('_', ' ')} rests at {series.iloc[-1]:.3f}"
    return Outcome.DNF_TEST, f"T_train(0.99) = {memorized}, test accuracy never reached 0.95"


def _grokked_or_not(
    curves: pd.DataFrame, memorized: int, generalized: int, n_classes: float, thresholds: Thresholds
) -> tuple[Outcome, str]:
    if generalized <= thresholds.without_delay_factor * memorized:
        reason = f"T_grok(0.95) = {generalized} is soon after T_train(0.99) = {memorized}"
        return Outcome.GENERALIZED_WITHOUT_DELAY, reason
    accuracy = known_values(curves, "novel_accuracy", "test_accuracy")
    until_memorized = accuracy.to_numpy()[accuracy.index.to_numpy() <= memorized]
    when_memorized = float(until_memorized[-1]) if len(until_memorized) else 0.0
    if when_memorized >= max(thresholds.without_delay_accuracy, 1.5 / n_classes):
        reason = f"accuracy on unseen pairs was {when_memorized:.2f} at T_train(0.99) = {memorized}"
        return Outcome.GENERALIZED_WITHOUT_DELAY, reason
    return Outcome.GROKKED, f"T_train(0.99) = {memorized}, T_grok(0.95) = {generalized}"


def _fitted_change(series: pd.Series) -> float:
    """The change over a stretch, by a straight line fitted to it."""
    x = series.index.to_numpy(dtype=float)
    if len(x) < 2:
        return 0.0
    return float(np.polyfit(x - x[0], series.to_numpy(dtype=float), 1)[0] * (x[-1] - x[0]))


def _sustained_below(series: pd.Series, level: float) -> int | None:
    i = first_from(series.to_numpy() < level)
    return None if i is None else int(series.index[i])


def _evidence(
    timeline: pd.DataFrame, curves: pd.DataFrame, events: dict[str, dict[float, Event]], chance: float
) -> dict[str, float | None]:
    """The steps and accuracies behind the verdicts; `below` means from that step on."""
    restricted = _sustained_below(known_values(timeline, "restricted_loss_novel"), 0.1 * chance)
    crossing = first_reaching(timeline, "circuit_efficiency_ratio", 1).step

    def at(name: str, step: int | None) -> float | None:
        series = known_values(curves, name)
        if step is None or series.empty or series.index[0] > step:
            return None
        return float(series.to_numpy()[series.index <= step][-1])

    def risen(share: float) -> int | None:
        """The first step at which this share of the rise of accuracy on unseen pairs since memorization is complete."""
        series = known_values(curves, "novel_accuracy", "test_accuracy")
        series = pd.Series(series[series.index >= (math.inf if memorized is None else memorized)])
        if len(series) < 2 or series.max() <= series.iloc[0]:
            return None
        level = series.iloc[0] + share * (series.max() - series.iloc[0])
        return int(series.index[int((series.to_numpy() >= level).argmax())])

    memorized = events["train"][0.99].step
    last = int(curves.index[-1]) if len(curves) else None
    return {
        "restricted_loss_below_tenth_of_chance": restricted,
        "test_loss_below_tenth_of_chance": _sustained_below(known_values(timeline, "test_loss"), 0.1 * chance),
        "novel_accuracy_at_restricted_loss_below": at("novel_accuracy", restricted),
        "circuit_efficiency_ratio_reaches_1": crossing,
        "test_accuracy_at_T_train_0.99": at("test_accuracy", memorized),
        "novel_accuracy_at_T_train_0.99": at("novel_accuracy", memorized),
        "accuracy_rise_10_percent": risen(0.1),
        "accuracy_rise_90_percent": risen(0.9),
        "final_train_accuracy": at("train_accuracy", last),
        "final_test_accuracy": at("test_accuracy", last),
    }
