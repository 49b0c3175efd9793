"""The command line: thin, and quick to answer, because each command imports what it needs when it runs.

Exit codes: 0 done, 1 a check said no or a training failed, 2 bad input, 130 interrupted.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from grokinterp.errors import ConfigError, GrokinterpError, nearest

USAGE = """usage: grokinterp COMMAND ...

Train networks on modular arithmetic, keep every checkpoint, and measure how they grok.

  demo                 train a small transformer until it groks, analyze it, and write its report
  train RUN            train a model into a new run folder, or resume one
  analyze RUN          compute every measure at every checkpoint; print the result and write the report
  report RUN [RUN ...] write the HTML report of a run, of several side by side, or of a sweep
  sweep DIR            train many runs that differ in some options, and tabulate what became of them
  reproduce NAME       run a published experiment and decide its claims (--list shows them)
  verify RUN           check that a run is whole: every file, every checksum
  list [DIR]           the runs in a folder (default: checkpoints)

`grokinterp COMMAND --help` shows a command's options."""


# Where each command is: module and function.
_COMMANDS = {
    "demo": ("train", "run_demo"),
    "train": ("train", "run_train"),
    "analyze": ("analyze", "run_analyze"),
    "report": ("report", "run_report"),
    "verify": ("verify", "run_verify"),
    "list": ("list", "run_list"),
    "sweep": ("sweep", "run_sweep"),
    "reproduce": ("reproduce", "run_reproduce"),
}


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if given[0] in ("--version", "-V"):
        from grokinterp import __version__

        print(f"grokinterp {__version__}")
        return 0
    command, rest = given[0], given[1:]
    try:
        if command not in _COMMANDS:
            raise ConfigError(f"no command {command!r}: {nearest(command, _COMMANDS)}")
        module, function = _COMMANDS[command]
        code = getattr(import_module(f"grokinterp.cli.{module}"), function)(rest)
        sys.stdout.flush()
        return code
    except GrokinterpError as error:
        print(f"grokinterp: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # PyTorch has no class of its own for the CPU's
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        print(f"grokinterp: {command} ran out of memory: choose smaller sizes, or fewer at a time", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
