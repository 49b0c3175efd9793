"""The limits on what a configuration may contain, and the checks that every configuration makes of its fields.

Configurations are checked when they are made, so the code that reads them relies on these limits.
"""

import math
from contextlib import suppress
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from grokinterp.errors import ConfigError, as_integer, nearest

STRICT: dict[str, Any] = {"extra": "forbid"}  # pydantic rejects unknown keys

MAX_INTEGER = 10**12
MAX_NUMBER = 1e30  # leaves room for what is computed from it in float32
MAX_MODULUS = 1000  # all p^2 inputs are evaluated
MAX_BITS = 20  # all 2^k strings are evaluated
MAX_WIDTH, MAX_DEPTH = 1 << 24, 1000  # beyond these, even counting the parameters takes too long
MAX_WINDOW = 1000  # as many copies of the weights are in memory
MAX_STEPS = 3_000_000  # each step is a number in memory and a line or a file on disk
MAX_TERMS = 1000  # in a schedule


class Fields:
    """Base class of configurations: an unknown field is a ConfigError that names the right one."""

    def __new__(cls, *args: Any, **values: Any) -> Any:
        names = [item.name for item in fields(cls)]  # pyright: ignore[reportArgumentType]
        for name in values:
            if name not in names:
                raise ConfigError(f"{cls.__name__} has no field {name!r}: {cls._nearest(name, names)}")
        return super().__new__(cls)

    @classmethod
    def _nearest(cls, name: str, names: list[str]) -> str:
        return nearest(name, names)


def require(condition: bool, message: str) -> None:
    """Raises a ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def is_natural_number(text: str) -> bool:
    """Whether a text is a number of at most 18 decimal digits; Python refuses to read thousands of digits.

    >>> is_natural_number("42"), is_natural_number("-1"), is_natural_number("9" * 5000)
    (True, False, False)
    """
    return text.isdecimal() and len(text) <= 18


def require_one_of(value: Any, names: tuple[str, ...], kind: str) -> None:
    """Raises a ConfigError unless the value is one of the names; `kind` says what they name."""
    if value not in names:
        raise ConfigError(f"unknown {kind} {value!r}: {nearest(str(value), names)}")


def require_finite(value: float, name: str, *, at_least: float = 0.0, above: bool = False) -> None:
    """Raises a ConfigError unless the number is finite and at least `at_least` (with `above`, larger than that)."""
    valid = math.isfinite(value) and (value > at_least if above else value >= at_least)
    require(valid, f"{name} must be a finite number {'>' if above else '>='} {at_least:g}, but is {value!r}")
    require(value <= MAX_NUMBER, f"{name} must be at most {MAX_NUMBER:g}, but is {value!r}")


def require_unit(value: float, name: str) -> None:
    """Raises a ConfigError unless the number lies in the unit interval [0, 1)."""
    require(0.0 <= value < 1.0, f"{name} must lie in [0, 1), but is {value}")


def require_in(value: int | None, name: str, low: int, high: int = MAX_INTEGER) -> None:
    """Raises a ConfigError unless the integer lies in low .. high, or is None."""
    if value is not None:
        require(low <= value, f"{name} must be at least {low}, but is {value}")
        require(value <= high, f"{name} must be at most {high:,}, but is {value}")


def require_sizes(config: Any, widths: tuple[str, ...], depth: str) -> None:
    """Raises a ConfigError unless the named widths and the named depth of a network lie within the limits."""
    for name in (*widths, depth):
        require_in(getattr(config, name), name, 1, MAX_DEPTH if name == depth else MAX_WIDTH)


def require_seed(value: int, name: str) -> None:
    """Raises a ConfigError unless the integer is a seed that every random generator accepts."""
    require(0 <= value < 2**32, f"{name} must lie in [0, 2^32), but is {value}")


def check_fields(config: Any) -> None:
    """Raises a ConfigError if a field has a value that its annotation does not allow, or an integer that is too large.

    Dataclasses do not check annotations. Integers of NumPy become int, so that a configuration can be written as JSON.
    """
    for name, choices, kinds in _annotations(type(config)):
        value = getattr(config, name)
        if value is None and NoneType in kinds:
            continue
        if choices:
            require_one_of(value, choices, name)
        else:
            value = _checked(value, kinds, name)
            object.__setattr__(config, name, value)  # the dataclass is frozen
        if isinstance(value, int):
            require(abs(value) <= MAX_INTEGER, f"{name} must be at most 10^12 in size, but is larger")


_DESCRIPTIONS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    tuple: "two numbers",
}


def _checked(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    """The value of a field, as an instance of one of the types that its annotation allows."""
    if tuple in kinds and isinstance(value, tuple | list) and len(value) == 2:
        return tuple(_checked(number, (float,), name) for number in value)
    if tuple not in kinds and isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
        return value
    if int in kinds or float in kinds:
        with suppress(ConfigError):
            return as_integer(value, name)
    allowed = " or ".join(_DESCRIPTIONS.get(kind) or kind.__name__ for kind in kinds if kind is not NoneType)
    raise ConfigError(f"{name} must be {allowed}, but is {value!r}")


@cache
def _annotations(kind: type) -> list[tuple[str, tuple[Any, ...], tuple[Any, ...]]]:
    """For each field: its name, the values that its Literal lists, and the types that its annotation allows."""
    table = []
    for item in fields(kind):
        hints = _members(item.type)
        choices = tuple(choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint))
        table.append((item.name, choices, tuple(get_origin(hint) or hint for hint in hints)))
    return table


def _members(hint: Any) -> list[Any]:
    """The members of a possibly nested union, without what Annotated adds to them."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [member for part in get_args(hint) for member in _members(part)]
    return [hint]


def is_prime(n: int) -> bool:
    """Whether n is prime, by trial division, which is enough for a modulus.

    >>> [n for n in range(12) if is_prime(n)]
    [2, 3, 5, 7, 11]
    """
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
