"""Task: every input of an operation, its label, and which inputs are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grokinterp.config import S5_OPERATIONS, Operation, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.tasks.groups import CyclicGroup, cyclic_group, why_no_group
from grokinterp.tasks.operations import COMMUTATIVE, all_inputs, answers
from grokinterp.tasks.permutations import s5_elements
from grokinterp.tasks.splits import seeded_split, split_of
from grokinterp.tasks.sums import SumClasses, sort_by_sum

# Labels are drawn from another stream than the split. A CPU generator uses the low 32 bits of its seed only.
_LABEL_STREAM = 0x9E3779B9


@dataclass(frozen=True, eq=False)
class Task:
    """All inputs of an operation, row-major, with labels and the training set.

    >>> task = Task.modular_addition(p=5, train_fraction=0.4)
    >>> task.inputs.shape, int(task.train_mask.sum())
    (torch.Size([25, 2]), 10)

    Attributes:
        config: the configuration it was made from.
        inputs: `[n, k]`, the operands, row-major; two, but for parity.
        labels: `[n]`, what a model is trained and scored on (with label noise, if any).
        train_mask: `[n]`, True where an input is trained on; None where the split is not known.
        equals_token: whether `tokens` end in `=`.
    """

    config: TaskConfig
    inputs: Int[Tensor, "n k"]
    labels: Int[Tensor, " n"]
    train_mask: Bool[Tensor, " n"] | None
    equals_token: bool = True

    @staticmethod
    def from_config(
        config: TaskConfig, *, equals_token: bool = True, train_indices: Sequence[int] | Tensor | None = None
    ) -> "Task":
        """The task that a configuration describes.

        Args:
            config: the configuration; with `split="given"` the training set comes from `train_indices`.
            equals_token: whether `tokens` end in `=` (token p), as the transformers of the literature have it.
            train_indices: positions in `inputs` that are trained on, for a split made elsewhere.

        Raises:
            ConfigError: a split without training or without test inputs, or indices that name no inputs.
        """
        inputs = all_inputs(config)
        n = len(inputs)
        if train_indices is not None:
            indices = torch.as_tensor(train_indices, dtype=torch.int64).flatten()
            train_mask = split_of(indices, n)
            config = replace(config, split="given", train_fraction=len(indices) / n)
        elif config.split == "given":
            raise ConfigError("split 'given' needs train_indices: the positions of the training inputs")
        elif config.split == "unknown":
            train_mask = None
        else:
            train_mask = seeded_split(config, n)
        return Task(config, inputs, _labels(config, inputs, train_mask), train_mask, equals_token)

    @staticmethod
    def of(
        operation: Operation,
        p: int,
        train_fraction: float | None = None,
        data_seed: int = 0,
        *,
        train_indices: Sequence[int] | Tensor | None = None,
        equals_token: bool = True,
        operands: int = 2,
    ) -> "Task":
        """Any operation; without `train_fraction` and `train_indices` the split counts as unknown."""
        known = train_fraction is not None or train_indices is not None
        config = TaskConfig(
            operation=operation,
            p=p,
            train_fraction=(train_fraction if train_fraction is not None else 0.5) if known else None,
            split="torch" if known else "unknown",
            data_seed=data_seed,
            operands=operands,
        )
        return Task.from_config(config, equals_token=equals_token, train_indices=train_indices)

    @staticmethod
    def modular_addition(
        p: int,
        train_fraction: float | None = None,
        data_seed: int = 0,
        *,
        train_indices: Sequence[int] | Tensor | None = None,
        equals_token: bool = True,
    ) -> "Task":
        """(a + b) mod p: `Task.of("add", ...)`."""
        return Task.of("add", p, train_fraction, data_seed, train_indices=train_indices, equals_token=equals_token)

    @property
    def p(self) -> int:
        return self.config.p

    @property
    def operands(self) -> int:
        """Number of operands in an input."""
        return self.config.operands

    @property
    def n_classes(self) -> int:
        """Number of answers, `=` not counted."""
        return self.config.p

    @cached_property
    def tokens(self) -> Int[Tensor, "n t"]:
        """What a transformer reads: the operands, then `=` (token p) where the model takes it."""
        if not self.equals_token:
            return self.inputs
        return torch.cat([self.inputs, torch.full((len(self.inputs), 1), self.p)], dim=1)

    @property
    def commutes(self) -> bool:
        """Whether the operation gives (a, b) and (b, a) one answer, for a symmetric model to share."""
        return self.config.operation in COMMUTATIVE and not self.config.random_labels

    @cached_property
    def test_mask(self) -> Bool[Tensor, " n"] | None:
        return None if self.train_mask is None else ~self.train_mask

    @property
    def why_no_mirror(self) -> str:
        """What to say where a subset needs mirrored pairs and there are none."""
        if self.config.operation == "parity":
            return f"{self.config.title} is no operation on pairs: no input has a mirror"
        what = "a random label" if self.config.random_labels else self.config.operation
        return f"{what} does not commute: no pair has a mirror"

    @cached_property
    def mirror_mask(self) -> Bool[Tensor, " n"] | None:
        """Test pairs whose mirror (b, a) is trained on; None where the operation does not commute."""
        if self.train_mask is None or self.test_mask is None or not self.commutes:
            return None
        position = _positions(self.inputs, self.p)
        mirror = position[self.inputs[:, 1], self.inputs[:, 0]]
        return self.test_mask & self.train_mask[mirror]

    @cached_property
    def novel_mask(self) -> Bool[Tensor, " n"] | None:
        """Test pairs whose mirror is not trained on either; None where the operation does not commute."""
        if self.mirror_mask is None or self.test_mask is None:
            return None
        return self.test_mask & ~self.mirror_mask

    @cached_property
    def held_out_mask(self) -> Bool[Tensor, " n"] | None:
        """What cross-fitting learns from: novel pairs, or all test pairs where the operation does not commute."""
        return self.novel_mask if self.commutes else self.test_mask

    def require_split(self) -> Bool[Tensor, " n"]:
        """`train_mask`, which is then not None.

        Raises:
            ConfigError: the split is not known.
        """
        if self.train_mask is None:
            raise ConfigError("the train/test split is unknown: give a split and a train_fraction, or train_indices")
        return self.train_mask

    @cached_property
    def group(self) -> CyclicGroup | None:
        """The cyclic group behind the operation, or None (polynomials; products for composite p; S5; parity)."""
        return cyclic_group(self.config)

    def require_group(self) -> CyclicGroup:
        """`group`, which is then not None.

        Raises:
            ConfigError: no cyclic group is behind the operation.
        """
        if self.group is None:
            raise ConfigError(self.why_no_group)
        return self.group

    @property
    def why_no_group(self) -> str:
        """What to say where a measure needs the group and there is none."""
        return why_no_group(self.config)

    @property
    def elements(self) -> Int[Tensor, "p 5"] | None:
        """What the operands and classes of an S5 task stand for, one permutation a row; None for other tasks."""
        return s5_elements() if self.config.operation in S5_OPERATIONS else None

    @cached_property
    def grid_indices(self) -> Int[Tensor, "g g"] | None:
        """For i, j in group order, the position in `inputs` of (left[i], right[j]); None without a group."""
        if self.group is None:
            return None
        return _positions(self.inputs, self.p)[self.group.left[:, None], self.group.right[None, :]]

    @cached_property
    def sum_class(self) -> Int[Tensor, " n"] | None:
        """(i + j) mod g of each input in group order, -1 for inputs outside of the grid; None without a group."""
        if self.group is None or self.grid_indices is None:
            return None
        steps = torch.arange(self.group.order)
        sums = torch.full((len(self.inputs),), -1)
        sums[self.grid_indices.flatten()] = ((steps[:, None] + steps[None, :]) % self.group.order).flatten()
        return sums

    def sum_classes(self, subset: str) -> SumClasses:
        """The inputs of `all`, `train`, `test`, `mirror` or `novel` that lie in the group's grid, by sum class.

        Needs the group, and the split where the subset does. Made once, for all checkpoints.
        """
        if subset not in self._by_sum_class:
            assert self.sum_class is not None
            inside = self.sum_class >= 0
            mask = inside if subset == "all" else inside & getattr(self, f"{subset}_mask")
            self._by_sum_class[subset] = sort_by_sum(self.sum_class, self.labels, mask)
        return self._by_sum_class[subset]

    @cached_property
    def _by_sum_class(self) -> dict[str, SumClasses]:
        return {}


def _positions(inputs: Tensor, p: int) -> Tensor:
    """[p, p]: where the pair (a, b) stands in `inputs`, -1 where it does not."""
    table = torch.full((p, p), -1)
    table[inputs[:, 0], inputs[:, 1]] = torch.arange(len(inputs))
    return table


def _labels(config: TaskConfig, inputs: Tensor, train_mask: Tensor | None) -> Tensor:
    p = config.p
    generator = torch.Generator().manual_seed(config.data_seed ^ _LABEL_STREAM)
    if config.random_labels:
        return torch.randint(p, (len(inputs),), generator=generator)
    labels = answers(config, inputs)
    if config.label_noise and train_mask is not None:
        trained = train_mask.nonzero().flatten()
        count = round(config.label_noise * len(trained))
        noisy = trained[torch.randperm(len(trained), generator=generator)[:count]]
        labels[noisy] = (labels[noisy] + torch.randint(1, p, (count,), generator=generator)) % p
    return labels
