"""Recipe `tveit-muon`: AdamW against Muon and Lion on modular addition."""

from collections.abc import Sequence

import pandas as pd

from grokinterp.config import RunConfig
from grokinterp.experiments.claims.optimizers import RATE, groks_sooner
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Recipe, until_grokked, variant

# Lion's authors advise a learning rate 3 to 10 times smaller than AdamW's and a weight decay as many times larger (Chen
# et al. 2023). With the larger weight decay, networks of the size of the quick form do not memorize.
_LION = 5.0


def _base(p: int, fraction: float, d_model: int, steps: int) -> RunConfig:
    return variant(
        variant("demo", task={"p": p, "train_fraction": fraction}),
        model={"d_model": d_model, "d_mlp": 4 * d_model},
        schedule=vars(until_grokked(steps, 10, 1.02, checkpoints="log:5")),
    )


def _arms(base: RunConfig, rates: Sequence[float], rates_with_lion: Sequence[float]) -> tuple[Arm, ...]:
    """AdamW and Muon at the same learning rates; Lion beside some of them."""
    seeds = {"model_seed": range(5)}
    return (
        *(Arm(name, base, {"optimizer.name": (name,), RATE: rates, **seeds}) for name in ("adamw", "muon")),
        Arm("lion", base, {"optimizer.name": ("lion",), RATE: [rate / _LION for rate in rates_with_lion], **seeds}),
    )


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    adamw, muon, lion = (evidence.table(name) for name in ("adamw", "muon", "lion"))
    # The runs of Lion are compared with those of AdamW at five times the learning rate.
    lion = lion.assign(**{RATE: (lion[RATE] * _LION).round(12)})
    beside_lion = adamw.loc[adamw[RATE].round(12).isin(lion[RATE])]
    return (
        groks_sooner(
            pd.concat([adamw, muon], ignore_index=True),
            "muon",
            RATE,
            published="Tveit et al. 2025: mean grokking epoch 102.89 with Muon and 153.09 with AdamW; Essential AI "
            "2025 (https://www.essential.ai/blog/grokking): faster under certain conditions, but the advantage "
            "disappears over a wider range of hyperparameters and model sizes",
            should_hold=False,
        ),
        groks_sooner(
            pd.concat([beside_lion, lion], ignore_index=True),
            "lion",
            RATE,
            published="not stated; Lion is from Chen et al. 2023, arXiv:2302.06675",
            should_hold=False,
        ),
    )


RECIPE = Recipe(
    name="tveit-muon",
    title="AdamW, Muon, and Lion on modular addition",
    source="Tveit, Remseth, and Skogvold 2025, arXiv:2504.16041",
    full=Form(
        _arms(_base(97, 0.5, 128, 10_000), (1e-3, 2e-3, 5e-3), (1e-3, 2e-3, 5e-3)),
        "3 hours",
        "1-layer transformer, full batches, and steps instead of epochs; Tveit et al. train a transformer with rotary "
        "positions and RMSNorm on seven tasks with three kinds of softmax. All optimizers have the same weight decay; "
        "Muon has the learning rate of AdamW, and Lion a fifth of it",
    ),
    quick=Form(
        _arms(_base(37, 0.7, 32, 3000), (2e-3, 5e-3), (2e-3,)),
        "75 s",
        "p = 37, 70 % of the pairs, d_model 32, two learning rates (for Lion, one), five seeds",
    ),
    decide=_decide,
)
