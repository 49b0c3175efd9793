"""RunStatus: the progress of a run."""

from enum import StrEnum


class RunStatus(StrEnum):
    """The progress of a run. Each member is a string that equals its value.

    >>> RunStatus.FINISHED == "finished"
    True

    status.json has one of the first four. The table of a sweep also has `failed`, and `missing` for a run that has not
    started.
    """

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    MISSING = "missing"

    def __repr__(self) -> str:
        return repr(self.value)
