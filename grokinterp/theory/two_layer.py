"""A two-layer ReLU network, both layers trained, with the zero teacher: grokking beyond the linear model."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.errors import ConfigError
from grokinterp.theory.population import relu_second_moments
from grokinterp.theory.ridge import require
from grokinterp.theory.times import Crossing

# The population loss costs as much as twenty updates: it is looked at on these strides, each inside the last's.
_STRIDES = (256, 16, 1)
_DIVERGED = 1e12


@dataclass(frozen=True)
class TwoLayerProblem:
    """Σ_j a_j relu(<w_j, x>) on inputs x ~ N(0, I_d) whose targets are all 0; float64.

    Attributes:
        inputs: [n, d].
        hidden: w_j at the start, [m, d].
        output: a at the start, [m].
    """

    inputs: Float[Tensor, "n d"]
    hidden: Float[Tensor, "m d"]
    output: Float[Tensor, " m"]


@dataclass(frozen=True)
class TwoLayerRun:
    """What became of a training.

    Attributes:
        problem: what was trained.
        weight_decay: λ.
        lr: η.
        overfit: t1, the last step with train loss >= ε among those made.
        generalize: t2, the first step with population loss <= c: every 256th step was looked at, then every 16th of the
            interval in which the loss came down to c, then every step of the 16.
        train_loss: L_n = (1/2n) Σ N(x_i)² at steps 0, 1, …
        population_steps: where the population loss was looked at.
        population_loss: E[N(x)²] there, exactly.
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
        return self.overfit.step

    @property
    def t2(self) -> int | None:
        return self.generalize.step


def two_layer_problem(
    n: int = 50, m: int = 1000, d: int = 50, *, init_variance: float = 1.0, seed: int = 0
) -> TwoLayerProblem:
    """The setting of Figure 4 of Xu et al. 2026: a_j ~ N(0, 1/m), w_j ~ N(0, ν²/d I_d), zero teacher.

    Settings that differ in `init_variance` alone share their random draws.

    Raises:
        ConfigError: a size below 1, or a variance that is not positive.
    """
    require(n=n, m=m, d=d, init_variance=init_variance)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, d, generator=generator, dtype=torch.float64)
    output = torch.randn(m, generator=generator, dtype=torch.float64) / m**0.5
    hidden = torch.randn(m, d, generator=generator, dtype=torch.float64) * (init_variance / d) ** 0.5
    return TwoLayerProblem(inputs, hidden, output)


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

    Both layers decay, and the decay is part of the gradient (coupled). The paper's η is 1e-4; with 1e-3 the curves are
    the same in units of η t, in a tenth of the steps.

    Args:
        problem: the network at its start, and its inputs.
        weight_decay: λ.
        lr: η.
        eps: ε, of t1.
        c: of t2.
        max_steps: where to give up.

    Raises:
        ConfigError: a number that is not positive, or training diverges.
    """
    require(weight_decay=weight_decay, lr=lr, eps=eps, c=c, max_steps=max_steps)
    start = _Network(problem.hidden.clone(), problem.output.clone(), 0)
    seen = {0: start.population_loss()}
    losses: list[float] = []

    def advance(network: _Network, stride: int, keep: list[float]) -> tuple[_Network, _Network]:
        """On until the population loss is at most c: where that was first seen, and where it was looked at before."""
        before = network
        while seen[network.step] > c and network.step < max_steps:
            before, network = network, network.copy()
            for _ in range(min(stride, max_steps - network.step)):
                keep.append(network.update(problem.inputs, weight_decay, lr))
            if not keep[-1] < _DIVERGED:
                raise ConfigError(f"training diverges by step {network.step} with lr {lr:g}: give a smaller one")
            seen[network.step] = network.population_loss()
        return before, network

    before, network = advance(start, _STRIDES[0], losses)
    losses.append(network.train_loss(problem.inputs))
    fell = seen[network.step] <= c
    for stride in _STRIDES[1:] if fell else ():
        before, network = advance(before, stride, [])
    return TwoLayerRun(
        problem,
        weight_decay,
        lr,
        _overfit(losses, eps),
        Crossing(network.step, c)
        if fell
        else Crossing(math.inf, c, f"the population loss is still {seen[network.step]:.4g} at step {network.step}"),
        torch.tensor(losses, dtype=torch.float64),
        tuple(sorted(seen)),
        torch.tensor([seen[step] for step in sorted(seen)], dtype=torch.float64),
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
        # d/dW, with the derivative of relu at 0 taken as 0; the output weights are still those before the step.
        through = (active > 0) * scaled[:, None]
        self.hidden.mul_(1 - lr * weight_decay).addcmul_(through.T @ inputs, self.output[:, None], value=-1)
        self.output.mul_(1 - lr * weight_decay).sub_(output_change)
        self.step += 1
        return outputs.square().mean().item() / 2
