"""Interventions of published grokking experiments, which change gradients, weights or neurons beside the optimizer.

The order within an update is: the gradient of the loss (with dropout, if configured); L1, noise, orthogonal gradient
and Grokfast, in `Interventions.change_gradients`; clipping, and the optimizer with its weight decay; the norm
constraint, in `Interventions.change_weights`. Thus the orthogonal gradient is that of the complete objective, noise
included, and weight decay is not projected, as in the code of Prieto et al.; Grokfast averages the gradients that the
optimizer would get without it, as in the code of Lee et al.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.config import PLAIN, MLPConfig, OptimizerConfig, RunConfig, TransformerConfig
from grokinterp.errors import RunError

# Keep these random streams apart from those of the initialization and the minibatches. A CPU generator uses only the
# low 32 bits of its seed.
_NOISE_STREAM = 0xC2B2AE35
_DROPOUT_STREAM = 0x27D4EB2F
# Keys in a resume point: the prefix of the state of Interventions, and the state of the noise generator within it.
_PREFIX = "interventions:"
_NOISE = "noise:draws"

_TINY = 1e-30  # as in the code of Prieto et al.
# A smaller relative deviation of a gradient from the direction of its weights is rounding error of float32.
_ALONG = 1e-6


def interventions_of(config: RunConfig) -> list[str]:
    """The dotted names of the options of a run that make its updates more than an exact loss and an optimizer."""
    options = config.optimizer
    enabled = {"model.dropout": _dropout_share(config) > 0, "loss_dtype float32_plain": config.loss_dtype == PLAIN}
    if options is not None:
        enabled |= {
            "optimizer.l1": options.l1 > 0,
            "optimizer.gradient_noise": options.gradient_noise > 0,
            "optimizer.orthogonal_gradient": options.orthogonal_gradient,
            "optimizer.grokfast": options.grokfast != "none",
            "optimizer.constrain_norm": options.constrain_norm,
            "optimizer.name muon": options.name == "muon",
        }
    return [name for name, on in enabled.items() if on]


def draws_in_updates(config: RunConfig) -> bool:
    """Whether an update draws random numbers on the device, which a captured graph would repeat."""
    return not {"model.dropout", "optimizer.gradient_noise"}.isdisjoint(interventions_of(config))


def dropout_of(config: RunConfig, device: str) -> "Dropout | None":
    """The dropout of a run's updates; None if it has no dropout."""
    share = _dropout_share(config)
    return Dropout(share, config.model_seed, device) if share else None


def require_draws(config: RunConfig, state: Mapping[str, Tensor], device: str) -> None:
    """Checks that a device can continue the random numbers of a run's updates.

    Args:
        config: of the run.
        state: the tensors of its resume point.
        device: on which to resume it.

    Raises:
        RunError: the state is missing, or belongs to another kind of device.
    """
    options, dropout = config.optimizer, dropout_of(config, device)
    if dropout is not None:
        dropout.stored(state)
    if options is not None and options.gradient_noise:
        _Source(f"{_PREFIX}{_NOISE}", 0, torch.device(device)).stored(state)


def _dropout_share(config: RunConfig) -> float:
    return config.model.dropout if isinstance(config.model, TransformerConfig | MLPConfig) else 0.0


class _Source:
    """A random generator, whose state a resume point stores under a key."""

    def __init__(self, key: str, seed: int, device: torch.device):
        self.key = key
        self.generator = torch.Generator(device).manual_seed(seed)

    def state(self) -> dict[str, Tensor]:
        """The state that the next random numbers depend on."""
        return {self.key: self.generator.get_state()}

    def stored(self, state: Mapping[str, Tensor]) -> Tensor:
        """The stored state of the generator.

        Raises:
            RunError: the state is missing, or belongs to another kind of device.
        """
        if self.key not in state:
            raise RunError(
                f"resume.safetensors lacks {self.key}, the state of the run's random numbers: restore the "
                "original file, or train again with --restart (in Python, restart=True)"
            )
        stored = state[self.key]
        if stored.shape != self.generator.get_state().shape:
            raise RunError(
                f"this run drew its random numbers on another kind of device than {self.generator.device}: resume it "
                "on the kind of device on which it started"
            )
        return stored

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self.generator.set_state(self.stored(state))


