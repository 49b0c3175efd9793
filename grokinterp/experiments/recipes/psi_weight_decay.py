"""Recipe `psi-weight-decay`: psi's MLP at six weight decays."""

from grokinterp import figures
from grokinterp.experiments.claims.general import delay_as_inverse_decay, one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import (
    DECAY,
    grokking_with_decay,
    no_grokking_without_decay,
    norm_still_grows,
    within_the_replicates,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.psi import BASE, SOURCE, full_form, published_times
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant
from grokinterp.experiments.reproduction import curves_of_arms

_SMALLER = variant(BASE, task={"p": 59, "train_fraction": 0.7}, schedule=STOP)
_DECAYS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_TIMES = {0.0: (300, None), 0.1: (300, None), 0.5: (300, 4000), 1.0: (350, 2650), 2.0: (350, 1250), 5.0: (500, 800)}
_T99 = {0.5: 4950, 1.0: 3150, 2.0: 1550, 5.0: 1000}
_NORMS = {0.5: 65, 1.0: 60, 2.0: 54, 5.0: 44}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decay")
    replicates = () if evidence.quick else (within_the_replicates(table, _TIMES, DECAY),)
    return (
        *replicates,
        no_grokking_without_decay(table),
        norm_still_grows(evidence.metrics("decay", {DECAY: 0.0}), 0.0, "99.6, rising"),
        *(() if evidence.quick else _of_published_size(evidence)),
        delay_as_inverse_decay(table, "exponent -1.12 for decays of 0.5 to 5"),
        delay_as_inverse_decay(
            table,
            "exponent -0.73 for decays of 0.5 to 5",
            quantity="T_grok_0.95",
            number=None,
            should_hold=False,
        ),
        thresholds_differ(table),
        one_outcome_each(table),
    )


def _of_published_size(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decay")
    return (
        # Both may fail: around the last step, the norm levels off at decay 0.1 and the MLP groks at decay 0.5.
        norm_still_grows(evidence.metrics("decay", {DECAY: 0.1}), 0.1, "95.1, rising", should_hold=False),
        grokking_with_decay(evidence.table("decay", {DECAY: 0.5}), "0.5", "4,000 at decay 0.5", should_hold=False),
        grokking_with_decay(table.loc[table[DECAY] >= 1], "1 to 5", "2,650 at decay 1, 1,250 at 2, 800 at 5"),
    )


def _figures(evidence: Evidence) -> Figures:
    table = evidence.table("decay")
    return {
        **curves_of_arms(evidence),
        "Times and norms": (
            (figures.delay_against(table, DECAY), "Delay from T_train(0.99) to T_grok(0.95), one point per run."),
            (figures.norm_at_grok(table, DECAY), "Weight norm at T_grok(0.95) as L2 norm and RMS."),
        ),
    }


RECIPE = Recipe(
    name="psi-weight-decay",
    title="psi's MLP at six weight decays",
    source=SOURCE,
    full=full_form("decay", DECAY, _DECAYS, range(110, 113), "8 minutes"),
    quick=Form(
        (Arm("decay", _SMALLER, {DECAY: (0.0, 1.0, 2.0, 4.0), "model_seed": (0,)}),),
        "50 s",
        "p = 59, 70 % of the data, four decays, one seed",
    ),
    decide=_decide,
    published=published_times("decay", DECAY, _TIMES, _T99, _NORMS),
    figures=_figures,
)
