"""Claims that any sweep can be asked: outcomes, thresholds, and how times scale with weight decay."""

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import PowerLaw, power_law

DECAY = "optimizer.weight_decay"


def one_outcome_each(table: pd.DataFrame) -> Claim:
    """Assertion 1: the outcome of every run follows from its times, and only runs that grokked enter means.

    Checked from the times alone: without T_train(0.99) a run is DNF_train, with it and without T_grok(0.95) DNF_test
    (semi-grokked where it stays between), with both it groks or generalizes without delay.
    """
    memorized, generalized = (np.isfinite(column(table, name)) for name in ("T_train_0.99", "T_grok_0.95"))
    if "schedule.memorization_budget" in table:  # memorizing after it counts as not memorizing
        memorized &= ~(column(table, "T_train_0.99") > column(table, "schedule.memorization_budget"))
    outcome = table["outcome"].to_numpy(dtype=object)
    agrees = (
        ((outcome == "DNF_train") & ~memorized)
        | (np.isin(outcome, ["DNF_test", "semi_grokked"]) & memorized & ~generalized)
        | (np.isin(outcome, ["grokked", "generalized_without_delay"]) & generalized)
    )
    with_end = outcome != "diverged"
    n, there = int(with_end.sum()), int(generalized.sum())
    return Claim(
        "labels",
        "Every run has exactly one outcome; runs that did not generalize are counted, and left out of means.",
        "grok, DNF_test or DNF_train",
        f"{int((agrees & with_end).sum())} of {n} runs; {there} of {len(table)} generalized",
        n,
        "every run",
        verdict(bool(agrees[with_end].all()), n),
        number=1,
    )


def thresholds_differ(table: pd.DataFrame) -> Claim:
    """Assertion 3: T_grok(0.99) / T_grok(0.95) lies between 1.05 and 2 in every run that reached both.

    A run that went on to more than twice T_grok(0.95) without reaching 0.99 is above 2; one that ended before says
    nothing.
    """
    first, second = column(table, "T_grok_0.95"), column(table, "T_grok_0.99")
    ratio = second / first
    beyond = np.isfinite(first) & ~np.isfinite(second) & (column(table, "step") > 2 * first)
    ratio = ratio[np.isfinite(ratio)]
    n, over = len(ratio), int(beyond.sum())
    return Claim(
        "95 % or 99 %",
        "T_grok(0.99) is 1.05 to 2 times T_grok(0.95).",
        "psi 1.14 to 1.25, at width 32 1.97; Manir canonical 1.41",
        (f"{span(ratio, '.2f')}, median {np.median(ratio):.2f}" if n else "no run reached both")
        + (f"; {over} not at 0.99 by twice T_grok(0.95)" if over else ""),
        n + over,
        "every run",
        verdict(over == 0 and bool(((ratio >= 1.05) & (ratio <= 2)).all()), n + over),
        number=3,
    )


def delay_as_inverse_decay(
    table: pd.DataFrame,
    published: str,
    *,
    quantity: str = "delay_0.95_0.99",
    number: int | None = 6,
    should_hold: bool = True,
) -> Claim:
    """Assertion 6: the exponent of the delay as a power of weight decay is -1 ± 0.15, inside the zone that groks.

    Inside the zone are the weight decays at which some run grokked with a delay: where T_grok is hardly later than
    T_train (`generalized_without_delay`) there is no delay to scale. The verdict is that of the exponent, if there
    are at least three decays and the 95 % interval is no wider than 1; where the exponent is outside and its interval
    reaches in, it is inconclusive.

    Args:
        table: runs at several weight decays.
        published: the exponent in print.
        quantity: the time that is fitted.
        number: of the assertion; None where the quantity is another than the delay.
        should_hold: whether we expect it to.
    """
    zone = sorted(set(table.loc[table["outcome"] == "grokked", DECAY]) - {0})
    inside = table.loc[np.isin(column(table, DECAY), zone)]
    fit = _fit(inside, quantity)
    measured = "fewer than two weight decays at which runs grok"
    found: Verdict = "inconclusive"
    if fit is not None:
        interval = fit.interval
        measured = (
            f"{fit.exponent:.3f} [{interval.low:.3f}, {interval.high:.3f}] over decay {zone[0]:g} to {zone[-1]:g}"
        )
        if -1.15 <= fit.exponent <= -0.85:
            telling = len(zone) >= 3 and interval.high - interval.low <= 1.0  # False where there is no interval
            found = "supported" if telling else "inconclusive"
        elif interval.high < -1.15 or interval.low > -0.85:
            found = "not supported"
    return Claim(
        f"1/λ, {quantity}",
        "The delay is inversely proportional to weight decay."
        if quantity.startswith("delay")
        else "T_grok is inversely proportional to weight decay.",
        published,
        measured,
        0 if fit is None else fit.n,
        "exponent -1 ± 0.15, over at least 3 decays, with a 95 % interval no wider than 1 (outside, with an interval "
        "that reaches in: inconclusive)",
        found,
        should_hold,
        number,
    )


def _fit(table: pd.DataFrame, quantity: str) -> PowerLaw | None:
    if len(set(table[DECAY])) < 2:
        return None
    try:
        return power_law(table, DECAY, quantity)
    except ConfigError:  # no two settings with a time
        return None
