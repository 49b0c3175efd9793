"""What published experiments on grokking do beside the optimizer: to gradients, to weights and to neurons.

In an update, in this order: the gradient of the loss (with dropout, where asked for); L1, noise, orthogonal gradient
and Grokfast, in `Interventions.before`; clipping, and the optimizer with its weight decay; the norm constraint, in
`Interventions.after`. So the orthogonal gradient is that of the whole objective, noise included, and weight decay is
not projected, as in the code of Prieto et al.; Grokfast averages what the optimizer would have seen without it, as in
the code of Lee et al.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grokinterp.config import PLAIN, MLPConfig, OptimizerConfig, RunConfig, TransformerConfig
from grokinterp.errors import RunError

# Other streams than those of the initialization and of the minibatches. A CPU generator uses the low 32 bits of a seed.
_NOISE_STREAM = 0xC2B2AE35
_DROPOUT_STREAM = 0x27D4EB2F
# What the state of Interventions is kept under in a resume point, and that of the noise's generator within it.
_PREFIX = "interventions:"
_NOISE = "noise:draws"

_TINY = 1e-30  # as in the code of Prieto et al.
# A gradient along its weights but for less than this is so within the rounding of float32.
_ALONG = 1e-6


def interventions_of(config: RunConfig) -> list[str]:
    """The options of a run, by dotted name, by which its updates are not those of an exact loss and an optimizer."""
    options = config.optimizer
    chosen = {"model.dropout": _dropout_share(config) > 0, "loss_dtype float32_plain": config.loss_dtype == PLAIN}
    if options is not None:
        chosen |= {
            "optimizer.l1": options.l1 > 0,
            "optimizer.gradient_noise": options.gradient_noise > 0,
            "optimizer.orthogonal_gradient": options.orthogonal_gradient,
            "optimizer.grokfast": options.grokfast != "none",
            "optimizer.constrain_norm": options.constrain_norm,
        }
    return [name for name, on in chosen.items() if on]


def draws_in_updates(config: RunConfig) -> bool:
    """Whether an update draws random numbers on the device, which a captured graph would not draw anew."""
    return not {"model.dropout", "optimizer.gradient_noise"}.isdisjoint(interventions_of(config))


def dropout_of(config: RunConfig, device: str) -> "Dropout | None":
    """The dropout of a run's updates; None where there is none."""
    share = _dropout_share(config)
    return Dropout(share, config.model_seed, device) if share else None


def require_draws(config: RunConfig, state: Mapping[str, Tensor], device: str) -> None:
    """Looks whether the random numbers of a run's updates can be gone on with on a device.

    Args:
        config: of the run.
        state: of its resume point.
        device: to resume it on.

    Raises:
        RunError: they cannot.
    """
    options, dropout = config.optimizer, dropout_of(config, device)
    if dropout is not None:
        dropout.source.stored(state)
    if options is not None and options.gradient_noise:
        _Source(f"{_PREFIX}{_NOISE}", 0, torch.device(device)).stored(state)


def _dropout_share(config: RunConfig) -> float:
    return config.model.dropout if isinstance(config.model, TransformerConfig | MLPConfig) else 0.0


class _Source:
    """A generator of the run's own, whose state is kept under a key."""

    def __init__(self, key: str, seed: int, device: torch.device):
        self.key = key
        self.generator = torch.Generator(device).manual_seed(seed)

    def state(self) -> dict[str, Tensor]:
        return {self.key: self.generator.get_state()}

    def stored(self, state: Mapping[str, Tensor]) -> Tensor:
        """What to go on from.

        Raises:
            RunError: it is not there, or of another kind of device.
        """
        if self.key not in state:
            raise RunError(
                f"resume.safetensors lacks {self.key}, what this run's random numbers are drawn from: delete it, and "
                "the run resumes from its start"
            )
        stored = state[self.key]
        if stored.shape != self.generator.get_state().shape:
            raise RunError(
                f"this run drew its random numbers on another kind of device than {self.generator.device}: resume it "
                "on the device that it began on"
            )
        return stored

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(self.stored(state))


class Dropout:
    """Sets a share of the hidden neurons to 0 and divides the others by the rest, as the hook of a forward pass."""

    def __init__(self, share: float, seed: int, device: str):
        """Args: share: of the neurons, in (0, 1); seed: the run's model_seed; device: of the neurons."""
        self.kept = 1.0 - share
        self.source = _Source("dropout:draws", seed ^ _DROPOUT_STREAM, torch.device(device))

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """The value, dropped where `name` is that of neurons after their activation function."""
        if not name.endswith("hook_post"):
            return value
        mask = torch.empty_like(value, requires_grad=False).bernoulli_(self.kept, generator=self.source.generator)
        return value * mask.div_(self.kept)

    def state(self) -> dict[str, Tensor]:
        """What the next masks depend on."""
        return self.source.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        self.source.restore(state)


