"""Thin curves that have more points than a screen shows, without changing how they look."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from grokinterp.analysis.result import Analysis

# A browser draws curves of this many points quickly.
MOST_POINTS = 2500


def thinned_curve(curve: pd.Series, moments: Collection[int] = (), limit: int = MOST_POINTS) -> pd.Series:
    """Reduce a long curve to the points that show on a linear or a logarithmic step axis.

    These are the smallest and the largest value of each stretch of steps, both ends, and the points next to each
    moment. A curve of at most `limit` points is returned as it is.

    Args:
        curve: values by step, in ascending order of steps.
        moments: steps around which every point is kept.
        limit: largest number of points (with few moments).
    """
    if len(curve) <= limit:
        return curve
    steps, values = np.asarray(curve.index, dtype=float), curve.to_numpy(dtype=float)
    lowest, highest = (np.where(np.isnan(values), filler, values) for filler in (np.inf, -np.inf))
    positions = {0, len(curve) - 1}
    stretches = 4 * limit // 25  # each gives two points on either scale, which leaves a third of `limit` for moments
    for scale in (steps, np.log1p(steps - min(steps[0], 0.0))):
        edges = np.linspace(scale[0], scale[-1], stretches + 1)
        starts = np.unique(np.searchsorted(scale, edges[:-1]))
        for start, stop in zip(starts, [*starts[1:], len(curve)], strict=True):
            positions |= {start + int(lowest[start:stop].argmin()), start + int(highest[start:stop].argmax())}
    for moment in moments:
        center = int(np.searchsorted(steps, moment))
        positions |= set(range(max(0, center - 2), min(len(curve), center + 3)))
    return pd.Series(curve.iloc[sorted(positions)])


def moments_of(analyses: Sequence[Analysis]) -> set[int]:
    """Return the steps at which runs memorize and generalize and at which their phases end."""
    steps: set[int | None] = set()
    for transition in (analysis.transition for analysis in analyses):
        events = (transition.T_train, transition.T_grok, transition.T_grok_novel)
        steps |= {event.step for by_threshold in events for event in by_threshold.values()}
        ends = (transition.memorization_end, transition.circuit_formation_end, transition.cleanup_end)
        steps |= {end.step for end in ends}
    return {step for step in steps if step is not None}
