"""Worker process of a sweep: runs one job after another, and exits as soon as its parent does."""

import json
import logging
import os
import sys
from dataclasses import asdict
from queue import Queue
from threading import Thread
from typing import IO

import torch

from grokinterp.models.memory import keep_freed_memory
from grokinterp.sweep.jobs import Job, run_job


def main(requests: IO[str], answers: IO[str]) -> None:
    """Answer each line of `requests`."""
    torch.set_num_threads(1)
    logging.getLogger("grokinterp").setLevel(logging.ERROR)  # the parent reports failures
    keep_freed_memory()
    lines: Queue[str] = Queue()
    # A thread reads while the main thread trains, so that the worker notices the end of its parent at once. Training
    # stays in the main thread because signals are handled there.
    Thread(target=_read, args=(requests, lines), daemon=True).start()
    while True:
        results = run_job(Job(**json.loads(lines.get())))
        answers.write(json.dumps([asdict(ended) for ended in results]) + "\n")
        answers.flush()


def _read(requests: IO[str], lines: "Queue[str]") -> None:
    for line in requests:
        lines.put(line)
    os._exit(0)  # the parent has ended; a run in training can be resumed, as after a crash


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of other code, including C code, must not mix with the answers
    main(sys.stdin, channel)