class Interventions:
    """What is done to the gradients before an optimizer reads them, and to the weights after it wrote them.

    Attributes:
        slow: what Grokfast remembers of each tensor's gradients: their mean, or the last ones `[window, ...]`.
        seen: how many gradients it has seen.
        norm: global L2 norm of the weights before the first update, in float64 where there is such; None before that.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]], config: OptimizerConfig, seed: int):
        """Args: named: the trained weights; config: of the optimizer; seed: the run's model_seed."""
        self.named, self.config = named, config
        device = named[0][1].device
        self.wide = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self.noise = _Source(_NOISE, seed ^ _NOISE_STREAM, device) if config.gradient_noise else None
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.slow: dict[str, Tensor] = {}
        if config.grokfast != "none":
            window = (config.grokfast_window,) if config.grokfast == "ma" else ()
            self.slow = {name: weight.new_zeros((*window, *weight.shape)) for name, weight in named}
        self.norm: Tensor | None = None

    @torch.no_grad()
    def before(self) -> None:
        """Changes the gradients, in the order that the module describes."""
        config = self.config
        if config.constrain_norm and self.norm is None:
            self.norm = self._norm()
        given = [(name, weight, weight.grad) for name, weight in self.named if weight.grad is not None]
        for name, weight, gradient in given:
            if config.l1:
                gradient.add_(weight.sign(), alpha=config.l1)
            if self.noise is not None:
                gradient.add_(self._drawn(gradient), alpha=config.gradient_noise)
            if config.orthogonal_gradient:
                gradient.copy_(orthogonal_to(weight, gradient, self.wide))
            if config.grokfast != "none":
                gradient.add_(self._slow(self.slow[name], gradient), alpha=config.amplification)
        self.seen += 1

    @torch.no_grad()
    def after(self) -> None:
        """Changes the weights: scales all of them alike to the norm that they started with."""
        if self.config.constrain_norm:
            assert self.norm is not None
            scale = self.norm / self._norm()
            for _, weight in self.named:
                weight.mul_(scale)

    def _norm(self) -> Tensor:
        norms = [torch.linalg.vector_norm(weight, dtype=self.wide) for _, weight in self.named]
        return torch.linalg.vector_norm(torch.stack(norms))

    def _drawn(self, like: Tensor) -> Tensor:
        assert self.noise is not None
        return torch.empty_like(like).normal_(generator=self.noise.generator)

    def _slow(self, kept: Tensor, gradient: Tensor) -> Tensor:
        """The slow part of the gradients so far, this one included; 0 while a window is not full (Lee et al. 2024).

        The counter is read by the device only, so that an update can be captured as a CUDA graph.
        """
        if self.config.grokfast == "ema":
            mean = kept.lerp(gradient, 1.0 - self.config.grokfast_alpha)
            return kept.copy_(torch.where(self.seen == 0, gradient, mean))
        window = self.config.grokfast_window
        kept.index_copy_(0, (self.seen % window)[None], gradient[None])
        return torch.where(self.seen + 1 >= window, kept.mean(dim=0), 0.0)

    def state(self) -> dict[str, Tensor]:
        """What the next updates depend on, copied to the CPU; nothing where there are no interventions."""
        found = {} if self.noise is None else self.noise.state()
        found |= {f"grokfast:{name}": kept.to("cpu", copy=True) for name, kept in self.slow.items()}
        if self.slow:
            found["grokfast_seen"] = self.seen.to("cpu", copy=True)
        if self.norm is not None:
            found["norm"] = self.norm.to("cpu", copy=True)
        return {f"{_PREFIX}{key}": tensor for key, tensor in found.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        own = {key.removeprefix(_PREFIX): t for key, t in state.items() if key.startswith(_PREFIX)}
        if self.noise is not None:
            self.noise.restore(own)
        for name, kept in self.slow.items():
            kept.copy_(own[f"grokfast:{name}"])
        if self.slow:
            self.seen.copy_(own["grokfast_seen"])
        if "norm" in own:
            self.norm = own["norm"].to(self.seen.device)


def orthogonal_to(
    weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape"]:
    """What is left of a gradient without its component along the weights, scaled to the norm that the gradient had.

    ⊥Grad of Prieto et al. 2025 (arXiv:2501.04697), whose equation has no scaling; their code scales, and
    takes each parameter tensor by itself, as here. Where nothing is left but rounding errors, it is 0.

    Args:
        weight: one parameter tensor.
        gradient: of the objective with respect to it.
        dtype: to compute in; the result has the gradient's.
    """
    w, g = weight.flatten().to(dtype), gradient.flatten().to(dtype)
    rest = g - torch.dot(w, g) / (torch.dot(w, w) + _TINY) * w
    size, left = torch.linalg.vector_norm(g), torch.linalg.vector_norm(rest)
    scale = torch.where(left > _ALONG * size, size / (left + _TINY), 0.0)
    return (rest * scale).view_as(gradient).to(gradient.dtype)
