"""Shared by the tests of models: the weights of a model, and models with random weights."""

from typing import Any

import torch
from torch import Tensor, nn


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def randomized(model: Any, seed: int = 11, std: float = 0.4) -> Any:
    """The same model with random values in every parameter, including biases and LayerNorms, all trained."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(std=std, generator=generator)
        parameter.requires_grad_(True)
    return model


def in_float64(model: Any) -> Any:
    """The same model in float64.

    `nn.Module.double` leaves the configuration of a HookedTransformer at float32, to which its LayerNorm then rounds;
    its own `to` does not.
    """
    return model.to(torch.float64, print_details=False) if hasattr(model, "cfg") else model.double()
