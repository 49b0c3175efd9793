"""The grammar of schedules: at which steps a run is evaluated, and at which it is kept."""

from dataclasses import dataclass
from typing import Literal

from grokinterp.errors import ConfigError


@dataclass(frozen=True)
class ScheduleTerm:
    """One term of a schedule, in steps; see `schedule_terms`."""

    kind: Literal["every", "log", "dense"]
    numbers: tuple[int, ...]


_DIGITS = 18
_MOST_TERMS = 1000
_TERM_FORMS = {"every": (1,), "log": (1, 2), "dense": (3,)}


def schedule_terms(spec: int | str) -> tuple[ScheduleTerm, ...]:
    """Reads which steps are meant: terms joined by `+`, step 0 and the last step always being meant too.

    `100` or `every:100`: each multiple of 100. `log:60`: sixty, evenly spaced in log(step) up to the last step.
    `log:60:1000`: the same up to step 1000. `dense:800:1600:10`: each tenth step from 800 to 1600.

    Raises:
        ConfigError: a term of another form.
    """
    terms = []
    texts = str(spec).replace(" ", "").split("+")
    if len(texts) > _MOST_TERMS:
        raise ConfigError(f"a schedule of {len(texts):,} terms: give at most {_MOST_TERMS:,}")
    for text in texts:
        kind, *rest = text.split(":") if ":" in text else ("every", text)
        numbers = tuple(int(part) for part in rest if part.isdecimal() and len(part) <= _DIGITS)
        well_formed = (
            not isinstance(spec, bool)
            and kind in _TERM_FORMS
            and len(numbers) == len(rest)
            and len(numbers) in _TERM_FORMS[kind]
        )
        if not well_formed or min(numbers, default=0) < (0 if kind == "dense" else 1):
            raise ConfigError(
                f"schedule {str(spec)!r}: cannot read {text!r}; a term is a number of steps, every:K, log:N, "
                "log:N:UNTIL or dense:FROM:TO:K, and terms are joined by +"
            )
        if kind == "dense" and not (numbers[0] <= numbers[1] and numbers[2] >= 1):
            raise ConfigError(f"schedule {str(spec)!r}: dense:FROM:TO:K needs FROM <= TO and K >= 1")
        terms.append(ScheduleTerm(kind, numbers))  # pyright: ignore[reportArgumentType]
    return tuple(terms)


def most_scheduled(spec: int | str, last: int) -> int:
    """At most so many steps in 0 .. last does a schedule mean; it counts without listing them."""
    count = 2
    for term in schedule_terms(spec):
        if term.kind == "every":
            count += last // term.numbers[0]
        elif term.kind == "log":
            count += term.numbers[0]
        else:
            first, until, stride = term.numbers
            count += max(0, (min(until, last) - first) // stride + 1)
    return count
