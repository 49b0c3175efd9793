"""Sweeps from the command line: kills, interrupts, failures of processes, job arrays and bad input."""

import contextlib
import json
import os
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import processes
import pytest
from processes import TIMEOUT, wait_until
from sweeps import (
    BASE,
    TWELVE,
    InProcess,
    assert_complete,
    assert_same_table,
    finished_runs,
    is_alive,
    start_command,
    sweep_words,
    train_twelve,
    workers_of,
)

from grokinterp.errors import ConfigError
from grokinterp.runs.locks import hold
from grokinterp.sweep import Sweep, commands, expand, plan, train_sweep


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Sweep:
    return train_twelve(tmp_path_factory.getbasetemp())


class TestKilled:
    @pytest.mark.slow
    def test_a_killed_sweep_continues_to_the_same_table(self, undisturbed, tmp_path, shell):
        folder = tmp_path / "killed"
        with hold_last_run(folder), start_command(sweep_words(folder, "--workers", "2")) as process:
            wait_until(lambda: len(finished_runs(folder)) >= 4 and workers_of(folder), process)
            process.kill()
            process.communicate()
        assert 4 <= len(finished_runs(folder)) < 12, "it was killed in the middle"
        again = shell(*sweep_words(folder, "--workers", "1")[3:])
        assert again.code == 0, again.out
        assert_complete(folder, 12)
        assert_same_table(pd.read_parquet(folder / "sweep.parquet"), undisturbed.table)

    @pytest.mark.slow
    def test_no_worker_outlives_a_killed_sweep(self, tmp_path):
        """The workers are killed by nobody: they notice, in the middle of a training, that their parent has ended."""
        folder = tmp_path / "orphans"
        endless = replace(BASE, schedule=replace(BASE.schedule, steps=1_000_000))
        with start_command(sweep_words(folder, "--workers", "2", config=endless)) as process:
            wait_until(lambda: len(workers_of(folder)) == 2, process)
            wait_until(lambda: len(list(folder.glob("*/metrics.jsonl"))) == 2, process)
            workers = workers_of(folder)
            process.kill()
            process.communicate()
        try:
            assert len(workers) == 2
            wait_until(lambda: not any(map(is_alive, workers)))
        finally:
            for pid in filter(is_alive, workers):
                os.kill(pid, signal.SIGKILL)

    @pytest.mark.slow
    def test_a_killed_worker_costs_only_its_run(self, tmp_path):
        folder = tmp_path / "unlucky"
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=800))
        with start_command(sweep_words(folder, "--workers", "1", config=longer, grid=["model_seed=0:3"])) as process:
            wait_until(lambda: (folder / "model_seed=1" / ".lock").is_file() and workers_of(folder), process)
            os.kill(workers_of(folder)[0], signal.SIGKILL)
            process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        sweep = Sweep.open(folder)
        assert sweep.table["status"].tolist() == ["finished", "failed", "finished"]
        assert sweep.failures["model_seed=1"].kind == "killed"
        assert "SIGKILL" in sweep.table["failure"][1]
        # The next call resumes the run from its resume point, and deletes the failure.
        again = train_sweep(folder, executor=InProcess())
        assert again.failures == {}
        assert again.table["status"].tolist() == ["finished"] * 3
        assert_complete(folder, 3, longer.schedule)

    @pytest.mark.slow
    def test_ctrl_c_stops_runs_so_that_they_can_resume(self, undisturbed, tmp_path):
        folder = tmp_path / "interrupted"
        with hold_last_run(folder), start_command(sweep_words(folder, "--workers", "2")) as process:
            wait_until(lambda: len(finished_runs(folder)) >= 2 and len(workers_of(folder)) == 2, process)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 130
        assert "continue with: grokinterp sweep" in output
        table = Sweep.open(folder).table
        assert set(table["status"]) <= {"finished", "stopped", "missing"}
        assert (table["status"] != "finished").any()
        assert Sweep.open(folder).failures == {}
        assert not list(folder.glob("**/.lock"))
        assert_same_table(train_sweep(folder, executor=InProcess()).table, undisturbed.table)


