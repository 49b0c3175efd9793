"""Finding: a warning about a run's numbers, as status.json stores it under `warnings`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A warning about the numbers of a run.

    Attributes:
        step: the step that the warning is about; for a divergence, the first step with a non-finite loss.
        kind: what happened. Training reports `diverged`, `non_finite`, `loss_underflow`, `softmax_collapse`,
            `zero_gradients` and `environment_changed`.
        message: one line that names the step.
    """

    step: int
    kind: str
    message: str


def findings_in(status: Mapping[str, Any]) -> list[Finding]:
    """The warnings in the content of a status.json, in order; runs of early versions have none."""
    warnings = status.get("warnings")
    entries = [entry for entry in warnings if isinstance(entry, dict)] if isinstance(warnings, list) else []
    fields = [(entry.get("step"), entry.get("kind"), entry.get("message")) for entry in entries]
    return [
        Finding(step, kind, message)
        for step, kind, message in fields
        if isinstance(step, int) and isinstance(kind, str) and isinstance(message, str)
    ]
