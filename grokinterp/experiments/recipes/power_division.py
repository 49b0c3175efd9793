"""Recipe `power-division`: division with and without weight decay."""

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.transformers import DECAY, generalizes_late, slower_without_decay
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe, variant

_FULL = variant("power", schedule={"steps": 1_000_000, "stop_when_grokked": True})
_SMALL = variant(
    "power",
    task={"p": 47, "train_fraction": 0.7},
    model={"n_layers": 1, "d_model": 64, "d_mlp": 256},
    optimizer={"lr": 2e-3},
    schedule={"steps": 4500, "evaluate_every": 50, "checkpoints": "log:20+every:500"},
)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decay")
    return (
        generalizes_late(
            evidence.table("decay", {DECAY: 1.0}), "division", "Figure 2: within 1e5 steps, with weight decay 1"
        ),
        slower_without_decay(
            table, "division", "Figure 1, without weight decay: about 1e3 steps to memorize and 1e6 to generalize"
        ),
        thresholds_differ(table),
        one_outcome_each(table),
    )


RECIPE = Recipe(
    name="power-division",
    title="A small transformer on division, with and without weight decay",
    source="Power et al. 2022, arXiv:2201.02177",
    full=Form(
        (Arm("decay", _FULL, {DECAY: (1.0, 0.0)}),),
        "10 hours (estimated): one run of up to 1,000,000 steps and a short one",
    ),
    quick=Form(
        (Arm("decay", _SMALL, {DECAY: (1.0, 0.0)}),),
        "40 s",
        "p = 47, 70 % of the data, 1 layer of width 64, learning rate 2e-3, 4,500 steps",
    ),
    decide=_decide,
    published=(
        Published("T_train, λ = 0", "below 1,000", "decay", {DECAY: 0.0}, "T_train_0.99"),
        Published("T_grok, λ = 0", "about 1,000,000", "decay", {DECAY: 0.0}, "T_grok_0.99"),
    ),
)
