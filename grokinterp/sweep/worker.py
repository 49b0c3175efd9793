"""A worker process of a sweep: carries out one order after another, and ends at once when its parent does."""

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
from grokinterp.sweep.jobs import Order, carry_out


def main(questions: IO[str], answers: IO[str]) -> None:
    """Answers each line of `questions`."""
    torch.set_num_threads(1)
    logging.getLogger("grokinterp").setLevel(logging.ERROR)  # the parent says what went wrong
    keep_freed_memory()
    lines: Queue[str] = Queue()
    # Read beside the training, so that the end of the parent is noticed; in the main thread signals are handled.
    Thread(target=_read, args=(questions, lines), daemon=True).start()
    while True:
        done = carry_out(Order(**json.loads(lines.get())))
        answers.write(json.dumps([asdict(ended) for ended in done]) + "\n")
        answers.flush()


def _read(questions: IO[str], lines: "Queue[str]") -> None:
    for line in questions:
        lines.put(line)
    os._exit(0)  # a run that is being trained is left as a crash would leave it: it can be resumed


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints, also below Python, must not be taken for an answer
    main(sys.stdin, channel)
