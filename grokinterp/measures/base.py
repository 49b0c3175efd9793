"""What every measure is made of: Snapshot, KeyFrequencies, Reference, and the register of measures by name."""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, SupportsIndex, TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from grokinterp.errors import ConfigError, MissingNeedError, nearest
from grokinterp.fourier import n_frequencies, sum_class_averages
from grokinterp.tasks import Task

NO_READOUT = "the way from the neurons to the logits is not linear here"

NEEDS = ("logits", "grid", "weights", "gradients", "neurons", "attention", "split", "reference", "history")

Subset = Literal["all", "train", "test", "mirror", "novel"]
Rule = Literal["cube_cosine", "neuron_clusters", "embedding_norm", "unembedding_power", "given"]


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
        neurons: `[n, m]`, the last layer's activations, or None.
        neuron_logit_map: `[m, c]`, what a unit of each adds to the logits, or None.
        attention: `[n, h, t]`, from the last position, or None.
    """

    task: Task
    logits: Float[Tensor, "n c"]
    step: int | None = None
    weights: Mapping[str, Tensor] | None = None
    trained: tuple[str, ...] | None = None
    forward: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    neurons: Float[Tensor, "n m"] | None = None
    neuron_logit_map: Float[Tensor, "m c"] | None = None
    attention: Float[Tensor, "n h t"] | None = None

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
                f"logits of {task.config.operation} mod {task.p} must be floating point, of shape [{n}, {c}]"
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
        c = task.n_classes
        with torch.no_grad():
            seen = activations(weights, task.tokens)
        readout = seen.neuron_logit_map
        return Snapshot(
            task,
            seen.logits[:, :c].double(),
            step=step,
            weights=weights,
            trained=trained,
            forward=lambda changed: activations(changed, task.tokens).logits,
            neurons=seen.neurons,
            neuron_logit_map=None if readout is None else readout[:, :c],
            attention=seen.attention,
        )

    @cached_property
    def grid(self) -> Float[Tensor, "g g c"] | None:
        """The logits of (left[i], right[j]) at [i, j], in the order of the task's group; None without a group."""
        where = self.task.grid_indices
        return None if where is None else self.logits[where]

    @cached_property
    def logit_averages(self) -> Float[Tensor, "g c"]:
        """The mean logits of each sum class a + b, in the order of the task's group; needs the grid."""
        assert self.grid is not None
        return sum_class_averages(self.grid)

    @cached_property
    def neuron_averages(self) -> Float[Tensor, "g m"]:
        """The mean activations of each sum class a + b; needs the grid and neurons."""
        where = self.task.grid_indices
        assert where is not None
        assert self.neurons is not None
        return sum_class_averages(self.neurons.double()[where])

    @property
    def centred(self) -> Float[Tensor, "n c"]:
        """The logits minus their mean over classes, which softmax does not see."""
        return self.logits - self.logits.mean(dim=1, keepdim=True)

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


@dataclass(frozen=True)
class KeyFrequencies:
    """The frequencies that carry the generalizing circuit, and how they were found.

    Attributes:
        values: the frequencies k, ascending; w_k = 2 pi k / p.
        rule: name of the rule, or `given`.
        threshold: what a frequency's strength had to exceed.
        step: checkpoint they were found at.
        harmonics: (2k, k) for each key that is a weaker double of another key.
        reason: why there are none, where there are none.
    """

    values: tuple[int, ...]
    rule: Rule = "given"
    threshold: float | None = None
    step: int | None = None
    harmonics: tuple[tuple[int, int], ...] = ()
    reason: str = ""


Frequencies = KeyFrequencies | Sequence[SupportsIndex] | SupportsIndex


def as_frequencies(frequencies: Frequencies, order: int) -> tuple[int, ...]:
    """Plain, distinct, ascending frequencies in 1 .. floor(order / 2).

    Raises:
        ConfigError: a frequency outside of that range.
    """
    if isinstance(frequencies, KeyFrequencies):
        frequencies = frequencies.values
    given = (frequencies,) if isinstance(frequencies, SupportsIndex) else frequencies
    values = tuple(sorted({int(k) for k in given}))
    wrong = [k for k in values if not 1 <= k <= n_frequencies(order)]
    if wrong:
        raise ConfigError(f"frequencies of Z_{order} lie in 1 .. {n_frequencies(order)}; given: {wrong}")
    return values


