"""One interpreter that runs many commands of grokinterp: starting one per command, with all imports, takes seconds."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import processes

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a command."""

    code: int
    out: str
    err: str


_SHELL = """
import contextlib, io, json, logging, os, sys, traceback
from grokinterp.cli import main
for line in sys.stdin:
    folder, arguments = json.loads(line)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(arguments)
        except Exception:
            traceback.print_exc()
            code = 1
    logging.root.handlers.clear()
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@contextlib.contextmanager
def start_shell() -> Iterator[Callable[..., Outcome]]:
    """Start an interpreter that runs commands one after another in the current folder, without shape checks."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with processes.start([sys.executable, "-c", _SHELL], env=ENVIRONMENT, **pipes) as child:

        def run(*arguments: str) -> Outcome:
            child.stdin.write(json.dumps([os.getcwd(), arguments]) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            assert answer, f"the command ended the interpreter: {child.stderr.read()}"
            return Outcome(*json.loads(answer))

        yield run
        child.stdin.close()
