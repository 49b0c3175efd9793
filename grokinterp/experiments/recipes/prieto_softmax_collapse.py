"""Recipe `prieto-softmax-collapse`: Prieto et al. 2025, *Grokking at the Edge of Numerical Stability*."""

from dataclasses import replace
from functools import partial

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.experiments.claims.softmax import decay_is_fast, float32_absorbs, generalizes, sooner_than
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe
from grokinterp.experiments.softmax import absorption_of_run

_FIGURES = "Prieto et al. 2025, Figures 1 and 4; Chou 2025 could not reproduce Figures 2a, 6b and 15a"


def _config(p: int, fraction: float, width: int, lr: float, steps: int) -> RunConfig:
    return RunConfig(
        task=TaskConfig(p=p, train_fraction=fraction),
        model=MLPConfig(input="one_hot", depth=2, width=width),
        optimizer=OptimizerConfig(lr=lr, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-25),
        schedule=ScheduleConfig(
            steps=steps,
            evaluate_every="dense:0:400:10+every:50",
            checkpoints="log:20",
            resume_every=2000,
            stop_when_grokked=True,
            stop_factor=1.1,
        ),
        loss_dtype="float32",
    )


def _arms(base: RunConfig, slow: RunConfig, seeds: range) -> tuple[Arm, ...]:
    """Args: base: at the rate of Figures 1 and 4; slow: at that of Figure 2, where the softmax collapses."""
    assert base.optimizer is not None
    grid = {"model_seed": seeds}
    perpendicular = replace(base, optimizer=replace(base.optimizer, orthogonal_gradient=True))
    return (
        Arm("collapse", slow, grid),
        Arm("cross-entropy", base, grid),
        Arm("stablemax", replace(base, loss="stablemax"), grid),
        Arm("orthogonal-gradient", perpendicular, grid),
    )


def _with_decay(decays: tuple[float, ...], seeds: range) -> Arm:
    """At the published size in either form: it is over soon."""
    grid = {"optimizer.weight_decay": decays, "model_seed": seeds}
    return Arm("weight-decay", _config(113, 0.4, 200, 1e-2, 400), grid)


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claims about the collapse and what avoids it."""
    plain = evidence.table("cross-entropy")
    avoids = partial(generalizes, published=_FIGURES, budget_decides=not evidence.quick)
    perpendicular = evidence.table("orthogonal-gradient")
    stable = evidence.table("stablemax")
    return (
        float32_absorbs([absorption_of_run(run) for run in evidence.runs("collapse")]),
        # Of the first two no run of ours generalized, at p = 43 and up to 4,000 steps.
        avoids(plain, means="a loss that does not collapse", should_hold=False),
        avoids(stable, means="StableMax", should_hold=False),
        avoids(perpendicular, means="⊥Grad"),
        sooner_than(perpendicular, plain, means="⊥Grad"),
        decay_is_fast(evidence.table("weight-decay")),
    )


RECIPE = Recipe(
    name="prieto-softmax-collapse",
    title="Softmax collapse, and what avoids it",
    source="Prieto, Barsbey, Mediano and Birdal 2025, arXiv:2501.04697",
    full=Form(
        (
            *_arms(_config(113, 0.4, 200, 1e-2, 20_000), _config(113, 0.4, 200, 5e-4, 20_000), range(1)),
            _with_decay((2.0, 5.0, 10.0), range(3)),
        ),
        "20 minutes",
        "cross entropy is trained in the form of this package, which does not collapse; what plain float32 would make "
        "of its logits is measured at every checkpoint",
    ),
    quick=Form(
        (
            *_arms(_config(43, 0.6, 100, 1e-2, 2000), _config(43, 0.6, 100, 3e-3, 3000), range(2)),
            _with_decay((5.0,), range(1)),
        ),
        "40 s",
        "p = 43, 60 % of the pairs, width 100, 2,000 steps; until the softmax collapses 3,000, at a rate of 3e-3. "
        "Weight decay alone is at the published size",
    ),
    decide=decide,
)
