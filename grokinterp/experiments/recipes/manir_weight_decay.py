"""Recipe `manir-weight-decay`: the Goldilocks zone of weight decay for an MLP of depth 4 and a transformer."""

from dataclasses import replace

from grokinterp import figures
from grokinterp.experiments.claims.general import delay_as_inverse_decay, one_outcome_each
from grokinterp.experiments.claims.manir import DELAY, SCALED_DOWN, SMALL_DELAY, goldilocks, lower_edge_is_the_budget
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import DECAY, SEED, SOURCE, network, small_network, transformer
from grokinterp.experiments.outcome import Claim, Figures
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_MLP = {
    1e-5: "0 of 3, DNF_test",
    5e-5: "388,000 (1 of 3)",
    1e-4: "220,000 ± 36,056 (3 of 3)",
    5e-4: "45,333 ± 7,572 (3 of 3)",
    1e-3: "25,333 ± 5,033 (3 of 3)",
    2e-3: "0 of 3, DNF_train",
    5e-3: "0 of 3, DNF_train",
}
_TRANSFORMER = {
    0.01: "0 of 3",
    0.1: "202,667 ± 141,454",
    0.5: "35,333 ± 17,010",
    1.0: "44,000 ± 12,166",
    2.0: "65,333 ± 42,771",
    5.0: "24,000 ± 10,583",
}


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    table, size = evidence.table("mlp"), not evidence.quick
    claims = [
        one_outcome_each(table),
        goldilocks(table, published_size=size),
        lower_edge_is_the_budget(table, published_size=size),
        _scaled(delay_as_inverse_decay(table, "exponent -0.93", quantity=DELAY if size else SMALL_DELAY), size),
    ]
    if "transformer" in evidence.arms:
        claims.append(
            replace(
                delay_as_inverse_decay(
                    evidence.table("transformer"),
                    "202,667 at λ = 0.1, 35,333 at 0.5, 44,000 at 1, 65,333 at 2, and 24,000 at 5: not monotonic",
                    quantity=DELAY,
                    should_hold=False,
                ),
                name="1/λ, transformer",
            )
        )
    return tuple(claims)


def _scaled(claim: Claim, published_size: bool) -> Claim:
    return claim if published_size else replace(claim, measured=SCALED_DOWN + claim.measured)


def _figures(evidence: Evidence) -> Figures:
    return {
        "Time and weight decay": tuple(
            (
                figures.delay_against(evidence.table(arm), DECAY, "delay_0.99"),
                "Open triangles are runs that did not grok: upward ones memorized, downward ones never did. They mark "
                "the two edges of the zone (Manir and Rupa 2026, section on H4).",
            )
            for arm in evidence.arms
        ),
        "Outcomes": tuple(
            (figures.outcome_counts(evidence.table(arm), [DECAY]), "How the runs of each weight decay ended.")
            for arm in evidence.arms
        ),
    }


RECIPE = Recipe(
    name="manir-weight-decay",
    title="The Goldilocks zone of weight decay",
    source=SOURCE,
    full=Form(
        (
            Arm("mlp", network(4, 512, lr=3e-2, decay=5e-4), {DECAY: tuple(_MLP), SEED: range(3)}),
            Arm("transformer", transformer(1.0), {DECAY: tuple(_TRANSFORMER), SEED: range(3)}, updates=133_000),
        ),
        "42 + 290 hours (MLPs, transformers)",
        "each run stops at 1.1 T_grok(0.99), or when it has not memorized within 60,000 steps or can no longer do so",
        gpu=True,
    ),
    quick=Form(
        (
            Arm(
                "mlp",
                small_network(4, lr=0.2, decay=1e-3, steps=5000, memorization_budget=1000),
                {DECAY: (1e-4, 4e-4, 8e-4, 1.5e-3, 3e-3), SEED: range(2)},
            ),
        ),
        "50 seconds",
        "p = 31, width 64, half of the pairs, lr 0.2, 5,000 steps (1 to 30 times 1 / (η_eff λ)), two seeds; no "
        "transformer",
    ),
    decide=_decide,
    published=tuple(
        Published(
            f"{arm}: delay, λ = {decay:g}",
            printed,
            arm,
            {DECAY: decay},
            "outcome" if printed.startswith("0 of") else "delay_0.99",
        )
        for arm, delays in (("mlp", _MLP), ("transformer", _TRANSFORMER))
        for decay, printed in delays.items()
    ),
    figures=_figures,
)
