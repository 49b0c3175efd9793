"""Claims about progress measures on hand-made timelines, and the settings of the recipe."""

import math

import pandas as pd
import pytest

from grokinterp.experiments.claims.progress import (
    Lead,
    below_from,
    excluded_lead,
    measure_leads,
    number_of_keys,
    restricted_lead,
)
from grokinterp.experiments.recipes.nanda_mainline import RECIPE


def timeline(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=pd.Index(range(0, 100 * n, 100), name="step"))


def test_below_from_is_the_last_descent():
    series = pd.Series([0.1, 3.0, 0.2, 0.6, 0.1, 0.1], index=[0, 1, 2, 3, 4, 5])
    assert below_from(series, 0.5) == 4
    assert below_from(series, 5.0) == 0
    assert below_from(series, 0.1) is None
    assert below_from(series[:0], 1.0) is None


def test_restricted_loss_leads_by_checkpoints():
    frame = timeline(
        restricted_loss_novel=[4.0, 1.0, 0.2, 0.1, 0.0, 0.0],
        test_loss=[4.0, 9.0, 9.0, 5.0, 0.2, 0.0],
        novel_accuracy=[0.0, 0.0, 0.1, 0.3, 0.9, 1.0],
    )
    lead = restricted_lead(frame, 113)  # 0.1 log 113 = 0.473
    assert lead == Lead(200, 400, 2, 0.1)
    assert lead.leads
    frame["test_loss"] = [4.0, 9.0, 9.0, 0.2, 0.2, 0.0]
    assert not restricted_lead(frame, 113).leads
    frame["restricted_loss_novel"] = 4.0
    assert restricted_lead(frame, 113).measure_step is None
    assert not restricted_lead(frame, 113).leads


def test_most_novel_pairs_must_still_be_wrong():
    frame = timeline(
        restricted_loss_novel=[4.0, 0.2, 0.1, 0.1],
        test_loss=[4.0, 9.0, 9.0, 0.1],
        novel_accuracy=[0.0, 0.6, 0.9, 1.0],
    )
    assert not restricted_lead(frame, 113).leads


def test_excluded_loss_counts_from_memorization_and_from_its_lowest():
    frame = timeline(
        excluded_loss=[4.0, 3.0, 2.5, 3.2, 3.6, 8.0],
        novel_accuracy=[0.0, 0.0, 0.0, 0.1, 0.2, 0.9],
    )
    assert excluded_lead(frame, 100, 500) == Lead(400, 500, 1, 0.2)
    assert excluded_lead(frame, 100, 600).checkpoints == 1
    assert excluded_lead(frame, 500, 500).measure_step is None


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([Lead(100, 900, 8, 0.1), Lead(200, 900, 2, 0.4)], "supported"),
        ([Lead(100, 900, 8, 0.1), Lead(800, 900, 1, 0.4)], "not supported"),
        ([Lead(100, 900, 8, 0.1), Lead(None, 900, 0, math.nan)], "not supported"),
        ([], "inconclusive"),
    ],
)
def test_verdicts(runs, verdict):
    claim = measure_leads(runs, "m", "s", "p")
    assert (claim.verdict, claim.number, claim.n) == (verdict, 21, len(runs))


@pytest.mark.parametrize(
    ("counts", "p", "verdict"),
    [
        ([5, 6], 113, "supported"),
        ([5, 4], 113, "not supported"),
        ([5], 67, "inconclusive"),
        ([], 113, "inconclusive"),
    ],
)
def test_number_of_keys(counts, p, verdict):
    assert number_of_keys(counts, p).verdict == verdict


def test_the_recipe_has_nandas_settings():
    (arm,) = RECIPE.full.arms
    base = arm.base
    assert (base.task.p, base.task.train_fraction, base.model.biases, base.model.init) == (113, 0.3, "mlp", "nanda")
    assert (base.optimizer.weight_decay, base.optimizer.warmup_steps, base.schedule.steps) == (1.0, 10, 40_000)
