"""The claims about progress measures, decided from the timelines of analyzed runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import span, verdict
from grokinterp.experiments.outcome import Claim, Verdict

_LOW = 0.1  # of the loss of guessing
_RISE = 1.0  # nats
_LEAD = 2  # checkpoints
_UNSOLVED = 0.5  # accuracy on novel pairs


@dataclass(frozen=True)
class Led:
    """One run that grokked: when a progress measure had moved, and when the network had followed.

    Attributes:
        first: step of the checkpoint at which the measure had moved; None where it never did.
        then: that at which what it foretells had happened.
        checkpoints: from the one to the other.
        novel_accuracy: at the first.
    """

    first: int | None
    then: int | None
    checkpoints: int
    novel_accuracy: float

    @property
    def leads(self) -> bool:
        """Whether it moved two checkpoints before, while most novel pairs were still answered wrong."""
        there = self.first is not None and self.then is not None
        return there and self.checkpoints >= _LEAD and self.novel_accuracy < _UNSOLVED


def below_from(series: pd.Series, level: float) -> int | None:
    """The first step from which a series stays below a level."""
    inside = (series < level).to_numpy()
    if not len(inside) or not inside[-1]:
        return None
    outside = np.flatnonzero(~inside)
    return int(series.index[outside[-1] + 1 if len(outside) else 0])


def restricted_lead(timeline: pd.DataFrame, classes: int) -> Led:
    """When restricted loss on novel pairs, and when test loss, came down to a tenth of the loss of guessing.

    Args:
        timeline: `restricted_loss_novel`, `test_loss` and `novel_accuracy` by step.
        classes: number of answers.
    """
    level = _LOW * float(np.log(classes))
    return _led(
        timeline,
        below_from(pd.Series(timeline["restricted_loss_novel"]), level),
        below_from(pd.Series(timeline["test_loss"]), level),
    )


def excluded_lead(timeline: pd.DataFrame, memorized: int, grokked: int) -> Led:
    """When excluded loss had risen by a nat above its lowest since memorization, and when the network had grokked.

    Args:
        timeline: `excluded_loss` and `novel_accuracy` by step.
        memorized: T_train(0.99).
        grokked: T_grok(0.95).
    """
    after = timeline["excluded_loss"].loc[timeline.index >= memorized].dropna()
    risen = after.index[(after >= after.cummin() + _RISE).to_numpy()]
    return _led(timeline, int(risen[0]) if len(risen) else None, grokked)


def _led(timeline: pd.DataFrame, first: int | None, then: int | None) -> Led:
    if first is None or then is None:
        return Led(first, then, 0, float("nan"))
    steps = timeline.index.to_numpy()
    between = int(((steps > first) & (steps <= then)).sum())
    return Led(first, then, between, float(timeline["novel_accuracy"].loc[first]))


def measure_leads(runs: Sequence[Led], name: str, statement: str, published: str) -> Claim:
    """Assertion 21: a progress measure moves before the network generalizes.

    Args:
        runs: of networks that grokked.
        name: of the measure.
        statement: what it does.
        published: what the source says.
    """
    n, led = len(runs), sum(run.leads for run in runs)
    there = [run for run in runs if run.first is not None and run.then is not None]
    measured = "no run grokked" if not n else f"{led} of {n}"
    if there:
        first, then = ([getattr(run, which) for run in there] for which in ("first", "then"))
        measured += (
            f": at step {span(first, ',.0f')}, before {span(then, ',.0f')}; accuracy on novel pairs then "
            f"{span([run.novel_accuracy for run in there], '.2f')}"
        )
    return Claim(
        name,
        statement,
        published,
        measured,
        n,
        f"{_LEAD} checkpoints before, at an accuracy on novel pairs below {_UNSOLVED}, in every run",
        verdict(n > 0 and led == n, n),
        number=21,
    )


def number_of_keys(counts: Sequence[int], p: int) -> Claim:
    """Assertion 21: a network mod 113 that grokked uses 5 to 6 key frequencies.

    Args:
        counts: of key frequencies, by run.
        p: the modulus; the published number is of 113 and decided there only.
    """
    n = len(counts)
    found: Verdict = verdict(bool(n) and all(count in (5, 6) for count in counts), n)
    at_size = p == 113
    return Claim(
        "key frequencies",
        "A transformer that grokked addition mod 113 uses 5 to 6 key frequencies.",
        "Nanda et al. 2023: {14, 35, 41, 42, 52}; 5 to 6 in summaries",
        f"{span(list(counts), '.0f')}" + ("" if at_size else f" at p = {p}, scaled down") if n else "no run grokked",
        n,
        "5 or 6 in every run, at p = 113",
        found if at_size else "inconclusive",
        should_hold=False,
        number=21,
    )
