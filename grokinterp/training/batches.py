"""BatchOrder: which training examples each minibatch has, resumed to the same bits."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Minibatches are drawn from another stream than the initialization. A CPU generator uses the low 32 bits of its seed.
_BATCH_STREAM = 0x85EBCA6B


class BatchOrder:
    """Which training examples each minibatch has: an epoch is a new shuffle; its short rest is left out."""

    def __init__(self, n: int, batch_size: int | None, seed: int):
        """Args: n: training examples; batch_size: examples an update, all where None; seed: the run's model_seed."""
        self.n, self.size = n, min(batch_size or n, n)
        self.generator = torch.Generator().manual_seed(seed ^ _BATCH_STREAM)
        self.pending = torch.empty(0, dtype=torch.int64)  # what is left of the current epoch's order

    def next(self) -> Tensor:
        """Positions among the training examples, on the CPU."""
        if len(self.pending) < self.size:
            self.pending = torch.randperm(self.n, generator=self.generator)
        batch, self.pending = self.pending[: self.size], self.pending[self.size :]
        return batch

    def state(self) -> dict[str, Tensor]:
        """What the next batches depend on."""
        return {"batches:order": self.generator.get_state(), "batches:pending": self.pending}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        self.generator.set_state(state["batches:order"])
        self.pending = state["batches:pending"]
