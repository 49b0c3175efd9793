"""Outcome: what became of a run."""

from enum import StrEnum


class Outcome(StrEnum):
    """What became of a run. Each is a string, and equals its value.

        >>> Outcome.GROKKED == "grokked"
        True

    `find_transition` gives the first seven. A sweep's table has two more: a run that failed and one not yet begun.
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
