"""The command line. Each command imports what it needs when it runs, so `--help` answers quickly.

Exit status: 0 success, 1 a check or a training failed, 2 bad input, 130 interrupted.
"""

import io
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
  analyze RUN [RUN ..] compute every measure at every checkpoint, print the result, and write the report
  report RUN [RUN ...] write an HTML report for one run, several runs side by side, or a sweep
  figures RUN [NAME]   save figures of a run as SVG, PDF, PNG, or HTML files
  sweep DIR            train many runs that differ in some options and tabulate their outcomes
  reproduce NAME       run a published experiment and test its claims (--list shows the names)
  import SOURCE RUN    import a model or run that was trained elsewhere as a run folder
  export RUN TARGET    write a run in a form that TransformerLens or the Hugging Face Hub reads
  verify RUN           check every file and checksum of a run or sweep
  list [DIR]           list the runs and sweeps in a folder (default: checkpoints)
  presets [NAME]       list the presets with their cost on this machine, or describe one
  measures [NAME]      list the measures with their definitions, or describe one

`grokinterp COMMAND --help` shows the options of a command."""


# The module and the function of each command.
_COMMANDS = {
    "demo": ("train", "run_demo"),
    "train": ("train", "run_train"),
    "analyze": ("analyze", "run_analyze"),
    "report": ("report", "run_report"),
    "figures": ("figures", "run_figures"),
    "import": ("import_run", "run_import"),
    "export": ("export_run", "run_export"),
    "verify": ("verify", "run_verify"),
    "list": ("list", "run_list"),
    "presets": ("presets", "run_presets"),
    "measures": ("measures", "run_measures"),
    "sweep": ("sweep", "run_sweep"),
    "reproduce": ("reproduce", "run_reproduce"),
}


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # `list` is a submodule here, once imported
    _prepare_output()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        try:
            return _run(words)
        except SystemExit as end:  # by tyro, after --help
            return 0 if not end.code else 1
        finally:
            sys.stdout.flush()
    except GrokinterpError as error:
        return _fail(error)
    except (MemoryError, RuntimeError) as error:  # PyTorch has no exception class for the CPU
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        return _fail(GrokinterpError(f"{words[0]} ran out of memory: choose smaller sizes, or fewer at a time"))
    except BrokenPipeError:  # the reader of our output closed the pipe
        _discard_output()
        return 0
    except OSError as error:  # a path without permission, a name that is too long, or a full disk behind our output
        _discard_output()
        place = f"cannot access {error.filename}" if error.filename is not None else "reading or writing failed"
        return _fail(GrokinterpError(f"{place}: {error.strerror or error}; check permissions and free disk space"))
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if words[0] in ("--version", "-V"):
        from grokinterp import __version__

        print(f"grokinterp {__version__}")
        return 0
    command, arguments = words[0], words[1:]
    if command not in _COMMANDS:
        raise ConfigError(f"no command {command!r}: {nearest(command, _COMMANDS)}")
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):  # bytes that Python could not decode
            raise ConfigError(f"{argument!r} is not valid {sys.getfilesystemencoding()}: rename the file or folder")
    module, function = _COMMANDS[command]
    return getattr(import_module(f"grokinterp.cli.{module}"), function)(arguments)


def _fail(error: GrokinterpError) -> int:
    """Prints an error as one line and returns the exit status for bad input."""
    print(f"grokinterp: {error}", file=sys.stderr)
    return 2


def _prepare_output() -> None:
    """Makes printing safe where output is closed, or in an encoding that lacks some of our characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Redirects standard output to nowhere if it cannot be written to; Python flushes it once more on exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
