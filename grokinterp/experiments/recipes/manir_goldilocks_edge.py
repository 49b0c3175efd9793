"""Recipe `manir-goldilocks-edge`: two weight decays between which the published network stops memorizing."""

from grokinterp.experiments.claims.manir import memorization_edge
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.manir import DECAY, SEED, SOURCE, network, small_network
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe

_BELOW, _ABOVE, _STEPS = 1e-3, 2e-3, 1300
_SMALL_BELOW, _SMALL_ABOVE = 1.5e-3, 3e-3


def _decide(evidence: Evidence) -> tuple[Claim, ...]:
    below, above = (_SMALL_BELOW, _SMALL_ABOVE) if evidence.quick else (_BELOW, _ABOVE)
    return (
        memorization_edge(
            evidence.table("edge", {DECAY: below}),
            evidence.table("edge", {DECAY: above}),
            published_size=not evidence.quick,
        ),
    )


RECIPE = Recipe(
    name="manir-goldilocks-edge",
    title="The upper edge of the Goldilocks zone: at twice the weight decay, nothing is memorized",
    source=SOURCE,
    full=Form(
        (Arm("edge", network(4, 512, lr=3e-2, decay=_BELOW, steps=_STEPS), {DECAY: (_BELOW, _ABOVE), SEED: range(3)}),),
        "9 minutes",
        f"{_STEPS:,} of the 400,000 steps, enough for the network to memorize at one weight decay but not at the "
        "other; three seeds",
    ),
    quick=Form(
        (Arm("edge", small_network(4, lr=0.2, decay=_SMALL_BELOW, steps=1000), {DECAY: (_SMALL_BELOW, _SMALL_ABOVE)}),),
        "10 seconds",
        "p = 31, width 64, half of the pairs, lr 0.2, decays 1.5e-3 and 3e-3",
    ),
    decide=_decide,
    published=(
        Published(
            "T_train(0.99), λ = 1e-3",
            "not stated (3 of 3 grok; times on a grid of 2,000)",
            "edge",
            {DECAY: _BELOW},
            "T_train_0.99",
        ),
        Published("outcome, λ = 2e-3", "0 of 3, DNF_train", "edge", {DECAY: _ABOVE}, "outcome"),
    ),
)
