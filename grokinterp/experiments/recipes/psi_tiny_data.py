"""Recipe `psi-tiny-data`: psi's MLP with 18 and 188 of the 9,409 pairs for training."""

from grokinterp.experiments.claims.psi import FRACTION
from grokinterp.experiments.claims.tiny_data import tiny_sets_are_memorized, tiny_sets_do_not_generalize
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.psi import BASE, SOURCE
from grokinterp.experiments.recipe import Arm, Form, Recipe, variant

_FRACTIONS = (0.002, 0.02)  # 18 and 188 pairs
_EVALUATION = {"evaluate_every": "dense:0:500:10+every:50"}
_FULL = variant(BASE, schedule=_EVALUATION)
_SHORT = variant(BASE, schedule=_EVALUATION | {"steps": 1000})


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("tiny")
    return (tiny_sets_are_memorized(table), tiny_sets_do_not_generalize(table))


RECIPE = Recipe(
    name="psi-tiny-data",
    title="psi's MLP with 18 and 188 training pairs",
    source=SOURCE,
    full=Form(
        (Arm("tiny", _FULL, {FRACTION: _FRACTIONS, "model_seed": range(20, 25)}),),
        "2 minutes",
        "not run by psi, whose smallest training set has 2,822 pairs; its configuration and budget of 5,000 epochs",
    ),
    quick=Form(
        (Arm("tiny", _SHORT, {FRACTION: _FRACTIONS, "model_seed": range(20, 23)}),),
        "20 s",
        "1,000 epochs instead of 5,000, three seeds instead of five; same network and training sets",
    ),
    decide=_decide,
)
