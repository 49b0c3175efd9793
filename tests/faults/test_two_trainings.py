"""Two trainings in one folder: one wins, and the other names it; if the winner is killed, the folder is unlocked."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import outcome
from processes import TIMEOUT, start, wait_until

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.training import train

CONFIG = RunConfig(
    task=TaskConfig(p=5, train_fraction=0.5),
    model=MLPConfig(width=4, depth=1),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=1_000, evaluate_every=50, checkpoints=100, resume_every=100),
)


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `grokinterp train` in a folder, and kills it at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start_training(folder: Path, *more: str) -> subprocess.Popen[str]:
            words = [sys.executable, "-m", "grokinterp.cli", "train", str(folder), *more]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return stack.enter_context(start(words, env=environment, **pipes))

        yield start_training


@pytest.mark.slow
def test_one_training_wins_and_its_kill_unlocks_the_folder(command, tmp_path):
    endless, folder = tmp_path / "config.json", tmp_path / "run"
    endless.write_text(CONFIG.to_json().replace("1000,", "1000000,", 1))
    winner = command(folder, "--config", str(endless))
    wait_until((folder / "resume.safetensors").exists, winner)
    losers = [command(folder, "--resume"), command(folder, "--config", str(endless))]
    errors = [loser.communicate(timeout=TIMEOUT)[1].splitlines() for loser in losers]
    assert [loser.returncode for loser in losers] == [2, 2]
    assert [len(lines) for lines in errors] == [1, 1]
    assert f"{folder} is in use by process {winner.pid} on " in errors[0][0]
    assert f"{folder} already holds a run: resume it (--resume; in Python, resume=True)" in errors[1][0]
    assert winner.poll() is None
    assert verify(folder).problems == ()
    winner.send_signal(signal.SIGKILL)
    winner.communicate()
    assert verify(folder).problems == ()
    assert Run.open(folder).status["status"] == "running"
    heir = command(folder, "--resume")
    step = Run.open(folder).status["step"]
    wait_until(lambda: Run.open(folder).status["step"] > step, heir)
    heir.send_signal(signal.SIGINT)
    output, _ = heir.communicate(timeout=TIMEOUT)
    assert heir.returncode == 130
    assert "stopped at step" in output
    assert Run.open(folder).status["step"] > step
    assert verify(folder).problems == ()


@pytest.mark.slow
def test_two_that_start_at_once(command, tmp_path):
    """Whichever is first, the folder ends up like that of a single run."""
    config = tmp_path / "config.json"
    config.write_text(CONFIG.to_json())
    both = [command(tmp_path / "run", "--config", str(config)) for _ in range(2)]
    outputs = [process.communicate(timeout=TIMEOUT) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2], outputs
    (line,) = next(err for process, (_, err) in zip(both, outputs, strict=True) if process.returncode == 2).splitlines()
    assert "is in use by process" in line or "already holds a run" in line
    assert verify(tmp_path / "run").problems == ()
    alone = train(CONFIG, tmp_path / "alone")
    assert outcome(tmp_path / "run") == outcome(alone.path)
