"""Checkpoint files: their folders, their names, and the steps that they are of."""

import os
import re
from pathlib import Path
from typing import Literal

from grokinterp.config.checks import is_natural_number
from grokinterp.errors import ConfigError
from grokinterp.runs.files import MAX_STEP, accessing

Folder = Literal["weights", "logits"]
FOLDERS: tuple[Folder, ...] = ("weights", "logits")

CHECKPOINT_NAME = re.compile(r"step_([0-9]{6,13})\.safetensors")


def parse_step(reference: str) -> tuple[str, int]:
    """Splits RUN@STEP into the run and the step.

    >>> parse_step("checkpoints/run42@1000")
    ('checkpoints/run42', 1000)

    Raises:
        ConfigError: the reference does not have this form.
    """
    run, separator, step = str(reference).rpartition("@")
    if not (separator and run and is_natural_number(step)):
        raise ConfigError(f"{reference!r} does not have the form RUN@STEP, for instance checkpoints/run42@1000")
    return run, int(step)


def file_name(step: int) -> str:
    return f"step_{step:06d}.safetensors"


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoint files in a folder, ascending.

    Raises:
        RunError: the folder cannot be read.
    """
    with accessing("read", folder):
        names = os.listdir(folder) if folder.is_dir() else []
    matches = map(CHECKPOINT_NAME.fullmatch, names)
    steps = (int(match[1]) for match in matches if match and file_name(int(match[1])) == match[0])
    return sorted(step for step in steps if step <= MAX_STEP)
