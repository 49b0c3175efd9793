"""Claims of Manir and Rupa on hand-made tables, each with its expected verdict."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import grokinterp as gi
from grokinterp.config import MLPConfig
from grokinterp.experiments.claims import manir, manir_arms, manir_norms
from grokinterp.figures import pair_curves
from grokinterp.measures import Snapshot

SUPPORTED, NOT, OPEN = "supported", "not supported", "inconclusive"


def run(
    *,
    train: float = math.nan,
    grok: float = math.nan,
    decay: float = 1e-3,
    lr: float = 0.03,
    step: int = 400_000,
    activation: str = "gelu",
    width: int = 512,
    rms: float = math.nan,
    n: int = 1_150_049,
    **more: Any,
) -> dict[str, Any]:
    """One row of a sweep's table, of a run that memorized and grokked at these steps, or did not."""
    outcome = "grokked" if grok == grok else "DNF_test" if train == train else "DNF_train"
    return {
        "run": "",
        "status": "finished",
        "outcome": outcome,
        "step": step,
        "T_train_0.99": train,
        "T_grok_0.99": grok,
        "T_grok_0.95": grok,
        "delay_0.99": grok - train,
        "delay_0.95_0.99": grok - train,
        "optimizer.weight_decay": decay,
        "optimizer.lr": lr,
        "optimizer.momentum": 0.9,
        "model.activation": activation,
        "model.width": width,
        "task.p": 97,
        "weight_rms_at_T_grok_0.99": rms,
        "weight_rms_at_T_grok_0.95": rms,
        "weight_norm_at_T_grok_0.99": rms * math.sqrt(n),
        "weight_norm_at_T_grok_0.95": rms * math.sqrt(n),
    } | more


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


# --- 2: the canonical run ---------------------------------------------------------------------------------------------

CANONICAL = [32_000, 20_000, 26_000, math.nan, 210_000]  # delays as printed; one seed did not finish


@pytest.mark.parametrize(
    ("groks", "train", "size", "expected"),
    [
        (CANONICAL, 1000, True, SUPPORTED),
        (CANONICAL, 1000, False, OPEN),
        (CANONICAL[:2], 1000, True, OPEN),
        ([32_000, 210_000, 70_000, math.nan], 1000, True, NOT),
        (CANONICAL, 2100, True, NOT),
    ],
)
def test_canonical_times(groks, train, size, expected):
    claim = manir.canonical_times(table(*(run(train=train, grok=grok) for grok in groks)), published_size=size)
    assert (claim.verdict, claim.number) == (expected, 2)


def curves(mirror: float, novel: float, memorized: bool = True) -> pd.DataFrame:
    """Accuracies every 100 steps, memorized at 900; nothing but 900 .. 1,800 is on the plateau."""
    steps = np.arange(0, 4000, 100)
    on = (steps >= 900) & (steps <= 1800)
    found = {
        "train_accuracy": np.where(steps >= 900, 1.0 if memorized else 0.9, 0.3),
        "mirror_accuracy": np.where(on, mirror, 0.5),
        "novel_accuracy": np.where(on, novel, 0.5),
        "test_accuracy": np.where(on, 0.2 * mirror + 0.8 * novel, 0.5),
        "weight_norm": np.linspace(70, 30, len(steps)),
        "weight_rms": np.linspace(0.37, 0.1, len(steps)),
    }
    return pd.DataFrame(found, index=pd.Index(steps, name="step"))


def test_plateau():
    good = curves(1.0, 0.0)
    claim = manir.plateau([good, curves(0.995, 0.02)])
    assert claim.verdict == SUPPORTED
    assert claim.measured.endswith("on mirrored pairs 0.995 to 1.000, on novel pairs 0.000 to 0.020")
    assert manir.plateau([good, curves(1.0, 0.05)]).verdict == NOT
    assert manir.plateau([good, curves(0.98, 0.0)]).verdict == NOT
    assert manir.plateau([curves(1.0, 0.0, memorized=False)]).verdict == OPEN
    spiked = good.copy()
    spiked.loc[900, "novel_accuracy"] = 0.9  # one evaluation is no plateau
    assert manir.plateau([spiked]).verdict == SUPPORTED


# --- 6, 7: weight decay -----------------------------------------------------------------------------------------------

GROK = {5e-5: 388_000, 1e-4: 220_000, 5e-4: 45_333, 1e-3: 25_333}