@dataclass(frozen=True)
class Reference:
    """What measures need from another step than their own.

    Attributes:
        frequencies: the key frequencies measures use: those of the last checkpoint, or of the one asked for.
        generalizes: whether accuracy on the evaluation pairs was at least 0.9 there; None where unknown.
        union: keys at any checkpoint from T_grok(0.95) on, those of the reference included.
        lost: keys at T_grok(0.95) that are keys no longer at the reference.
        by_rule: what each rule says at the reference step.
    """

    frequencies: KeyFrequencies
    generalizes: bool | None = None
    union: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    by_rule: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One column that a measure gives: of the timeline, or of the table over frequencies.

    Attributes:
        name: of the column.
        definition: what the number means, for the report.
        options: what the measure is called with for it.
        per_frequency: whether it is a tensor over frequencies, for the table by step and k.
    """

    name: str
    definition: str
    options: Mapping[str, Any] = field(default_factory=dict)
    per_frequency: bool = False


@dataclass(frozen=True)
class Measure:
    """A registered measure: `function(snapshot[, frequencies], **options)` to a number, a dataclass of numbers, a
    dict of numbers, or a tensor over frequencies."""

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    version: int
    columns: tuple[Column, ...]

    @property
    def uses_reference(self) -> bool:
        return "reference" in self.needs


_REGISTER: dict[str, Measure] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def measure(
    name: str, *, needs: Sequence[str] = ("logits",), version: int = 1, columns: Sequence[Column] = ()
) -> Callable[[_Function], _Function]:
    """Registers a function as a measure, so that `analyze` finds it by name and checks what it needs.

    >>> @measure("largest_logit", needs=("logits",))
    ... def largest_logit(snapshot: Snapshot) -> float:
    ...     '''The largest logit of all.'''
    ...     return snapshot.logits.max().item()

    Args:
        name: unique name; also the column's, unless `columns` says more.
        needs: from NEEDS; with `reference` the function gets the key frequencies as its second argument.
        version: to be raised with each change of the definition, so that no stored value outlives it.
        columns: the columns it gives, where it is not the one called `name`.

    Raises:
        ConfigError: an unknown need, or the name of one of grokinterp's own measures.
    """
    unknown = set(needs) - set(NEEDS)
    if unknown:
        raise ConfigError(f"measure {name!r}: unknown needs {sorted(unknown)}; known: {', '.join(NEEDS)}")

    def register(function: _Function) -> _Function:
        @functools.wraps(function)
        def checked(snapshot: Snapshot, *args: Any, **options: Any) -> Any:
            for need in needs:
                reason = snapshot.lacks(need)
                if reason is not None:
                    raise MissingNeedError(name, need, reason)
            return function(snapshot, *args, **options)

        taken = _REGISTER.get(name)
        own = taken is not None and inspect.unwrap(taken.function).__module__.startswith("grokinterp.")
        if own or name == "key_frequencies" or name.endswith("_union"):
            raise ConfigError(f"the name {name!r} is a measure of grokinterp's own: choose another")
        summary = (inspect.getdoc(function) or name).split("\n\n")[0].replace("\n", " ")
        given = tuple(columns) or (Column(name, summary),)
        _REGISTER[name] = Measure(name, checked, tuple(needs), version, given)
        return checked  # pyright: ignore[reportReturnType]

    return register


def registered() -> dict[str, Measure]:
    """All measures by name."""
    return dict(_REGISTER)


def find_measure(what: str | Callable[..., Any]) -> Measure:
    """A measure by name, by `package.module:function`, or by the function itself.

    Raises:
        ConfigError: nothing of that name.
    """
    if callable(what):
        for known in _REGISTER.values():
            if what in (known.function, inspect.unwrap(known.function)):
                return known
        name = getattr(what, "__name__", "")
        if not name:
            raise ConfigError(f"{what!r} has no name to call its column by: define it with def, or use @measure")
        measure(name)(what)
        return _REGISTER[name]
    if what in _REGISTER:
        return _REGISTER[what]
    if ":" not in what:
        raise ConfigError(f"measure {what!r} is not known: {nearest(what, _REGISTER)}")
    module_name, _, function_name = what.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name)
        if not callable(found):
            raise ConfigError(f"measure {what!r} is no function")
        return find_measure(found)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"measure {what!r} cannot be imported: {error}; give package.module:function") from None
