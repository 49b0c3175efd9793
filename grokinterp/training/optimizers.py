"""Updater: an optimizer with warm-up, clipping, coupled or decoupled weight decay, and interventions."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from grokinterp.config import OptimizerConfig
from grokinterp.models.shapes import hidden_matrices
from grokinterp.training.interventions import Interventions
from grokinterp.training.lion import Lion
from grokinterp.training.muon import Muon

# What the steps of these optimizers call.
_FUNCTIONS: dict[str, Callable[..., None]] = {"adam": adam, "adamw": adamw}


DROP_EVERY = 64  # steps between two calls of `drop_negligible`
_NEGLIGIBLE_WEIGHT, _NEGLIGIBLE_MOMENT = 1e-30, 1e-37


@torch.no_grad()
def drop_negligible(weights: Iterable[Tensor], states: Iterable[Mapping[str, Any]]) -> None:
    """Sets weights below 1e-30 and moments of the optimizer below 1e-37 to 0, in place.

    The gradient of a dead neuron is 0, so weight decay shrinks its weights, and the optimizer its moments, until they
    are denormal numbers, with which a CPU computes up to a hundred times more slowly.

    >>> weights, mean = torch.tensor([1.0, 2e-31]), torch.tensor([1e-16, 1e-40])
    >>> drop_negligible([weights], [{"exp_avg": mean}])
    >>> weights.tolist(), (mean > 0).tolist()
    ([1.0, 0.0], [True, False])

    Args:
        weights: the trained weights.
        states: tensors of the optimizer by the names of torch.optim; other entries are left as they are.
    """
    for weight in weights:
        torch.ops.aten.hardshrink.out(weight, _NEGLIGIBLE_WEIGHT, out=weight)
    for state in states:
        for moment in state.values():
            if isinstance(moment, Tensor) and moment.is_floating_point():
                torch.ops.aten.hardshrink.out(moment, _NEGLIGIBLE_MOMENT, out=moment)
        if "exp_avg_sq" in state:  # a mean alone would be divided by eps
            state["exp_avg"].masked_fill_(state["exp_avg_sq"] == 0, 0.0)


class Updater:
    """An optimizer with warm-up, clipping, weight decay and interventions; `apply(step)` makes one update."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, seed: int = 0):
        """Creates the optimizer.

        Args:
            parameters: by name; frozen ones are not updated.
            config: of the optimizer.
            seed: the run's model_seed.
        """
        self.config = config
        parameters = list(parameters)
        matrices = hidden_matrices(name for name, _ in parameters) if config.name == "muon" else ()
        self.named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        self.tensors: list[Tensor] = [parameter for _, parameter in self.named]
        self.interventions = Interventions(self.named, config, seed)
        tensors = self.tensors
        devices = {t.device for t in tensors}
        fused = all(device.type in ("cpu", "cuda") for device in devices)
        # On CUDA an update may be captured as a graph, so that the learning rate, which changes, must be a tensor.
        self.on_cuda = any(device.type == "cuda" for device in devices)
        self.rate: float | Tensor = torch.tensor(config.lr, device=tensors[0].device) if self.on_cuda else config.lr
        self.slots: tuple[list[Tensor], ...] | None = None  # the state of Adam on the CPU, once there is one
        self.calls_function = config.name in _FUNCTIONS and fused and not self.on_cuda
        self.optimizer: torch.optim.Optimizer  # of all tensors; for muon, of those that are not hidden matrices
        if config.name == "sgd":
            coupled = 0.0 if config.decoupled else config.weight_decay
            self.optimizer = torch.optim.SGD(
                tensors, lr=self.rate, momentum=config.momentum, weight_decay=coupled, fused=fused
            )
        elif config.name == "lion":
            self.optimizer = Lion(tensors, self.rate, config.betas, config.weight_decay)
        else:
            kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
            self.optimizer = kind(
                [tensor for name, tensor in self.named if name not in matrices],
                lr=self.rate,
                betas=config.betas,
                eps=config.eps,
                weight_decay=config.weight_decay,
                fused=fused,
                capturable=self.on_cuda,
            )
        self.optimizers = (self.optimizer,)
        if matrices:
            hidden = [tensor for name, tensor in self.named if name in matrices]
            self.optimizers += (Muon(hidden, self.rate, config.muon_momentum, config.weight_decay),)
        self.owners = {name: self.optimizers[name in matrices] for name, _ in self.named}

    def apply(self, step: int) -> None:
        """Applies the gradients in update number `step` (from 0), and clears them."""
        self.set_rate(step)
        self.update()

    def set_rate(self, step: int) -> None:
        """Sets the learning rate of update number `step` (from 0)."""
        config = self.config
        rate = config.lr * (min(step / config.warmup_steps, 1.0) if config.warmup_steps else 1.0)
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate
            for optimizer in self.optimizers:
                optimizer.param_groups[0]["lr"] = rate

    def update(self) -> None:
        """Applies the gradients at the current learning rate, and clears them."""
        config = self.config
        self.interventions.change_gradients()
        if config.clip is not None:
            nn.utils.clip_grad_norm_(self.tensors, config.clip)
        if config.name == "sgd" and config.decoupled and config.weight_decay:
            with torch.no_grad():
                torch._foreach_mul_(self.tensors, 1.0 - self.rate * config.weight_decay)
        self._step()
        self.interventions.change_weights()
        for tensor in self.tensors:
            tensor.grad = None

    def _step(self) -> None:
        """Steps the optimizer; Adam on the CPU without `step`, whose bookkeeping takes longer than a small update."""
        gradients = [tensor.grad for tensor in self.tensors]
        if self.slots is None or any(gradient is None for gradient in gradients):
            for optimizer in self.optimizers:
                optimizer.step()
            states = [self.optimizer.state[tensor] for tensor in self.tensors] if self.calls_function else []
            if states and all("exp_avg" in state for state in states):
                self.slots = tuple([state[slot] for state in states] for slot in ("exp_avg", "exp_avg_sq", "step"))
            return
        means, squares, steps = self.slots
        with torch.no_grad():
            _FUNCTIONS[self.config.name](
                self.tensors,
                gradients,
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=self.config.betas[0],
                beta2=self.config.betas[1],
                lr=self.rate,
                weight_decay=self.config.weight_decay,
                eps=self.config.eps,
                maximize=False,
            )

    def drop_negligible(self) -> None:
        """Sets negligible weights and moments to 0; see the function of this name."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        drop_negligible(self.tensors, [*states, self.interventions.slow])

    def _states(self) -> dict[str, dict[str, Any]]:
        """What the optimizer keeps for each parameter, by the name of the parameter; may be changed in place."""
        return {name: self.owners[name].state[tensor] for name, tensor in self.named}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors under `optimizer:parameter:slot`, and those of the interventions."""
        tensors = {
            f"optimizer:{name}:{key}": value.detach().cpu()
            for name, stored in self._states().items()
            for key, value in stored.items()
            if isinstance(value, Tensor)
        }
        return {**tensors, **self.interventions.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restores what `state` returned."""
        self.slots = None
        self.interventions.restore(state)
        parameters, states = dict(self.named), self._states()
        for key, value in state.items():
            kind, name, slot = (*key.split(":"), "", "")[:3]
            if kind == "optimizer":
                # Fused optimizers expect the step count on the device of its parameter.
                states[name][slot] = value.to(parameters[name].device)
