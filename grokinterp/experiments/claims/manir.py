"""Claims of Manir and Rupa 2026 about when an MLP groks: its plateau, weight decay, and depth."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.analysis.transition import first_reaching
from grokinterp.experiments.claims.general import DECAY
from grokinterp.experiments.claims.numbers import column, span, verdict
from grokinterp.experiments.outcome import Claim, Verdict
from grokinterp.statistics import settings

SCALED_DOWN = "scaled down: "
# A miniature's test set is a few hundred pairs, of which 0.99 hangs on two or three: there T_grok(0.95) is taken.
DELAY, SMALL_DELAY = "delay_0.99", "delay_0.95_0.99"
_GROKKED = ("grokked", "generalized_without_delay")


def canonical_times(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether the canonical run memorizes and groks when Manir and Rupa's did.

    Args:
        table: a sweep's table, one row a seed.
        published_size: False where the runs are a miniature, which cannot decide it.
    """
    train, grok = column(table, "T_train_0.99"), column(table, "T_grok_0.99")
    within = (train >= 500) & (train <= 2000) & (grok >= 15_000) & (grok <= 60_000)
    enough, missed = int(within.sum()) >= 3, int((~within).sum()) > 2
    found: Verdict = "supported" if enough else "not supported" if missed else "inconclusive"
    return Claim(
        "canonical times",
        "The canonical network memorizes within some 1,000 steps and groks after some 33,000.",
        "T_train 1,000, T_grok 33,000 (seed 0); delays 20,000 to 210,000 over five seeds, one of which does not grok",
        f"{_scale(published_size)}T_train {_times(train)}, T_grok(0.99) {_times(grok)}",
        len(table),
        "T_train in 500 .. 2,000 and T_grok(0.99) in 15,000 .. 60,000 for 3 of 5 seeds",
        found if published_size else "inconclusive",
        number=2,
    )


