"""Which steps are evaluated, and which are kept."""

import numpy as np

from grokinterp.schedules import schedule_terms


def scheduled_steps(spec: int | str, last: int) -> list[int]:
    """The steps in 0 .. last that a schedule means, ascending; 0 and `last` are always among them.

    >>> scheduled_steps("log:4+dense:10:12:1", 100)
    [0, 1, 5, 10, 11, 12, 22, 100]

    Args:
        spec: as in `grokinterp.schedules.schedule_terms`.
        last: the last step of the run.
    """
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
