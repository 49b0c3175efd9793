"""Which inputs were trained on, where the files do not say: the candidate whose losses are the recorded ones."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from grokinterp.config import TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.formats.imported import Losses
from grokinterp.tasks.operations import all_inputs
from grokinterp.tasks.splits import seeded_split

TOLERANCE = 0.1  # largest relative deviation of either loss
MARGIN = 10.0  # by which the next candidate must be worse


@dataclass(frozen=True)
class SplitEvidence:
    """Why a split was accepted, or why none was.

    Attributes:
        config: the accepted candidate; None if there is none.
        deviation: the larger relative deviation of its two losses from the recorded ones; None without losses.
        reason: for people to read.
    """

    config: TaskConfig | None
    deviation: float | None
    reason: str


def choose_split(losses: Tensor, recorded: Losses | None, candidates: Iterable[TaskConfig]) -> SplitEvidence:
    """Accepts the candidate whose losses are the recorded ones, if no other comes near.

    Both losses must match within 10 %: recorded ones may be one update older than the weights. Other candidates must
    be outside of that, and those of another shuffle at least ten times farther off; the training sets of one shuffle
    contain each other, so their losses are alike.

    Args:
        losses: `[n]`, the loss of each input with the weights at hand.
        recorded: the recorded train and test loss at the same step.
        candidates: the splits that the authors' code may have drawn.
    """
    candidates = list(candidates)
    if not candidates:
        return SplitEvidence(None, None, "the files do not say which inputs were trained on")
    if recorded is None:
        if len(candidates) == 1:
            return SplitEvidence(candidates[0], None, "drawn as the authors' code does; no losses to check it with")
        return SplitEvidence(None, None, "several splits are possible, and no losses were recorded")
    ranked = sorted((_deviation(losses, recorded, config), i) for i, config in enumerate(candidates))
    deviation, best = ranked[0][0], candidates[ranked[0][1]]
    if not deviation <= TOLERANCE:
        nearest = f"; the nearest is {100 * deviation:.3g} % off" if math.isfinite(deviation) else ""
        return SplitEvidence(None, None, f"no split that the authors' code draws gives the recorded losses{nearest}")
    for other, i in ranked[1:]:
        same_shuffle = (candidates[i].split, candidates[i].data_seed) == (best.split, best.data_seed)
        if other <= TOLERANCE or (not same_shuffle and other < MARGIN * deviation):
            return SplitEvidence(None, None, "several splits give nearly the recorded losses")
    return SplitEvidence(best, deviation, f"its losses are within {100 * deviation:.2g} % of the recorded ones")


def _deviation(losses: Tensor, recorded: Losses, config: TaskConfig) -> float:
    """The larger relative deviation of the two losses; infinite for a fraction that leaves no test set, and for NaN."""
    try:
        mask = seeded_split(config, len(all_inputs(config)))
    except ConfigError:
        return math.inf
    found = losses[mask].mean().item(), losses[~mask].mean().item()
    deviation = max(abs(a - b) / max(abs(b), 1e-300) for a, b in zip(found, recorded, strict=True))
    return deviation if math.isfinite(deviation) else math.inf


def evidence_as_json(evidence: SplitEvidence) -> Mapping[str, object]:
    """The evidence for environment.json."""
    return {"reason": evidence.reason, "deviation": evidence.deviation}
