"""Recipe `power-polynomials`: four operations that generalize and one that does not."""

from dataclasses import replace

from grokinterp.experiments.claims.general import one_outcome_each
from grokinterp.experiments.claims.transformers import FRACTION, OPERATION, generalize_or_not
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant

_GENERALIZING = ("x^2+y^2", "x^2+xy+y^2", "x^2+xy+y^2+x", "x^3+xy")
_QUICK_GENERALIZING = _GENERALIZING[:2]
_NEVER = ("x^3+xy^2+y",)
_FULL = variant("power", schedule=STOP)
_SMALL = variant(
    "power",
    task={"p": 31, "train_fraction": 0.8},
    model={"n_layers": 1, "d_model": 64, "d_mlp": 256},
    optimizer={"lr": 2e-3, "batch_size": 384},
    schedule={"steps": 2500, "evaluate_every": 50, "checkpoints": "log:10+every:500"} | STOP | {"stop_factor": 1.1},
)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("operations")
    if not evidence.quick:
        return (*generalize_or_not(table, _GENERALIZING, _NEVER), one_outcome_each(table))
    # In so few steps, x^2+xy+y^2 reaches an accuracy of about 0.7.
    generalizing, never = generalize_or_not(table, _QUICK_GENERALIZING, _NEVER)
    return replace(generalizing, should_hold=False), never, one_outcome_each(table)


RECIPE = Recipe(
    name="power-polynomials",
    title="A small transformer on polynomials modulo a prime",
    source="Power et al. 2022, arXiv:2201.02177",
    full=Form(
        (Arm("operations", _FULL, {OPERATION: (*_GENERALIZING, *_NEVER), FRACTION: (0.5, 0.7, 0.95)}),),
        "14 hours at most (estimated): 15 runs of up to 100,000 steps",
        "three train fractions instead of about twenty",
    ),
    quick=Form(
        (Arm("operations", _SMALL, {OPERATION: (*_QUICK_GENERALIZING, *_NEVER)}),),
        "60 s",
        "p = 31, 80 % of the data, 1 layer of width 64, learning rate 2e-3, up to 2,500 steps",
    ),
    decide=_decide,
)
