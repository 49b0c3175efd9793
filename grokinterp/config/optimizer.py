"""OptimizerConfig: how the optimizer computes an update."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grokinterp.config.checks import (
    MAX_WINDOW,
    STRICT,
    Fields,
    check_fields,
    require,
    require_finite,
    require_in,
    require_unit,
)

# The tensors that each optimizer stores for every parameter, as torch.optim names them. muon stores its own for hidden
# matrices, and those of adamw for the other parameters.
STATE_SLOTS = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adam": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "lion": ("exp_avg",),
    "muon": ("momentum_buffer",),
}
_COUNTING = ("adamw", "adam")  # those that also store the number of updates


@dataclass(frozen=True)
class OptimizerConfig(Fields):
    """How the optimizer computes an update.

    Example:
        >>> OptimizerConfig(weight_decay=0.5).betas
        (0.9, 0.98)
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: Literal["adamw", "adam", "sgd", "lion", "muon"] = "adamw"
    """`lion`: sign of a moving average (Chen et al. 2023); `muon`: orthogonalized momentum for hidden matrices, adamw
    for the other parameters (Jordan et al. 2024); the others: as in PyTorch"""
    lr: float = 1e-3
    """learning rate"""
    weight_decay: float = 1.0
    """weight decay coefficient"""
    decay: Literal["decoupled", "coupled"] | None = None
    """`decoupled`: separate from the gradient; `coupled`: added to it; None: PyTorch's behavior for this optimizer"""
    betas: tuple[float, float] = (0.9, 0.98)
    """decay rates of the moving averages of adam, adamw, and lion, whose source uses 0.9 and 0.99"""
    eps: float = 1e-8
    """constant added to Adam's denominator"""
    momentum: float = 0.0
    """momentum coefficient; only for sgd"""
    muon_momentum: float = 0.95
    """for muon: momentum coefficient of the hidden matrices"""
    batch_size: int | None = None
    """training examples per update; None: all examples"""
    warmup_steps: int = 0
    """update t = 0, 1, ... uses the learning rate lr min(t / warmup_steps, 1); it is 0 at t = 0, as in Nanda et al."""
    clip: float | None = None
    """maximum norm of the gradient over all parameters; larger gradients are scaled down to it; None: no limit"""
    l1: float = 0.0
    """coefficient of the sum of |w| over all trained weights, a penalty that the logged loss does not include"""
    gradient_noise: float = 0.0
    """standard deviation of the Gaussian noise added to every entry of the gradient in every update"""
    orthogonal_gradient: bool = False
    """remove from the gradient of each tensor the component parallel to the tensor, then restore the gradient's norm
    (⊥Grad, Prieto et al. 2025)"""
    grokfast: Literal["none", "ema", "ma"] = "none"
    """add lambda times a moving average of the gradient to the gradient (Lee et al. 2024); `ema`: exponential moving
    average; `ma`: mean over a window"""
    grokfast_alpha: float = 0.98
    """for grokfast `ema`: weight of past gradients in the moving average"""
    grokfast_window: int = 100
    """for grokfast `ma`: gradients averaged, at most 1000; all of them are kept in memory and resume.safetensors"""
    grokfast_lambda: float | None = None
    """factor by which the average is multiplied; None: 2 for `ema` and 5 for `ma`, as in the authors' code"""
    constrain_norm: bool = False
    """after each update, rescale the trained weights to restore their initial global L2 norm (Liu et al. 2022)"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_finite(self.lr, "lr", above=True)
        require_finite(self.weight_decay, "weight_decay")
        require_finite(self.eps, "eps")
        require(all(0 <= b < 1 for b in self.betas), f"betas must lie in [0, 1), but are {self.betas}")
        require_unit(self.momentum, "momentum")
        other = "muon_momentum" if self.name == "muon" else "betas"
        require(self.momentum == 0 or self.name == "sgd", f"momentum applies only to sgd; for {self.name} set {other}")
        require_unit(self.muon_momentum, "muon_momentum")
        require(
            self.name == "muon" or self.muon_momentum == OptimizerConfig.muon_momentum,
            f'muon_momentum has no effect unless name is "muon" (it is "{self.name}")',
        )
        require_in(self.batch_size, "batch_size", 1)
        require_in(self.warmup_steps, "warmup_steps", 0)
        if self.clip is not None:
            require_finite(self.clip, "clip", above=True)
        require_finite(self.l1, "l1")
        require_finite(self.gradient_noise, "gradient_noise")
        self._check_grokfast()
        options = (self.name, self.decay)
        for name in ("adamw", "lion", "muon"):
            require(options != (name, "coupled"), f"{name} decouples weight decay; for coupled decay choose name adam")
        require(options != ("adam", "decoupled"), "adam couples weight decay; for decoupled decay choose name adamw")

    def _check_grokfast(self) -> None:
        kind = self.grokfast
        for name, owner in (("grokfast_alpha", "ema"), ("grokfast_window", "ma")):
            is_default = getattr(self, name) == getattr(OptimizerConfig, name)
            require(kind == owner or is_default, f'{name} has no effect unless grokfast is "{owner}" (it is "{kind}")')
        require_unit(self.grokfast_alpha, "grokfast_alpha")
        require_in(self.grokfast_window, "grokfast_window", 1)
        require(
            self.grokfast_window <= MAX_WINDOW,
            f"grokfast_window must be at most {MAX_WINDOW}, but is {self.grokfast_window}: that many copies of the "
            "weights are kept in memory; for a longer mean choose grokfast ema",
        )
        if self.grokfast_lambda is not None:
            require(kind != "none", 'grokfast_lambda has no effect unless grokfast is "ema" or "ma" (it is "none")')
            require_finite(self.grokfast_lambda, "grokfast_lambda")

    @property
    def amplification(self) -> float:
        """The lambda of Grokfast: `grokfast_lambda` or its default."""
        if self.grokfast_lambda is not None:
            return self.grokfast_lambda
        return {"none": 0.0, "ema": 2.0, "ma": 5.0}[self.grokfast]

    @property
    def state_slots(self) -> tuple[str, ...]:
        """The tensors that this optimizer keeps for every parameter; sgd without momentum keeps none."""
        return () if self.name == "sgd" and not self.momentum else STATE_SLOTS[self.name]

    def slots_of(self, *, hidden_matrix: bool) -> tuple[str, ...]:
        """Everything that this optimizer keeps for a parameter: its tensors and the number of updates, `step`.

        Args:
            hidden_matrix: whether muon orthogonalizes the momentum of this parameter.
        """
        if self.name == "muon" and not hidden_matrix:
            return (*STATE_SLOTS["adamw"], "step")
        return (*self.state_slots, "step") if self.name in _COUNTING else self.state_slots

    @property
    def decoupled(self) -> bool:
        """Whether weight decay is decoupled from the gradient."""
        return self.decay == "decoupled" if self.decay is not None else self.name in ("adamw", "lion", "muon")
