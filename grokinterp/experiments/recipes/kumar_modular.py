"""Recipe `kumar-modular`: Kumar et al. 2023, modular addition by an MLP trained with plain gradient descent."""

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, TaskConfig
from grokinterp.experiments.claims.kumar import generalizes_without_decay, norm_rises, smaller_scale_shortens_delay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, until_grokked

_P, _WIDTH = 23, 100


def modular_config(scale: float = 1.0, steps: int = 100_000) -> RunConfig:
    """The run at one scale: f = scale²/(DN) W2 (W1 x)² with D = 2p inputs, N neurons and weights from N(0, 1).

    The paper minimizes the mean squared error divided by scale² at learning rate 100/scale², which equals learning rate
    100/scale⁴ on the error itself.
    """
    return RunConfig(
        task=TaskConfig(p=_P, train_fraction=0.9),
        model=MLPConfig(
            input="one_hot",
            depth=1,
            width=_WIDTH,
            activation="quadratic",
            biases=False,
            init="unit",
            output_scale=scale**2 / (2 * _P * _WIDTH),
        ),
        optimizer=OptimizerConfig(name="sgd", lr=100 / scale**4, weight_decay=0.0),
        schedule=until_grokked(steps, 50, 1.1, resume_every=5000),
        loss="mse",
        loss_dtype="float32",
    )


def _arm(scales: tuple[float, ...]) -> Arm:
    points = tuple(
        {"model.output_scale": run.model.output_scale, "optimizer.lr": run.optimizer.lr}  # pyright: ignore
        for run in map(modular_config, scales)
    )
    return Arm("scale", modular_config(), {"model_seed": range(3)}, points)


def decide(evidence: Evidence) -> tuple[Claim, ...]:
    """The claims about the output scale."""
    table, metrics = evidence.table("scale"), evidence.metrics("scale")
    return (generalizes_without_decay(table), norm_rises(table, metrics), smaller_scale_shortens_delay(table))


RECIPE = Recipe(
    name="kumar-modular",
    title="Grokking without weight decay: modular addition, from lazy to rich",
    source="Kumar, Bordelon, Gershman, and Pehlevan 2023, arXiv:2310.06110",
    full=Form(
        (_arm((0.5, 1.0, 1.5, 2.0)),),
        "4 minutes",
        "three initializations per scale instead of the paper's one; the paper prints curves but no times",
    ),
    quick=Form((_arm((0.5, 1.0)),), "30 s", "two of the four scales"),
    decide=decide,
)
