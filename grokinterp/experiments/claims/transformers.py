"""Claims about small transformers on operations: the role of weight decay, what generalizes, and how late."""

import itertools

import numpy as np
import pandas as pd

from grokinterp.experiments.claims.numbers import (
    T_GROK,
    T_TRAIN,
    column,
    counted,
    finite,
    median_times,
    rows_with,
    times_by_setting,
    verdict,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics.formatting import span

DECAY, OPERATION, FRACTION = "optimizer.weight_decay", "task.operation", "task.train_fraction"
_LATE = 2.0  # "twice" in the criterion
_LEVEL = 0.95


def generalizes_late(table: pd.DataFrame, task: str, published: str) -> Claim:
    """Decide whether runs generalize long after they memorize: T_grok(0.95) at least twice T_train(0.99) in each.

    Args:
        table: runs of one setting that should grok, with `T_train_0.99`, `T_grok_0.95` and `step`.
        task: the task, for the name and the statement.
        published: what the source states.
    """
    ratios, n = finite(column(table, T_GROK) / column(table, T_TRAIN)), len(table)
    measured = "not run"
    if len(ratios):
        train, test = (f"{np.median(finite(column(table, name))):,.0f}" for name in (T_TRAIN, T_GROK))
        measured = f"{len(ratios)} of {counted(n, 'run')}: generalizing takes {span(ratios, '.1f')} times as long as "
        measured += f"memorizing (T_train(0.99) {train}, T_grok(0.95) {test})"
    elif n:
        measured = f"none of {n} generalizes by step {span(column(table, 'step'), ',.0f')}"
    return Claim(
        f"delay, {task}",
        f"The transformer groks {task}: it generalizes long after it memorizes.",
        published,
        measured,
        n,
        "in every run, generalizing takes at least twice as long as memorizing",
        verdict(len(ratios) == n and bool((ratios >= _LATE).all()), n),
    )


def slower_without_decay(table: pd.DataFrame, task: str, published: str) -> Claim:
    """Decide whether every run without weight decay takes longer to generalize than all runs with it.

    A run without weight decay that has not generalized counts with its last step.

    Args:
        table: runs with and without weight decay and with the same budget, with `optimizer.weight_decay`,
            `T_train_0.99`, `T_grok_0.95`, `step` and `final.test_accuracy`.
        task: the task, for the name and the statement.
        published: what the source states.
    """
    decay = column(table, DECAY)
    memorized = rows_with(table.loc[decay == 0], T_TRAIN)
    soon, late = column(table.loc[decay > 0], T_GROK), column(memorized, T_GROK)
    n = len(memorized) if len(soon) and np.isfinite(soon).all() else 0
    waited = np.where(np.isfinite(late), late, column(memorized, "step"))
    measured = "no run without weight decay memorized, or not every run with it generalized"
    if n:
        measured = (
            f"T_grok(0.95) {span(soon, ',.0f')} with weight decay; without it, {len(finite(late))} of {n} generalized "
            f"within {span(waited, ',.0f')} steps; test accuracy "
            f"{span(column(memorized, 'final.test_accuracy'), '.3f')}"
        )
    return Claim(
        f"decay, {task}",
        f"Without weight decay, the transformer memorizes {task} but generalizes later than it does with weight "
        "decay, or not at all.",
        published,
        measured,
        n,
        "every run without weight decay generalizes later than every run with it",
        verdict(n > 0 and bool((waited > soon.max()).all()), n),
    )


def generalize_or_not(table: pd.DataFrame, generalizing: tuple[str, ...], never: tuple[str, ...]) -> tuple[Claim, ...]:
    """Decide which operations reach a test accuracy of 0.95, and which stay below it at every train fraction.

    Source: Power et al. 2022, Figure 2, right.

    Args:
        table: runs of several operations, with `task.operation`, `task.train_fraction`, `T_train_0.99`, `T_grok_0.95`
            and `final.test_accuracy`.
        generalizing: operations that should generalize at some train fraction.
        never: operations that should not generalize at any.
    """
    rows = {name: table.loc[table[OPERATION] == name] for name in generalizing}
    reached = {name: len(rows_with(runs, T_GROK)) for name, runs in rows.items()}
    n = sum(map(len, rows.values())) if all(len(runs) for runs in rows.values()) else 0
    memorized = rows_with(table.loc[table[OPERATION].isin(never)], T_TRAIN)
    measured = "no run memorized"
    if len(memorized):
        fractions = ", ".join(f"{fraction:g}" for fraction in sorted(set(column(memorized, FRACTION))))
        accuracy = span(column(memorized, "final.test_accuracy"), ".3f")
        plural = "s" if "," in fractions else ""
        measured = f"final test accuracy {accuracy} at train fraction{plural} {fractions}"
    return (
        Claim(
            "polynomials that generalize",
            f"The transformer generalizes on {' and '.join(generalizing)} if there is enough data.",
            "Figure 2, right",
            "; ".join(f"{name}: {reached[name]} of {len(runs)}" for name, runs in rows.items()),
            n,
            f"T_grok({_LEVEL}) in at least one run of each",
            verdict(all(reached.values()), n),
        ),
        Claim.of_all(
            "polynomials that do not generalize",
            f"The transformer memorizes {', '.join(never)} but does not generalize at any train fraction.",
            "no generalization with up to 95 % of the data",
            measured,
            f"no T_grok({_LEVEL}) in any run that memorized",
            np.isnan(column(memorized, T_GROK)),
        ),
    )


def sooner_with_more(table: pd.DataFrame, axis: str, quantity: str, published: str) -> Claim:
    """Decide whether the median T_grok(0.95) falls with every increase of a setting.

    Settings at which most runs do not generalize have an infinite median; two of these in a row are not compared.

    Args:
        table: runs at several values of the axis, with `T_grok_0.95`.
        axis: the column of the setting.
        quantity: the setting in words, for the name and the statement.
        published: what the source states.
    """
    medians = median_times(table, axis, T_GROK)
    falls = all(a > b for a, b in itertools.pairwise(medians.values()) if np.isfinite(b) or np.isfinite(a))
    decided = int(np.isfinite(list(medians.values())).sum()) >= 2
    return Claim(
        f"more {quantity}, earlier grokking",
        f"With more {quantity}, the transformer groks sooner.",
        published,
        f"median T_grok(0.95) {times_by_setting(medians)}" if medians else "not run",
        len(table),
        "each larger setting has a smaller median",
        verdict(falls, len(table) if decided else 0),
    )


def no_delay_at_much_data(table: pd.DataFrame, published: str) -> Claim:
    """Decide whether all runs at a train fraction of 0.7 or more generalize without delay.

    Args:
        table: runs at several train fractions, with `task.train_fraction` and `outcome`.
        published: what the source states.
    """
    runs = table.loc[column(table, FRACTION) >= 0.7]
    without = int((runs["outcome"] == "generalized_without_delay").sum())
    return Claim(
        "no delay with plenty of data",
        "At train fractions of 0.7 and above, the transformer generalizes without delay.",
        published,
        f"{without} of {counted(len(runs), 'run')}" if len(runs) else "not run",
        len(runs),
        "every run",
        verdict(without == len(runs), len(runs)),
    )