def swept(*, below: bool = True, above: bool = True) -> list[dict[str, Any]]:
    """The published sweep, one seed."""
    rows = [run(train=1000, grok=1000 + grok, decay=decay) for decay, grok in GROK.items()]
    rows += [run(train=1000, decay=1e-5)] * below
    return rows + [run(decay=2e-3), run(decay=5e-3)] * above


def test_goldilocks_zone():
    claim = manir.goldilocks(table(*swept()))
    assert claim.verdict == SUPPORTED
    assert claim.measured.endswith("largest that groks = 2")
    assert manir.goldilocks(table(*swept(above=False))).verdict == OPEN
    assert manir.goldilocks(table(*swept(below=False))).verdict == OPEN
    assert manir.goldilocks(table(*swept(), run(train=1000, grok=9000, decay=1e-2))).verdict == NOT
    assert manir.goldilocks(table(run(train=1, decay=1e-5), run(decay=2e-3), run(train=1, decay=5e-3))).verdict == NOT
    torn = [run(train=1000, grok=2000, decay=1.5e-3), run(decay=1.5e-3)]
    assert manir.goldilocks(table(*swept(), *torn)).verdict == SUPPORTED
    assert manir.goldilocks(table(*swept(), run(decay=2e-4))).verdict == NOT


def test_the_lower_edge_is_one_of_the_budget():
    claim = manir.lower_edge_is_the_budget(table(*swept()))
    assert claim.verdict == SUPPORTED
    assert "budget below the zone: 1.2; T_grok(0.95) inside: 5.8 to 7.9" in claim.measured
    as_long = run(train=1000, decay=1e-5, step=2_000_000)  # 6 units: more than one of those inside took
    assert manir.lower_edge_is_the_budget(table(as_long, *swept(below=False))).verdict == NOT
    longer = [run(train=1000, decay=1e-5, step=40_000_000), *swept(below=False)]
    assert manir.lower_edge_is_the_budget(table(*longer)).verdict == NOT
    assert manir.lower_edge_is_the_budget(table(*swept(below=False))).verdict == OPEN
    assert manir.lower_edge_is_the_budget(table(run(train=1000, decay=1e-5))).verdict == OPEN
    above = run(train=1000, decay=1.5e-3, step=10_000_000)  # memorizes and does not grok, on the other side
    assert manir.lower_edge_is_the_budget(table(*swept(), above)).verdict == SUPPORTED


def test_memorization_edge():
    def dead(loss: float = math.log(97), step: int = 1300, train: float = math.nan) -> pd.DataFrame:
        final = {
            "final.train_loss": loss,
            "final.train_accuracy": 0.014,
            "final.group_rms.layers.0": 0.012,
            "final.group_rms.layers.1": 0.011,
        }
        return table(run(train=train, decay=2e-3, step=step, **final))

    below = table(run(train=1000))
    claim = manir.memorization_edge(below, dead())
    assert claim.verdict == SUPPORTED
    assert "RMS of the hidden layers 0.011 to 0.012 by step 1,300" in claim.measured
    assert manir.memorization_edge(below, dead(loss=3.0)).verdict == NOT
    assert manir.memorization_edge(below, dead(train=1200)).verdict == NOT
    assert manir.memorization_edge(table(run()), dead()).verdict == NOT
    assert manir.memorization_edge(below, dead(step=900)).verdict == OPEN
    assert manir.memorization_edge(below, dead().head(0)).verdict == OPEN


# --- 8: depth ---------------------------------------------------------------------------------------------------------


def test_depth_is_a_statement_about_one_cell():
    narrow, wide = table(*[run(width=256)] * 5), table(*[run(train=1000, grok=46_000)] * 5)
    assert manir.depth_is_one_cell(wide, narrow, wide).verdict == SUPPORTED
    assert manir.depth_is_one_cell(wide, wide, wide).verdict == NOT
    assert manir.depth_is_one_cell(narrow, narrow, wide).verdict == NOT  # depth 2 does not grok there either
    one_fails = table(*[run(train=1000, grok=46_000)] * 4, run(train=1000))
    assert manir.depth_is_one_cell(wide, narrow, one_fails).verdict == NOT
    assert manir.depth_is_one_cell(wide, narrow, wide.head(0)).verdict == OPEN

    assert manir.depth_fails_to_memorize(narrow).verdict == SUPPORTED
    assert manir.depth_fails_to_memorize(table(run(), run(train=1000))).verdict == NOT
    assert manir.depth_fails_to_memorize(wide).verdict == OPEN


# --- 4, 5: norms ------------------------------------------------------------------------------------------------------

