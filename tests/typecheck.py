"""The shape and type checker that tests install on the package; the numeric tower lets lr=1 pass for a float.

Checks take as long as the computation they watch, so each test checks only the first call of each function.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
called: set[Callable[..., Any]] = set()  # in the current test; conftest.py clears it
_jaxtyped = jaxtyping.jaxtyped


def sampled(function: Any = None, *, typechecker: Any = None) -> Any:
    """`jaxtyping.jaxtyped`, except that a function is checked only in its first call of a test."""
    if function is None:
        return functools.partial(sampled, typechecker=typechecker)
    checked = _jaxtyped(function, typechecker=typechecker)
    if not inspect.isfunction(function) or not inspect.isfunction(checked):
        return checked

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if function in called:
            return function(*args, **options)
        called.add(function)
        return checked(*args, **options)

    return call


jaxtyping.jaxtyped = sampled
