"""Muon: an optimizer for hidden matrices, whose updates are orthogonalized momentum."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.training.tensorwise import TensorwiseOptimizer

# Jordan et al. 2024: a quintic polynomial with a steep slope at 0, iterated five times.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_EPS = 1e-7
# Liu et al. 2025: the RMS of an update of AdamW is about 0.2.
_RMS = 0.2


def orthogonalize(matrices: Float[Tensor, "*r a b"]) -> Float[Tensor, "*r a b"]:
    """Maps the singular values of each matrix to about 1 (0.68 to 1.21), and keeps its singular vectors.

    It iterates a Newton-Schulz polynomial in the dtype of the matrices. Singular values below 0.003 of the Frobenius
    norm may remain smaller than that, and a matrix whose Frobenius norm is below 1e-7 is not normalized first.

    >>> values = torch.linalg.svdvals(orthogonalize(torch.diag(torch.tensor([300.0, 2.0, 0.0]))))
    >>> [round(float(value), 1) for value in values]
    [0.9, 0.7, 0.0]

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, whose code computes in bfloat16.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_EPS)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if tall else x


class Muon(TensorwiseOptimizer):
    """Muon (momentum orthogonalized by Newton-Schulz), with Nesterov momentum and decoupled weight decay.

    With the gradient G, the momentum M (initially 0), the learning rate η, and the weight decay λ, an update of an
    [a, b] matrix is

        M <- μ M + (1 - μ) G, and then W <- (1 - η λ) W - 0.2 sqrt(max(a, b)) η orthogonalize(μ M + (1 - μ) G).

    The factor makes the RMS of an update that of AdamW, so that both can use one learning rate (Liu et al. 2025,
    arXiv:2502.16982; `torch.optim.Muon` calls it "match_rms_adamw"). Tensors with more than two dimensions are stacks
    of matrices, each of which is orthogonalized by itself: the attention weights `[heads, d_model, d_head]` are one
    matrix per head, because no head's scores depend on the weights of another head.

    `torch.optim.Muon` refuses stacks, needs PyTorch 2.9 or later, and computes in bfloat16, whose rounding depends on
    the processor. This class computes in the dtype of the weights.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float | Tensor, momentum: float = 0.95, weight_decay: float = 0.0
    ):
        """Creates the optimizer.

        Args:
            matrices: the weight matrices of hidden layers, `[a, b]` or `[heads, a, b]`.
            lr: the learning rate η; a tensor if updates are captured as a CUDA graph.
            momentum: μ.
            weight_decay: λ.
        """
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def update(self, weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """See the base class."""
        rate, momentum = group["lr"], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        mean = state["momentum_buffer"]
        mean.lerp_(gradient, 1.0 - momentum)
        update = orthogonalize(gradient.lerp(mean, momentum))
        scale = _RMS * math.sqrt(max(weight.shape[-2:]))
        weight.mul_(1.0 - rate * group["weight_decay"]).sub_(update.mul_(scale * rate))