WIDE = [
    run(train=1000, grok=55_000, decay=5e-4, rms=0.0236),
    run(train=1000, grok=27_000, decay=1e-3, rms=0.0225),
    run(train=1000, grok=181_000, decay=5e-4, rms=0.0219, activation="relu"),
]
NARROW = run(train=1000, grok=33_000, decay=2e-3, rms=0.0695, width=256, n=181_345)


def test_norms_at_grok_as_printed():
    """Table 7: RMS is 0.022 at width 512 and three times that at 256; in L2 they are one norm."""
    every = table(*WIDE, NARROW)
    assert manir_norms.rms_at_grok(table(*WIDE)).verdict == SUPPORTED
    assert manir_norms.rms_at_grok(every).verdict == NOT
    assert manir_norms.l2_at_grok(every).verdict == SUPPORTED
    assert manir_norms.l2_at_grok(table(*WIDE)).verdict == OPEN  # one width
    apart = table(*WIDE, NARROW | {"weight_norm_at_T_grok_0.99": 35.0})
    assert manir_norms.l2_at_grok(apart).verdict == NOT
    assert manir_norms.rms_at_grok(table(*WIDE, run(train=1000))).verdict == OPEN  # one did not grok
    assert manir_norms.universal_rms(table(*WIDE)).verdict == OPEN
    alike = table(*WIDE, NARROW | {"weight_rms_at_T_grok_0.99": 0.022})
    assert manir_norms.universal_rms(alike).verdict == SUPPORTED
    universal = manir_norms.universal_rms(every)
    assert (universal.verdict, universal.should_hold) == (NOT, False)
    claim = manir_norms.l2_varies_less(every)
    assert claim.verdict == SUPPORTED
    assert claim.measured == "L2 differs by a factor of 1.23 and RMS by a factor of 3.09 across widths 256, 512"
    swapped = table(*WIDE, NARROW | {"weight_rms_at_T_grok_0.99": 0.022, "weight_norm_at_T_grok_0.99": 60.0})
    assert manir_norms.l2_varies_less(swapped).verdict == NOT


def test_norms_need_runs_of_the_published_size_that_grokked():
    every, none = table(*WIDE, NARROW), table(run(train=1000))
    for claim in (manir_norms.rms_at_grok, manir_norms.l2_at_grok):
        assert claim(every, published_size=False).verdict == OPEN
        assert claim(none).verdict == OPEN
    assert manir_norms.universal_rms(none).verdict == OPEN
    assert manir_norms.l2_varies_less(table(*WIDE)).verdict == OPEN


def test_norm_and_activation():
    at = [WIDE[0], WIDE[2]]
    claim = manir_norms.same_norm_across_activations(table(*at))
    assert claim.verdict == SUPPORTED
    assert "7.5 % apart; T_grok differs by a factor of 3.3" in claim.measured
    assert (
        manir_norms.same_norm_across_activations(table(at[0], at[1] | {"weight_rms_at_T_grok_0.99": 0.03})).verdict
        == NOT
    )
    assert manir_norms.same_norm_across_activations(table(at[0], at[1] | {"T_grok_0.99": 60_000})).verdict == OPEN
    assert manir_norms.same_norm_across_activations(table(at[0])).verdict == OPEN
    assert not manir_norms.same_norm_across_activations(table(*at), published_size=False).should_hold


# --- 9, 10: arms ------------------------------------------------------------------------------------------------------


def delays(*values: float, activation: str = "gelu") -> list[dict[str, Any]]:
    return [run(train=2000, grok=2000 + value, activation=activation) for value in values]


GELU = delays(54e3, 40e3, 42e3, 48e3, 44e3)
TRANSFORMER = delays(42e3, 32e3, 76e3, 30e3, 74e3)


def test_relu_against_gelu():
    def claim(*values: float):
        relu = delays(*values, activation="relu")
        return manir_arms.relu_is_slower(table(*GELU, *relu), printed="4.32")

    assert claim(180e3, 120e3, 340e3, 150e3, 200e3).verdict == SUPPORTED
    assert claim(50e3, 60e3, 70e3, 40e3, 45e3).verdict == NOT
    assert claim(500e3, 600e3, 700e3).verdict == NOT
    assert claim(math.nan, math.nan, 180e3).verdict == OPEN
    assert claim().verdict == OPEN


