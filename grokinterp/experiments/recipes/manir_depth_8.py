"""Recipe `manir-depth-8`: an MLP of depth 8 with residual connections and LayerNorm, beside a flat one of depth 4."""

from grokinterp.experiments.claims.manir_arms import residual_depth_groks
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import SEED, SOURCE, delays_by_seed, network, residual, small_network, small_residual
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_GRID, _SMALL_GRID = {SEED: range(5)}, {SEED: range(3)}
# Learning rate and weight decay of both networks: at the published size, and in miniature.
_LR, _DECAY = 1e-2, 2e-3
_SMALL_LR, _SMALL_DECAY = 0.1, 3e-3


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    deep, flat = evidence.table("depth-8-residual"), evidence.table("depth-4-flat")
    return (residual_depth_groks(deep, flat, published_size=not evidence.quick),)


RECIPE = Recipe(
    name="manir-depth-8",
    title="Depth 8 with residual connections and LayerNorm",
    source=SOURCE,
    full=Form(
        (
            Arm("depth-8-residual", residual(lr=_LR, decay=_DECAY), _GRID),
            Arm("depth-4-flat", network(4, 256, lr=_LR, decay=_DECAY), _GRID),
        ),
        "80 hours",
        "each run stops at 1.1 T_grok(0.99); the paper does not print the learning rate and weight decay of depth 8, "
        "so this recipe uses those of depth 4",
        gpu=True,
    ),
    quick=Form(
        (
            Arm(
                "depth-8-residual",
                small_residual(lr=_SMALL_LR, decay=_SMALL_DECAY, steps=3000, fraction=0.6),
                _SMALL_GRID,
            ),
            Arm(
                "depth-4-flat",
                small_network(4, lr=_SMALL_LR, decay=_SMALL_DECAY, steps=3000, fraction=0.6, memorization_budget=1000),
                _SMALL_GRID,
            ),
        ),
        "60 s",
        "p = 31, 60 % of the pairs, width 64, lr 0.1, λ = 3e-3, three seeds",
    ),
    decide=_decide,
    published=(
        *delays_by_seed("depth 8", "depth-8-residual", ("48,000", "24,000", "28,000", "DNF", "DNF")),
        Published("delay, depth 8", "33,333 ± 12,858 (3 of 5)", "depth-8-residual", {}, "delay_0.99"),
        Published("outcomes, depth 4", "0 of 5", "depth-4-flat", {}, "outcome"),
    ),
)
