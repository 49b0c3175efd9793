"""Networks whose circuit is known, because their weights are written down from formulas."""

import math

import torch
from torch import Tensor

import grokinterp as gi
from grokinterp.config import MLPConfig
from grokinterp.tasks import Task

P = 23
KEYS = (2, 5, 9)
PER_KEY = 9
CONFIG = MLPConfig(input="one_hot", depth=1, width=len(KEYS) * PER_KEY, activation="quadratic", biases=False)


def split_task(**options) -> Task:
    return Task.modular_addition(P, 0.5, **{"equals_token": False, **options})


def neurons() -> list[tuple[int, float, float]]:
    """Frequency, phase in a and phase in b of each neuron.

    With f(x) = x^2, the neuron (cos(w a - phi) + cos(w b - chi))^2 has the term cos(w(a+b) - phi - chi), whose output
    phase is phi + chi. Where phi + chi and phi - chi are spread evenly, the neurons of a frequency leave
    PER_KEY / 2 cos w(a+b-c), and all other terms cancel.
    """
    thirds = [2 * math.pi * j / 3 for j in range(3)]
    return [(k, total / 2 + shift, total / 2 - shift) for k in KEYS for total in thirds for shift in thirds]


def angle(k: int) -> Tensor:
    return 2 * math.pi * k * torch.arange(P, dtype=torch.float64) / P


def clock_weights(amplitude: float = 1.5) -> dict[str, Tensor]:
    """An MLP on one-hot inputs whose logits are amplitude^2 PER_KEY / 2 times the sum over keys of cos w(a+b-c)."""
    of_a = torch.stack([amplitude * torch.cos(angle(k) - phi) for k, phi, _ in neurons()], dim=1)
    of_b = torch.stack([amplitude * torch.cos(angle(k) - chi) for k, _, chi in neurons()], dim=1)
    out = torch.stack([torch.cos(angle(k) - phi - chi) for k, phi, chi in neurons()])
    return {"layers.0.W": torch.cat([of_a, of_b]), "unembed.W_U": out}


def shuffled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function: units in another order, and signs flipped, which the square forgets."""
    generator = torch.Generator().manual_seed(1)
    width = len(weights["unembed.W_U"])
    order = torch.randperm(width, generator=generator)
    signs = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
    return {"layers.0.W": weights["layers.0.W"][:, order] * signs, "unembed.W_U": weights["unembed.W_U"][order]}


def lookup_weights(task: Task) -> dict[str, Tensor]:
    """One neuron for each training pair, which it excites most, and which adds to the logit of its label."""
    train = task.inputs[task.require_split()]
    W, U = torch.zeros(2 * P, len(train), dtype=torch.float64), torch.zeros(len(train), P, dtype=torch.float64)
    for m, (a, b) in enumerate(train.tolist()):
        W[a, m] = W[P + b, m] = 1.0
        U[m, (a + b) % P] = 10.0
    return {"layers.0.W": W, "unembed.W_U": U}


def random_weights(width: int = 400) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"layers.0.W": (2 * P, width), "unembed.W_U": (width, P)}
    return {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}


def memorizer_weights(task: Task, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Random neurons with ReLU, and the smallest unembedding that gives every training pair its label, or another."""
    weights, train = random_weights(), task.require_split()
    of_a, of_b = weights["layers.0.W"].chunk(2)
    hidden = torch.relu(of_a[task.inputs[:, 0]] + of_b[task.inputs[:, 1]])[train]
    targets = torch.nn.functional.one_hot((task.labels if labels is None else labels)[train], P).double() - 1 / P
    return {**weights, "unembed.W_U": 20 * torch.linalg.lstsq(hidden, targets).solution}


def snapshot_of(weights: dict[str, Tensor], task: Task | None = None, **options) -> gi.measures.Snapshot:
    width = len(weights["unembed.W_U"])
    config = MLPConfig(input="one_hot", depth=1, width=width, **{"activation": "quadratic", "biases": False, **options})
    return gi.snapshot(task or split_task(), config, weights)
