"""Recipe `memo-transformer`: a 2-layer transformer on addition mod 97 with and without weight decay."""

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.transformers import DECAY, generalizes_late, slower_without_decay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, variant

_FULL = variant(
    "power", task={"operation": "add", "train_fraction": 0.4}, schedule={"steps": 30_000, "stop_when_grokked": True}
)
_SMALL = variant(
    "demo",
    task={"p": 53, "train_fraction": 0.5},
    model={"n_layers": 2, "d_mlp": 128},
    schedule={"steps": 2000, "checkpoints": "log:20+every:500", "stop_factor": 1.1},
)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decay")
    return (
        generalizes_late(
            evidence.table("decay", {DECAY: 1.0}), "addition", "a sudden transition long after memorization; no numbers"
        ),
        slower_without_decay(table, "addition", "weight decay is the driver; no numbers"),
        thresholds_differ(table),
        one_outcome_each(table),
    )


RECIPE = Recipe(
    name="memo-transformer",
    title="A 2-layer transformer on addition, with and without weight decay",
    source="Grokking as a phase transition in transformer training, a memo of February 2026",
    full=Form(
        (Arm("decay", _FULL, {DECAY: (1.0, 0.0), "model_seed": range(3)}),),
        "2 hours (estimated)",
        "the memo specifies p = 97, 40 % of the data, and 2 layers; the rest follows Power et al. 2022, with 30,000 "
        "steps instead of 100,000",
    ),
    quick=Form(
        (Arm("decay", _SMALL, {DECAY: (1.0, 0.0)}),),
        "60 s",
        "p = 53, half of the data, width 64, no LayerNorm, full batch, learning rate 2e-3, 2,000 steps",
    ),
    decide=_decide,
)
