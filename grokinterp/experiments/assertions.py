"""Assertions of the literature about grokking, their parts, and how the claims of all recipes decide them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.results import Results

Decision = Literal["true by construction", "supported", "not supported", "mixed", "partly", "inconclusive"]
FEWEST_RUNS = 3  # fewer runs of a setting decide nothing


@dataclass(frozen=True)
class Part:
    """One part of an assertion, which must be decided by itself.

    Attributes:
        statement: what it says, in a few words.
        claims: the claims that decide it, as `RECIPE: NAME`; `*` stands for any text.
    """

    statement: str
    claims: tuple[str, ...]

    def concerns(self, recipe: str, claim: Claim) -> bool:
        """Whether a claim of a recipe decides this part."""
        return any(fnmatchcase(f"{recipe}: {claim.name}", pattern) for pattern in self.claims)


@dataclass(frozen=True)
class Assertion:
    """A statement of the literature.

    >>> ASSERTIONS[2].parts[1].statement
    'on the plateau, mirrored pairs are right and novel ones wrong'

    Attributes:
        statement: as a sentence.
        parts: its parts; none if it is true by construction.
        note: a comment that the page prints below the statement.
    """

    statement: str
    parts: tuple[Part, ...]
    note: str = ""


def _whole(statement: str, *claims: str, note: str = "") -> Assertion:
    """An assertion of one part."""
    return Assertion(statement, (Part("", claims),), note)


ASSERTIONS: Mapping[int, Assertion] = {
    1: Assertion(
        "Every run has exactly one outcome: it groks, only memorizes, or does not memorize. Means include only runs "
        "that grok.",
        (),
        "The outcomes exclude each other by definition; the claims only check the program.",
    ),
    2: Assertion(
        "Manir and Rupa's canonical run memorizes after 500 to 2,000 steps and groks (99 %) after 15,000 to 60,000 "
        "steps in 3 of 5 seeds. On its plateau, it answers mirrored pairs correctly and novel pairs incorrectly.",
        (
            Part("the times", ("manir-canonical: canonical times",)),
            Part("on the plateau, mirrored pairs are right and novel ones wrong", ("manir-canonical: plateau",)),
        ),
    ),
    3: _whole("T_grok(0.99) is 1.05 to 2 times T_grok(0.95).", "*: 95 % or 99 %"),
    4: _whole("MLPs of width 512 grok at an RMS weight norm of 0.022 ± 0.003.", "manir-weight-norm: RMS at T_grok"),
    5: _whole(
        "At equal weight decay, ReLU and GELU networks grok at norms within 10 % of each other, although their times "
        "differ by a factor of three.",
        "manir-*: norm and activation",
    ),
    6: Assertion(
        "The delay is inversely proportional to weight decay.",
        (
            Part("ridge regression", ("ridge: 1/λ in ridge regression",)),
            Part("psi's MLP", ("psi-weight-decay: 1/λ, delay*",)),
            Part("Manir and Rupa's MLP", ("manir-weight-decay: 1/λ, delay*",)),
            Part(
                "transformers",
                (
                    "nanda-weight-decay: 1/λ, delay*",
                    "omnigrok-weight-decay: 1/λ, delay*",
                    "manir-weight-decay: 1/λ, transformer",
                ),
            ),
        ),
    ),
    7: Assertion(
        "Weight decay has a working range: below it, no run generalizes; above it, no run memorizes.",
        (
            Part("the lower edge", ("manir-weight-decay: Goldilocks zone",)),
            Part("the upper edge", ("manir-weight-decay: Goldilocks zone", "manir-goldilocks-edge: memorization edge")),
        ),
    ),
    8: _whole(
        "A network of depth 4 fails at width 256 but groks at width 512 with a different learning rate and weight "
        "decay, so its failure says nothing about depth alone.",
        "manir-depth: depth",
    ),
    9: Assertion(
        "ReLU networks take 2 to 8 times as long to grok as GELU networks.",
        (
            Part("addition", ("manir-activation-b: ReLU against GELU",)),
            Part("multiplication", ("manir-multiplication: ReLU against GELU",)),
        ),
    ),
    10: Assertion(
        "The transformer takes as long to grok as the MLP, within the spread across seeds.",
        (
            Part("at the settings of the matched comparison", ("manir-transformer-matched: transformer against MLP",)),
            Part("at the best settings of each", ("manir-transformer-optimal: transformer against MLP",)),
            Part("multiplication", ("manir-multiplication: transformer against MLP",)),
        ),
    ),
    11: Assertion(
        "psi's MLP does not grok at a train fraction of 0.3; at larger fractions, it groks sooner with more data.",
        (
            Part("no grokking at 0.3", ("psi-data-fraction: 30 % of the data",)),
            Part("sooner with more data", ("psi-data-fraction: more data, earlier grokking",)),
        ),
    ),
    12: Assertion(
        "At weight decays of 0 and 0.1, psi's MLP does not grok, and its norm keeps growing; at 0.5 and above, it "
        "groks.",
        (
            Part("no grokking at 0 and 0.1", ("psi-weight-decay: little decay",)),
            Part("the norm grows at 0", ("psi-weight-decay: norm at decay 0",)),
            Part("the norm grows at 0.1", ("psi-weight-decay: norm at decay 0.1",)),
            Part("grokking at 0.5", ("psi-weight-decay: decay 0.5",)),
            Part("grokking at 1 to 5", ("psi-weight-decay: decay 1 to 5",)),
        ),
    ),
    13: Assertion(
        "Wider MLPs overfit sooner but grok at about the same time (within 20 %).",
        (
            Part("they overfit sooner", ("psi-width: capacity and overfitting",)),
            Part("they grok at about the same time", ("psi-width: capacity and grokking, widths 32 to *",)),
        ),
    ),
    14: _whole(
        "psi's weight norm peaks at 400 to 600 epochs, falls by 10 % before grokking, and changes little afterward.",
        "psi-baseline: norm",
    ),
    15: _whole(
        "Networks grok addition, subtraction, and multiplication at about the same time (within 20 %).",
        "psi-operation: operations",
    ),
    16: Assertion(
        "Ridge regression groks as proven: the bounds hold; the generalization time t2 scales as 1/λ, while the "
        "overfitting time t1 does not depend on λ; and both scale as 1/η and grow with ln ν².",
        (
            Part("the bounds", ("ridge: t1 below (6)", "ridge: t2 above (7)", "ridge: Gaussian bounds (8)")),
            Part("t2 as 1/λ", ("ridge: t2 as 1/λ",)),
            Part("t1 independent of λ", ("ridge: t1 independent of λ",)),
            Part("both as 1/η", ("ridge: times as 1/η",)),
            Part("t1 with ln ν²", ("ridge: t1 in ln ν²",)),
            Part("t2 with ln ν²", ("ridge: t2 in ln ν²",)),
        ),
    ),
    17: Assertion(
        "A two-layer ReLU network with both layers trained behaves like ridge regression: t2 scales as 1/λ, and "
        "t1 hardly depends on λ.",
        (
            Part("t2 as 1/λ", ("ridge: two-layer ReLU: t2",)),
            Part("t1 hardly depends on λ", ("ridge: two-layer ReLU: t1",)),
        ),
    ),
    18: Assertion(
        "Without weight decay, networks trained by gradient descent grok while their norm rises; a smaller output "
        "scale shortens the delay.",
        (
            Part("arithmetic: grokking", ("kumar-modular: grokking without weight decay",)),
            Part("arithmetic: the norm rises", ("kumar-modular: norm rises",)),
            Part("arithmetic: the output scale", ("kumar-modular: smaller output scale, shorter delay",)),
            Part("polynomials: grokking", ("kumar-polynomial: polynomial: grokking",)),
            Part("polynomials: the norm rises", ("kumar-polynomial: polynomial: norm",)),
            Part("polynomials: the output scale", ("kumar-polynomial: polynomial: smaller scale, shorter delay",)),
        ),
        "A run counts as grokked only if T_grok(0.95) is more than twice T_train(0.99).",
    ),
    19: Assertion(
        "From a large initialization, T_test scales as 1/γ, where γ is the weight decay, and T_train does not depend "
        "on γ; a small initialization or a constrained norm removes the delay.",
        (
            Part("T_test as 1/γ", ("omnigrok-teacher-student: T_test as 1/γ",)),
            Part("T_train independent of γ", ("omnigrok-teacher-student: T_train independent of γ",)),
            Part("a small initialization", ("omnigrok-teacher-student: small start, no delay",)),
            Part("a constrained norm", ("omnigrok-constrained-norm: held norm, no delay",)),
        ),
    ),
    20: Assertion(
        "With Adam and without weight decay, the training loss spikes late in training, and the norm of the last "
        "layer grows in steps; a larger ε removes the spikes.",
        (
            Part("spikes", ("slingshot: spikes",)),
            Part("growth in steps", ("slingshot: stepwise norm",)),
            Part("a larger ε", ("slingshot: a larger ε removes the spikes",)),
        ),
    ),
    21: Assertion(
        "The restricted loss falls and the excluded loss rises before the test accuracy rises; the network uses 5 or "
        "6 key frequencies.",
        (
            Part("the restricted loss leads", ("nanda-mainline: restricted loss leads",)),
            Part("the excluded loss leads", ("nanda-mainline: excluded loss leads",)),
            Part("5 or 6 key frequencies", ("nanda-mainline: key frequencies",)),
        ),
        "Nanda et al. 2023, Appendix C.2.1, themselves report 3 or 4 key frequencies on other seeds.",
    ),
    22: Assertion(
        "Without weight decay, networks memorize parity but never generalize.",
        (
            Part("MLP", ("memo-parity: stuck, MLP",)),
            Part("transformer", ("memo-parity: stuck, transformer",)),
        ),
    ),
    23: Assertion(
        "psi's MLP memorizes even 18 and 188 training pairs, and does not generalize from them.",
        (
            Part("memorization", ("psi-tiny-data: tiny sets are memorized",)),
            Part("no generalization", ("psi-tiny-data: tiny sets do not generalize",)),
        ),
        "A review lists data sets that are too small to be memorized.",
    ),
    24: Assertion(
        "In ridge regression, the delay grows as the number of features m passes the number of training examples n, "
        "and then saturates. Below n, it is inversely proportional to the slowest decay rate; above 2n, weight decay "
        "alone sets it.",
        (
            Part("growth and saturation", ("ridge: m below and above n",)),
            Part("m < n: the slowest decay rate", ("ridge: spectral gap",)),
            Part("m ≥ 2n: weight decay alone", ("ridge: weight decay alone",)),
        ),
    ),
    25: _whole(
        "Muon groks in fewer steps than AdamW.",
        "tveit-muon: Muon against AdamW",
        note="Two publications disagree: Tveit et al. 2025 (102.9 against 153.1 epochs) and Essential AI 2025 (no "
        "clear effect).",
    ),
    26: Assertion(
        "Without weight decay, another regularizer makes a network generalize.",
        (
            Part("L1", ("power-regularizers: L1 for weight decay",)),
            Part("dropout", ("power-regularizers: Dropout for weight decay",)),
            Part("gradient noise", ("power-regularizers: Gradient noise for weight decay",)),
            Part("a small initialization", ("power-regularizers: A small initialization for weight decay",)),
        ),
    ),
    27: _whole(
        "With residual connections and LayerNorm, an MLP of depth 8 groks where a flat one of depth 4 does not.",
        "manir-depth-8: depth 8",
    ),
}


@dataclass(frozen=True)
class Verdicts:
    """The decision on an assertion, and the decision on each of its parts.

    Attributes:
        decision: on the assertion: `supported`, `not supported` or `mixed` (some parts hold, others do not) only if
            every part is decided; `partly` if some are.
        parts: on each part, by its statement, with the number of runs behind the claim that has the fewest.
    """

    decision: Decision
    parts: Mapping[str, tuple[Decision, int]]

    @property
    def text(self) -> str:
        """The decision with the number of runs behind it; if its parts differ, that of each part."""
        if not self.parts or self.decision == "inconclusive":
            return self.decision
        if self.decision in ("partly", "mixed") and len(self.parts) > 1:
            return f"{self.decision}: {'; '.join(f'{name}: {_text(*part)}' for name, part in self.parts.items())}"
        return _text(self.decision, min(n for _, n in self.parts.values()))


def _text(decision: Decision, n: int) -> str:
    return decision if decision == "inconclusive" else f"{decision} (n = {n:,})"


def decides(result: Results, claim: Claim) -> bool:
    """Whether a claim may decide a part of an assertion: it has a verdict, by at least three runs of every setting.

    Runs with bf16 products point where to look but decide nothing. Neither do runs of an arm of which some are missing:
    those that grok soon end first.
    """
    runs = claim.n if claim.fewest is None else min(claim.n, claim.fewest)
    return claim.verdict != "inconclusive" and runs >= FEWEST_RUNS and not result.bf16 and not result.partial


def decide_assertion(assertion: Assertion, claims: Iterable[tuple[Results, Claim]]) -> Verdicts:
    """Combines the verdicts of claims, all of runs of one kind: published size or miniatures.

    Args:
        assertion: the assertion.
        claims: claims of all recipes, each with the results that it belongs to.
    """
    if not assertion.parts:
        return Verdicts("true by construction", {})
    claims = [(result, claim) for result, claim in claims if decides(result, claim)]
    parts: dict[str, tuple[Decision, int]] = {}
    for part in assertion.parts:
        found = [claim for result, claim in claims if part.concerns(result.recipe, claim)]
        parts[part.statement] = _combined(claim.verdict for claim in found), min((c.n for c in found), default=0)
    decisions: list[Decision] = [decision for decision, _ in parts.values()]
    if "inconclusive" in decisions:
        return Verdicts("inconclusive" if set(decisions) == {"inconclusive"} else "partly", parts)
    return Verdicts(_combined(decisions), parts)


def _combined(decisions: Iterable[Decision]) -> Decision:
    """The one decision that all of them are; `mixed` if they differ, and `inconclusive` if there is none."""
    found = set(decisions)
    return found.pop() if len(found) == 1 else "mixed" if found else "inconclusive"


def claims_by_assertion(results: Iterable[Results]) -> dict[int, list[tuple[Results, Claim]]]:
    """Groups the claims of several recipes by the number of their assertion, each with the results it belongs to."""
    groups: dict[int, list[tuple[Results, Claim]]] = {number: [] for number in ASSERTIONS}
    for result in results:
        for claim in result.claims:
            if claim.number in groups:
                groups[claim.number].append((result, claim))
    return groups
