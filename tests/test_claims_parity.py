"""Claims about parity on hand-made tables, and the recipe's settings."""

import numpy as np
import pandas as pd
import pytest

from grokinterp.experiments.claims.parity import delayed, sooner_with_decay, stuck_without_decay
from grokinterp.experiments.recipes.memo_parity import RECIPE


def runs(decay: float, times: list[float | None], accuracies: list[float], train: float | None = 100.0) -> pd.DataFrame:
    reached = [np.nan if time is None else time for time in times]
    late = [np.nan if np.isnan(time) else time > 2 * (train or np.nan) for time in reached]
    return pd.DataFrame(
        {
            "optimizer.weight_decay": decay,
            "T_train_0.99": np.nan if train is None else train,
            "T_grok_0.95": reached,
            "final.test_accuracy": accuracies,
            "step": 4000,
            "outcome": ["DNF_test" if w != w else "grokked" if w else "generalized_without_delay" for w in late],
        }
    )


WITH = runs(1.0, [400, 420, 380], [1.0, 1.0, 1.0])


def table(times: list[float | None], accuracies: list[float], with_decay: pd.DataFrame = WITH) -> pd.DataFrame:
    return pd.concat([runs(0.0, times, accuracies), with_decay], ignore_index=True)


@pytest.mark.parametrize(
    ("times", "accuracies", "verdict"),
    [
        ([None, None, None], [0.5, 0.56, 0.61], "supported"),
        ([None, None, 3000], [0.926, 0.94, 0.96], "not supported"),
        ([None, None, 3000], [0.5, 0.94, 0.96], "inconclusive"),
        ([None, None], [0.5, 0.5], "inconclusive"),
    ],
)
def test_stuck(times, accuracies, verdict):
    claim = stuck_without_decay(table(times, accuracies), "MLP")
    assert (claim.verdict, claim.number, claim.should_hold) == (verdict, 22, False)
    assert claim.n == len(times)


def test_runs_that_never_memorized_are_not_stuck():
    claim = stuck_without_decay(runs(0.0, [None] * 3, [0.5] * 3, train=None), "MLP")
    assert (claim.verdict, claim.n, claim.measured) == ("inconclusive", 0, "no run memorized")


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ([None, None, None], "supported"),  # 4000 steps waited, against 400
        ([560, 620, 640], "supported"),  # 1.55 times
        ([560, 590, 640], "not supported"),  # 1.475 times
        ([380, 400, 420], "not supported"),
        ([None, None], "inconclusive"),
    ],
)
def test_sooner_with_decay(times, verdict):
    assert sooner_with_decay(table(times, [0.9] * len(times)), "MLP").verdict == verdict


def test_runs_that_do_not_generalize_count_with_their_last_step():
    claim = sooner_with_decay(table([None, None, 400], [0.9] * 3), "MLP")
    assert claim.measured == (
        "takes at least 10.00 times as long without decay: "
        "median 4,000 (2 of 3 did not generalize by their last step), compared with 400 with decay"
    )
    lost = runs(1.0, [None, None, 400], [0.5, 0.5, 1.0])
    assert sooner_with_decay(table([400] * 3, [1.0] * 3, lost), "MLP").verdict == "inconclusive"


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ([400, 420, 380], "supported"),
        ([150, 180, 170], "not supported"),
        ([150, 420, 380], "inconclusive"),
        ([400, None, None], "inconclusive"),
    ],
)
def test_delayed(times, verdict):
    claim = delayed(runs(1.0, times, [1.0] * 3), "transformer")
    assert claim.verdict == verdict
    assert claim.n == sum(time is not None for time in times)


@pytest.mark.parametrize("form", [RECIPE.full, RECIPE.quick])
def test_the_recipe_is_about_10_bits_with_and_without_decay(form):
    for arm in form.arms:
        assert (arm.base.task.operation, arm.base.task.operands, arm.base.task.train_fraction) == ("parity", 10, 0.5)
        assert arm.grid["optimizer.weight_decay"] == (0.0, 1.0)
        assert len(arm.grid["model_seed"]) >= 3
    assert {arm.base.model.kind for arm in form.arms} == {"mlp", "transformer"}