def test_transformer_against_mlp_as_printed():
    """Per seed, the paper's matched comparison: its means are 1.11 apart, and the seeds cannot tell them apart."""
    claim = manir_arms.transformer_as_long_as_mlp(table(*TRANSFORMER), table(*GELU), printed="1.11")
    assert (claim.verdict, claim.number, claim.n) == (SUPPORTED, 10, 10)
    assert claim.measured.startswith("1.03 [")  # of the geometric means
    slow = table(*delays(420e3, 320e3, 760e3, 300e3, 740e3))
    assert manir_arms.transformer_as_long_as_mlp(slow, table(*GELU), printed="").verdict == NOT
    assert manir_arms.transformer_as_long_as_mlp(table(*GELU), slow, printed="").verdict == NOT
    few = manir_arms.transformer_as_long_as_mlp(table(*TRANSFORMER[:2]), table(*GELU), printed="")
    assert few.verdict == OPEN
    never = table(run(), run(), run())
    assert manir_arms.transformer_as_long_as_mlp(never, table(*GELU), printed="").verdict == OPEN
    stuck = table(*[run(train=2000)] * 5)
    assert manir_arms.transformer_as_long_as_mlp(stuck, table(*GELU), printed="").verdict == OPEN


def test_activations_in_sweep_a():
    gelu, tanh = [run()] * 5, [run(train=1, grok=240_000, activation="tanh")] * 3 + [run(activation="tanh")] * 2
    assert manir_arms.tanh_groks_more_often_than_gelu(table(*gelu, *tanh)).verdict == SUPPORTED
    assert manir_arms.tanh_groks_more_often_than_gelu(table(*delays(1e5), *tanh)).verdict == NOT
    assert manir_arms.tanh_groks_more_often_than_gelu(table(*gelu, run(activation="tanh"))).verdict == OPEN
    assert manir_arms.tanh_groks_more_often_than_gelu(table(*tanh)).verdict == OPEN


# --- 21: Fourier ------------------------------------------------------------------------------------------------------


def test_top_energy_finds_the_waves_that_were_put_in():
    task = gi.Task.of("add", 11, equals_token=False)
    x = torch.arange(11, dtype=torch.float64)
    wave = {k: torch.cos(2 * math.pi * k * x / 11) for k in (0, 2, 3, 5)}
    columns = [3 * wave[2], 2 * wave[5], wave[3], wave[0]]  # energies 9, 4, 1 by 11/2, and 11
    weights = {"embed.W_E": torch.stack(columns, dim=1)}
    snapshot = Snapshot(task=task, logits=torch.zeros(121, 11, dtype=torch.float64), weights=weights)
    share, frequencies = manir_norms.top_energy(snapshot, 3)
    assert frequencies == (0, 2, 5)
    assert share == pytest.approx((9 / 2 + 4 / 2 + 1) / (9 / 2 + 4 / 2 + 1 + 1 / 2))


def test_embedding_concentration():
    assert manir_norms.embedding_concentration([0.747, 0.756], [0.985]).verdict == SUPPORTED
    assert manir_norms.embedding_concentration([0.747, 0.99], [0.985]).verdict == NOT
    assert manir_norms.embedding_concentration([], [0.985]).verdict == OPEN


# --- what is drawn, and what is trained -------------------------------------------------------------------------------


def test_pair_curves_draw_each_kind_of_pair_once_in_the_legend():
    figure = pair_curves([curves(1.0, 0.0), curves(1.0, 0.01)])
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert named == ["train pairs", "mirrored pairs", "test pairs", "novel pairs"]
    assert sum(trace.name == "novel pairs" for trace in figure.data) == 2
    lacking = pair_curves([curves(1.0, 0.0).drop(columns=["mirror_accuracy"])])
    assert any("mirrored" in note for note in lacking.layout.meta["notes"])


def test_the_published_networks_have_the_published_sizes():
    """N of A1.6, from the printed norms: 181,345 and 1,150,049 weights, and 3.25 million of the transformer."""
    from grokinterp.experiments.manir import network, residual, transformer
    from grokinterp.models import build_model, task_of

    def count(config) -> int:
        return sum(p.numel() for p in build_model(config, task_of(config)).parameters() if p.requires_grad)

    assert count(network(2, 256, lr=1e-2, decay=2e-3)) == 181_345
    assert count(network(4, 512, lr=3e-2, decay=5e-4)) == 1_150_049
    assert count(transformer(1.0)) == pytest.approx(3.253e6, abs=1e3)
    deep = residual()
    assert isinstance(deep.model, MLPConfig)
    assert (deep.model.depth, deep.model.architecture, deep.optimizer.clip) == (8, "residual", 1.0)
    assert len(task_of(network(4, 512, lr=3e-2, decay=1e-3, operation="multiply_nonzero")).inputs) == 9216
