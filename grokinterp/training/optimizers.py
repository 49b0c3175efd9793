"""Updates and losses."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from grokinterp.config import OptimizerConfig, RunConfig

Loss = Callable[[Tensor, Tensor], Tensor]

# Gradients below this are as good as 0 in float32, but would become denormal numbers, on which late steps crawl.
_NEGLIGIBLE_GRADIENT = 1e-30
# float32 terms below exp(-30) of the largest cannot change the sum.
_NEGLIGIBLE_EXPONENT = {torch.float32: -30.0, torch.float64: -60.0}


class _CrossEntropy(torch.autograd.Function):
    """softplus(logsumexp over the wrong classes - correct logit): the digits of a small loss are not cancelled away."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        column = labels[:, None]
        correct = logits.gather(1, column)
        wrong = logits.scatter(1, column, float("-inf"))
        runner_up = wrong.amax(dim=1, keepdim=True)
        exponent = wrong - runner_up
        terms = exponent.exp().masked_fill_(exponent < _NEGLIGIBLE_EXPONENT[logits.dtype], 0.0)
        total = terms.sum(dim=1, keepdim=True)
        gap = runner_up + total.log() - correct
        ctx.save_for_backward(terms, total, gap, column)
        return F.softplus(gap, threshold=60.0).mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():  # a second derivative through saved tensors would be silently wrong
            raise RuntimeError("cross_entropy has a first derivative only: use torch.nn.functional.cross_entropy")
        terms, total, gap, column = ctx.saved_tensors
        share = torch.sigmoid(gap)
        gradient = terms * (share / total)
        gradient.scatter_(1, column, -share)
        gradient.mul_(grad_outputs[0] / len(gap))
        return F.hardshrink(gradient, _NEGLIGIBLE_GRADIENT), None


def cross_entropy(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean cross entropy in nats, exact also where it is tiny, in the dtype of the logits.

    Plain float32 cross entropy loses a small loss in the rounding of log(1 - tiny); this form does not
    (Prieto et al. 2025, arXiv:2501.04697, on what the rounding does to grokking). Needs at least two classes.
    """
    return _CrossEntropy.apply(logits, labels)  # pyright: ignore[reportReturnType]


def mean_squared_error(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean over examples and classes of the squared distance to the one-hot label."""
    return F.mse_loss(logits, F.one_hot(labels, logits.shape[1]).to(logits.dtype))


def loss_function(config: RunConfig) -> Loss:
    """The training loss of a run: float32 logits and labels to a scalar, computed in `loss_dtype`."""
    loss = cross_entropy if config.loss == "cross_entropy" else mean_squared_error
    dtype = torch.float64 if config.loss_dtype == "float64" else torch.float32
    return lambda logits, labels: loss(logits.to(dtype), labels)


class Updater:
    """One optimizer with warm-up, clipping and either kind of weight decay; `apply(step)` makes one update."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig):
        self.config = config
        self.named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        tensors = [parameter for _, parameter in self.named]
        fused = all(t.device.type in ("cpu", "cuda") for t in tensors)
        self.optimizer: torch.optim.Optimizer
        if config.name == "sgd":
            coupled = 0.0 if config.decoupled else config.weight_decay
            self.optimizer = torch.optim.SGD(
                tensors, lr=config.lr, momentum=config.momentum, weight_decay=coupled, fused=fused
            )
        else:
            kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
            self.optimizer = kind(
                tensors, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=fused
            )

    def apply(self, step: int) -> None:
        """Makes update number `step` (from 0) from the gradients, and clears them."""
        config = self.config
        rate = config.lr * (min(step / config.warmup_steps, 1.0) if config.warmup_steps else 1.0)
        self.optimizer.param_groups[0]["lr"] = rate
        tensors: list[Tensor] = [parameter for _, parameter in self.named]
        if config.clip is not None:
            nn.utils.clip_grad_norm_(tensors, config.clip)
        if config.name == "sgd" and config.decoupled and config.weight_decay:
            with torch.no_grad():
                torch._foreach_mul_(tensors, 1.0 - rate * config.weight_decay)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors under `optimizer:parameter:key`."""
        return {
            f"optimizer:{name}:{key}": value.detach().cpu()
            for name, parameter in self.named
            for key, value in self.optimizer.state[parameter].items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        where = dict(self.named)
        for key, value in state.items():
            kind, name, slot = (*key.split(":"), "", "")[:3]
            if kind == "optimizer":
                # The step count stays where fused optimizers expect it: beside its parameter.
                self.optimizer.state[where[name]][slot] = value.to(where[name].device)
