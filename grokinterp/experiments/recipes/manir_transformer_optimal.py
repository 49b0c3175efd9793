"""Recipe `manir-transformer-optimal`: each kind of network at its best weight decay."""

from grokinterp.experiments.claims.manir_arms import transformer_as_long_as_mlp
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import SEED, SOURCE, network, small_network, small_transformer, transformer
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    return (
        transformer_as_long_as_mlp(
            evidence.table("transformer"),
            evidence.table("mlp"),
            printed="1.90 (50,800 over 26,800, five seeds)",
            published_size=not evidence.quick,
        ),
    )


RECIPE = Recipe(
    name="manir-transformer-optimal",
    title="Transformer versus MLP, each at its best weight decay",
    source=SOURCE,
    full=Form(
        (
            Arm("mlp", network(4, 512, lr=3e-2, decay=1e-3, steps=600_000), {SEED: range(5)}),
            Arm("transformer", transformer(5.0, steps=600_000), {SEED: range(5)}, updates=55_000),
        ),
        "37 hours",
        "each run stops at 1.1 T_grok(0.99); the paper does not print AdamW's betas and epsilon, so this recipe uses "
        "PyTorch's defaults",
        gpu=True,
    ),
    quick=Form(
        (
            Arm("mlp", small_network(4, lr=0.2, decay=1e-3, steps=5000), {SEED: range(3)}),
            Arm("transformer", small_transformer(1.5, steps=3000), {SEED: range(3)}),
        ),
        "40 seconds",
        "p = 31, half of the pairs; an MLP of depth 4 and width 64, a transformer of width 32; three seeds; the "
        "weight decays are the best of five (transformer) and of four (MLP) tried on one seed",
    ),
    decide=_decide,
    published=(
        Published("delay, MLP", "26,800 ± 6,419 (5 of 5)", "mlp", {}, "delay_0.99"),
        Published("delay, transformer", "50,800 ± 38,745 (5 of 5)", "transformer", {}, "delay_0.99"),
        Published("delay, transformer, three seeds", "24,000 ± 10,583", "transformer", {}, "delay_0.99"),
        Published("delay, transformer, seed 0", "12,000", "transformer", {SEED: 0}, "delay_0.99"),
    ),
)
