"""A Python process of our own that answers questions, both in JSON lines.

It is a plain subprocess, so a script needs no `if __name__ == "__main__"`, a notebook works, and
nothing is pickled. It ends when its input does, so none outlives its parent.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

# It finds what its parent finds. PYTHONPATH would say so too early: a folder of measures may have a sitecustomize.py,
# which Python imports from there as it starts.
_BEGINNING = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop())
runpy.run_module(sys.argv.pop(), run_name="__main__", alter_sys=True)
"""


class ProcessDied(Exception):
    """The process ended before it answered.

    Attributes:
        returncode: as of `subprocess.Popen`: the negative number of the signal that killed it, or its exit code.
    """

    def __init__(self, returncode: int):
        super().__init__(f"exit code {returncode}")
        self.returncode = returncode


class JsonProcess:
    """Runs a module with one thread of its own, and talks to it.

    Attributes:
        process: the subprocess.
    """

    def __init__(self, module: str, *, own_session: bool = False):
        """Args: module: what to run; own_session: keep Ctrl-C in the terminal from it."""
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BEGINNING, module, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=own_session,
        )

    def __enter__(self) -> "JsonProcess":
        return self

    def exchange(self, question: Any) -> Any:
        """Asks, and waits for the answer.

        Raises:
            ProcessDied: it ended instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (BrokenPipeError, ValueError):  # ValueError: `__exit__` closed the pipes meanwhile
            line = ""
        if not line.endswith("\n"):
            raise ProcessDied(self.process.wait())
        return json.loads(line)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was still to be written has no reader
                    stream.close()
        self.process.wait()
