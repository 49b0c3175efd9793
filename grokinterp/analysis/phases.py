"""Where memorization, circuit formation and cleanup end, by rules that use little beyond each end.

The phases are those of Nanda et al. 2023 (section 5.2), who drew their ends by hand.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool


@dataclass(frozen=True)
class Boundary:
    """The end of a phase.

    Attributes:
        step: the evaluated step at which it ends, or None.
        low: the step by a stricter or looser level of the same rule, at or before `step`.
        high: the same, at or after `step`.
        previous: the evaluated step before `step`.
        reason: why there is no step.
        flags: `from losses` (a weaker rule, used without weights or excluded loss), `coarse grid`.
    """

    step: int | None
    low: int | None = None
    high: int | None = None
    previous: int | None = None
    reason: str = ""
    flags: tuple[str, ...] = ()


def first_from(holds: Bool[np.ndarray, " n"], *, after: int = -1, sustained: int = 2) -> int | None:
    """The first position after `after` at which `holds` is true there and at the next `sustained` positions."""
    starts = range(after + 1, len(holds) - sustained)
    return next((i for i in starts if holds[i : i + sustained + 1].all()), None)


def known_values(frame: pd.DataFrame, *names: str) -> pd.Series:
    """The first of some columns that has values, without its NaN rows; empty if none has."""
    columns = (pd.Series(frame[name], dtype=float).dropna() for name in names if name in frame)
    return next((column for column in columns if not column.empty), pd.Series(dtype=float))


def locate_phases(timeline: pd.DataFrame, curves: pd.DataFrame, chance: float) -> tuple[Boundary, Boundary, Boundary]:
    """The ends of the three phases; `chance` is ln of the number of classes, the loss of a uniform guess."""
    test = known_values(curves, "test_loss")
    test = known_values(timeline, "test_loss") if test.empty else test
    if test.empty:
        unknown = Boundary(None, reason="no test loss was recorded")
        return unknown, unknown, unknown
    formation = _circuit_formation_end(test, chance)
    end = formation.step
    excluded = known_values(timeline, "excluded_loss_novel", "excluded_loss")
    if not excluded.empty:
        memorization = _memorization_end(excluded, end, chance)
    elif end is None:  # the largest test loss so far says nothing: it may still rise
        memorization = Boundary(None, reason="the circuit has not formed")
    else:
        peak = int(test.to_numpy().argmax())
        memorization = _at(test, peak, peak, peak, ("from losses", *_coarse(test, end)))
    if end is None:
        cleanup = Boundary(None, reason="the circuit has not formed: " + formation.reason)
    else:
        norm = known_values(curves, "weight_norm")
        cleanup = _cleanup_from_losses(curves, end) if norm.empty else _cleanup_from_norm(norm, end)
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
    """The step from which the loss on unseen pairs stays below that of a uniform guess."""
    values = test.to_numpy()
    peak = int(values.argmax())
    below = [first_from(values < level * chance, after=peak) for level in (1.5, 1.0, 0.67)]
    if below[1] is None:
        return Boundary(None, reason="test loss never falls below chance")
    return _at(test, below[1], below[0], below[2], _coarse(test, int(test.index[below[1]])))


def _coarse(series: pd.Series, formation_end: int | None) -> tuple[str, ...]:
    """The flag of a boundary that rests on too few steps before the circuit had formed."""
    is_coarse = formation_end is not None and int((series.index.to_numpy() < formation_end).sum()) < 10
    return ("coarse grid",) if is_coarse else ()


def _memorization_end(excluded: pd.Series, formation_end: int | None, chance: float) -> Boundary:
    """The minimum of the excluded loss: from there on the circuit takes over from memorization."""
    steps, values = excluded.index.to_numpy(), excluded.to_numpy()
    before = steps < formation_end if formation_end is not None else np.ones(len(steps), dtype=bool)
    if not before.any():
        return Boundary(None, reason="no checkpoint was saved before the circuit had formed")
    early = values[before]
    i, smallest = int(early.argmin()), float(early.min())
    if smallest >= chance / 2:
        return Boundary(None, reason="no memorization phase")
    later = early[i + 1 :]
    if len(later) < 3 or float(np.median(later[-3:])) < 2 * smallest:
        return Boundary(None, reason="excluded loss has not risen")
    near = np.flatnonzero(early <= 1.25 * smallest)
    return _at(excluded, i, int(near[0]), int(near[-1]), _coarse(excluded, formation_end))


def norm_fall(norm: pd.Series, width: float = 0.075) -> pd.Series:
    """rho(t) = - d ln(sum of squares) / d ln t, by least squares over t (1 +- width).

    There is no value with fewer than 3 points, or where the window would reach beyond the last step: that value would
    change when a run grows.
    """
    inside = pd.Series(norm[norm.index > 0])
    x, y = np.log(inside.index.to_numpy(dtype=float)), 2 * np.log(inside.to_numpy(dtype=float))
    steps = inside.index.to_numpy(dtype=float)
    rho = []
    last = steps[-1] if len(steps) else 0.0
    for t in steps:
        near = (steps >= t * (1 - width)) & (steps <= t * (1 + width))
        is_complete = near.sum() >= 3 and t * (1 + width) <= last
        rho.append(-np.polyfit(x[near], y[near], 1)[0] if is_complete else np.nan)
    return pd.Series(rho, index=inside.index, dtype=float).dropna()


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
    """Without weights: the test loss falls to within ten times the train loss, which may be logged more sparsely."""
    train, test = known_values(curves, "train_loss"), known_values(curves, "test_loss")
    if train.empty or test.empty:
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
