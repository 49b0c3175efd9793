"""OptimizerConfig: how an update is made."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grokinterp.config.checks import STRICT, check_fields, require, require_finite

# The tensors that each optimizer keeps for every parameter, under the names of torch.optim.
STATE_SLOTS = {"adamw": ("exp_avg", "exp_avg_sq"), "adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
_LARGEST_WINDOW = 1000


@dataclass(frozen=True)
class OptimizerConfig:
    """How an update is made."""

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1.0
    decay: Literal["decoupled", "coupled"] | None = None
    """decoupled from the gradient (AdamW) or added to it; by default what the optimizer's name means in PyTorch"""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    momentum: float = 0.0
    """of sgd"""
    batch_size: int | None = None
    """training examples an update; by default all of them"""
    warmup_steps: int = 0
    """update t (from 0) has the learning rate lr min(t / warmup_steps, 1); the first has 0, as in Nanda et al."""
    clip: float | None = None
    """largest norm of the whole gradient"""
    l1: float = 0.0
    """this times the sum of |w| over all trained weights is added to the objective, not to the loss that is logged"""
    gradient_noise: float = 0.0
    """standard deviation of the Gaussian noise that is added to every entry of the gradient in every update"""
    orthogonal_gradient: bool = False
    """take out of each tensor's gradient what points along the tensor, keeping its norm (Prieto et al. 2025, ⊥Grad)"""
    grokfast: Literal["none", "ema", "ma"] = "none"
    """add lambda times a running mean of the gradient to it (Lee et al. 2024): `ema` exponential, `ma` over a window"""
    grokfast_alpha: float = 0.98
    """of `ema`: weight of the past in the mean"""
    grokfast_window: int = 100
    """of `ma`: gradients in the mean, at most 1000, all of which are held in memory and in resume.safetensors"""
    grokfast_lambda: float | None = None
    """how much of the mean is added; by default 2 with `ema` and 5 with `ma`, as in the authors' code"""
    constrain_norm: bool = False
    """after each update, scale all trained weights to the global L2 norm that they started with (Liu et al. 2022)"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_finite(self.lr, "lr", above=True)
        require_finite(self.weight_decay, "weight_decay")
        require_finite(self.eps, "eps")
        require(all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), but are {self.betas}")
        require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), but is {self.momentum}")
        require(self.momentum == 0 or self.name == "sgd", f"momentum is sgd's; {self.name} has betas")
        require(self.batch_size is None or self.batch_size >= 1, f"batch_size must be >= 1, but is {self.batch_size}")
        require(self.warmup_steps >= 0, f"warmup_steps must be >= 0, but is {self.warmup_steps}")
        if self.clip is not None:
            require_finite(self.clip, "clip", above=True)
        require_finite(self.l1, "l1")
        require_finite(self.gradient_noise, "gradient_noise")
        self._check_grokfast()
        if self.name == "adamw":
            require(self.decay != "coupled", "adamw is decoupled by definition; coupled decay with Adam is name=adam")
        if self.name == "adam":
            require(self.decay != "decoupled", "adam is coupled by definition; decoupled decay with Adam is name=adamw")

    def _check_grokfast(self) -> None:
        kind = self.grokfast
        require(kind == "ema" or self.grokfast_alpha == 0.98, f"grokfast_alpha is of grokfast ema, not of {kind}")
        require(kind == "ma" or self.grokfast_window == 100, f"grokfast_window is of grokfast ma, not of {kind}")
        require(0 <= self.grokfast_alpha < 1, f"grokfast_alpha must lie in [0, 1), but is {self.grokfast_alpha}")
        require(self.grokfast_window >= 1, f"grokfast_window must be at least 1, but is {self.grokfast_window}")
        require(
            self.grokfast_window <= _LARGEST_WINDOW,
            f"grokfast_window must be at most {_LARGEST_WINDOW}, but is {self.grokfast_window}: as many copies of the "
            "weights are held in memory; a longer mean is that of grokfast ema",
        )
        if self.grokfast_lambda is not None:
            require(kind != "none", "grokfast_lambda is of grokfast ema or ma, and grokfast is none")
            require_finite(self.grokfast_lambda, "grokfast_lambda")

    @property
    def amplification(self) -> float:
        """Grokfast's lambda."""
        if self.grokfast_lambda is not None:
            return self.grokfast_lambda
        return {"none": 0.0, "ema": 2.0, "ma": 5.0}[self.grokfast]

    @property
    def state_slots(self) -> tuple[str, ...]:
        """The tensors that this optimizer keeps for every parameter; sgd without momentum keeps none."""
        return () if self.name == "sgd" and not self.momentum else STATE_SLOTS[self.name]

    @property
    def decoupled(self) -> bool:
        return self.decay == "decoupled" if self.decay is not None else self.name == "adamw"
