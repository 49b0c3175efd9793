"""A ReLU network of which only the last layer is trained: ridge regression on random features."""

import math

import torch

from grokinterp.theory.population import ReLUTeacher
from grokinterp.theory.ridge import RidgeProblem, require


def random_feature_problem(
    n: int = 100,
    m: int = 10_000,
    d: int = 100,
    *,
    init_variance: float = 1.0,
    seed: int = 0,
) -> RidgeProblem:
    """Σ_j a_j relu(<w_j, x>) with a trained and w fixed, taught by relu(<w*, x>), ‖w*‖ = 1 (Xu et al. 2026, Figure 3).

    a_j(0) ~ N(0, 1) and w_j ~ N(0, ν²/(d m) I_d). Inputs are x ~ N(0, I_d), which the paper does not state; the loss
    at the start is then close to 1, as in its figure. The teacher is not in the span of the features, so the population
    loss, which is exact here, does not fall to 0 however long training lasts.

    Args:
        n: training examples.
        m: hidden neurons.
        d: inputs.
        init_variance: ν², of the hidden layer.
        seed: of everything drawn.

    Raises:
        ConfigError: a size below 1, or a variance that is not positive.
    """
    require(n=n, m=m, d=d, init_variance=init_variance)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, d, generator=generator, dtype=torch.float64)
    direction = torch.randn(d, generator=generator, dtype=torch.float64)
    teacher = direction / direction.norm()
    start = torch.randn(m, generator=generator, dtype=torch.float64)
    hidden = torch.randn(m, d, generator=generator, dtype=torch.float64) * math.sqrt(init_variance / (d * m))
    features, targets = (inputs @ hidden.T).relu(), (inputs @ teacher).relu()
    return RidgeProblem(features, targets, start, ReLUTeacher(hidden, teacher), 1.0)
