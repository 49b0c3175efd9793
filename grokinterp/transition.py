"""find_transition: when a run memorized, when it generalized, and where the phases between end.

Events and the phases' ends are evaluated steps; each carries the evaluated step before it, so that the grid's
resolution is never hidden. What a run does not show is None with a reason.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool

Outcome = Literal[
    "grokked",
    "generalized_without_delay",
    "semi_grokked",
    "DNF_test",
    "DNF_train",
    "diverged",
    "undetermined",
]

THRESHOLDS = (0.95, 0.99)


@dataclass(frozen=True)
class Event:
    """The first evaluated step at which something held.

    Attributes:
        step: the step, or None.
        previous: the evaluated step before it, at which it did not hold yet; None at the first one.
        reason: why there is no step.
    """

    step: int | None
    previous: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Boundary:
    """The end of a phase.

    Attributes:
        step: the evaluated step it ends at, or None.
        low: the step a stricter or looser level of the same rule gives, before or at `step`.
        high: the same, at or after `step`.
        previous: the evaluated step before `step`.
        reason: why there is no step.
        flags: `from losses` (a weaker rule, for want of weights or excluded loss), `coarse grid`.
    """

    step: int | None
    low: int | None = None
    high: int | None = None
    previous: int | None = None
    reason: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transition:
    """What a run's curves say of its grokking.

    Attributes:
        outcome: one of `Outcome`; the class docstring of DESIGN's glossary applies: `grokked` means memorized first.
        reason: why it is that outcome, in a few words.
        T_train: by threshold 0.95 and 0.99, first evaluated step with that train accuracy.
        T_grok: the same for accuracy on all test inputs.
        T_grok_novel: the same for test pairs whose mirror was not trained on either; all None where there are none.
        delay: T_grok - T_train at each threshold; None where either is.
        memorization_end: where memorizing alone ends and the circuit begins to form.
        circuit_formation_end: where the test loss falls below that of a uniform guess.
        cleanup_end: where the weight norm has come to rest again.
        evidence: numbers the verdicts rest on, by name.
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


def find_transition(
    timeline: pd.DataFrame,
    *,
    n_classes: int,
    metrics: pd.DataFrame | None = None,
    memorization_budget: int | None = None,
    status: str = "finished",
    flatness: float = 0.02,
) -> Transition:
    """Locates the transition from memorization to generalization.

    Args:
        timeline: indexed by step; columns used where there: `train_loss`, `test_loss`, `train_accuracy`,
            `test_accuracy`, `novel_accuracy`, `weight_norm`, `excluded_loss_novel` (else `excluded_loss`),
            `restricted_loss_novel`, `circuit_efficiency_ratio`.
        n_classes: number of classes; ln of it is the loss of a uniform guess.
        metrics: losses, accuracies and norm on a finer grid than the timeline's, where there is one.
        memorization_budget: steps within which train accuracy must reach 0.99; by default all.
        status: `finished`, `stopped`, `running` or `diverged`, as the run's status says.
        flatness: largest change of accuracy over the last quarter that counts as a plateau.

    Returns:
        The transition; nothing is raised for curves that do not show one.
    """
    curves = timeline if metrics is None or metrics.empty else metrics
    events = {
        name: {theta: first_reaching(curves, column, theta) for theta in THRESHOLDS}
        for name, column in (("train", "train_accuracy"), ("test", "test_accuracy"), ("novel", "novel_accuracy"))
    }
    delay = {theta: _difference(events["test"][theta].step, events["train"][theta].step) for theta in THRESHOLDS}
    outcome, reason = _outcome(curves, events, n_classes, memorization_budget, status, flatness)
    if outcome in ("diverged", "DNF_train"):
        refused = Boundary(None, reason=reason)
        phases = (refused, refused, refused)
    else:
        phases = _phases(timeline, curves, math.log(n_classes))
    return Transition(
        outcome=outcome,
        reason=reason,
        T_train=events["train"],
        T_grok=events["test"],
        T_grok_novel=events["novel"],
        delay=delay,
        memorization_end=phases[0],
        circuit_formation_end=phases[1],
        cleanup_end=phases[2],
        evidence=_evidence(timeline, curves, events, math.log(n_classes)),
    )


