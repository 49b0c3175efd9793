"""JsonProcess: a Python subprocess that answers questions; both are lines of JSON.

It is a plain subprocess: a script needs no `if __name__ == "__main__"`, a notebook works, and nothing is pickled. The
subprocess ends when its input is closed, so it does not outlive its parent.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

# The subprocess gets the import path of its parent here and not through PYTHONPATH, because Python imports a
# sitecustomize.py from there on startup, and a folder of measures may contain one.
_BOOTSTRAP = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop())
runpy.run_module(sys.argv.pop(), run_name="__main__", alter_sys=True)
"""


class ProcessDied(Exception):
    """The process ended before it answered.

    Attributes:
        returncode: as in `subprocess.Popen`: its exit status, or the negative number of the signal that killed it.
    """

    def __init__(self, returncode: int):
        super().__init__(f"exit code {returncode}")
        self.returncode = returncode


class JsonProcess:
    """Runs a module in a single-threaded subprocess and exchanges JSON with it.

    Attributes:
        process: the subprocess.
    """

    def __init__(self, module: str, *, own_session: bool = False):
        """Starts the subprocess.

        Args:
            module: dotted name of the module to run.
            own_session: start it in a session of its own, so that Ctrl-C in the terminal does not reach it.
        """
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, module, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=own_session,
        )

    def __enter__(self) -> "JsonProcess":
        return self

    def exchange(self, question: Any) -> Any:
        """Sends a question and waits for the answer.

        Raises:
            ProcessDied: the process ended instead.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise ProcessDied(self.process.wait())
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (BrokenPipeError, ValueError):  # ValueError: `__exit__` closed the pipes in the meantime
            line = ""
        if not line.endswith("\n"):
            raise ProcessDied(self.process.wait())
        return json.loads(line)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):  # buffered input has no reader any more
                    stream.close()
        self.process.wait()