class Dropout(_Source):
    """The hook of a forward pass that sets a share of the hidden neurons to 0 and divides the rest by 1 - share."""

    def __init__(self, share: float, seed: int, device: str):
        """Seeds the random generator.

        Args:
            share: probability of dropping a neuron, in (0, 1).
            seed: the run's model_seed.
            device: of the neurons.
        """
        self.keep_probability = 1.0 - share
        super().__init__("dropout:draws", seed ^ _DROPOUT_STREAM, torch.device(device))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Applies dropout to `value` if `name` refers to neurons after the activation function."""
        if not name.endswith("hook_post"):
            return value
        mask = torch.empty_like(value, requires_grad=False)
        mask.bernoulli_(self.keep_probability, generator=self.generator)
        return value * mask.div_(self.keep_probability)


class Interventions:
    """Changes the gradients before the optimizer uses them, and the weights afterwards.

    Attributes:
        slow: Grokfast's state for each tensor: the mean of its gradients, or the last gradients `[window, ...]`.
        count: number of gradients so far.
        norm: global L2 norm of the weights before the first update, in float64 if the device has it; None before that
            update or without the norm constraint.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]], config: OptimizerConfig, seed: int):
        """Prepares the interventions.

        Args:
            named: the trained weights, by name.
            config: of the optimizer.
            seed: the run's model_seed.
        """
        self.named, self.config = named, config
        device = named[0][1].device
        self.wide = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self.noise = _Source(_NOISE, seed ^ _NOISE_STREAM, device) if config.gradient_noise else None
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.slow: dict[str, Tensor] = {}
        if config.grokfast != "none":
            window = (config.grokfast_window,) if config.grokfast == "ma" else ()
            self.slow = {name: weight.new_zeros((*window, *weight.shape)) for name, weight in named}
        self.norm: Tensor | None = None

    @torch.no_grad()
    def change_gradients(self) -> None:
        """Changes the gradients, in the order given in the module's docstring."""
        config = self.config
        if config.constrain_norm and self.norm is None:
            self.norm = self._norm()
        for name, weight in self.named:
            gradient = weight.grad
            if gradient is None:
                continue
            if config.l1:
                gradient.add_(weight.sign(), alpha=config.l1)
            if self.noise is not None:
                noise = torch.empty_like(gradient).normal_(generator=self.noise.generator)
                gradient.add_(noise, alpha=config.gradient_noise)
            if config.orthogonal_gradient:
                gradient.copy_(orthogonal_to(weight, gradient, self.wide))
            if config.grokfast != "none":
                gradient.add_(self._update_slow(self.slow[name], gradient), alpha=config.amplification)
        self.count += 1

    @torch.no_grad()
    def change_weights(self) -> None:
        """With the norm constraint, scales all weights by a common factor to the norm they started with."""
        if self.config.constrain_norm and self.norm is not None:
            scale = self.norm / self._norm()
            for _, weight in self.named:
                weight.mul_(scale)

    def _norm(self) -> Tensor:
        norms = [torch.linalg.vector_norm(weight, dtype=self.wide) for _, weight in self.named]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _update_slow(self, slow: Tensor, gradient: Tensor) -> Tensor:
        """Adds a gradient to Grokfast's state and returns the mean; 0 until the window is full (Lee et al. 2024).

        Only the device reads the counter, so that an update can be captured as a CUDA graph.
        """
        if self.config.grokfast == "ema":
            mean = slow.lerp(gradient, 1.0 - self.config.grokfast_alpha)
            return slow.copy_(torch.where(self.count == 0, gradient, mean))
        window = self.config.grokfast_window
        slow.index_copy_(0, (self.count % window)[None], gradient[None])
        return torch.where(self.count + 1 >= window, slow.mean(dim=0), 0.0)

    def state(self) -> dict[str, Tensor]:
        """The state that the next updates depend on, copied to the CPU; empty without interventions."""
        state = {} if self.noise is None else self.noise.state()
        state |= {f"grokfast:{name}": slow.to("cpu", copy=True) for name, slow in self.slow.items()}
        if self.slow:
            state["grokfast_seen"] = self.count.to("cpu", copy=True)
        if self.norm is not None:
            state["norm"] = self.norm.to("cpu", copy=True)
        return {f"{_PREFIX}{key}": tensor for key, tensor in state.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned."""
        stored = {key.removeprefix(_PREFIX): t for key, t in state.items() if key.startswith(_PREFIX)}
        if self.noise is not None:
            self.noise.restore(stored)
        for name, slow in self.slow.items():
            slow.copy_(stored[f"grokfast:{name}"])
        if self.slow:
            self.count.copy_(stored["grokfast_seen"])
        if "norm" in stored:
            self.norm = stored["norm"].to(self.count.device)


def orthogonal_to(
    weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape"]:
    """Removes from a gradient its component along the weights, and rescales the rest to the norm of the gradient.

    This is ⊥Grad of Prieto et al. 2025 (arXiv:2501.04697). Their equation has no scaling, but their code scales, and
    treats each parameter tensor separately, as here. If only rounding errors remain, the result is 0.

    Args:
        weight: one parameter tensor.
        gradient: of the objective with respect to `weight`.
        dtype: for the computation; the result has the dtype of the gradient.
    """
    w, g = weight.flatten().to(dtype), gradient.flatten().to(dtype)
    rest = g - torch.dot(w, g) / (torch.dot(w, w) + _TINY) * w
    norm, rest_norm = torch.linalg.vector_norm(g), torch.linalg.vector_norm(rest)
    scale = torch.where(rest_norm > _ALONG * norm, norm / (rest_norm + _TINY), 0.0)
    return (rest * scale).view_as(gradient).to(gradient.dtype)
