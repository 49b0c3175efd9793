"""The errors that grokinterp raises on purpose: each message says what is wrong, where, and what to do.

Also here: helpers of these messages, loggers, and the check of an integer argument, which every layer may use.
"""

import logging
import operator
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_LONGEST = 1500  # characters of a message


def one_line(text: str) -> str:
    r"""The text on one line, with control characters escaped, so that text from a file cannot control the terminal.

    >>> one_line("two\n  lines and \x1b[31m")
    'two lines and \\x1b[31m'
    """
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    r"""The text with control characters and line breaks escaped.

    >>> printable("a  b\n")
    'a  b\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def logger(name: str) -> logging.Logger:
    """The logger of a module. Its messages are printable, since they may contain names that others chose."""
    log = logging.getLogger(name)
    log.addFilter(_escape)
    return log


def _escape(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


def shorten(text: str) -> str:
    """The text on one line of at most 1,500 characters, without its middle if it is longer."""
    line = one_line(text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


class GrokinterpError(Exception):
    """Base class of the errors raised on purpose; the command line prints the message on one line and exits with 2.

    >>> import grokinterp as gi
    >>> try:
    ...     gi.load("checkpoints/none")
    ... except gi.GrokinterpError as error:
    ...     print(type(error).__name__)
    RunError
    """

    def __str__(self) -> str:
        return shorten(super().__str__())


class ConfigError(GrokinterpError, ValueError):
    """A configuration or an argument that makes no sense.

    >>> import grokinterp as gi
    >>> gi.TaskConfig(p=1)
    Traceback (most recent call last):
    grokinterp.errors.ConfigError: p must be at least 3, but is 1
    """


class RunError(GrokinterpError):
    """A run folder that does not exist, is in use, has another format, or is damaged.

    >>> import grokinterp as gi
    >>> gi.load("checkpoints/none")
    Traceback (most recent call last):
    grokinterp.errors.RunError: checkpoints/none does not exist: `grokinterp list` shows the existing runs
    """


class MissingNeedError(GrokinterpError):
    """A measure was called on a snapshot that lacks something the measure is computed from.

    >>> import grokinterp as gi
    >>> import numpy as np
    >>> task = gi.Task.modular_addition(5)
    >>> snapshot = gi.Snapshot.from_logits(task, np.zeros((25, 5)))
    >>> try:
    ...     gi.measures.weight_norm(snapshot)
    ... except gi.MissingNeedError as error:
    ...     print(error.measure, "needs", error.need)
    weight_norm needs weights

    Attributes:
        measure: name of the measure.
        need: name of the missing part, one of `grokinterp.measures.NEEDS`.
        reason: why the snapshot lacks it.
    """

    def __init__(self, measure: str, need: str, reason: str):
        super().__init__(f"{measure} needs {need}: {reason}")
        self.measure = measure
        self.need = need
        self.reason = reason


def nearest(name: Any, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar valid name, or else all valid names.

    >>> nearest("nandaa", ["demo", "nanda"])
    "did you mean 'nanda'?"
    >>> nearest("qqq", ["demo", "nanda"])
    'choose from demo, nanda'
    """
    names = list(names)
    similar = get_close_matches(str(name), names, n=1)
    return f"did you mean {similar[0]!r}?" if similar else f"choose from {', '.join(names)}"


_SYNONYMS = {
    "batch": ("batch_size",),
    "epochs": ("steps",),  # the same with full batches
    "frac_train": ("train_fraction",),
    "learning_rate": ("lr",),
    "modulus": ("p",),
    "n_steps": ("steps",),
    "num_epochs": ("steps",),
    "num_layers": ("n_layers", "depth"),
    "seed": ("model_seed", "data_seed"),
    "wd": ("weight_decay",),
}


def similar_fields(name: str, fields: Iterable[str]) -> list[str]:
    """The dotted fields that an unknown name may mean: those that end in it, or else those most similar.

    >>> similar_fields("lr", ["task.p", "optimizer.lr"]), similar_fields("weight-deca", ["optimizer.weight_decay"])
    (['optimizer.lr'], ['optimizer.weight_decay'])
    """
    fields = list(fields)
    word = name.replace("-", "_").rpartition(".")[2].lower()
    endings = {field: field.rpartition(".")[2] for field in fields}
    words = {word, *_SYNONYMS.get(word, ())}
    same = [field for field in fields if endings[field] in words]
    if same:
        return same
    full = get_close_matches(name, fields, n=1, cutoff=0.7)
    return full or [f for w in get_close_matches(word, endings.values(), n=1) for f in fields if endings[f] == w]


def nearest_field(name: str, fields: Iterable[str]) -> str:
    """As `nearest`, for dotted names: a bare field gets its dotted name.

    >>> nearest_field("p", ["task.p", "optimizer.clip"])
    "did you mean 'task.p'?"
    """
    fields = list(fields)
    similar = similar_fields(name, fields)
    return f"did you mean {' or '.join(map(repr, similar))}?" if similar else nearest(name, fields)


def as_integer(value: Any, name: str) -> int:
    """Returns an integer as int; integers of NumPy and PyTorch count, booleans and floats do not.

    >>> as_integer(3, "step")
    3

    Raises:
        ConfigError: the value is not an integer; the message names the argument.
    """
    try:
        integer = operator.index(value)
    except TypeError:
        integer = None
    if integer is None or isinstance(value, bool):
        raise ConfigError(f"{name} must be an integer, but is {value!r}")
    return integer
