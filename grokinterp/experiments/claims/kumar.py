"""The claims of Kumar et al. 2023: grokking as the transition from lazy to rich training."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim

_NUMBER = 18


def generalizes_without_decay(table: pd.DataFrame) -> Claim:
    """Runs without weight decay under plain gradient descent generalize, later than they memorize.

    Args:
        table: of a sweep. Rows with weight decay, or another optimizer, do not count.
    """
    plain = table.loc[
        (column(table, "optimizer.weight_decay") == 0)
        & (table["optimizer.name"] == "sgd")
        & (column(table, "optimizer.momentum") == 0)
    ]
    train, test = column(plain, "T_train_0.99"), column(plain, "T_grok_0.95")
    memorized = np.isfinite(train)
    late = test[memorized] > train[memorized]
    unfinished = int((~np.isfinite(test[memorized])).sum())
    measured = f"{int(late.sum())} of {int(memorized.sum())} that memorized ({len(plain)} runs)"
    if memorized.any():
        measured += f"; T_train(0.99) {span(train[memorized], ',.0f')}"
    if late.any():
        ratio = test[memorized][late] / train[memorized][late]
        measured += f", T_grok(0.95) {span(test[memorized][late], ',.0f')}, a factor of {span(ratio, '.2f')} later"
    if unfinished:
        measured += f"; {unfinished} have not generalized when they end"
    return Claim(
        "grokking without weight decay",
        "Plain gradient descent without weight decay memorizes first and generalizes later.",
        "Kumar et al. 2023: weight decay is not necessary; curves, no times",
        measured,
        int(memorized.sum()),
        "every run that memorizes reaches a test accuracy of 0.95, later than a train accuracy of 0.99",
        verdict(bool(late.all()), int(memorized.sum())),
        number=_NUMBER,
    )


def norm_rises(table: pd.DataFrame, metrics: Sequence[pd.DataFrame]) -> Claim:
    """The weight norm of runs that generalize is larger when they do than at the start.

    Args:
        table: of a sweep.
        metrics: of its runs, in the same order.
    """
    pairs = [
        (one["weight_norm"].iloc[0], then)
        for one, then in zip(metrics, column(table, "weight_norm_at_T_grok_0.95"), strict=True)
        if np.isfinite(then)
    ]
    start, end = np.array(pairs, dtype=float).reshape(-1, 2).T
    measured = (
        f"{span(start, '.1f')} at the start, {span(end, '.1f')} at T_grok(0.95)" if len(pairs) else "no run generalized"
    )
    return Claim(
        "norm rises",
        "The weight norm rises while the network groks: a falling norm is no cause of grokking.",
        "Kumar et al. 2023: it increases",
        measured,
        len(pairs),
        "larger at T_grok(0.95) than at the start, in every run that generalizes",
        verdict(bool((end > start).all()), len(pairs)),
        number=_NUMBER,
    )


def smaller_scale_shortens_delay(table: pd.DataFrame) -> Claim:
    """The smaller the output scale, the shorter the delay from T_train(0.99) to T_grok(0.95).

    Args:
        table: of a sweep over `model.output_scale`; runs that did not generalize do not count.
    """
    known = table.loc[np.isfinite(column(table, "delay_0.95_0.99"))]
    groups = [(float(scale), column(one, "delay_0.95_0.99")) for scale, one in known.groupby("model.output_scale")]
    ratios = [
        float(np.median(column(one, "T_grok_0.95") / column(one, "T_train_0.99")))
        for _, one in known.groupby("model.output_scale")
    ]
    middles = [float(np.median(delays)) for _, delays in groups]
    held = all(a < b for a, b in pairwise(middles))
    said = "; ".join(
        f"{middle:,.0f} (T_grok/T_train {ratio:.2f}) at {scale:.3g}"
        for (scale, _), middle, ratio in zip(groups, middles, ratios, strict=True)
    )
    missing = len(table) - len(known)
    aside = f"; {missing} of {len(table)} runs have no delay: they did not generalize" if missing else ""
    return Claim(
        "smaller output scale, shorter delay",
        "A smaller output scale leaves the lazy regime sooner, and shortens the delay.",
        "Kumar et al. 2023: a small scale removes grokking",
        f"median delay {said or 'unknown'}{aside}",
        len(known),
        "the median delay rises with the output scale, of which at least two generalize",
        verdict(held, len(known) if len(groups) > 1 else 0),
        number=_NUMBER,
    )
