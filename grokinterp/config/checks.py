"""What every configuration checks itself with."""

import math
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from grokinterp.errors import ConfigError, nearest

STRICT: dict[str, Any] = {"extra": "forbid"}


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_one_of(value: Any, names: tuple[str, ...], what: str) -> None:
    if value not in names:
        raise ConfigError(f"{what} {value!r} is not known: {nearest(str(value), names)}")


def require_finite(value: float, what: str, *, at_least: float = 0.0, above: bool = False) -> None:
    good = math.isfinite(value) and (value > at_least if above else value >= at_least)
    require(good, f"{what} must be a finite number {'>' if above else '>='} {at_least:g}, but is {value!r}")


def require_known_choices(config: Any) -> None:
    """Refuses a value that its field's Literal does not list: dataclasses do not look at their annotations."""
    for name, choices, optional in _choices(type(config)):
        value = getattr(config, name)
        if not (value is None and optional):
            require_one_of(value, choices, name)


@cache
def _choices(kind: type) -> list[tuple[str, tuple[Any, ...], bool]]:
    """The fields that take one of a few values: their names, these values, and whether None is another."""
    found = []
    for item in fields(kind):
        hints = (item.type,) if get_origin(item.type) is Literal else get_args(item.type)
        choices = tuple(choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint))
        if choices:
            found.append((item.name, choices, NoneType in hints))
    return found


def is_prime(n: int) -> bool:
    """Whether n is a prime, by trial division: moduli are small."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
