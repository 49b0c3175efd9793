"""Recipe `manir-canonical`: the run of Figure 1 with three seeds, and the composition of its plateau."""

from dataclasses import replace

from grokinterp import figures
from grokinterp.experiments.claims.general import thresholds_differ
from grokinterp.experiments.claims.manir import canonical_times, plateau
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import SEED, SOURCE, small_network
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import STOP, Arm, Form, Published, Recipe, variant

_FULL = variant("manir", schedule={"steps": 100_000} | STOP | {"stop_factor": 1.1})
_SMALL = small_network(2, lr=0.1, decay=2e-3, steps=6000, width=128, p=47, fraction=0.3, every=20)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size = not evidence.quick
    return (
        canonical_times(evidence.table("canonical"), published_size=size),
        # A seed may need longer for the last few percent than for all the rest.
        replace(thresholds_differ(evidence.table("canonical")), should_hold=False),
        plateau(evidence.metrics("canonical"), published_size=size),
    )


def _figures(evidence: Evidence) -> Figures:
    return {
        "Mirrored and novel pairs": (
            (
                figures.pair_curves(evidence.metrics("canonical")),
                "A test pair (b, a) whose mirror (a, b) is in the training set is answered correctly "
                "as soon as (a, b) is memorized, because the network adds the two embeddings. These pairs form the "
                "plateau. The norm "
                "falls while the network learns novel pairs (Manir and Rupa 2026, Figure 1, which shows all test "
                "pairs together).",
            ),
        )
    }


RECIPE = Recipe(
    name="manir-canonical",
    title="The canonical grokking run of an MLP that adds its embeddings",
    source=SOURCE,
    full=Form(
        (Arm("canonical", _FULL, {SEED: range(5)}),),
        "an hour",
        "100,000 steps instead of 400,000, so a seed as slow as the "
        "paper's slowest (210,000) would not finish; each run stops at 1.1 T_grok(0.99), which changes no reported "
        "time; accuracy is evaluated every 100 steps instead of every 1,000",
    ),
    quick=Form(
        (Arm("canonical", _SMALL, {SEED: range(2)}),),
        "15 seconds",
        "p = 47, width 128, 30 % of the pairs, lr 0.1; two seeds",
    ),
    decide=_decide,
    published=(
        Published("T_train(0.99), seed 0", "1,000 (2,000 in Table 2)", "canonical", {SEED: 0}, "T_train_0.99"),
        Published("T_grok(0.99), seed 0", "33,000 (34,000 in Table 2)", "canonical", {SEED: 0}, "T_grok_0.99"),
        Published("delay, seed 0", "32,000", "canonical", {SEED: 0}, "delay_0.99"),
        Published("delay, seed 1", "20,000", "canonical", {SEED: 1}, "delay_0.99"),
        Published("delay, seed 2", "26,000", "canonical", {SEED: 2}, "delay_0.99"),
        Published("delay, five seeds", "72,000 ± 85,536 (other seeds: DNF and 210,000)", "canonical", {}, "delay_0.99"),
        Published("RMS at T_grok(0.99), seed 0", "0.0695", "canonical", {SEED: 0}, "weight_rms_at_T_grok_0.99"),
        Published("outcomes", "4 grokked, 1 DNF", "canonical", {}, "outcome"),
    ),
    figures=_figures,
)
