"""ScheduleConfig: how long a run trains, and at which steps it is evaluated and its weights are saved."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grokinterp.config.checks import (
    MAX_STEPS,
    MAX_TERMS,
    STRICT,
    Fields,
    check_fields,
    is_natural_number,
    require,
    require_finite,
    require_in,
)
from grokinterp.errors import ConfigError


@dataclass(frozen=True)
class ScheduleTerm:
    """One term of a schedule, in steps; see `schedule_terms`."""

    kind: Literal["every", "log", "dense"]
    numbers: tuple[int, ...]


_TERM_FORMS = {"every": (1,), "log": (1, 2), "dense": (3,)}  # how many numbers a term may have


def schedule_terms(spec: int | str) -> tuple[ScheduleTerm, ...]:
    """Parses a schedule: terms joined by `+`. Step 0 and the last step belong to every schedule.

    `100` or `every:100`: the multiples of 100. `log:60`: sixty steps, evenly spaced in log(step), up to the last step.
    `log:60:1000`: the same, up to step 1000. `dense:800:1600:10`: every tenth step from 800 to 1600.

    >>> schedule_terms("log:60+every:2000")
    (ScheduleTerm(kind='log', numbers=(60,)), ScheduleTerm(kind='every', numbers=(2000,)))

    Raises:
        ConfigError: a term has another form.
    """
    terms = []
    texts = str(spec).replace(" ", "").split("+")
    if len(texts) > MAX_TERMS:
        raise ConfigError(f"the schedule has {len(texts):,} terms: use at most {MAX_TERMS:,}")
    for text in texts:
        kind, *rest = text.split(":") if ":" in text else ("every", text)
        numbers = tuple(int(part) for part in rest if is_natural_number(part))
        well_formed = (
            not isinstance(spec, bool)
            and kind in _TERM_FORMS
            and len(numbers) == len(rest)
            and len(numbers) in _TERM_FORMS[kind]
        )
        if not well_formed or min(numbers, default=0) < (0 if kind == "dense" else 1):
            raise ConfigError(
                f"schedule {str(spec)!r}: cannot read {text!r}; write each term as a number of steps, every:K, log:N, "
                "log:N:UNTIL or dense:FROM:TO:K, and join terms with +"
            )
        if kind == "dense" and not (numbers[0] <= numbers[1] and numbers[2] >= 1):
            raise ConfigError(f"schedule {str(spec)!r}: dense:FROM:TO:K needs FROM <= TO and K >= 1")
        terms.append(ScheduleTerm(kind, numbers))  # pyright: ignore[reportArgumentType]
    return tuple(terms)


def most_scheduled(spec: int | str, last: int) -> int:
    """An upper bound on the number of steps that a schedule selects from 0 .. last, computed without listing them."""
    terms = schedule_terms(spec)
    return 2 + sum(term.numbers[0] if term.kind == "log" else len(_range(term, last)) for term in terms)


def _range(term: ScheduleTerm, last: int) -> range:
    """The steps after 0 and up to `last` that an `every` or `dense` term selects."""
    first, until, stride = term.numbers if term.kind == "dense" else (*term.numbers, last, *term.numbers)
    return range(first, min(until, last) + 1, stride)


def scheduled_steps(spec: int | str, last: int) -> list[int]:
    """The steps that a schedule selects from 0 .. last, in ascending order; 0 and `last` are always included.

    >>> scheduled_steps("log:4+dense:10:12:1", 100)
    [0, 1, 5, 10, 11, 12, 22, 100]

    Args:
        spec: the schedule; see `schedule_terms`.
        last: the last step of the run.
    """
    import numpy as np  # not at the top of the file: `--help` imports this module

    steps = [np.array([0, last])]
    for term in schedule_terms(spec):
        if term.kind == "log":
            # With UNTIL, the steps do not depend on the length of the run.
            until = term.numbers[1] if len(term.numbers) == 2 else last
            steps.append(np.rint(np.geomspace(1, max(until, 1), term.numbers[0])).astype(np.int64))
        else:
            selected = _range(term, last)
            steps.append(np.arange(selected.start, selected.stop, selected.step))
    distinct = np.unique(np.concatenate(steps))
    return distinct[distinct <= last].tolist()


@dataclass(frozen=True)
class ScheduleConfig(Fields):
    """How long a run trains, when it is evaluated, and what it saves.

    Example:
        >>> schedule = ScheduleConfig(steps=1000, evaluate_every="dense:0:100:10+every:100")
        >>> scheduled_steps(schedule.evaluate_every, schedule.steps)[8:13]
        [80, 90, 100, 200, 300]
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    steps: int = 25_000
    """number of updates"""
    evaluate_every: int | str = 100
    """when to evaluate all inputs: K, every:K, log:N, log:N:UNTIL, or dense:FROM:TO:K; join several terms with +"""
    checkpoints: int | str = 100
    """when to save the weights; takes the same forms as evaluate_every"""
    resume_every: int = 1000
    """steps between resume points"""
    stop_when_grokked: bool = False
    """stop at stop_factor times the first evaluated step at which test accuracy reaches 99 %"""
    stop_factor: float = 1.5
    """factor used by stop_when_grokked"""
    memorization_budget: int | None = None
    """steps within which train accuracy must reach 0.99; otherwise the outcome is DNF_train; None: all steps"""
    stop_when_not_memorized: bool = False
    """stop at memorization_budget, which must be set, if train accuracy has not reached 0.99 by then"""
    stop_when_dead: bool = False
    """stop when the network can no longer learn: the train loss has stayed within 2 % of that of a constant prediction
    while the RMS of every hidden layer has shrunk to a tenth, as under too large a weight decay"""

    def __post_init__(self) -> None:
        check_fields(self)
        require_in(self.steps, "steps", 1)
        require_in(self.resume_every, "resume_every", 1)
        require_finite(self.stop_factor, "stop_factor", at_least=1.0)
        require_in(self.memorization_budget, "memorization_budget", 1)
        require(
            not self.stop_when_not_memorized or self.memorization_budget is not None,
            "stop_when_not_memorized needs memorization_budget: set it to the number of steps within which train "
            "accuracy must reach 0.99",
        )
        for name in ("evaluate_every", "checkpoints"):
            count = most_scheduled(getattr(self, name), self.steps)
            require(
                count <= MAX_STEPS, f"{name} selects {count:,} of {self.steps:,} steps: choose at most {MAX_STEPS:,}"
            )

    @property
    def may_stop_early(self) -> bool:
        """Whether the run may end before its last step."""
        return self.stop_when_grokked or self.stop_when_not_memorized or self.stop_when_dead
