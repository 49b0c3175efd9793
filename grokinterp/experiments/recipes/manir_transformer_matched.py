"""Recipe `manir-transformer-matched`: each kind of network at its canonical settings."""

from grokinterp.experiments.claims.manir_arms import transformer_as_long_as_mlp
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import (
    MLP_DELAYS,
    SEED,
    SOURCE,
    delays_by_seed,
    network,
    small_network,
    small_transformer,
    transformer,
)
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    return (
        transformer_as_long_as_mlp(
            evidence.table("transformer"),
            evidence.table("mlp"),
            printed="1.11 (50,800 over 45,600, five seeds)",
            published_size=not evidence.quick,
        ),
    )


RECIPE = Recipe(
    name="manir-transformer-matched",
    title="Transformer versus MLP, each at its canonical settings",
    source=SOURCE,
    full=Form(
        (
            Arm("mlp", network(4, 512, lr=3e-2, decay=5e-4, steps=600_000), {SEED: range(5)}),
            Arm("transformer", transformer(1.0, steps=600_000), {SEED: range(5)}, updates=55_000),
        ),
        "39 hours",
        "each run stops at 1.1 T_grok(0.99); the paper does not print AdamW's betas and epsilon, so this recipe uses "
        "PyTorch's defaults",
        gpu=True,
    ),
    quick=Form(
        (
            Arm("mlp", small_network(4, lr=0.2, decay=6e-4, steps=5000), {SEED: range(3)}),
            Arm("transformer", small_transformer(1.0, steps=3000), {SEED: range(3)}),
        ),
        "55 seconds",
        "p = 31, half of the pairs; an MLP of depth 4 and width 64, a transformer of width 32; three seeds",
    ),
    decide=_decide,
    published=(
        *delays_by_seed("MLP", "mlp", MLP_DELAYS),
        *delays_by_seed("transformer", "transformer", ("42,000", "32,000", "76,000", "30,000", "74,000")),
        Published("delay, MLP", "45,600 ± 5,550 (5 of 5)", "mlp", {}, "delay_0.99"),
        Published("delay, transformer", "50,800 ± 22,565 (5 of 5)", "transformer", {}, "delay_0.99"),
    ),
)
