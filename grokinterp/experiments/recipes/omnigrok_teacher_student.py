"""Recipe `omnigrok-teacher-student`: Liu et al. 2022, section 3.1, a tanh network that learns from another one."""

from dataclasses import replace

from grokinterp.config import RegressionConfig, RunConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.omnigrok import (
    generalization_as_inverse_decay,
    memorization_without_decay,
    small_start_has_no_delay,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, changed, until_grokked


def student_config(alpha: float, lr: float = 3e-4, steps: int = 100_000) -> RunConfig:
    """The student with initial weights multiplied by alpha. As in the paper, an error below 0.01 counts as correct."""
    return replace(
        changed(preset("teacher-student"), {"model.init_scale": alpha, "optimizer.lr": lr}),
        task=RegressionConfig(threshold=0.01),
        schedule=until_grokked(steps, "dense:0:2000:10+every:50", 1.2, resume_every=5000),
    )


def _arms(lr: float, steps: int, large: tuple[float, ...], small: tuple[float, ...], seeds: range) -> tuple[Arm, ...]:
    return (
        Arm("large", student_config(2.0, lr, steps), {"optimizer.weight_decay": large, "model_seed": seeds}),
        Arm("small", student_config(0.5, lr, steps), {"optimizer.weight_decay": small, "model_seed": seeds}),
    )


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claims about weight decay for a large and a small initialization."""
    large, small = evidence.table("large"), evidence.table("small")
    return (
        generalization_as_inverse_decay(large, published="Omnigrok, Figure 3: T_test scales as 1/γ at α = 2"),
        memorization_without_decay(large, published="Omnigrok, Figure 3: T_train does not change"),
        small_start_has_no_delay(small),
    )


RECIPE = Recipe(
    name="omnigrok-teacher-student",
    title="Teacher-student learning: initial norm and weight decay",
    source="Liu, Michaud, and Tegmark 2022, arXiv:2210.01117",
    full=Form(
        _arms(3e-4, 100_000, (0.0, 0.03, 0.1, 0.3, 1.0), (0.0, 0.03, 1.0), range(1, 4)),
        "6 minutes",
        "the paper uses γ = 0, 0.03, and 1; the other values serve to fit the exponent. Runs stop soon after they "
        "generalize",
    ),
    quick=Form(
        _arms(1e-3, 10_000, (0.0, 0.03, 0.1, 0.3), (0.0, 0.3), range(1, 3)),
        "30 s",
        "learning rate 1e-3 instead of 3e-4, and 10,000 steps instead of 100,000",
    ),
    decide=decide,
)
