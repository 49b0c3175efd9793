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
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe, changed
from grokinterp.experiments.reproduction import curves_of_arms

_ARM = "mainline"
_FULL = changed(
    preset("nanda"),
    {"schedule.checkpoints": "log:40:1000+every:200", "schedule.stop_when_grokked": True, "schedule.stop_factor": 1.5},
)


def _analyses(evidence: Evidence) -> list[Analysis]:
    """Of the runs that grokked; kept in the runs, so that a second time is free."""
    grokked = np.isfinite(np.asarray(evidence.table(_ARM)["T_grok_0.95"], dtype=float))
    return [analyze(run) for run, there in zip(evidence.runs(_ARM), grokked, strict=True) if there]


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, found = evidence.table(_ARM), _analyses(evidence)
    times = [(one.transition.T_train[0.99].step, one.transition.T_grok[0.95].step) for one in found]
    p = int(table["task.p"].iloc[0]) if len(table) else 0
    return (
        measure_leads(
            [restricted_lead(one.timeline, p) for one in found],
            "restricted loss leads",
            "Restricted loss falls before test loss does.",
            "Figure 7: it falls during circuit formation",
        ),
        measure_leads(
            [
                excluded_lead(one.timeline, memorized, grokked)
                for one, (memorized, grokked) in zip(found, times, strict=True)
                if memorized is not None and grokked is not None
            ],
            "excluded loss leads",
            "Excluded loss rises before test accuracy does.",
            "Figure 7: it rises during circuit formation",
        ),
        number_of_keys([len(one.reference.frequencies.values) for one in found], p),
        thresholds_differ(table),
        one_outcome_each(table),
    )


def _figures(evidence: Evidence) -> Figures:
    found = _analyses(evidence)
    if not found:
        return curves_of_arms(evidence)
    caption = (
        "Restricted and excluded loss beside the losses: the circuit is there long before the network answers by it "
        "(Nanda et al. 2023, Figure 7)."
    )
    return {"Progress measures": ((figures.progress_measures(found), caption),), **curves_of_arms(evidence)}


RECIPE = Recipe(
    name="nanda-mainline",
    title="Progress measures of a 1-layer transformer that groks addition",
    source="Nanda et al. 2023, arXiv:2301.05217",
    full=Form((Arm(_ARM, _FULL, {"model_seed": range(3)}),), "20 minutes (estimated)", "three seeds"),
    quick=Form((Arm(_ARM, preset("demo")),), "50 s", "preset demo: p = 67, width 64, one seed"),
    decide=_decide,
    published=(
        Published("T_train(0.99), beside the end of memorization", "1,400", _ARM, {}, "T_train_0.99"),
        Published("T_grok(0.95), beside the end of circuit formation", "9,400", _ARM, {}, "T_grok_0.95"),
    ),
    figures=_figures,
)
