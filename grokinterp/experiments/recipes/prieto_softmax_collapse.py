"""Recipe `prieto-softmax-collapse`: Prieto et al. 2025, *Grokking at the Edge of Numerical Stability*."""

from dataclasses import replace
from functools import partial
from math import isfinite

import pandas as pd

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, TaskConfig
from grokinterp.experiments.claims.softmax import decay_is_fast, float32_absorbs, generalizes, sooner_than
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, changed, until_grokked
from grokinterp.experiments.softmax import absorption_of_run
from grokinterp.runs.run import Run

_FIGURES = "Prieto et al. 2025, Figures 1 and 4; Chou 2025 could not reproduce Figures 2a, 6b, and 15a"


def _config(p: int, fraction: float, width: int, lr: float, steps: int) -> RunConfig:
    return RunConfig(
        task=TaskConfig(p=p, train_fraction=fraction),
        model=MLPConfig(input="one_hot", depth=2, width=width),
        optimizer=OptimizerConfig(lr=lr, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-25),
        schedule=until_grokked(steps, "dense:0:400:10+every:50", 1.1, resume_every=2000),
        loss_dtype="float32",
    )


def _extract(run: Run) -> dict[str, list[float | None]]:
    """The absorption by step: a column of steps, and one for each quantity."""
    table = absorption_of_run(run).reset_index()
    return {str(name): [round(x, 6) if isfinite(x) else None for x in table[name]] for name in table}


def _arms(base: RunConfig, slow: RunConfig, seeds: range) -> tuple[Arm, ...]:
    """The arms without weight decay.

    Args:
        base: has the learning rate of Figures 1 and 4.
        slow: has the learning rate of Figure 2, at which the softmax collapses.
        seeds: seeds of every arm.
    """
    grid = {"model_seed": seeds}
    perpendicular = changed(base, {"optimizer.orthogonal_gradient": True})
    return (
        Arm("collapse", slow, grid, extract=_extract),
        Arm("cross-entropy", base, grid),
        Arm("stablemax", replace(base, loss="stablemax"), grid),
        Arm("orthogonal-gradient", perpendicular, grid),
    )


def _with_decay(decays: tuple[float, ...], seeds: range) -> Arm:
    """Weight decay alone, at the published size in both forms because its runs are short."""
    grid = {"optimizer.weight_decay": decays, "model_seed": seeds}
    return Arm("weight-decay", _config(113, 0.4, 200, 1e-2, 400), grid)


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claims about the collapse and about ways to avoid it."""
    plain = evidence.table("cross-entropy")
    avoids = partial(generalizes, published=_FIGURES, budget_decides=not evidence.quick)
    perpendicular = evidence.table("orthogonal-gradient")
    stable = evidence.table("stablemax")
    return (
        float32_absorbs([pd.DataFrame(run).set_index("step") for run in evidence.extracted("collapse")]),
        # With the first two losses, no run generalized at p = 43 within 4,000 steps.
        avoids(plain, means="a loss that does not collapse", should_hold=False),
        avoids(stable, means="StableMax", should_hold=False),
        avoids(perpendicular, means="⊥Grad"),
        sooner_than(perpendicular, plain, means="⊥Grad"),
        decay_is_fast(evidence.table("weight-decay")),
    )


RECIPE = Recipe(
    name="prieto-softmax-collapse",
    title="Softmax collapse and ways to avoid it",
    source="Prieto, Barsbey, Mediano, and Birdal 2025, arXiv:2501.04697",
    full=Form(
        (
            *_arms(_config(113, 0.4, 200, 1e-2, 20_000), _config(113, 0.4, 200, 5e-4, 20_000), range(3)),
            _with_decay((2.0, 5.0, 10.0), range(3)),
        ),
        "40 minutes",
        "training uses this package's form of the cross entropy, which does not collapse; the effect of plain "
        "float32 on the logits is measured at every checkpoint",
    ),
    quick=Form(
        (
            *_arms(_config(43, 0.6, 100, 1e-2, 2000), _config(43, 0.6, 100, 3e-3, 3000), range(2)),
            _with_decay((5.0,), range(1)),
        ),
        "40 s",
        "p = 43, 60 % of the pairs, width 100, 2,000 steps (3,000 steps at learning rate 3e-3 in the collapse "
        "arm). Only the weight-decay arm has the published size",
    ),
    decide=decide,
)
