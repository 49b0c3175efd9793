"""Recipe `manir-activation-b`: GELU, ReLU and tanh at depth 4 and width 512 (Sweep B)."""

from grokinterp.experiments.claims.manir_arms import relu_is_slower
from grokinterp.experiments.claims.manir_norms import same_norm_across_activations
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import ACTIVATION, MLP_DELAYS, SEED, SOURCE, delays_by_seed, network, small_network
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_ACTIVATIONS = ("gelu", "relu", "tanh")


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, size = evidence.table("activations"), not evidence.quick
    return (
        relu_is_slower(table, printed="4.32 (196,800 over 45,600, five seeds)", published_size=size),
        same_norm_across_activations(table, published_size=size),
    )


RECIPE = Recipe(
    name="manir-activation-b",
    title="Activations at depth 4, Sweep B: ReLU is slower than GELU",
    source=SOURCE,
    full=Form(
        (Arm("activations", network(4, 512, lr=3e-2, decay=5e-4), {ACTIVATION: _ACTIVATIONS, SEED: range(5)}),),
        "43 to 61 hours",
        "each run stops at 1.1 T_grok(0.99)",
        gpu=True,
    ),
    quick=Form(
        (
            Arm(
                "activations",
                small_network(4, lr=0.1, decay=1.5e-3, steps=9000, p=23, fraction=0.6),
                {ACTIVATION: ("gelu", "relu"), SEED: range(3)},
            ),
        ),
        "40 seconds",
        "p = 23, width 64, 60 % of the pairs, lr 0.1, λ = 1.5e-3, 9,000 steps, three seeds; no tanh; the "
        "claims use T_grok(0.95)",
    ),
    decide=_decide,
    published=(
        Published("delay, GELU", "45,600 ± 5,550 (5 of 5)", "activations", {ACTIVATION: "gelu"}, "delay_0.99"),
        Published("delay, ReLU", "196,800 ± 89,728 (5 of 5)", "activations", {ACTIVATION: "relu"}, "delay_0.99"),
        Published("delay, tanh", "188,000 ± 36,770 (2 of 5)", "activations", {ACTIVATION: "tanh"}, "delay_0.99"),
        *delays_by_seed("GELU", "activations", MLP_DELAYS, {ACTIVATION: "gelu"}),
    ),
)
