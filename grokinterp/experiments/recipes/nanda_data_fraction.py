"""Recipe `nanda-data-fraction`: how the time to grok depends on the train fraction."""

from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.transformers import FRACTION, no_delay_at_much_data, sooner_with_more
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, printed, variant

# First epoch with a test loss below 0.1 in the curves that the authors saved.
_EPOCHS = {0.25: 21_800, 0.28: 15_000, 0.3: 7_900, 0.4: 3_100, 0.5: 956, 0.6: 440}
_FULL = variant("nanda", schedule={"evaluate_every": 20, "checkpoints": "log:20+every:2000"} | STOP)
_SMALL = variant("demo", task={"p": 53}, schedule={"checkpoints": "every:1000"} | STOP)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("fraction")
    return (
        sooner_with_more(
            table,
            FRACTION,
            "data",
            "21,800 at 0.25, 15,000 at 0.28, 7,900 at 0.3, 3,100 at 0.4, 956 at 0.5, 440 at 0.6",
        ),
        no_delay_at_much_data(table, "immediate at 0.7 and above"),
        thresholds_differ(table),
        one_outcome_each(table),
    )


RECIPE = Recipe(
    name="nanda-data-fraction",
    title="Grokking addition at several train fractions",
    source="Nanda et al. 2023, arXiv:2301.05217, saved curves",
    full=Form(
        (Arm("fraction", _FULL, {FRACTION: (*_EPOCHS, 0.7, 0.9)}, updates=8_000),),
        "half an hour (estimated)",
        "measures T_grok(0.95), while the saved curves give the first epoch with a test loss below 0.1",
    ),
    quick=Form(
        (Arm("fraction", _SMALL, {FRACTION: (0.4, 0.5, 0.6, 0.8)}),), "40 s", "p = 53, width 64, learning rate 2e-3"
    ),
    decide=_decide,
    published=printed("first epoch with test loss < 0.1", "fraction", FRACTION, "T_grok_0.95", _EPOCHS),
)
