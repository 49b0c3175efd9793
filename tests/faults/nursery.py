"""Trains in forked children, so that a test can kill a training and start the next without importing again.

Each line of its input is a job: {"config": ..., "path": ..., "resume": ..., "updates": ...}. It answers with
`child PID`, then `step` when the child has made so many updates, then `exit CODE`, negative for a signal.
"""

import json
import os
import sys

import torch

from grokinterp.config import RunConfig
from grokinterp.errors import GrokinterpError
from grokinterp.training import Callback, train
from tests.processes import die_with_parent


class Report(Callback):
    """Reports the update that makes so many."""

    def __init__(self, updates: int):
        self.remaining = updates

    def on_step(self, step: int) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            os.write(1, b"step\n")


def live(job: dict) -> int:
    try:
        train(RunConfig.from_json(job["config"]), job["path"], resume=job["resume"], callbacks=[Report(job["updates"])])
    except GrokinterpError as error:
        os.write(2, f"{error}\n".encode())
        return 2
    return 0


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        parent, child = os.getpid(), os.fork()
        if child == 0:
            code = 1
            die_with_parent(parent)
            try:
                code = live(job)
            finally:
                os._exit(code)
        os.write(1, f"child {child}\n".encode())
        # The child may have written `step` already: both processes write lines to the same pipe.
        os.write(1, f"exit {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


if __name__ == "__main__":
    main()
