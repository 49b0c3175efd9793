"""Recipe `omnigrok-constrained-norm`: Liu et al. 2022, section 4, a transformer with a constrained weight norm."""

from grokinterp.config import RunConfig
from grokinterp.experiments.claims.omnigrok import held_norm_removes_delay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, changed, variant
from grokinterp.experiments.recipes.omnigrok_weight_decay import small_transformer


def _arms(free: RunConfig, alpha: float, steps: int, seeds: range) -> tuple[Arm, ...]:
    """The given run, and one without weight decay whose norm is constrained to alpha times the initial norm."""
    constrained = {
        "schedule.steps": steps,
        "model.init_scale": alpha,
        "optimizer.weight_decay": 0.0,
        "optimizer.constrain_norm": True,
    }
    grid = {"model_seed": seeds}
    return Arm("held", changed(free, constrained), grid), Arm("free", free, grid)


_NANDA = variant(
    "nanda", schedule={"steps": 15_000, "evaluate_every": 50, "checkpoints": 5000} | STOP | {"stop_factor": 1.2}
)


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claim about constrained norms."""
    return (held_norm_removes_delay(evidence.table("held"), evidence.table("free")),)


RECIPE = Recipe(
    name="omnigrok-constrained-norm",
    title="A constrained weight norm removes the delay",
    source="Liu, Michaud, and Tegmark 2022, arXiv:2210.01117",
    full=Form(
        _arms(_NANDA, 0.8, 15_000, range(3)),
        "45 minutes",
        "the arm 'free' is the same transformer with weight decay 1 and an unconstrained norm",
    ),
    quick=Form(
        _arms(small_transformer(1.0, p=37, fraction=0.5, steps=3000), 1.2, 1000, range(2)),
        "40 s",
        "p = 37 and a smaller transformer; the norm is constrained to 1.2 times the initial norm instead of 0.8 times, "
        "because a network this small cannot fit the training set with a smaller norm",
    ),
    decide=decide,
)
