"""Population losses: the expected squared error over fresh inputs, in closed form."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

# Number of rows of the kernel held in memory at a time.
_ROWS = 512


@runtime_checkable
class Population(Protocol):
    """A distribution of inputs and targets, described by the second moments that a quadratic loss depends on.

    >>> population = LinearTeacher(torch.ones(3).double(), 1.0)
    >>> population.moments(torch.eye(3).double()).shape
    torch.Size([4, 4])
    """

    def moments(self, weights: Float[Tensor, "m k"]) -> Float[Tensor, "k1 k1"]:
        """`[k + 1, k + 1]`, second moments of the k functions <weights[:, j], φ(x)> and, last, of the target."""
        ...


@dataclass(frozen=True)
class LinearTeacher:
    """Targets <θ*, φ(x)> with features of covariance E[φ φᵀ] = Σ.

    >>> LinearTeacher(torch.ones(3).double(), 0.5).smallest_eigenvalue
    0.5

    Attributes:
        teacher: θ*, `[m]`.
        covariance: Σ, `[m, m]`; or a number s, for Σ = s I.
    """

    teacher: Float[Tensor, " m"]
    covariance: Float[Tensor, "m m"] | float

    @property
    def smallest_eigenvalue(self) -> float:
        """λ_min(Σ)."""
        if isinstance(self.covariance, Tensor):
            return torch.linalg.eigvalsh(self.covariance)[0].item()
        return float(self.covariance)

    def moments(self, weights: Float[Tensor, "m k"]) -> Float[Tensor, "k1 k1"]:
        """See `Population`."""
        functions = torch.cat([weights, self.teacher[:, None]], dim=1)
        if isinstance(self.covariance, Tensor):
            return functions.T @ self.covariance @ functions
        return self.covariance * (functions.T @ functions)


@dataclass(frozen=True)
class ReLUTeacher:
    """Features relu(<w_j, x>) and a target relu(<w*, x>), both of x ~ N(0, I_d).

    >>> teacher = ReLUTeacher(torch.eye(2).double(), torch.ones(2).double())
    >>> teacher.moments(torch.ones(2, 1).double()).shape
    torch.Size([2, 2])

    Attributes:
        hidden: w_j, `[m, d]`.
        teacher: w*, `[d]`.
    """

    hidden: Float[Tensor, "m d"]
    teacher: Float[Tensor, " d"]

    def moments(self, weights: Float[Tensor, "m k"]) -> Float[Tensor, "k1 k1"]:
        """See `Population`; exact, through the arc-cosine kernel."""
        hidden = torch.cat([self.hidden, self.teacher[None]])
        m, k = weights.shape
        functions = weights.new_zeros(m + 1, k + 1)
        functions[:m, :k] = weights
        functions[m, k] = 1
        return relu_second_moments(hidden, functions)


def relu_second_moments(hidden: Float[Tensor, "m d"], weights: Float[Tensor, "m k"]) -> Float[Tensor, "k k"]:
    """`[k, k]`, exact E[g gᵀ] of the functions g_j(x) = Σ_i weights[i, j] relu(<hidden[i], x>) with x ~ N(0, I_d).

    >>> round(relu_second_moments(torch.eye(2), torch.ones(2, 1)).item(), 3)
    1.318
    """
    moments = weights.new_zeros(weights.shape[1], weights.shape[1])
    for start in range(0, len(hidden), _ROWS):
        rows = slice(start, start + _ROWS)
        # The kernel is symmetric, so blocks right of the diagonal count twice.
        moments += weights[rows].T @ (relu_kernel(hidden[rows], hidden[rows]) @ weights[rows])
        rest = slice(start + _ROWS, None)
        if len(hidden[rest]):
            block = weights[rows].T @ (relu_kernel(hidden[rows], hidden[rest]) @ weights[rest])
            moments += block + block.T
    return moments


def relu_kernel(left: Float[Tensor, "a d"], right: Float[Tensor, "b d"]) -> Float[Tensor, "a b"]:
    """E[relu(<u, x>) relu(<v, x>)] for x ~ N(0, I_d), for each row u of `left` and each row v of `right`.

    It is |u| |v| (sin α + (π - α) cos α) / 2π, where α is the angle between u and v.

    >>> relu_kernel(torch.eye(2), torch.eye(2)).diagonal().tolist()  # E[relu(x)²] = 1/2
    [0.5, 0.5]

    Source:
        Half the arc-cosine kernel of degree one (Cho and Saul 2009, Equation 6).
    """
    lengths = left.norm(dim=1)[:, None] * right.norm(dim=1)
    cosine = (left @ right.T).div_(lengths.clamp(min=torch.finfo(left.dtype).tiny)).clamp_(-1, 1)
    sine = (1 - cosine.square()).sqrt_()
    return torch.acos(-cosine).mul_(cosine).add_(sine).mul_(lengths).div_(2 * math.pi)