def first_from(holds: Bool[np.ndarray, " n"], *, after: int = -1, sustained: int = 2) -> int | None:
    """The first position, after `after`, at which and at the next `sustained` ones something holds."""
    for i in range(after + 1, len(holds) - sustained):
        if holds[i : i + sustained + 1].all():
            return i
    return None


def _column(frame: pd.DataFrame, name: str) -> pd.Series | None:
    """A column without its NaN rows; None where nothing is left."""
    if name not in frame:
        return None
    series = pd.Series(frame[name], dtype=float)
    series = pd.Series(series[series.notna()])
    return None if series.empty else series


def first_reaching(curves: pd.DataFrame, name: str, theta: float) -> Event:
    """The first row at which a column is at least theta, whatever it does later."""
    series = _column(curves, name)
    if series is None:
        return Event(None, reason=f"no {name.replace('_', ' ')} was recorded")
    reached = np.flatnonzero(series.to_numpy() >= theta)
    if not len(reached):
        return Event(None, reason=f"{name.replace('_', ' ')} never reached {theta}; its largest is {series.max():.3f}")
    i = int(reached[0])
    return Event(int(series.index[i]), int(series.index[i - 1]) if i else None)


def _difference(later: int | None, earlier: int | None) -> int | None:
    return None if later is None or earlier is None else later - earlier


def _outcome(
    curves: pd.DataFrame,
    events: dict[str, dict[float, Event]],
    n_classes: int,
    memorization_budget: int | None,
    status: str,
    flatness: float,
) -> tuple[Outcome, str]:
    train_loss = _column(curves, "train_loss")
    if status == "diverged":
        return "diverged", "the loss became NaN or infinite"
    if train_loss is not None and len(curves) > 1 and train_loss.iloc[-1] > 2 * math.log(n_classes):
        return "diverged", "the final train loss is more than twice that of a uniform guess"
    if _column(curves, "train_accuracy") is None or _column(curves, "test_accuracy") is None:
        return "undetermined", "which inputs were trained on, or the accuracy on them, is not known"
    if len(curves) < 2:
        return "undetermined", "a single step was evaluated"
    memorized, generalized = events["train"][0.99].step, events["test"][0.95].step
    budget = int(curves.index[-1]) if memorization_budget is None else memorization_budget
    unfinished = status in ("running", "stopped")
    if memorized is None or memorized > budget:
        if unfinished and (memorization_budget is None or int(curves.index[-1]) < budget):
            return "undetermined", "the run is unfinished, and has not memorized yet"
        aside = "" if generalized is None else f", though test accuracy reached 0.95 at step {generalized}"
        return "DNF_train", f"train accuracy did not reach 0.99 within {budget} steps{aside}"
    if generalized is not None:
        return _grokked_or_not(curves, events, memorized, generalized)
    if unfinished:
        return "undetermined", "the run is unfinished: memorized, and not generalized yet"
    name = "novel_accuracy" if _column(curves, "novel_accuracy") is not None else "test_accuracy"
    series = _column(curves, name)
    assert series is not None
    quarter = pd.Series(series[series.index >= series.index[-1] * 0.75])
    change = _fitted_change(quarter)
    if 0.05 < series.iloc[-1] < 0.95 and len(quarter) >= 3 and abs(change) <= flatness:
        return "semi_grokked", f"{name.replace('_', ' ')} rests at {series.iloc[-1]:.3f}"
    return "DNF_test", f"memorized at step {memorized}; test accuracy never reached 0.95"


def _grokked_or_not(
    curves: pd.DataFrame, events: dict[str, dict[float, Event]], memorized: int, generalized: int
) -> tuple[Outcome, str]:
    if generalized <= 2 * memorized:
        return "generalized_without_delay", f"T_grok(0.95) = {generalized} is within twice T_train(0.99) = {memorized}"
    seen = _column(curves, "novel_accuracy")
    seen = seen if seen is not None else _column(curves, "test_accuracy")
    assert seen is not None
    already = float(seen.to_numpy()[seen.index <= memorized][-1])
    if already >= 0.5:
        return "generalized_without_delay", f"accuracy on unseen pairs was {already:.2f} when training was memorized"
    return "grokked", f"memorized at step {memorized}, generalized at step {generalized}"


