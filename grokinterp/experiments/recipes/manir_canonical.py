"""Recipe `manir-canonical`: the run of Figure 1, over three seeds, and what its plateau is made of."""

from dataclasses import replace

from grokinterp import figures
from grokinterp.config import RunConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.general import thresholds_differ
from grokinterp.experiments.claims.manir import canonical_times, plateau
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import SEED, SOURCE, small_network
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe


def _published() -> RunConfig:
    base = preset("manir")
    assert base.schedule is not None
    return replace(base, schedule=replace(base.schedule, steps=100_000, stop_when_grokked=True, stop_factor=1.1))


def _small() -> RunConfig:
    base = small_network(2, lr=0.1, decay=2e-3, steps=6000, width=128, every=20)
    return replace(base, task=TaskConfig(p=47, train_fraction=0.3))


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size = not evidence.quick
    return (
        canonical_times(evidence.table("canonical"), published_size=size),
        # A seed may take longer over its last per cents than over all before.
        replace(thresholds_differ(evidence.table("canonical")), should_hold=False),
        plateau(evidence.metrics("canonical"), published_size=size),
    )


def _figures(evidence: Evidence) -> Figures:
    return {
        "Mirrored and novel pairs": (
            (
                figures.pair_curves(evidence.metrics("canonical")),
                "A test pair (b, a) whose mirror (a, b) is trained on is right as soon as that is memorized, since the "
                "network adds its two embeddings: these are the plateau. The norm falls while novel pairs are learned "
                "(Manir and Rupa 2026, Figure 1, which shows all test pairs together).",
            ),
        )
    }


RECIPE = Recipe(
    name="manir-canonical",
    title="The canonical grokking run of an MLP that adds its embeddings",
    source=SOURCE,
    full=Form(
        (Arm("canonical", _published(), {SEED: range(3)}),),
        "20 to 40 minutes",
        "three seeds where the paper has five, and 100,000 steps where it has 400,000, so that a seed like its slowest "
        "(210,000) does not finish; a run stops at 1.1 T_grok(0.99), which changes no time; evaluated every 100 steps, "
        "the paper every 1,000",
    ),
    quick=Form(
        (Arm("canonical", _small(), {SEED: range(2)}),),
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
        Published("delay, five seeds", "72,000 ± 85,536 (DNF and 210,000 too)", "canonical", {}, "delay_0.99"),
        Published("RMS at T_grok(0.99), seed 0", "0.0695", "canonical", {SEED: 0}, "weight_rms_at_T_grok_0.99"),
        Published("outcomes", "4 grokked, 1 DNF", "canonical", {}, "outcome"),
    ),
    figures=_figures,
)
