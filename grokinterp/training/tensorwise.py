"""TensorwiseOptimizer: base class of optimizers that update each tensor by a rule of its own."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor


class TensorwiseOptimizer(torch.optim.Optimizer):
    """Base class of optimizers whose update of a tensor depends on nothing but that tensor."""

    @abstractmethod
    def update(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Updates a tensor in place.

        Args:
            weight: the tensor.
            gradient: its gradient.
            state: what is kept for it between updates; empty at first.
            group: the options, such as the learning rate.
        """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Makes one update, and returns what `closure` returned, which may compute loss and gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, weight.grad, self.state[weight], group)
        return loss
