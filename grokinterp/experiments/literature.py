"""What the literature reports about grokking: assertions that recipes decide, and contradictions between sources."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.results import Results

ASSERTIONS: Mapping[int, str] = {
    1: "Every run has exactly one outcome: it groks, only memorizes, or does not memorize. Means include only runs "
    "that grok.",
    2: "Manir's canonical run memorizes at 500 to 2,000 steps and groks (99 %) at 15,000 to 60,000 in 3 of 5 seeds; on "
    "its plateau, mirrored pairs are right and novel pairs are wrong.",
    3: "T_grok(0.99) is 1.05 to 2 times T_grok(0.95).",
    4: "MLPs of width 512 grok at an RMS weight norm of 0.022 ± 0.003.",
    5: "At equal weight decay, ReLU and GELU grok at the same norm, within 10 %, although their times differ "
    "threefold.",
    6: "The delay is inversely proportional to weight decay.",
    7: "Weight decay has a working zone: below it no run generalizes, above it no run memorizes.",
    8: "Depth 4 fails at width 256 and groks at width 512 with a different learning rate and weight decay, so this "
    "says nothing about depth alone.",
    9: "ReLU is 2 to 8 times slower than GELU.",
    10: "The transformer takes as long as the MLP, within the spread across seeds.",
    11: "psi's MLP does not grok at a train fraction of 0.3; above that, it groks sooner with more data.",
    12: "At weight decay 0 and 0.1, psi's MLP does not grok while its norm grows; from 0.5 on, it groks.",
    13: "Wider MLPs overfit sooner, but grok at the same time within 20 %.",
    14: "psi's weight norm peaks at 400 to 600 epochs, falls by 10 % before grokking, and changes little afterward.",
    15: "Addition, subtraction and multiplication grok at the same time within 20 %.",
    16: "Ridge regression groks as proven: the bounds hold, t2 scales as 1/λ, t1 does not depend on λ, and both scale "
    "as 1/η and grow with ln ν².",
    17: "A two-layer ReLU network with both layers trained does the same: t2 scales as 1/λ, and t1 is flat.",
    18: "Without weight decay, gradient descent groks while the norm rises; a smaller output scale removes the delay.",
    19: "From a large initialization, T_test scales as 1/γ and T_train is flat; a small initialization or a "
    "constrained norm removes the delay.",
    20: "Adam without weight decay has late loss spikes, and the norm of its last layer grows in steps; a larger ε "
    "removes them.",
    21: "Restricted loss falls and excluded loss rises before test accuracy rises; there are 5 to 6 key frequencies.",
    22: "Parity is stuck without weight decay.",
}

Decision = Literal["supported", "not supported", "mixed", "inconclusive"]


def combine_verdicts(verdicts: Iterable[str]) -> Decision:
    """Combines the verdicts on the parts of an assertion. Inconclusive parts count only if no part is decided.

    >>> combine_verdicts(["supported", "inconclusive"]), combine_verdicts(["supported", "not supported"])
    ('supported', 'mixed')
    """
    decided = {verdict for verdict in verdicts if verdict != "inconclusive"}
    if not decided:
        return "inconclusive"
    if len(decided) > 1:
        return "mixed"
    return "supported" if decided == {"supported"} else "not supported"


def claims_by_assertion(results: Iterable[Results]) -> dict[int, list[tuple[Results, Claim]]]:
    """Groups the claims of several recipes by the number of their assertion, each with the results it belongs to."""
    groups: dict[int, list[tuple[Results, Claim]]] = {number: [] for number in ASSERTIONS}
    for result in results:
        for claim in result.claims:
            if claim.number in groups:
                groups[claim.number].append((result, claim))
    return groups


@dataclass(frozen=True)
class Contradiction:
    """A disagreement between sources.

    Attributes:
        topic: its subject.
        sources: the statement of each source.
        resolution: our position, with the reason.
        recipes: the experiments it concerns, by name or by the beginning of their names.
    """

    topic: str
    sources: tuple[str, ...]
    resolution: str
    recipes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Its entry in results.json."""
        return {"topic": self.topic, "says": self.sources, "held": self.resolution, "recipes": self.recipes}


