"""Claims of Manir and Rupa 2026 about when an MLP groks: its plateau, weight decay, and depth."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from grokinterp.analysis.transition import first_reaching
from grokinterp.experiments.claims.general import DECAY
from grokinterp.experiments.claims.numbers import T_GROK, T_TRAIN, column, fewest_runs, finite, verdict
from grokinterp.experiments.outcome import Claim
from grokinterp.statistics import settings
from grokinterp.statistics.formatting import span

SCALED_DOWN = "scaled down: "
# The test set of a miniature has a few hundred pairs, and two or three of them decide whether it reaches 0.99.
# T_grok(0.95) is used instead.
DELAY, SMALL_DELAY = "delay_0.99", "delay_0.95_0.99"
_GROKKED = ("grokked", "generalized_without_delay")


def scale_prefix(published_size: bool) -> str:
    """Prefix of measured texts: empty for runs of the published size, "scaled down: " for miniatures."""
    return "" if published_size else SCALED_DOWN


def grokked(table: pd.DataFrame) -> int:
    """Number of runs that generalized, with or without delay."""
    return sum(outcome in _GROKKED for outcome in table["outcome"])


def canonical_times(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 2: decide whether the canonical run memorizes and groks at about the published steps.

    Source: Manir and Rupa 2026.

    Args:
        table: a sweep's table, one row per seed, with `T_train_0.99` and `T_grok_0.99`.
        published_size: False for a miniature, which cannot decide the claim.
    """
    train, grok = column(table, T_TRAIN), column(table, "T_grok_0.99")
    within = (train >= 500) & (train <= 2000) & (grok >= 15_000) & (grok <= 60_000)
    enough, too_many_misses = int(within.sum()) >= 3, int((~within).sum()) > 2
    return Claim(
        "canonical times",
        "The canonical network memorizes within about 1,000 steps and groks after about 33,000.",
        "T_train 1,000, T_grok 33,000 (seed 0); delays 20,000 to 210,000 over five seeds, one of which does not grok",
        f"{scale_prefix(published_size)}T_train {_times(train)}, T_grok(0.99) {_times(grok)}",
        len(table),
        "T_train of 500 to 2,000 and T_grok(0.99) of 15,000 to 60,000 in 3 of 5 seeds",
        verdict(enough, int(published_size and (enough or too_many_misses))),
        number=2,
    )


def plateau(metrics: Sequence[pd.DataFrame], *, published_size: bool = True) -> Claim:
    """Assertion 2: decide whether the plateau of test accuracy consists of pairs whose mirror is in the training set.

    A run's plateau is the median over the evaluations from T_train(0.99) to twice that step. Source: Manir and Rupa
    2026.

    Args:
        metrics: metrics of each run by step, with `train_accuracy`, `mirror_accuracy`, `novel_accuracy` and
            `test_accuracy`.
        published_size: False for a miniature, which still decides the claim.
    """
    medians = [median for median in map(plateau_of, metrics) if median is not None]
    mirror, novel, test = ([median[name] for median in medians] for name in ("mirror", "novel", "test"))
    holds = all(m >= 0.99 and n <= 0.03 for m, n in zip(mirror, novel, strict=True))
    measured = "-"
    if medians:
        measured = (
            f"test accuracy {span(test, '.3f')}; on mirrored pairs {span(mirror, '.3f')}, on novel pairs "
            f"{span(novel, '.3f')}"
        )
    return Claim(
        "plateau",
        "The plateau of test accuracy equals the share of test pairs whose mirror (b, a) is in the training set, which "
        "a symmetric network gets right by memorizing; accuracy on novel pairs is at chance.",
        "19.9 % at a train fraction of 20 %, called near chance (which is 1.03 %)",
        scale_prefix(published_size) + measured,
        len(medians),
        "from T_train(0.99) to twice that step, accuracy ≥ 0.99 on mirrored pairs and ≤ 0.03 on novel pairs, for every "
        "seed",
        verdict(holds, len(medians)),
        number=2,
    )


def plateau_of(metrics: pd.DataFrame) -> dict[str, float] | None:
    """Median accuracy on `mirror`, `novel` and all `test` pairs from T_train(0.99) to twice that step.

    Returns:
        the medians by kind of pair; None for a run that never memorized.
    """
    memorized = first_reaching(metrics, "train_accuracy", 0.99).step
    if memorized is None:
        return None
    on_plateau = (metrics.index >= memorized) & (metrics.index <= 2 * memorized)
    names = ("mirror", "novel", "test")
    return {name: float(np.median(column(metrics, f"{name}_accuracy")[on_plateau])) for name in names}


