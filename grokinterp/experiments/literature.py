"""What the literature says of grokking: the assertions that recipes decide, and where publications disagree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

ASSERTIONS: Mapping[int, str] = {
    1: "Every run has exactly one outcome: it groks, memorizes only, or does not memorize; only the first enter means.",
    2: "Manir's canonical run memorizes at 500 to 2,000 steps and groks (99 %) at 15,000 to 60,000 in 3 of 5 seeds; on "
    "its plateau mirrored pairs are right and novel ones wrong.",
    3: "T_grok(0.99) is 1.05 to 2 times T_grok(0.95).",
    4: "MLPs of width 512 grok at an RMS weight norm of 0.022 ± 0.003.",
    5: "At equal weight decay ReLU and GELU grok at the same norm, within 10 %, though their times differ threefold.",
    6: "The delay is inversely proportional to weight decay.",
    7: "There is a zone of weight decay: below it nothing generalizes, above it nothing is memorized.",
    8: "Depth 4 fails at width 256 and groks at width 512 with another rate and decay: no statement about depth alone.",
    9: "ReLU is 2 to 8 times slower than GELU.",
    10: "The transformer takes as long as the MLP, within the spread over seeds.",
    11: "psi's MLP does not grok at a train fraction of 0.3; above, it is sooner with more data.",
    12: "psi's MLP does not grok at weight decay 0 and 0.1 while its norm grows; from 0.5 on it does.",
    13: "Wider MLPs overfit sooner, and grok at the same time within 20 %.",
    14: "psi's weight norm peaks at 400 to 600 epochs, falls by 10 % before grokking, and changes little after.",
    15: "Addition, subtraction and multiplication are grokked at the same time within 20 %.",
    16: "Ridge regression groks as provable: bounds, t2 as 1/λ, t1 without λ, both as 1/η and in ln ν².",
    17: "A two-layer ReLU network with both layers trained does too: t2 as 1/λ, t1 flat.",
    18: "Without weight decay, gradient descent groks with a rising norm; a smaller output scale removes the delay.",
    19: "From a large start T_test is as 1/γ and T_train flat; a small start, or a held norm, has no delay.",
    20: "Adam without decay has late loss spikes and a stepwise last-layer norm; a larger ε removes them.",
    21: "Restricted loss falls and excluded loss rises before test accuracy does; there are 5 to 6 key frequencies.",
    22: "Parity is stuck without weight decay.",
}

Decision = Literal["supported", "not supported", "mixed", "inconclusive"]


def decide(verdicts: Iterable[str]) -> Decision:
    """What the verdicts of an assertion's parts say together; inconclusive parts do not count beside decided ones."""
    decided = {verdict for verdict in verdicts if verdict != "inconclusive"}
    if not decided:
        return "inconclusive"
    if len(decided) > 1:
        return "mixed"
    return "supported" if decided == {"supported"} else "not supported"


def by_assertion(results: Iterable[Mapping[str, Any]]) -> dict[int, list[tuple[str, Mapping[str, Any]]]]:
    """The claims of several results.json by the number of their assertion, each with its recipe's name."""
    found: dict[int, list[tuple[str, Mapping[str, Any]]]] = {number: [] for number in ASSERTIONS}
    for result in results:
        for claim in result["claims"]:
            if claim.get("number") in found:
                found[claim["number"]].append((result["recipe"], claim))
    return found


@dataclass(frozen=True)
class Contradiction:
    """A disagreement.

    Attributes:
        topic: what it is about.
        says: what each source says.
        held: what we hold, and why.
        recipes: the experiments that it concerns, by name or by the beginning of their names.
    """

    topic: str
    says: tuple[str, ...]
    held: str
    recipes: tuple[str, ...]


