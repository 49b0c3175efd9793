"""Recipe `psi-operation`: psi's MLP on addition, subtraction and multiplication."""

from dataclasses import replace

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import OPERATION, operations_alike, within_the_replicates
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.psi import BASE, SOURCE, full_form, published_times
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant

_SMALLER = variant(BASE, task={"p": 59}, optimizer={"weight_decay": 2.0}, schedule=STOP)
_TIMES = {"add": (350, 2300), "subtract": (350, 2250), "multiply": (350, 2000)}
_T99 = {"add": 2700, "subtract": 2600, "multiply": 2300}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("operation")
    replicates = () if evidence.quick else (within_the_replicates(table, _TIMES, OPERATION),)
    # At p = 59 the three operations differ more.
    return (
        *replicates,
        replace(operations_alike(table), should_hold=not evidence.quick),
        thresholds_differ(table),
        one_outcome_each(table),
    )


RECIPE = Recipe(
    name="psi-operation",
    title="psi's MLP on three operations",
    source=SOURCE,
    full=full_form("operation", OPERATION, _TIMES, range(9, 12), "4 minutes"),
    quick=Form(
        (Arm("operation", _SMALLER, {OPERATION: tuple(_TIMES), "model_seed": (0,)}),),
        "40 s",
        "p = 59, weight decay 2, one seed",
    ),
    decide=_decide,
    published=published_times("operation", OPERATION, _TIMES, _T99),
)
