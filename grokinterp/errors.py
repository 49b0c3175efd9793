"""Every error a user can meet: each message says what was given, what was found, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 1500  # characters of a message


class GrokinterpError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line and exits with 2."""

    def __str__(self) -> str:
        """One line, whatever a file had in it: no control character reaches a terminal, and none breaks the line."""
        said = " ".join(super().__str__().split())
        plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)
        return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST // 2]} ... {plain[-_LONGEST // 2 :]}"


class ConfigError(GrokinterpError, ValueError):
    """A configuration that describes no possible run."""


class RunError(GrokinterpError):
    """A run folder that is missing, occupied, of another format, or damaged."""


class MissingNeedError(GrokinterpError):
    """A measure was called on a snapshot that lacks what the measure is computed from.

    Attributes:
        measure: name of the measure.
        need: what is missing, one of `grokinterp.measures.NEEDS`.
    """

    def __init__(self, measure: str, need: str, reason: str):
        super().__init__(f"{measure} needs {need}: {reason}")
        self.measure = measure
        self.need = need
        self.reason = reason


def nearest(given: str, known: Iterable[str]) -> str:
    """The ending of a message about an unknown name: the closest known name, else all of them."""
    names = list(known)
    close = get_close_matches(given, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
