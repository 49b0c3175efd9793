"""Checking a record: trains the first steps of its run again, and says at which step, if any, the metrics part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.records.record import Record
from grokinterp.experiments.records.thinning import digests
from grokinterp.runs.environment import rounding_changes
from grokinterp.training import train
from grokinterp.training.callbacks import Callback
from grokinterp.training.preparation import check_products

# Bounds for another machine. They apply until the train loss has fallen by a tenth, because differences in rounding
# grow exponentially: by T_train(0.99), they change the train loss of some runs by 15 %.
LOSS_BOUND = 0.001  # of the train loss, relative to it
ACCURACY_BOUND = 0.01
_FALL = 0.9  # of the first train loss


@dataclass(frozen=True)
class Check:
    """How the metrics of a run that was trained again compare with its record.

    Attributes:
        last: the last step that was compared.
        equal_until: the last compared step up to which all metrics are equal, bit for bit; None if they never are.
        parts_at: the first compared step at which they differ; None if there is none.
        differences: what differs between the machines, forward paths and versions.
        loss: largest relative deviation of the train loss up to `bounded`.
        accuracy: largest deviation of the train accuracy up to `bounded`.
        bounded: the last compared step to which the bounds apply: the first at which the train loss has fallen by a
            tenth, or `last`.
    """

    last: int
    equal_until: int | None
    parts_at: int | None
    differences: tuple[str, ...]
    loss: float
    accuracy: float
    bounded: int

    @property
    def passed(self) -> bool:
        """Whether the metrics are equal bit for bit or, on another machine, within the bounds."""
        return self.parts_at is None or (bool(self.differences) and self.within_bounds)

    @property
    def within_bounds(self) -> bool:
        """Whether the train loss and accuracy deviate by no more than the bounds."""
        return self.loss <= LOSS_BOUND and self.accuracy <= ACCURACY_BOUND

    def __str__(self) -> str:
        if self.parts_at is None:
            return f"equal, bit for bit, at every evaluation up to step {self.last:,}"
        equal = "at no step" if self.equal_until is None else f"up to step {self.equal_until:,}"
        why = f"; not the same: {'; '.join(self.differences)}" if self.differences else ""
        return (
            f"equal, bit for bit, {equal}; the metrics part by step {self.parts_at:,}{why}. Up to step "
            f"{self.bounded:,}, the train loss deviates by at most {100 * self.loss:.2g} % (bound "
            f"{100 * LOSS_BOUND:g} %) and the train accuracy by {self.accuracy:.2g} (bound {ACCURACY_BOUND:g})"
        )


def check(record: Record, folder: str | Path, steps: int | None = None, *, progress: bool | None = None) -> Check:
    """Trains a recorded run again, with the recorded threads and products, and compares its metrics with the record.

    On the same kind of machine, with the same versions and the same forward path, all metrics must be equal, bit for
    bit. Otherwise, train loss and accuracy must be within bounds until the train loss has fallen by a tenth.

    Args:
        record: the record.
        folder: of the new run.
        steps: how many steps to train (default: all of the run).
        progress: whether to show a progress bar (default: in a terminal).

    Raises:
        ConfigError: the run was trained on a GPU or with products that this processor does not have, or no recorded
            evaluation lies in these steps.
        RunError: the folder cannot be written to.
    """
    device = record.environment.get("device", "cpu")
    if device != "cpu":
        raise ConfigError(f"{record.recipe}/{record.name} was trained on {device}: only runs of a CPU can be checked")
    products = record.environment.get("products", "float32")
    check_products(products, "cpu")
    compared = [step for step in record.digests if steps is None or step <= steps]
    if not {"train_loss", "train_accuracy"} <= set(record.metrics) or list(record.digests) == [0]:
        raise ConfigError(f"{record.recipe}/{record.name} has no evaluations to compare")
    if compared[-1:] in ([], [0]):
        least = min(step for step in record.digests if step > 0)
        raise ConfigError(f"the record has no evaluation in the first {steps} steps: give --steps {least} or more")
    threads = record.environment.get("threads")
    run = train(
        record.config,
        folder,
        threads=threads if isinstance(threads, int) else None,
        device="cpu",
        products=products,
        callbacks=[_EndAt(compared[-1])],
        progress=progress,
    )
    metrics = run.metrics
    found = dict(zip(compared, digests(metrics, compared), strict=False))
    parts_at = next((step for step in compared if found.get(step) != record.digests[step]), None)
    equal = [step for step in compared if parts_at is None or step < parts_at]
    loss, accuracy, bounded = _deviations(record.metrics, metrics, compared)
    changes = _differences(record.environment, run.environment)
    return Check(compared[-1], max(equal, default=None), parts_at, changes, loss, accuracy, bounded)


def _differences(recorded: Mapping[str, object], found: Mapping[str, object]) -> tuple[str, ...]:
    path = (recorded.get("forward_path"), found.get("forward_path"))
    changes = rounding_changes(recorded, found)
    return (*changes, *([f"forward_path: {path[0]} -> {path[1]}"] if path[0] != path[1] else []))


def _deviations(recorded: pd.DataFrame, found: pd.DataFrame, steps: list[int]) -> tuple[float, float, int]:
    """The largest deviations of train loss and accuracy until the loss has fallen, and the step at which it has."""
    columns = ["train_loss", "train_accuracy"]
    common = [step for step in steps if step in found.index]
    ours, theirs = (table.loc[common, columns].to_numpy(dtype=float) for table in (found, recorded))
    has_fallen = np.flatnonzero(theirs[:, 0] <= _FALL * theirs[0, 0])
    last = min(max(has_fallen[0] if len(has_fallen) else len(common) - 1, 1), len(common) - 1)
    gaps = np.abs(ours - theirs)[: last + 1]
    return float((gaps[:, 0] / theirs[: last + 1, 0]).max()), float(gaps[:, 1].max()), int(common[last])


class _EndAt(Callback):
    """Ends a run at a step."""

    def __init__(self, last: int):
        self.last = last

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        return int(metrics["step"]) >= self.last
