"""Recipe `manir-multiplication`: transformer versus MLP, and activations, on multiplication without zeros."""

from grokinterp.experiments.claims.manir_arms import relu_is_slower, transformer_as_long_as_mlp
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import (
    ACTIVATION,
    SEED,
    SOURCE,
    network,
    small_network,
    small_transformer,
    transformer,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_PRODUCT = "multiply_nonzero"


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size = not evidence.quick
    return (
        transformer_as_long_as_mlp(
            evidence.table("transformer"),
            evidence.table("mlp", {ACTIVATION: "gelu"}),
            printed="1.42 (35,200 over 24,800, five seeds)",
            published_size=size,
        ),
        relu_is_slower(evidence.table("mlp"), printed="3.82 (93,200 over 24,400)", published_size=size),
    )


RECIPE = Recipe(
    name="manir-multiplication",
    title="Multiplication: transformer versus MLP, and ReLU versus GELU",
    source=SOURCE,
    full=Form(
        (
            Arm(
                "mlp",
                network(4, 512, lr=3e-2, decay=1e-3, operation=_PRODUCT),
                {ACTIVATION: ("gelu", "relu", "tanh"), SEED: range(5)},
            ),
            Arm("transformer", transformer(1.0, operation=_PRODUCT), {SEED: range(5)}, updates=55_000),
        ),
        "50 hours",
        "each run stops at 1.1 T_grok(0.99); the paper does not restate the weight decays; this recipe uses 1e-3 "
        "(MLP) and 1 (transformer)",
        gpu=True,
    ),
    quick=Form(
        (
            Arm(
                "mlp",
                small_network(4, lr=0.2, decay=1e-3, steps=6000, operation=_PRODUCT),
                {ACTIVATION: ("gelu",), SEED: range(3)},
            ),
            Arm("transformer", small_transformer(1.0, steps=3000, operation=_PRODUCT), {SEED: range(3)}),
        ),
        "35 seconds",
        "p = 31, half of the pairs; MLPs of depth 4 and width 64, a transformer of width 32; three seeds, GELU only",
    ),
    decide=_decide,
    published=(
        Published("delay, MLP", "24,800 ± 3,347", "mlp", {ACTIVATION: "gelu"}, "delay_0.99"),
        Published("delay, transformer", "35,200 ± 17,470", "transformer", {}, "delay_0.99"),
        Published("delay, GELU", "24,400", "mlp", {ACTIVATION: "gelu"}, "delay_0.99"),
        Published("delay, ReLU", "93,200", "mlp", {ACTIVATION: "relu"}, "delay_0.99"),
        Published("delay, tanh", "102,667 (3 of 5)", "mlp", {ACTIVATION: "tanh"}, "delay_0.99"),
    ),
)
