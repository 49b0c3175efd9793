"""Statistics on a sweep's table: censoring, outcomes, summaries of replicates, and axes."""

import math

import numpy as np
import pandas as pd
import pytest

import grokinterp as gi
from grokinterp.statistics import (
    Outcome,
    compare,
    fit_power_law,
    observe,
    power_law,
    remaining_axes,
    settings,
    summarize,
    survival,
    values_of,
)


def sweep_table() -> pd.DataFrame:
    """Three weight decays and two operations, with runs of every outcome."""
    rows = []

    def add(decay, operation, seed, outcome, grok=math.nan, train=500.0, step=5000, status="finished", failure=None):
        rows.append({
            "run": f"optimizer.weight_decay={decay},model_seed={seed},{operation}", "task.operation": operation,
            "optimizer.weight_decay": decay, "model_seed": seed, "task.p": 97, "status": status, "failure": failure,
            "step": step, "outcome": outcome, "T_train_0.95": train, "T_train_0.99": train, "T_grok_0.95": grok,
            "T_grok_0.99": grok * 1.2, "delay_0.95_0.99": grok - train, "final.test_accuracy": 1.0 - seed / 10,
        })  # fmt: skip

    for seed, grok in enumerate([3000, 2500, 3500]):
        add(1.0, "add", seed, "grokked", grok)
    add(0.3, "add", 0, "DNF_test")
    add(0.3, "add", 1, "semi_grokked")
    add(0.3, "add", 2, "grokked", 4000)
    add(0.3, "add", 3, "grokked", 4500)
    add(0.3, "add", 4, "grokked", 4200)
    add(3.0, "add", 0, "DNF_train", train=math.nan)
    add(3.0, "add", 1, "grokked", 900, train=800)
    add(3.0, "add", 2, "diverged", step=120, status="diverged", train=math.nan)
    add(3.0, "add", 3, None, step=math.nan, status="failed", failure="out of memory", train=math.nan)
    add(3.0, "add", 4, None, step=math.nan, status="missing", train=math.nan)
    add(3.0, "add", 5, "undetermined", step=700, status="stopped", train=600)
    return pd.DataFrame(rows)


def test_runs_that_did_not_grok_are_censored_or_excluded():
    table = sweep_table()
    observed = observe(table, "T_grok_0.95")
    outcomes = np.array(observed.outcomes)
    assert observed.reached.sum() == 7
    assert outcomes[observed.censored].tolist() == ["DNF_test", "semi_grokked", "undetermined"]
    assert observed.values[observed.censored].tolist() == [5000, 5000, 700]
    assert observed.values[outcomes == "DNF_train"].tolist() == [5000]
    assert not observed.followed[outcomes == "DNF_train"].any()
    excluded = np.isin(outcomes, ["diverged", "failed", "missing"])
    assert excluded.sum() == 3
    assert np.isnan(observed.values[excluded]).all()
    assert not observed.followed[excluded].any()


def test_a_delay_is_censored_at_the_steps_since_memorizing():
    observed = observe(sweep_table(), "delay_0.95_0.99")
    assert observed.values[observed.censored].tolist() == [4500, 4500, 100]
    assert observed.values[observed.reached].tolist() == [2500, 2000, 3000, 3500, 4000, 3700, 100]
    later = sweep_table().assign(**{"T_train_0.99": lambda t: t["T_train_0.95"] + 50})
    assert observe(later, "delay_0.95_0.99").values[observed.censored].tolist() == [4450, 4450, 50]


def test_a_run_that_never_memorized_is_censored_in_t_train_and_final_numbers_are_never_censored():
    table = sweep_table()
    train, final = observe(table, "T_train_0.99"), observe(table, "final.test_accuracy")
    assert np.array(train.outcomes)[train.censored].tolist() == ["DNF_train"]
    assert not final.censored.any()
    assert final.reached.sum() == 10


def test_a_run_that_grokked_may_be_censored_at_a_higher_threshold():
    table = sweep_table().assign(**{"T_grok_0.99": math.nan})
    assert observe(table, "T_grok_0.99").censored.sum() == 10


def test_a_summary_counts_both_kinds_of_dnf_separately():
    summary = summarize(sweep_table(), ["optimizer.weight_decay", "model_seed"]).set_index("optimizer.weight_decay")
    assert summary.index.tolist() == [0.3, 1.0, 3.0]
    row = summary.loc[0.3]
    assert (row["n"], row["k"], row["DNF_test"], row["semi_grokked"], row["DNF_train"]) == (5, 3, 1, 1, 0)
    assert row["median"] == 4500  # of 4000, 4200, 4500 and two that took longer
    assert row["mean_of_k"] == pytest.approx(12_700 / 3)
    assert row["std_of_k"] == pytest.approx(np.std([4000, 4500, 4200], ddof=1))
    assert (row["min_of_k"], row["max_of_k"]) == (4000, 4500)
    row = summary.loc[3.0]
    assert (row["n"], row["k"], row["DNF_train"], row["diverged"], row["failed"], row["missing"]) == (4, 1, 1, 1, 1, 1)
    assert row["undetermined"] == 1
    assert (row["median"], row["mean_of_k"]) == (900, 900)
    assert math.isnan(row["std_of_k"])


