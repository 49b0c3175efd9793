"""The weights of many runs of one shape as one tensor, and updates of all of them at once."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grokinterp.config import OptimizerConfig

_ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
_SGD_MOMENTS = ("momentum_buffer",)


class Stack:
    """The weights of r runs, what their optimizers remember, and updates with each run's own learning rate and decay.

    An update does what `Updater` does, in the same order. The trained parameters of a run lie one after another in one
    row of x numbers, so that an update is a dozen operations however many parameters there are.

    Attributes:
        weights: `[r, x]`, the trained parameters; a leaf, in whose `grad` gradients are left.
        frozen: the other parameters, `[r, ...]` each.
        moments: `[r, x]` each, under torch.optim's names.
        settings: `[r, 1]` each, in float64: what may differ from run to run.
    """

    def __init__(self, runs: Sequence[Mapping[str, nn.Parameter]], configs: Sequence[OptimizerConfig], device: str):
        """Copies the parameters of every run.

        Args:
            runs: the named parameters of each, of the same names, shapes and frozenness.
            configs: of each run; only what `settings` holds may differ.
            device: where the stack is put.
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
        if self.config.name != "sgd":
            names = _ADAM_MOMENTS
        else:
            names = _SGD_MOMENTS if any(config.momentum for config in configs) else ()
        self.moments = {name: torch.zeros_like(self.weights, requires_grad=False) for name in names}
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
        """Views of the trained parameters, `[r, ...]` each, in something laid out like `weights`."""
        parts = rows.split([self.shapes[name].numel() for name in self.trained], dim=1)
        return {name: part.unflatten(1, self.shapes[name]) for name, part in zip(self.trained, parts, strict=True)}

    def parts(self) -> dict[str, Tensor]:
        """Every parameter of all runs, `[r, ...]` each, in the models' order; differentiable in `weights`."""
        every = {**self.frozen, **self.split(self.weights)}
        return {name: every[name] for name in self.shapes}

    @torch.no_grad()
    def member(self, i: int) -> dict[str, Tensor]:
        """Views of every parameter of run i."""
        return {name: part.detach()[i] for name, part in self.parts().items()}

    @torch.no_grad()
    def update(self, clock: Int[Tensor, ""]) -> None:
        """Makes an update of every run from the gradients, and clears them.

        Args:
            clock: number of the update, from 0, where the device reads it.
        """
        gradient, of = self.weights.grad, self.settings
        assert gradient is not None
        rate = of["lr"]
        if self.config.warmup_steps:
            rate = rate * (clock / of["warmup"]).clamp(max=1.0)
        if self.config.clip is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((of["clip"] / (norm + 1e-6)).clamp(max=1.0).float())  # 1e-6 as in clip_grad_norm_
        if self.config.decoupled:
            self.weights.mul_((1.0 - rate * of["decay"]).float())
        else:
            gradient.addcmul_(self.weights, of["decay"].float())
        if self.config.name == "sgd":
            self._descend(gradient, rate)
        else:
            self._adapt(gradient, rate, clock + 1)
        self.weights.grad = None

    def _descend(self, gradient: Tensor, rate: Tensor) -> None:
        for velocity in self.moments.values():  # none where no run has momentum
            gradient = velocity.mul_(self.settings["momentum"].float()).add_(gradient)
        self.weights.addcmul_(gradient, -rate.float())

    def _adapt(self, gradient: Tensor, rate: Tensor, made: Tensor) -> None:
        beta1, beta2 = self.settings["beta1"], self.settings["beta2"]
        mean, square = (self.moments[name] for name in _ADAM_MOMENTS)
        mean.lerp_(gradient, (1.0 - beta1).float())
        square.mul_(beta2.float()).addcmul_(gradient * (1.0 - beta2).float(), gradient)
        size = rate / (1.0 - beta1**made)
        correction = (1.0 - beta2**made).sqrt()
        scale = square.sqrt().div_(correction.float()).add_(self.settings["eps"].float())
        self.weights.addcdiv_(mean * -size.float(), scale)

    def state(self, i: int, step: int) -> dict[str, Tensor]:
        """Weights and optimizer of run i after `step` updates, copied to the CPU, under the keys of `train`."""
        found = {f"weights:{name}": weight.to("cpu", copy=True) for name, weight in self.member(i).items()}
        if step == 0:  # torch.optim remembers nothing before the first update
            return found
        for key, rows in self.moments.items():
            if key in _SGD_MOMENTS and not self.settings["momentum"][i]:
                continue
            found |= {
                f"optimizer:{name}:{key}": part[i].to("cpu", copy=True) for name, part in self.split(rows).items()
            }
        if self.config.name != "sgd":
            found |= {f"optimizer:{name}:step": torch.tensor(float(step)) for name in self.trained}
        return found

    def restore(self, i: int, state: Mapping[str, Tensor]) -> None:
        """Puts back into run i what `state` gave, or what `train` wrote."""
        for name, weight in self.member(i).items():
            weight.copy_(state[f"weights:{name}"])
        for key, rows in self.moments.items():
            for name, part in self.split(rows).items():
                stored = state.get(f"optimizer:{name}:{key}")
                if stored is not None:
                    part[i].copy_(stored)

    def select(self, kept: Int[Tensor, " k"]) -> None:
        """Leaves these runs in the stack, as new tensors."""
        self.weights = self.weights.detach().index_select(0, kept).requires_grad_()
        for group in (self.frozen, self.moments, self.settings):
            group.update({name: tensor.index_select(0, kept) for name, tensor in group.items()})
