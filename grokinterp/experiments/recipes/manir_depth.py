"""Recipe `manir-depth`: flat MLPs of depth 2 and 4, a residual MLP of depth 8 (H1), and depth 4 at other settings."""

from grokinterp.experiments.claims.manir import depth_fails_to_memorize, depth_is_one_cell
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import SEED, SOURCE, delays_by_seed, network, residual, small_network, small_residual
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size = not evidence.quick
    narrow = evidence.table("depth-4")
    return (
        depth_is_one_cell(evidence.table("depth-2"), narrow, evidence.table("depth-4-elsewhere"), published_size=size),
        depth_fails_to_memorize(narrow, published_size=size),
    )


def _arms(seeds: range) -> tuple[Arm, ...]:
    grid = {SEED: seeds}
    return (
        Arm("depth-2", network(2, 256, lr=1e-2, decay=2e-3), grid),
        Arm("depth-4", network(4, 256, lr=1e-2, decay=2e-3), grid),
        Arm("depth-8-residual", residual(), grid),
        Arm("depth-4-elsewhere", network(4, 512, lr=3e-2, decay=5e-4), grid),
    )


def _small_arms() -> tuple[Arm, ...]:
    grid, decay = {SEED: range(2)}, 3e-3
    return (
        Arm("depth-2", small_network(2, lr=0.1, decay=decay, steps=3000), grid),
        Arm("depth-4", small_network(4, lr=0.1, decay=decay, steps=3000, memorization_budget=1000), grid),
        Arm("depth-8-residual", small_residual(lr=0.1, decay=decay, steps=3000), {SEED: range(1)}),
        Arm("depth-4-elsewhere", small_network(4, lr=0.2, decay=1e-3, steps=5000), grid),
    )


RECIPE = Recipe(
    name="manir-depth",
    title="Depth: where a flat network of depth 4 fails and where it groks",
    source=SOURCE,
    full=Form(
        _arms(range(5)),
        "90 hours",
        "75 of the 90 hours go to the residual networks; each run stops at 1.1 T_grok(0.99); the paper does not "
        "print the learning rate and weight decay of depth 8, so this recipe uses those of depth 2",
        gpu=True,
    ),
    quick=Form(
        _small_arms(),
        "35 seconds",
        "p = 31, width 64 in all arms, half of the pairs, lr 0.1, and λ = 3e-3 (in depth-4-elsewhere, lr 0.2 and "
        "λ = 1e-3); two seeds, but one for depth 8",
    ),
    decide=_decide,
    published=(
        *delays_by_seed("depth 2", "depth-2", ("32,000", "20,000", "26,000", "DNF", "210,000")),
        Published("delay, depth 2", "72,000 ± 85,536 (4 of 5)", "depth-2", {}, "delay_0.99"),
        Published("outcomes, depth 4", "0 of 5", "depth-4", {}, "outcome"),
        *delays_by_seed("depth 8", "depth-8-residual", ("48,000", "24,000", "28,000", "DNF", "DNF")),
        Published("delay, depth 8", "33,333 ± 12,858 (3 of 5)", "depth-8-residual", {}, "delay_0.99"),
        Published("delay, depth 4, width 512", "45,600 ± 5,550 (5 of 5)", "depth-4-elsewhere", {}, "delay_0.99"),
    ),
)
