"""Recipe `power-s5`: products of permutations of five symbols."""

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.transformers import OPERATION, generalizes_late
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant

_FULL = variant("power", task={"operation": "s5_xy", "p": 120}, schedule=STOP | {"stop_factor": 1.2})
_SMALL = variant(
    "s5",
    task={"train_fraction": 0.6},
    optimizer={"lr": 2e-3},
    schedule={"steps": 5000, "evaluate_every": 50, "checkpoints": "log:20+every:500"},
)
_PRODUCTS = {"s5_xy": "the product xy in S5", "s5_xyx": "xyx in S5", "s5_xyx^-1": "xyx⁻¹ in S5"}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("s5")
    claims = [
        generalizes_late(
            table.loc[table[OPERATION] == operation], product, "Figure 2: within 1e5 steps, with 50 % of the data"
        )
        for operation, product in _PRODUCTS.items()
        if operation in set(table[OPERATION])
    ]
    return (*claims, thresholds_differ(table), one_outcome_each(table))


RECIPE = Recipe(
    name="power-s5",
    title="Learning products in S5",
    source="Power et al. 2022, arXiv:2201.02177",
    full=Form(
        (Arm("s5", _FULL, {OPERATION: tuple(_PRODUCTS), "model_seed": range(3)}),),
        "9 hours at most (estimated): nine runs of up to 100,000 steps",
    ),
    quick=Form(
        (Arm("s5", _SMALL, {"model_seed": range(2)}),),
        "30 s",
        "an MLP instead of a transformer: preset s5 with 60 % of the data, learning rate 2e-3, up to 5,000 steps, "
        "and two seeds. Transformers that train within a minute either generalize while they memorize or do neither",
    ),
    decide=_decide,
)
