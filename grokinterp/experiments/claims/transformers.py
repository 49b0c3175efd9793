"""The claims about small transformers on operations: what weight decay decides, what generalizes, and how late."""

import itertools

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict

DECAY, OPERATION, FRACTION = "optimizer.weight_decay", "task.operation", "task.train_fraction"
_LATE = 2.0
_LEVEL = 0.95


def generalizes_late(table: pd.DataFrame, what: str, published: str) -> Claim:
    """Whether runs generalize long after they memorized: T_grok(0.95) is at least twice T_train(0.99), in each.

    Args:
        table: runs of one setting that should grok.
        what: the task, for the statement.
        published: what the source says.
    """
    ratio = column(table, "T_grok_0.95") / column(table, "T_train_0.99")
    there = ratio[np.isfinite(ratio)]
    n = len(table)
    measured = (
        f"{len(there)} of {n} generalize, {span(there, '.1f')} times as late as they memorize (T_train(0.99) "
        f"{_middle(table, 'T_train_0.99')}, T_grok(0.95) {_middle(table, 'T_grok_0.95')})"
        if len(there)
        else f"none of {n} generalizes by step {span(column(table, 'step'), ',.0f')}"
        if n
        else "not run"
    )
    return Claim(
        f"delay, {what}",
        f"{what[0].upper()}{what[1:]} is generalized long after it is memorized.",
        published,
        measured,
        n,
        f"every run, at least {_LATE:g} times as late",
        verdict(len(there) == n and bool((there >= _LATE).all()), n),
    )


def slower_without_decay(table: pd.DataFrame, what: str, published: str) -> Claim:
    """Whether generalization waits for weight decay: without it, it takes longer than all runs with it.

    Args:
        table: runs with weight decay and without, of one budget.
        what: the task, for the statement.
        published: what the source says.
    """
    decay = column(table, DECAY)
    without, with_decay = table.loc[decay == 0], table.loc[decay > 0]
    memorized = without.loc[np.isfinite(column(without, "T_train_0.99"))]
    soon = column(with_decay, "T_grok_0.95")
    late = column(memorized, "T_grok_0.95")
    n = len(memorized) if len(soon) and np.isfinite(soon).all() else 0
    waited = np.where(np.isfinite(late), late, column(memorized, "step"))
    reached = int(np.isfinite(late).sum())
    measured = "no run without weight decay memorized, or not every run with it generalized"
    if n:
        measured = (
            f"T_grok(0.95) {span(soon, ',.0f')} with weight decay; without it {reached} of {n} generalized, "
            f"after {span(waited, ',.0f')} steps; test accuracy {span(column(memorized, 'final.test_accuracy'), '.3f')}"
        )
    return Claim(
        f"decay, {what}",
        f"Without weight decay {what} is memorized, and generalized later than with it or not at all.",
        published,
        measured,
        n,
        "later than every run with weight decay, in every run",
        verdict(n > 0 and bool((waited > soon.max()).all()), n),
    )


def generalize_or_not(table: pd.DataFrame, generalizing: tuple[str, ...], never: tuple[str, ...]) -> tuple[Claim, ...]:
    """Which operations reach a test accuracy of 0.95, and which stay below it at every train fraction.

    Args:
        table: runs of several operations.
        generalizing: those that should, at some train fraction.
        never: those that should not, at any.
    """
    rows = {name: table.loc[table[OPERATION] == name] for name in generalizing}
    reached = {name: int(np.isfinite(column(runs, "T_grok_0.95")).sum()) for name, runs in rows.items()}
    n = sum(map(len, rows.values())) if all(len(runs) for runs in rows.values()) else 0
    parts = table.loc[table[OPERATION].isin(never)]
    memorized = parts.loc[np.isfinite(column(parts, "T_train_0.99"))]
    stays = column(memorized, "final.test_accuracy")
    stayed: Verdict = verdict(bool(np.isnan(column(memorized, "T_grok_0.95")).all()), len(stays))
    return (
        Claim(
            "these generalize",
            f"{', '.join(generalizing)} generalize where there is enough data.",
            "Figure 2, right",
            "; ".join(f"{name} {reached[name]} of {len(runs)}" for name, runs in rows.items()),
            n,
            f"T_grok({_LEVEL}) in one run of each",
            verdict(all(reached.values()), n),
        ),
        Claim(
            "these do not",
            f"{', '.join(never)} is memorized and never generalized, at no train fraction.",
            "no generalization at up to 95 % of the data",
            f"test accuracy at the end {span(stays, '.3f')} at train fractions {_fractions(memorized)}"
            if len(stays)
            else "no run memorized",
            len(stays),
            f"no T_grok({_LEVEL}) in any run that memorized",
            stayed,
        ),
    )


def _fractions(table: pd.DataFrame) -> str:
    return ", ".join(f"{fraction:g}" for fraction in sorted(set(column(table, FRACTION))))


def _middle(table: pd.DataFrame, name: str) -> str:
    values = column(table, name)
    return f"{np.median(values[np.isfinite(values)]):,.0f}"


def sooner_with_more(table: pd.DataFrame, axis: str, of_what: str, published: str) -> Claim:
    """Whether T_grok(0.95) falls at every step as something grows: its medians, where most runs have one.

    Args:
        table: runs at several values.
        axis: the column that varies.
        of_what: it, in words.
        published: what the source says.
    """
    medians = {}
    for value in sorted(set(column(table, axis))):
        times = column(table.loc[np.isclose(column(table, axis), value)], "T_grok_0.95")
        waited = np.where(np.isfinite(times), times, np.inf)
        medians[value] = float(np.median(waited))
    known = [time for time in medians.values() if np.isfinite(time)]
    falls = all(a > b for a, b in itertools.pairwise(medians.values()) if np.isfinite(b) or np.isfinite(a))
    said = ", ".join(
        f"{time:,.0f} at {value:g}" if np.isfinite(time) else f"never at {value:g}" for value, time in medians.items()
    )
    return Claim(
        f"more {of_what}, sooner",
        f"With more {of_what} the transformer groks sooner.",
        published,
        f"median T_grok(0.95) {said}" if medians else "not run",
        len(table),
        "the median falls at every step",
        verdict(falls, len(table) if len(known) >= 2 else 0),
    )


def no_delay_at_much_data(table: pd.DataFrame, published: str) -> Claim:
    """Whether there is no grokking at a train fraction of 0.7 and more: runs generalize without delay.

    Args:
        table: runs at several train fractions.
        published: what the source says.
    """
    much = table.loc[column(table, FRACTION) >= 0.7]
    without = int((much["outcome"] == "generalized_without_delay").sum())
    return Claim(
        "no delay at much data",
        "From a train fraction of 0.7 on, the transformer generalizes without delay.",
        published,
        f"{without} of {len(much)} runs" if len(much) else "not run",
        len(much),
        "every run",
        verdict(without == len(much), len(much)),
    )
