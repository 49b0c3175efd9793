"""Which inputs are trained on: the seeded shuffles of three libraries, and splits made elsewhere."""

import random

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grokinterp.config import TaskConfig
from grokinterp.errors import ConfigError


def seeded_split(config: TaskConfig, n: int) -> Bool[Tensor, " n"]:
    """True for the first inputs, as many as the train fraction says, of the shuffle that the configuration names.

    Raises:
        ConfigError: a split without training or without test inputs.
    """
    return split_of(_shuffled(config, n)[: _train_count(config, n)], n)


def _shuffled(config: TaskConfig, n: int) -> Tensor:
    """A permutation of the inputs, as the named library's shuffle makes it from the seed."""
    if config.split == "torch":
        return torch.randperm(n, generator=torch.Generator().manual_seed(config.data_seed))
    if config.split == "python":
        order = list(range(n))
        random.Random(config.data_seed).shuffle(order)
        return torch.tensor(order)
    return torch.from_numpy(np.random.RandomState(config.data_seed).permutation(n))


def _train_count(config: TaskConfig, n: int) -> int:
    count = int((config.train_fraction or 0.0) * n)
    if not 0 < count < n:
        raise ConfigError(
            f"train_fraction {config.train_fraction} of {n} inputs leaves {count} to train on: "
            "choose one that leaves both training and test inputs"
        )
    return count


def split_of(indices: Int[Tensor, " m"], n: int) -> Bool[Tensor, " n"]:
    """True at the positions given.

    Raises:
        ConfigError: they are not distinct positions among n, or none or all of them.
    """
    distinct = torch.unique(indices)
    if not (0 < len(distinct) < n) or len(distinct) != len(indices) or distinct[0] < 0 or distinct[-1] >= n:
        raise ConfigError(
            f"train_indices must be distinct positions among the {n} inputs, at least one and not all; "
            f"{len(indices)} were given, {len(distinct)} of them distinct"
        )
    mask = torch.zeros(n, dtype=torch.bool)
    mask[indices] = True
    return mask
