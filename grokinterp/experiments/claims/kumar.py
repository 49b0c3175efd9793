"""Claims of Kumar et al. 2023: grokking is the transition from lazy to rich training."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    T_GROK,
    T_TRAIN,
    column,
    counted,
    fewest_runs,
    finite,
    median_times,
    rows_with,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_NUMBER = 18


def generalizes_without_decay(table: pd.DataFrame) -> Claim:
    """Decide whether runs of plain gradient descent without weight decay generalize, later than they memorize.

    Source: Kumar et al. 2023.

    Args:
        table: a sweep's table with `T_train_0.99`, `T_grok_0.95`, `optimizer.name`, `optimizer.momentum` and
            `optimizer.weight_decay`. Rows with weight decay, momentum or another optimizer are ignored.
    """
    plain = table.loc[
        (column(table, "optimizer.weight_decay") == 0)
        & (table["optimizer.name"] == "sgd")
        & (column(table, "optimizer.momentum") == 0)
    ]
    memorized = rows_with(plain, T_TRAIN)
    train, test, n = column(memorized, T_TRAIN), column(memorized, T_GROK), len(memorized)
    late = test > train
    grokked = (memorized["outcome"] == "grokked").to_numpy()
    unfinished = int((~np.isfinite(test)).sum())
    measured = f"{counted(len(plain), 'run')}; {int(grokked.sum())} of the {n} that memorized grokked, and "
    measured += f"{int((late & ~grokked).sum())} generalized later, but without delay"
    if n:
        measured += f"; T_train(0.99) {span(train, ',.0f')}"
    if late.any():
        ratio = test[late] / train[late]
        measured += f", T_grok(0.95) {span(test[late], ',.0f')}, larger by a factor of {span(ratio, '.2f')}"
    if unfinished:
        measured += f"; {unfinished} did not generalize by the last step"
    return Claim.of_all(
        "grokking without weight decay",
        "Plain gradient descent without weight decay groks: it memorizes first and generalizes much later.",
        "Kumar et al. 2023: weight decay is not necessary; curves but no times",
        measured,
        "every run that memorizes has the outcome grokked: T_grok(0.95) is more than twice T_train(0.99)",
        grokked,
        should_hold=False,
        number=_NUMBER,
        fewest=fewest_runs(plain, ["model.output_scale"]),
    )


def norm_rises(table: pd.DataFrame, metrics: Sequence[pd.DataFrame]) -> Claim:
    """Decide whether the weight norm of runs that generalize is larger at T_grok(0.95) than at the start.

    Source: Kumar et al. 2023.

    Args:
        table: a sweep's table with `weight_norm_at_T_grok_0.95`.
        metrics: metrics of the same runs in the same order, with `weight_norm`.
    """
    end = column(table, "weight_norm_at_T_grok_0.95")
    generalized = zip(metrics, np.isfinite(end), strict=True)
    start = np.array([run["weight_norm"].iloc[0] for run, reached in generalized if reached], dtype=float)
    end = finite(end)
    measured = f"{span(start, '.1f')} at the start, {span(end, '.1f')} at T_grok(0.95)" if len(end) else ""
    return Claim.of_all(
        "norm rises",
        "The weight norm rises while the network groks, so a falling norm is not the cause of grokking.",
        "Kumar et al. 2023: the norm increases",
        measured or "no run generalized",
        "larger at T_grok(0.95) than at the start, in every run that generalizes",
        end > start,
        number=_NUMBER,
        fewest=fewest_runs(table, ["model.output_scale"]),
    )


def smaller_scale_shortens_delay(table: pd.DataFrame) -> Claim:
    """Decide whether the delay from T_train(0.99) to T_grok(0.95) is shorter for smaller output scales.

    Source: Kumar et al. 2023.

    Args:
        table: a sweep's table over `model.output_scale` with `T_train_0.99`, `T_grok_0.95` and `delay_0.95_0.99`; runs
            that did not generalize are ignored.
    """
    runs = rows_with(table, "delay_0.95_0.99")
    runs = runs.assign(ratio=column(runs, T_GROK) / column(runs, T_TRAIN))
    delays, ratios = (median_times(runs, "model.output_scale", name) for name in ("delay_0.95_0.99", "ratio"))
    medians = "; ".join(
        f"{delay:,.0f} (T_grok/T_train {ratios[scale]:.2f}) at {scale:.3g}" for scale, delay in delays.items()
    )
    missing = len(table) - len(runs)
    note = f"; {missing} of {len(table)} runs have no delay: they did not generalize" if missing else ""
    return Claim(
        "smaller output scale, shorter delay",
        "With a smaller output scale, the network leaves the lazy regime sooner, and the delay is shorter.",
        "Kumar et al. 2023: a small scale removes grokking",
        f"median delay {medians or 'unknown'}{note}",
        len(runs),
        "the median delay increases with the output scale, and runs generalize at two or more output scales",
        verdict(all(a < b for a, b in pairwise(delays.values())), len(runs) if len(delays) > 1 else 0),
        number=_NUMBER,
        fewest=fewest_runs(runs, ["model.output_scale"]),
    )
