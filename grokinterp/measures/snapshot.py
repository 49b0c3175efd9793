"""Snapshot: one checkpoint evaluated on every input, with the intermediate results that several measures share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError, MissingNeedError, as_integer, nearest
from grokinterp.measures.checks import Array, checked_logits, require_task, require_weights, warn_if_not_logits
from grokinterp.measures.fourier import class_sums
from grokinterp.measures.own_model import Activations, Activity, Embedded, Names, Parts, PreActivity, read_model
from grokinterp.measures.pairs import PairGrid
from grokinterp.measures.scores import cross_entropy_by_input, hit_by_input, margin_by_input
from grokinterp.measures.undefined import Undefined as Undefined
from grokinterp.tasks import Task

Subset = Literal["all", "train", "test", "mirror", "novel"]
PairSet = Literal["all", "train", "held_out"]
_Value = TypeVar("_Value")
_REMEDIES = {
    "weights": ": Snapshot.from_model and Recorder.record take weights=",
    "neurons": ": Snapshot.from_model and Recorder take unembedding= and neurons=",
    "embedded": ", which only models of a known architecture have",
    "pre_activations": ", which only models of a known architecture have that is read at one position",
}


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot(Carded):
    """One checkpoint of a model, evaluated on every input of its task; every measure takes one.

    Make one with `from_logits` or `from_model` for your own model, or with `run.snapshot(step)` for a saved run.

    >>> snapshot = Snapshot.from_logits(Task.modular_addition(p=5), torch.zeros(5, 5, 5))
    >>> snapshot.logits.shape, snapshot.losses.mean().exp().round()
    (torch.Size([25, 5]), tensor(5., dtype=torch.float64))

    Attributes:
        task: the task, with inputs, labels and the train/test split.
        logits: `[n, c]`, float64, one row for each input in `task.inputs`, without the column of the `=` token.
        step: number of optimizer updates made; None if unknown.
        weights: parameters by name; None if not available.
        trained: names of the parameters that training changes; None means all.
        forward: differentiable function from weights to logits `[n, >=c]`; None if not available.
        activity: function that returns the `Activity` of the model, called once on first use; None if not available.
        pre_activity: function that returns the `PreActivity` of the model; None if not available.
        embedded: the model as a function of the embeddings of a and b; None if not available.
        checksum: SHA-256 of the files that the snapshot was read from; empty if it was not read from a run.
        embedding: the table with a row for each number, or one for each operand, where it was named; None otherwise.
    """

    task: Task
    logits: Float[Tensor, "n c"]
    step: int | None = None
    weights: Mapping[str, Tensor] | None = None
    trained: tuple[str, ...] | None = None
    forward: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    activity: Callable[[], Activity] | None = None
    pre_activity: Callable[[], PreActivity] | None = None
    embedded: Embedded | None = None
    checksum: str = ""
    embedding: tuple[Tensor, ...] | None = None
    _memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def from_logits(
        task: Task,
        logits: Shaped[Tensor, "*shape"] | Array,
        *,
        weights: Mapping[str, Tensor] | None = None,
        step: int | None = None,
    ) -> "Snapshot":
        """Makes a snapshot of any model from its logits, a tensor or a NumPy array.

        >>> task = Task.modular_addition(p=5)
        >>> Snapshot.from_logits(task, torch.zeros(5, 5, 5)).logits.shape
        torch.Size([25, 5])

        Args:
            task: the task.
            logits: `[n, >=c]`, rows in the order of `task.inputs`; or `[p, p, >=c]` if every pair is an input. Only
                the first c columns count, so the column of `=` is dropped. Warns of what looks like something else.
            weights: parameters by name, for the measures that need weights.
            step: number of optimizer updates made.

        Returns:
            The snapshot, on the CPU and in float64.

        Raises:
            ConfigError: the logits have another shape or are not floating point, or the weights are no dict of tensors.
        """
        step = None if step is None else as_integer(step, "step")
        # The task's labels and masks are on the CPU, and not every device supports float64.
        flat = checked_logits(task, logits, "logits").detach().cpu().double()
        warn_if_not_logits(task, flat)
        return Snapshot(task, flat, step=step, weights=_on_cpu(weights))

    @staticmethod
    def from_model(
        task: Task,
        model: Callable[[Tensor], Tensor],
        *,
        weights: Mapping[str, Tensor] | None = None,
        forward: Callable[[Mapping[str, Tensor]], Tensor] | None = None,
        step: int | None = None,
        embedding: Names | None = None,
        neurons: str | None = None,
        unembedding: Names | None = None,
    ) -> "Snapshot":
        """Makes a snapshot of any model by calling it on all inputs, without gradients.

        >>> task = Task.modular_addition(p=5, equals_token=False)  # the model reads a and b, but no `=`
        >>> model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Flatten(), torch.nn.Linear(6, 5))
        >>> snapshot = Snapshot.from_model(task, model, embedding="0", unembedding="2")
        >>> sorted(snapshot.weights), snapshot.neurons.shape
        (['0.weight', '2.bias', '2.weight'], torch.Size([25, 6]))

        Args:
            task: the task. Its tokens end in `=` (token p) unless it was made with `equals_token=False`.
            model: takes `task.tokens` `[n, t]` and returns logits `[n, >=c]` or `[n, position, >=c]`, of which only
                the last position and the first c columns count. A module is put into evaluation mode for the call.
            weights: parameters by name, for the measures that need weights; by default those of a module.
            forward: differentiable function from weights to logits, for the measures that need gradients.
            step: number of optimizer updates made.
            embedding: name of the parameter or module with a row for each number (or two names, for a and b).
            neurons: name of the module that returns the activations of the last hidden layer, after the activation
                function; by default what the module named by `unembedding` is called with.
            unembedding: name of the parameter or module that maps the neurons to the logits; several if it takes
                several matrices, in this order.

        Returns:
            The snapshot, on the CPU and in float64.

        Raises:
            ConfigError: the model fails on the tokens, the logits have another shape or are not floating point, the
                model has no part of a given name, or the weights are no dict of tensors.
        """
        require_task(task)
        reading = read_model(task, model, weights, Parts(embedding, neurons, unembedding))
        snapshot = Snapshot.from_logits(task, reading.logits, weights=reading.weights, step=step)
        activity = reading.activity
        return replace(
            snapshot,
            trained=reading.trained,
            forward=forward,
            activity=None if activity is None else lambda: activity,
            embedding=reading.embedding,
        )

    @staticmethod
    def from_activations(
        task: Task,
        activations: Callable[[Mapping[str, Tensor], Tensor], Activations],
        weights: Mapping[str, Tensor],
        *,
        step: int | None = None,
        trained: tuple[str, ...] | None = None,
    ) -> "Snapshot":
        """Makes a snapshot of a model that also exposes its neurons and attention.

        Args:
            task: the task.
            activations: function of the weights and `task.tokens` that returns an object with `logits` `[n, >=c]`,
                `neurons`, `neuron_logit_map` and `attention` (shapes as in `Activity`); differentiable in the weights.
            weights: parameters by name.
            step: number of optimizer updates made.
            trained: names of the parameters that training changes; None means all.

        Returns:
            The snapshot, with `forward` and `activity` set.

        Raises:
            ConfigError: the logits have another shape or are not floating point.
        """
        with torch.no_grad():
            output = activations(weights, task.tokens)
        return Snapshot(
            task,
            checked_logits(task, output.logits, "the logits of the activations").double(),
            step=step,
            weights=weights,
            trained=trained,
            forward=lambda parameters: activations(parameters, task.tokens).logits,
            activity=lambda: Activity.of(output),
        )

    @cached_property
    def activations(self) -> Activity:
        """The neurons, their map to the logits and the attention, computed once.

        Raises:
            MissingNeedError: the snapshot was made without them.
        """
        if self.activity is None:
            raise MissingNeedError("the activations", "neurons", self.lacks("neurons") or "")
        return self.activity()

    @cached_property
    def pre_activations(self) -> PreActivity | None:
        """What the last layer's activation function is applied to; None if not available."""
        return None if self.pre_activity is None else self.pre_activity()

    @property
    def neurons(self) -> Float[Tensor, "n m"] | None:
        """`[n, m]`, activations of the last layer's neurons; None if not available."""
        return None if self.activity is None else self.activations.neurons

    @property
    def neuron_logit_map(self) -> Float[Tensor, "m c"] | None:
        """`[m, c]`, how much one unit of each neuron adds to each logit; None if unknown or not linear."""
        readout = None if self.activity is None else self.activations.neuron_logit_map
        return None if readout is None else readout[:, : self.task.n_classes]

    @property
    def why_no_map(self) -> str:
        """The reason if there is no `neuron_logit_map`."""
        return self.lacks("neurons") or self.activations.why_no_map

    @property
    def attention(self) -> Float[Tensor, "n h t"] | None:
        """`[n, h, t]`, attention patterns of the last layer from the last position; None if not available."""
        return None if self.activity is None else self.activations.attention

    @cached_property
    def grid(self) -> Float[Tensor, "g g c"] | None:
        """`[g, g, c]`, the logits of (left[i], right[j]) in the order of the task's group; None without a group."""
        return None if self.task.group is None else self.logits[self.pair_grid.indices]

    @cached_property
    def pair_grid(self) -> PairGrid:
        """The grid of pairs of the task's group, which the Fourier measures work on.

        Raises:
            MissingNeedError: the task has no cyclic group.
        """
        group, indices, sums = self.task.group, self.task.grid_indices, self.task.sum_class
        if group is None or indices is None or sums is None:
            raise MissingNeedError("the grid of pairs", "grid", self.task.why_no_group)
        return PairGrid(group, indices, sums)

    @property
    def centred(self) -> Float[Tensor, "n c"]:
        """`[n, c]`, the logits minus their mean over classes, which softmax ignores."""
        return self.logits - self.logits.mean(dim=1, keepdim=True)

    @cached_property
    def losses(self) -> Float[Tensor, " n"]:
        """`[n]`, cross entropy of each input in nats."""
        return cross_entropy_by_input(self.logits, self.task.labels)

    @cached_property
    def hits(self) -> Float[Tensor, " n"]:
        """`[n]`, 1 for each input that the model answers correctly, else 0."""
        return hit_by_input(self.logits, self.task.labels)

    @cached_property
    def margins(self) -> Float[Tensor, " n"]:
        """`[n]`, the correct logit of each input minus the mean of its other logits."""
        return margin_by_input(self.logits, self.task.labels)

    @cached_property
    def finite(self) -> bool:
        """Whether every logit is a finite number."""
        return bool(torch.isfinite(self.logits.sum()) or torch.isfinite(self.logits).all())

    @property
    def logit_averages(self) -> Float[Tensor, "g c"]:
        """`[g, c]`, the mean logits of each sum class, in the order of the task's group.

        Raises:
            MissingNeedError: the task has no cyclic group.
        """
        sums, counts = self.class_sums("all")
        return sums / counts[:, None]

    def class_sums(self, pairs: PairSet) -> tuple[Float[Tensor, "g c"], Float[Tensor, " g"]]:
        """The sum of the logits over the pairs of each sum class, and the number of those pairs.

        Args:
            pairs: `all` pairs of the grid, the `train` pairs, or the `held_out` pairs (see `Task.held_out_mask`).

        Returns:
            `[g, c]` sums and `[g]` counts.

        Raises:
            MissingNeedError: the task has no cyclic group.
        """
        return self.remember(("class_sums", pairs), lambda: self._class_sums(pairs))

    def _class_sums(self, pairs: PairSet) -> tuple[Tensor, Tensor]:
        mask, order = self.grid_mask(pairs), self.pair_grid.order
        sums = self.pair_grid.sums[mask]
        return class_sums(rows_of(self.logits, mask), sums, order), torch.bincount(sums, minlength=order).double()

    def grid_mask(self, pairs: PairSet) -> Bool[Tensor, " n"]:
        """`[n]`, True for the `all`, `train` or `held_out` pairs that lie in the grid of the task's group."""
        mask = {"all": None, "train": self.task.train_mask, "held_out": self.task.held_out_mask}[pairs]
        in_grid = self.pair_grid.sums >= 0
        return in_grid if mask is None else mask & in_grid

    def remember(self, key: Any, compute: Callable[[], _Value]) -> _Value:
        """Returns `compute()`, calling it only the first time for each key, so that measures share costly results."""
        if key not in self._memory:
            self._memory[key] = compute()
        return self._memory[key]

    def mask(self, subset: Subset) -> Bool[Tensor, " n"]:
        """`[n]`, True for the inputs in a subset.

        >>> task = Task.modular_addition(p=5, train_fraction=0.4)
        >>> int(Snapshot.from_logits(task, torch.zeros(25, 5)).mask("test").sum())
        15

        Args:
            subset: `all`, `train`, `test`, the test pairs (a, b) whose mirror (b, a) is not in the training set
                (`novel`), or, for a commutative operation, those whose mirror is (`mirror`).

        Raises:
            MissingNeedError: the split is unknown, the operation does not commute (`mirror`), or it is not an operation
                on pairs (`novel`).
            ConfigError: no such subset.
        """
        if subset == "all":
            return torch.ones(len(self.logits), dtype=torch.bool)
        if subset not in get_args(Subset):
            raise ConfigError(f"subset {subset!r}: {nearest(subset, get_args(Subset))}")
        self.require(f"the subset {subset!r}", "split")
        mask = getattr(self.task, f"{subset}_mask")
        if mask is None:
            raise MissingNeedError(f"the subset {subset!r}", "split", self.task.why_no_mirror)
        return mask

    def _card(self) -> Card:
        n, c = self.logits.shape
        facts = {"logits": f"{n:,} inputs, {c:,} classes", "accuracy": f"{self.hits.mean().item():.4f} on all inputs"}
        if self.task.train_mask is not None:
            train, test = (self.hits[self.mask(subset)].mean().item() for subset in ("train", "test"))
            facts["accuracy"] = f"{train:.4f} on training inputs, {test:.4f} on test inputs"
        facts["loss"] = f"{self.losses.mean().item():.4g} nats on all inputs"
        available = {"weights": self.weights, "neurons": self.activity, "gradients": self.forward}
        facts["has"] = ", ".join(["logits", *(name for name, part in available.items() if part is not None)])
        at = "" if self.step is None else f" at step {self.step:,}"
        calls = ["key_frequencies(snapshot)", "restricted_loss(snapshot, keys)"]
        return Card(f"Snapshot of {self.task.config.title}{at}", facts, calls)

    def lacks(self, need: str) -> str | None:
        """The reason why this snapshot cannot serve a need (one of `NEEDS`); None if it can."""
        if need == "split" and self.task.train_mask is None:
            return self.task.why_no_split
        if need == "grid" and self.task.group is None:
            return self.task.why_no_group
        if need == "gradients" and self.forward is None:
            return "the snapshot was made without a differentiable forward"
        if need in ("weights", "neurons", "attention", "pre_activations", "embedded") and getattr(self, need) is None:
            return f"the snapshot was made without {need}{_REMEDIES.get(need, '')}"
        return "a snapshot holds one step and has no history" if need == "history" else None

    def require(self, measure: str, *needs: str) -> None:
        """Checks that this snapshot serves every need of a measure.

        Raises:
            MissingNeedError: it does not; the error names the measure, the need and the reason.
        """
        for need in needs:
            reason = self.lacks(need)
            if reason is not None:
                raise MissingNeedError(measure, need, reason)


def rows_of(values: Shaped[Tensor, "n x"], mask: Bool[Tensor, " n"]) -> Shaped[Tensor, "rows x"]:
    """The rows of a table where a mask is True; the table itself, without a copy, if it is True everywhere."""
    return values if bool(mask.all()) else values[mask]


def _on_cpu(weights: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    require_weights(weights)
    return None if weights is None else {name: w.detach().cpu() for name, w in weights.items()}
