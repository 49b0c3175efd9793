"""Recipe `psi-data-fraction`: psi's MLP at four train fractions."""

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import (
    FRACTION,
    no_grokking_at_little_data,
    sooner_with_more_data,
    within_the_replicates,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.psi import BASE, SOURCE, full_form, published_times
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant

_SMALLER = variant(BASE, task={"p": 59}, schedule={"steps": 3000} | STOP)
_TIMES = {0.3: (300, None), 0.5: (350, 2200), 0.7: (300, 950), 0.9: (250, 450)}
_T99 = {0.5: 2650, 0.7: 1050, 0.9: 550}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("fraction")
    replicates = () if evidence.quick else (within_the_replicates(table, _TIMES, FRACTION),)
    little_data = () if evidence.quick else (no_grokking_at_little_data(table),)
    return (*replicates, *little_data, sooner_with_more_data(table), thresholds_differ(table), one_outcome_each(table))


RECIPE = Recipe(
    name="psi-data-fraction",
    title="psi's MLP at four train fractions",
    source=SOURCE,
    full=full_form("fraction", FRACTION, _TIMES, range(12, 15), "6 minutes"),
    quick=Form(
        (Arm("fraction", _SMALLER, {FRACTION: (0.5, 0.7, 0.9), "model_seed": (0,)}),),
        "25 s",
        "p = 59, 3,000 epochs, one seed, without train fraction 0.3",
    ),
    decide=_decide,
    published=published_times("fraction", FRACTION, _TIMES, _T99),
)
