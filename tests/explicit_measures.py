"""Hand-built models for the tests of measures, and slow, explicit reference implementations in numpy."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from grokinterp.measures import (
    Activity,
    Snapshot,
)
from grokinterp.tasks import Task

OPERATIONS = [
    ("add", 11),
    ("add", 12),
    ("subtract", 11),
    ("subtract", 12),
    ("multiply", 11),
    ("multiply_nonzero", 11),
    ("divide", 11),
]
operations = pytest.mark.parametrize(("operation", "p"), OPERATIONS)
EXACT = [(31, {3: 20.0, 7: 15.0, 12: 18.0}), (30, {4: 20.0, 7: 15.0, 15: 18.0})]
exact = pytest.mark.parametrize(("p", "amplitudes"), EXACT, ids=["odd", "even with the Nyquist frequency"])


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine_cube(p: int, amplitudes: dict[int, float], wave=np.cos) -> Tensor:
    """sum over k of A_k wave(w_k (a + b - c)), as [p, p, p]."""
    a, b, c = np.meshgrid(np.arange(p), np.arange(p), np.arange(p), indexing="ij")
    cube = sum(amplitude * wave(2 * np.pi * k * (a + b - c) / p) for k, amplitude in amplitudes.items())
    return torch.from_numpy(np.asarray(cube))


def random_snapshot(operation: str, p: int, seed: int = 0) -> Snapshot:
    task = Task.of(operation, p, 0.4, seed)
    n = len(task.inputs)
    return Snapshot(
        task,
        normal(n, p, seed=seed, scale=2.0),
        activity=lambda: Activity(normal(n, 7, seed=seed + 100), normal(7, p, seed=seed + 200)),
    )


def memorizer(p: int, fraction: float, seed: int, *, split_known: bool = True) -> Snapshot:
    """Random logits, plus 10 on the label of every training pair."""
    task = Task.modular_addition(p, fraction, seed)
    logits = normal(p * p, p, seed=seed)
    logits[task.train_mask.nonzero().flatten(), task.labels[task.train_mask]] += 10
    return Snapshot.from_logits(task if split_known else Task.modular_addition(p), logits)


def with_novel_pairs(p: int, diagonal: int, mirrored: int) -> Task:
    """A split that trains on every pair except some pairs (a, a) and some pairs with their mirrors."""
    below = [(a, b) for a in range(p) for b in range(a)][:mirrored]
    novel = {(a, a) for a in range(diagonal)} | set(below) | {(b, a) for a, b in below}
    return Task.modular_addition(p, train_indices=[i for i in range(p * p) if divmod(i, p) not in novel])


@cache
def smallest_root(p: int) -> int:
    return next(r for r in range(2, p) if len({r**i % p for i in range(p - 1)}) == p - 1)


class Reference:
    """Explicit computation pair by pair: sum classes, waves of size p^2, masks and losses, in numpy and loops."""

    def __init__(self, snapshot: Snapshot):
        config = snapshot.task.config
        self.p, self.operation = config.p, config.operation
        self.pairs = [tuple(pair) for pair in snapshot.task.inputs.tolist()]
        self.logits = snapshot.logits.numpy()
        self.order = self.p if self.operation in ("add", "subtract") else self.p - 1
        self.sums = np.array([self._sum(a, b) for a, b in self.pairs])
        self.labels = [self._label(a, b) for a, b in self.pairs]
        trained = {pair for pair, t in zip(self.pairs, snapshot.task.train_mask.tolist(), strict=True) if t}
        commutes = self.operation in ("add", "multiply", "multiply_nonzero")
        inside = self.sums >= 0
        train = np.array([pair in trained for pair in self.pairs])
        mirrored = np.array([commutes and (b, a) in trained for a, b in self.pairs])
        self.masks = {"all": inside, "train": inside & train, "test": inside & ~train}
        self.held_out = inside & ~train & ~mirrored

    def _label(self, a: int, b: int) -> int:
        if self.operation == "add":
            return (a + b) % self.p
        if self.operation == "subtract":
            return (a - b) % self.p
        if self.operation == "divide":
            return next(c for c in range(self.p) if c * b % self.p == a)
        return a * b % self.p

    def _sum(self, a: int, b: int) -> int:
        if self.operation == "add":
            return (a + b) % self.p
        if self.operation == "subtract":
            return (a - b) % self.p
        if a == 0 or b == 0:
            return -1
        sign = -1 if self.operation == "divide" else 1
        return (self.logarithm(a) + sign * self.logarithm(b)) % (self.p - 1)

    def logarithm(self, x: int) -> int:
        return next(i for i in range(self.p - 1) if smallest_root(self.p) ** i % self.p == x)

    def part(self, values: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
        """(sum over K of u u^T + v v^T) values, u and v unit vectors over pairs."""
        total = np.zeros_like(values)
        for k in keys:
            for wave in (np.cos, np.sin):
                if wave is np.sin and 2 * k == self.order:
                    continue
                u = np.where(self.sums >= 0, wave(2 * np.pi * k * self.sums / self.order), 0.0)
                u = u / np.sqrt((u**2).sum())
                total += np.outer(u, u @ values)
        return total

    def mean(self) -> np.ndarray:
        return self.logits[self.sums >= 0].mean(axis=0)

    def loss(self, logits: np.ndarray, mask: np.ndarray) -> float:
        losses = []
        for i in np.flatnonzero(mask):
            shifted = logits[i] - logits[i].max()
            losses.append(math.log(sum(math.exp(x) for x in shifted)) - shifted[self.labels[i]])
        return sum(losses) / len(losses)

    def keys(self) -> tuple[int, ...]:
        return (1, 3) if self.order % 2 else (1, 3, self.order // 2)

    def key_part(self, snapshot: Snapshot, keys: tuple[int, ...], level: str) -> np.ndarray:
        if level == "logit":
            return self.part(self.logits, keys)
        return self.part(snapshot.neurons.numpy(), keys) @ snapshot.neuron_logit_map.numpy()
