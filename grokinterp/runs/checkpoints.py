"""The names of checkpoint files: which steps a run has saved, and the checksum of a step."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from grokinterp.config.checks import is_natural_number
from grokinterp.errors import ConfigError, RunError, as_integer
from grokinterp.runs.checksums import sha256
from grokinterp.runs.files import MAX_STEP, accessing, parse_json

if TYPE_CHECKING:
    from grokinterp.runs.run import Run

Folder = Literal["weights", "logits"]
Step = int | Literal["last"]
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


def checksum_of(contents: Mapping[Folder, bytes]) -> str:
    """One checksum for the contents of the files of a step, by folder."""
    return combined_checksum([sha256(contents[folder]) for folder in FOLDERS if folder in contents])


def combined_checksum(checksums: list[str]) -> str:
    """One checksum for the files of a step: the checksum of a single file, or a hash over those of several."""
    return checksums[0] if len(checksums) == 1 else sha256(" ".join(checksums).encode())


def describe_bad_frozen(text: str) -> str:
    """Describes what is wrong with the list of frozen weights; empty if it is valid."""
    try:
        names = parse_json(text)
    except ValueError:
        names = None
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return "" if valid else "its list of frozen weights is invalid"


def resolve_step(run: "Run", step: Step) -> int:
    """The step of a checkpoint that was given as a number or as `last`.

    Raises:
        ConfigError: it is neither.
        RunError: the run has no checkpoint.
    """
    if step != "last":
        return as_integer(step, 'a step (if not "last")')
    if not run.steps:
        raise RunError(f"{run.path} has no checkpoint yet")
    return run.steps[-1]
