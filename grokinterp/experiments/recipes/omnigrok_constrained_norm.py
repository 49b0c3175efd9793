"""Recipe `omnigrok-constrained-norm`: Liu et al. 2022, section 4, a transformer whose weight norm is held."""

from dataclasses import replace

from grokinterp.config import RunConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.omnigrok import held_norm_removes_delay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe
from grokinterp.experiments.recipes.omnigrok_weight_decay import small_transformer


def held(base: RunConfig, alpha: float, steps: int) -> RunConfig:
    """The run without weight decay whose norm is held at alpha times that of the other's start."""
    assert isinstance(base.model, TransformerConfig)
    assert base.optimizer is not None
    assert base.schedule is not None
    return replace(
        base,
        schedule=replace(base.schedule, steps=steps),
        model=replace(base.model, init_scale=alpha),
        optimizer=replace(base.optimizer, weight_decay=0.0, constrain_norm=True),
    )


def _arms(free: RunConfig, alpha: float, steps: int, seeds: range) -> tuple[Arm, ...]:
    grid = {"model_seed": seeds}
    return Arm("held", held(free, alpha, steps), grid), Arm("free", free, grid)


def _nanda() -> RunConfig:
    base = preset("nanda")
    assert base.schedule is not None
    schedule = replace(base.schedule, steps=15_000, evaluate_every=50, checkpoints=5000, stop_when_grokked=True)
    return replace(base, schedule=replace(schedule, stop_factor=1.2))


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claim about held norms."""
    return (held_norm_removes_delay(evidence.table("held"), evidence.table("free")),)


RECIPE = Recipe(
    name="omnigrok-constrained-norm",
    title="A held weight norm removes the delay",
    source="Liu, Michaud and Tegmark 2022, arXiv:2210.01117",
    full=Form(
        _arms(_nanda(), 0.8, 15_000, range(1)),
        "15 minutes",
        "beside the held run stands the same transformer with weight decay 1 and a free norm",
    ),
    quick=Form(
        _arms(small_transformer(1.0, p=37, fraction=0.5, steps=3000), 1.2, 1000, range(2)),
        "40 s",
        "p = 37 and a smaller transformer; the norm is held at 1.2 times that of the start for 0.8, since a network "
        "this small does not fit the training set at less",
    ),
    decide=decide,
)
