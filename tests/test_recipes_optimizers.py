"""The recipes tveit-muon, power-regularizers, and manir-depth-8: what their arms vary, and their claims on tables."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from grokinterp.config import RunConfig
from grokinterp.config.run import flat_config
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.recipe import Form
from grokinterp.experiments.recipes import catalog
from grokinterp.sweep.rows import config_columns

NAMES = ("tveit-muon", "power-regularizers", "manir-depth-8")
SEEDS = ("model_seed",)


def configs(form: Form) -> dict[str, list[RunConfig]]:
    return {arm.name: [point.config(arm.base) for point in arm.expanded()] for arm in form.arms}


def differences(first: RunConfig, second: RunConfig) -> set[str]:
    one, other = flat_config(first), flat_config(second)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} - set(SEEDS)


class Tables(Evidence):
    """Evidence in which runs grok at the times that a function gives."""

    def __init__(self, form: Form, quick: bool, time_of: Any):
        super().__init__("toy", {}, quick)
        for name, runs in configs(form).items():
            grok = np.array([time_of(name, config) for config in runs], dtype=float)
            rows = pd.DataFrame([config_columns(config) for config in runs])
            outcome = np.where(np.isfinite(grok), "grokked", "DNF_test")
            self.tables[name] = rows.assign(
                run=[str(i) for i in range(len(runs))],
                status="finished",
                failure="",
                step=3000,
                outcome=outcome,
                **{"T_train_0.99": 100.0, "T_grok_0.95": grok, "final.test_accuracy": 0.5},
            )


def verdicts(name: str, quick: bool, time_of: Any) -> list[str]:
    recipe = catalog()[name]
    assert recipe.decide is not None
    return [claim.verdict for claim in recipe.decide(Tables(recipe.form(quick), quick, time_of))]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_have_the_same_arms(name):
    recipe = catalog()[name]
    assert set(configs(recipe.full)) == set(configs(recipe.quick))
    assert recipe.quick.note
    for form in (recipe.full, recipe.quick):
        for runs in configs(form).values():
            others = {str(sorted(differences(runs[0], run))) for run in runs}
            assert len({run.model_seed for run in runs}) >= 3
            assert len(others) <= 3


@pytest.mark.parametrize("quick", [False, True])
def test_muon_and_adamw_differ_in_the_optimizer_only(quick):
    runs = configs(catalog()["tveit-muon"].form(quick))
    for adamw, muon in zip(runs["adamw"], runs["muon"], strict=True):
        assert differences(adamw, muon) == {"optimizer.name"}
        assert adamw.model_seed == muon.model_seed
    rates = {run.optimizer.lr for run in runs["adamw"]}
    for lion in runs["lion"]:
        assert differences(runs["adamw"][0], lion) - {"optimizer.lr"} == {"optimizer.name"}
        assert any(5 * lion.optimizer.lr == pytest.approx(rate) for rate in rates)


@pytest.mark.parametrize("quick", [False, True])
def test_claims_about_muon_and_lion(quick):
    times = {"adamw": 1000, "muon": 500, "lion": 2000}

    def time_of(arm: str, config: RunConfig) -> float:
        """At the larger rates, AdamW groks sooner, too: a comparison across rates would be wrong."""
        rate = config.optimizer.lr * (5 if arm == "lion" else 1)
        return times[arm] * 2e-3 / rate + 10 * config.model_seed

    assert verdicts("tveit-muon", quick, time_of) == ["supported", "not supported"]


@pytest.mark.parametrize("quick", [False, True])
def test_a_regularizer_is_all_that_its_arm_adds(quick):
    runs = configs(catalog()["power-regularizers"].form(quick))
    plain = runs.pop("none")[0]
    assert plain.optimizer.weight_decay == plain.optimizer.l1 == plain.optimizer.gradient_noise == 0
    assert (plain.model.dropout, plain.model.init_scale) == (0.0, 1.0)
    fields = {
        "weight-decay": "optimizer.weight_decay",
        "l1": "optimizer.l1",
        "dropout": "model.dropout",
        "gradient-noise": "optimizer.gradient_noise",
        "initialization": "model.init_scale",
    }
    assert runs.keys() == fields.keys()
    for arm, field in fields.items():
        assert all(differences(plain, run) == {field} for run in runs[arm])


@pytest.mark.parametrize("quick", [False, True])
def test_claims_about_regularizers(quick):
    def time_of(arm: str, config: RunConfig) -> float:
        return 900 if arm in ("weight-decay", "l1") else np.nan

    assert verdicts("power-regularizers", quick, time_of) == ["supported", "supported"] + 3 * ["not supported"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_networks_of_both_depths_have_the_same_rates(quick):
    runs = configs(catalog()["manir-depth-8"].form(quick))
    for deep, flat in zip(runs["depth-8-residual"], runs["depth-4-flat"], strict=True):
        assert (deep.model.depth, deep.model.architecture) == (8, "residual")
        assert (flat.model.depth, flat.model.architecture) == (4, "flat")
        for name in ("lr", "weight_decay", "momentum", "decay"):
            assert getattr(deep.optimizer, name) == getattr(flat.optimizer, name)
        assert deep.task == flat.task
        assert deep.schedule.steps == flat.schedule.steps


@pytest.mark.parametrize("quick", [False, True])
def test_the_claim_about_depth_8(quick):
    assert verdicts("manir-depth-8", quick, lambda arm, _: 900 if "8" in arm else np.nan) == ["supported"]
    assert verdicts("manir-depth-8", quick, lambda *_: np.nan) == ["not supported"]
