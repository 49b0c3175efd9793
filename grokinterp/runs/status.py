"""RunStatus: how far a run has come."""

from enum import StrEnum


class RunStatus(StrEnum):
    """How far a run has come. Each is a string, and equals its value.

        >>> RunStatus.FINISHED == "finished"
        True

    status.json holds one of the first four. A sweep's table has two more: a run that failed and one not yet begun.
    """

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    MISSING = "missing"

    def __repr__(self) -> str:
        return repr(self.value)
