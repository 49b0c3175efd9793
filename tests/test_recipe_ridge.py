"""Recipe `ridge`: its files and report, and a counterexample for each of its claims."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grokinterp.experiments import reproduce
from grokinterp.experiments.claims.networks import decide_random_features, decide_two_layer
from grokinterp.experiments.claims.numbers import relative_change, seed_slopes, verdict
from grokinterp.experiments.claims.ridge import Evidence, decide_ridge
from grokinterp.experiments.recipes import ridge as recipe
from grokinterp.statistics.formatting import span
from grokinterp.theory import ridge_sweep, two_layer_problem

EXPECTED_NOT_TO_HOLD = {"more features, more grokking", "random features: c", "two-layer ReLU: t1 with ν²"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The whole recipe on one seed each, or three where a claim needs them, with smaller networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_QUICK", recipe._Plan(1, 3, 2, 1, 800, 1))
        patch.setattr(recipe, "two_layer_problem", lambda **settings: two_layer_problem(12, 60, 12, **settings))
        calls = []
        done = reproduce("ridge", tmp_path_factory.mktemp("results") / "ridge", True, lambda *call: calls.append(call))
    return done, calls


def test_the_recipe_writes_its_results(small):
    done, calls = small
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "overparameterization.parquet",
        "random_features.parquet",
        "report.html",
        "results.json",
        "ridge.parquet",
        "two_layer.parquet",
    ]
    results = json.loads((done.folder / "results.json").read_text())
    assert results["recipe"] == "ridge"
    assert results["quick"] is True
    assert [claim["name"] for claim in results["claims"]] == [claim.name for claim in done.claims]
    assert set(results["claims"][0]) == {
        *("name", "statement", "published", "measured", "n", "threshold", "verdict", "should_hold", "number"),
        "fewest",
    }
    table = pd.read_parquet(done.folder / "ridge.parquet")
    pd.testing.assert_frame_equal(table, done.outcome.tables["ridge"], check_dtype=False)
    steps, totals = zip(*calls, strict=True)
    assert len(set(totals)) == 1
    assert steps == tuple(sorted(steps))
    assert steps[-1] == totals[0]


def test_the_report_is_one_file_with_every_claim_and_figure(small):
    done, _ = small
    page = done.report.read_text()
    assert page.count("<!doctype html>") == 1
    assert page.count("plotly.js v") >= 1
    assert page.count('class="plot"') == page.count(" data-for=") == 5
    assert "http-equiv" in page
    assert "src=" not in page.split("<script>")[0]
    for claim in done.claims:
        assert claim.name in page
    assert page.count("not expected to hold") == len(EXPECTED_NOT_TO_HOLD)


def test_rows_are_the_claims(small):
    done, _ = small
    rows = done.rows()
    assert list(rows["name"]) == [claim.name for claim in done.claims]
    assert {"published", "measured", "verdict", "should_hold"} <= set(rows)
    assert set(rows.loc[~rows["should_hold"], "name"]) == EXPECTED_NOT_TO_HOLD


def test_the_ridge_claims_hold_except_those_expected_to_fail(small):
    done, _ = small
    verdicts = {claim.name: claim.verdict for claim in done.claims}
    linear = [name for name in verdicts if not name.startswith(("random features", "two-layer"))]
    assert len(linear) == 20
    for name in linear:
        assert verdicts[name] == ("not supported" if name in EXPECTED_NOT_TO_HOLD else "supported"), name
    assert verdicts["random features: c"] == "not supported"


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(ridge_sweep(seeds=(0,)), (), {0: 1e-15})


def spoil(table: pd.DataFrame, varied: str, name: str, by) -> pd.DataFrame:
    changed, rows = table.copy(), table["varied"] == varied
    changed.loc[rows, name] = by(changed.loc[rows])
    return changed


SPOILED = {
    "t2 as 1/λ": ("weight_decay", "t2", lambda t: t["t2"] * t["weight_decay"] ** 0.02),
    "t1 independent of λ": ("weight_decay", "t1", lambda t: t["t1"] * (1 - 100 * t["weight_decay"])),
    "times as 1/η": ("lr", "t2", lambda t: t["t2"] * t["lr"] ** 0.02),
    "t2 in ln ν²": ("init_variance", "t2", lambda t: 1.02 * t["t2"]),
    "t1 in ln ν²": ("init_variance", "t1", lambda t: 200 - t["t1"] % 7),
    "t1 with n": ("n", "t1", lambda t: np.where(t["n"] == 400, 10.0, t["t1"])),
    "m hardly matters": ("m", "t2", lambda t: t["t2"] * t["m"]),
    "t1 below (6)": ("n", "t1_bound_holds", lambda t: t["n"] != 400),
    "t2 above (7)": ("n", "t2_bound_holds", lambda t: t["n"] != 400),
    "Gaussian bounds (8)": ("lr", "t2_bound_gaussian_holds", lambda t: t["n"] == 0),
    "sharp bounds": ("lr", "t1_bound_sharp_holds", lambda t: t["n"] == 0),
    "three stages": ("lr", "stage_generalizes_late", lambda t: t["n"] == 0),
    "step size": ("lr", "t2_bound_holds", lambda t: t["n"] == 0),
}


@pytest.mark.parametrize("name", SPOILED)
def test_each_claim_about_ridge_regression_can_fail(evidence, name):
    def verdict_on(evidence: Evidence) -> str:
        return next(claim.verdict for claim in decide_ridge(evidence) if claim.name == name)

    assert verdict_on(evidence) == "supported"
    assert verdict_on(replace(evidence, sweep=spoil(evidence.sweep, *SPOILED[name]))) == "not supported"


def test_the_claim_about_the_closed_form_can_fail(evidence):
    claim = decide_ridge(replace(evidence, update_error={0: 1e-15, 1: 1e-7}))[0]
    assert (claim.name, claim.verdict) == ("closed form", "not supported")


def test_a_claim_that_should_not_hold_can_be_supported(evidence):
    grown = spoil(evidence.sweep, "m", "delay", lambda t: t["m"].astype(float))
    claim = next(c for c in decide_ridge(replace(evidence, sweep=grown)) if c.name == "more features, more grokking")
    assert claim.verdict == "supported"


def feature_rows(exponent=-1.0, fewer=300.0, wider=1.0, plateau=0.9, t2=None) -> pd.DataFrame:
    rows = [
        {"varied": "weight_decay", "weight_decay": decay, "t1": 600.0, "halfway": 30_000 * (decay / 1e-5) ** exponent}
        for decay in (1e-6, 1e-5, 1e-4)
    ]
    rows += [
        {"varied": "n", "weight_decay": 1e-5, "t1": fewer, "halfway": 30_000.0},
        {"varied": "m", "weight_decay": 1e-5, "t1": 600.0, "halfway": 30_000.0 * wider},
        {"varied": "init_variance", "weight_decay": 1e-5, "t1": 300.0, "halfway": 30_000.0},
    ]
    table = pd.DataFrame(rows).assign(seed=0, t2=t2, plateau=0.4, limit=0.2)
    table.loc[table["varied"] == "init_variance", "plateau"] = plateau
    return table


@pytest.mark.parametrize(
    ("name", "spoiled"),
    [
        ("λ", {"exponent": -0.9}),
        ("n", {"fewer": 700.0}),
        ("m, ν²", {"wider": 0.6}),
        ("gap", {"plateau": 0.3}),
    ],
)
def test_each_claim_about_random_features_can_fail(name, spoiled):
    def verdict_on(table: pd.DataFrame) -> str:
        return next(c.verdict for c in decide_random_features(table) if c.name == f"random features: {name}")

    assert verdict_on(feature_rows()) == "supported"
    assert verdict_on(feature_rows(**spoiled)) == "not supported"


def test_reaching_the_threshold_supports_the_claim():
    assert decide_random_features(feature_rows())[-1].verdict == "not supported"
    assert decide_random_features(feature_rows(t2=100.0))[-1].verdict == "supported"


def network_rows(exponent=-1.0, t1=200.0, loud=(150.0, 9000.0)) -> pd.DataFrame:
    rows = [
        {"weight_decay": decay, "init_variance": 1.0, "t1": t1 if decay < 0.1 else 200.0, "t2": 700 * decay**exponent}
        for decay in (0.05, 0.1, 0.2)
    ]
    rows.append({"weight_decay": 0.1, "init_variance": 4.0, "t1": loud[0], "t2": loud[1]})
    return pd.DataFrame(rows).assign(seed=0)


def test_each_claim_about_two_layer_networks_can_fail():
    def verdicts(**changes) -> list[str]:
        return [claim.verdict for claim in decide_two_layer(network_rows(**changes))]

    good = ["supported", "supported", "supported", "not supported"]
    assert verdicts() == good
    assert verdicts(exponent=-0.95)[0] == "not supported"
    assert verdicts(t1=250.0)[1] == "not supported"
    assert verdicts(loud=(150.0, 6000.0))[2] == "not supported"
    assert verdicts(loud=(250.0, 9000.0))[3] == "supported"


def test_numbers():
    table = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "x": [1.0, 2, 4] * 2, "y": [8.0, 4, 2, 1, 4, 16]})
    assert seed_slopes(table, "x", "y") == pytest.approx([-1, 2])
    assert relative_change(table, "y") == pytest.approx([0.75, 15 / 16])
    assert span(np.array([1.0, 2.0])) == "1 to 2"
    assert span([1.001, 1.002], ".1f") == "1.0"
    assert [verdict(True, 1), verdict(False, 1), verdict(True, 0)] == ["supported", "not supported", "inconclusive"]
