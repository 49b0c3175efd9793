"""Recipe `power-regularizers`: L1, dropout, gradient noise, and a small initialization instead of weight decay."""

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, TaskConfig
from grokinterp.experiments.claims.regularizers import needs_a_regularizer, replaces_weight_decay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, until_grokked, variant

_DECAY = "optimizer.weight_decay"
# The field of each regularizer, and what the literature says about it.
_REGULARIZERS = {
    "L1": (
        "l1",
        "optimizer.l1",
        "Notsawo et al. 2025, arXiv:2506.05718: a small but non-zero L1 penalty induces grokking",
    ),
    "Dropout": (
        "dropout",
        "model.dropout",
        "Doshi et al. 2023, arXiv:2310.13061: weight decay and dropout force all neurons to learn generalizing "
        "representations",
    ),
    "Gradient noise": (
        "gradient-noise",
        "optimizer.gradient_noise",
        "Power et al. 2022, Section 3.3: noise in the optimization process is beneficial for generalization",
    ),
    "A small initialization": (
        "initialization",
        "model.init_scale",
        "Liu et al. 2022, arXiv:2210.01117: a small initialization shortens the delay or removes it",
    ),
}
_EXPECTED = ("L1",)

_TRANSFORMER = variant(
    "demo", task={"p": 53, "train_fraction": 0.5}, optimizer={"weight_decay": 0.0}, schedule={"steps": 3000}
)
_MLP = RunConfig(
    task=TaskConfig(p=43, train_fraction=0.7),
    model=MLPConfig(input="one_hot", depth=2, width=128),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.0, betas=(0.9, 0.999)),
    schedule=until_grokked(2500, 25, 1.02, checkpoints="log:5"),
    loss_dtype="float32",
)


def _arms(base: RunConfig, strengths: dict[str, tuple[float, ...]]) -> tuple[Arm, ...]:
    seeds = {"model_seed": range(3)}
    fields = {"none": (_DECAY, (0.0,)), "weight-decay": (_DECAY, (1.0,))}
    fields |= {arm: (name, strengths[arm]) for arm, name, _ in _REGULARIZERS.values()}
    return tuple(Arm(arm, base, {name: values, **seeds}) for arm, (name, values) in fields.items())


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    plain, decayed = evidence.table("none"), evidence.table("weight-decay")
    return (
        needs_a_regularizer(plain, decayed),
        *(
            replaces_weight_decay(
                title,
                evidence.table(arm),
                name,
                plain=plain,
                decayed=decayed,
                published=published,
                should_hold=title in _EXPECTED,
            )
            for title, (arm, name, published) in _REGULARIZERS.items()
        ),
    )


RECIPE = Recipe(
    name="power-regularizers",
    title="Regularizers instead of weight decay",
    source="Power et al. 2022, arXiv:2201.02177",
    full=Form(
        _arms(
            _TRANSFORMER,
            {
                "l1": (1e-5, 3e-5, 1e-4),
                "dropout": (0.2, 0.5),
                "gradient-noise": (1e-4, 1e-3),
                "initialization": (0.25, 0.5),
            },
        ),
        "15 minutes",
        "Power et al. vary weight decay, dropout, and noise for division mod 97 and measure data efficiency; this "
        "recipe asks which of them suffices without weight decay, for a 1-layer transformer on addition mod 53",
    ),
    quick=Form(
        _arms(_MLP, {"l1": (1e-5, 3e-5, 1e-4), "dropout": (0.5,), "gradient-noise": (1e-3,), "initialization": (0.5,)}),
        "80 s",
        "an MLP on addition mod 43 with 70 % of the pairs, three seeds",
    ),
    decide=_decide,
)
