"""The command line. Each command imports what it needs when it runs, so `--help` answers quickly.

Exit status: 0 success, 1 a check or a training failed, 2 bad input, 130 interrupted.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from grokinterp.errors import ConfigError, GrokinterpError, nearest

USAGE = """usage: grokinterp COMMAND ...

Train networks on modular arithmetic, save their checkpoints, and measure how they grok.

  demo                 train a small transformer until it groks, analyze it, and write its report
  train RUN            train a model in a new run folder or resume a run
  analyze RUN          compute every measure at every checkpoint, print the result, and write the report
  report RUN [RUN ...] write an HTML report for one run, several runs side by side, or a sweep
  sweep DIR            train many runs that differ in some options and tabulate their outcomes
  reproduce NAME       run a published experiment and test its claims (--list shows the names)
  verify RUN           check every file and checksum of a run or sweep
  list [DIR]           list the runs and sweeps in a folder (default: checkpoints)

`grokinterp COMMAND --help` shows the options of a command."""


# The module and the function of each command.
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
    """Runs a command and returns its exit status."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # `list` is a submodule here, once imported
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] in ("--version", "-V"):
        from grokinterp import __version__

        print(f"grokinterp {__version__}")
        return 0
    command, arguments = words[0], words[1:]
    try:
        if command not in _COMMANDS:
            raise ConfigError(f"no command {command!r}: {nearest(command, _COMMANDS)}")
        module, function = _COMMANDS[command]
        status = getattr(import_module(f"grokinterp.cli.{module}"), function)(arguments)
        sys.stdout.flush()
        return status
    except GrokinterpError as error:
        print(f"grokinterp: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:  # PyTorch has no exception class for the CPU
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        print(f"grokinterp: {command} ran out of memory: choose smaller sizes, or fewer at a time", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
