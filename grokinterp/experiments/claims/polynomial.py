"""The claims of Kumar et al. 2023 about polynomial regression, decided from a table of trainings."""

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, part_of, slope, span, verdict
from grokinterp.experiments.outcome import Claim

_NUMBER = 18


def decide_polynomial(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Every claim about polynomial regression, with its verdict.

    Args:
        table: one row a training: varied, seed, scale, curvature, n_train, T_train, T_test, delay, peak, final_test,
            norm_start, norm_end, alignment_start, alignment_end. Where `varied` is scale, curvature or n_train, the
            others are the defaults of that sweep. Times are NaN where a loss does not fall to half its first value.
    """
    scales = part_of(table, "scale")
    base = scales.loc[np.isclose(column(scales, "scale"), 1)]
    return (
        _worse_before_better(base),
        _norm_rises(scales),
        _kernel_turns(scales),
        _shorter_delay(scales),
        _aligned_kernel(part_of(table, "curvature")),
        _data(part_of(table, "n_train")),
    )


def _worse_before_better(base: pd.DataFrame) -> Claim:
    known = base.loc[np.isfinite(column(base, "delay"))]
    n = len(known)
    held = bool((column(known, "peak") > 1.05).all() and (column(known, "delay") > 0).all())
    measured = f"{n} of {len(base)} trainings come to it"
    if n:
        measured = (
            f"train loss halved at {span(column(known, 'T_train'), ',.0f')}, test loss at "
            f"{span(column(known, 'T_test'), ',.0f')}, after a peak of {span(column(known, 'peak'), '.2f')} times its "
            f"first value; {measured}"
        )
    return Claim(
        "polynomial: grokking",
        "Without weight decay the test loss rises while the training loss falls, and falls later.",
        "Figure 1: at α = 1, ε = 0.02; a curve, no times",
        measured,
        n,
        "peak above 1.05 times the first value, and a later fall to half, every training",
        verdict(held, n),
        number=_NUMBER,
    )


def _norm_rises(scales: pd.DataFrame) -> Claim:
    known = scales.loc[np.isfinite(column(scales, "T_test"))]
    factors = column(known, "norm_end") / column(known, "norm_start")
    n = len(known)
    return Claim(
        "polynomial: norm",
        "The weight norm rises while the network generalizes.",
        "it increases",
        f"grows by a factor of {span(factors, '.1f')}" if n else "no test loss fell to half",
        n,
        "every training whose test loss falls to half",
        verdict(bool((factors > 1).all()), n),
        number=_NUMBER,
    )


def _kernel_turns(scales: pd.DataFrame) -> Claim:
    known = scales.loc[np.isfinite(column(scales, "T_test"))]
    start, end, n = column(known, "alignment_start"), column(known, "alignment_end"), len(known)
    return Claim(
        "polynomial: kernel alignment",
        "The neural tangent kernel turns towards the targets of unseen inputs.",
        "the alignment rises as the test loss falls",
        f"at the start {span(start, '.4f')}, at the end {span(end, '.4f')}" if n else "no test loss fell to half",
        n,
        "larger at the end than at the start, every training whose test loss falls to half",
        verdict(bool((end > start).all()), n),
        number=_NUMBER,
    )


def _shorter_delay(scales: pd.DataFrame) -> Claim:
    known = scales.loc[column(scales, "delay") > 0]
    middle = known.groupby("scale")["delay"].median()
    ratio = (known["T_test"] / known["T_train"]).groupby(known["scale"]).median()
    n = len(known) if len(middle) > 1 else 0
    measured = ", ".join(f"{delay:,.0f} at {scale:g}" for scale, delay in middle.items())
    if n:
        power = slope(np.log(middle.index.to_numpy(dtype=float)), np.log(middle.to_numpy(dtype=float)))
        measured = (
            f"delay {measured} (as α to the power {power:.2f}); T_test/T_train {ratio.iloc[0]:.2f} at the smallest, "
            f"{ratio.iloc[-1]:.2f} at the largest"
        )
    lost = len(scales) - len(known)
    return Claim(
        "polynomial: smaller scale, shorter delay",
        "The smaller the output scale α, the shorter the delay between the two falls.",
        "α from 2^-5 to 2^5: smaller removes grokking",
        (measured or "no delays") + (f"; {lost} trainings do not come to half" if lost else ""),
        n,
        "the median delay rises at every larger α",
        verdict(bool((middle.diff().dropna() > 0).all()), n),
        number=_NUMBER,
    )


def _aligned_kernel(curvatures: pd.DataFrame) -> Claim:
    known = curvatures.loc[np.isfinite(column(curvatures, "delay"))]
    middle = known.groupby("curvature")["delay"].median()
    ratio = (known["T_test"] / known["T_train"]).groupby(known["curvature"]).median()
    n = len(known) if len(middle) > 1 else 0
    measured = ", ".join(f"{delay:,.0f} at {curvature:g}" for curvature, delay in middle.items())
    if n:
        measured += f"; but T_test/T_train {ratio.iloc[0]:.1f} at the smallest ε, {ratio.iloc[-1]:.1f} at the largest"
    return Claim(
        "polynomial: better kernel, shorter delay",
        "The larger ε, and with it the alignment of the first kernel, the shorter the delay.",
        "ε from 0.02 to 0.28",
        f"delay {measured}" if measured else "no delays",
        n,
        "the median delay falls at every larger ε",
        verdict(bool((middle.diff().dropna() < 0).all()), n),
        number=_NUMBER,
    )


def _data(sizes: pd.DataFrame) -> Claim:
    least, middle, most = (sizes.loc[sizes["n_train"] == size] for size in sorted(set(sizes["n_train"]))[:3])
    never = int(np.isnan(column(least, "T_test")).sum())
    late, soon = (column(one, "T_test") / column(one, "T_train") for one in (middle, most))
    late = late[np.isfinite(late)]
    n = len(sizes) if len(late) else 0
    held = never == len(least) and bool(len(late)) and float(np.median(late)) > 2 and bool((soon <= 2).all())
    names = [f"P = {one['n_train'].iloc[0]}" for one in (least, middle, most)]
    said = f"{names[0]}: never in {never} of {len(least)}; {names[1]}: the test loss halves "
    said += f"{span(late, '.1f')} times as late as the train loss" if len(late) else "never"
    said += f" ({len(late)} of {len(middle)}); {names[2]}: {span(soon, '.1f')} times as late"
    return Claim(
        "polynomial: data",
        "With too little data nothing generalizes, with much there is no delay: grokking is between.",
        "P = 50, 120, 500 at D = 40",
        said,
        n,
        "fewest: no test loss halves; middle: more than twice as late as the train loss (median); most: at most twice",
        verdict(held, n),
        number=_NUMBER,
    )
