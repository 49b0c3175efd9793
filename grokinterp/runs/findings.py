"""Findings: warnings about a run's numbers, as status.json stores them, and those that follow from the metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_REACHED, _LOST = 0.95, 0.9  # accuracies: what was reached, and below which it counts as lost
_RISE, _MIN_LOSS = 10.0, 1e-3  # factor by which a test loss rises, and loss below which a rise changes no answer
_LISTED = 10  # falls of train accuracy


@dataclass(frozen=True)
class Finding:
    """A warning about the numbers of a run.

    Attributes:
        step: the step that the warning is about; for a divergence, the first step with a non-finite loss.
        kind: what happened. Training reports `diverged`, `non_finite`, `loss_underflow`, `softmax_collapse`,
            `zero_gradients`, `environment_changed`, `instability` and `late_test_loss_rise`.
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


STABILITY_KINDS = ("instability", "late_test_loss_rise")


class StabilityMonitor:
    """Finds, in the metrics of a run, falls of train accuracy after memorization and a late rise of test loss.

    >>> monitor = StabilityMonitor()
    >>> for step, accuracy in enumerate([0.5, 1.0, 0.7, 0.8, 1.0, 0.6]):
    ...     monitor.add(step, {"train_loss": 0.1, "train_accuracy": accuracy})
    >>> monitor.findings[0].message
    'instability: after train accuracy had reached 0.95, it fell below 0.9 at steps 2, 5 (lowest: 0.600)'

    Test loss counts only after test accuracy has reached 0.95, because it always rises during memorization.
    """

    def __init__(self) -> None:
        self._is_memorized = False
        self._falls: list[int] = []  # the first step of each
        self._lowest = 1.0
        self._min_loss = math.nan  # smallest test loss since generalization; NaN before
        self._rise: tuple[int, float] | None = None  # first step of a rise, and the smallest loss before it
        self._max_loss = 0.0  # largest test loss since then

    def add(self, step: int, row: Mapping[str, float]) -> None:
        """Takes the metrics of the next evaluated step; a step with a non-finite loss does not count."""
        if not math.isfinite(row.get("train_loss", math.nan)):
            return
        accuracy = row.get("train_accuracy", math.nan)
        if accuracy >= _REACHED:
            self._is_memorized = True
        elif accuracy < _LOST:
            if self._is_memorized:
                self._falls.append(step)
            self._is_memorized = False
            self._lowest = min(self._lowest, accuracy) if self._falls else 1.0
        loss = row.get("test_loss", math.nan)
        if self._rise is not None:
            self._max_loss = max(self._max_loss, loss)
        elif row.get("test_accuracy", 0.0) >= _REACHED and math.isnan(self._min_loss):
            self._min_loss = loss
        elif loss >= max(_RISE * self._min_loss, _MIN_LOSS):  # False as long as the smallest loss is NaN
            self._rise, self._max_loss = (step, self._min_loss), loss
        elif loss < self._min_loss:
            self._min_loss = loss

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, at most one finding of each kind."""
        found = []
        if self._falls:
            listed = ", ".join(map(str, self._falls[:_LISTED]))
            more = len(self._falls) - _LISTED
            found.append(
                Finding(
                    self._falls[0],
                    "instability",
                    f"instability: after train accuracy had reached {_REACHED}, it fell below {_LOST} at "
                    f"{'step' if len(self._falls) == 1 else 'steps'} {listed}{f' and {more} more' if more > 0 else ''} "
                    f"(lowest: {self._lowest:.3f})",
                )
            )
        if self._rise is not None:
            step, smallest = self._rise
            found.append(
                Finding(
                    step,
                    "late_test_loss_rise",
                    f"late rise of the test loss: after test accuracy had reached {_REACHED}, the test loss rose from "
                    f"{smallest:.2g} to at least {_RISE:.0f} times that at step {step} (largest: {self._max_loss:.2g})",
                )
            )
        return found
