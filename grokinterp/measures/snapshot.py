"""Snapshot: one checkpoint of anyone's model, evaluated on every input, and what several measures read from it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError, nearest
from grokinterp.measures.fourier import class_sums
from grokinterp.measures.scores import cross_entropy_by_input, hit_by_input, margin_by_input
from grokinterp.tasks import Task

Subset = Literal["all", "train", "test", "mirror", "novel"]
_Value = TypeVar("_Value")


class Undefined(float):
    """A NaN that says why: what a measure returns where its definition gives no number.

    >>> value = Undefined("no key frequencies")
    >>> math.isnan(value), value.reason
    (True, 'no key frequencies')
    """

    reason: str

    def __new__(cls, reason: str) -> "Undefined":
        value = super().__new__(cls, math.nan)
        value.reason = reason
        return value


@dataclass(frozen=True)
class Activity:
    """What a model computed on the way to its logits.

    Attributes:
        neurons: `[n, m]`, the last layer's activations.
        neuron_logit_map: `[m, c]`, what a unit of each adds to the logits; None where the way there is not linear.
        attention: `[n, h, t]`, from the last position, of the last layer; None where there is none.
    """

    neurons: Float[Tensor, "n m"]
    neuron_logit_map: Float[Tensor, "m c"] | None = None
    attention: Float[Tensor, "n h t"] | None = None


class _Activations(Protocol):
    @property
    def logits(self) -> Tensor: ...
    @property
    def neurons(self) -> Tensor: ...
    @property
    def neuron_logit_map(self) -> Tensor | None: ...
    @property
    def attention(self) -> Tensor | None: ...


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One checkpoint, evaluated on every input of its task. Made by `from_logits`, `from_model` or `run.snapshot`.

    Attributes:
        task: what the logits are answers to.
        logits: `[n, c]`, float64, one row an input of `task.inputs`, the class of `=` dropped.
        step: number of updates made; None where unknown.
        weights: named parameters, or None.
        trained: names of the parameters that were trained; None: all of them.
        forward: differentiable map from weights to logits `[n, >=c]`, or None.
        activity: gives the neurons, what they add to the logits, and the attention, when first asked; or None.
        checksum: SHA-256 of the files that it was read from; empty where it comes from elsewhere.
    """

    task: Task
    logits: Float[Tensor, "n c"]
    step: int | None = None
    weights: Mapping[str, Tensor] | None = None
    trained: tuple[str, ...] | None = None
    forward: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    activity: Callable[[], Activity] | None = None
    checksum: str = ""
    _memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def from_logits(
        task: Task,
        logits: Shaped[Tensor, "*shape"],
        *,
        weights: Mapping[str, Tensor] | None = None,
        step: int | None = None,
    ) -> "Snapshot":
        """Anyone's model, by its answers.

        >>> task = Task.modular_addition(p=5)
        >>> Snapshot.from_logits(task, torch.zeros(5, 5, 5)).logits.shape
        torch.Size([25, 5])

        Args:
            task: the task.
            logits: `[n, >=c]` in the order of `task.inputs`, or `[p, p, >=c]` where every pair is an input; columns
                after the first c (`=`) are dropped.
            weights: named parameters, for the measures of weights.
            step: number of updates made.

        Raises:
            ConfigError: another shape, or not floating point.
        """
        n, c = len(task.inputs), task.n_classes
        given = tuple(logits.shape)
        flat = logits.flatten(0, 1) if logits.ndim == 3 and given[:2] == (task.p, task.p) else logits
        if flat.ndim != 2 or len(flat) != n or flat.shape[1] < c or not logits.is_floating_point():
            raise ConfigError(
                f"logits of {task.config.title} must be floating point, of shape [{n}, {c}]"
                f"{f' or [{task.p}, {task.p}, {c}]' if n == task.p**2 else ''} (more classes are dropped), "
                f"but are {logits.dtype} of shape {list(given)}"
            )
        # On the CPU, where the task's labels and masks are; analysis is in float64, which not every device has.
        return Snapshot(task, flat[:, :c].detach().cpu().double(), step=step, weights=_on_cpu(weights))

    @staticmethod
    def from_model(
        task: Task,
        model: Callable[[Tensor], Tensor],
        *,
        weights: Mapping[str, Tensor] | None = None,
        forward: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
        step: int | None = None,
    ) -> "Snapshot":
        """Anyone's model, by a call.

        Args:
            task: the task.
            model: gets `task.tokens` `[n, t]`, returns `[n, >=c]` or `[n, position, >=c]`, of which the last position
                counts.
            weights: named parameters, for the measures of weights.
            forward: differentiable map from weights to logits, for the measures of gradients.
            step: number of updates made.
        """
        with torch.no_grad():
            logits = model(task.tokens)
        if logits.ndim == 3:
            logits = logits[:, -1]
        snapshot = Snapshot.from_logits(task, logits, weights=weights, step=step)
        return Snapshot(task, snapshot.logits, step=step, weights=snapshot.weights, forward=forward)

    @staticmethod
    def from_activations(
        task: Task,
        activations: Callable[[Mapping[str, Tensor], Tensor], _Activations],
        weights: Mapping[str, Tensor],
        *,
        step: int | None = None,
        trained: tuple[str, ...] | None = None,
    ) -> "Snapshot":
        """A model given by its weights and by what computes its activations from weights and tokens."""
        with torch.no_grad():
            seen = activations(weights, task.tokens)
        return Snapshot(
            task,
            seen.logits[:, : task.n_classes].double(),
            step=step,
            weights=weights,
            trained=trained,
            forward=lambda changed: activations(changed, task.tokens).logits,
            activity=lambda: Activity(seen.neurons, seen.neuron_logit_map, seen.attention),
        )

    @cached_property
    def _seen(self) -> Activity | None:
        return None if self.activity is None else self.activity()

    @property
    def neurons(self) -> Float[Tensor, "n m"] | None:
        """The last layer's activations, or None where they are not known."""
        return None if self._seen is None else self._seen.neurons

    @property
    def neuron_logit_map(self) -> Float[Tensor, "m c"] | None:
        """What a unit of each neuron adds to the logits; None where unknown, or where the way there is not linear."""
        readout = None if self._seen is None else self._seen.neuron_logit_map
        return None if readout is None else readout[:, : self.task.n_classes]

    @property
    def attention(self) -> Float[Tensor, "n h t"] | None:
        """The attention from the last position, of the last layer, or None."""
        return None if self._seen is None else self._seen.attention

    @cached_property
    def grid(self) -> Float[Tensor, "g g c"] | None:
        """The logits of (left[i], right[j]) at [i, j], in the order of the task's group; None without a group."""
        where = self.task.grid_indices
        return None if where is None else self.logits[where]

    @property
    def centred(self) -> Float[Tensor, "n c"]:
        """The logits minus their mean over classes, which softmax does not see."""
        return self.logits - self.logits.mean(dim=1, keepdim=True)

    @cached_property
    def losses(self) -> Float[Tensor, " n"]:
        """Cross entropy of each input, in nats."""
        return cross_entropy_by_input(self.logits, self.task.labels)

    @cached_property
    def hits(self) -> Float[Tensor, " n"]:
        """1 for each input that is answered right, else 0."""
        return hit_by_input(self.logits, self.task.labels)

    @cached_property
    def margins(self) -> Float[Tensor, " n"]:
        """The correct logit of each input minus the mean of its others."""
        return margin_by_input(self.logits, self.task.labels)

    @cached_property
    def finite(self) -> bool:
        """Whether every logit is a finite number."""
        return bool(torch.isfinite(self.logits.sum()) or torch.isfinite(self.logits).all())

    @property
    def logit_averages(self) -> Float[Tensor, "g c"]:
        """The mean logits of each sum class a + b, in the order of the task's group; needs the grid."""
        sums, counts = self.class_sums("all")
        return sums / counts[:, None]

    def class_sums(
        self, pairs: Literal["all", "train", "held_out"]
    ) -> tuple[Float[Tensor, "g c"], Float[Tensor, " g"]]:
        """The sum of the logits over the pairs of each sum class a + b, and how many there are; needs the grid.

        Args:
            pairs: which pairs of the grid are counted; `held_out` as in `Task.held_out_mask`.
        """
        return self.remember(("class_sums", pairs), lambda: self._class_sums(pairs))

    def _class_sums(self, pairs: str) -> tuple[Tensor, Tensor]:
        inside = self.inside(pairs)
        sums, group = self.task.sum_class, self.task.group
        assert sums is not None
        assert group is not None
        chosen = sums[inside]
        logits = self.logits if bool(inside.all()) else self.logits[inside]
        return class_sums(logits, chosen, group.order), torch.bincount(chosen, minlength=group.order).double()

    def inside(self, pairs: str) -> Bool[Tensor, " n"]:
        """The pairs of a kind that lie in the grid of the task's group, which products with zero do not."""
        sums = self.task.sum_class
        assert sums is not None
        mask = {"all": None, "train": self.task.train_mask, "held_out": self.task.held_out_mask}[pairs]
        return sums >= 0 if mask is None else mask & (sums >= 0)

    def remember(self, key: Any, compute: Callable[[], _Value]) -> _Value:
        """What `compute` gave when this was first called with `key`: measures share what is dear."""
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]

    def mask(self, subset: Subset) -> Bool[Tensor, " n"]:
        """Which inputs a subset holds.

        Raises:
            MissingNeedError: the split is unknown, or the operation does not commute (mirror, novel).
            ConfigError: there is no such subset.
        """
        if subset == "all":
            return torch.ones(len(self.logits), dtype=torch.bool)
        if subset not in ("train", "test", "mirror", "novel"):
            raise ConfigError(f"subset {subset!r}: {nearest(subset, ('all', 'train', 'test', 'mirror', 'novel'))}")
        if self.task.train_mask is None:
            raise MissingNeedError(f"the subset {subset!r}", "split", "which inputs were trained on is not known")
        mask = getattr(self.task, f"{subset}_mask")
        if mask is None:
            raise MissingNeedError(f"the subset {subset!r}", "split", self.task.why_no_mirror)
        return mask

    def lacks(self, need: str) -> str | None:
        """Why this snapshot cannot serve a need; None where it can."""
        if need == "split" and self.task.train_mask is None:
            return "which inputs were trained on is not known"
        if need == "grid" and self.task.group is None:
            return self.task.why_no_group
        if need == "gradients" and self.forward is None:
            return "the snapshot was made without a differentiable forward"
        if need in ("weights", "neurons", "attention") and getattr(self, need) is None:
            return f"the snapshot was made without {need}"
        return "a snapshot is of one step, and holds no history" if need == "history" else None


def _on_cpu(weights: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if weights is None else {name: w.detach().cpu() for name, w in weights.items()}
