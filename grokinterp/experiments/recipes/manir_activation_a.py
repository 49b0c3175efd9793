"""Recipe `manir-activation-a`: GELU, ReLU and tanh at depth 4 and width 256 (Sweep A), where GELU fails."""

from grokinterp.experiments.claims.manir import depth_fails_to_memorize
from grokinterp.experiments.claims.manir_arms import tanh_groks_more_often_than_gelu
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import ACTIVATION, SEED, SOURCE, network, small_network
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_ACTIVATIONS = ("gelu", "relu", "tanh")


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size = not evidence.quick
    return (
        tanh_groks_more_often_than_gelu(evidence.table("activations"), published_size=size),
        depth_fails_to_memorize(evidence.table("activations", {ACTIVATION: "gelu"}), published_size=size),
    )


RECIPE = Recipe(
    name="manir-activation-a",
    title="Activations at depth 4, Sweep A: GELU fails where tanh groks",
    source=SOURCE,
    full=Form(
        (Arm("activations", network(4, 256, lr=1e-2, decay=2e-3), {ACTIVATION: _ACTIVATIONS, SEED: range(5)}),),
        "30 hours",
        "each run stops at 1.1 T_grok(0.99)",
        gpu=True,
    ),
    quick=Form(
        (
            Arm(
                "activations",
                small_network(4, lr=0.1, decay=3e-3, steps=7000, p=23, fraction=0.6, memorization_budget=1000),
                {ACTIVATION: _ACTIVATIONS, SEED: range(2)},
            ),
        ),
        "45 seconds",
        "p = 23, width 64, 60 % of the pairs, lr 0.1, λ = 3e-3 (twice that of the quick form of Sweep B), 7,000 steps; "
        "two seeds",
    ),
    decide=_decide,
    published=(
        Published("outcomes, GELU", "0 of 5", "activations", {ACTIVATION: "gelu"}, "outcome"),
        Published("delay, ReLU", "266,000 ± 96,167 (2 of 5)", "activations", {ACTIVATION: "relu"}, "delay_0.99"),
        Published("delay, tanh", "242,667 ± 134,288 (3 of 5)", "activations", {ACTIVATION: "tanh"}, "delay_0.99"),
    ),
)
