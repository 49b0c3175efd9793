"""Recipe `psi-baseline`: addition mod 97 by a two-layer MLP, 50 % of the data, 10,000 epochs."""

from grokinterp.config.presets import preset
from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import norm_peaks_and_falls, within_the_replicates
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import UNTIL_GROKKED, Arm, Form, Published, Recipe, changed

_FINE = {"schedule.evaluate_every": 10, "schedule.checkpoints": "every:500"}
_BASE = changed(preset("psi"), {**_FINE, "schedule.steps": 10_000})
_SMALLER = {"task.p": 59, "task.train_fraction": 0.7, "schedule.steps": 5000, **UNTIL_GROKKED}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, metrics = evidence.table("baseline"), evidence.metrics("baseline")
    replicates = () if evidence.quick else (within_the_replicates(table, {97: (350, 2350)}, "task.p"),)
    norm = () if evidence.quick else (norm_peaks_and_falls(metrics),)
    return (*replicates, *norm, thresholds_differ(table), one_outcome_each(table))


RECIPE = Recipe(
    name="psi-baseline",
    title="psi's baseline: an MLP on one-hot pairs groks addition mod 97",
    source="Chopra 2026, github AgentTorch/psi",
    full=Form(
        (Arm("baseline", _BASE, {"model_seed": range(3)}),),
        "5 minutes",
        "three seeds where psi has one; evaluated every 10 epochs, where psi logs every 50",
    ),
    quick=Form(
        (Arm("baseline", changed(_BASE, _SMALLER), {"model_seed": range(2)}),),
        "30 s",
        "p = 59, 70 % of the data, up to 5,000 epochs, two seeds",
    ),
    decide=_decide,
    published=(
        Published("T_train(0.99)", "350", "baseline", {}, "T_train_0.99"),
        Published("T_grok(0.95)", "2,350 (five replicates: 2,200 to 2,650)", "baseline", {}, "T_grok_0.95"),
        Published("T_grok(0.99)", "2,750", "baseline", {}, "T_grok_0.99"),
        Published("L2 norm at T_grok(0.95)", "60.0", "baseline", {}, "weight_norm_at_T_grok_0.95"),
        Published("largest L2 norm", "72.8", "baseline", {}, "weight_norm_max"),
    ),
)
