"""Outcome: how a run ended."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a run ended. Each member is a string and equals its value.

        >>> Outcome.GROKKED == "grokked"
        True

    `find_transition` returns one of the first seven. The table of a sweep has two more: `failed`, and `missing` for a
    run that has not started.
    """

    GROKKED = "grokked"
    GENERALIZED_WITHOUT_DELAY = "generalized_without_delay"
    SEMI_GROKKED = "semi_grokked"
    DNF_TEST = "DNF_test"
    DNF_TRAIN = "DNF_train"
    DIVERGED = "diverged"
    UNDETERMINED = "undetermined"
    FAILED = "failed"
    MISSING = "missing"

    def __repr__(self) -> str:
        return repr(self.value)
