"""The claims about random features and two-layer ReLU networks, decided from tables of runs."""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, part_of, relative_change, seed_slopes, span, verdict
from grokinterp.experiments.outcome import Claim


def decide_random_features(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Every claim about random features, with its verdict.

    Args:
        table: one row a training: varied, n, m, init_variance, weight_decay, seed, t1, t2, halfway, plateau, limit.
            Where `varied` is weight_decay, n, m and ν² are the defaults; elsewhere λ is 1e-5.
    """
    sweep = part_of(table, "weight_decay")
    base = sweep.loc[np.isclose(sweep["weight_decay"], 1e-5)].sort_values("seed")
    fewer, narrow, larger = (part_of(table, name).sort_values("seed") for name in ("n", "m", "init_variance"))
    n = len(base)

    slopes = seed_slopes(sweep, "weight_decay", "halfway")
    decay = Claim(
        "random features: λ",
        "With random features, less weight decay puts generalization off in proportion.",
        "Figure 3: later for smaller λ; no times",
        f"exponent of the time halfway from plateau to limit {span(slopes, '.3f')}",
        n,
        "-1 ± 0.05 for every seed",
        verdict(bool((np.abs(slopes + 1) <= 0.05).all()), n),
    )
    few, many = column(fewer, "t1"), column(base, "t1")
    examples = Claim(
        "random features: n",
        "With random features, fewer training examples are overfitted earlier.",
        "Figure 3",
        f"t1 {span(many, '.0f')} at n = 100, {span(few, '.0f')} at n = 50",
        n,
        "every seed",
        verdict(bool((few < many).all()), n),
    )
    by_m, by_variance = (column(one, "halfway") / column(base, "halfway") for one in (narrow, larger))
    same = bool((np.abs(np.log(np.concatenate([by_m, by_variance]))) <= np.log(1.5)).all())
    prolongation = Claim(
        "random features: m, ν²",
        "With random features, neither m nor ν² prolongs the delay.",
        "Figure 3",
        f"time halfway: by a factor of {span(by_m, '.2f')} with a quarter of the features, "
        f"{span(by_variance, '.2f')} with four times the variance",
        n,
        "within a factor of 1.5",
        verdict(same, n),
    )
    high, low = column(larger, "plateau"), column(base, "plateau")
    gap = Claim(
        "random features: gap",
        "With random features, a larger ν² widens the gap between train and population loss.",
        "Figure 3",
        f"plateau {span(low, '.2f')} at ν² = 1, {span(high, '.2f')} at ν² = 4",
        n,
        "every seed",
        verdict(bool((high > low).all()), n),
    )
    reached = int(np.isfinite(column(table, "t2")).sum())
    threshold = Claim(
        "random features: c",
        "With random features, the population loss comes down to c = 0.01.",
        "c = 0.01 throughout Section 5; Figure 3 shows curves only",
        f"in {reached} of {len(table)} runs; it ends at {span(column(table, 'limit'), '.2f')}",
        len(table),
        "every run",
        verdict(reached == len(table), len(table)),
        should_hold=False,
    )
    return decay, examples, prolongation, gap, threshold


def decide_two_layer(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Every claim about two-layer networks, with its verdict.

    Args:
        table: one row a training: weight_decay, init_variance, seed, t1, t2; several λ at ν² = 1, and λ = 0.1 at
            ν² = 4.
    """
    sweep = table.loc[table["init_variance"] == 1]
    at = table.loc[np.isclose(table["weight_decay"], 0.1)].sort_values("seed")
    small, large = at.loc[at["init_variance"] == 1], at.loc[at["init_variance"] == 4]
    n, middle = len(small), sweep.groupby("weight_decay")[["t1", "t2"]].median()
    decays = ", ".join(f"{decay:g}" for decay in middle.index)

    slopes = seed_slopes(sweep, "weight_decay", "t2")
    generalization = Claim(
        "two-layer ReLU: t2",
        "With both layers trained, generalization time is still inversely proportional to weight decay.",
        "Figure 4",
        f"exponent {span(slopes, '.3f')}; t2 {', '.join(f'{t:,.0f}' for t in middle['t2'])} at λ = {decays}",
        n,
        "-1 ± 0.02 for every seed",
        verdict(bool((np.abs(slopes + 1) <= 0.02).all()), n),
        number=17,
    )
    change = relative_change(sweep, "t1")
    factor = float(middle.index.max()) / float(middle.index.min())
    overfitting = Claim(
        "two-layer ReLU: t1",
        "With both layers trained, overfitting time hardly depends on weight decay.",
        "Figure 4",
        f"changes by {span(100 * change, '.1f')} % while λ grows {factor:.0f}-fold; "
        f"t1 {', '.join(f'{t:.0f}' for t in middle['t1'])}",
        n,
        "below 10 % for every seed",
        verdict(bool((change < 0.1).all()), n),
        number=17,
    )
    before, after = column(small, "t2"), column(large, "t2")
    slower = Claim(
        "two-layer ReLU: t2 with ν²",
        "With both layers trained, a larger start is slower to generalize.",
        "Figure 4",
        f"t2 {span(before, ',.0f')} at ν² = 1, {span(after, ',.0f')} at ν² = 4",
        n,
        "every seed",
        verdict(bool((after > before).all()), n),
    )
    before, after = column(small, "t1"), column(large, "t1")
    slower_to_overfit = Claim(
        "two-layer ReLU: t1 with ν²",
        "With both layers trained, a larger start is slower to overfit, as (6) has it of ridge regression.",
        "(6), which is not about this network",
        f"t1 {span(before, '.0f')} at ν² = 1, {span(after, '.0f')} at ν² = 4",
        n,
        "every seed",
        verdict(bool((after > before).all()), n),
        should_hold=False,
    )
    return generalization, overfitting, slower, slower_to_overfit
