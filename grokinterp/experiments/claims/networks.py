"""Claims of Xu, Vardi, and Safran 2026 about random features and two-layer ReLU networks."""

from functools import partial

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    column,
    is_inverse,
    relative_change,
    seed_slopes,
    sweep_over,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span


def decide_random_features(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Decide every claim about random features. Source: Xu, Vardi, and Safran 2026, Section 5 and Figure 3.

    Args:
        table: one row per training run: varied, n, m, init_variance, weight_decay, seed, t1, t2, halfway, plateau,
            limit. Where `varied` is weight_decay, n, m and ν² have their defaults; elsewhere λ is 1e-5.
    """
    sweep = sweep_over(table, "weight_decay")
    base = sweep.loc[np.isclose(sweep["weight_decay"], 1e-5)].sort_values("seed")
    fewer, narrow, larger = (sweep_over(table, name).sort_values("seed") for name in ("n", "m", "init_variance"))
    n = len(base)

    slopes = seed_slopes(sweep, "weight_decay", "halfway")
    decay = Claim(
        "random features: λ",
        "With random features, generalization time is inversely proportional to weight decay.",
        "Figure 3: slower for smaller λ; no times",
        f"exponent {span(slopes, '.3f')}, for the time to the halfway point between plateau and limit",
        n,
        "exponent -1 ± 0.05 for every seed",
        verdict(bool(is_inverse(slopes, 0.05).all()), n),
    )
    t1_fewer, t1_base = column(fewer, "t1"), column(base, "t1")
    examples = Claim.of_all(
        "random features: n",
        "With random features, a smaller training set is overfitted earlier.",
        "Figure 3",
        f"t1 {span(t1_base, '.0f')} at n = 100, {span(t1_fewer, '.0f')} at n = 50",
        "every seed",
        t1_fewer < t1_base,
    )
    by_m, by_variance = (column(runs, "halfway") / column(base, "halfway") for runs in (narrow, larger))
    alike = bool((np.abs(np.log(np.concatenate([by_m, by_variance]))) <= np.log(1.5)).all())
    prolongation = Claim(
        "random features: m, ν²",
        "With random features, neither m nor ν² prolongs the delay.",
        "Figure 3",
        f"the time to the halfway point changes by a factor of {span(by_m, '.2f')} "
        f"with a quarter of the features and {span(by_variance, '.2f')} with four times the variance",
        n,
        "within a factor of 1.5",
        verdict(alike, n),
    )
    high, low = column(larger, "plateau"), column(base, "plateau")
    gap = Claim.of_all(
        "random features: gap",
        "With random features, a larger ν² widens the gap between train and population loss.",
        "Figure 3",
        f"plateau {span(low, '.2f')} at ν² = 1, {span(high, '.2f')} at ν² = 4",
        "every seed",
        high > low,
    )
    reached = int(np.isfinite(column(table, "t2")).sum())
    threshold = Claim(
        "random features: c",
        "With random features, the population loss falls to c = 0.01.",
        "c = 0.01 throughout Section 5; Figure 3 shows curves only",
        f"in {reached} of {len(table)} runs; it ends at {span(column(table, 'limit'), '.2f')}",
        len(table),
        "every run",
        verdict(reached == len(table), len(table)),
        should_hold=False,
    )
    return decay, examples, prolongation, gap, threshold


def decide_two_layer(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Decide every claim about two-layer networks, two of them parts of assertion 17.

    Source: Xu, Vardi, and Safran 2026, Figure 4.

    Args:
        table: one row per training run: weight_decay, init_variance, seed, t1, t2. It holds several λ at ν² = 1, and
            λ = 0.1 at ν² = 4.
    """
    sweep = table.loc[table["init_variance"] == 1]
    pairs = table.loc[np.isclose(table["weight_decay"], 0.1)].sort_values("seed")
    small, large = pairs.loc[pairs["init_variance"] == 1], pairs.loc[pairs["init_variance"] == 4]
    n, medians = len(small), sweep.groupby("weight_decay")[["t1", "t2"]].median()
    t1, t2 = (times_by_setting(medians[name], "at λ =") for name in ("t1", "t2"))

    slopes = seed_slopes(sweep, "weight_decay", "t2")
    generalization = Claim(
        "two-layer ReLU: t2",
        "With both layers trained, generalization time is still inversely proportional to weight decay.",
        "Figure 4",
        f"exponent {span(slopes, '.3f')}; median t2 {t2}",
        n,
        "exponent -1 ± 0.02 for every seed",
        verdict(bool(is_inverse(slopes, 0.02).all()), n),
        number=17,
    )
    change = relative_change(sweep, "t1")
    factor = float(medians.index.max()) / float(medians.index.min())
    overfitting = Claim(
        "two-layer ReLU: t1",
        "With both layers trained, overfitting time hardly depends on weight decay.",
        "Figure 4",
        f"changes by {span(100 * change, '.1f')} % while λ grows {factor:.0f}-fold; median t1 {t1}",
        n,
        "change below 10 % for every seed",
        verdict(bool((change < 0.1).all()), n),
        number=17,
    )
    slower = partial(_larger_start_is_slower, small, large)
    return (
        generalization,
        overfitting,
        slower("t2", "generalize", "Figure 4"),
        slower("t1", "overfit, as (6) states for ridge regression", "(6), proven only for ridge regression", False),
    )


def _larger_start_is_slower(
    small: pd.DataFrame, large: pd.DataFrame, time: str, effect: str, published: str, should_hold: bool = True
) -> Claim:
    before, after = column(small, time), column(large, time)
    spec = ",.0f" if time == "t2" else ".0f"
    return Claim.of_all(
        f"two-layer ReLU: {time} with ν²",
        f"With both layers trained, a network with a larger initialization is slower to {effect}.",
        published,
        f"{time} {span(before, spec)} at ν² = 1, {span(after, spec)} at ν² = 4",
        "every seed",
        after > before,
        should_hold=should_hold,
    )
