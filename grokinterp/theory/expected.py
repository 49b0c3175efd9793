"""Overfitting and generalization times expected for Gaussian features, from the spectrum of a large random matrix."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from grokinterp.errors import ConfigError
from grokinterp.theory.exponentials import ExponentialSum
from grokinterp.theory.sweep import RidgeSetting

_NODES = 400  # of the quadrature over the spectrum; 1,000 change the times by at most a step


@dataclass(frozen=True)
class ExpectedTimes:
    """The times at which the expected losses cross their thresholds.

    >>> ExpectedTimes(t1=200.0, t2=1000.0, slowest_rate=1e-3).delay
    800.0

    Attributes:
        t1: the last step with expected train loss at least ε; NaN if there is none.
        t2: the first step with expected population loss at most c; NaN if there is none.
        slowest_rate: η (λ + the lower edge of the spectrum of ΦᵀΦ/n), see `RidgeSolution.slowest_rate`.
    """

    t1: float
    t2: float
    slowest_rate: float

    @property
    def delay(self) -> float:
        """t2 - t1 in steps; NaN if either is missing."""
        return self.t2 - self.t1


def expected_times(setting: RidgeSetting, *, eps: float = 0.01, c: float = 0.01) -> ExpectedTimes:
    """The times of the losses that are expected over features, initial weights, and teachers when n and m are large.

    With m < n features, every direction of weight space is seen by the training examples. With m > n, a fraction
    1 - n/m is not and decays at the rate η λ alone, so the delay grows and then saturates:

    >>> delays = [expected_times(RidgeSetting(n=100, m=m)).delay for m in (50, 100, 200, 4000)]
    >>> [100 * round(delay / 100) for delay in delays]
    [300, 7600, 20700, 22800]

    The eigenvalues of ΦᵀΦ/n follow the law of Marchenko and Pastur: they lie between (1 - √(m/n))²/m and
    (1 + √(m/n))²/m, and for m > n a fraction 1 - n/m of them is 0.

    Args:
        setting: the setting; its features are φ ~ N(0, I_m / m).
        eps: ε, the threshold of the train loss.
        c: the threshold of the population loss.

    Returns:
        The two times in steps, and the slowest rate.

    Raises:
        ConfigError: the step size is so large that training diverges.

    Source:
        Marchenko and Pastur 1967, applied to the losses of Xu et al. 2026.
    """
    n, m, decay = setting.n, setting.m, setting.weight_decay
    eigenvalues, shares = _spectrum(n, m)
    rates = 1 - setting.lr * (eigenvalues + decay)
    if rates.min() <= -1:
        raise ConfigError(f"lr {setting.lr:g} diverges on these features: decrease it")
    unlearned = decay / (eigenvalues + decay)  # share of the teacher that weight decay keeps from being learned
    teacher = setting.teacher_norm**2 / m  # variance of the entries of θ*
    transient = setting.init_variance + (1 - unlearned) ** 2 * teacher
    cross, constant = unlearned * (1 - unlearned) * teacher, unlearned**2 * teacher

    def loss(weights: np.ndarray) -> ExponentialSum:
        """Sum over the spectrum of weights times the squared distance of the weights from the teacher."""
        gram = np.diag([*(weights * transient), (weights * constant).sum()])
        gram[:-1, -1] = gram[-1, :-1] = weights * cross
        return ExponentialSum(torch.tensor([*rates, 1.0], dtype=torch.float64), torch.from_numpy(gram))

    train, population = loss(shares * eigenvalues * m / 2), loss(shares)
    t1 = train.last_at_least(eps) if train.limit < eps else None
    t2 = population.first_at_most(c)
    slowest = setting.lr * (decay + (0.0 if m > n else (1 - math.sqrt(m / n)) ** 2 / m))
    return ExpectedTimes(math.nan if t1 is None else t1, math.nan if t2 is None else t2, slowest)


def _spectrum(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of ΦᵀΦ/n and the fraction of directions at each; the last one stands for the eigenvalue 0."""
    ratio = m / n
    angles = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    x = 1 + ratio - 2 * math.sqrt(ratio) * np.cos(angles)  # from (1 - √ratio)² to (1 + √ratio)²
    shares = 2 * np.sin(angles) ** 2 / x / _NODES  # the density √((x - low) (high - x)) / (2π ratio x) times dx
    return np.append(x / m, 0.0), np.append(shares, max(0.0, 1 - 1 / ratio))
