"""How numbers are written in tables, figures, reports and messages."""

import math
from collections.abc import Iterable
from typing import Any

MISSING = "–"


def number(x: float | None) -> str:
    """A measured number: integers with thousands separators, others with four significant digits.

    >>> number(25333), number(0.98647), number(None)
    ('25,333', '0.9865', '–')
    """
    if isinstance(x, int):
        return f"{x:,}"
    return MISSING if x is None or not math.isfinite(x) else f"{x:.4g}"


def setting(value: Any) -> str:
    """A configured value: as short as possible without changing it.

    >>> setting(0.5), setting(1e-3), setting(None), setting("adamw")
    ('0.5', '0.001', 'none', 'adamw')
    """
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)


def step_or_ratio(x: float) -> str:
    """A time or a ratio, for prose: no decimals from 100 on, three significant digits below.

    >>> step_or_ratio(25333.3), step_or_ratio(1.4142)
    ('25,333', '1.41')
    """
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def span(values: Iterable[float], spec: str = ".4g") -> str:
    """The smallest and the largest of some numbers; one number where they are written alike.

    >>> span([2.0, 3.5]), span([2.0, 2.0])
    ('2 to 3.5', '2')
    """
    numbers = list(values)
    low, high = f"{min(numbers):{spec}}", f"{max(numbers):{spec}}"
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """A time span in seconds, minutes or hours.

    >>> duration(90), duration(600), duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