CONTRADICTIONS = (
    Contradiction(
        "T_grok of the same psi configuration",
        (
            "psi, baseline log: 2,350",
            "psi, README: 2,300",
            "psi, weight-decay sweep: 2,650",
            "psi, data sweep: 2,200",
        ),
        "Replicates that differ in their initial weights: psi seeds the split (42) and not the weights. The spread of "
        "its five logs is 2,200 to 2,650.",
        ("psi-",),
    ),
    Contradiction(
        "psi's delay and budget",
        ("text: a delay of about 1,900 epochs; logs: 1,950 to 2,300", "README: 5,000 epochs; code and log: 10,000"),
        "The logs count: 10,000 epochs for the baseline, 5,000 for the sweeps.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi after grokking",
        (
            'text: "quickly converging to 100 %"',
            "log: 99 % comes 400 epochs after 95 %, 99.9 % another 1,250 after",
        ),
        "The logs count. Both thresholds, 0.95 and 0.99, are always given.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi at the overfitting epoch",
        (
            "text: test accuracy near chance at the overfitting epoch",
            "logs: 0.25 at decay 5, 0.66 at width 32, 0.11 and 0.63 at fractions 0.7 and 0.9",
        ),
        "It depends on the cell; such runs are counted as generalized without delay.",
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
        "0.95 is Omnigrok's and psi's, 0.99 Power's. T_grok(0.99) may be 1.05 to 2 times T_grok(0.95): both are "
        "always computed.",
        ("psi-", "manir-", "power-", "omnigrok-", "nanda-", "memo-"),
    ),
    Contradiction(
        "the plateau at 20 % train fraction",
        (
            'a review of Manir and Rupa: "validation 10 % - random chance"',
            "the paper: near chance (19.9 %)",
        ),
        "Chance is 1.03 %. The input is a sum of embeddings, so mirrored pairs of trained ones are solved by memory: "
        "they are 20 % of the test set. Novel pairs are at 0.",
        ("manir-",),
    ),
    Contradiction(
        "weight decay of the matched MLP",
        ("a review of Manir and Rupa: 1e-4", "the paper: 5e-4"),
        "5e-4; with 1e-4 the delay would be 220,000 (their Table 9).",
        ("manir-transformer",),
    ),
    Contradiction(
        "T_train and T_grok of Manir and Rupa's canonical run",
        ("Figure 1: 1,000 and 33,000", "Table 2: 2,000 and 34,000, same seed"),
        "The second is on a grid of 2,000 steps. The grid is stored with every T here.",
        ("manir-canonical", "manir-depth"),
    ),
    Contradiction(
        "can λ = 2e-3 memorize?",
        ("a review of Manir and Rupa: it cannot", "the paper: the canonical run and Sweep A have λ = 2e-3"),
        "Depth 2 can and depth 4, width 512, at learning rate 3e-2 cannot: both measured here.",
        ("manir-weight-decay", "manir-goldilocks-edge", "manir-canonical"),
    ),
    Contradiction(
        "the transformer at λ = 5",
        ("24,000 (3 seeds)", "50,800 (5 seeds)", "12,000 (seed 0)"),
        "All from one paper: its spread over seeds is 44 to 76 % of the mean, so the ratio to the MLP needs an "
        "interval.",
        ("manir-transformer", "manir-weight-decay", "manir-weight-norm"),
    ),
    Contradiction(
        "ReLU at the same norm as GELU",
        ("the paper: 6.9 times slower at the same norm", "the same tables at equal λ = 5e-4: 180,000 / 54,000 = 3.3"),
        "6.9 compares λ = 5e-4 with 1e-3; over five seeds at equal λ it is 4.32.",
        ("manir-activation", "manir-weight-norm"),
    ),
    Contradiction(
        "a norm at which networks grok",
        ("Manir and Rupa: RMS 0.022 ± 0.003", "psi: RMS 0.115 to 0.52, L2 53 to 74", "their own w256: RMS 0.0695"),
        "RMS falls with the number of parameters where L2 does not; both are given everywhere.",
        ("manir-weight-norm", "manir-canonical", "psi-width"),
    ),
    Contradiction(
        "does grokking mean a smaller norm?",
        (
            'a review of Manir and Rupa: "small-norm solution"',
            "psi: the norm at grokking is 5.5 times that at the start",
            "Kumar et al. 2023: the norm rises while the network groks",
        ),
        "It falls relative to the memorizing peak where there is weight decay, and rises without.",
        ("psi-baseline", "kumar-", "manir-canonical", "manir-weight-norm"),
    ),
    Contradiction(
        "who found T_grok ~ 1/λ",
        (
            "an encyclopedia page: Power et al. 2022",
            "Nanda et al. 2023, Appendix D.1, prints the wrong direction (λ = 0.3, 1, 3: 3k, 5-10k, 20k)",
            "the saved curves of Nanda et al.: 95.5k at λ = 0.1, 7.9k at 1",
        ),
        "Liu et al. 2022 (Omnigrok), Appendix C, reported it first; Power et al. did not.",
        ("omnigrok-weight-decay", "nanda-weight-decay", "psi-weight-decay", "ridge"),
    ),
    Contradiction(
        "more weight decay: faster, or none?",
        (
            "reviews of Xu et al. and an encyclopedia page: faster",
            "a review of Manir and Rupa: too much kills",
            "Manir and Rupa's transformer: not monotone",
        ),
        "Faster up to an upper edge, above which nothing is memorized; psi at λ <= 5 does not reach it.",
        ("manir-weight-decay", "manir-goldilocks-edge", "psi-weight-decay", "omnigrok-weight-decay"),
    ),
    Contradiction(
        "is weight decay necessary?",
        ("a memo of 2026: weight decay is the driver", "Kumar et al. 2023: sufficient, not necessary"),
        "Not necessary: a quadratic MLP under plain gradient descent groks without it.",
        ("kumar-", "memo-", "power-division", "psi-weight-decay"),
    ),
    Contradiction(
        "parity",
        ("a memo of 2026: Power et al. had a parity task; without weight decay it is stuck indefinitely",),
        "Power et al. had none: sparse parity is Barak et al.'s and Merrill et al.'s. Whether it is stuck is decided "
        "here.",
        ("memo-parity",),
    ),
    Contradiction(
        "how much data",
        ("psi: 30 % fails", "Nanda et al., p = 113: 30 % groks", "Manir and Rupa: 20 % groks, more shows no delay"),
        "A model that is symmetric in its operands sees 36 % of the unordered pairs at 20 %; psi's one-hot input is "
        "not symmetric.",
        ("psi-data-fraction", "manir-canonical", "nanda-data-fraction"),
    ),
    Contradiction(
        "over-parameterization in ridge regression",
        ("a review of Xu et al.: more features, more grokking", "Figure 2 of the paper: m has little effect"),
        "The figure counts; measured here too.",
        ("ridge",),
    ),
    Contradiction(
        "random features",
        ('a review of Xu et al.: "predictions match precisely"', "the paper: similar loss curves, no times"),
        "The population loss never comes down to 0.01 there; a time halfway to its limit is given instead.",
        ("ridge",),
    ),
    Contradiction(
        "standard deviations of Manir and Rupa",
        (
            "Tables 3 and 9: over n - 1",
            "Table 7: over n",
            "Table 2, depth 2: 85,536, which is neither (92,130; 79,787)",
        ),
        "Over n - 1 here, always.",
        ("manir-depth", "manir-weight-norm", "manir-activation"),
    ),
)


def contradictions_of(recipe: str) -> tuple[Contradiction, ...]:
    """Those that concern a recipe, by its name."""
    return tuple(one for one in CONTRADICTIONS if recipe.startswith(one.recipes))