def _fitted_change(series: pd.Series) -> float:
    """The change over a stretch by a straight line through it."""
    x = series.index.to_numpy(dtype=float)
    if len(x) < 2:
        return 0.0
    return float(np.polyfit(x - x[0], series.to_numpy(dtype=float), 1)[0] * (x[-1] - x[0]))


def _phases(timeline: pd.DataFrame, curves: pd.DataFrame, chance: float) -> tuple[Boundary, Boundary, Boundary]:
    test = _column(curves, "test_loss")
    test = test if test is not None else _column(timeline, "test_loss")
    if test is None:
        unknown = Boundary(None, reason="no test loss was recorded")
        return unknown, unknown, unknown
    formation = _circuit_formation_end(test, chance)
    end = formation.step
    excluded = _column(timeline, "excluded_loss_novel")
    excluded = excluded if excluded is not None else _column(timeline, "excluded_loss")
    if excluded is not None:
        memorization = _memorization_end(excluded, end, chance)
    else:
        peak = int(test.to_numpy().argmax())
        memorization = _at(test, peak, peak, peak, ("from losses", *_coarse(test, end)))
    if end is None:
        cleanup = Boundary(None, reason="the circuit has not formed: " + formation.reason)
    else:
        norm = _column(curves, "weight_norm")
        cleanup = _cleanup_from_norm(norm, end) if norm is not None else _cleanup_from_losses(curves, end)
    return _in_order(memorization, formation, cleanup)


def _at(series: pd.Series, i: int, low: int | None, high: int | None, flags: tuple[str, ...] = ()) -> Boundary:
    steps = series.index
    return Boundary(
        step=int(steps[i]),
        low=None if low is None else int(steps[low]),
        high=None if high is None else int(steps[high]),
        previous=int(steps[i - 1]) if i else None,
        flags=flags,
    )


def _circuit_formation_end(test: pd.Series, chance: float) -> Boundary:
    """Better than a uniform guess on unseen pairs, from here on."""
    values = test.to_numpy()
    peak = int(values.argmax())
    below = [first_from(values < level * chance, after=peak) for level in (1.5, 1.0, 0.67)]
    if below[1] is None:
        return Boundary(None, reason="test loss never falls below chance")
    return _at(test, below[1], below[0], below[2], _coarse(test, int(test.index[below[1]])))


def _coarse(series: pd.Series, formation_end: int | None) -> tuple[str, ...]:
    """The flag of a boundary found from too few steps before the circuit had formed."""
    few = formation_end is not None and int((series.index.to_numpy() < formation_end).sum()) < 10
    return ("coarse grid",) if few else ()


def _memorization_end(excluded: pd.Series, formation_end: int | None, chance: float) -> Boundary:
    """Where what is left without the key frequencies is at its best: from here on the circuit takes over."""
    steps, values = excluded.index.to_numpy(), excluded.to_numpy()
    before = steps < formation_end if formation_end is not None else np.ones(len(steps), dtype=bool)
    if not before.any():
        return Boundary(None, reason="no checkpoint was kept before the circuit had formed")
    early = values[before]
    i, smallest = int(early.argmin()), float(early.min())
    if smallest >= chance / 2:
        return Boundary(None, reason="no memorization phase")
    last = int(before.sum()) - 1
    around = values[max(0, last - 1) : last + 4] if formation_end is not None else values[-5:]
    if float(np.median(around)) < 2 * smallest:
        return Boundary(None, reason="excluded loss has not risen")
    near = np.flatnonzero(early <= 1.25 * smallest)
    return _at(excluded, i, int(near[0]), int(near[-1]), _coarse(excluded, formation_end))


def norm_fall(norm: pd.Series, width: float = 0.075) -> pd.Series:
    """rho(t) = - d ln(sum of squares) / d ln t, by least squares over t (1 +- width); NaN with fewer than 3 points."""
    inside = pd.Series(norm[norm.index > 0])
    x, y = np.log(inside.index.to_numpy(dtype=float)), 2 * np.log(inside.to_numpy(dtype=float))
    steps = inside.index.to_numpy(dtype=float)
    rho = []
    for t in steps:
        near = (steps >= t * (1 - width)) & (steps <= t * (1 + width))
        rho.append(-np.polyfit(x[near], y[near], 1)[0] if near.sum() >= 3 else np.nan)
    found = pd.Series(rho, index=inside.index, dtype=float)
    return pd.Series(found[found.notna()])


