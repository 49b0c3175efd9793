"""Recipe `omnigrok-initialization`: Liu et al. 2022, the delay as a function of the initialization scale."""

from dataclasses import replace

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.omnigrok import larger_start_longer_delay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, until_grokked

_NANDA = replace(preset("nanda"), schedule=until_grokked(40_000, 50, 1.05))
_SMALL = RunConfig(
    task=TaskConfig(p=43, train_fraction=0.6),
    model=MLPConfig(input="one_hot", depth=2, width=128),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=1.0, betas=(0.9, 0.999)),
    schedule=until_grokked(6000, 25, 1.05, checkpoints="log:10", resume_every=1000),
    loss_dtype="float32",
)


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claim about the initialization scale."""
    return (larger_start_longer_delay(evidence.table("start")),)


RECIPE = Recipe(
    name="omnigrok-initialization",
    title="The delay as a function of the initialization scale",
    source="Liu, Michaud, and Tegmark 2022, arXiv:2210.01117",
    full=Form(
        (Arm("start", _NANDA, {"model.init_scale": (0.5, 0.8, 1.0, 1.5, 2.0), "model_seed": range(3)}),),
        "3 hours",
        "Omnigrok varies the initialization on MNIST and in the teacher-student task; this recipe varies it for "
        "Nanda et al.'s transformer",
    ),
    quick=Form(
        (Arm("start", _SMALL, {"model.init_scale": (0.5, 2.0, 8.0), "model_seed": range(2)}),),
        "45 s",
        "an MLP on addition mod 43, with weight decay 1",
    ),
    decide=decide,
)
