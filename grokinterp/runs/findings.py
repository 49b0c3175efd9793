"""Findings: what a training found about its own numbers, as status.json keeps it under `warnings`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something about a run's numbers that a reader should know.

    Attributes:
        step: the evaluated step at which it was found; of a divergence the first step with a non-finite loss.
        kind: `diverged`, `non_finite`, `loss_underflow`, `softmax_collapse` or `zero_gradients`.
        message: one line that names the step.
    """

    step: int
    kind: str
    message: str


def findings_in(status: Mapping[str, Any]) -> list[Finding]:
    """The findings that a status.json holds, in order; none where the run was made before they were kept."""
    kept = status.get("warnings")
    whole = [entry for entry in kept if isinstance(entry, dict)] if isinstance(kept, list) else []
    given = [(entry.get("step"), entry.get("kind"), entry.get("message")) for entry in whole]
    return [
        Finding(step, kind, message)
        for step, kind, message in given
        if isinstance(step, int) and isinstance(kind, str) and isinstance(message, str)
    ]
