"""The claims about slingshots: late spikes of the training loss while the last layer's norm grows in steps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.runs.run import Run

EPS = "optimizer.eps"
_UP, _DOWN = 100.0, 10.0  # times the lowest loss so far
_SPIKES = 3
_STEP = 0.8  # of the growth between two spikes, where even growth has a third
_SOLVED = 1e-3  # nats
_LAST_LAYER = "unembed.W_U"


@dataclass(frozen=True)
class Slingshots:
    """What one run did after it had solved its training set: from its first training loss below 0.001 on.

    Attributes:
        eps: of its optimizer.
        spikes: steps at which the training loss had risen to 100 times the lowest before; it counts again only when it
            has come down to 10 times that.
        growth: of the last layer's norm from there to the end, as a factor.
        before_spikes: by cycle, the share of its growth that comes in the last third, see `growth_before_spikes`.
        solved: the step from which this is counted; None where the loss never was so low.
    """

    eps: float
    spikes: tuple[int, ...]
    growth: float
    before_spikes: tuple[float, ...]
    solved: int | None


def late_spikes(losses: pd.Series, after: int) -> tuple[int, ...]:
    """Steps at which a loss had risen to 100 times its lowest value since a step, each excursion counted once.

    Args:
        losses: by step.
        after: the first step that counts.
    """
    found, lowest, above = [], np.inf, False
    for step, loss in losses.loc[losses.index >= after].dropna().items():
        if not above and loss >= _UP * lowest:
            found.append(int(str(step)))
            above = True
        elif above and loss <= _DOWN * lowest:
            above = False
        lowest = min(lowest, float(loss))
    return tuple(found)


def growth_before_spikes(norms: pd.Series, spikes: Sequence[int]) -> tuple[float, ...]:
    """Of a norm's growth from one spike to the next, the share in the last third of that time, for every such cycle.

    Even growth gives 1/3; a plateau after each spike and a rise before the next gives nearly 1. A cycle in which the
    norm does not grow, or that has fewer than six checkpoints, is left out.

    Args:
        norms: by step.
        spikes: their steps.
    """
    steps, values, shares = norms.index.to_numpy(dtype=float), norms.to_numpy(dtype=float), []
    for first, last in itertools.pairwise(spikes):
        inside = (steps >= first) & (steps <= last)
        start, two_thirds, end = np.interp([first, last - (last - first) / 3, last], steps, values)
        if inside.sum() >= 6 and end > start:
            shares.append(float((end - two_thirds) / (end - start)))
    return tuple(shares)


def last_layer_norms(run: Run) -> pd.Series:
    """The L2 norm of the matrix before the logits, at every checkpoint."""
    return pd.Series({step: float(run.weights(step)[_LAST_LAYER].norm()) for step in run.steps}, dtype=float)


def slingshots(table: pd.DataFrame, runs: Sequence[Run]) -> list[Slingshots]:
    """What each run of a sweep did, from its metrics and its checkpoints.

    Args:
        table: rows of the sweep's table.
        runs: the same runs, in order.
    """
    found = []
    for eps, run in zip(column(table, EPS), runs, strict=True):
        losses = pd.Series(run.metrics["train_loss"])
        low = losses.index[(losses < _SOLVED).to_numpy()]
        if not len(low):
            found.append(Slingshots(float(eps), (), float("nan"), (), None))
            continue
        norms = last_layer_norms(run)
        norms = pd.Series(norms.loc[norms.index >= low[0]])
        spikes = late_spikes(losses, int(low[0]))
        growth = float(norms.iloc[-1] / norms.iloc[0]) if len(norms) else float("nan")
        found.append(Slingshots(float(eps), spikes, growth, growth_before_spikes(norms, spikes), int(low[0])))
    return found


def decide_slingshots(runs: Sequence[Slingshots], scaled_down: bool = False) -> tuple[Claim, ...]:
    """Assertion 20, in three parts: there are spikes, the norm grows in steps, and a larger ε removes them.

    Args:
        runs: with Adam and without weight decay, at ε = 1e-8 or below, and at 1e-5 or above.
        scaled_down: whether they are smaller than published, which is said.
    """
    small = [run for run in runs if run.eps <= 1e-8 and run.solved is not None]
    large = [run for run in runs if run.eps >= 1e-5 and run.solved is not None]
    counts, counts_large = ([float(len(run.spikes)) for run in runs] for runs in (small, large))
    with_spikes = [run for run in small if len(run.spikes) >= _SPIKES]
    shares = [float(np.median(run.before_spikes)) for run in with_spikes if run.before_spikes]
    growths = [run.growth for run in with_spikes]
    said = (
        f"{span(counts, '.0f')} spikes in {len(small)} runs at ε = {_eps(small)}"
        if small
        else "no run solved its training set"
    )
    spiking = verdict(bool(small) and min(counts) >= _SPIKES, len(small))
    stepwise = verdict(bool(shares) and min(shares) >= _STEP, len(shares))
    said += f", {len(small)} of {sum(run.eps <= 1e-8 for run in runs)} solved" if small else ""
    said += ", scaled down" if scaled_down else ""
    removed: Verdict = "inconclusive"
    if small and large and len(with_spikes) == len(small):
        removed = verdict(max(counts_large) < _SPIKES, len(large))
    return (
        Claim(
            "spikes",
            "With Adam and without weight decay, the training loss spikes again and again after it has been solved.",
            "Thilak et al. 2022, Figure 1: cyclic",
            said,
            len(small),
            f"at least {_SPIKES} times up to {_UP:.0f} times the lowest loss so far, in every run",
            spiking,
            number=20,
        ),
        Claim(
            "stepwise norm",
            "The norm of the last layer grows in steps, with the spikes.",
            "Thilak et al. 2022, Figure 1: growth and plateaus in turn",
            f"by a factor of {span(growths, '.2f')}; {span([100 * x for x in shares], '.0f')} % of the growth from one "
            f"spike to the next comes in the last third (median cycle); runs with spikes: {len(shares)}"
            if shares
            else "no run with spikes between which its norm grew",
            len(shares),
            f"at least {100 * _STEP:.0f} % in every run with spikes (even growth: 33 %)",
            stepwise,
            number=20,
        ),
        Claim(
            "ε removes them",
            "With ε = 1e-5 instead of 1e-8 there are no slingshots.",
            "Thilak et al. 2022: none, and no grokking in 500,000 steps",
            f"{span(counts_large, '.0f')} spikes in {len(large)} runs at ε = {_eps(large)}; "
            f"{span(counts, '.0f')} in {len(small)} at ε = {_eps(small)}"
            if large and small
            else "not run",
            len(large),
            f"fewer than {_SPIKES} in every run, where every run with the smaller ε has {_SPIKES} or more",
            removed,
            number=20,
        ),
    )


def exact_loss_removes_them(runs: Sequence[Slingshots], exact: Sequence[Slingshots]) -> Claim:
    """Whether slingshots need a cross entropy whose gradient float32 rounds: with an exact loss there are none.

    Args:
        runs: with PyTorch's float32 cross entropy, at a small ε.
        exact: the same with a loss that is exact where it is small.
    """
    small = [run for run in runs if run.eps <= 1e-8 and run.solved is not None]
    solved = [run for run in exact if run.solved is not None]
    counts, counts_exact = ([float(len(run.spikes)) for run in runs] for runs in (small, solved))
    decidable = bool(small and solved) and min(counts) >= _SPIKES
    return Claim(
        "an exact loss removes them",
        "Slingshots come of rounding: with the same ε, and a cross entropy that is exact where it is small, there are "
        "none.",
        "not in Thilak et al. 2022; Prieto et al. 2025 on what rounding does late in training",
        f"{span(counts_exact, '.0f')} spikes in {len(solved)} runs with the exact loss; {span(counts, '.0f')} in "
        f"{len(small)} with PyTorch's in float32"
        if small and solved
        else "not run",
        len(solved),
        f"fewer than {_SPIKES} in every run, where every run with the rounded loss has {_SPIKES} or more",
        verdict(max(counts_exact) < _SPIKES, len(solved)) if decidable else "inconclusive",
    )


def _eps(runs: Sequence[Slingshots]) -> str:
    return ", ".join(f"{eps:g}" for eps in sorted({run.eps for run in runs}))
