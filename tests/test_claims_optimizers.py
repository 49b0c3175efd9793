"""Claims about optimizers, regularizers, and depth 8, on hand-made tables, each with its expected verdict."""

import math
from typing import Any

import pandas as pd
import pytest

from grokinterp.experiments.claims.manir_arms import residual_depth_groks
from grokinterp.experiments.claims.optimizers import groks_sooner
from grokinterp.experiments.claims.regularizers import needs_a_regularizer, replaces_weight_decay

SUPPORTED, NOT, OPEN = "supported", "not supported", "inconclusive"
NEVER = math.nan


def runs(*groks: float, step: int = 3000, train: float = 100, test: float = 0.3, **values: Any) -> pd.DataFrame:
    """One row per T_grok(0.95), NEVER for a run that did not generalize."""

    def outcome(grok: float) -> str:
        memorized = math.isfinite(train)
        return "grokked" if math.isfinite(grok) else "DNF_test" if memorized else "DNF_train"

    rows = [
        {
            "run": "",
            "status": "finished",
            "outcome": outcome(grok),
            "step": step,
            "T_train_0.99": train,
            "T_grok_0.95": grok,
            "final.test_accuracy": 1.0 if math.isfinite(grok) else test,
            **values,
        }
        for grok in groks
    ]
    return pd.DataFrame(rows)


def pair(muon: tuple[float, ...], adamw: tuple[float, ...], rate: float = 2e-3) -> pd.DataFrame:
    arms = [("muon", muon), ("adamw", adamw)]
    return pd.concat([runs(*t, **{"optimizer.name": name, "optimizer.lr": rate}) for name, t in arms])


FAST, SLOW = (500, 520, 480, 510, 490), (1000, 1040, 960, 1020, 980)
MIXED = (400, 1500, 900, 1100, 700)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (pair(FAST, SLOW), SUPPORTED),
        (pair(SLOW, FAST), NOT),
        (pair(MIXED, SLOW), OPEN),
        (pair(FAST[:2], SLOW), OPEN),
        (pair(FAST, (NEVER,) * 5), SUPPORTED),  # censored at step 3,000
        (pair((NEVER,) * 5, FAST), NOT),
        (pair((NEVER,) * 5, (NEVER,) * 5), OPEN),
        (pair((*FAST[:4], NEVER), SLOW), OPEN),
        (pair(FAST, ()), OPEN),
        (pd.concat([pair(FAST, SLOW), pair(FAST, SLOW, 4e-3)]), SUPPORTED),
        (pd.concat([pair(FAST, SLOW), pair(MIXED, SLOW, 4e-3)]), OPEN),
        (pd.concat([pair(FAST, SLOW), pair(SLOW, FAST, 4e-3)]), NOT),
    ],
)
def test_groks_sooner(table, expected):
    claim = groks_sooner(table, "muon", "optimizer.lr", published="sooner")
    assert (claim.verdict, claim.number, claim.n) == (expected, 25, len(table))


def test_the_ratio_is_printed():
    claim = groks_sooner(pair(FAST, SLOW), "muon", "optimizer.lr", published="sooner")
    assert claim.measured.startswith("lr 0.002: 0.50 [0.4")
    assert "Muon (5 of 5 grokked) divided by that of AdamW (5 of 5)" in claim.measured


def test_one_optimizer_does_not_decide_for_another():
    table = pair(FAST, SLOW)
    claim = groks_sooner(table, "lion", "optimizer.lr", published="-")
    assert (claim.verdict, claim.n) == (OPEN, 5)
    assert "no run has optimizer.name = lion" in claim.measured


PLAIN, DECAYED = runs(NEVER, NEVER, NEVER), runs(900, 1000, 1100)


@pytest.mark.parametrize(
    ("plain", "decayed", "expected"),
    [
        (PLAIN, DECAYED, SUPPORTED),
        (runs(NEVER, 2500, NEVER), DECAYED, NOT),
        (runs(NEVER, NEVER, NEVER, train=NEVER), DECAYED, NOT),
        (runs(NEVER, NEVER), DECAYED, OPEN),
        (runs(NEVER, NEVER, NEVER, step=2000), DECAYED, OPEN),
        (PLAIN, runs(900, 1000, NEVER), OPEN),
        (PLAIN, runs(900, 1000), OPEN),
    ],
)
def test_needs_a_regularizer(plain, decayed, expected):
    claim = needs_a_regularizer(plain, decayed)
    assert (claim.verdict, claim.number) == (expected, None)


L1 = "optimizer.l1"
GROKS, FAILS = runs(700, 800, 900, **{L1: 1e-4}), runs(NEVER, NEVER, NEVER, **{L1: 1e-5})


def replacement(table: pd.DataFrame, plain: pd.DataFrame = PLAIN, decayed: pd.DataFrame = DECAYED) -> Any:
    return replaces_weight_decay("L1", table, L1, plain=plain, decayed=decayed, published="-")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (GROKS, SUPPORTED),
        (FAILS, NOT),
        (pd.concat([GROKS, FAILS]), SUPPORTED),
        (runs(700, NEVER, 900, **{L1: 1e-4}), OPEN),
        (pd.concat([runs(700, NEVER, 900, **{L1: 1e-4}), FAILS]), OPEN),
        (runs(NEVER, NEVER, NEVER, step=2000, **{L1: 1e-5}), OPEN),
        (GROKS.iloc[:2], OPEN),
        (FAILS.iloc[:0], OPEN),
    ],
)
def test_replaces_weight_decay(table, expected):
    claim = replacement(table)
    assert (claim.verdict, claim.number, claim.n) == (expected, 26, len(table))


def test_nothing_is_replaced_where_nothing_is_needed():
    assert replacement(GROKS, plain=runs(2000, NEVER, NEVER)).verdict == OPEN


def test_without_grokking_by_weight_decay_no_budget_is_long_enough():
    assert replacement(FAILS, decayed=runs(NEVER, NEVER, NEVER)).verdict == OPEN


def test_every_strength_is_described():
    assert replacement(pd.concat([GROKS, FAILS])).measured == (
        "1e-05: 0 of 3, accuracy 0.30; 0.0001: 3 of 3, T_grok(0.95) 700 to 900 "
        "(weight decay: T_grok(0.95) 900 to 1,100)"
    )


@pytest.mark.parametrize(
    ("deep", "flat", "expected"),
    [
        (runs(900, 1000, 1100), PLAIN, SUPPORTED),
        (runs(900, 1000, 1100, NEVER, NEVER), PLAIN, SUPPORTED),  # as published
        (runs(900, 1000, NEVER, NEVER), PLAIN, NOT),
        (PLAIN, PLAIN, NOT),
        (runs(900, 1000, 1100), runs(NEVER, NEVER, 2000), NOT),
        (runs(900, 1000), PLAIN, OPEN),
        (runs(900, 1000, 1100), runs(NEVER, NEVER), OPEN),
        (PLAIN.iloc[:0], PLAIN, OPEN),
    ],
)
def test_residual_depth_groks(deep, flat, expected):
    claim = residual_depth_groks(deep, flat, published_size=False)
    assert (claim.verdict, claim.number, claim.n) == (expected, 27, len(deep) + len(flat))
    assert claim.measured.startswith("scaled down: depth 8: ")
