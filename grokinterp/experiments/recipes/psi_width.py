"""Recipe `psi-width`: psi's MLP at five widths."""

from dataclasses import replace

from grokinterp import figures
from grokinterp.experiments.claims.general import one_outcome_each, thresholds_differ
from grokinterp.experiments.claims.psi import (
    WIDTH,
    groks_alike_whatever_the_width,
    overfits_sooner_when_wide,
    within_the_replicates,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.psi import BASE, SOURCE, full_form, published_times
from grokinterp.experiments.recipe import STOP, Arm, Form, Recipe, variant
from grokinterp.experiments.reproduction import curves_of_arms

_SMALLER = variant(BASE, task={"p": 59}, optimizer={"weight_decay": 2.0}, schedule=STOP)
_TIMES = {32: (1150, 1750), 64: (700, 2200), 128: (350, 2300), 256: (200, 2150), 512: (150, 1950)}
_T99 = {32: 3450, 64: 2800, 128: 2750, 256: 2450, 512: 2150}
_NORMS = {32: 53, 64: 56, 128: 59, 256: 67, 512: 74}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("width")
    return (
        overfits_sooner_when_wide(table),
        *(() if evidence.quick else _of_published_size(evidence)),
        # At width 32, the last few percent may take longer than all the rest.
        replace(thresholds_differ(table), should_hold=False),
        one_outcome_each(table),
    )


def _of_published_size(evidence: Evidence) -> tuple[Claim, ...]:
    """Claims for the full form. Width 32 is separate: its seeds vary more than psi's replicates of width 128."""
    table = evidence.table("width")
    wider = table.loc[table[WIDTH] > 32]
    return (
        groks_alike_whatever_the_width(wider),
        groks_alike_whatever_the_width(table, should_hold=False),
        within_the_replicates(wider, {width: times for width, times in _TIMES.items() if width > 32}, WIDTH),
        replace(within_the_replicates(table, {32: _TIMES[32]}, WIDTH, False), name="same times as published, width 32"),
    )


def _figures(evidence: Evidence) -> Figures:
    table = evidence.table("width")
    return {
        **curves_of_arms(evidence),
        "Times and norms": (
            (figures.delay_against(table, WIDTH, "T_grok_0.95"), "T_grok(0.95), one point per run."),
            (
                figures.norm_at_grok(table, WIDTH),
                "Weight norm at T_grok(0.95): the L2 norm hardly depends on the width, while the RMS falls with the "
                "number of parameters.",
            ),
        ),
    }


RECIPE = Recipe(
    name="psi-width",
    title="psi's MLP at five widths",
    source=SOURCE,
    full=full_form("width", WIDTH, _TIMES, range(100, 103), "17 minutes"),
    quick=Form(
        (Arm("width", _SMALLER, {WIDTH: (32, 64, 128), "model_seed": (0,)}),),
        "40 s",
        "p = 59, weight decay 2, three widths, one seed",
    ),
    decide=_decide,
    published=published_times("width", WIDTH, _TIMES, _T99, _NORMS),
    figures=_figures,
)