def plateau(metrics: Sequence[pd.DataFrame], *, published_size: bool = True) -> Claim:
    """What the plateau between memorization and grokking is made of: pairs whose mirror was trained on.

    A run's plateau is the median over the evaluations from T_train(0.99) to twice that.

    Args:
        metrics: of each run, by step.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    found = [one for one in map(plateau_of, metrics) if one is not None]
    mirror, novel, test = ([one[name] for one in found] for name in ("mirror", "novel", "test"))
    holds = all(m >= 0.99 and n <= 0.03 for m, n in zip(mirror, novel, strict=True))
    measured = f"test {span(test, '.3f')}: mirrored {span(mirror, '.3f')}, novel {span(novel, '.3f')}" if found else "-"
    return Claim(
        "plateau",
        "The plateau of test accuracy is the share of test pairs whose mirror (b, a) was trained on, which a symmetric "
        "network gets right by memorizing; novel pairs are at chance.",
        "19.9 % at a train fraction of 20 %, called near chance (which is 1.03 %)",
        _scale(published_size) + measured,
        len(found),
        "from T_train(0.99) to twice that, mirrored pairs ≥ 0.99 and novel pairs ≤ 0.03, every seed",
        verdict(holds, len(found)),
        number=2,
    )


def plateau_of(metrics: pd.DataFrame) -> dict[str, float] | None:
    """Median accuracies from T_train(0.99) to twice that, over `mirror`, `novel` and all `test` pairs; None before."""
    memorized = first_reaching(metrics, "train_accuracy", 0.99).step
    if memorized is None:
        return None
    on_it = (metrics.index >= memorized) & (metrics.index <= 2 * memorized)
    names = ("mirror", "novel", "test")
    return {name: float(np.median(column(metrics, f"{name}_accuracy")[on_it])) for name in names}


def goldilocks(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether there is a weight decay below which nothing generalizes and one above which nothing is memorized.

    Args:
        table: a sweep's table over weight decay, several seeds each.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    fates = {float(at[DECAY]): _fate_of(runs) for at, runs in settings(table, [DECAY])}
    word = "".join({"grokked": "g", "DNF_test": "-", "DNF_train": "x"}.get(fate, "?") for fate in fates.values())
    inside = [decay for decay, fate in fates.items() if fate == "grokked"]
    above = [decay for decay, fate in fates.items() if fate == "DNF_train"]
    zones = word.replace("?", "")  # a decay at which seeds disagree is of no zone
    ordered = zones == "-" * zones.count("-") + "g" * zones.count("g") + "x" * zones.count("x")
    found: Verdict = "not supported"
    if not zones or (ordered and not set("-gx") <= set(zones)):
        found = "inconclusive"  # an edge lies outside of what was tried
    elif ordered:
        found = "supported"
    ratio = (
        f"; first decay without memorization / largest that groks = {min(above) / max(inside):.3g}"
        if (inside and above)
        else ""
    )
    listed = ", ".join(f"{decay:g} {fate}" for decay, fate in fates.items())
    return Claim(
        "Goldilocks zone",
        "Weight decay has a zone in which the network groks: below, it memorizes and does not generalize; above, it "
        "does not memorize.",
        "1e-5: DNF_test; 5e-5 (1 of 3) to 1e-3: grok; 2e-3 and 5e-3: DNF_train; upper edge / best decay = 2",
        f"{_scale(published_size)}{listed}{ratio}",
        len(table),
        "most runs DNF_test below, grokked in the middle, DNF_train above, in this order",
        found,
        number=7,
    )


def lower_edge_is_the_budget(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether what lies below the zone was given time enough to grok, in units of 1 / (η_eff λ).

    Args:
        table: a sweep's table over weight decay, of runs by SGD.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    unit = column(table, "optimizer.lr") / (1 - column(table, "optimizer.momentum")) * column(table, DECAY)
    grok = column(table, "T_grok_0.95") * unit
    decay, there = column(table, DECAY), np.isfinite(grok)
    below = (table["outcome"] == "DNF_test").to_numpy() & (decay < np.min(decay[there], initial=np.inf))
    budget, inside = (column(table, "step") * unit)[below], grok[there]
    decided = bool(len(budget) and len(inside))
    return Claim(
        "lower edge",
        "The lower edge of the zone is one of the budget: the runs below it were given less than the others took, in "
        "units of 1 / (η_eff λ), the time in which weight decay acts.",
        "not said; 400,000 steps are 1.2 such units at 1e-5, and T_grok some 5.8 to 7.6 of them inside the zone",
        f"{_scale(published_size)}budget below {span(budget, '.2g')}, T_grok(0.95) inside {span(inside, '.2g')}"
        if decided
        else "no edge",
        int(len(budget) + len(inside)),
        "the longest budget below is shorter than the shortest T_grok(0.95) inside",
        verdict(decided and bool(budget.max() < inside.min()), int(decided)),
    )


def memorization_edge(below: pd.DataFrame, above: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Whether doubling the weight decay takes a network from memorizing to an output that is the same for all inputs.

    Args:
        below: rows of runs at the smaller decay.
        above: rows of runs at the larger, which went on at least as long as the slowest of the others took.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    memorized, loss = column(below, "T_train_0.99"), column(above, "final.train_loss")
    uniform = np.log(column(above, "task.p"))
    dead = bool((np.abs(loss / uniform - 1) <= 0.02).all())
    longer = bool(len(above)) and bool(column(above, "step").min() >= np.nanmax(memorized, initial=0.0))
    n = min(len(below), len(above)) if longer else 0
    never = bool(np.isnan(column(above, "T_train_0.99")).all())
    holds = bool(np.isfinite(memorized).all()) and never and dead
    return Claim(
        "memorization edge",
        "At the upper edge of the zone, twice the weight decay keeps the network from memorizing at all: its weights "
        "die before the signal gets through.",
        "1e-3 groks in 3 of 3 seeds, 2e-3 does not memorize in any (DNF_train)",
        f"{_scale(published_size)}{_decays(below)}: T_train(0.99) {_times(memorized)}; {_decays(above)}: accuracy "
        f"{span(column(above, 'final.train_accuracy'), '.3f')}, loss {span(loss / uniform, '.3f')} ln p, RMS of the "
        f"hidden layers {_hidden_rms(above)} by step {span(column(above, 'step'), ',.0f')}; "
        f"of those below {_hidden_rms(below)}"
        if n
        else "-",
        n,
        "below, T_train(0.99) exists; above, it does not in as many steps, and the loss is within 2 % of ln p",
        verdict(holds, n),
        number=7,
    )


def depth_is_one_cell(
    shallow: pd.DataFrame, narrow: pd.DataFrame, wide: pd.DataFrame, *, published_size: bool = True
) -> Claim:
    """Whether a flat network of depth 4 that fails with one rate and decay groks with others.

    Args:
        shallow: rows of depth 2.
        narrow: rows of depth 4 at its rate and decay.
        wide: rows of depth 4 elsewhere.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    fails, groks = grokked(narrow), grokked(wide)
    n = min(len(shallow), len(narrow), len(wide))
    return Claim(
        "depth",
        "A flat network of depth 4 fails where one of depth 2 groks, and groks with another rate, decay and width: "
        "'depth 4 fails' is a statement about one cell.",
        "depth 4: 0 of 5 at width 256, lr 1e-2, 2e-3 (Table 2), 5 of 5 at width 512, lr 3e-2, 5e-4 (Table 3)",
        f"{_scale(published_size)}depth 2 {grokked(shallow)} of {len(shallow)}; depth 4 {fails} of {len(narrow)} at "
        f"{_where(narrow)}, "
        f"{groks} of {len(wide)} at {_where(wide)}",
        len(narrow) + len(wide),
        "none of depth 4 in the cell where depth 2 groks, all in the other",
        verdict(fails == 0 and groks == len(wide) and grokked(shallow) > 0, n),
        number=8,
    )


