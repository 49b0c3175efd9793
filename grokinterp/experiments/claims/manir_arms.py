"""Claims of Manir and Rupa 2026 that compare two kinds of network: activations, and transformer with MLP."""

import math

import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.manir import DELAY, SCALED_DOWN, SMALL_DELAY, grokked
from grokinterp.experiments.claims.numbers import verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import ArmRatio, compare, observe, ratio_of_arms, settings


def relu_is_slower(table: pd.DataFrame, *, printed: str, published_size: bool = True) -> Claim:
    """How many times as long ReLU networks take to grok as GELU networks.

    Args:
        table: rows of GELU and of ReLU networks, equal in everything else.
        printed: the published ratio.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    measured, found = _ratio(table, published_size)
    decided: Verdict = "inconclusive"
    if found is not None and math.isfinite(found.ratio) and min(found.n_a, found.n_b) >= 3:
        decided = verdict(2 <= found.ratio <= 8, found.k_a + found.k_b)
    return Claim(
        "ReLU against GELU",
        "ReLU networks take 2 to 8 times as long to grok as GELU networks.",
        printed,
        ("" if published_size else SCALED_DOWN) + measured,
        0 if found is None else found.n_a + found.n_b,
        "ratio of T_grok - T_train in [2, 8], at least 3 runs of each that memorized",
        decided,
        number=9,
    )


def _ratio(table: pd.DataFrame, published_size: bool) -> tuple[str, ArmRatio | None]:
    try:
        quantity = DELAY if published_size else SMALL_DELAY
        found = compare(table, {"model.activation": "relu"}, {"model.activation": "gelu"}, quantity)
    except ConfigError as error:
        return str(error), None
    return _said(found, "ReLU", "GELU"), found


def tanh_groks_oftener_than_gelu(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether GELU, the best activation in one sweep, is the worst in the other.

    Args:
        table: rows of Sweep A: GELU, ReLU and tanh networks of depth 4.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    share, counts = {}, []
    for at, runs in settings(table, ["model.activation"]):
        name, k = at["model.activation"], grokked(runs)
        share[name] = k / len(runs)
        counts.append(f"{name} {k} of {len(runs)}")
    n = len(table) if {"gelu", "tanh"} <= set(share) and any(share.values()) else 0
    return Claim(
        "activations in Sweep A",
        "At the rate and decay of Sweep A tanh networks grok oftener than GELU networks, which win Sweep B.",
        "GELU 0 of 5, ReLU 2 of 5, tanh 3 of 5",
        ("" if published_size else SCALED_DOWN) + ", ".join(counts),
        len(table),
        "a larger share of tanh networks groks",
        verdict(n > 0 and share["tanh"] > share["gelu"], n),
    )


def transformer_as_long_as_mlp(
    transformers: pd.DataFrame, mlps: pd.DataFrame, *, printed: str, published_size: bool = True
) -> Claim:
    """Whether a transformer takes as long as an MLP, within the spread over seeds.

    Args:
        transformers: rows of transformers.
        mlps: rows of MLPs on the same task.
        printed: the published ratio.
        published_size: False where the runs are a miniature; the claim is decided all the same, and may go either way.
    """
    seen = [observe(table, DELAY if published_size else SMALL_DELAY) for table in (transformers, mlps)]
    measured, found = "a kind of network has no run that memorized", "inconclusive"
    if all(one.followed.any() for one in seen):
        ratio = ratio_of_arms(*(one.values[one.followed] for one in seen), *(one.reached[one.followed] for one in seen))
        measured = _said(ratio, "transformers", "MLPs")
        if math.isfinite(ratio.interval.low) and math.isfinite(ratio.interval.high):
            found = verdict(ratio.interval.low <= 1 <= ratio.interval.high, ratio.n_a + ratio.n_b)
    return Claim(
        "transformer against MLP",
        "A transformer takes as long to grok as an MLP, within the spread over seeds, each trained in its own way.",
        printed,
        ("" if published_size else SCALED_DOWN) + measured,
        sum(len(one.values) for one in seen),
        "the 95 % interval of the ratio of T_grok - T_train is finite and contains 1",
        found,
        should_hold=published_size,
        number=10 if published_size else None,
    )


def _said(found: ArmRatio, a: str, b: str) -> str:
    ends = found.interval
    interval = f" [{ends.low:.2f}, {ends.high:.2f}]" if not math.isnan(ends.low) else f" ({ends.reason})"
    ratio = f"{found.ratio:.2f}" if math.isfinite(found.ratio) else "no ratio: half of an arm did not get there"
    arms = f"{a} ({found.k_a} of {found.n_a}) over {b} ({found.k_b} of {found.n_b})"
    return f"{ratio}{interval}, {found.statistic.replace('_', ' ')} of {arms}"
