"""Claims about slingshots on hand-made curves, and the recipe's settings."""

import json

import pandas as pd
import pytest

from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.experiments.claims.slingshot import (
    Slingshots,
    decide_slingshots,
    exact_loss_removes_them,
    extract_slingshots,
    growth_before_spikes,
    last_layer_norms,
    late_spikes,
    slingshots_of,
)
from grokinterp.experiments.recipe import changed
from grokinterp.experiments.recipes.slingshot import RECIPE
from grokinterp.figures import slingshot_curves
from grokinterp.sweep import train_sweep


def losses(*values: float) -> pd.Series:
    return pd.Series(values, index=range(0, 10 * len(values), 10), dtype=float)


def test_a_spike_is_a_hundredfold_rise_counted_once_until_it_is_over():
    assert late_spikes(losses(1, 1e-4, 1e-2, 5e-2, 1e-3, 1e-2, 1e-4, 2e-2), 0) == (20, 50, 70)
    assert late_spikes(losses(1, 1e-4, 1e-2, 5e-2, 2e-3, 1e-2), 0) == (20,)  # not down to ten times
    assert late_spikes(losses(1, 1e-4, 9e-3), 0) == ()


def test_losses_before_memorization_do_not_count():
    series = losses(1e-4, 1, 1e-3, 1e-4, 1e-2)
    assert late_spikes(series, 0) == (10, 40)
    assert late_spikes(series, 20) == (40,)
    assert late_spikes(pd.Series([], dtype=float), 0) == ()


def test_growth_in_steps_and_even_growth():
    steps = range(0, 1000, 20)
    even = pd.Series([float(step) for step in steps], index=steps)
    assert growth_before_spikes(even, [100, 400, 940]) == pytest.approx((1 / 3, 1 / 3))
    stairs = pd.Series([10.0 + (step > 300) + (step > 800) for step in steps], index=steps)
    assert growth_before_spikes(stairs, [100, 400, 940]) == pytest.approx((1.0, 1.0))
    early = pd.Series([10.0 + (step > 150) for step in steps], index=steps)
    assert growth_before_spikes(early, [100, 400, 940]) == pytest.approx((0.0,))  # the second cycle has no growth
    assert growth_before_spikes(even, [100]) == growth_before_spikes(even, []) == ()
    assert growth_before_spikes(even, [100, 180]) == ()  # too few checkpoints to tell


def run(eps: float, spikes: int, share: float = 0.9, solved: int | None = 100) -> Slingshots:
    return Slingshots(eps, tuple(range(spikes)), 1.5, (share,) * max(spikes - 1, 0), solved)


@pytest.mark.parametrize(
    ("runs", "verdicts"),
    [
        ([run(1e-8, 5), run(1e-8, 3), run(1e-5, 0)], ("supported", "supported", "supported")),
        ([run(1e-8, 5), run(1e-8, 2), run(1e-5, 0)], ("not supported", "supported", "inconclusive")),
        ([run(1e-8, 5, 0.4), run(1e-5, 4)], ("supported", "not supported", "not supported")),
        ([run(1e-8, 0), run(1e-5, 0)], ("not supported", "inconclusive", "inconclusive")),
        ([run(1e-8, 0, solved=None), run(1e-5, 0)], ("inconclusive", "inconclusive", "inconclusive")),
        ([run(1e-8, 4)], ("supported", "supported", "inconclusive")),
    ],
)
def test_verdicts(runs, verdicts):
    claims = decide_slingshots(runs)
    assert tuple(claim.verdict for claim in claims) == verdicts
    assert {claim.number for claim in claims} == {20}


def test_scaled_down_runs_are_labeled():
    claims = decide_slingshots([run(1e-8, 5), run(1e-8, 0, solved=None), run(1e-5, 0)], scaled_down=True)
    assert claims[0].measured == "5 spikes per run at ε = 1e-08; 1 of 2 runs solved the training set; scaled down"
    assert claims[0].verdict == "supported"


def test_an_exact_loss():
    rounded, smooth, wild = [run(1e-8, 4), run(1e-5, 0)], [run(1e-8, 0)], [run(1e-8, 3)]
    assert exact_loss_removes_them(rounded, smooth).verdict == "supported"
    assert exact_loss_removes_them(rounded, wild).verdict == "not supported"
    assert exact_loss_removes_them([run(1e-8, 2)], smooth).verdict == "inconclusive"
    assert exact_loss_removes_them(rounded, []).verdict == "inconclusive"


def test_the_recipes_full_form_is_the_published_one():
    arm, exact = RECIPE.full.arms
    base = arm.base
    assert (base.loss_dtype, exact.base.loss_dtype) == ("float32_plain", "float32")
    assert (base.task.operation, base.task.p, base.task.train_fraction) == ("divide", 97, 0.5)
    assert (base.model.n_layers, base.model.d_model, base.model.normalization) == (2, 128, "post_layernorm")
    optimizer = base.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adam", 1e-3, 0.0)
    assert (optimizer.betas, optimizer.warmup_steps, optimizer.batch_size) == ((0.9, 0.98), 10, 512)
    assert base.schedule.steps == 500_000
    assert arm.grid["optimizer.eps"] == (1e-8, 1e-5)
    quick, _ = RECIPE.quick.arms
    assert (quick.base.optimizer.name, quick.base.optimizer.weight_decay) == ("adam", 0.0)
    assert quick.grid["optimizer.eps"] == (1e-8, 1e-5)


def test_runs_are_read_and_drawn(tmp_path):
    small = {"task.p": 5, "schedule.steps": 120, "schedule.checkpoints": 20, "model.width": 64}
    base = changed(RECIPE.quick.arms[0].base, {**small, "optimizer.lr": 3e-2})
    sweep = train_sweep(tmp_path / "s", base, grid={"optimizer.eps": (1e-8, 1e-5)}, workers=1)
    norms = [last_layer_norms(one) for one in sweep.runs]
    assert list(norms[0].index) == [0, 20, 40, 60, 80, 100, 120]
    expected = sweep.runs[0].weights(40)["unembed.W_U"].square().sum().sqrt().item()
    assert norms[0][40] == pytest.approx(expected)
    found = [slingshots_of(one) for one in sweep.runs]
    assert [Slingshots.from_json(json.loads(json.dumps(extract_slingshots(one)))) for one in sweep.runs] == found
    assert [one.eps for one in found] == [1e-8, 1e-5]
    assert found[0].solved is not None
    curves = [one.metrics["train_loss"] for one in sweep.runs]
    figure = slingshot_curves(sweep.table, curves, norms)
    assert [trace.name for trace in figure.data][:3:2] == ["eps = 1e-08", "eps = 1e-05"]
    with pytest.raises(ConfigError, match="2 rows, 1 losses and 2 norms"):
        slingshot_curves(sweep.table, curves[:1], norms)
    assert preset("power").optimizer is not None
