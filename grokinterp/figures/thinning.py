"""Curves of more points than a screen shows, without those that nobody would see missing."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from grokinterp.analysis.result import Analysis

# A browser draws this many points of a curve quickly; more are thinned.
MOST_POINTS = 2500
_STRETCHES = 400  # into which the steps are cut, once evenly and once evenly in their logarithm


def thinned_curve(curve: pd.Series, moments: Iterable[int]) -> pd.Series:
    """A curve of at most MOST_POINTS points as it is; of a longer one what shows on either step axis.

    That is the smallest and the largest point of each stretch of steps, the ends, and the points next to each moment.

    Args:
        curve: values by step, ascending.
        moments: steps whose neighbourhood is to be kept whole.
    """
    if len(curve) <= MOST_POINTS:
        return curve
    steps, values = np.asarray(curve.index, dtype=float), curve.to_numpy(dtype=float)
    lowest, highest = (np.where(np.isnan(values), missing, values) for missing in (np.inf, -np.inf))
    chosen = {0, len(curve) - 1}
    for scale in (steps, np.log1p(steps - min(steps[0], 0.0))):
        edges = np.linspace(scale[0], scale[-1], _STRETCHES + 1)
        starts = np.unique(np.searchsorted(scale, edges[:-1]))
        for start, stop in zip(starts, [*starts[1:], len(curve)], strict=True):
            chosen |= {start + int(lowest[start:stop].argmin()), start + int(highest[start:stop].argmax())}
    for moment in moments:
        at = int(np.searchsorted(steps, moment))
        chosen |= set(range(max(0, at - 2), min(len(curve), at + 3)))
    return pd.Series(curve.iloc[sorted(chosen)])


def moments_of(analyses: Sequence[Analysis]) -> set[int]:
    """The steps at which runs memorized and generalized, and at which their phases end."""
    found: set[int | None] = set()
    for transition in (one.transition for one in analyses):
        events = (transition.T_train, transition.T_grok, transition.T_grok_novel)
        found |= {event.step for by_threshold in events for event in by_threshold.values()}
        ends = (transition.memorization_end, transition.circuit_formation_end, transition.cleanup_end)
        found |= {end.step for end in ends}
    return {step for step in found if step is not None}
