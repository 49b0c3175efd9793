"""Recipe `nanda-mainline`: progress measures move before the network generalizes."""

from dataclasses import asdict
from typing import Any

from grokinterp import figures
from grokinterp.analysis.timeline import analyze
from grokinterp.config.presets import preset
from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.progress import (
    Lead,
    excluded_lead,
    measure_leads,
    number_of_keys,
    restricted_lead,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import STOP, Arm, Form, Published, Recipe, variant
from grokinterp.experiments.reproduction import curves_of_arms
from grokinterp.runs.run import Run

_ARM = "mainline"
_FULL = variant("nanda", schedule={"checkpoints": "log:40:1000+every:200"} | STOP | {"stop_factor": 1.5})


def _extract(run: Run) -> dict[str, Any]:
    """Of a run that grokked: when each progress measure moved, and the number of key frequencies."""
    analysis = analyze(run)
    memorized, grokked = analysis.transition.T_train[0.99].step, analysis.transition.T_grok[0.95].step
    if memorized is None or grokked is None:
        return {"restricted": None, "excluded": None, "keys": None}
    classes = run.classification.n_classes
    return {
        "restricted": asdict(restricted_lead(analysis.timeline, classes)),
        "excluded": asdict(excluded_lead(analysis.timeline, memorized, grokked)),
        "keys": len(analysis.reference.frequencies.values),
    }


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table(_ARM)
    grokked = [run for run in evidence.extracted(_ARM) if run["keys"] is not None]
    p = int(table["task.p"].iloc[0]) if len(table) else 0
    return (
        measure_leads(
            [Lead(**run["restricted"]) for run in grokked],
            "restricted loss leads",
            "Restricted loss falls before test loss does.",
            "Figure 7: it falls during circuit formation",
        ),
        measure_leads(
            [Lead(**run["excluded"]) for run in grokked],
            "excluded loss leads",
            "Excluded loss rises before test accuracy does.",
            "Figure 7: it rises during circuit formation",
        ),
        number_of_keys([run["keys"] for run in grokked], p),
        thresholds_differ(table),
        one_outcome_each(table),
    )


def _figures(evidence: Evidence) -> Figures:
    analyses = [analyze(run) for run in evidence.runs(_ARM)]
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
    full=Form(
        (Arm(_ARM, _FULL, {"model_seed": range(3)}, extract=_extract, updates=14_000),),
        "20 minutes (estimated)",
        "three seeds",
    ),
    quick=Form((Arm(_ARM, preset("demo"), extract=_extract),), "50 s", "preset demo: p = 67, width 64, one seed"),
    decide=_decide,
    published=(
        Published("T_train(0.99), compared with the end of memorization", "1,400", _ARM, {}, "T_train_0.99"),
        Published("T_grok(0.95), compared with the end of circuit formation", "9,400", _ARM, {}, "T_grok_0.95"),
    ),
    figures=_figures,
)