def _cleanup_from_norm(norm: pd.Series, formation_end: int) -> Boundary:
    rho = norm_fall(norm)
    rho = pd.Series(rho[rho.index >= formation_end])
    if rho.empty:
        return Boundary(None, reason="too few steps were evaluated after the circuit formed")
    values = rho.to_numpy()
    steepest = int(values.argmax())
    if values[steepest] < 0.5:
        return Boundary(None, reason="the weight norm does not fall")
    rests = [first_from(values < level, after=steepest, sustained=1) for level in (1.0, 0.5, 0.25)]
    if rests[1] is None:
        return Boundary(None, reason="the weight norm still falls at the last checkpoint")
    grid = list(norm.index)
    boundary = _at(rho, rests[1], rests[0], rests[2])
    i = grid.index(boundary.step)
    return Boundary(boundary.step, boundary.low, boundary.high, int(grid[i - 1]) if i else None)


def _cleanup_from_losses(curves: pd.DataFrame, formation_end: int) -> Boundary:
    """Without weights: test loss within ten times train loss, which may have been logged more sparsely."""
    train, test = _column(curves, "train_loss"), _column(curves, "test_loss")
    if train is None or test is None:
        return Boundary(None, reason="neither weights nor train loss were recorded", flags=("from losses",))
    expected = np.exp(np.interp(test.index, train.index, np.log(train.clip(lower=1e-300))))
    holds = (test.to_numpy() <= 10 * expected) & (test.index.to_numpy() >= formation_end)
    i = first_from(holds)
    if i is None:
        return Boundary(None, reason="test loss never comes within ten times train loss", flags=("from losses",))
    return _at(test, i, None, None, ("from losses",))


def _in_order(memorization: Boundary, formation: Boundary, cleanup: Boundary) -> tuple[Boundary, Boundary, Boundary]:
    if formation.step is not None:
        if memorization.step is not None and memorization.step >= formation.step:
            memorization = Boundary(None, reason="memorization would not end before the circuit has formed")
        if cleanup.step is not None and cleanup.step < formation.step:
            cleanup = Boundary(None, reason="cleanup would end before the circuit has formed")
    return memorization, formation, cleanup


def _sustained_below(series: pd.Series | None, level: float) -> int | None:
    if series is None:
        return None
    i = first_from(series.to_numpy() < level)
    return None if i is None else int(series.index[i])


def _evidence(
    timeline: pd.DataFrame, curves: pd.DataFrame, events: dict[str, dict[float, Event]], chance: float
) -> dict[str, float | None]:
    """Steps and accuracies that the verdicts rest on; `below` means from that step on."""
    restricted = _sustained_below(_column(timeline, "restricted_loss_novel"), 0.1 * chance)
    ratio = _column(timeline, "circuit_efficiency_ratio")
    crossing = None if ratio is None else next((int(s) for s, r in ratio.items() if r >= 1), None)  # pyright: ignore

    def at(name: str, step: int | None) -> float | None:
        series = _column(curves, name)
        if step is None or series is None or series.index[0] > step:
            return None
        return float(series.to_numpy()[series.index <= step][-1])

    memorized = events["train"][0.99].step
    last = int(curves.index[-1]) if len(curves) else None
    return {
        "restricted_loss_below_tenth_of_chance": restricted,
        "test_loss_below_tenth_of_chance": _sustained_below(_column(timeline, "test_loss"), 0.1 * chance),
        "novel_accuracy_at_restricted_loss_below": at("novel_accuracy", restricted),
        "circuit_efficiency_ratio_reaches_1": crossing,
        "test_accuracy_at_T_train_0.99": at("test_accuracy", memorized),
        "novel_accuracy_at_T_train_0.99": at("novel_accuracy", memorized),
        "final_train_accuracy": at("train_accuracy", last),
        "final_test_accuracy": at("test_accuracy", last),
    }