def hold_last_run(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep the last of the twelve runs from starting, so that the sweep cannot end, however slow this process is."""
    return hold(folder / "weight_decay=3,model_seed=3")


class TestFailures:
    @pytest.mark.slow
    def test_three_kinds_of_failure_are_reported_and_the_other_runs_finish(self, tmp_path, memory_limit):
        """One run diverges, two are invalid, and one takes too much memory: the kernel kills it."""
        folder = tmp_path / "failing"
        points = [
            {"model_seed": 0},
            {"optimizer.lr": 1e30},
            {"task.train_fraction": 1.5},
            {"model.width": 12_000},
            {"model_seed": 1},
            {"task.train_fraction": 0.001},
        ]
        config = replace(BASE, loss="mse", schedule=replace(BASE.schedule, steps=50))
        file = tmp_path / "config.json"
        file.write_text(config.to_json())
        (tmp_path / "points.json").write_text(json.dumps(points))
        command = [sys.executable, "-m", "grokinterp.cli", "sweep", str(folder), "--config", str(file), "--points"]
        with start_command(memory_limit([*command, str(tmp_path / "points.json"), "--workers", "1"])) as process:
            output, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1, errors
        sweep = Sweep.open(folder)
        assert {name: failure.kind for name, failure in sweep.failures.items()} == {
            "lr=1e+30": "diverged",
            "train_fraction=1.5": "invalid",
            "width=12000": "killed",
            "train_fraction=0.001": "invalid",
        }
        assert "SIGKILL" in sweep.failures["width=12000"].message
        for name, failure in sweep.failures.items():
            assert f"failed {name}: {failure}" in output
        table = sweep.table.set_index("run")
        assert table.loc[["model_seed=0", "model_seed=1"], "status"].tolist() == ["finished"] * 2
        assert table["status"].value_counts().to_dict() == {"failed": 3, "finished": 2, "diverged": 1}
        assert table.loc["train_fraction=1.5", "task.train_fraction"] == 1.5

    def test_a_sweep_of_invalid_runs_only(self, tmp_path, shell):
        ended = shell("sweep", str(tmp_path / "s"), "--preset", "psi", "--grid", "optimizer.lr=-1,-2")
        assert ended.code == 1
        assert "failed lr=-1: invalid: lr=-1: optimizer: lr must be a finite number > 0" in ended.out
        assert (tmp_path / "s" / "report.html").is_file()
        assert Sweep.open(tmp_path / "s").table["T_grok_0.95"].isna().all()


@pytest.fixture
def memory_limit():
    """Wraps a command so that the kernel kills its processes when they take more than 1.3 GB of memory."""
    group = Path("/sys/fs/cgroup/memory") / f"grokinterp-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(1_300_000_000))
    except OSError as error:
        pytest.skip(f"cannot create a memory control group: {error}")
    yield lambda command: ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    wait_until(lambda: not (group / "cgroup.procs").read_text().strip())
    group.rmdir()


class TestJobArray:
    @pytest.mark.slow
    def test_its_commands_produce_the_table_of_the_sweep(self, undisturbed, tmp_path, shell):
        folder = tmp_path / "with space"
        file = tmp_path / "config.json"
        file.write_text(BASE.to_json())
        grid = ["--grid", "optimizer.weight_decay=3", "model_seed=0:2"]
        words = ["sweep", str(folder), "--config", str(file), *grid, "--print-commands"]
        lines = shell(*words).out.splitlines()
        assert len(lines) == 2
        assert not list(folder.glob("*/config.json"))
        first = lines[0].replace("grokinterp", f"{sys.executable} -m grokinterp.cli", 1)
        processes.run(first, shell=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert shell(*shlex.split(lines[1])[1:]).code == 0
        assert commands(Sweep.open(folder)) == []
        sweep = shell("sweep", str(folder))
        assert sweep.code == 0
        report = folder / "report.html"
        assert f"report: {report}" in sweep.out
        assert "model_seed=1" in report.read_text()
        assert shell("report", str(folder), "--output", str(tmp_path / "again.html")).code == 0
        assert (tmp_path / "again.html").read_text() == report.read_text()
        expected = undisturbed.table[undisturbed.table["run"].isin([p.name for p in Sweep.open(folder).points])]
        assert_same_table(Sweep.open(folder).table, expected.reset_index(drop=True))

    @pytest.mark.slow
    def test_two_elements_of_one_run_train_it_once(self, tmp_path):
        folder = tmp_path / "s"
        words = sweep_words(folder, "--only", "model_seed=0", grid=["model_seed=0:2"])
        with start_command(words) as first, start_command(words) as second:
            outputs = [process.communicate(timeout=TIMEOUT) for process in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0), outputs
        assert Sweep.open(folder).failures == {}
        assert Sweep.open(folder).table["status"].tolist() == ["finished", "missing"]

    @pytest.mark.slow
    def test_a_stopped_element_reports_it(self, tmp_path):
        folder = tmp_path / "s"
        endless = replace(BASE, schedule=replace(BASE.schedule, steps=1_000_000))
        Sweep(folder, endless, expand(endless, grid={"model_seed": [0]})).write()
        words = [sys.executable, "-m", "grokinterp.cli", "sweep", str(folder), "--only", "model_seed=0"]
        with start_command(words) as process:
            wait_until(lambda: workers_of(folder) and (folder / "model_seed=0" / "metrics.jsonl").exists(), process)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 130
        assert output == f"{folder / 'model_seed=0'}: stopped\n"

    def test_a_grown_sweep_has_a_command_for_every_run(self, undisturbed):
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=500))
        assert len(commands(plan(undisturbed.path, longer, grid=TWELVE))) == 12
        assert commands(undisturbed) == []

    def test_a_folder_whose_name_starts_with_a_hyphen(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (line,) = commands(plan("-x", BASE, grid={"model_seed": [0]}))
        assert line.startswith("grokinterp sweep ./-x --only ")

    @pytest.mark.parametrize("name", ["two\nlines", "\x1b[31m"])
    def test_a_path_that_is_not_one_line_of_text_has_no_commands(self, name, tmp_path):
        sweep = plan(tmp_path / name, BASE, grid={"model_seed": [0]})
        with pytest.raises(ConfigError, match=r"has characters that a list of commands cannot hold: rename the folder"):
            commands(sweep)

    def test_a_run_that_is_not_in_the_sweep(self, undisturbed, shell):
        ended = shell("sweep", str(undisturbed.path), "--only", "model_seed=77")
        assert ended.code == 2
        assert "has no run 'model_seed=77'; it has 12" in ended.err


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--preset", "psi"], "nothing varies"),
            (["--preset", "psi", "--grid", "model_seed"], "not of the form FIELD=VALUES"),
            (["--preset", "psi", "--grid", "model_sed=1"], "did you mean 'model_seed'"),
            (["--preset", "psi", "--grid", "model_seed=1", "model_seed=2"], "names model_seed twice"),
            (["--preset", "psi", "--grid", "model_seed=1", "--grid", "model_seed=2"], "names model_seed twice"),
            (["--preset", "psy", "--grid", "model_seed=1"], "did you mean 'psi'"),
            (["--preset", "psi", "--points", "nowhere.json"], "nowhere.json"),
            (["--preset", "psi", "--grid", "model_seed=1", "--address", "auto"], "--executor ray"),
            (["--preset", "psi", "--grid", "model_seed=1", "--workers", "0"], "workers must lie in"),
            ([], "is not a sweep"),
        ],
    )
    def test_bad_input_is_one_line_and_leaves_nothing(self, tmp_path, shell, options, message):
        ended = shell("sweep", str(tmp_path / "s"), *options)
        assert ended.code == 2
        assert message in ended.err
        assert ended.err.count("\n") == 1
        assert not (tmp_path / "s").exists()

    def test_a_second_grid_adds_to_the_first(self, tmp_path, shell):
        options = ["--preset", "psi", "--task.p", "11", "--grid", "model_seed=0,1", "--grid", "data_seed=7"]
        ended = shell("sweep", str(tmp_path / "s"), *options, "--dry-run")
        assert ended.code == 2
        assert "data_seed" in ended.err  # the field's name is task.data_seed: the second option was read
        options[-1] = "task.data_seed=7,8"
        ended = shell("sweep", str(tmp_path / "s"), *options, "--dry-run")
        assert ended.code == 0, ended.err
        assert len(ended.out.split()) == 4
        paired = ["--preset", "psi", "--zip", "model_seed=0,1", "--zip", "task.data_seed=7,8", "--dry-run"]
        assert len(shell("sweep", str(tmp_path / "s"), *paired).out.split()) == 2

    def test_dry_run_lists_the_runs_and_writes_nothing(self, tmp_path, shell):
        options = ["--preset", "psi", "--task.p", "11", "--grid", "model_seed=0:3", "--dry-run"]
        ended = shell("sweep", str(tmp_path / "s"), *options)
        assert ended.code == 0
        assert ended.out.split() == ["model_seed=0", "model_seed=1", "model_seed=2"]
        assert "3 runs" in ended.err
        assert not (tmp_path / "s").exists()
