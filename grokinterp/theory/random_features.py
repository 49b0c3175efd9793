"""A ReLU network with only its last layer trained: ridge regression on random features."""

import math

from grokinterp.theory.population import ReLUTeacher
from grokinterp.theory.ridge import RidgeProblem, require, standard_normal


def random_feature_problem(
    n: int = 100, m: int = 10_000, d: int = 100, *, init_variance: float = 1.0, seed: int = 0
) -> RidgeProblem:
    """A student Σ_j a_j relu(<w_j, x>) with a trained and w fixed, and a teacher relu(<w*, x>) with ‖w*‖ = 1.

    >>> random_feature_problem(n=20, m=50, d=10).features.shape
    torch.Size([20, 50])

    a_j(0) ~ N(0, 1) and w_j ~ N(0, ν²/(d m) I_d). Inputs are x ~ N(0, I_d), which the paper does not state; with them
    the initial loss is close to 1, as in its figure. The teacher is not in the span of the features, so the population
    loss, which is computed exactly, does not fall to 0 however long training lasts.

    Args:
        n: number of training examples.
        m: number of hidden neurons.
        d: input dimension.
        init_variance: ν², the variance scale of the hidden layer.
        seed: seed of all random draws.

    Returns:
        The problem in float64, for `solve`.

    Raises:
        ConfigError: a size is below 1, or the variance is not positive.

    Source:
        Xu et al. 2026, Figure 3.
    """
    require(n=n, m=m, d=d, init_variance=init_variance)
    inputs, direction, start, hidden = standard_normal(seed, (n, d), (d,), (m,), (m, d))
    teacher, hidden = direction / direction.norm(), hidden * math.sqrt(init_variance / (d * m))
    features, targets = (inputs @ hidden.T).relu(), (inputs @ teacher).relu()
    return RidgeProblem(features, targets, start, ReLUTeacher(hidden, teacher), 1.0)
