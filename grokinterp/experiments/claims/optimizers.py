"""Claims that compare optimizers: whether one groks sooner than AdamW (Tveit et al. 2025)."""

import math
from collections.abc import Sequence

import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.manir_arms import format_ratio
from grokinterp.experiments.claims.numbers import T_GROK, fewest_runs
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import ArmRatio, compare, settings

NAME, RATE = "optimizer.name", "optimizer.lr"
_TITLES = {"muon": "Muon", "lion": "Lion"}


def groks_sooner(table: pd.DataFrame, optimizer: str, axis: str, *, published: str, should_hold: bool = True) -> Claim:
    """Decide whether an optimizer groks in fewer steps than AdamW, at each setting of the table.

    Args:
        table: rows of runs with both optimizers, with `optimizer.name`, `outcome`, `status`, `step`, and `T_grok_0.95`.
        optimizer: `muon` or `lion`.
        axis: the column whose values are the settings that are compared.
        published: what the sources state.
        should_hold: whether the claim is expected to hold.
    """
    title = _TITLES[optimizer]
    ratios = {setting[axis]: _ratio(runs, optimizer) for setting, runs in settings(table, [axis])}
    decided: list[Verdict] = [_compare(ratio) for ratio in ratios.values()]
    short = axis.rsplit(".", 1)[-1]
    texts = [
        f"{short} {value:g}: {ratio if isinstance(ratio, str) else format_ratio(ratio, title, 'AdamW')}"
        for value, ratio in ratios.items()
    ]
    return Claim(
        f"{title} against AdamW",
        f"{title} groks in fewer steps than AdamW.",
        published,
        "; ".join(texts) or "-",
        sum(name in (optimizer, "adamw") for name in table[NAME]),
        "the 95 % interval of the ratio of T_grok(0.95) lies below 1 at every setting; not supported if it lies above "
        "1 at some setting; inconclusive otherwise",
        _combine(decided),
        should_hold,
        number=25 if optimizer == "muon" else None,
        fewest=fewest_runs(table, [NAME, axis]),
    )


def _combine(verdicts: Sequence[Verdict]) -> Verdict:
    """Supported at every setting, or not supported at some setting."""
    if "not supported" in verdicts:
        return "not supported"
    return "supported" if verdicts and set(verdicts) == {"supported"} else "inconclusive"


def _ratio(runs: pd.DataFrame, optimizer: str) -> ArmRatio | str:
    """The ratio of T_grok, or the reason why there is none."""
    try:
        return compare(runs, {NAME: optimizer}, {NAME: "adamw"}, T_GROK)
    except ConfigError as error:
        return str(error)


def _compare(ratio: ArmRatio | str) -> Verdict:
    """Comparisons with the ends of an undefined interval, which are NaN, are False."""
    if isinstance(ratio, str) or math.isnan(ratio.interval.low):
        return "inconclusive"
    return "supported" if ratio.interval.high < 1 else "not supported" if ratio.interval.low > 1 else "inconclusive"
