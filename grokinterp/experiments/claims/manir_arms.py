"""Claims of Manir and Rupa 2026 that compare two kinds of network: activations, transformers with MLPs, and depths."""

import math
from collections import Counter

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.manir import DELAY, SMALL_DELAY, grokked, scale_prefix
from grokinterp.experiments.claims.numbers import T_GROK, column, fewest_runs, finite, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics import ArmRatio, compare, observe, ratio_of_arms, settings
from grokinterp.statistics.formatting import span


def relu_is_slower(table: pd.DataFrame, *, printed: str, published_size: bool = True) -> Claim:
    """Assertion 9: decide whether ReLU networks take 2 to 8 times as long to grok as GELU networks.

    The ratio is that of T_grok - T_train, with censored runs. Source: Manir and Rupa 2026.

    Args:
        table: rows of GELU and of ReLU networks that agree in everything else, with `model.activation` and the delay.
        printed: the published ratio.
        published_size: False for a miniature, which still decides the claim.
    """
    quantity = DELAY if published_size else SMALL_DELAY
    try:
        ratio = compare(table, {"model.activation": "relu"}, {"model.activation": "gelu"}, quantity)
    except ConfigError as error:
        measured, n, holds, decided = str(error), 0, False, False
    else:
        measured, n = format_ratio(ratio, "ReLU", "GELU"), ratio.n_a + ratio.n_b
        holds = 2 <= ratio.ratio <= 8
        decided = math.isfinite(ratio.ratio) and min(ratio.n_a, ratio.n_b) >= 3
    return Claim(
        "ReLU against GELU",
        "ReLU networks take 2 to 8 times as long to grok as GELU networks.",
        printed,
        scale_prefix(published_size) + measured,
        n,
        "ratio of T_grok - T_train in [2, 8], with at least 3 runs of each activation that memorized",
        verdict(holds, int(decided)),
        number=9,
        fewest=fewest_runs(table, ["model.activation"]),
    )


def tanh_groks_more_often_than_gelu(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether GELU, the best activation in Sweep B, loses to tanh in Sweep A. Source: Manir and Rupa 2026.

    Args:
        table: rows of Sweep A (GELU, ReLU and tanh networks of depth 4), with `model.activation` and `outcome`.
        published_size: False for a miniature, which still decides the claim.
    """
    share, counts = {}, []
    for setting, runs in settings(table, ["model.activation"]):
        name, k = setting["model.activation"], grokked(runs)
        share[name] = k / len(runs)
        counts.append(f"{name} {k} of {len(runs)}")
    n = len(table) if {"gelu", "tanh"} <= set(share) and any(share.values()) else 0
    return Claim(
        "activations in Sweep A",
        "At the learning rate and weight decay of Sweep A, tanh networks grok more often than GELU networks, "
        "which do best in Sweep B.",
        "GELU 0 of 5, ReLU 2 of 5, tanh 3 of 5",
        scale_prefix(published_size) + ", ".join(counts),
        len(table),
        "a larger share of tanh networks than of GELU networks groks",
        verdict(n > 0 and share["tanh"] > share["gelu"], n),
    )


def transformer_as_long_as_mlp(
    transformers: pd.DataFrame, mlps: pd.DataFrame, *, printed: str, published_size: bool = True
) -> Claim:
    """Assertion 10: decide whether a transformer takes as long to grok as an MLP, within the spread across seeds.

    Source: Manir and Rupa 2026.

    Args:
        transformers: rows of transformers, with `status`, `outcome`, `step` and the delay.
        mlps: rows of MLPs on the same task, with the same columns.
        printed: the published ratio.
        published_size: False for a miniature, which still decides the claim; either verdict is then acceptable.
    """
    arms = [observe(table, DELAY if published_size else SMALL_DELAY) for table in (transformers, mlps)]
    measured, holds, decided = "a kind of network has no run that memorized", False, False
    if all(arm.followed.any() for arm in arms):
        ratio = ratio_of_arms(*(arm.values[arm.followed] for arm in arms), *(arm.reached[arm.followed] for arm in arms))
        low, high = ratio.interval.low, ratio.interval.high
        measured, holds = format_ratio(ratio, "transformers", "MLPs"), low <= 1 <= high
        decided = math.isfinite(low) and math.isfinite(high)
    return Claim(
        "transformer against MLP",
        "Each trained with its own settings, a transformer takes as long to grok as an MLP, within the spread across "
        "seeds.",
        printed,
        scale_prefix(published_size) + measured,
        sum(len(arm.values) for arm in arms),
        "the 95 % interval of the ratio of T_grok - T_train is finite and contains 1",
        verdict(holds, int(decided)),
        should_hold=published_size,
        number=10,
        fewest=min(len(arm.values) for arm in arms),
    )


def residual_depth_groks(deep: pd.DataFrame, flat: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether depth 8 groks with residual connections and LayerNorm where a flat network of depth 4 does not.

    Source: Manir and Rupa 2026, Table 2.

    Args:
        deep: rows of residual networks of depth 8, with `outcome` and `T_grok_0.95`.
        flat: rows of flat networks of depth 4 at the same learning rate and weight decay, with `outcome`.
        published_size: False for a miniature, which still decides the claim.
    """
    times = column(deep, T_GROK)
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in Counter(map(str, flat["outcome"])).items())
    return Claim(
        "depth 8",
        "With residual connections and LayerNorm, an MLP of depth 8 groks at a learning rate and weight decay at which "
        "a flat MLP of depth 4 does not.",
        "3 of 5 at depth 8 (delays 48,000, 24,000, and 28,000); 0 of 5 at depth 4",
        f"{scale_prefix(published_size)}depth 8: {grokked(deep)} of {len(deep)} grok"
        + (f", T_grok(0.95) {span(finite(times), ',.0f')}" if np.isfinite(times).any() else "")
        + f"; depth 4: {grokked(flat)} of {len(flat)} ({outcomes or 'no runs'})",
        len(deep) + len(flat),
        "more than half of the runs of depth 8 grok, and no run of depth 4; at least 3 runs of each",
        verdict(2 * grokked(deep) > len(deep) and not grokked(flat), int(min(len(deep), len(flat)) >= 3)),
        number=27,
        fewest=min(len(deep), len(flat)),
    )


def format_ratio(arms: ArmRatio, a: str, b: str) -> str:
    """Format a ratio with its interval, its statistic, and how many runs of each arm reached the event."""
    ends = arms.interval
    interval = f"({ends.reason})" if math.isnan(ends.low) else f"[{ends.low:.2f}, {ends.high:.2f}]"
    ratio = f"{arms.ratio:.2f}" if math.isfinite(arms.ratio) else "no ratio: half of an arm did not grok"
    counts = f"{a} ({arms.k_a} of {arms.n_a} grokked) divided by that of {b} ({arms.k_b} of {arms.n_b})"
    return f"{ratio} {interval}: the {arms.statistic.replace('_', ' ')} of {counts}"
