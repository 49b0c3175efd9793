"""Task: the inputs of an operation, their labels, and the split into training and test inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from grokinterp.config import S5_OPERATIONS, Operation, TaskConfig
from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError
from grokinterp.tasks.groups import CyclicGroup, cyclic_group, why_no_group
from grokinterp.tasks.operations import COMMUTATIVE, all_inputs, answers
from grokinterp.tasks.permutations import s5_elements
from grokinterp.tasks.splits import as_indices, seeded_split, split_from_indices
from grokinterp.tasks.sums import SumClasses, sort_by_sum

# Gives labels another random stream than the split. A CPU generator uses only the low 32 bits of its seed.
_LABEL_STREAM = 0x9E3779B9


@dataclass(frozen=True, eq=False, repr=False)
class Task(Carded):
    """All inputs of an operation in row-major order, with their labels and the training set.

    >>> task = Task.modular_addition(p=5, train_fraction=0.4)
    >>> task.inputs.shape, int(task.train_mask.sum())
    (torch.Size([25, 2]), 10)

    A model reads `tokens`: the operands, each a token in 0 .. p - 1, and then `=`, the token p, at whose position a
    transformer gives its answer. A model of your own that reads only the operands needs a task without `=`:

    >>> task.tokens[7].tolist(), Task.modular_addition(p=5, equals_token=False).tokens[7].tolist()
    ([1, 2, 5], [1, 2])

    Attributes:
        config: the configuration of the task.
        inputs: `[n, k]`, the operands in row-major order; k = 2, except for parity.
        labels: `[n]`, what a model is trained and scored on, including label noise.
        train_mask: `[n]`, True for the training inputs; None if the split is unknown or every input was trained on.
        equals_token: whether `tokens` end in `=`, so that there are p + 1 tokens.
    """

    config: TaskConfig
    inputs: Int[Tensor, "n k"]
    labels: Int[Tensor, " n"]
    train_mask: Bool[Tensor, " n"] | None
    equals_token: bool = True

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("train_indices", "train_idx"): "task.train_mask.nonzero().flatten()",
        ("test_indices", "test_idx"): "task.test_mask.nonzero().flatten(), or task.test_tokens",
        ("train_data", "X_train", "train_inputs", "train"): "task.train_tokens and task.train_labels",
        ("test_data", "X_test", "test_inputs", "test"): "task.test_tokens and task.test_labels",
        ("vocab_size", "d_vocab"): "task.p, plus 1 if task.equals_token",
    }

    @staticmethod
    def from_config(
        config: TaskConfig, *, equals_token: bool = True, train_indices: Sequence[int] | Tensor | None = None
    ) -> "Task":
        """Makes the task that a configuration describes.

        >>> Task.from_config(TaskConfig(operation="divide", p=5, train_fraction=0.5)).inputs.shape
        torch.Size([20, 2])

        Args:
            config: the configuration; with `split="given"` the training set comes from `train_indices`.
            equals_token: whether `tokens` end in `=` (token p), as is usual for transformers in the literature.
            train_indices: positions of the training inputs in `inputs`; replaces the split of the configuration.

        Raises:
            ConfigError: the training set or the test set would be empty, or an index is not an integer or out of range.
        """
        inputs = all_inputs(config)
        n = len(inputs)
        if train_indices is not None:
            indices = as_indices(train_indices)
            train_mask = split_from_indices(indices, n)
            config = replace(config, split="given", train_fraction=len(indices) / n)
        elif config.split == "given":
            raise ConfigError("split 'given' needs train_indices, the positions of the training inputs")
        elif config.split in ("unknown", "all"):
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
        """Makes the task of any operation.

        >>> Task.of("multiply", 7, train_fraction=0.5).labels[-1]  # 6 * 6 mod 7
        tensor(1)

        Args:
            operation: name of the operation; see `TaskConfig`.
            p: the modulus.
            train_fraction: fraction of the inputs to train on; without it and `train_indices` the split is unknown.
            data_seed: seed of the split.
            train_indices: positions of the training inputs in `inputs`, instead of a random split.
            equals_token: whether `tokens` end in `=`.
            operands: number of operands; bits for parity, otherwise 2.

        Raises:
            ConfigError: `train_fraction` and `train_indices` are both given, or an argument makes no sense.
        """
        if train_indices is not None:
            if train_fraction is not None:
                raise ConfigError("train_fraction and train_indices exclude each other: give one")
            train_fraction = 0.5  # replaced by the fraction of the indices
        split = "unknown" if train_fraction is None else "torch"
        config = TaskConfig(operation, p, train_fraction, split, data_seed, operands=operands)
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
        """Makes the task (a + b) mod p; the arguments are those of `Task.of`."""
        return Task.of("add", p, train_fraction, data_seed, train_indices=train_indices, equals_token=equals_token)

    @property
    def p(self) -> int:
        """The modulus."""
        return self.config.p

    @property
    def operands(self) -> int:
        """Number of operands per input."""
        return self.config.operands

    @property
    def n_classes(self) -> int:
        """Number of classes, without `=`."""
        return self.config.p

    @cached_property
    def tokens(self) -> Int[Tensor, "n t"]:
        """`[n, t]`, what a transformer reads: the operands, followed by `=` (token p) if `equals_token`."""
        if not self.equals_token:
            return self.inputs
        return torch.cat([self.inputs, torch.full((len(self.inputs), 1), self.p)], dim=1)

    @property
    def train_tokens(self) -> Int[Tensor, "m t"]:
        """`[m, t]`, the tokens of the training inputs, for a training loop of your own.

        >>> task = Task.modular_addition(p=5, train_fraction=0.4)
        >>> task.train_tokens.shape, task.train_labels.shape
        (torch.Size([10, 3]), torch.Size([10]))

        Raises:
            ConfigError: there is no split.
        """
        return self.tokens[self.require_split()]

    @property
    def train_labels(self) -> Int[Tensor, " m"]:
        """`[m]`, the labels of the training inputs.

        Raises:
            ConfigError: there is no split.
        """
        return self.labels[self.require_split()]

    @property
    def test_tokens(self) -> Int[Tensor, "m t"]:
        """`[m, t]`, the tokens of the test inputs.

        Raises:
            ConfigError: there is no split.
        """
        return self.tokens[~self.require_split()]

    @property
    def test_labels(self) -> Int[Tensor, " m"]:
        """`[m]`, the labels of the test inputs.

        Raises:
            ConfigError: there is no split.
        """
        return self.labels[~self.require_split()]

    @property
    def commutes(self) -> bool:
        """Whether (a, b) and (b, a) always have the same label, so that a symmetric model answers both alike."""
        return self.config.operation in COMMUTATIVE and not self.config.random_labels

    @cached_property
    def test_mask(self) -> Bool[Tensor, " n"] | None:
        """`[n]`, True for the test inputs; None without a split (see `why_no_split`)."""
        return None if self.train_mask is None else ~self.train_mask

    @property
    def why_no_mirror(self) -> str:
        """Why the task has no mirrored pairs, for messages."""
        if self.config.operation == "parity":
            return f"{self.config.title} is not an operation on pairs: no input has a mirror"
        subject = "a random label" if self.config.random_labels else self.config.operation
        return f"{subject} does not commute: no pair has a mirror of the same label"

    @cached_property
    def mirror_mask(self) -> Bool[Tensor, " n"] | None:
        """`[n]`, True for test pairs whose mirror (b, a) is trained on; None if the operation does not commute."""
        if self.test_mask is None or self.novel_mask is None or not self.commutes:
            return None
        return self.test_mask & ~self.novel_mask

    @cached_property
    def novel_mask(self) -> Bool[Tensor, " n"] | None:
        """`[n]`, True for test pairs (a, b) whose mirror (b, a) is not trained on either; None without split or pairs.

        A mirror can leak even if the operation does not commute: after training on b - a, a model may give its answer
        for a - b.
        """
        if self.train_mask is None or self.test_mask is None or self.mirror is None:
            return None
        return self.test_mask & ~(self.train_mask[self.mirror] & (self.mirror >= 0))

    @cached_property
    def mirror(self) -> Int[Tensor, " n"] | None:
        """`[n]`, the position of (b, a) for each input (a, b), -1 if it is not an input; None unless inputs are pairs.

        For division, (b, 0) is not an input.
        """
        if self.operands != 2 or self.config.operation == "parity":
            return None
        return _positions(self.inputs, self.p)[self.inputs[:, 1], self.inputs[:, 0]]

    @cached_property
    def held_out_mask(self) -> Bool[Tensor, " n"] | None:
        """`[n]`, True for what cross-fitting uses: novel pairs, or all test inputs without commutativity."""
        return self.novel_mask if self.commutes else self.test_mask

    def require_split(self) -> Bool[Tensor, " n"]:
        """Returns `train_mask`, never None.

        Raises:
            ConfigError: there is no split.
        """
        if self.train_mask is None:
            hint = "" if self.config.split == "all" else ": give a split and a train_fraction, or train_indices"
            raise ConfigError(f"{self.why_no_split}{hint}")
        return self.train_mask

    @property
    def why_no_split(self) -> str:
        """Why there is no training set and test set to compare, for messages."""
        if self.config.split == "all":
            return "every input was trained on, so there is no test set"
        return "the train/test split is unknown"

    @cached_property
    def group(self) -> CyclicGroup | None:
        """The cyclic group of the operation; None for polynomials, products with composite p, S5 and parity."""
        return cyclic_group(self.config)

    def require_group(self) -> CyclicGroup:
        """Returns `group`, never None.

        Raises:
            ConfigError: the operation has no cyclic group.
        """
        if self.group is None:
            raise ConfigError(self.why_no_group)
        return self.group

    @property
    def why_no_group(self) -> str:
        """Why the operation has no cyclic group, for messages."""
        return why_no_group(self.config)

    @property
    def elements(self) -> Int[Tensor, "p 5"] | None:
        """`[p, 5]`, the permutations that the operands and classes of an S5 task stand for; None for other tasks."""
        return s5_elements() if self.config.operation in S5_OPERATIONS else None

    def _card(self) -> Card:
        n, width = self.tokens.shape
        facts = {"inputs": f"{n:,}, each of {self.operands} operands", "classes": f"{self.n_classes:,}"}
        if self.train_mask is None:
            facts["split"] = self.why_no_split
        else:
            n_train = int(self.train_mask.sum())
            facts["split"] = f"{n_train:,} training and {n - n_train:,} test inputs"
            if self.commutes and self.novel_mask is not None:
                facts["split"] += (
                    f"; {int(self.novel_mask.sum()):,} of these are novel (the mirror is a test input, too)"
                )
        end = f"the operands and = (token {self.p})" if self.equals_token else "the operands"
        facts["tokens"] = f"[{n}, {width}]: {end}"
        calls = ["task.tokens", "task.labels", "task.train_tokens", "task.train_labels"]
        return Card(f"Task {self.config.title}", facts, calls)

    @cached_property
    def grid_indices(self) -> Int[Tensor, "g g"] | None:
        """`[g, g]`, the position of (left[i], right[j]) in `inputs`; None without a group."""
        if self.group is None:
            return None
        return _positions(self.inputs, self.p)[self.group.left[:, None], self.group.right[None, :]]

    @cached_property
    def sum_class(self) -> Int[Tensor, " n"] | None:
        """`[n]`, (i + j) mod g of each input (left[i], right[j]), -1 outside the grid; None without a group."""
        if self.group is None or self.grid_indices is None:
            return None
        steps = torch.arange(self.group.order)
        sums = torch.full((len(self.inputs),), -1)
        sums[self.grid_indices.flatten()] = ((steps[:, None] + steps[None, :]) % self.group.order).flatten()
        return sums

    def sum_classes(self, subset: str) -> SumClasses:
        """The inputs of a subset that lie in the grid of the group, sorted by sum class; computed once per subset.

        Args:
            subset: `all`, `train`, `test`, `mirror` or `novel`; all but `all` need a known split.

        Raises:
            ConfigError: the operation has no cyclic group.
        """
        if subset not in self._by_sum_class:
            sums = self.sum_class
            if sums is None:
                raise ConfigError(self.why_no_group)
            mask = sums >= 0 if subset == "all" else (sums >= 0) & getattr(self, f"{subset}_mask")
            self._by_sum_class[subset] = sort_by_sum(sums, self.labels, mask)
        return self._by_sum_class[subset]

    @cached_property
    def _by_sum_class(self) -> dict[str, SumClasses]:
        return {}


def _positions(inputs: Tensor, p: int) -> Tensor:
    """[p, p]: the position of the pair (a, b) in `inputs`; -1 for a pair that is not an input."""
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
