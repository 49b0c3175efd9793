"""Contradictions between sources about grokking, each with our position."""

from dataclasses import dataclass
from typing import Any


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
        "We follow the logs: 10,000 epochs for the baseline and 5,000 for the sweeps.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi after grokking",
        (
            'text: "quickly converging to 100 %"',
            "log: from 95 %, it takes 400 epochs to reach 99 % and another 1,250 to reach 99.9 %",
        ),
        "We follow the logs and always report both thresholds, 0.95 and 0.99.",
        ("psi-baseline",),
    ),
    Contradiction(
        "psi at the overfitting epoch",
        (
            "text: test accuracy near chance at the overfitting epoch",
            "logs: 0.25 at decay 5, 0.66 at width 32, 0.11 and 0.63 at train fractions 0.7 and 0.9",
        ),
        "It depends on the configuration; we count runs that are far above chance at that epoch as having generalized "
        "without delay.",
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
        "Omnigrok and psi use 0.95; Power et al. use 0.99. T_grok(0.99) may be 1.05 to 2 times T_grok(0.95), so we "
        "always compute both.",
        ("psi-", "manir-", "power-", "omnigrok-", "nanda-", "memo-"),
    ),
    Contradiction(
        "the plateau at a train fraction of 20 %",
        ('a review of Manir and Rupa: "validation 10 % - random chance"', "the paper: near chance (19.9 %)"),
        "Chance is 1.03 %. The input is a sum of embeddings, so a network that memorizes a pair also "
        "solves its mirrored pair; mirrored pairs make up 20 % of the test set. Accuracy on novel pairs is 0.",
        ("manir-",),
    ),
    Contradiction(
        "weight decay of the matched MLP",
        ("a review of Manir and Rupa: 1e-4", "the paper: 5e-4"),
        "It is 5e-4; with 1e-4, the delay would be 220,000 steps (their Table 9).",
        ("manir-transformer",),
    ),
    Contradiction(
        "T_train and T_grok of Manir and Rupa's canonical run",
        ("Figure 1: 1,000 and 33,000", "Table 2: 2,000 and 34,000, same seed"),
        "Times in Table 2 lie on a grid of 2,000 steps. We store the grid with every time.",
        ("manir-canonical", "manir-depth"),
    ),
    Contradiction(
        "can a network memorize at λ = 2e-3?",
        ("a review of Manir and Rupa: it cannot", "the paper: the canonical run and Sweep A have λ = 2e-3"),
        "A network of depth 2 can; one of depth 4 and width 512 at learning rate 3e-2 cannot. We measure both.",
        ("manir-weight-decay", "manir-goldilocks-edge", "manir-canonical"),
    ),
    Contradiction(
        "the transformer's delay at λ = 5",
        ("24,000 (3 seeds)", "50,800 (5 seeds)", "12,000 (seed 0)"),
        "All three numbers come from one paper. Their spread across seeds is 44 to 76 % of the mean, so their "
        "ratio to the MLP's times must be reported with an interval.",
        ("manir-transformer", "manir-weight-decay", "manir-weight-norm"),
    ),
    Contradiction(
        "ReLU at the same norm as GELU",
        ("the paper: 6.9 times slower at the same norm", "its tables at equal λ = 5e-4: 180,000 / 54,000 = 3.3"),
        "The ratio of 6.9 compares λ = 5e-4 with 1e-3; at equal λ, the ratio over five seeds is 4.32.",
        ("manir-activation", "manir-weight-norm"),
    ),
    Contradiction(
        "the norm at which networks grok",
        (
            "Manir and Rupa: RMS 0.022 ± 0.003",
            "psi: RMS 0.115 to 0.52, L2 53 to 74",
            "Manir and Rupa, width 256: RMS 0.0695",
        ),
        "The RMS decreases as the number of parameters grows, but the L2 norm does not; we always report both.",
        ("manir-weight-norm", "manir-canonical", "psi-width"),
    ),
    Contradiction(
        "does grokking mean a smaller norm?",
        (
            'a review of Manir and Rupa: "small-norm solution"',
            "psi: the norm at grokking is 5.5 times the initial norm",
            "Kumar et al. 2023: the norm rises while the network groks",
        ),
        "With weight decay, the norm falls from its peak at memorization; without weight decay, it rises.",
        ("psi-baseline", "kumar-", "manir-canonical", "manir-weight-norm"),
    ),
    Contradiction(
        "who discovered that T_grok scales as 1/λ?",
        (
            "an encyclopedia page: Power et al. 2022",
            "Nanda et al. 2023, Appendix D.1: the opposite direction (3k, 5-10k, and 20k at λ = 0.3, 1, and 3)",
            "the saved curves of Nanda et al.: 95.5k at λ = 0.1 and 7.9k at 1",
        ),
        "Liu et al. 2022 (Omnigrok) reported it first, in Appendix C; Power et al. did not report it.",
        ("omnigrok-weight-decay", "nanda-weight-decay", "psi-weight-decay", "ridge"),
    ),
    Contradiction(
        "does more weight decay speed up grokking or prevent it?",
        (
            "reviews of Xu et al. and an encyclopedia page: it speeds up grokking",
            "a review of Manir and Rupa: too much prevents grokking",
            "Manir and Rupa's transformer: the effect is not monotonic",
        ),
        "More weight decay speeds up grokking up to an upper edge, above which networks do not memorize; psi's weight "
        "decays (λ <= 5) do not reach that edge.",
        ("manir-weight-decay", "manir-goldilocks-edge", "psi-weight-decay", "omnigrok-weight-decay"),
    ),
    Contradiction(
        "is weight decay necessary?",
        ("a memo of 2026: weight decay is the driver", "Kumar et al. 2023: sufficient but not necessary"),
        "It is not necessary: a quadratic MLP trained with plain gradient descent groks without it.",
        ("kumar-", "memo-", "power-division", "psi-weight-decay"),
    ),
    Contradiction(
        "parity",
        (
            "a memo of 2026: Power et al. had a parity task; without weight decay, the network stays stuck on it "
            "indefinitely",
        ),
        "Power et al. used no parity task; sparse parity comes from Barak et al. and Merrill et al. We test whether "
        "training without weight decay stays stuck.",
        ("memo-parity",),
    ),
    Contradiction(
        "how much data",
        (
            "psi: networks fail at 30 %",
            "Nanda et al., p = 113: networks grok at 30 %",
            "Manir and Rupa: networks grok at 20 %, and more data removes the delay",
        ),
        "With 20 % of the ordered pairs, a model that is symmetric in its operands trains on 36 % of the unordered "
        "pairs; psi's one-hot input is not symmetric.",
        ("psi-data-fraction", "manir-canonical", "nanda-data-fraction"),
    ),
    Contradiction(
        "over-parameterization in ridge regression",
        ("a review of Xu et al.: more features, more grokking", "Figure 2 of the paper: m has little effect"),
        "Both are right, on different sides: the delay grows up to about two features per training example, and hardly "
        "beyond.",
        ("ridge",),
    ),
    Contradiction(
        "data sets too small to memorize",
        ("a review of the field: a data set can be too small to be memorized", "no paper says so"),
        "psi's MLP memorizes 18 and 188 training pairs sooner than thousands. What too small a data set prevents is "
        "generalization.",
        ("psi-tiny-data",),
    ),
    Contradiction(
        "random features",
        ('a review of Xu et al.: "predictions match precisely"', "the paper: similar loss curves, no times"),
        "With random features, the population loss never falls to 0.01, so we report the time at which it is halfway "
        "to its limit.",
        ("ridge",),
    ),
    Contradiction(
        "standard deviations of Manir and Rupa",
        (
            "Tables 3 and 9: divided by n - 1",
            "Table 7: divided by n",
            "Table 2, depth 2: 85,536, which matches neither 92,130 (n - 1) nor 79,787 (n)",
        ),
        "We always divide by n - 1.",
        ("manir-depth", "manir-weight-norm", "manir-activation"),
    ),
)


def contradictions_of(recipe: str) -> tuple[Contradiction, ...]:
    """The contradictions that concern a recipe, given its name."""
    return tuple(entry for entry in CONTRADICTIONS if recipe.startswith(entry.recipes))
