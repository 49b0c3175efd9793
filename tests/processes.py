"""Starts processes that do not outlive their test, and waits for events instead of fixed times.

Each process runs in a session of its own. When its block ends, it is killed with its process group. On Linux, the
kernel also kills it when the test process dies, even by SIGKILL.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

TIMEOUT = 600.0  # seconds; only a hang takes that long, even on a busy machine

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None  # loaded here, not between fork and exec


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent dies. Call it in a child, right after the fork.

    Args:
        parent: process id of the parent; if it is given and the parent has died already, this process ends at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def start(command: Sequence[str] | str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a command, and kill it with its children at the end of the block if they are still running.

    Args:
        command: what to start.
        **options: of `subprocess.Popen`.
    """
    parent, prepare = os.getpid(), options.pop("preexec_fn", None)

    def in_child() -> None:
        die_with_parent(parent)
        if prepare is not None:
            prepare()

    process = subprocess.Popen(command, start_new_session=True, preexec_fn=in_child, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # buffered input has no reader any more
                    stream.close()
        process.wait()


def run(
    command: Sequence[str] | str,
    *,
    capture_output: bool = False,
    check: bool = False,
    input: str | None = None,
    timeout: float = TIMEOUT,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with start(command, **options) as process:
        stdout, stderr = process.communicate(input, timeout=timeout)
    result = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        result.check_returncode()
    return result


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, timeout: float = TIMEOUT
) -> None:
    """Wait until a condition holds.

    Args:
        condition: called again and again.
        process: must keep running meanwhile.
        timeout: in seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended: {process.communicate()}")
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)
