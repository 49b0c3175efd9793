"""Undefined: what a measure returns where its definition gives no number."""

import math


class Undefined(float):
    """A NaN with a reason. Measures return it where their definition gives no number.

    >>> value = Undefined("no key frequencies")
    >>> value
    nan (no key frequencies)
    >>> math.isnan(value), value.reason
    (True, 'no key frequencies')
    """

    reason: str

    def __new__(cls, reason: str) -> "Undefined":
        value = super().__new__(cls, math.nan)
        value.reason = reason
        return value

    def __repr__(self) -> str:
        return f"nan ({self.reason})"
