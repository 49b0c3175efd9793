"""Key frequencies, the reference of a run, and the registry of measures by name."""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, SupportsIndex, TypeVar

from grokinterp.display import Card, Displayed
from grokinterp.errors import ConfigError, as_integer, nearest
from grokinterp.measures.fourier import n_frequencies
from grokinterp.measures.snapshot import Snapshot

NEEDS = (
    "logits",
    "grid",
    "weights",
    "gradients",
    "neurons",
    "attention",
    "pre_activations",
    "embedded",
    "split",
    "reference",
    "history",
)
"""What a measure can declare in `needs`; see `measure`."""

# Folders in which `package.module:function` is looked up if no such package is installed; the command line adds the
# current directory.
MEASURE_FOLDERS: list[str] = []
_NOT_INSTALLED: set[str] = set()  # packages that were looked up there

Rule = Literal["cube_cosine", "neuron_clusters", "embedding_norm", "unembedding_power", "given"]


@dataclass(frozen=True)
class KeyFrequencies(Displayed):
    """The key frequencies K of a model: those that carry the generalizing circuit, and the rule that selected them.

    >>> KeyFrequencies((3, 7)).values
    (3, 7)

    Measures that take frequencies accept this object or plain integers.

    Attributes:
        values: the frequencies k, ascending; w_k = 2 pi k / g on a group of order g.
        rule: name of the rule that selected them; `given` if the caller chose them.
        threshold: the level that a frequency's strength had to reach under that rule.
        step: step of the checkpoint they were selected on.
        harmonics: pairs (2k, k) in which the key frequency 2k is weaker than the key frequency k that it doubles.
        reason: why there are no key frequencies; empty if there are some.
    """

    values: tuple[int, ...]
    rule: Rule = "given"
    threshold: float | None = None
    step: int | None = None
    harmonics: tuple[tuple[int, int], ...] = ()
    reason: str = ""

    def _card(self) -> Card:
        values = ", ".join(map(str, self.values)) or f"none: {self.reason}"
        facts = {"frequencies": values, "rule": self.rule}
        if self.threshold is not None:
            facts["threshold"] = f"{self.threshold:g}"
        if self.harmonics:
            facts["doubles"] = ", ".join(f"{double} = 2 × {k}" for double, k in self.harmonics)
        at = "" if self.step is None else f" at step {self.step:,}"
        return Card(f"Key frequencies{at}", facts, ["keys.values", "restricted_loss(snapshot, keys)"])


Frequencies = KeyFrequencies | Sequence[SupportsIndex] | SupportsIndex


def as_frequencies(frequencies: Frequencies, order: int) -> tuple[int, ...]:
    """Converts frequencies in any accepted form to distinct integers in ascending order.

    >>> as_frequencies([5, 2, 2], order=11)
    (2, 5)

    Args:
        frequencies: `KeyFrequencies`, a sequence of integers, or one integer.
        order: the order g of the group.

    Raises:
        ConfigError: a frequency is not an integer, or is outside 1 .. floor(g / 2).
    """
    if isinstance(frequencies, KeyFrequencies):
        frequencies = frequencies.values
    numbers: Any = frequencies.tolist() if hasattr(frequencies, "tolist") else frequencies  # pyright: ignore
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        numbers = (numbers,)
    values = tuple(sorted({as_integer(k, "each of the frequencies") for k in numbers}))
    wrong = [k for k in values if not 1 <= k <= n_frequencies(order)]
    if wrong:
        raise ConfigError(f"frequencies of Z_{order} lie in 1 .. {n_frequencies(order)}; given: {wrong}")
    return values


@dataclass(frozen=True)
class Reference:
    """The information that measures need from a step other than their own.

    >>> Reference(KeyFrequencies((3, 7)), generalizes=True).frequencies.values
    (3, 7)

    Attributes:
        frequencies: the key frequencies that measures use: those of the reference step, by default the last checkpoint.
        generalizes: whether accuracy on the evaluation pairs was at least 0.9 at the reference step; None if unknown.
        union: frequencies that are key at any checkpoint from T_grok(0.95) on, including those of the reference step.
        lost: frequencies that are key at T_grok(0.95) but no longer at the reference step.
        by_rule: the key frequencies at the reference step under each rule.
    """

    frequencies: KeyFrequencies
    generalizes: bool | None = None
    union: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    by_rule: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One column that a measure contributes to the timeline, or to the table by step and frequency.

    >>> Column("train_loss", "mean cross entropy in nats", {"subset": "train"}).options
    {'subset': 'train'}

    Attributes:
        name: name of the column.
        definition: one phrase that defines the number, shown in the terminal and in the report.
        options: keyword arguments that the measure is called with for this column.
        per_frequency: True if the measure returns a tensor over frequencies, for the table by step and frequency.
    """

    name: str
    definition: str
    options: Mapping[str, Any] = field(default_factory=dict)
    per_frequency: bool = False


@dataclass(frozen=True)
class Measure:
    """A registered measure.

    >>> entry = find_measure("excluded_loss")
    >>> entry.name, entry.uses_reference
    ('excluded_loss', True)

    Attributes:
        name: unique name.
        function: `function(snapshot[, frequencies], **options)`; returns a number, a dataclass or dict of numbers, or
            a tensor over frequencies.
        needs: what it needs from a snapshot, from `NEEDS`.
        version: version of the definition; cached values of other versions are recomputed.
        columns: the columns it contributes.
        costly: whether `analyze` computes it only with circuit=True, or if it is named.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    version: int
    columns: tuple[Column, ...]
    costly: bool = False

    @property
    def uses_reference(self) -> bool:
        """Whether the function takes the key frequencies as its second argument."""
        return "reference" in self.needs

    @property
    def is_built_in(self) -> bool:
        """Whether the function is one of this package's."""
        return inspect.unwrap(self.function).__module__.startswith("grokinterp.")