def test_a_setting_of_which_half_never_grokked_has_no_median():
    table = sweep_table()
    table = table[table["outcome"].isin(["DNF_test", "semi_grokked", "grokked"]) & (table["T_grok_0.95"] != 4000)]
    row = summarize(table, ["optimizer.weight_decay"]).iloc[0]
    assert (row["n"], row["k"]) == (4, 2)
    assert math.isnan(row["median"])
    assert row["mean_of_k"] == 4350


def test_a_summary_of_negative_delays_and_of_no_runs():
    table = sweep_table().assign(**{"delay_0.95_0.99": [-50.0, 0, 100] + [math.nan] * 11})
    row = summarize(table, ["optimizer.weight_decay"], "delay_0.95_0.99").set_index("optimizer.weight_decay")
    assert (row.loc[1.0, "median"], row.loc[1.0, "min_of_k"]) == (0, -50)
    lost = table[table["status"].isin(["failed", "missing"])]
    row = summarize(lost, ["optimizer.weight_decay"]).iloc[0]
    assert (row["n"], row["k"], row["failed"], row["missing"]) == (0, 0, 1, 1)
    assert math.isnan(row["median"])


def test_curve_ratio_and_exponent_of_a_table_match_those_of_its_arrays():
    table = sweep_table()
    curve = survival(table[table["optimizer.weight_decay"] == 0.3])
    assert (curve.n, curve.k, curve.median) == (5, 3, 4500)
    ratio = compare(table, {"optimizer.weight_decay": 0.3}, {"optimizer.weight_decay": 1.0})
    assert (ratio.statistic, ratio.ratio) == ("median", 1.5)
    assert (ratio.k_a, ratio.n_a, ratio.k_b, ratio.n_b) == (3, 5, 3, 3)
    x = np.array([1.0] * 3 + [0.3] * 5 + [3.0] * 2)
    y = np.array([3000, 2500, 3500, 5000, 5000, 4000, 4500, 4200, 900, 700])
    reached = np.array([True] * 3 + [False] * 2 + [True] * 4 + [False])
    fit, same = power_law(table, "optimizer.weight_decay"), fit_power_law(x, y, reached)
    assert (fit.exponent, fit.interval, fit.n_censored) == (same.exponent, same.interval, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: observe(t, "T_grok_0.9"), "did you mean 'T_grok_0.9[59]'"),
        (lambda t: observe(t, "task.operation"), "not numbers"),
        (lambda t: summarize(t, ["optimizer.weight_decy"]), "did you mean 'optimizer.weight_decay'"),
        (lambda t: power_law(t, "task.operation"), "not numeric"),
        (lambda t: compare(t, {"task.p": 97}, {"task.p": 3}), "no run has task.p = 3"),
        (lambda t: survival(t[t["status"] == "failed"]), "1 failed"),
        (lambda t: survival(t[:0]), "the table is empty"),
    ],
)
def test_a_table_without_the_data_is_refused(call, message):
    with pytest.raises(gi.ConfigError, match=message):
        call(sweep_table())


def test_values_of_an_axis_are_sorted():
    table = pd.DataFrame({"a": [10, 2, 2, 1], "b": ["x", None, "a", "x"], "c": [True, False, True, None]})
    assert values_of(table, "a") == [1, 2, 10]
    assert values_of(table, "b") == ["a", "x", None]
    assert values_of(table, "c") == [False, True, None]
    parts = settings(table.astype({"b": object}), ["b", "model_seed"])
    assert [(setting["b"], len(part)) for setting, part in parts] == [("a", 1), ("x", 2), (None, 1)]


def test_remaining_axes_are_the_independent_fields_that_vary():
    table = sweep_table()
    assert remaining_axes(table, []) == ["optimizer.weight_decay"]
    assert remaining_axes(table, ["optimizer.weight_decay"]) == []
    table["optimizer.lr"] = 1e-3 * table["optimizer.weight_decay"]  # goes along with the weight decay
    table["model.kind"] = ["mlp", "transformer"] * 7
    assert remaining_axes(table, ["optimizer.weight_decay"]) == ["model.kind"]
    assert remaining_axes(table, []) == ["optimizer.weight_decay", "model.kind"]


def test_outcomes_of_a_table_are_those_of_a_run_and_two_more():
    assert set(Outcome) == {
        *("grokked", "generalized_without_delay", "semi_grokked", "DNF_test", "DNF_train", "diverged", "undetermined"),
        *("failed", "missing"),
    }