CONTRADICTIONS = (
    Contradiction(
        "T_grok of the same psi configuration",
        ("psi, baseline log: 2,350", "psi, README: 2,300", "psi, weight-decay sweep: 2,650", "psi, data sweep: 2,200"),
        "These are replicates with different initial weights: psi seeds the split (42) but not the weights. Its five "
        "logs range from 2,200 to 2,650.",
        ("psi-",),
    ),
    Contradiction(
        "psi's delay and budget",
        ("text: a delay of about 1,900 epochs; logs: 1,950 to 2,300", "README: 5,000 epochs; code and log: 10,000"),
        "We follow the logs: 10,000 epochs for the baseline, 5,000 for the sweeps.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi after grokking",
        (
            'text: "quickly converging to 100 %"',
            "log: 99 % comes 400 epochs after 95 %, and 99.9 % another 1,250 epochs later",
        ),
        "We follow the logs, and always report both thresholds, 0.95 and 0.99.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi at the overfitting epoch",
        (
            "text: test accuracy near chance at the overfitting epoch",
            "logs: 0.25 at decay 5, 0.66 at width 32, 0.11 and 0.63 at fractions 0.7 and 0.9",
        ),
        "It depends on the configuration; we count such runs as generalized without delay.",
        ("psi-weight-decay", "psi-width", "psi-data-fraction"),
    ),
    Contradiction(
        "the threshold of grokking",
        (
            "Power et al. 2022, Manir and Rupa 2026: 99 %",
            "psi, Liu et al. 2022: 95 %",
            "Xu et al. 2026: a loss of 0.01",
            "an encyclopedia page credits 95 % to Power et al.",
        ),
        "Omnigrok and psi use 0.95, Power et al. 0.99. T_grok(0.99) may be 1.05 to 2 times T_grok(0.95), so we always "
        "compute both.",
        ("psi-", "manir-", "power-", "omnigrok-", "nanda-", "memo-"),
    ),
    Contradiction(
        "the plateau at 20 % train fraction",
        ('a review of Manir and Rupa: "validation 10 % - random chance"', "the paper: near chance (19.9 %)"),
        "Chance is 1.03 %. The input is a sum of embeddings, so memorizing a pair also solves its mirrored pair; these "
        "are 20 % of the test set. Accuracy on novel pairs is 0.",
        ("manir-",),
    ),
    Contradiction(
        "weight decay of the matched MLP",
        ("a review of Manir and Rupa: 1e-4", "the paper: 5e-4"),
        "It is 5e-4; with 1e-4 the delay would be 220,000 (their Table 9).",
        ("manir-transformer",),
    ),
    Contradiction(
        "T_train and T_grok of Manir and Rupa's canonical run",
        ("Figure 1: 1,000 and 33,000", "Table 2: 2,000 and 34,000, same seed"),
        "Table 2 uses a grid of 2,000 steps. We store the grid with every T.",
        ("manir-canonical", "manir-depth"),
    ),
    Contradiction(
        "can a network memorize at λ = 2e-3?",
        ("a review of Manir and Rupa: it cannot", "the paper: the canonical run and Sweep A have λ = 2e-3"),
        "Depth 2 can; depth 4 at width 512 and learning rate 3e-2 cannot. Both are measured here.",
        ("manir-weight-decay", "manir-goldilocks-edge", "manir-canonical"),
    ),
    Contradiction(
        "the transformer at λ = 5",
        ("24,000 (3 seeds)", "50,800 (5 seeds)", "12,000 (seed 0)"),
        "All three come from one paper: its spread across seeds is 44 to 76 % of the mean, so the ratio to the MLP "
        "needs an interval.",
        ("manir-transformer", "manir-weight-decay", "manir-weight-norm"),
    ),
    Contradiction(
        "ReLU at the same norm as GELU",
        ("the paper: 6.9 times slower at the same norm", "the same tables at equal λ = 5e-4: 180,000 / 54,000 = 3.3"),
        "The ratio 6.9 compares λ = 5e-4 with 1e-3; at equal λ over five seeds it is 4.32.",
        ("manir-activation", "manir-weight-norm"),
    ),
    Contradiction(
        "the norm at which networks grok",
        ("Manir and Rupa: RMS 0.022 ± 0.003", "psi: RMS 0.115 to 0.52, L2 53 to 74", "their own w256: RMS 0.0695"),
        "RMS falls with the number of parameters, L2 does not; we always report both.",
        ("manir-weight-norm", "manir-canonical", "psi-width"),
    ),
    Contradiction(
        "does grokking mean a smaller norm?",
        (
            'a review of Manir and Rupa: "small-norm solution"',
            "psi: the norm at grokking is 5.5 times the initial norm",
            "Kumar et al. 2023: the norm rises while the network groks",
        ),
        "With weight decay, the norm falls from its peak at memorization; without, it rises.",
        ("psi-baseline", "kumar-", "manir-canonical", "manir-weight-norm"),
    ),
    Contradiction(
        "who discovered T_grok ~ 1/λ",
        (
            "an encyclopedia page: Power et al. 2022",
            "Nanda et al. 2023, Appendix D.1, print the wrong direction (λ = 0.3, 1, 3: 3k, 5-10k, 20k)",
            "the saved curves of Nanda et al.: 95.5k at λ = 0.1, 7.9k at 1",
        ),
        "Liu et al. 2022 (Omnigrok), Appendix C, reported it first; Power et al. did not.",
        ("omnigrok-weight-decay", "nanda-weight-decay", "psi-weight-decay", "ridge"),
    ),
    Contradiction(
        "does more weight decay speed up grokking or prevent it?",
        (
            "reviews of Xu et al. and an encyclopedia page: faster",
            "a review of Manir and Rupa: too much prevents it",
            "Manir and Rupa's transformer: not monotonic",
        ),
        "It speeds grokking up to an upper edge, above which nothing is memorized; psi at λ <= 5 does not reach that "
        "edge.",
        ("manir-weight-decay", "manir-goldilocks-edge", "psi-weight-decay", "omnigrok-weight-decay"),
    ),
    Contradiction(
        "is weight decay necessary?",
        ("a memo of 2026: weight decay is the driver", "Kumar et al. 2023: sufficient, not necessary"),
        "It is not necessary: a quadratic MLP trained with plain gradient descent groks without it.",
        ("kumar-", "memo-", "power-division", "psi-weight-decay"),
    ),
    Contradiction(
        "parity",
        ("a memo of 2026: Power et al. had a parity task; without weight decay it is stuck indefinitely",),
        "Power et al. had no parity task; sparse parity is from Barak et al. and Merrill et al. This package tests "
        "whether it is stuck.",
        ("memo-parity",),
    ),
    Contradiction(
        "how much data",
        ("psi: 30 % fails", "Nanda et al., p = 113: 30 % groks", "Manir and Rupa: 20 % groks, more shows no delay"),
        "At 20 %, a model that is symmetric in its operands sees 36 % of the unordered pairs; psi's one-hot input is "
        "not symmetric.",
        ("psi-data-fraction", "manir-canonical", "nanda-data-fraction"),
    ),
    Contradiction(
        "over-parameterization in ridge regression",
        ("a review of Xu et al.: more features, more grokking", "Figure 2 of the paper: m has little effect"),
        "We follow the figure; this package measures it too.",
        ("ridge",),
    ),
    Contradiction(
        "random features",
        ('a review of Xu et al.: "predictions match precisely"', "the paper: similar loss curves, no times"),
        "The population loss never falls to 0.01 there, so we report the time at which it is halfway to its limit.",
        ("ridge",),
    ),
    Contradiction(
        "standard deviations of Manir and Rupa",
        (
            "Tables 3 and 9: divided by n - 1",
            "Table 7: divided by n",
            "Table 2, depth 2: 85,536, which matches neither (92,130; 79,787)",
        ),
        "We always divide by n - 1.",
        ("manir-depth", "manir-weight-norm", "manir-activation"),
    ),
)


def contradictions_of(recipe: str) -> tuple[Contradiction, ...]:
    """The contradictions that concern a recipe, given its name."""
    return tuple(entry for entry in CONTRADICTIONS if recipe.startswith(entry.recipes))
