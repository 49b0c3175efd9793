"""Number formats for tables, figures, reports and messages."""

import math
from collections.abc import Iterable
from typing import Any

MISSING = "–"
BLOCKS = "▁▂▃▄▅▆▇█"


def number(x: float | None) -> str:
    """Format a measured number: integers with thousands separators, others with four significant digits.

    >>> number(25333), number(0.98647), number(None)
    ('25,333', '0.9865', '–')
    """
    if isinstance(x, int):
        return f"{x:,}"
    return MISSING if x is None or not math.isfinite(x) else f"{x:.4g}"


def setting(value: Any) -> str:
    """Format a configured value as briefly as possible without changing it.

    >>> setting(0.5), setting(1e-3), setting(None), setting("adamw")
    ('0.5', '0.001', 'none', 'adamw')
    """
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "none" if value is None else str(value)


def step_or_ratio(x: float) -> str:
    """Format a step count or a ratio for prose: no decimals from 100 on, three significant digits below.

    >>> step_or_ratio(25333.3), step_or_ratio(1.4142)
    ('25,333', '1.41')
    """
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def span(values: Iterable[float], spec: str = ".4g") -> str:
    """Format the range of some numbers: `low to high`, or a single number if both read the same.

    >>> span([2.0, 3.5]), span([2.0, 2.0])
    ('2 to 3.5', '2')
    """
    numbers = list(values)
    low, high = f"{min(numbers):{spec}}", f"{max(numbers):{spec}}"
    return low if low == high else f"{low} to {high}"


def duration(seconds: float) -> str:
    """Format a time span in seconds, minutes or hours.

    >>> duration(90), duration(600), duration(9000)
    ('90 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def short(x: float) -> str:
    """Format a number for a cell or a tick: three significant digits, with k for thousands and M for millions.

    >>> short(0.123456), short(4225.0), short(45333.0), short(2.5e6)
    ('0.123', '4,225', '45.3k', '2.5M')
    """
    if abs(x) >= 1e6:
        return f"{x / 1e6:.3g}M"
    return f"{x / 1e3:.3g}k" if abs(x) >= 1e4 else step_or_ratio(x)


def sparkline(shares: Iterable[float]) -> str:
    """Draw shares between 0 and 1, such as accuracies over training, in one character each.

    >>> sparkline([0.0, 0.01, 0.5, 1.0])
    '▁▁▄█'
    """
    return "".join(BLOCKS[int(min(max(share, 0.0), 1.0) * (len(BLOCKS) - 1))] for share in shares)


def age(seconds: float) -> str:
    """Format the time since something happened, in one unit.

    >>> age(50), age(600), age(9000), age(5e5)
    ('50 s', '10 min', '2 h', '5 d')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
