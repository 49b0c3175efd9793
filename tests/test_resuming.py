"""Resuming: a run resumes bit for bit wherever and however often it is killed. Training changes no global state."""

import errno
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from trainings import (
    CONFIGS,
    MINIBATCH_MLP,
    MORE_CONFIGS,
    PATHS,
    TRANSFORMER,
    briefly,
    contents,
    result,
    shortened,
)

from grokinterp.config import (
    RunConfig,
)
from grokinterp.errors import RunError
from grokinterp.runs.run import Run
from grokinterp.training import threads, train

CHILDREN = """
import json, os, random, signal, sys
from pathlib import Path

import numpy
import torch
import torch._dynamo  # once here, not in every child: optimizers import it at their first step
from processes import die_with_parent

from grokinterp.config import RunConfig
from grokinterp.training import Callback, train

torch.set_num_threads(1)


class Death(Callback):
    def __init__(self, where, step, number, times):
        self.where, self.step, self.number, self.times = where, step, number, times

    def on_start(self, config, step, last_step):
        self.strike("start", None)

    def on_step(self, step):
        self.strike("update", step)

    def on_evaluation(self, metrics):
        self.strike("evaluation", metrics["step"])
        return False

    def strike(self, where, step):
        if where == self.where and step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def die_instead_of_renaming(name):
    rename = Path.replace

    def replace(self, target):
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = replace


def live(job):
    if job["where"] == "rename":
        die_instead_of_renaming(job["step"])
    death = Death(job["where"], job["step"], job["signal"], job["times"])
    config = RunConfig.from_json(job["config"])
    before = random_states()
    train(config, job["path"], resume=job["resume"], start_from=job["start_from"], callbacks=[death])
    return 0 if random_states() == before else 3


def random_states():
    return random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()


for job in json.load(sys.stdin):
    parent, child = os.getpid(), os.fork()
    if child == 0:
        code = 1
        die_with_parent(parent)
        try:
            code = live(job)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Where a child dies: SCHEDULE writes resume points at 0, 60, 120, 180 and evaluates every 20 steps.
DEATHS = {
    "before anything was computed": ("start", None),
    "before the first resume point": ("evaluation", 0),
    "right after the first resume point": ("update", 1),
    "between two resume points": ("update", 100),
    "with metrics ahead of the resume point": ("evaluation", 120),
    "right after a resume point": ("update", 121),
    "while a checkpoint is written": ("rename", "step_000150.safetensors"),
    "while a resume point is written": ("rename", "resume.safetensors"),
    "before the last step is evaluated": ("update", 200),
}
# Where a child with SHORTER dies, which has resume points at 0, 20 and 40.
FEWER_DEATHS = {
    "right after the first resume point": ("update", 1),
    "between two resume points": ("update", 33),
    "while a resume point is written": ("rename", "resume.safetensors"),
}
KILLED = {("minibatch_mlp", death): where for death, where in DEATHS.items()}
KILLED |= {("transformer", death): DEATHS[death] for death in FEWER_DEATHS}
KILLED |= {(kind, death): where for kind in MORE_CONFIGS for death, where in FEWER_DEATHS.items()}


def job(config: RunConfig, path: Path, where: str, step, number: int = signal.SIGKILL, **more) -> dict:
    options = {"config": config.to_json(), "path": str(path), "where": where, "step": step, "signal": int(number)}
    return options | {"times": 1, "resume": False, "start_from": None} | more


@pytest.fixture(scope="module")
def dead(tmp_path_factory, undisturbed) -> dict[tuple[str, str], tuple[Path, int]]:
    """Runs of processes that were killed, interrupted or left alone: folder and exit status, by model and death.

    A process that ends normally exits with 3 if a global random state has changed.
    """
    folder = tmp_path_factory.mktemp("dead")
    jobs = {}
    for n, ((kind, name), (where, step)) in enumerate(KILLED.items()):
        jobs[kind, name] = job((CONFIGS | MORE_CONFIGS)[kind], folder / f"{kind}{n}", where, step)
    for kind, config in CONFIGS.items():
        jobs[kind, "none"] = job(briefly(config), folder / f"{kind}_alive", "never", None)
        jobs[kind, "Ctrl-C"] = job(config, folder / f"{kind}_int", "update", 107, signal.SIGINT)
        jobs[kind, "SIGTERM"] = job(config, folder / f"{kind}_term", "update", 60, signal.SIGTERM)
    twice = folder / "twice"
    jobs["transformer", "first of two"] = job(TRANSFORMER, twice, "update", 70)
    jobs["transformer", "killed twice"] = job(TRANSFORMER, twice, "update", 130, resume=True)
    impatient = folder / "impatient"
    jobs["transformer", "Ctrl-C twice"] = job(TRANSFORMER, impatient, "update", 107, signal.SIGINT, times=2)
    source = f"{undisturbed['transformer'].path}@150"
    jobs["transformer", "started from another"] = job(TRANSFORMER, folder / "from", "start", None, start_from=source)
    script = processes.run(
        [sys.executable, "-c", CHILDREN],
        input=json.dumps(list(jobs.values())),
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert script.returncode == 0, script.stderr
    codes = [int(line) for line in script.stdout.split()]
    return {key: (Path(each["path"]), code) for (key, each), code in zip(jobs.items(), codes, strict=True)}


class TestDyingAndResuming:
    @pytest.mark.parametrize(("kind", "death"), KILLED)
    def test_a_killed_run_resumes_bit_for_bit(self, kind, death, dead, undisturbed):
        path, code = dead[kind, death]
        config = (CONFIGS | MORE_CONFIGS)[kind]
        assert code == -signal.SIGKILL
        halfway = Run.open(path)
        assert halfway.config == config
        assert halfway.environment["forward_path"] == PATHS[kind]
        assert halfway.status.get("status", "running") == "running"
        assert halfway.metrics.index.is_monotonic_increasing
        for step in halfway.steps:
            halfway.weights(step)
        resumed = train(config, path, resume=True)
        assert result(path) == result(undisturbed[kind].path)
        assert resumed.status["status"] == "finished"
        assert resumed.status["step"] == config.schedule.steps
        assert resumed.status["checksums"] == undisturbed[kind].status["checksums"]

    def test_a_run_killed_twice_resumes_bit_for_bit(self, dead, undisturbed):
        path, code = dead["transformer", "killed twice"]
        assert code == -signal.SIGKILL
        train(TRANSFORMER, path, resume=True)
        assert result(path) == result(undisturbed["transformer"].path)

    @pytest.mark.parametrize(("death", "step"), [("Ctrl-C", 107), ("SIGTERM", 60)])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_an_interrupted_run_is_stopped_and_resumes_bit_for_bit(self, kind, death, step, dead, undisturbed):
        path, code = dead[kind, death]
        assert code == 0
        status = Run.open(path).status
        assert (status["status"], status["step"], status["reason"]) == ("stopped", step, "interrupted")
        assert train(CONFIGS[kind], path, resume=True).status["status"] == "finished"
        assert result(path) == result(undisturbed[kind].path)

    def test_a_second_interrupt_does_not_wait(self, dead, undisturbed):
        path, code = dead["transformer", "Ctrl-C twice"]
        assert code == 130
        assert Run.open(path).status["status"] == "stopped"
        train(TRANSFORMER, path, resume=True)
        assert result(path) == result(undisturbed["transformer"].path)

    def test_a_run_started_from_another_resumes_from_there(self, dead, undisturbed):
        path, code = dead["transformer", "started from another"]
        assert code == -signal.SIGKILL
        resumed = train(TRANSFORMER, path, resume=True)
        expected = undisturbed["transformer"].weights(150)
        for name, weight in resumed.weights(0).items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)

    def test_a_full_disk_stops_the_run_which_resumes_bit_for_bit(self, tmp_path, monkeypatch, undisturbed):
        rename = Path.replace

        def full(self, target):
            if Path(target).name == "step_000100.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as disk:
            disk.setattr(Path, "replace", full)
            with pytest.raises(RunError, match=r"cannot write .*step_000100.safetensors: No space left on device"):
                train(TRANSFORMER, tmp_path / "run")
        status = Run.open(tmp_path / "run").status
        assert status["status"] == "stopped"
        assert "No space left on device" in status["reason"]
        train(TRANSFORMER, tmp_path / "run", resume=True)
        assert result(tmp_path / "run") == result(undisturbed["transformer"].path)

    def test_resuming_a_finished_run_changes_nothing(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = result(run.path)
        again = train(MINIBATCH_MLP, run.path, resume=True)
        assert again.status["status"] == "finished"
        assert again.status["step"] == 200
        assert result(run.path) == before

    def test_the_same_call_starts_a_run_and_continues_it(self, tmp_path):
        train(briefly(steps=10), tmp_path / "run", resume=True)
        run = train(briefly(steps=20), tmp_path / "run", resume=True)
        assert result(run.path) == result(train(briefly(steps=20), tmp_path / "other").path)

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_more_steps_may_be_given_and_are_recorded(self, kind, tmp_path, undisturbed):
        train(shortened(CONFIGS[kind], steps=100), tmp_path / "run")
        longer = train(CONFIGS[kind], tmp_path / "run", resume=True)
        assert longer.config == CONFIGS[kind]
        assert result(tmp_path / "run") == result(undisturbed[kind].path)

    def test_another_number_of_threads_is_reported_once_and_kept(self, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr(threads, "cores", lambda: 2)
        train(briefly(), tmp_path / "run")
        expected = "the run was resumed at step 10 in another environment (threads: 1 -> 2): from there on"
        train(briefly(steps=15), tmp_path / "run", resume=True, threads=2)
        train(briefly(steps=20), tmp_path / "run", resume=True)  # with two threads, like the last
        assert torch.get_num_threads() == 1
        (finding,) = Run.open(tmp_path / "run").status["warnings"]
        assert (finding["step"], finding["kind"]) == (10, "environment_changed")
        assert finding["message"].startswith(expected)
        assert [expected in record.getMessage() for record in caplog.records] == [True]

    @pytest.mark.parametrize("loss", ["missing", "damaged"])
    def test_without_its_resume_point_a_run_can_only_be_restarted(self, loss, tmp_path):
        train(briefly(), tmp_path / "run")
        before = contents(tmp_path / "run")
        if loss == "missing":
            (tmp_path / "run" / "resume.safetensors").unlink()
        else:
            (tmp_path / "run" / "resume.safetensors").write_bytes(b"half of it")
        message = "has no resume point" if loss == "missing" else "resume.safetensors is damaged"
        with pytest.raises(RunError, match=f"{message}.*--restart"):
            train(briefly(steps=20), tmp_path / "run", resume=True)
        replaced = contents(tmp_path / "run")
        assert {name: data for name, data in before.items() if "resume" not in name} == {
            name: data for name, data in replaced.items() if "resume" not in name
        }
        train(briefly(), tmp_path / "run", restart=True)
        assert contents(tmp_path / "run.replaced") == replaced
        again = contents(tmp_path / "run")
        assert again["metrics.jsonl"] == before["metrics.jsonl"]
        assert again["resume.safetensors"] == before["resume.safetensors"]

    @pytest.mark.parametrize("path", [".", ".."])
    def test_a_folder_without_a_name_is_not_restarted(self, path, tmp_path, monkeypatch):
        train(briefly(), tmp_path / "run")
        (tmp_path / "run" / "inside").mkdir()
        monkeypatch.chdir(tmp_path / "run" / ("" if path == "." else "inside"))
        with pytest.raises(RunError, match="give the path of the run folder by its name"):
            train(briefly(), path, restart=True)

    def test_a_finished_run_with_no_more_steps_is_left_alone(self, tmp_path):
        train(briefly(), tmp_path / "run")
        (tmp_path / "run" / "resume.safetensors").unlink()
        before = contents(tmp_path / "run")
        train(briefly(), tmp_path / "run", resume=True)
        assert contents(tmp_path / "run") == before


class TestNoTraces:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_global_random_states_are_left_alone(self, kind, dead):
        path, code = dead[kind, "none"]
        assert Run.open(path).status["status"] == "finished"
        assert code == 0

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_global_random_states_have_no_influence(self, kind, tmp_path):
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            train(briefly(CONFIGS[kind]), tmp_path / str(seed))
        assert result(tmp_path / "1") == result(tmp_path / "2")

    def test_signal_handlers_are_restored(self, tmp_path):
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        train(briefly(), tmp_path / "run")
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    def test_training_in_another_thread(self, tmp_path):
        worker = threading.Thread(target=train, args=(briefly(), tmp_path / "run"))
        worker.start()
        worker.join(120)
        assert Run.open(tmp_path / "run").status["status"] == "finished"

    def test_nothing_is_printed_outside_a_terminal(self, tmp_path, capfd):
        train(briefly(), tmp_path / "run")
        assert capfd.readouterr() == ("", "")

    def test_a_progress_bar_on_request(self, tmp_path, capsys):
        train(briefly(), tmp_path / "run", progress=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "10/10" in shown.err
        assert "accuracy" in shown.err

    def test_no_tracker_is_imported_unless_requested(self, tmp_path, monkeypatch):
        for service in ("wandb", "trackio"):
            monkeypatch.delitem(sys.modules, service, raising=False)
        train(briefly(TRANSFORMER), tmp_path / "run")
        assert not {"wandb", "trackio"} & set(sys.modules)
