"""What measures are made of besides Snapshot: KeyFrequencies, Reference, and the register of measures by name."""

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsIndex, TypeVar

from grokinterp.errors import ConfigError, MissingNeedError, nearest
from grokinterp.measures.fourier import n_frequencies
from grokinterp.measures.snapshot import Snapshot

NO_READOUT = "the way from the neurons to the logits is not linear here"

NEEDS = ("logits", "grid", "weights", "gradients", "neurons", "attention", "split", "reference", "history")

# Where modules of `package.module:function` may lie too; the command line looks where its user stands.
MEASURE_FOLDERS: list[str] = []

Rule = Literal["cube_cosine", "neuron_clusters", "embedding_norm", "unembedding_power", "given"]


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


@contextlib.contextmanager
def _importable(folders: list[str]) -> Iterator[None]:
    """Lets modules in some folders be imported, after all others; not for longer than it takes.

    What else is imported later is not to be taken from there: the folder may be a stranger's.
    """
    before = list(sys.path)
    sys.path.extend(folders)
    try:
        yield
    finally:
        sys.path[:] = before


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
        with _importable(MEASURE_FOLDERS):
            module = importlib.import_module(module_name)
        found = getattr(module, function_name)
        if not callable(found):
            raise ConfigError(f"measure {what!r} is no function")
        return find_measure(found)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"measure {what!r} cannot be imported: {error}; give package.module:function") from None
