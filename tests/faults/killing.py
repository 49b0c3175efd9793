"""Kills a training with SIGKILL at random moments, checks its folder, and resumes it, until it finishes."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from processes import start

from grokinterp.config import RunConfig
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify

NURSERY = Path(__file__).parent / "nursery.py"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Life:
    """A process that trained until it ended or was killed.

    Attributes:
        code: exit status, or the negative number of the signal that ended it.
        stepped: whether it made the update after which it was to be killed.
    """

    code: int
    stepped: bool


class Nursery:
    """The running script `nursery.py`."""

    def __enter__(self) -> "Nursery":
        environment = {
            **os.environ,
            **{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),  # the package under test
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.stack = contextlib.ExitStack()
        self.process = self.stack.enter_context(start([sys.executable, str(NURSERY)], env=environment, **pipes))
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def live(self, config: RunConfig, path: Path, updates: int = 1, delay: float | None = None) -> Life:
        """Trains or resumes in a child, and kills it `delay` seconds after so many updates; None lets it finish."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        resume = (path / "config.json").exists()
        job = {"config": config.to_json(), "path": str(path), "resume": resume, "updates": updates}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        child, stepped = 0, False
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "child":
                child = int(rest[0])
            elif word == "step":
                stepped = True
            elif word == "exit":
                return Life(int(rest[0]), stepped)
            if stepped and child and delay is not None:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
                delay = None
        raise AssertionError("the nursery ended")


def kill_and_resume(config: RunConfig, path: Path, kills: int, seed: int) -> list[int]:
    """Kills a run several times, checks it each time, and finally lets it finish.

    Args:
        config: of the run, which must be long enough to be killed so often.
        path: its folder.
        kills: number of kills.
        seed: of the random moments.

    Returns:
        The step of the resume point found after each kill.
    """
    instants, found, safe = random.Random(seed), list[int](), dict[str, str]()
    longest_life = 3 * config.training().schedule.resume_every  # so that a third of the lives reach no new resume point
    with Nursery() as nursery:
        while len(found) < kills:
            life = nursery.live(config, path, instants.randint(1, longest_life), instants.uniform(0, 0.005))
            assert life.code == -signal.SIGKILL, f"after {len(found)} kills it ended with {life.code}: give more steps"
            assert life.stepped
            found.append(look_at_the_dead(path, safe))
        assert nursery.live(config, path).code == 0
    return found


def look_at_the_dead(path: Path, safe: dict[str, str]) -> int:
    """Checks a killed run, and returns the step of its resume point.

    Args:
        path: the run.
        safe: checksums of checkpoints that no later kill may lose; those up to the resume point are added.
    """
    run = Run.open(path)
    assert verify(path).problems == ()
    for name, checksum in safe.items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == checksum, f"{name} was lost"
    step = resume_step(path)
    for kept in run.steps:
        run.weights(kept)
        if kept <= step:
            name = f"weights/step_{kept:06d}.safetensors"
            safe[name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    return step


def resume_step(path: Path) -> int:
    """The step of the resume point, from the header of the file; -1 if there is none."""
    file = path / "resume.safetensors"
    if not file.exists():
        return -1
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return int(json.loads(header["__metadata__"]["resume_point"])["step"])


def outcome(path: Path) -> dict[str, bytes]:
    """The files that must be equal bit for bit: metrics, checkpoints, and the resume point."""
    files = [path / "metrics.jsonl", path / "resume.safetensors", *(path / "weights").iterdir()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
