"""Thinning: about two hundred rows of a run's metrics from which every event and every extreme can still be read."""

import hashlib
import struct
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from grokinterp.analysis.transition import THRESHOLDS, first_reaching

_ACCURACIES = ("train_accuracy", "test_accuracy", "novel_accuracy")
_EXTREMES = ("weight_norm", "test_loss")  # whose largest and smallest values are kept, before T_grok(0.95) and after
_DIGEST = 6  # hexadecimal digits


def exact_steps(metrics: pd.DataFrame) -> list[int]:
    """The steps whose rows a record keeps exactly: the first, the last, those around each event, and the extremes.

    >>> curve = pd.DataFrame({"train_accuracy": [0.0, 0.5, 0.96, 0.97, 1.0, 1.0]}, index=range(0, 60, 10))
    >>> exact_steps(curve)
    [0, 10, 20, 30, 40, 50]

    Args:
        metrics: one row per evaluated step, indexed by step.
    """
    steps = metrics.index.to_numpy()
    kept = {int(steps[0]), int(steps[-1])}
    for name in _ACCURACIES:
        if name in metrics:
            for theta in THRESHOLDS:
                event = first_reaching(metrics, name, theta)
                kept |= {step for step in (event.step, event.previous) if step is not None}
    grokked = first_reaching(metrics, "test_accuracy", 0.95).step
    for name in _EXTREMES:
        values = pd.Series(metrics[name]).dropna() if name in metrics else pd.Series(dtype=float)
        for part in (values, values.loc[:grokked], values.loc[grokked:]) if grokked is not None else (values,):
            if len(part):
                places = np.array([part.to_numpy().argmax(), part.to_numpy().argmin()])
                kept |= {int(step) for step in part.index.to_numpy()[places]}
    return sorted(kept)


def thinned_steps(steps: np.ndarray, keep: Iterable[int], count: int) -> list[int]:
    """At most `count` of the steps besides those to keep: half of them evenly spaced, half evenly in log(step).

    >>> thinned_steps(np.arange(0, 1001), keep=[137], count=6)
    [0, 1, 32, 137, 500, 1000]

    Args:
        steps: evaluated steps, ascending.
        keep: steps that are kept in any case.
        count: number of the others.
    """
    last = max(int(steps[-1]), 1)
    half = max(count // 2, 1)
    targets = np.concatenate([np.linspace(0, last, half), np.geomspace(1, last, half)])
    right = np.clip(np.searchsorted(steps, targets), 1, max(len(steps) - 1, 1)) if len(steps) > 1 else np.zeros(1, int)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(steps[left] - targets) <= np.abs(steps[right] - targets), left, right)
    return sorted({int(step) for step in steps[nearest]} | set(keep))


def digests(metrics: pd.DataFrame, steps: Iterable[int]) -> Iterator[str]:
    """For each step, six hexadecimal digits of a hash of all metrics up to it, bit for bit.

    Two runs whose digests agree at a step had the same metrics at every evaluated step until then.

    Args:
        metrics: one row per evaluated step, indexed by step.
        steps: some of these steps, ascending.
    """
    names = sorted(metrics)
    values, wanted = metrics[names].to_numpy(dtype=float), set(steps)
    hashed = hashlib.sha256(" ".join(names).encode())
    for step, row in zip(metrics.index.to_numpy(), values, strict=True):
        hashed.update(struct.pack(f"<q{len(names)}d", int(step), *row))
        if int(step) in wanted:
            yield hashed.hexdigest()[:_DIGEST]
