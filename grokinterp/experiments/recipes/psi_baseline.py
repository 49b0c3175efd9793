"""Recipe `psi-baseline`: addition mod 97 by a two-layer MLP, 50 % of the data, 10,000 epochs."""

from grokinterp import figures
from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import norm_peaks_and_falls, within_the_replicates
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.psi import BASE, SOURCE
from grokinterp.experiments.recipe import STOP, Arm, Form, Published, Recipe, variant

_FULL = variant(BASE, schedule={"steps": 10_000})
_SMALL = variant(BASE, task={"p": 59, "train_fraction": 0.7}, schedule={"steps": 5000} | STOP)


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, metrics = evidence.table("baseline"), evidence.metrics("baseline")
    at_any_size = (thresholds_differ(table), one_outcome_each(table))
    if evidence.quick:
        return at_any_size
    return (within_the_replicates(table, {97: (350, 2350)}, "task.p"), norm_peaks_and_falls(metrics), *at_any_size)


def _figures(evidence: Evidence) -> Figures:
    table, metrics = evidence.table("baseline"), evidence.metrics("baseline")
    return {
        "Learning curves": (
            (
                figures.learning_curves(table, metrics, title="baseline", losses=True),
                "Accuracy and cross entropy on the test set (solid) and the training set (dotted), and L2 norm of all "
                "trained weights. As in Figure 1 of psi, the losses have a logarithmic axis: the training loss falls "
                "at once, while the test loss first rises.",
            ),
        )
    }


RECIPE = Recipe(
    name="psi-baseline",
    title="psi's baseline: an MLP on one-hot pairs groks addition mod 97",
    source=SOURCE,
    full=Form(
        (Arm("baseline", _FULL, {"model_seed": range(3)}),),
        "5 minutes",
        "three seeds instead of psi's one; evaluated every 10 epochs instead of every 50",
    ),
    quick=Form(
        (Arm("baseline", _SMALL, {"model_seed": range(2)}),),
        "30 s",
        "p = 59, 70 % of the data, up to 5,000 epochs, two seeds",
    ),
    decide=_decide,
    figures=_figures,
    published=(
        Published("T_train(0.99)", "350", "baseline", {}, "T_train_0.99"),
        Published("T_grok(0.95)", "2,350 (five replicates: 2,200 to 2,650)", "baseline", {}, "T_grok_0.95"),
        Published("T_grok(0.99)", "2,750", "baseline", {}, "T_grok_0.99"),
        Published("L2 norm at T_grok(0.95)", "60.0", "baseline", {}, "weight_norm_at_T_grok_0.95"),
        Published("largest L2 norm", "72.8", "baseline", {}, "weight_norm_max"),
    ),
)
