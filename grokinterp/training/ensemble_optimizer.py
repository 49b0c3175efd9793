"""Stack: the weights of many runs of one shape in one tensor, which one call updates together."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grokinterp.config import STATE_SLOTS, OptimizerConfig


class Stack:
    """The weights and optimizer states of r runs, with updates that use each run's learning rate and weight decay.

    An update does what `Updater` does, in the same order. The trained parameters of a run are concatenated to a row of
    x numbers, so that an update is a dozen operations regardless of the number of parameters.

    Attributes:
        weights: `[r, x]`, the trained parameters; a leaf, whose `grad` receives the gradients.
        frozen: the other parameters, `[r, ...]` each.
        moments: the optimizer state, `[r, x]` each, under the names of torch.optim.
        settings: the settings that may differ between runs, `[r, 1]` each, in float64.
    """

    def __init__(self, runs: Sequence[Mapping[str, nn.Parameter]], configs: Sequence[OptimizerConfig], device: str):
        """Copies the parameters of every run.

        Args:
            runs: the named parameters of each run, with the same names and shapes, and the same ones frozen.
            configs: the optimizer of each run; only the values in `settings` may differ.
            device: for the stack.
        """
        self.shapes = {name: parameter.shape for name, parameter in runs[0].items()}
        self.trained = [name for name, parameter in runs[0].items() if parameter.requires_grad]
        rows = [torch.cat([run[name].detach().flatten() for name in self.trained]) for run in runs]
        self.weights = torch.stack(rows).to(device).requires_grad_()
        self.frozen = {
            name: torch.stack([run[name].detach() for run in runs]).to(device)
            for name in self.shapes
            if name not in self.trained
        }
        self.config = configs[0]
        slots = STATE_SLOTS[self.config.name] if any(config.state_slots for config in configs) else ()
        self.moments = {slot: torch.zeros_like(self.weights, requires_grad=False) for slot in slots}
        self.has_moments = [bool(config.state_slots) for config in configs]
        settings = {
            "lr": [config.lr for config in configs],
            "decay": [config.weight_decay for config in configs],
            "beta1": [config.betas[0] for config in configs],
            "beta2": [config.betas[1] for config in configs],
            "eps": [config.eps for config in configs],
            "momentum": [config.momentum for config in configs],
            "warmup": [config.warmup_steps for config in configs],
            "clip": [config.clip or 0.0 for config in configs],
        }
        self.settings = {
            name: torch.tensor(values, dtype=torch.float64, device=device)[:, None] for name, values in settings.items()
        }

    def split(self, rows: Float[Tensor, "r x"]) -> dict[str, Tensor]:
        """Splits a tensor laid out like `weights` into views of the trained parameters, `[r, ...]` each."""
        parts = rows.split([self.shapes[name].numel() for name in self.trained], dim=1)
        return {name: part.unflatten(1, self.shapes[name]) for name, part in zip(self.trained, parts, strict=True)}

    def join(self, parts: Mapping[str, Tensor]) -> Float[Tensor, "r x"]:
        """The inverse of `split`."""
        return torch.cat([parts[name].flatten(1) for name in self.trained], dim=1)

    def parts(self) -> dict[str, Tensor]:
        """Every parameter of all runs, `[r, ...]` each, in the models' order; differentiable in `weights`."""
        parameters = {**self.frozen, **self.split(self.weights)}
        return {name: parameters[name] for name in self.shapes}

    @torch.no_grad()
    def member(self, i: int) -> dict[str, Tensor]:
        """Views of every parameter of run i."""
        return {name: part.detach()[i] for name, part in self.parts().items()}

    @torch.no_grad()
    def update(self, clock: Int[Tensor, ""]) -> None:
        """Applies the gradients of every run, and clears them.

        Args:
            clock: number of the update, from 0, on the device.
        """
        gradient, settings = self.gradient(), self.settings
        rate = settings["lr"]
        if self.config.warmup_steps:
            rate = rate * (clock / settings["warmup"]).clamp(max=1.0)
        if self.config.clip is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((settings["clip"] / (norm + 1e-6)).clamp(max=1.0).float())  # 1e-6 as in clip_grad_norm_
        if self.config.decoupled:
            self.weights.mul_((1.0 - rate * settings["decay"]).float())
        else:
            gradient.addcmul_(self.weights, settings["decay"].float())
        if self.config.name == "sgd":
            self._descend(gradient, rate)
        elif self.config.name == "lion":
            self._follow_sign(gradient, rate)
        else:
            self._adapt(gradient, rate, clock + 1)
        self.weights.grad = None

    def gradient(self) -> Tensor:
        """The gradients in `weights`.

        Raises:
            RuntimeError: backward was not called since the last update.
        """
        if self.weights.grad is None:
            raise RuntimeError("the stack has no gradients: call backward first")
        return self.weights.grad

    def _descend(self, gradient: Tensor, rate: Tensor) -> None:
        for velocity in self.moments.values():  # empty if no run has momentum
            gradient = velocity.mul_(self.settings["momentum"].float()).add_(gradient)
        self.weights.addcmul_(gradient, -rate.float())

    def _follow_sign(self, gradient: Tensor, rate: Tensor) -> None:
        (mean,) = self.moments.values()
        sign = mean.lerp(gradient, (1.0 - self.settings["beta1"]).float()).sign_()
        self.weights.addcmul_(sign, -rate.float())
        mean.lerp_(gradient, (1.0 - self.settings["beta2"]).float())

    def _adapt(self, gradient: Tensor, rate: Tensor, count: Tensor) -> None:
        beta1, beta2 = self.settings["beta1"], self.settings["beta2"]
        mean, square = self.moments.values()
        mean.lerp_(gradient, (1.0 - beta1).float())
        square.mul_(beta2.float()).addcmul_(gradient * (1.0 - beta2).float(), gradient)
        size = rate / (1.0 - beta1**count)
        correction = (1.0 - beta2**count).sqrt()
        scale = square.sqrt().div_(correction.float()).add_(self.settings["eps"].float())
        self.weights.addcdiv_(mean * -size.float(), scale)

    def state(self, i: int, step: int) -> dict[str, Tensor]:
        """Weights and optimizer state of run i after `step` updates, copied to the CPU, under the keys of `train`."""
        state = {f"weights:{name}": weight.to("cpu", copy=True) for name, weight in self.member(i).items()}
        if step == 0:  # torch.optim has no state before the first update
            return state
        for slot, rows in self.moments.items() if self.has_moments[i] else ():
            state |= {f"optimizer:{name}:{slot}": t[i].to("cpu", copy=True) for name, t in self.split(rows).items()}
        if "step" in self.config.slots_of(hidden_matrix=False):
            state |= {f"optimizer:{name}:step": torch.tensor(float(step)) for name in self.trained}
        return state

    def restore(self, i: int, state: Mapping[str, Tensor]) -> None:
        """Restores run i from what `state` returned, or from what `train` wrote."""
        for name, weight in self.member(i).items():
            weight.copy_(state[f"weights:{name}"])
        for slot, rows in self.moments.items():
            for name, part in self.split(rows).items():
                stored = state.get(f"optimizer:{name}:{slot}")
                if stored is not None:
                    part[i].copy_(stored)

    def select(self, rows: Int[Tensor, " k"]) -> None:
        """Reduces the stack to some of its runs, in new tensors."""
        self.has_moments = [self.has_moments[i] for i in rows.tolist()]
        self.weights = self.weights.detach().index_select(0, rows).requires_grad_()
        for group in (self.frozen, self.moments, self.settings):
            group.update({name: tensor.index_select(0, rows) for name, tensor in group.items()})
