"""Recipe `slingshot`: Adam without weight decay, and the effect of its ε late in training."""

import numpy as np
import pandas as pd

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.slingshot import (
    EPS,
    Slingshots,
    decide_slingshots,
    exact_loss_removes_them,
    extract_slingshots,
    last_layer_norms,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import Arm, Form, Recipe, changed
from grokinterp.experiments.reproduction import curves_of_arms
from grokinterp.figures import slingshot_curves

_FULL = changed(
    preset("power"),
    {
        "optimizer.name": "adam",
        "optimizer.weight_decay": 0.0,
        "schedule.steps": 500_000,
        "schedule.evaluate_every": 100,
        "schedule.checkpoints": 2000,
        "loss_dtype": "float32_plain",
    },
)
_EXACT = changed(_FULL, {"loss_dtype": "float32"})
_SMALL = RunConfig(
    task=TaskConfig(operation="divide", p=31, train_fraction=0.5),
    model=MLPConfig(input="one_hot", depth=2, width=128),
    optimizer=OptimizerConfig(name="adam", lr=1e-3, weight_decay=0.0),
    schedule=ScheduleConfig(steps=8000, evaluate_every=5, checkpoints=40),
    loss_dtype="float32_plain",
)
_SEEDS = {"model_seed": range(2)}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    rounded, exact = ([Slingshots.from_json(run) for run in evidence.extracted(arm)] for arm in ("eps", "exact"))
    return (*decide_slingshots(rounded, scaled_down=evidence.quick), exact_loss_removes_them(rounded, exact))


def _figures(evidence: Evidence) -> Figures:
    captions = {
        "eps": "Training loss, and the L2 norm of the last layer's matrix at the checkpoints, with PyTorch's float32 "
        "cross entropy. In a slingshot, the norm rises, the loss spikes, and the norm reaches a plateau (Thilak et al. "
        "2022, Figure 1).",
        "exact": "The same with a cross entropy that is exact for small values: the loss falls without a spike.",
    }
    curves = []
    for arm, caption in captions.items():
        runs, table = evidence.runs(arm), evidence.table(arm)
        table = table.loc[np.isin(table["run"], [run.path.name for run in runs])]
        losses = [pd.Series(run.metrics["train_loss"]) for run in runs]
        curves.append((slingshot_curves(table, losses, [last_layer_norms(run) for run in runs]), caption))
    return {"Slingshots": tuple(curves), **curves_of_arms(evidence)}


RECIPE = Recipe(
    name="slingshot",
    title="Slingshots: late loss spikes under Adam without weight decay",
    source="Thilak et al. 2022, arXiv:2206.04817",
    full=Form(
        (
            Arm("eps", _FULL, {EPS: (1e-8, 1e-5), "model_seed": range(3)}, extract=extract_slingshots),
            Arm("exact", _EXACT, {"model_seed": range(3)}, extract=extract_slingshots),
        ),
        "39 hours (estimated): nine runs of 500,000 steps",
        "one more arm than published: a cross entropy that is exact for small values",
    ),
    quick=Form(
        (
            Arm("eps", _SMALL, {EPS: (1e-8, 1e-5), **_SEEDS}, extract=extract_slingshots),
            Arm("exact", changed(_SMALL, {"loss_dtype": "float32"}), _SEEDS, extract=extract_slingshots),
        ),
        "30 s",
        "an MLP, p = 31, full batch, 8,000 steps",
    ),
    decide=_decide,
    figures=_figures,
)
