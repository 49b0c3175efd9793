"""Locks: one process at a time uses a folder, and a killed process leaves it unlocked."""

import contextlib
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import processes
import pytest
from trainings import briefly, contents

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import RunError
from grokinterp.runs.locks import LOCK_NAME, FolderInUseError, hold
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.training import Callback, train, train_many

CONFIG = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=MLPConfig(width=8),
    optimizer=OptimizerConfig(),
    schedule=ScheduleConfig(steps=20, evaluate_every=10, checkpoints=10),
)


class StopAtOnce(Callback):
    """Ends a run at its first evaluation."""

    def on_evaluation(self, metrics):
        return True


HOLDER = """
import sys, time
from pathlib import Path
from grokinterp.runs.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with processes.start(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_is_refused_and_the_error_names_the_first(holder, tmp_path):
    said = rf"run is in use by process {holder.pid} on \S+: wait until that process ends"
    with pytest.raises(FolderInUseError, match=said), hold(tmp_path / "run"):
        pass


def test_a_killed_process_leaves_the_folder_unlocked(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK_NAME).exists(), "the file stays, the lock does not"
    with hold(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_lock_also_holds_within_a_process(tmp_path):
    with hold(tmp_path), pytest.raises(FolderInUseError), hold(tmp_path):
        pass
    with hold(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()


def test_competing_processes_get_the_lock_one_after_another(tmp_path):
    """Each process increments a counter under the lock: no increment is lost, although the lock file comes and goes."""
    script = """
import sys, time
from pathlib import Path
from grokinterp.runs.locks import FolderInUseError, hold
folder = Path(sys.argv[1])
done = 0
while done < 40:
    try:
        with hold(folder):
            count = int((folder / "count").read_text())
            time.sleep(0.0005)
            (folder / "count").write_text(str(count + 1))
            done += 1
    except FolderInUseError:
        pass
"""
    (tmp_path / "count").write_text("0")
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", script, str(tmp_path)]
        rivals = [stack.enter_context(processes.start(command)) for _ in range(4)]
        assert [rival.wait(timeout=processes.TIMEOUT) for rival in rivals] == [0] * 4
    assert (tmp_path / "count").read_text() == "160"


def test_a_second_training_is_refused(holder, tmp_path):
    with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
        train(CONFIG, tmp_path / "run", progress=False)
    with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
        train_many([CONFIG], [tmp_path / "run"], progress=False)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [LOCK_NAME]


@pytest.mark.slow
def test_a_killed_training_can_be_resumed_at_once(tmp_path):
    long = replace(CONFIG, schedule=replace(CONFIG.schedule, steps=10_000_000, resume_every=100))
    (tmp_path / "config.json").write_text(long.to_json())
    command = [sys.executable, "-m", "grokinterp.cli", "train", str(tmp_path / "run"), "--config"]
    with processes.start([*command, str(tmp_path / "config.json")], stdout=subprocess.DEVNULL) as process:
        processes.wait_until((tmp_path / "run" / "resume.safetensors").exists, process)
        with pytest.raises(FolderInUseError, match=f"process {process.pid}"):
            train(long, tmp_path / "run", resume=True, progress=False)
        process.kill()
        process.wait()
    again = train(long, tmp_path / "run", resume=True, progress=False, callbacks=[StopAtOnce()])
    assert again.status["status"] == "finished"
    assert len(again.environment["resumed"]) == 1


def test_a_training_whose_folder_was_renamed_leaves_the_new_one_alone(tmp_path):
    class Replace(Callback):
        def on_step(self, step: int) -> None:
            if step == 3:
                (tmp_path / "run").rename(tmp_path / "moved")
                train(replace(briefly(), model_seed=9), tmp_path / "run", progress=False)
                self.other = contents(tmp_path / "run")

    callback = Replace()
    with pytest.raises(RunError, match="run was renamed, removed or replaced"):
        train(briefly(), tmp_path / "run", callbacks=[callback], progress=False)
    assert contents(tmp_path / "run") == callback.other
    assert verify(tmp_path / "run").problems == ()
    (tmp_path / "moved" / ".lock").unlink(missing_ok=True)
    train(briefly(), tmp_path / "moved", resume=True, progress=False)
    assert Run.open(tmp_path / "moved").status["step"] == 10


def test_a_training_leaves_no_lock(tmp_path: Path):
    run = train(CONFIG, tmp_path / "run", progress=False)
    assert Run.open(run.path).status["status"] == "finished"
    assert not (tmp_path / "run" / LOCK_NAME).exists()
