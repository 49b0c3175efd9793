"""Lion: an optimizer that moves every weight by the learning rate, in the direction of a moving average's sign."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from grokinterp.training.tensorwise import TensorwiseOptimizer


class Lion(TensorwiseOptimizer):
    """Lion (evolved sign momentum), with decoupled weight decay.

    With the gradient g, the moving average m (initially 0), the learning rate η, and the weight decay λ, an update is

        w <- (1 - η λ) w - η sign(β1 m + (1 - β1) g), and then m <- β2 m + (1 - β2) g.

    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    >>> weight.grad = torch.tensor([1e-3, -20.0, 0.0])
    >>> Lion([weight], lr=0.1).step()
    >>> weight.tolist()
    [0.8999999761581421, 1.100000023841858, 1.0]

    Source: Chen et al. 2023, arXiv:2302.06675. PyTorch has no Lion. The authors advise a learning rate 3 to 10 times
    smaller than for AdamW and a weight decay larger by the same factor.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        """Creates the optimizer.

        Args:
            parameters: to be updated.
            lr: the learning rate η; a tensor if updates are captured as a CUDA graph.
            betas: β1 and β2.
            weight_decay: λ.
        """
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """See the base class."""
        (beta1, beta2), rate = group["betas"], group["lr"]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(weight)
        mean = state["exp_avg"]
        sign = mean.lerp(gradient, 1.0 - beta1).sign_()
        weight.mul_(1.0 - rate * group["weight_decay"]).sub_(sign.mul_(rate))
        mean.lerp_(gradient, 1.0 - beta2)
