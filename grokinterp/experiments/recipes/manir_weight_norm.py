"""Recipe `manir-weight-norm`: the norm of all weights at T_grok across sizes, activations and kinds (Table 7)."""

import pandas as pd

from grokinterp import figures
from grokinterp.experiments.claims.manir_norms import (
    l2_at_grok,
    l2_varies_less,
    rms_at_grok,
    same_norm_across_activations,
    universal_rms,
)
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import (
    ACTIVATION,
    DECAY,
    SEED,
    SOURCE,
    network,
    small_network,
    small_transformer,
    transformer,
)
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_RMS, _L2 = "weight_rms_at_T_grok_0.99", "weight_norm_at_T_grok_0.99"
_WIDE = ({ACTIVATION: "gelu", DECAY: 5e-4}, {ACTIVATION: "gelu", DECAY: 1e-3}, {ACTIVATION: "relu", DECAY: 5e-4})


def _all(evidence: Evidence) -> pd.DataFrame:
    tables = [evidence.table(arm) for arm in evidence.entries]
    columns = dict.fromkeys(str(name) for table in tables for name in table)  # transformers have other fields
    rows = [row for table in tables for row in table.to_dict("records")]
    return pd.DataFrame(rows, columns=list(columns))


def _mlps(evidence: Evidence) -> pd.DataFrame:
    table = _all(evidence)
    return table.loc[table["model.kind"] == "mlp"]


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    size, wide, mlps = not evidence.quick, evidence.table("depth-4"), _mlps(evidence)
    equal = wide.loc[wide[DECAY] == wide.loc[wide[ACTIVATION] == "relu", DECAY].min()]
    return (
        rms_at_grok(wide, published_size=size),
        l2_at_grok(mlps, published_size=size),
        universal_rms(_all(evidence), published_size=size),
        l2_varies_less(mlps if size else evidence.table("depth-2"), published_size=size),
        same_norm_across_activations(equal, published_size=size),
    )


def _figures(evidence: Evidence) -> Figures:
    return {
        "Norm at T_grok": (
            (
                figures.norm_at_grok(_mlps(evidence), "model.width", theta=0.95 if evidence.quick else 0.99),
                "Norm of all weights of the MLPs when they grok, against their width: as L2 norm, and as the root mean "
                "square that Table 7 prints, which falls with the number of weights.",
            ),
            (
                figures.norm_at_grok(_all(evidence), DECAY, theta=0.95 if evidence.quick else 0.99),
                "The same for every network, against weight decay.",
            ),
        )
    }


def _printed() -> tuple[Published, ...]:
    rows = (
        ("depth 2, GELU, width 256", "depth-2", {}, "32,000", "0.0695", "29.6"),
        ("depth 4, GELU, width 512, λ = 5e-4", "depth-4", _WIDE[0], "54,000", "0.0236", "25.3"),
        ("depth 4, GELU, width 512, λ = 1e-3", "depth-4", _WIDE[1], "26,000", "0.0225", "24.1"),
        ("depth 4, ReLU, width 512, λ = 5e-4", "depth-4", _WIDE[2], "180,000", "0.0219", "23.5"),
        ("transformer, λ = 1", "transformer", {DECAY: 1.0}, "58,000", "0.0254", "45.8"),
        ("transformer, λ = 5", "transformer", {DECAY: 5.0}, "12,000", "0.0160", "28.9"),
    )
    return tuple(
        Published(f"{quantity}, {name}", printed, arm, where, column)
        for name, arm, where, *numbers in rows
        for quantity, printed, column in zip(
            ("delay", "RMS at T_grok", "L2 at T_grok"),
            (numbers[0], numbers[1], f"{numbers[2]} (converted from RMS)"),
            ("delay_0.99", _RMS, _L2),
            strict=True,
        )
    )


RECIPE = Recipe(
    name="manir-weight-norm",
    title="The weight norm at which networks grok, as RMS and as L2 norm",
    source=SOURCE,
    full=Form(
        (
            Arm("depth-2", network(2, 256, lr=1e-2, decay=2e-3), {SEED: range(3)}),
            Arm("depth-4", network(4, 512, lr=3e-2, decay=5e-4), {SEED: range(3)}, points=_WIDE),
            Arm("transformer", transformer(1.0), {DECAY: (1.0, 5.0)}, updates=55_000),
        ),
        "22 hours",
        "three seeds of each MLP where the paper has one; each run stops at 1.1 T_grok(0.99)",
        gpu=True,
    ),
    quick=Form(
        (
            Arm("depth-2", small_network(2, lr=0.1, decay=3e-3, steps=5000), {"model.width": (32, 64, 128)}),
            Arm(
                "depth-4",
                small_network(4, lr=0.1, decay=1.5e-3, steps=8000, p=23, fraction=0.6),
                {ACTIVATION: ("gelu", "relu"), SEED: range(2)},
            ),
            Arm("transformer", small_transformer(1.0, steps=3000)),
        ),
        "50 seconds",
        "p = 31, half of the pairs: depth 2 with widths 32, 64, and 128, and one small transformer; p = 23, "
        "60 % of the pairs: depth 4 with width 64; the claims use norms at T_grok(0.95)",
    ),
    decide=_decide,
    published=_printed(),
    figures=_figures,
)
