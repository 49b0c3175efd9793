"""Two trainings into one folder: one wins, the other says who holds it; a winner that is killed leaves it free."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import outcome

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


def command(folder: Path, *more: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "grokinterp.cli", "train", str(folder), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_until_it_trains(process: subprocess.Popen, folder: Path) -> None:
    for _ in range(600):
        if (folder / "resume.safetensors").exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not begin")


def test_one_wins_and_when_it_is_killed_the_folder_is_free(tmp_path):
    endless, folder = tmp_path / "config.json", tmp_path / "run"
    endless.write_text(CONFIG.to_json().replace("1000,", "1000000,", 1))
    winner = command(folder, "--config", str(endless))
    try:
        wait_until_it_trains(winner, folder)
        losers = [command(folder, "--resume"), command(folder, "--config", str(endless))]
        said = [loser.communicate(timeout=240)[1].splitlines() for loser in losers]
        assert [loser.returncode for loser in losers] == [2, 2]
        assert [len(lines) for lines in said] == [1, 1]
        assert f"{folder} is in use by process {winner.pid} on " in said[0][0]
        assert f"{folder} already holds a run: resume it (--resume), or choose another folder" in said[1][0]
        assert winner.poll() is None
        assert verify(folder).problems == ()
    finally:
        winner.send_signal(signal.SIGKILL)
        winner.communicate()
    assert verify(folder).problems == ()
    assert Run.open(folder).status["status"] == "running"
    heir = command(folder, "--resume")
    try:
        step = Run.open(folder).status["step"]
        deadline = time.monotonic() + 120
        while Run.open(folder).status["step"] <= step and time.monotonic() < deadline:
            assert heir.poll() is None, heir.communicate()
            time.sleep(0.05)
        heir.send_signal(signal.SIGINT)
        said, _ = heir.communicate(timeout=60)
    finally:
        heir.kill()
    assert heir.returncode == 130
    assert "stopped at step" in said
    assert Run.open(folder).status["step"] > step
    assert verify(folder).problems == ()


@pytest.mark.slow
def test_two_that_start_at_once(tmp_path):
    """Whoever is first, the folder ends as one run would have left it."""
    config = tmp_path / "config.json"
    config.write_text(CONFIG.to_json())
    both = [command(tmp_path / "run", "--config", str(config)) for _ in range(2)]
    said = [process.communicate(timeout=240) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2], said
    (line,) = next(err for process, (_, err) in zip(both, said, strict=True) if process.returncode == 2).splitlines()
    assert "is in use by process" in line or "already holds a run" in line
    assert verify(tmp_path / "run").problems == ()
    alone = train(CONFIG, tmp_path / "alone")
    assert outcome(tmp_path / "run") == outcome(alone.path)
