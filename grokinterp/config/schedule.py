"""ScheduleConfig: how long a run is trained, and at which steps it is evaluated and its weights are saved."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grokinterp.config.checks import STRICT, check_fields, require, require_finite
from grokinterp.errors import ConfigError


@dataclass(frozen=True)
class ScheduleTerm:
    """One term of a schedule, in steps; see `schedule_terms`."""

    kind: Literal["every", "log", "dense"]
    numbers: tuple[int, ...]


_MOST_SCHEDULED = 3_000_000  # steps, each of which is a line or a file; as many numbers are in memory
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


def scheduled_steps(spec: int | str, last: int) -> list[int]:
    """The steps in 0 .. last that a schedule means, ascending; 0 and `last` are always among them.

    >>> scheduled_steps("log:4+dense:10:12:1", 100)
    [0, 1, 5, 10, 11, 12, 22, 100]

    Args:
        spec: as in `schedule_terms`.
        last: the last step of the run.
    """
    import numpy as np  # not at the top: `--help` reads configurations

    steps = [np.array([0, last])]
    for term in schedule_terms(spec):
        if term.kind == "every":
            steps.append(np.arange(0, last + 1, term.numbers[0]))
        elif term.kind == "log":
            # An end that is given fixes the steps, however long the run becomes.
            until = term.numbers[1] if len(term.numbers) == 2 else last
            steps.append(np.rint(np.geomspace(1, max(until, 1), term.numbers[0])).astype(np.int64))
        else:
            first, until, stride = term.numbers
            steps.append(np.arange(first, min(until, last) + 1, stride))
    found = np.unique(np.concatenate(steps))
    return found[found <= last].tolist()


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and what is looked at and kept on the way."""

    __pydantic_config__: ClassVar[Any] = STRICT

    steps: int = 25_000
    """number of updates"""
    evaluate_every: int | str = 100
    """when all inputs are evaluated: K, every:K, log:N, log:N:UNTIL, dense:FROM:TO:K, joined by +"""
    checkpoints: int | str = 100
    """when the weights are kept; the same forms"""
    resume_every: int = 1000
    """steps between two resume points"""
    stop_when_grokked: bool = False
    """end at stop_factor times the first evaluated step with 99 % test accuracy"""
    stop_factor: float = 1.5
    memorization_budget: int | None = None
    """steps within which train accuracy must reach 0.99, else the outcome is DNF_train; by default all"""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.steps >= 1, f"steps must be at least 1, but is {self.steps}")
        require(self.resume_every >= 1, f"resume_every must be at least 1, but is {self.resume_every}")
        require_finite(self.stop_factor, "stop_factor", at_least=1.0)
        budget = self.memorization_budget
        require(budget is None or budget >= 1, f"memorization_budget must be at least 1, but is {budget}")
        for name in ("evaluate_every", "checkpoints"):
            count = most_scheduled(getattr(self, name), self.steps)
            require(
                count <= _MOST_SCHEDULED,
                f"{name} names {count:,} of {self.steps:,} steps, and {_MOST_SCHEDULED:,} is the most: choose fewer",
            )
