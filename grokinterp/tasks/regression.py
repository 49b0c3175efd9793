"""RegressionTask: numbers as inputs and labels; the labels are the outputs of a random teacher network."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from grokinterp.config import RegressionConfig


@dataclass(frozen=True, eq=False)
class RegressionTask:
    """The outputs of a teacher on random inputs, the training inputs first (Liu et al. 2022, arXiv:2210.01117).

    >>> task = RegressionTask.from_config(RegressionConfig(n_train=3, n_test=2))
    >>> task.inputs.shape, task.labels.shape, task.train_mask.tolist()
    (torch.Size([5, 5]), torch.Size([5, 5]), [True, True, True, False, False])

    Attributes:
        config: the configuration of the task.
        inputs: `[n, d_in]`, every number drawn from N(0, 1).
        labels: `[n, d_out]`, the teacher's outputs.
        train_mask: `[n]`, True for the training inputs.
        teacher: the weights of the teacher, named like the weights of `MLP`.
    """

    config: RegressionConfig
    inputs: Float[Tensor, "n d_in"]
    labels: Float[Tensor, "n d_out"]
    train_mask: Bool[Tensor, " n"]
    teacher: Mapping[str, Tensor]

    @staticmethod
    def from_config(config: RegressionConfig) -> "RegressionTask":
        """Draws the task that a configuration describes.

        One generator, seeded with `data_seed`, draws first the weights of the teacher, like nn.Linear, and then the
        inputs. The code of Liu et al. draws the same numbers after `torch.manual_seed`.
        """
        generator = torch.Generator().manual_seed(config.data_seed)
        teacher = _draw_teacher(config, generator)
        inputs = [torch.randn(n, config.d_in, generator=generator) for n in (config.n_train, config.n_test)]
        # Training and test separately: the last digits of a product depend on the number of rows.
        labels = torch.cat([_answers(teacher, config.teacher_depth, part) for part in inputs])
        train_mask = torch.arange(config.n_inputs) < config.n_train
        return RegressionTask(config, torch.cat(inputs), labels, train_mask, teacher)

    @property
    def tokens(self) -> Float[Tensor, "n d_in"]:
        """What the model reads: the inputs."""
        return self.inputs

    def require_split(self) -> Bool[Tensor, " n"]:
        """`train_mask`; a regression always has a split."""
        return self.train_mask

    @property
    def test_mask(self) -> Bool[Tensor, " n"]:
        """`[n]`, True for the test inputs."""
        return ~self.train_mask

    @property
    def why_no_classes(self) -> str:
        """Why the task has no classes, for messages."""
        return f"{self.config.title} is a regression: it has no classes"


def _draw_teacher(config: RegressionConfig, generator: torch.Generator) -> dict[str, Tensor]:
    names = [*((f"layers.{i}.W", f"layers.{i}.b") for i in range(config.teacher_depth)), ("unembed.W_U", "unembed.b_U")]
    widths = [config.d_in, *[config.teacher_width] * config.teacher_depth, config.d_out]
    teacher = {}
    for (matrix, bias), fan_in, fan_out in zip(names, widths[:-1], widths[1:], strict=True):
        bound = 1 / math.sqrt(fan_in)
        teacher[matrix] = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator).T
        teacher[bias] = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
    return teacher


def _answers(teacher: Mapping[str, Tensor], depth: int, inputs: Tensor) -> Tensor:
    x = inputs
    for i in range(depth):
        x = torch.tanh(F.linear(x, teacher[f"layers.{i}.W"].T, teacher[f"layers.{i}.b"]))
    return F.linear(x, teacher["unembed.W_U"].T, teacher["unembed.b_U"])
