"""Claims of Nanda et al. 2023 about progress measures, decided from the timelines of analyzed runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import counted, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

_LOW = 0.1  # fraction of the loss of guessing
_RISE = 1.0  # nats
_LEAD = 2  # checkpoints
_UNSOLVED = 0.5  # accuracy on novel pairs


@dataclass(frozen=True)
class Lead:
    """When a progress measure moved in a run that grokked, and when the event that it predicts followed.

    Attributes:
        measure_step: step of the checkpoint at which the measure had moved; None if it never did.
        event_step: step of the checkpoint at which the predicted event had happened; None if it never did.
        checkpoints: number of checkpoints from the first to the second.
        novel_accuracy: accuracy on novel pairs at the first; None if there is no first or no second.
    """

    measure_step: int | None
    event_step: int | None
    checkpoints: int
    novel_accuracy: float | None

    @property
    def leads(self) -> bool:
        """Whether the measure moved at least two checkpoints earlier, while most novel pairs were answered wrong."""
        return self.checkpoints >= _LEAD and self.novel_accuracy is not None and self.novel_accuracy < _UNSOLVED


def below_from(series: pd.Series, level: float) -> int | None:
    """The first step from which a series stays below a level; None if it does not end below it."""
    inside = (series < level).to_numpy()
    if not len(inside) or not inside[-1]:
        return None
    outside = np.flatnonzero(~inside)
    return int(series.index[outside[-1] + 1 if len(outside) else 0])


def restricted_lead(timeline: pd.DataFrame, classes: int) -> Lead:
    """When restricted loss on novel pairs, and then test loss, fell to a tenth of the loss of guessing.

    Args:
        timeline: `restricted_loss_novel`, `test_loss` and `novel_accuracy` by step.
        classes: number of answers; the loss of guessing is its logarithm.
    """
    level = _LOW * float(np.log(classes))
    steps = (below_from(pd.Series(timeline[name]), level) for name in ("restricted_loss_novel", "test_loss"))
    return _lead(timeline, *steps)


def excluded_lead(timeline: pd.DataFrame, memorized: int, grokked: int) -> Lead:
    """When excluded loss rose by one nat above its minimum since memorization, and when the network grokked.

    Args:
        timeline: `excluded_loss` and `novel_accuracy` by step.
        memorized: T_train(0.99).
        grokked: T_grok(0.95).
    """
    after = timeline["excluded_loss"].loc[timeline.index >= memorized].dropna()
    risen = after.index[(after >= after.cummin() + _RISE).to_numpy()]
    return _lead(timeline, int(risen[0]) if len(risen) else None, grokked)


def _lead(timeline: pd.DataFrame, measure_step: int | None, event_step: int | None) -> Lead:
    if measure_step is None or event_step is None:
        return Lead(measure_step, event_step, 0, None)
    steps = timeline.index.to_numpy()
    checkpoints = int(((steps > measure_step) & (steps <= event_step)).sum())
    return Lead(measure_step, event_step, checkpoints, float(timeline["novel_accuracy"].loc[measure_step]))


def measure_leads(runs: Sequence[Lead], name: str, statement: str, published: str) -> Claim:
    """Assertion 21: decide whether a progress measure moves before the network generalizes.

    Args:
        runs: leads of networks that grokked.
        name: name of the claim.
        statement: what the measure does.
        published: what the source states.
    """
    n, n_leading = len(runs), sum(run.leads for run in runs)
    measured = f"{n_leading} of {counted(n, 'run')}" if n else "no run grokked"
    steps = [
        (run.measure_step, run.event_step, run.novel_accuracy)
        for run in runs
        if run.measure_step is not None and run.event_step is not None and run.novel_accuracy is not None
    ]
    if steps:
        measure_steps, event_steps, accuracies = zip(*steps, strict=True)
        measured += (
            f": at step {span(measure_steps, ',.0f')}, when accuracy on novel pairs is {span(accuracies, '.2f')}; "
            f"generalization follows at step {span(event_steps, ',.0f')}"
        )
    return Claim.of_all(
        name,
        statement,
        published,
        measured,
        f"at least {_LEAD} checkpoints earlier, while accuracy on novel pairs is below {_UNSOLVED}, in every run",
        [run.leads for run in runs],
        number=21,
    )


def number_of_keys(counts: Sequence[int], p: int) -> Claim:
    """Assertion 21: decide whether a network that grokked addition mod 113 uses 5 to 6 key frequencies.

    Source: Nanda et al. 2023.

    Args:
        counts: number of key frequencies of each run.
        p: the modulus. The published number holds for 113, and only runs with it decide the claim.
    """
    n, published_size = len(counts), p == 113
    note = "" if published_size else f" at p = {p}, scaled down"
    return Claim(
        "key frequencies",
        "A transformer that grokked addition mod 113 uses 5 or 6 key frequencies.",
        "Nanda et al. 2023: 14, 35, 41, 42, and 52; summaries of the paper say 5 to 6",
        span(counts, ".0f") + note if n else "no run grokked",
        n,
        "5 or 6 in every run, at p = 113",
        verdict(all(count in (5, 6) for count in counts), n if published_size else 0),
        should_hold=False,
        number=21,
    )