def depth_fails_to_memorize(narrow: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """In which of the two ways depth 4 fails where depth 2 groks; it is not printed.

    Args:
        narrow: rows of depth 4 at the rate and decay of depth 2.
        published_size: False where the runs are a miniature; the claim is decided all the same.
    """
    failed = narrow.loc[~narrow["outcome"].isin(_GROKKED)]
    counts = Counter(str(outcome) for outcome in failed["outcome"])
    return Claim(
        "how depth 4 fails",
        "Depth 4 fails there by not memorizing (DNF_train): the decay lies above the upper edge of the zone at that "
        "depth, wherever the rate, which sets the clock of both, is.",
        "not printed; at depth 4 and width 512 the edge lies between 1e-3 and 2e-3, the decay of this cell",
        _scale(published_size) + (", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "no run failed"),
        len(failed),
        "DNF_train in every run that failed",
        verdict(set(counts) == {"DNF_train"}, len(failed)),
    )


def _scale(published_size: bool) -> str:
    return "" if published_size else SCALED_DOWN


def grokked(table: pd.DataFrame) -> int:
    """How many runs generalized, with delay or without."""
    return sum(outcome in _GROKKED for outcome in table["outcome"])


def _fate_of(runs: pd.DataFrame) -> str:
    """What most runs of a setting came to: grokked (with or without delay), DNF_test, DNF_train or something else."""
    counts = Counter("grokked" if outcome in _GROKKED else str(outcome) for outcome in runs["outcome"])
    (fate, most), *others = counts.most_common()
    return "mixed" if others and others[0][1] == most else fate


def _times(times: Any) -> str:
    """Times as a span, and how many have one."""
    known = times[np.isfinite(times)]
    if not len(known):
        return f"in none of {len(times)}"
    return span(known, ",.0f") + (f" ({len(known)} of {len(times)})" if len(known) < len(times) else "")


def _hidden_rms(table: pd.DataFrame) -> str:
    """RMS of each hidden layer of some runs at their end, as a span."""
    names = [name for name in table if str(name).startswith("final.group_rms.layers.")]
    return span(table[names].to_numpy(dtype=float).ravel(), ".2g") if names else "-"


def _decays(table: pd.DataFrame) -> str:
    return f"λ = {span(column(table, DECAY), 'g')}"


def _where(table: pd.DataFrame) -> str:
    if not len(table):
        return "-"
    row = table.iloc[0]
    return f"width {row['model.width']}, lr {row['optimizer.lr']:g}, λ {row[DECAY]:g}"
