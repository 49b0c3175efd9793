"""Claims about slingshots: late spikes of the training loss while the norm of the last layer grows in steps."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import counted, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.runs.run import Run
from grokinterp.statistics.formatting import span

EPS = "optimizer.eps"
_UP, _DOWN = 100.0, 10.0  # multiples of the lowest loss so far
_SPIKES = 3
_STEP = 0.8  # share of the growth between two spikes that comes in the last third; 1/3 if growth is even
_SOLVED = 1e-3  # nats
_LAST_LAYER = "unembed.W_U"


@dataclass(frozen=True)
class Slingshots:
    """Spikes and norm growth of a run after it solved its training set (from its first training loss below 0.001).

    Attributes:
        eps: ε of its optimizer.
        spikes: steps at which the training loss had risen to 100 times the lowest value before; see `late_spikes`.
        growth: factor by which the norm of the last layer grows from there to the end; None if unknown.
        before_spikes: by cycle, the share of its growth that comes in the last third; see `growth_before_spikes`.
        solved: the step from which all of this is counted; None if the loss never was that low.
    """

    eps: float
    spikes: tuple[int, ...]
    growth: float | None
    before_spikes: tuple[float, ...]
    solved: int | None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Slingshots":
        """The inverse of `extract_slingshots`."""
        lists = {name: tuple(content[name]) for name in ("spikes", "before_spikes")}
        return cls(**{**content, **lists})


def late_spikes(losses: pd.Series, after: int) -> tuple[int, ...]:
    """Steps at which a loss had risen to 100 times its lowest value since a given step.

    Each excursion counts once: the next spike counts only after the loss has fallen to 10 times the lowest value.

    Args:
        losses: losses by step.
        after: the first step that counts.
    """
    spikes, lowest, above = [], np.inf, False
    for step, loss in losses.loc[losses.index >= after].dropna().items():
        if not above and loss >= _UP * lowest:
            spikes.append(int(str(step)))
            above = True
        elif above and loss <= _DOWN * lowest:
            above = False
        lowest = min(lowest, float(loss))
    return tuple(spikes)


def growth_before_spikes(norms: pd.Series, spikes: Sequence[int]) -> tuple[float, ...]:
    """For each cycle from one spike to the next, the share of a norm's growth that comes in the last third of the time.

    Even growth gives 1/3; a plateau after each spike and a rise before the next gives nearly 1. Cycles in which the
    norm does not grow, or that have fewer than six checkpoints, are omitted.

    Args:
        norms: norms by step.
        spikes: steps of the spikes.
    """
    steps, values, shares = norms.index.to_numpy(dtype=float), norms.to_numpy(dtype=float), []
    for first, last in itertools.pairwise(spikes):
        inside = (steps >= first) & (steps <= last)
        start, two_thirds, end = np.interp([first, last - (last - first) / 3, last], steps, values)
        if inside.sum() >= 6 and end > start:
            shares.append(float((end - two_thirds) / (end - start)))
    return tuple(shares)


def last_layer_norms(run: Run) -> pd.Series:
    """The L2 norm of the unembedding matrix at every checkpoint."""
    return pd.Series({step: float(run.weights(step)[_LAST_LAYER].norm()) for step in run.steps}, dtype=float)


def extract_slingshots(run: Run) -> dict[str, Any]:
    """Spikes and norm growth of a run, from its metrics and its checkpoints, as plain JSON values."""
    return asdict(slingshots_of(run))


def slingshots_of(run: Run) -> Slingshots:
    """Spikes and norm growth of a run, from its metrics and its checkpoints."""
    eps, losses = run.config.training().optimizer.eps, pd.Series(run.metrics["train_loss"])
    low = losses.index[(losses < _SOLVED).to_numpy()]
    if not len(low):
        return Slingshots(eps, (), None, (), None)
    norms = last_layer_norms(run)
    norms = pd.Series(norms.loc[norms.index >= low[0]])
    spikes = late_spikes(losses, int(low[0]))
    growth = float(norms.iloc[-1] / norms.iloc[0]) if len(norms) else None
    return Slingshots(eps, spikes, growth, growth_before_spikes(norms, spikes), int(low[0]))


def decide_slingshots(runs: Sequence[Slingshots], scaled_down: bool = False) -> tuple[Claim, ...]:
    """Assertion 20, in three parts: the loss spikes, the norm grows in steps, and a larger ε removes the spikes.

    Source: Thilak et al. 2022. Only runs that solved their training set count.

    Args:
        runs: runs with Adam and without weight decay, at ε = 1e-8 or below and at ε = 1e-5 or above.
        scaled_down: whether the runs are smaller than published; the measured text then says so.
    """
    small = _solved(runs, high=1e-8)
    large = _solved(runs, low=1e-5)
    with_spikes = [run for run in small if len(run.spikes) >= _SPIKES]
    shares = [float(np.median(run.before_spikes)) for run in with_spikes if run.before_spikes]
    measured = "no run solved its training set"
    if small:
        n_small = sum(run.eps <= 1e-8 for run in runs)
        measured = f"{_format_spikes(small)} spikes per run at ε = {_format_eps(small)}; {len(small)} of "
        measured += f"{counted(n_small, 'run')} solved the training set"
    return (
        Claim.of_all(
            "spikes",
            "With Adam and without weight decay, the training loss spikes repeatedly after the training set has been "
            "solved.",
            "Thilak et al. 2022, Figure 1: cyclic spikes",
            measured + ("; scaled down" if scaled_down else ""),
            f"at least {_SPIKES} spikes to {_UP:.0f} times the lowest loss so far, in every run",
            [len(run.spikes) >= _SPIKES for run in small],
            number=20,
        ),
        Claim.of_all(
            "stepwise norm",
            "The norm of the last layer grows in steps, together with the spikes.",
            "Thilak et al. 2022, Figure 1: alternating growth and plateaus",
            f"grows by a factor of {span([run.growth for run in with_spikes if run.growth is not None], '.2f')}; "
            f"{span([100 * x for x in shares], '.0f')} % of the growth from one spike to the next comes in the last "
            f"third (median cycle); runs with spikes: {len(shares)}"
            if shares
            else "no run with spikes between which its norm grew",
            f"at least {100 * _STEP:.0f} % of the growth in the last third, in every run with spikes (even growth: "
            "33 %)",
            [share >= _STEP for share in shares],
            number=20,
        ),
        Claim(
            "a larger ε removes the spikes",
            "With ε = 1e-5 instead of 1e-8, no slingshots occur.",
            "Thilak et al. 2022: no slingshots and no grokking in 500,000 steps",
            f"{_format_spikes(large)} spikes per run at ε = {_format_eps(large)} ({counted(len(large), 'run')}); "
            f"{_format_spikes(small)} per run at ε = {_format_eps(small)} ({counted(len(small), 'run')})"
            if large and small
            else "not run",
            len(large),
            f"fewer than {_SPIKES} spikes in every run, if every run with the smaller ε has {_SPIKES} or more",
            _removal_verdict(small, large),
            number=20,
            fewest=min(len(small), len(large)),
        ),
    )


def exact_loss_removes_them(runs: Sequence[Slingshots], exact: Sequence[Slingshots]) -> Claim:
    """Decide whether slingshots need a cross entropy whose gradient float32 rounds: an exact loss has none.

    Args:
        runs: runs with PyTorch's float32 cross entropy, at a small ε.
        exact: the same runs with a loss that is exact even for small values.
    """
    small, solved = _solved(runs, high=1e-8), _solved(exact)
    return Claim(
        "an exact loss removes the spikes",
        "Slingshots are caused by rounding: with the same ε and a cross entropy that is exact even for small values, "
        "none occur.",
        "not in Thilak et al. 2022; Prieto et al. 2025 describe the effect of rounding late in training",
        f"{_format_spikes(solved)} spikes per run with the exact loss ({counted(len(solved), 'run')}); "
        f"{_format_spikes(small)} per run with PyTorch's float32 loss ({counted(len(small), 'run')})"
        if small and solved
        else "not run",
        len(solved),
        f"fewer than {_SPIKES} spikes in every run, if every run with the rounded loss has {_SPIKES} or more",
        _removal_verdict(small, solved),
        fewest=min(len(small), len(solved)),
    )


def _solved(runs: Sequence[Slingshots], low: float = 0.0, high: float = np.inf) -> list[Slingshots]:
    """The runs with ε in a range that solved their training set."""
    return [run for run in runs if low <= run.eps <= high and run.solved is not None]


def _removal_verdict(spiking: Sequence[Slingshots], calm: Sequence[Slingshots]) -> Verdict:
    """Whether every calm run has fewer than three spikes; inconclusive unless every spiking run has three or more."""
    if not spiking or any(len(run.spikes) < _SPIKES for run in spiking):
        return "inconclusive"
    return verdict(all(len(run.spikes) < _SPIKES for run in calm), len(calm))


def _format_spikes(runs: Sequence[Slingshots]) -> str:
    return span([len(run.spikes) for run in runs], ".0f")


def _format_eps(runs: Sequence[Slingshots]) -> str:
    return ", ".join(f"{eps:g}" for eps in sorted({run.eps for run in runs}))