def goldilocks(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 7: decide whether weight decay has a zone that groks, between no generalization and no memorization.

    Each weight decay is assigned the outcome of most of its runs; a decay at which seeds disagree is in no zone. The
    claim is inconclusive if an edge of the zone lies outside the range of decays. Source: Manir and Rupa 2026.

    Args:
        table: a sweep's table over `optimizer.weight_decay`, several seeds each, with `outcome`.
        published_size: False for a miniature, which still decides the claim.
    """
    outcomes = {float(setting[DECAY]): _majority_outcome(runs) for setting, runs in settings(table, [DECAY])}
    order = ["DNF_test", "grokked", "DNF_train"]
    zones = [order.index(outcome) for outcome in outcomes.values() if outcome in order]
    ordered = zones == sorted(zones)
    decided = bool(zones) and not (ordered and len(set(zones)) < len(order))
    inside = [decay for decay, outcome in outcomes.items() if outcome == "grokked"]
    above = [decay for decay, outcome in outcomes.items() if outcome == "DNF_train"]
    measured = ", ".join(f"{decay:g} {outcome}" for decay, outcome in outcomes.items())
    if inside and above:
        measured += f"; smallest decay without memorization / largest that groks = {min(above) / max(inside):.3g}"
    return Claim(
        "Goldilocks zone",
        "There is a zone of weight decay in which the network groks. Below it, the network memorizes but does not "
        "generalize; above it, the network does not memorize.",
        "1e-5: DNF_test; 5e-5 (1 of 3) to 1e-3: grok; 2e-3 and 5e-3: DNF_train; upper edge / best decay = 2",
        scale_prefix(published_size) + measured,
        len(table),
        "most runs are DNF_test below the zone, grokked inside it, and DNF_train above it",
        verdict(ordered, int(decided)),
        number=7,
        fewest=fewest_runs(table, [DECAY]),
    )


def lower_edge_is_the_budget(table: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether the runs below the zone simply trained for too short a time to grok.

    Times are in units of 1 / (η_eff λ), where η_eff = lr / (1 - momentum). Source: Manir and Rupa 2026.

    Args:
        table: a sweep's table over `optimizer.weight_decay`, trained by SGD, with `outcome`, `step`, `T_grok_0.95`,
            `optimizer.lr` and `optimizer.momentum`.
        published_size: False for a miniature, which still decides the claim.
    """
    decay = column(table, DECAY)
    rate = column(table, "optimizer.lr") / (1 - column(table, "optimizer.momentum")) * decay
    grok = column(table, T_GROK) * rate
    generalized = np.isfinite(grok)
    below = (table["outcome"] == "DNF_test").to_numpy() & (decay < np.min(decay[generalized], initial=np.inf))
    budget, inside = (column(table, "step") * rate)[below], grok[generalized]
    decided = bool(len(budget) and len(inside))
    return Claim(
        "lower edge",
        "The training budget causes the lower edge of the zone: runs below it trained for less time than the runs "
        "inside took to grok, in units of 1 / (η_eff λ), the time scale of weight decay.",
        "not stated; in these units, 400,000 steps are 1.2 at 1e-5, and T_grok is about 5.8 to 7.6 inside the zone",
        f"{scale_prefix(published_size)}budget below the zone: {span(budget, '.2g')}; T_grok(0.95) inside: "
        f"{span(inside, '.2g')}"
        if decided
        else "no edge",
        len(budget) + len(inside),
        "the longest budget below the zone is shorter than the shortest T_grok(0.95) inside",
        verdict(decided and bool(budget.max() < inside.min()), int(decided)),
    )


def memorization_edge(below: pd.DataFrame, above: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Assertion 7: decide whether doubling the weight decay turns a network that memorizes into a constant output.

    Source: Manir and Rupa 2026.

    Args:
        below: rows of runs at the smaller decay, with `T_train_0.99`.
        above: rows of runs at the larger decay, with `T_train_0.99`, `step`, `task.p`, `final.train_loss`,
            `final.train_accuracy` and `final.group_rms.layers.*`. They must have trained at least as long as the
            slowest run below took to memorize; otherwise the claim is inconclusive.
        published_size: False for a miniature, which still decides the claim.
    """
    memorized = column(below, T_TRAIN)
    loss = column(above, "final.train_loss") / np.log(column(above, "task.p"))
    long_enough = bool(len(above)) and bool(column(above, "step").min() >= np.nanmax(memorized, initial=0.0))
    n = min(len(below), len(above)) if long_enough else 0
    never = bool(np.isnan(column(above, T_TRAIN)).all())
    uniform = bool((np.abs(loss - 1) <= 0.02).all())
    return Claim(
        "memorization edge",
        "At the upper edge of the zone, doubling the weight decay prevents memorization altogether: the weights decay "
        "before the network can learn.",
        "at 1e-3, 3 of 3 seeds grok; at 2e-3, none memorizes (DNF_train)",
        f"{scale_prefix(published_size)}{_decays(below)}: T_train(0.99) {_times(memorized)}; {_decays(above)}: "
        f"accuracy {span(column(above, 'final.train_accuracy'), '.3f')}, loss {span(loss, '.3f')} ln p, RMS of the "
        f"hidden layers {_hidden_rms(above)} by step {span(column(above, 'step'), ',.0f')}; "
        f"at the smaller decay, their RMS is {_hidden_rms(below)}"
        if n
        else "-",
        n,
        "at the smaller decay, every run reaches T_train(0.99); at the larger, no run does so in as many steps, and "
        "the loss is within 2 % of ln p",
        verdict(bool(np.isfinite(memorized).all()) and never and uniform, n),
        number=7,
    )


def depth_is_one_cell(
    shallow: pd.DataFrame, narrow: pd.DataFrame, wide: pd.DataFrame, *, published_size: bool = True
) -> Claim:
    """Assertion 8: decide whether a flat network of depth 4 that fails at one rate and decay groks at others.

    Source: Manir and Rupa 2026, Tables 2 and 3.

    Args:
        shallow: rows of depth 2, with `outcome`.
        narrow: rows of depth 4 at the rate and decay of depth 2, with `outcome`, `model.width`, `optimizer.lr` and
            `optimizer.weight_decay`.
        wide: rows of depth 4 at another width, rate and decay, with the same columns.
        published_size: False for a miniature, which still decides the claim.
    """
    fails, groks = grokked(narrow), grokked(wide)
    return Claim(
        "depth",
        "A flat network of depth 4 fails where one of depth 2 groks, but groks at another learning rate, weight decay, "
        "and width: 'depth 4 fails' is a statement about one set of hyperparameters.",
        "depth 4: 0 of 5 at width 256, lr 1e-2, λ 2e-3 (Table 2); 5 of 5 at width 512, lr 3e-2, λ 5e-4 (Table 3)",
        f"{scale_prefix(published_size)}depth 2: {grokked(shallow)} of {len(shallow)} grok; depth 4: {fails} of "
        f"{len(narrow)} at {_cell(narrow)}; {groks} of {len(wide)} at {_cell(wide)}",
        len(narrow) + len(wide),
        "no run of depth 4 groks with the hyperparameters with which depth 2 groks, and all do with the others",
        verdict(fails == 0 and groks == len(wide) and grokked(shallow) > 0, min(len(shallow), len(narrow), len(wide))),
        number=8,
        fewest=min(len(shallow), len(narrow), len(wide)),
    )


def depth_fails_to_memorize(narrow: pd.DataFrame, *, published_size: bool = True) -> Claim:
    """Decide whether depth 4 fails by not memorizing where depth 2 groks. The source does not print it.

    Args:
        narrow: rows of depth 4 at the rate and decay of depth 2, with `outcome`.
        published_size: False for a miniature, which still decides the claim.
    """
    failed = narrow.loc[~narrow["outcome"].isin(_GROKKED)]
    counts = Counter(str(outcome) for outcome in failed["outcome"])
    return Claim(
        "how depth 4 fails",
        "At the learning rate and weight decay at which depth 2 groks, depth 4 fails because it does not memorize "
        "(DNF_train): at that depth, the weight decay lies above the upper edge of the zone, regardless of the "
        "learning rate, which sets the time scale of both memorization and decay.",
        "not stated; at depth 4 and width 512, the edge lies between 1e-3 and 2e-3; the runs that failed had 2e-3",
        scale_prefix(published_size)
        + (", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "no run failed"),
        len(failed),
        "DNF_train in every run that failed",
        verdict(set(counts) == {"DNF_train"}, len(failed)),
    )


def _majority_outcome(runs: pd.DataFrame) -> str:
    """The outcome of most runs of a setting, with `grokked` for both ways to generalize; `mixed` for a tie."""
    counts = Counter("grokked" if outcome in _GROKKED else str(outcome) for outcome in runs["outcome"])
    (outcome, count), *runners_up = counts.most_common()
    return "mixed" if runners_up and runners_up[0][1] == count else outcome


def _times(times: np.ndarray) -> str:
    """Format times as a range, with the number of runs that have one."""
    reached = finite(times)
    if not len(reached):
        return f"in none of {len(times)}"
    return span(reached, ",.0f") + (f" ({len(reached)} of {len(times)})" if len(reached) < len(times) else "")


def _hidden_rms(table: pd.DataFrame) -> str:
    """Format the final RMS of each hidden layer as a range."""
    names = [name for name in table if str(name).startswith("final.group_rms.layers.")]
    return span(table[names].to_numpy(dtype=float).ravel(), ".2g") if names else "-"


def _decays(table: pd.DataFrame) -> str:
    return f"λ = {span(column(table, DECAY), 'g')}"


def _cell(table: pd.DataFrame) -> str:
    """Format the width, rate and decay of a cell's first run."""
    if not len(table):
        return "-"
    row = table.iloc[0]
    return f"width {row['model.width']}, lr {row['optimizer.lr']:g}, λ {row[DECAY]:g}"
