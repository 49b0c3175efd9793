"""Training sets: from the seeded shuffles of three libraries, or from given indices."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grokinterp.config import TaskConfig
from grokinterp.errors import ConfigError


def seeded_split(config: TaskConfig, n: int) -> Bool[Tensor, " n"]:
    """Shuffles the inputs as the configuration says and selects the first `train_fraction` of them for training.

    Args:
        config: the configuration of the task.
        n: number of inputs.

    Returns:
        `[n]`, True for the training inputs.

    Raises:
        ConfigError: the fraction leaves no training input.
    """
    count = int((config.train_fraction or 0.0) * n)
    if not 0 < count < n:
        raise ConfigError(
            f"train_fraction {config.train_fraction} of {n} inputs leaves {count} to train on: "
            "choose a fraction that leaves both training and test inputs"
        )
    return split_from_indices(_shuffle(config, n)[:count], n)


def _shuffle(config: TaskConfig, n: int) -> Tensor:
    """The permutation of the inputs that the shuffle of the configured library makes from the seed."""
    if config.split == "torch":
        return torch.randperm(n, generator=torch.Generator().manual_seed(config.data_seed))
    if config.split == "python":
        order = list(range(n))
        random.Random(config.data_seed).shuffle(order)
        return torch.tensor(order)
    return torch.from_numpy(np.random.RandomState(config.data_seed).permutation(n))


def as_indices(train_indices: Sequence[int] | Tensor) -> Int[Tensor, " m"]:
    """Converts the positions of the training inputs to a tensor.

    Raises:
        ConfigError: they are not integers.
    """
    try:
        indices = torch.as_tensor(train_indices).flatten()
        # as_tensor reads [True, 2] as [1, 2].
        mixed = not isinstance(train_indices, Tensor) and any(isinstance(index, bool) for index in train_indices)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigError(f"train_indices must be a list of integers, but is {train_indices!r}") from None
    if mixed or indices.dtype == torch.bool:
        raise ConfigError("train_indices must be integers, but are booleans: for a mask, give mask.nonzero()")
    if len(indices) and (indices.is_floating_point() or indices.is_complex()):
        raise ConfigError(f"train_indices must be integers, but are {indices.dtype}")
    return indices.to(device="cpu", dtype=torch.int64)


def split_from_indices(indices: Int[Tensor, " m"], n: int) -> Bool[Tensor, " n"]:
    """Converts the positions of the training inputs to a mask.

    Args:
        indices: `[m]`, positions in 0 .. n - 1.
        n: number of inputs.

    Returns:
        `[n]`, True at the positions.

    Raises:
        ConfigError: the positions are not distinct, lie outside 0 .. n - 1, or are none or all of them.
    """
    distinct = torch.unique(indices)
    if not (0 < len(distinct) < n) or len(distinct) != len(indices) or distinct[0] < 0 or distinct[-1] >= n:
        raise ConfigError(
            f"train_indices must be distinct positions among the {n} inputs, at least one and not all, "
            f"but there are {len(indices)} positions, {len(distinct)} of them distinct"
        )
    mask = torch.zeros(n, dtype=torch.bool)
    mask[indices] = True
    return mask
