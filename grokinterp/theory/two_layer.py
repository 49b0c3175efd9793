"""A two-layer ReLU network, both layers trained, with the zero teacher: grokking beyond the linear model."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.population import relu_second_moments
from grokinterp.theory.ridge import require, standard_normal
from grokinterp.theory.times import Crossing

# The population loss costs as much as twenty updates, so it is evaluated on successively finer strides.
_STRIDES = (256, 16, 1)
_DIVERGED = 1e12


@dataclass(frozen=True)
class TwoLayerProblem:
    """A network Σ_j a_j relu(<w_j, x>) with inputs x ~ N(0, I_d) and targets 0, in float64.

    >>> two_layer_problem(n=10, m=50, d=10).hidden.shape
    torch.Size([50, 10])

    Attributes:
        inputs: `[n, d]`.
        hidden: initial w_j, `[m, d]`.
        output: initial a, `[m]`.
    """

    inputs: Float[Tensor, "n d"]
    hidden: Float[Tensor, "m d"]
    output: Float[Tensor, " m"]


@dataclass(frozen=True)
class TwoLayerRun:
    """The result of `train_two_layer`.

    >>> run = train_two_layer(two_layer_problem(n=10, m=50, d=10), weight_decay=0.2, lr=3e-3)
    >>> run.weight_decay, run.t1 < run.t2
    (0.2, True)

    Attributes:
        problem: the problem that was trained on.
        weight_decay: λ.
        lr: η.
        overfit: t1, the last trained step with train loss >= ε.
        generalize: t2, the first step with population loss <= c. The search evaluates every 256th step, then every 16th
            step of the interval in which the loss falls to c, then every step of the last 16.
        train_loss: `[t]`, L_n = (1/2n) Σ N(x_i)² at steps 0, 1, …
        population_steps: the p steps at which the population loss was evaluated.
        population_loss: `[p]`, exact E[N(x)²] at these steps.
    """

    problem: TwoLayerProblem
    weight_decay: float
    lr: float
    overfit: Crossing
    generalize: Crossing
    train_loss: Float[Tensor, " t"]
    population_steps: tuple[int, ...]
    population_loss: Float[Tensor, " p"]

    @property
    def t1(self) -> int | None:
        """t1 in steps; None if there is none."""
        return self.overfit.step

    @property
    def t2(self) -> int | None:
        """t2 in steps; None if there is none."""
        return self.generalize.step


def two_layer_problem(
    n: int = 50, m: int = 1000, d: int = 50, *, init_variance: float = 1.0, seed: int = 0
) -> TwoLayerProblem:
    """A two-layer network with a_j ~ N(0, 1/m) and w_j ~ N(0, ν²/d I_d), and the zero teacher.

    >>> two_layer_problem(n=10, m=50, d=10).inputs.shape
    torch.Size([10, 10])

    Settings that differ only in `init_variance` share their random draws.

    Args:
        n: number of training examples.
        m: number of hidden neurons.
        d: input dimension.
        init_variance: ν², the variance scale of the hidden layer.
        seed: seed of all random draws.

    Returns:
        The problem in float64, for `train_two_layer`.

    Raises:
        ConfigError: a size is below 1, or the variance is not positive.

    Source:
        The setting of Figure 4 of Xu et al. 2026.
    """
    require(n=n, m=m, d=d, init_variance=init_variance)
    inputs, output, hidden = standard_normal(seed, (n, d), (m,), (m, d))
    return TwoLayerProblem(inputs, hidden * (init_variance / d) ** 0.5, output / m**0.5)


def train_two_layer(
    problem: TwoLayerProblem,
    weight_decay: float = 0.05,
    lr: float = 1e-3,
    *,
    eps: float = 0.01,
    c: float = 0.01,
    max_steps: int = 200_000,
) -> TwoLayerRun:
    """Gradient descent on (1/2n) Σ N(x_i)² + (λ/2) (‖W‖² + ‖a‖²) until the population loss is at most c.

    >>> run = train_two_layer(two_layer_problem(n=10, m=50, d=10), weight_decay=0.2, lr=3e-3)
    >>> run.t1 < run.t2
    True

    Both layers decay, and the decay is part of the gradient (coupled). Xu et al. 2026 use η = 1e-4; with 1e-3 the
    curves are the same in units of η t and take a tenth of the steps.

    Args:
        problem: the initial network and its inputs.
        weight_decay: λ.
        lr: η, the step size.
        eps: ε, the threshold of the train loss that defines t1.
        c: the threshold of the population loss that defines t2.
        max_steps: maximum number of updates.

    Returns:
        The times t1 and t2, the train loss at every step, and the population loss at the evaluated steps.

    Raises:
        ConfigError: a number is not positive, or training diverges.
    """
    require(weight_decay=weight_decay, lr=lr, eps=eps, c=c, max_steps=max_steps)
    start = _Network(problem.hidden.clone(), problem.output.clone(), 0)
    population_losses = {0: start.population_loss()}
    losses: list[float] = []

    def advance(network: _Network, stride: int, train_losses: list[float]) -> tuple[_Network, _Network]:
        """Trains until the population loss is at most c; returns the network at the last two evaluations."""
        before = network
        while population_losses[network.step] > c and network.step < max_steps:
            before, network = network, network.copy()
            for _ in range(min(stride, max_steps - network.step)):
                train_losses.append(network.update(problem.inputs, weight_decay, lr))
            if not train_losses[-1] < _DIVERGED:
                raise ConfigError(f"training diverges by step {network.step} with lr {lr:g}: use a smaller lr")
            population_losses[network.step] = network.population_loss()
        return before, network

    before, network = advance(start, _STRIDES[0], losses)
    losses.append(network.train_loss(problem.inputs))
    last_loss = population_losses[network.step]
    generalize = Crossing(math.inf, c, f"the population loss is still {last_loss:.4g} at step {network.step}")
    if last_loss <= c:
        for stride in _STRIDES[1:]:
            before, network = advance(before, stride, [])
        generalize = Crossing(network.step, c)
    steps = tuple(sorted(population_losses))
    return TwoLayerRun(
        problem,
        weight_decay,
        lr,
        _overfit(losses, eps),
        generalize,
        torch.tensor(losses, dtype=torch.float64),
        steps,
        torch.tensor([population_losses[step] for step in steps], dtype=torch.float64),
    )


def _overfit(losses: list[float], eps: float) -> Crossing:
    above = [step for step, loss in enumerate(losses) if loss >= eps]
    if not above:
        return Crossing(-math.inf, eps, f"the train loss is below ε = {eps:g} from the start")
    if above[-1] == len(losses) - 1:
        return Crossing(math.inf, eps, f"the train loss is still {losses[-1]:.4g} at step {above[-1]}")
    return Crossing(above[-1], eps)


@dataclass
class _Network:
    hidden: Float[Tensor, "m d"]
    output: Float[Tensor, " m"]
    step: int

    def copy(self) -> "_Network":
        return _Network(self.hidden.clone(), self.output.clone(), self.step)

    def train_loss(self, inputs: Float[Tensor, "n d"]) -> float:
        return ((inputs @ self.hidden.T).relu() @ self.output).square().mean().item() / 2

    def population_loss(self) -> float:
        return relu_second_moments(self.hidden, self.output[:, None]).item()

    def update(self, inputs: Float[Tensor, "n d"], weight_decay: float, lr: float) -> float:
        """One step of gradient descent; returns the train loss before it."""
        active = (inputs @ self.hidden.T).relu_()  # [n, m]
        outputs = active @ self.output
        scaled = outputs * (lr / len(inputs))
        output_change = scaled @ active
        # d/dW, with relu'(0) = 0; the output weights must still be those before the step.
        backward = (active > 0) * scaled[:, None]
        self.hidden.mul_(1 - lr * weight_decay).addcmul_(backward.T @ inputs, self.output[:, None], value=-1)
        self.output.mul_(1 - lr * weight_decay).sub_(output_change)
        self.step += 1
        return outputs.square().mean().item() / 2