def require_snapshot(value: Any, measure: str) -> None:
    """Raises a ConfigError unless the value that a measure is called with is a snapshot."""
    if not isinstance(value, Snapshot):
        how = "Snapshot.from_logits(task, logits), Snapshot.from_model(task, model) or run.snapshot(step)"
        raise ConfigError(f"{measure} needs a Snapshot, but got {type(value).__name__}: make one with {how}")


_REGISTER: dict[str, Measure] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def measure(
    name: str,
    *,
    needs: Sequence[str] = ("logits",),
    version: int = 1,
    columns: Column | Sequence[Column] = (),
    costly: bool = False,
) -> Callable[[_Function], _Function]:
    """Decorator that registers a function as a measure, so that `analyze` finds it by name and checks its needs.

    >>> @measure("largest_logit", needs=("logits",))
    ... def largest_logit(snapshot: Snapshot) -> float:
    ...     '''The largest logit of all.'''
    ...     return snapshot.logits.max().item()

    Args:
        name: unique name of the measure, and of its column unless `columns` says otherwise.
        needs: what the function needs, from `NEEDS`; with `reference` it takes the key frequencies as second argument.
        version: version of the definition; raise it with every change, so that cached values are recomputed.
        columns: the column or columns it contributes; by default one, defined by the first paragraph of the docstring.
        costly: whether `analyze` computes it only with circuit=True, or if it is named.

    Returns:
        The decorator. The decorated function raises MissingNeedError if its snapshot lacks something in `needs`, and
        ConfigError if it is called with something else.

    Raises:
        ConfigError: an unknown need, or the name of a built-in measure.
    """
    unknown = set(needs) - set(NEEDS)
    if unknown:
        raise ConfigError(f"measure {name!r}: unknown needs {sorted(unknown)}; known: {', '.join(NEEDS)}")

    def register(function: _Function) -> _Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Any, **options: Any) -> Any:
            try:
                snapshot = signature.bind(*args, **options).args[0]
            except (TypeError, IndexError) as error:
                if args:  # the wrong first argument is the likelier mistake
                    require_snapshot(args[0], name)
                raise ConfigError(f"{name}: {error}; call {_usage(name, signature)}") from None
            require_snapshot(snapshot, name)
            snapshot.require(name, *needs)
            return function(*args, **options)

        previous = _REGISTER.get(name)
        if (previous is not None and previous.is_built_in) or name == "key_frequencies" or name.endswith("_union"):
            raise ConfigError(f"{name!r} is reserved for a built-in measure: choose another name")
        summary = (inspect.getdoc(function) or name).split("\n\n")[0].replace("\n", " ")
        contributed = (columns,) if isinstance(columns, Column) else tuple(columns) or (Column(name, summary),)
        _REGISTER[name] = Measure(name, checked, tuple(needs), version, contributed, costly)
        return checked  # pyright: ignore[reportReturnType]

    return register


def _usage(name: str, signature: inspect.Signature) -> str:
    """How a measure is called, with the key frequencies computed from the snapshot and the names of the options."""
    known = {"snapshot": "snapshot", "frequencies": "key_frequencies(snapshot)"}
    shown = [known.get(parameter, f"{parameter}=...") for parameter in signature.parameters]
    return f"{name}({', '.join(shown)})"


def registered() -> dict[str, Measure]:
    """All registered measures by name.

    >>> "excluded_loss" in registered()
    True
    """
    return dict(_REGISTER)


def _import(module: str) -> ModuleType:
    """Imports a module, from `MEASURE_FOLDERS` if it is not installed.

    Only then, after all other folders, and only during the import can these folders be imported from: the current
    directory may belong to someone else, and installed modules try to import optional packages that are missing.
    """
    package = module.partition(".")[0]
    if package not in _NOT_INSTALLED and (package in sys.modules or importlib.util.find_spec(package) is not None):
        return importlib.import_module(module)
    _NOT_INSTALLED.add(package)
    before = list(sys.path)
    sys.path.extend(MEASURE_FOLDERS)
    try:
        return importlib.import_module(module)
    finally:
        sys.path[:] = before


def find_measure(name_or_function: str | Callable[..., Any]) -> Measure:
    """Finds a measure by its name, by `package.module:function`, or by the function itself.

    A function that is not registered yet is registered under its own name.

    >>> find_measure("loss").columns[0].definition
    'mean cross entropy in nats, over all inputs'

    Raises:
        ConfigError: there is no such measure, or it cannot be imported.
    """
    if callable(name_or_function):
        return _measure_of(name_or_function)
    name = name_or_function
    if name in _REGISTER:
        return _REGISTER[name]
    if ":" not in name:
        raise ConfigError(f"measure {name!r} is not known: {nearest(name, _REGISTER)}")
    module_name, _, function_name = name.partition(":")
    if not module_name.partition(".")[0] or not function_name:
        raise ConfigError(f"measure {name!r} is not known: give package.module:function")
    try:
        function = getattr(_import(module_name), function_name)
    except Exception as error:  # importing runs the user's module, which may raise anything
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"measure {name!r} cannot be imported: {reason}; give package.module:function") from error
    if not callable(function):
        raise ConfigError(f"measure {name!r} is not a function")
    return _measure_of(function)


def _measure_of(function: Callable[..., Any]) -> Measure:
    """The measure that a function is registered as, registering it first if needed."""
    for entry in _REGISTER.values():
        if function in (entry.function, inspect.unwrap(entry.function)):
            return entry
    name = getattr(function, "__name__", "")
    if not name:
        raise ConfigError(f"{function!r} has no name for its column: define it with def, or use @measure")
    measure(name)(function)
    return _REGISTER[name]
