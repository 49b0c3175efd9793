"""Recipe `omnigrok-weight-decay`: Liu et al. 2022, appendix C, time to generalize as a function of weight decay."""

from dataclasses import replace

from grokinterp.config import OptimizerConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.general import delay_as_inverse_decay
from grokinterp.experiments.claims.omnigrok import memorization_without_decay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, until_grokked

_PUBLISHED = "Omnigrok, Appendix C: proportional to 1/λ over about two orders of magnitude"
_NANDA = replace(preset("nanda"), schedule=until_grokked(150_000, 50, 1.05))


def small_transformer(weight_decay: float, *, p: int, fraction: float, steps: int) -> RunConfig:
    """A one-layer transformer like that of Nanda et al., small enough to train in seconds."""
    return RunConfig(
        task=TaskConfig(p=p, train_fraction=fraction),
        model=TransformerConfig(d_model=64, n_heads=4, d_mlp=128),
        optimizer=OptimizerConfig(lr=3e-3, weight_decay=weight_decay, warmup_steps=10),
        schedule=until_grokked(steps, 25, 1.1, checkpoints="log:10", resume_every=1000),
        loss_dtype="float32",
    )


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claims about weight decay."""
    table = evidence.table("decay")
    return (
        delay_as_inverse_decay(table, _PUBLISHED),
        delay_as_inverse_decay(table, _PUBLISHED, quantity="T_grok_0.95", number=None),
        # Assertion 19 concerns a large initialization; this network has the usual one.
        replace(memorization_without_decay(table, published="Omnigrok: T_train does not change"), number=None),
    )


RECIPE = Recipe(
    name="omnigrok-weight-decay",
    title="Time to generalize as a function of weight decay",
    source="Liu, Michaud, and Tegmark 2022, arXiv:2210.01117, Appendix C",
    full=Form(
        (Arm("decay", _NANDA, {"optimizer.weight_decay": (0.1, 0.3, 1.0, 3.0), "model_seed": range(3)}),),
        "10 hours, most of them at the smallest weight decay",
        "the transformer and the task of Nanda et al.; weight decays from 0.1 to 3",
    ),
    quick=Form(
        (
            Arm(
                "decay",
                small_transformer(1.0, p=37, fraction=0.6, steps=8000),
                {"optimizer.weight_decay": (0.5, 1.0, 2.0), "model_seed": range(2)},
            ),
        ),
        "50 s",
        "p = 37, 60 % of the pairs, a smaller transformer, less than a decade of weight decays; differences between "
        "seeds are as large as differences between decays, so these runs cannot determine an exponent",
    ),
    decide=decide,
)
