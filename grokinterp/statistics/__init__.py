"""Statistics over runs that count runs which never grokked: medians, ratios of arms, and power-law exponents.

A run that did not grok within its budget shows only that T_grok exceeds its last step: its time is right-censored.
Leaving such runs out makes every mean too small. The medians here therefore count them, every mean reports the number
of runs it covers, and power laws are fitted with a likelihood that includes them. Runs that never memorized
(DNF_train) are counted separately.

The functions on plain arrays return frozen dataclasses. `observe`, `summarize`, `survival`, `compare` and `power_law`
do the same for the table of a sweep.

    >>> import numpy as np
    >>> import grokinterp as gi
    >>> steps = np.array([42_000, 32_000, 76_000, 400_000, 74_000])   # the fourth did not grok in 400,000 steps
    >>> grokked = np.array([True, True, True, False, True])
    >>> curve = gi.statistics.kaplan_meier(steps, grokked)
    >>> curve.k, curve.n, curve.median
    (4, 5, 74000.0)
    >>> weight_decay = np.array([1e-4, 5e-4, 1e-3])
    >>> fit = gi.statistics.fit_power_law(weight_decay, np.array([220_000, 45_333, 25_333]))
    >>> round(fit.exponent, 2), fit.method
    (-0.95, 'least squares')
"""

from grokinterp.statistics.intervals import ArmRatio, Estimate, Interval, bootstrap_interval, ratio_of_arms
from grokinterp.statistics.outcomes import Outcome
from grokinterp.statistics.powers import PowerLaw, bootstrap_exponent, fit_power_law
from grokinterp.statistics.replicates import (
    SEEDS,
    Observed,
    compare,
    observe,
    power_law,
    remaining_axes,
    settings,
    summarize,
    survival,
    values_of,
)
from grokinterp.statistics.survival import Share, Survival, kaplan_meier

__all__ = [
    "SEEDS",
    "ArmRatio",
    "Estimate",
    "Interval",
    "Observed",
    "Outcome",
    "PowerLaw",
    "Share",
    "Survival",
    "bootstrap_exponent",
    "bootstrap_interval",
    "compare",
    "fit_power_law",
    "kaplan_meier",
    "observe",
    "power_law",
    "ratio_of_arms",
    "remaining_axes",
    "settings",
    "summarize",
    "survival",
    "values_of",
]
