"""Polynomial regression with a two-layer network: grokking without weight decay, from lazy to rich training.

Kumar, Bordelon, Gershman, and Pehlevan 2023 (arXiv:2310.06110), section 5.

    >>> from grokinterp.theory import polynomial_problem, train_polynomial
    >>> run = train_polynomial(polynomial_problem(d=20, n_train=60, width=50), curvature=0.5, max_steps=200)
    >>> bool(run.train_loss[-1] < run.train_loss[0]), len(run.steps) == len(run.test_loss)
    (True, True)
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.ridge import require, standard_normal
from grokinterp.theory.times import Crossing

_DIVERGED = 1e12


@dataclass(frozen=True)
class PolynomialProblem:
    """Targets (β·x)²/2 on inputs x ~ N(0, I/d), and the initial weights of a network, all in float64.

    >>> problem = polynomial_problem(d=10, n_train=30, width=20)
    >>> problem.targets(problem.train_inputs).shape
    torch.Size([30])

    Attributes:
        teacher: β, `[d]`, with entries from N(0, 1).
        train_inputs: `[n, d]`.
        test_inputs: `[q, d]`.
        weights: initial w_i, `[m, d]`, with entries from N(0, 1).
    """

    teacher: Float[Tensor, " d"]
    train_inputs: Float[Tensor, "n d"]
    test_inputs: Float[Tensor, "q d"]
    weights: Float[Tensor, "m d"]

    def targets(self, inputs: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """`[k]`, the target (β·x)²/2 of each input."""
        return (inputs @ self.teacher).square() / 2


@dataclass(frozen=True)
class PolynomialRun:
    """The result of `train_polynomial`.

    >>> run = train_polynomial(polynomial_problem(d=10, n_train=30, width=20), max_steps=100)
    >>> run.steps[0], len(run.steps) == len(run.test_loss)
    (0, True)

    Attributes:
        problem: the problem that was trained on.
        scale: α, the scale of the output.
        curvature: ε, of the activation h + ε/2 h².
        steps: the s evaluated steps.
        train_loss: `[s]`, mean over the training inputs of (f - f_0 - y)².
        test_loss: `[s]`, the same over the test inputs.
        population_loss: `[s]`, its exact expectation over x ~ N(0, I/d).
        weight_norm: `[s]`, ‖W‖, the norm of all weights.
        alignment: `[s]`, yᵀKy / (‖K‖_F ‖y‖²), the alignment of the neural tangent kernel K on the test inputs with
            their targets y.
        teacher_share: `[s]`, β̂ᵀMβ̂ / tr M, the fraction of the squared weights along the teacher; near 1/d initially.
        train_falls: first evaluated step at which the train loss is at most the requested fraction of its first value.
        test_falls: the same for the test loss.
        mean: `[d]`, w̄, the mean weight vector at the last step.
        second_moment: `[d, d]`, M = Σ_i w_i w_iᵀ / m at the last step.
    """

    problem: PolynomialProblem
    scale: float
    curvature: float
    steps: tuple[int, ...]
    train_loss: Float[Tensor, " s"]
    test_loss: Float[Tensor, " s"]
    population_loss: Float[Tensor, " s"]
    weight_norm: Float[Tensor, " s"]
    alignment: Float[Tensor, " s"]
    teacher_share: Float[Tensor, " s"]
    train_falls: Crossing
    test_falls: Crossing
    mean: Float[Tensor, " d"]
    second_moment: Float[Tensor, "d d"]

    @property
    def delay(self) -> int | None:
        """Steps from the fall of the train loss to the fall of the test loss; None if either does not fall."""
        train, test = self.train_falls.step, self.test_falls.step
        return None if train is None or test is None else test - train


def polynomial_problem(
    d: int = 100, n_train: int = 550, width: int = 500, *, n_test: int = 1000, seed: int = 0
) -> PolynomialProblem:
    """The polynomial regression problem of Kumar et al. 2023.

    >>> polynomial_problem(d=10, n_train=30, width=20).train_inputs.shape
    torch.Size([30, 10])

    Problems that differ only in `width` or `n_test` share the teacher and the training inputs.

    Args:
        d: input dimension (D in the paper).
        n_train: number of training inputs (P in the paper).
        width: number of weight vectors (N in the paper).
        n_test: number of test inputs.
        seed: seed of all random draws.

    Returns:
        The problem in float64, for `train_polynomial`.

    Raises:
        ConfigError: a size is below 1.

    Source:
        Kumar et al. 2023, section 5.
    """
    require(d=d, n_train=n_train, width=width, n_test=n_test)
    teacher, train, test, weights = standard_normal(seed, (d,), (n_train, d), (n_test, d), (width, d))
    return PolynomialProblem(teacher, train / d**0.5, test / d**0.5, weights)


def train_polynomial(
    problem: PolynomialProblem,
    scale: float = 1.0,
    curvature: float = 0.02,
    *,
    max_steps: int = 10_000,
    look_every: int = 50,
    share: float = 0.5,
    until: float = 0.0,
) -> PolynomialRun:
    """Full-batch gradient descent, without weight decay, on the mean of (f(x) - f_0(x) - y)².

    >>> run = train_polynomial(polynomial_problem(d=10, n_train=30, width=20), curvature=0.5, max_steps=100)
    >>> bool(run.train_loss[-1] < run.train_loss[0])
    True

    f(x) = (α/m) Σ_i φ(w_i·x) with φ(h) = h + (ε/2) h², readouts fixed at 1, f_0 the initial f, and step size m/α².
    An update is the same affine map for every weight vector,

        w_i ← B w_i + c g,   B = I + cε X^T diag(r) X,   g = X^T r,   c = 2/(αn),   r = y - f + f_0,

    and f depends only on w̄ and M = Σ_i w_i w_i^T / m. These two are updated directly, so the width costs nothing.

    Args:
        problem: inputs, teacher and initial weights.
        scale: α; a large scale makes training lazy.
        curvature: ε; a small curvature makes the initial kernel badly aligned with the targets.
        max_steps: maximum number of updates.
        look_every: number of updates between evaluations.
        share: the fraction of the initial loss that defines `train_falls` and `test_falls`.
        until: training stops when the test loss is at most this fraction of its first value, in [0, 1).

    Returns:
        Losses, norm and alignment at the evaluated steps, and the final mean and second moment of the weights.

    Raises:
        ConfigError: a number is not positive, `until` is out of range, or training diverges.

    Source:
        Kumar et al. 2023, section 5.
    """
    require(scale=scale, curvature=curvature, max_steps=max_steps, look_every=look_every, share=share)
    if not 0 <= until < 1:
        raise ConfigError(f"until, a fraction of the first test loss, must lie in [0, 1), but is {until}")
    network = _Network(problem, scale, curvature)
    rows = [network.evaluate()]
    steps = [0]
    while steps[-1] < max_steps and rows[-1][1] > until * rows[0][1]:
        count = min(look_every, max_steps - steps[-1])
        for _ in range(count):
            network.update()
        steps.append(steps[-1] + count)
        rows.append(network.evaluate())
        if not rows[-1][0] < _DIVERGED:
            raise ConfigError(f"training diverges by step {steps[-1]} with scale {scale:g} and curvature {curvature:g}")
    columns = torch.tensor(rows, dtype=torch.float64).T
    return PolynomialRun(
        problem,
        scale,
        curvature,
        tuple(steps),
        *columns,
        train_falls=_falls(steps, columns[0], share, "train"),
        test_falls=_falls(steps, columns[1], share, "test"),
        mean=network.mean,
        second_moment=network.moment,
    )


def _falls(steps: list[int], losses: Float[Tensor, " s"], share: float, name: str) -> Crossing:
    threshold = share * losses[0].item()
    for step, loss in zip(steps, losses.tolist(), strict=True):
        if loss <= threshold:
            return Crossing(step, threshold)
    reason = f"the {name} loss is still {losses[-1]:.4g} at step {steps[-1]}, above {share:g} of its first value"
    return Crossing(math.inf, threshold, reason)


class _Network:
    """The network, represented by the mean and the second moment of its weights."""

    def __init__(self, problem: PolynomialProblem, scale: float, curvature: float):
        self.problem, self.scale, self.curvature = problem, scale, curvature
        self.width = len(problem.weights)
        self.mean = problem.weights.mean(dim=0)
        self.moment = problem.weights.T @ problem.weights / self.width
        self.first_mean, self.first_moment = self.mean, self.moment
        self.train_targets = problem.targets(problem.train_inputs)
        self.test_targets = problem.targets(problem.test_inputs)
        self.test_products = problem.test_inputs @ problem.test_inputs.T

    def change(self, inputs: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """`[k]`, f - f_0 of each input."""
        linear = inputs @ (self.mean - self.first_mean)
        quadratic = ((inputs @ (self.moment - self.first_moment)) * inputs).sum(dim=1)
        return self.scale * (linear + self.curvature / 2 * quadratic)

    def update(self) -> None:
        """One step of gradient descent."""
        inputs = self.problem.train_inputs
        rate = 2 / (self.scale * len(inputs))
        residual = self.train_targets - self.change(inputs)
        shift = rate * (inputs.T @ residual)
        # B is symmetric; the second moment of B w + s is B M B + (B w̄) sᵀ + s (B w̄)ᵀ + s sᵀ.
        through = torch.eye(len(shift), dtype=torch.float64)
        through += (rate * self.curvature) * (inputs.T @ (residual[:, None] * inputs))
        mapped = through @ self.mean
        cross = torch.outer(mapped + shift / 2, shift)
        self.moment = through @ self.moment @ through + cross + cross.T
        self.mean = mapped + shift

    def evaluate(self) -> tuple[float, ...]:
        """The six numbers per step of `PolynomialRun`, in the order of its fields."""
        problem = self.problem
        train = (self.change(problem.train_inputs) - self.train_targets).square().mean()
        test = (self.change(problem.test_inputs) - self.test_targets).square().mean()
        along = problem.teacher @ self.moment @ problem.teacher / problem.teacher.square().sum()
        trace = self.moment.trace()
        values = (train, test, self._population_loss(), (self.width * trace).sqrt(), self._alignment(), along / trace)
        return tuple(value.item() for value in values)

    def _population_loss(self) -> Float[Tensor, ""]:
        """E[(v·x + xᵀQx)²] over x ~ N(0, I/d) is |v|²/d + ((tr Q)² + 2 tr Q²)/d²."""
        d = len(self.mean)
        v = self.scale * (self.mean - self.first_mean)
        teacher = torch.outer(self.problem.teacher, self.problem.teacher)
        q = (self.scale * self.curvature * (self.moment - self.first_moment) - teacher) / 2
        return v.square().sum() / d + (q.trace() ** 2 + 2 * q.square().sum()) / d**2

    def _alignment(self) -> Float[Tensor, ""]:
        """Alignment of K_pq = x_p·x_q (1 + ε w̄·(x_p + x_q) + ε² x_pᵀMx_q); its scale cancels."""
        inputs, targets, curvature = self.problem.test_inputs, self.test_targets, self.curvature
        slopes = curvature * (inputs @ self.mean)
        inner = 1 + slopes[:, None] + slopes + curvature**2 * (inputs @ self.moment @ inputs.T)
        kernel = self.test_products * inner
        return targets @ kernel @ targets / (kernel.norm() * targets.square().sum())
