"""Imported: what a format reads from other people's files, before it becomes a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from grokinterp.config import ModelConfig, TaskConfig

Weights = dict[str, Tensor]
Losses = tuple[float, float]
Loss = Literal["cross_entropy", "mse", "stablemax"]


@dataclass(frozen=True)
class Place:
    """A model that a format found.

    Attributes:
        path: its file or folder.
        name: what distinguishes it from others in the same folder, for messages.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Imported:
    """A model or a run of others.

    Attributes:
        task: the task, with split `unknown` if the files do not say which inputs were trained on.
        model: the architecture.
        checkpoints: by step, a function that loads the weights under our names.
        train_indices: positions of the training inputs, if they are known.
        split_reason: how they are known.
        loss: the loss of the training, which the metrics then have.
        splits: candidates for a split that the files do not hold, as far as it is known how it was drawn.
        losses: by step, the train and the test loss that the files record.
        settings: of the training, as the files state them, for people to read.
        notes: what was changed or lost.
    """

    task: TaskConfig
    model: ModelConfig
    checkpoints: Mapping[int, Callable[[], Weights]]
    train_indices: Sequence[int] | None = None
    split_reason: str = "stored in the files"
    loss: Loss = "cross_entropy"
    splits: tuple[TaskConfig, ...] = ()
    losses: Mapping[int, Losses] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
