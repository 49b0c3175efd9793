"""Recipe `nanda-weight-decay`: how the time to grok depends on weight decay in the 1-layer transformer."""

from grokinterp import figures
from grokinterp.experiments.claims.general import DECAY, delay_as_inverse_decay, one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.transformers import sooner_with_more
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import STOP, Arm, Form, Published, Recipe, variant
from grokinterp.experiments.reproduction import curves_of_arms

_FULL = variant("nanda", schedule={"steps": 150_000, "checkpoints": "log:20+every:2000"} | STOP)
_SMALL = variant("demo", task={"p": 53, "train_fraction": 0.5}, schedule={"checkpoints": "every:1000"} | STOP)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decay")
    return (
        sooner_with_more(
            table,
            DECAY,
            "weight decay",
            "Appendix D.1: 3,000 at 0.3, 5,000 to 10,000 at 1, 20,000 at 3; saved curves: 95,500 at 0.1, 7,900 at 1",
        ),
        delay_as_inverse_decay(table, "exponent -1.08, from two of the authors' saved curves"),
        thresholds_differ(table),
        one_outcome_each(table),
    )


def _figures(evidence: Evidence) -> Figures:
    figure = figures.delay_against(evidence.table("decay"), DECAY)
    caption = "Delay from T_train(0.99) to T_grok(0.95), one point per run."
    return {**curves_of_arms(evidence), "Delay": ((figure, caption),)}


RECIPE = Recipe(
    name="nanda-weight-decay",
    title="Grokking addition at several weight decays",
    source="Nanda et al. 2023, arXiv:2301.05217, Appendix D.1",
    full=Form(
        (Arm("decay", _FULL, {DECAY: (0.1, 0.3, 1.0, 3.0), "model_seed": range(3)}, updates=40_000),),
        "5 hours (estimated), most of it at weight decay 0.1",
        "three seeds",
    ),
    quick=Form(
        (Arm("decay", _SMALL, {DECAY: (0.5, 1.0, 2.0)}),),
        "40 s",
        "p = 53, half of the data, width 64, learning rate 2e-3, one seed",
    ),
    decide=_decide,
    published=(
        Published("T_grok, λ = 0.1 (saved curve: test loss < 0.1)", "95,500", "decay", {DECAY: 0.1}, "T_grok_0.95"),
        Published("T_grok, λ = 0.3 (Appendix D.1)", "3,000", "decay", {DECAY: 0.3}, "T_grok_0.95"),
        Published("T_grok, λ = 1 (Appendix D.1)", "5,000 to 10,000", "decay", {DECAY: 1.0}, "T_grok_0.95"),
        Published("T_grok, λ = 3 (Appendix D.1)", "20,000", "decay", {DECAY: 3.0}, "T_grok_0.95"),
    ),
    figures=_figures,
)
