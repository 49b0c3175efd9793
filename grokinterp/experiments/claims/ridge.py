"""Claims of Xu, Vardi, and Safran 2026 about ridge regression, decided from a table of runs."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    column,
    is_inverse,
    relative_change,
    seed_slopes,
    slope,
    sweep_over,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span
from grokinterp.theory import Stages


@dataclass(frozen=True)
class Evidence:
    """The results that the claims about ridge regression are decided from.

    Attributes:
        sweep: rows of `ridge_sweep` over λ, n, m, ν² and η.
        zero: stages of the zero teacher.
        update_error: by seed, the distance between the closed form and the updates of gradient descent, relative to
            ‖θ(0)‖.
    """

    sweep: pd.DataFrame
    zero: tuple[Stages, ...]
    update_error: dict[int, float]


def decide_ridge(evidence: Evidence) -> tuple[Claim, ...]:
    """Decide every claim about ridge regression; most are parts of assertion 16, the last is part of assertion 6."""
    parts = (
        _closed_form,
        *(_bound_claim(*arguments) for arguments in _BOUND_CLAIMS),
        _three_stages,
        _inverse_decay,
        _t1_of_decay,
        _inverse_lr,
        _t2_of_variance,
        _t1_of_variance,
        _t1_of_n,
        _little_effect_of_m,
    )
    unnumbered = (_step_size, _more_features_more_delay)
    decay = replace(_inverse_decay(evidence), name="1/λ in ridge regression", number=6)
    return (*(replace(rule(evidence), number=16) for rule in parts), *(rule(evidence) for rule in unnumbered), decay)


def _closed_form(evidence: Evidence) -> Claim:
    errors = list(evidence.update_error.values())
    return Claim.of_all(
        "closed form",
        "The closed form is the trajectory of gradient descent: each step is one update from the previous step.",
        "θ(t+1) = θ(t) - η/n Φᵀ(Φθ(t) - y) - ηλ θ(t)",
        f"largest deviation {max(errors):.1e} times ‖θ(0)‖",
        "at most 1e-8",
        [error <= 1e-8 for error in errors],
    )


_BOUND_CLAIMS = (
    ("t1 below (6)", "Overfitting happens no later than Theorem 4.2 states.", ("t1_bound",), "t1 <= (6)"),
    ("t2 above (7)", "Generalization happens no earlier than Theorem 4.2 states.", ("t2_bound",), "t2 >= (7)"),
    (
        "Gaussian bounds (8)",
        "With Gaussian features and c = ε > ‖θ*‖²/m, both simpler bounds hold.",
        ("t1_bound_gaussian", "t2_bound_gaussian"),
        "t1 <= (8) and t2 >= (8)",
    ),
    (
        "sharp bounds",
        "The unsimplified logarithms behind (6) and (7) bound the times more closely.",
        ("t1_bound_sharp", "t2_bound_sharp"),
        "Theorems 4.4 and 4.5",
    ),
)


def _bound_claim(title: str, statement: str, bounds: tuple[str, ...], published: str) -> Callable[[Evidence], Claim]:
    def rule(evidence: Evidence) -> Claim:
        table = evidence.sweep
        applies = np.logical_and.reduce([table[f"{name}_applies"].to_numpy(dtype=bool) for name in bounds])
        holds = np.logical_and.reduce([table[f"{name}_holds"].to_numpy() == True for name in bounds])  # noqa: E712
        n, hits = int(applies.sum()), int((holds & applies).sum())
        ratios = []
        for name in bounds:
            runs = table.loc[applies & (table[name] > 0)]
            ratio = runs[name] / runs["t1"] if name.startswith("t1") else runs["t2"] / runs[name]
            ratios.append(f"{name[:2]} differs from its bound by a factor of {span(ratio, '.3g')}")
        measured = f"{hits} of {n} runs that satisfy the conditions ({len(table)} runs in all); {', '.join(ratios)}"
        return Claim(title, statement, published, measured, n, "every run", verdict(hits == n, n))

    return rule


def _three_stages(evidence: Evidence) -> Claim:
    names = ("overfits", "generalizes_late", "generalizes")
    inside = [all(getattr(stages, name) for name in names) for stages in evidence.zero]
    inside += [bool(row.all()) for row in evidence.sweep[[f"stage_{name}" for name in names]].to_numpy(dtype=bool)]
    return Claim.of_all(
        "three stages",
        "With the zero teacher, train loss, population loss, and weight norm stay within their envelopes at every "
        "step.",
        "Theorem 4.1",
        f"all three in {sum(inside)} of {len(inside)} trajectories",
        "every trajectory",
        inside,
    )


def _step_size(evidence: Evidence) -> Claim:
    table = evidence.sweep
    beyond = table.loc[~table["lr_theorem_4_2_holds"].astype(bool)]
    holds = (beyond["t1_bound_holds"] == True) & (beyond["t2_bound_holds"] == True)  # noqa: E712
    limit, exact = table["lr_theorem_4_2"].median(), table["lr_monotone"].median()
    return Claim.of_all(
        "step size",
        "The bounds also hold at step sizes that Theorem 4.2 does not cover, such as η = 1 in Figure 2.",
        "η < 1/(λ + b²)",
        f"the bounds hold in {int(holds.sum())} of {len(beyond)} runs beyond the limit of {limit:.2g}; the spectrum "
        f"allows step sizes up to {exact:.3g}",
        "every run",
        holds,
    )


def _inverse_decay(evidence: Evidence) -> Claim:
    slopes = seed_slopes(sweep_over(evidence.sweep, "weight_decay"), "weight_decay", "t2")
    return Claim.of_all(
        "t2 as 1/λ",
        "Generalization time is inversely proportional to weight decay.",
        "exponent -1 in (7)",
        f"exponent {span(slopes, '.4f')}",
        "exponent -1 ± 0.01 for every seed",
        is_inverse(slopes, 0.01),
    )


def _t1_of_decay(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "weight_decay")
    change = relative_change(runs.loc[runs["weight_decay"] <= 3.01e-4], "t1")
    return Claim.of_all(
        "t1 independent of λ",
        "Overfitting time does not depend on weight decay if weight decay is weak.",
        "no λ in (6)",
        f"changes by {span(100 * change, '.1f')} % for λ <= 3e-4",
        "change below 5 % for every seed",
        change < 0.05,
    )


def _inverse_lr(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "lr")
    # The train loss crosses ε during the step after t1, the population loss crosses c during the step before t2. Half
    # a step is the better estimate of where; it matters at η = 10, where t1 is 20.
    runs = runs.assign(t1=runs["t1"] + 0.5, t2=runs["t2"] - 0.5)
    t1, t2 = (seed_slopes(runs, "lr", name) for name in ("t1", "t2"))
    return Claim(
        "times as 1/η",
        "Both times are inversely proportional to the step size.",
        "exponent -1 in (6) and (7); no figure",
        f"exponents t1 {span(t1, '.4f')}, t2 {span(t2, '.4f')}",
        len(t1),
        "exponent -1 ± 0.01 for every seed",
        verdict(bool(is_inverse(np.concatenate([t1, t2]), 0.01).all()), len(t1)),
    )


def _t2_of_variance(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "init_variance")
    slopes = np.array(
        [slope(np.log(column(seed, "init_variance")), column(seed, "t2")) for _, seed in runs.groupby("seed")]
    )
    expected = (1 / (2 * runs["lr"] * runs["weight_decay"])).iloc[0]
    return Claim.of_all(
        "t2 in ln ν²",
        "Generalization time grows by 1/(2ηλ) for each factor of e in the variance of the initialization.",
        f"{expected * np.log(4):,.0f} steps per factor of 4",
        f"{span(slopes * np.log(4), ',.0f')} steps per factor of 4",
        "within 1 % for every seed",
        np.abs(slopes / expected - 1) <= 0.01,
    )


def _t1_of_variance(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "init_variance")
    medians = runs.groupby("init_variance")["t1"].median()
    correlation = float(np.corrcoef(np.log(medians.index.to_numpy(dtype=float)), medians.to_numpy())[0, 1])
    return Claim(
        "t1 in ln ν²",
        "Overfitting time grows with the logarithm of the variance of the initialization.",
        "ln ‖θ(0)‖² in (6)",
        f"correlation of t1 with ln ν² {correlation:.4f}; median t1 " + times_by_setting(pd.Series(medians), "at ν² ="),
        len(runs),
        "correlation of the medians at least 0.98",
        verdict(correlation >= 0.98, len(medians)),
    )


def _t1_of_n(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "n").sort_values("n")
    rises = [bool((seed["t1"].diff().dropna() > 0).all()) for _, seed in runs.groupby("seed")]
    medians = runs.groupby("n")["t1"].median()
    return Claim.of_all(
        "t1 with n",
        "More training examples take longer to overfit.",
        "n / λ⁺_min in (6); Figure 2",
        f"increases with n for {sum(rises)} of {len(rises)} seeds; median t1 "
        + times_by_setting(pd.Series(medians), "at n ="),
        "every seed",
        rises,
    )


def _little_effect_of_m(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "m")
    medians = runs.groupby("m")[["t1", "t2"]].median()
    factors = (medians.max() / medians.min()).to_dict()
    return Claim(
        "m hardly matters",
        "Over-parameterization has little effect on either time.",
        "Figure 2",
        f"m = {medians.index.min()} to {medians.index.max()}: t1 changes by a factor of {factors['t1']:.2f}, "
        f"t2 by {factors['t2']:.2f}",
        len(runs),
        "medians within a factor of 1.5",
        verdict(max(factors.values()) <= 1.5, len(medians)),
    )


def _more_features_more_delay(evidence: Evidence) -> Claim:
    runs = sweep_over(evidence.sweep, "m")
    medians = runs.groupby("m")["delay"].median()
    factor = float(medians.iloc[-1]) / float(medians.iloc[0])
    growth = column(runs, "m").max() / column(runs, "m").min()
    return Claim(
        "more features, more grokking",
        "The more over-parameterized the model, the longer the delay.",
        "summary in a review; the paper's figure contradicts it",
        f"the delay grows by a factor of {factor:.2f} while m grows {growth:.0f}-fold",
        len(runs),
        "the delay grows by half or more",
        verdict(factor >= 1.5, len(medians)),
        should_hold=False,
    )
