"""Claims of Kumar et al. 2023 about polynomial regression, decided from a table of training runs."""

from dataclasses import replace

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    column,
    counted,
    fewest_runs,
    finite,
    rows_with,
    slope,
    sweep_over,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_NUMBER = 18


def decide_polynomial(table: pd.DataFrame) -> tuple[Claim, ...]:
    """Decide every claim about polynomial regression. Source: Kumar et al. 2023.

    Args:
        table: one row per training run: varied, seed, scale, curvature, n_train, T_train, T_test, delay, peak,
            final_test, norm_start, norm_end, alignment_start, alignment_end. Where `varied` is scale, curvature or
            n_train, the others are the defaults of that sweep. A time is NaN if the loss does not fall to half its
            first value.
    """
    scales, curvatures, sizes = (sweep_over(table, name) for name in ("scale", "curvature", "n_train"))
    # The full form has one run at some scales, for its figure; they decide nothing.
    scales = scales.loc[scales.groupby("scale")["seed"].transform("nunique") == scales["seed"].nunique()]
    base = scales.loc[np.isclose(column(scales, "scale"), 1)]
    claims = {
        _worse_before_better(base): len(base),
        _norm_rises(scales): fewest_runs(scales, ["scale"]),
        _kernel_aligns(scales): fewest_runs(scales, ["scale"]),
        _shorter_delay(scales): fewest_runs(scales, ["scale"]),
        _aligned_kernel(curvatures): fewest_runs(curvatures, ["curvature"]),
        _data(sizes): fewest_runs(sizes, ["n_train"]),
    }
    return tuple(replace(claim, fewest=fewest) for claim, fewest in claims.items())


def _worse_before_better(base: pd.DataFrame) -> Claim:
    runs = rows_with(base, "delay")
    n = len(runs)
    holds = bool((column(runs, "peak") > 1.05).all() and (column(runs, "delay") > 0).all())
    measured = f"both losses halve in {n} of {counted(len(base), 'run')}"
    if n:
        measured = (
            f"train loss halved at {span(column(runs, 'T_train'), ',.0f')}, test loss at "
            f"{span(column(runs, 'T_test'), ',.0f')}, after a peak of {span(column(runs, 'peak'), '.2f')} times its "
            f"first value; {measured}"
        )
    return Claim(
        "polynomial: grokking",
        "Without weight decay, the test loss first rises while the training loss falls, and falls only later.",
        "Figure 1, at α = 1 and ε = 0.02: a curve but no times",
        measured,
        n,
        "in every run, the test loss peaks above 1.05 times its first value and falls to half of its first "
        "value later than the train loss does",
        verdict(holds, n),
        number=_NUMBER,
    )


def _norm_rises(scales: pd.DataFrame) -> Claim:
    runs = rows_with(scales, "T_test")
    factors = column(runs, "norm_end") / column(runs, "norm_start")
    return Claim.of_all(
        "polynomial: norm",
        "The weight norm rises while the network generalizes.",
        "the norm increases",
        f"grows by a factor of {span(factors, '.1f')}" if len(runs) else "no test loss fell to half",
        "every run whose test loss falls to half",
        factors > 1,
        number=_NUMBER,
    )


def _kernel_aligns(scales: pd.DataFrame) -> Claim:
    runs = rows_with(scales, "T_test")
    start, end, n = column(runs, "alignment_start"), column(runs, "alignment_end"), len(runs)
    return Claim.of_all(
        "polynomial: kernel alignment",
        "The neural tangent kernel becomes aligned with the targets of unseen inputs.",
        "the alignment rises as the test loss falls",
        f"{span(start, '.4f')} at the start, {span(end, '.4f')} at the end" if n else "no test loss fell to half",
        "larger at the end than at the start, in every run whose test loss falls to half",
        end > start,
        number=_NUMBER,
    )


def _medians(runs: pd.DataFrame, axis: str) -> tuple[pd.Series, pd.Series]:
    """Median delay and median T_test / T_train by value of an axis."""
    medians = runs.assign(ratio=runs["T_test"] / runs["T_train"]).groupby(axis)[["delay", "ratio"]].median()
    return pd.Series(medians["delay"]), pd.Series(medians["ratio"])


def _shorter_delay(scales: pd.DataFrame) -> Claim:
    runs = scales.loc[column(scales, "delay") > 0]
    delays, ratios = _medians(runs, "scale")
    n = len(runs) if len(delays) > 1 else 0
    measured = times_by_setting(delays)
    if n:
        power = slope(np.log(delays.index.to_numpy(dtype=float)), np.log(delays.to_numpy(dtype=float)))
        measured = (
            f"delay {measured} (proportional to α to the power {power:.2f}); T_test/T_train "
            f"{ratios.iloc[0]:.2f} at the smallest α, {ratios.iloc[-1]:.2f} at the largest"
        )
    missing = len(scales) - len(runs)
    return Claim(
        "polynomial: smaller scale, shorter delay",
        "The smaller the output scale α, the sooner the test loss falls after the train loss.",
        "α from 2^-5 to 2^5: a small α removes grokking",
        (measured or "no delays") + (f"; not both losses halve in {counted(missing, 'run')}" if missing else ""),
        n,
        "the larger α, the longer the median delay",
        verdict(bool((delays.diff().dropna() > 0).all()), n),
        number=_NUMBER,
    )


def _aligned_kernel(curvatures: pd.DataFrame) -> Claim:
    runs = rows_with(curvatures, "delay")
    delays, ratios = _medians(runs, "curvature")
    n = len(runs) if len(delays) > 1 else 0
    measured = f"delay {times_by_setting(delays)}" if len(delays) else "no delays"
    if n:
        measured += (
            f"; however, T_test/T_train {ratios.iloc[0]:.1f} at the smallest ε, {ratios.iloc[-1]:.1f} at the largest"
        )
    return Claim(
        "polynomial: better kernel, shorter delay",
        "The larger ε, and with it the alignment of the initial kernel, the shorter the delay.",
        "ε from 0.02 to 0.28",
        measured,
        n,
        "the larger ε, the shorter the median delay",
        verdict(bool((delays.diff().dropna() < 0).all()), n),
        number=_NUMBER,
    )


def _data(sizes: pd.DataFrame) -> Claim:
    small, medium, large = (sizes.loc[sizes["n_train"] == size] for size in sorted(set(sizes["n_train"]))[:3])
    never = int(np.isnan(column(small, "T_test")).sum())
    late, soon = (column(runs, "T_test") / column(runs, "T_train") for runs in (medium, large))
    late = finite(late)
    holds = never == len(small) and bool(len(late)) and float(np.median(late)) > 2 and bool((soon <= 2).all())
    names = [f"P = {runs['n_train'].iloc[0]}" for runs in (small, medium, large)]
    lateness = f"takes {span(late, '.1f')} times as long to halve as the train loss" if len(late) else "never halves"
    return Claim(
        "polynomial: data",
        "With too little data, no network generalizes; with plenty of data, none is delayed; in between, networks "
        "grok.",
        "P = 50, 120, 500 at D = 40",
        f"{names[0]}: in {never} of {counted(len(small), 'run')}, the test loss never halves; {names[1]}: "
        f"it {lateness} ({len(late)} of {len(medium)}); {names[2]}: {span(soon, '.1f')} times as long",
        len(sizes) if len(late) else 0,
        "smallest P: no test loss halves; middle P: it takes more than twice as long to halve as the train loss "
        "(median); largest P: at most twice as long",
        verdict(holds, len(sizes) if len(late) else 0),
        number=_NUMBER,
    )
