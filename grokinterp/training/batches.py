"""BatchOrder: the training examples of each minibatch, in an order that resumes bit for bit."""

from collections.abc import Mapping

import torch
from torch import Tensor

# Keeps the random stream of minibatches apart from that of the initialization. A CPU generator uses only the low
# 32 bits of its seed.
_BATCH_STREAM = 0x85EBCA6B


class BatchOrder:
    """Draws minibatches: each epoch is a new shuffle, whose remainder shorter than a batch is dropped."""

    def __init__(self, n: int, batch_size: int | None, seed: int):
        """Seeds the order.

        Args:
            n: number of training examples.
            batch_size: examples per update; None for all.
            seed: the run's model_seed.
        """
        self.n, self.size = n, min(batch_size or n, n)
        self.generator = torch.Generator().manual_seed(seed ^ _BATCH_STREAM)
        self.pending = torch.empty(0, dtype=torch.int64)  # the rest of the current epoch

    def next(self) -> Tensor:
        """Draws the next minibatch: indices of training examples, on the CPU."""
        if len(self.pending) < self.size:
            self.pending = torch.randperm(self.n, generator=self.generator)
        batch, self.pending = self.pending[: self.size], self.pending[self.size :]
        return batch

    def state(self) -> dict[str, Tensor]:
        """The state that the next batches depend on."""
        return {"batches:order": self.generator.get_state(), "batches:pending": self.pending}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self.generator.set_state(state["batches:order"])
        self.pending = state["batches:pending"]
