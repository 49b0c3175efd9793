"""Every error a user can meet: each message says what was given, what was found, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 1500  # characters of a message


def one_line(text: str) -> str:
    """The same in one line, whatever a file had in it: no control character of it reaches a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))


class GrokinterpError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line and exits with 2."""

    def __str__(self) -> str:
        said = one_line(super().__str__())
        return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"


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
