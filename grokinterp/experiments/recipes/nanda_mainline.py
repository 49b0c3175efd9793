"""Recipe `nanda-mainline`: progress measures move before the network generalizes."""

import numpy as np

from grokinterp import figures
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.timeline import analyze
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.progress import excluded_lead, measure_leads, number_of_keys, restricted_lead
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import STOP, Arm, Form, Published, Recipe, variant
from grokinterp.experiments.reproduction import curves_of_arms

_ARM = "mainline"
_FULL = variant("nanda", schedule={"checkpoints": "log:40:1000+every:200"} | STOP | {"stop_factor": 1.5})


def _analyses(evidence: Evidence) -> list[Analysis]:
    """Analyzes the runs that grokked. Each run caches its analysis, so a second call is free."""
    grokked = np.isfinite(np.asarray(evidence.table(_ARM)["T_grok_0.95"], dtype=float))
    return [analyze(run) for run, finite in zip(evidence.runs(_ARM), grokked, strict=True) if finite]


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, analyses = evidence.table(_ARM), _analyses(evidence)
    times = [(item.transition.T_train[0.99].step, item.transition.T_grok[0.95].step) for item in analyses]
    p = int(table["task.p"].iloc[0]) if len(table) else 0
    return (
        measure_leads(
            [restricted_lead(item.timeline, p) for item in analyses],
            "restricted loss leads",
            "Restricted loss falls before test loss does.",
            "Figure 7: it falls during circuit formation",
        ),
        measure_leads(
            [
                excluded_lead(item.timeline, memorized, grokked)
                for item, (memorized, grokked) in zip(analyses, times, strict=True)
                if memorized is not None and grokked is not None
            ],
            "excluded loss leads",
            "Excluded loss rises before test accuracy does.",
            "Figure 7: it rises during circuit formation",
        ),
        number_of_keys([len(item.reference.frequencies.values) for item in analyses], p),
        thresholds_differ(table),
        one_outcome_each(table),
    )


def _figures(evidence: Evidence) -> Figures:
    analyses = _analyses(evidence)
    if not analyses:
        return curves_of_arms(evidence)
    caption = (
        "Restricted and excluded loss beside the train and test loss: the circuit forms long before it determines the "
        "output (Nanda et al. 2023, Figure 7)."
    )
    return {"Progress measures": ((figures.progress_measures(analyses), caption),), **curves_of_arms(evidence)}


RECIPE = Recipe(
    name="nanda-mainline",
    title="Progress measures of a 1-layer transformer that groks addition",
    source="Nanda et al. 2023, arXiv:2301.05217",
    full=Form((Arm(_ARM, _FULL, {"model_seed": range(3)}),), "20 minutes (estimated)", "three seeds"),
    quick=Form((Arm(_ARM, preset("demo")),), "50 s", "preset demo: p = 67, width 64, one seed"),
    decide=_decide,
    published=(
        Published("T_train(0.99), compared with the end of memorization", "1,400", _ARM, {}, "T_train_0.99"),
        Published("T_grok(0.95), compared with the end of circuit formation", "9,400", _ARM, {}, "T_grok_0.95"),
    ),
    figures=_figures,
)
