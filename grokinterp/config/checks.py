"""What every configuration checks itself with."""

import math
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from grokinterp.errors import ConfigError, nearest

STRICT: dict[str, Any] = {"extra": "forbid"}
LARGEST_INTEGER = 10**12
WIDEST, DEEPEST = 1 << 24, 1000  # numbers in a layer, and layers: more would not even be counted in time
_LARGEST = 1e30  # whatever is computed in float32 has room left


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_one_of(value: Any, names: tuple[str, ...], what: str) -> None:
    if value not in names:
        raise ConfigError(f"{what} {value!r} is not known: {nearest(str(value), names)}")


def require_finite(value: float, what: str, *, at_least: float = 0.0, above: bool = False) -> None:
    good = math.isfinite(value) and (value > at_least if above else value >= at_least)
    require(good, f"{what} must be a finite number {'>' if above else '>='} {at_least:g}, but is {value!r}")
    require(value <= _LARGEST, f"{what} must be at most {_LARGEST:g}, but is {value!r}")


def require_in(value: int, what: str, least: int, most: int) -> None:
    require(least <= value, f"{what} must be at least {least}, but is {value}")
    require(value <= most, f"{what} must be at most {most:,}, but is {value}")


def check_fields(config: Any) -> None:
    """Refuses a value that its field's Literal does not list, and an integer that counts nothing in this world.

    Dataclasses do not look at their annotations.
    """
    for name, choices, optional in _choices(type(config)):
        value = getattr(config, name)
        if choices and not (value is None and optional):
            require_one_of(value, choices, name)
        if isinstance(value, int):
            require(abs(value) <= LARGEST_INTEGER, f"{name} must be at most 10^12 in size, but is larger")


@cache
def _choices(kind: type) -> list[tuple[str, tuple[Any, ...], bool]]:
    """Each field: its name, the values that its Literal lists, and whether None is another."""
    found = []
    for item in fields(kind):
        hints = (item.type,) if get_origin(item.type) is Literal else get_args(item.type)
        choices = tuple(choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint))
        found.append((item.name, choices, NoneType in hints))
    return found


def is_prime(n: int) -> bool:
    """Whether n is a prime, by trial division: moduli are small."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
