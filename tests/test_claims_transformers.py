"""Claims about small transformers on hand-made tables, and the settings of their recipes."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from grokinterp.experiments.claims.transformers import (
    generalize_or_not,
    generalizes_late,
    no_delay_at_much_data,
    slower_without_decay,
    sooner_with_more,
)
from grokinterp.experiments.recipes import catalog

NAN = np.nan


def table(**columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"step": 5000, "final.test_accuracy": 0.5, "T_train_0.99": 100.0, **columns})


@pytest.mark.parametrize(
    ("times", "verdict"),
    [([200.0, 900.0], "supported"), ([199.0, 900.0], "not supported"), ([NAN, 900.0], "not supported")],
)
def test_generalizes_late(times, verdict):
    claim = generalizes_late(table(**{"T_grok_0.95": times}), "division", "")
    assert (claim.verdict, claim.n) == (verdict, 2)
    assert claim.statement == "The transformer groks division: it generalizes long after it memorizes."


def test_nothing_run_or_nothing_generalized():
    assert generalizes_late(table(**{"T_grok_0.95": []}), "division", "").verdict == "inconclusive"
    claim = generalizes_late(table(**{"T_grok_0.95": [NAN]}), "division", "")
    assert (claim.verdict, claim.measured) == ("not supported", "none of 1 generalizes by step 5,000")


@pytest.mark.parametrize(
    ("decays", "times", "verdict"),
    [
        ([1.0, 0.0], [800.0, NAN], "supported"),
        ([1.0, 1.0, 0.0], [800.0, 900.0, 1000.0], "supported"),
        ([1.0, 1.0, 0.0], [800.0, 900.0, 850.0], "not supported"),
        ([1.0, 0.0], [NAN, NAN], "inconclusive"),  # nothing to compare with
        ([0.0], [NAN], "inconclusive"),
        ([1.0], [800.0], "inconclusive"),
    ],
)
def test_slower_without_decay(decays, times, verdict):
    frame = table(**{"optimizer.weight_decay": decays, "T_grok_0.95": times})
    assert slower_without_decay(frame, "division", "").verdict == verdict


def test_without_decay_only_runs_that_memorized_count():
    frame = table(**{"optimizer.weight_decay": [1.0, 0.0], "T_grok_0.95": [800.0, NAN], "T_train_0.99": [100.0, NAN]})
    assert slower_without_decay(frame, "division", "").verdict == "inconclusive"


OPERATIONS = ["x^2+y^2", "x^2+y^2", "x^3+xy", "x^3+xy^2+y", "x^3+xy^2+y"]


@pytest.mark.parametrize(
    ("accuracies", "verdicts"),
    [
        ([0.3, 0.96, 0.99, 0.1, 0.4], ("supported", "supported")),
        ([0.3, 0.94, 0.99, 0.1, 0.4], ("not supported", "supported")),
        ([0.3, 0.96, 0.99, 0.1, 0.97], ("supported", "not supported")),
    ],
)
def test_which_operations_generalize(accuracies, verdicts):
    frame = table(
        **{
            "task.operation": OPERATIONS,
            "task.train_fraction": [0.5, 0.9, 0.9, 0.5, 0.9],
            "final.test_accuracy": accuracies,
            "T_grok_0.95": [1000.0 if accuracy >= 0.95 else NAN for accuracy in accuracies],
        }
    )
    claims = generalize_or_not(frame, ("x^2+y^2", "x^3+xy"), ("x^3+xy^2+y",))
    assert tuple(claim.verdict for claim in claims) == verdicts
    assert claims[1].measured.endswith("at train fractions 0.5, 0.9")
    without = frame.loc[frame["task.operation"] != "x^3+xy"]  # not run, or all runs failed
    assert generalize_or_not(without, ("x^2+y^2", "x^3+xy"), ("x^3+xy^2+y",))[0].verdict == "inconclusive"
    unmemorized = frame.assign(**{"T_train_0.99": NAN})
    assert generalize_or_not(unmemorized, ("x^2+y^2",), ("x^3+xy^2+y",))[1].verdict == "inconclusive"


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ([NAN, 9000.0, 3000.0, 900.0], "supported"),
        ([NAN, NAN, 3000.0, 900.0], "supported"),
        ([9000.0, 9000.0, 3000.0, 900.0], "not supported"),
        ([9000.0, 3000.0, 900.0, NAN], "not supported"),
        ([NAN, NAN, NAN, 900.0], "inconclusive"),
    ],
)
def test_sooner_with_more(times, verdict):
    frame = table(**{"task.train_fraction": [0.2, 0.3, 0.4, 0.5], "T_grok_0.95": times})
    assert sooner_with_more(frame, "task.train_fraction", "data", "").verdict == verdict


@pytest.mark.parametrize(
    ("outcome", "fraction", "verdict"),
    [
        ("generalized_without_delay", 0.8, "supported"),
        ("grokked", 0.8, "not supported"),
        ("grokked", 0.5, "inconclusive"),
    ],
)
def test_no_delay_at_much_data(outcome, fraction, verdict):
    frame = table(**{"task.train_fraction": [fraction], "outcome": [outcome]})
    assert no_delay_at_much_data(frame, "").verdict == verdict


POWER = ("power-division", "power-polynomials", "power-s5", "memo-transformer")


@pytest.mark.parametrize("name", POWER)
def test_full_forms_have_powers_settings(name):
    recipe = catalog()[name]
    for arm in recipe.full.arms:
        base = arm.base
        model, optimizer = base.model, base.optimizer
        assert (model.n_layers, model.d_model, model.d_mlp, model.normalization) == (2, 128, 512, "post_layernorm")
        assert (optimizer.lr, optimizer.betas, optimizer.warmup_steps, optimizer.batch_size) == (
            *(1e-3, (0.9, 0.98), 10),
            512,
        )
        assert base.task.p == (120 if name == "power-s5" else 97)
    assert recipe.quick.note


def test_division_and_addition_are_trained_with_and_without_decay():
    for name in ("power-division", "memo-transformer"):
        for form in (catalog()[name].full, catalog()[name].quick):
            assert form.arms[0].grid["optimizer.weight_decay"] == (1.0, 0.0)
    assert catalog()["memo-transformer"].full.arms[0].base.task.train_fraction == 0.4
    assert catalog()["power-division"].full.arms[0].base.task.train_fraction == 0.5


def test_nandas_variations():
    data, decay = (catalog()[name].full.arms[0] for name in ("nanda-data-fraction", "nanda-weight-decay"))
    assert set(data.grid["task.train_fraction"]) >= {0.25, 0.28, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert set(decay.grid["optimizer.weight_decay"]) >= {0.1, 0.3, 1.0, 3.0}
    for arm in (data, decay):
        assert (arm.base.task.p, arm.base.model.d_model, arm.base.optimizer.lr) == (113, 128, 1e-3)
