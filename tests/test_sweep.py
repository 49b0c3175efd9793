"""Sweeps: what they vary, what becomes of their runs, and that nothing is lost when they are killed."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.run import Run
from grokinterp.sweep import (
    LocalExecutor,
    Progress,
    Sweep,
    commands,
    expand,
    parse_values,
    plan,
    train_point,
    train_sweep,
)
from grokinterp.sweep.folder import Failure
from grokinterp.training import train

BASE = RunConfig(
    task=TaskConfig(p=17, train_fraction=0.7),
    model=MLPConfig(input="sum", width=64),
    optimizer=OptimizerConfig(lr=1e-2, weight_decay=1.0),
    schedule=ScheduleConfig(steps=400, evaluate_every=10, checkpoints=200, resume_every=50),
    loss_dtype="float32",
)
TWELVE = {"optimizer.weight_decay": [0.3, 1.0, 3.0], "model_seed": range(4)}


class TestGrid:
    def test_every_combination_is_a_run(self):
        points = expand(BASE, grid={"optimizer.weight_decay": [0.3, 1], "model_seed": range(2)})
        assert [point.name for point in points] == [
            "weight_decay=0.3,model_seed=0",
            "weight_decay=0.3,model_seed=1",
            "weight_decay=1,model_seed=0",
            "weight_decay=1,model_seed=1",
        ]
        assert points[1].config(BASE) == replace(
            BASE, optimizer=replace(BASE.optimizer, weight_decay=0.3), model_seed=1
        )

    def test_zipped_fields_move_together(self):
        points = expand(BASE, zipped={"optimizer.lr": [1e-3, 1e-2], "schedule.steps": [1000, 100]})
        assert [dict(point.values) for point in points] == [
            {"optimizer.lr": 1e-3, "schedule.steps": 1000},
            {"optimizer.lr": 1e-2, "schedule.steps": 100},
        ]

    def test_points_zip_and_grid_combine(self):
        points = expand(
            BASE,
            points=[{"model.width": 8}, {"model.width": 16}],
            zipped={"optimizer.lr": [0.1, 0.2], "optimizer.eps": [1, 2]},
            grid={"model_seed": [5]},
        )
        assert [point.name for point in points] == [
            "width=8,lr=0.1,eps=1,model_seed=5",
            "width=8,lr=0.2,eps=2,model_seed=5",
            "width=16,lr=0.1,eps=1,model_seed=5",
            "width=16,lr=0.2,eps=2,model_seed=5",
        ]

    def test_fields_of_one_last_word_keep_their_whole_name(self):
        (point,) = expand(BASE, grid={"task.data_seed": [1], "schedule.checkpoints": ["log:5+every:50"]})
        assert point.name == "data_seed=1,checkpoints=log_5+every_50"
        (point,) = expand(BASE, grid={"optimizer.lr": np.array([0.5])})
        assert point.values == {"optimizer.lr": 0.5}
        assert type(point.values["optimizer.lr"]) is float

    def test_values_that_name_one_folder_are_told_apart(self):
        points = expand(BASE, grid={"schedule.checkpoints": ["every:50", "every/50"]})
        first, second = (point.name for point in points)
        assert first == "checkpoints=every_50"
        assert re.fullmatch(r"checkpoints=every_50-[0-9a-f]{8}", second)

    def test_long_names_are_cut_and_stay_apart_whatever_their_order(self):
        values = ["every:100" + "+every:100" * 30, "every:100" + "+every:100" * 31]
        names = [point.name for point in expand(BASE, grid={"schedule.checkpoints": values})]
        assert len(set(names)) == 2
        assert all(len(name.encode()) <= 160 for name in names)
        backwards = [point.name for point in expand(BASE, grid={"schedule.checkpoints": values[::-1]})]
        assert backwards == names[::-1]
        (wide,) = expand(BASE, grid={"schedule.evaluate_every": ["é" * 150]})
        assert len(wide.name.encode()) <= 160

    def test_names_that_some_disks_take_for_one_are_told_apart(self):
        names = [point.name for point in expand(BASE, grid={"task.operation": ["add", "ADD"]})]
        assert names[0] == "operation=add"
        assert names[1].lower() != names[0]

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"grid": {"optimizer.weight_decoy": [1]}}, "did you mean 'optimizer.weight_decay'"),
            ({"grid": {"model.d_mlp": [1]}}, "model.d_mlp is not a field"),
            ({"grid": {"model.kind": ["mlp"]}}, "one sweep of each kind"),
            ({"grid": {"model_seed": [1]}, "zipped": {"model_seed": [2]}}, "given twice"),
            ({"grid": {"model_seed": []}}, "no values"),
            ({"zipped": {"model_seed": [1, 2], "optimizer.lr": [1]}}, "2 of model_seed, 1 of optimizer.lr"),
            ({"grid": {"model_seed": [1, 1]}}, "model_seed=1 is in the sweep twice"),
            ({"grid": {"optimizer.weight_decay": [1, 1.0]}}, "twice"),
            ({"grid": {"optimizer.weight_decay": [0.5, "0.5 "]}}, "the same run"),
            ({"grid": {"model.activation": "relu"}}, "needs a list of values"),
            ({"grid": {"model_seed": [{1, 2}]}}, "no value of a configuration field"),
            ({"grid": {"task.operation": ["\ud800"]}}, "no value of a configuration field"),
            ({"points": []}, "at least one"),
            ({"grid": {"model_seed": range(1000), "task.data_seed": range(1000)}}, "has 1,000,000 runs"),
        ],
    )
    def test_refusals(self, given, said):
        with pytest.raises(ConfigError, match=said):
            expand(BASE, **given)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("model_seed=0:5", ("model_seed", [0, 1, 2, 3, 4])),
            ("model_seed=0:10:4,20", ("model_seed", [0, 4, 8, 20])),
            ("optimizer.lr=1e-3,0.3", ("optimizer.lr", [0.001, 0.3])),
            ("optimizer.betas=[0.9,0.98],[0.9,0.999]", ("optimizer.betas", [[0.9, 0.98], [0.9, 0.999]])),
            ("task.operation=x^2+xy,add", ("task.operation", ["x^2+xy", "add"])),
            ("model.biases=true,false", ("model.biases", [True, False])),
            ("schedule.checkpoints=log:22:300+every:100", ("schedule.checkpoints", ["log:22:300+every:100"])),
        ],
    )
    def test_values_on_a_command_line(self, text, expected):
        assert parse_values(text) == expected

    def test_numbers_of_numpy_are_numbers(self):
        (point,) = expand(BASE, grid={"optimizer.betas": [(np.float32(0.5), np.array([0.25])[0])]})
        assert point.values == {"optimizer.betas": [0.5, 0.25]}

    @pytest.mark.parametrize(
        "text", ["model_seed", "=1", "model_seed=", "model_seed=3:3", "a=0:4:0", "a=1,,2", "a=0:3000000000"]
    )
    def test_no_values_on_a_command_line(self, text):
        with pytest.raises(ConfigError):
            parse_values(text)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Sweep:
    """Twelve tiny runs, by two processes."""
    return train_sweep(tmp_path_factory.mktemp("sweeps") / "undisturbed", BASE, grid=TWELVE, workers=2)


def events_by_hand(folder: Path, column: str, theta: float) -> tuple[float, float]:
    """First evaluated step at which a column is at least theta, and the step evaluated before it."""
    before = np.nan
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row[column] >= theta:
            return row["step"], before
        before = row["step"]
    return np.nan, np.nan


class TestRuns:
    def test_are_ordinary_runs_trained_to_the_same_bits(self, undisturbed, tmp_path):
        found = Run.open(undisturbed.path / "weight_decay=3,model_seed=2")
        config = replace(BASE, optimizer=replace(BASE.optimizer, weight_decay=3.0), model_seed=2)
        assert found.config == config
        alone = train(config, tmp_path / "alone", progress=False)
        assert found.steps == alone.steps
        assert all(np.array_equal(weight, alone.weights(400)[name]) for name, weight in found.weights(400).items())
        assert (found.path / "metrics.jsonl").read_text() == (alone.path / "metrics.jsonl").read_text()

    def test_leave_nothing_else_behind(self, undisturbed):
        names = {entry.name for entry in undisturbed.path.iterdir()}
        assert names == {point.name for point in undisturbed.points} | {"sweep.json", "sweep.parquet"}

    def test_finished_ones_are_left_alone(self, undisturbed):
        before = {run.path: (run.path / "status.json").stat().st_mtime_ns for run in undisturbed.runs}
        seen: list[Progress] = []
        again = train_sweep(undisturbed.path, watch=seen.append)
        assert {run.path: (run.path / "status.json").stat().st_mtime_ns for run in again.runs} == before
        assert (seen[-1].done, seen[-1].total, seen[-1].waiting) == (12, 12, 0)

    def test_axes_are_the_fields_that_vary(self, undisturbed, tmp_path):
        assert undisturbed.axes == ("optimizer.weight_decay", "model_seed")
        fixed = plan(tmp_path, BASE, grid={"optimizer.weight_decay": [0.3], "model_seed": range(4)})
        assert fixed.axes == ("model_seed",)


class TestTable:
    def test_events_are_those_of_the_metrics(self, undisturbed):
        table = undisturbed.table.set_index("run")
        assert list(table.index) == [point.name for point in undisturbed.points]
        for name, row in table.iterrows():
            for event, column in (("T_train", "train_accuracy"), ("T_grok", "test_accuracy")):
                for theta in (0.95, 0.99):
                    step, before = events_by_hand(undisturbed.path / str(name), column, theta)
                    np.testing.assert_equal(row[f"{event}_{theta}"], step)
                    np.testing.assert_equal(row[f"{event}_{theta}_after"], before)
            np.testing.assert_equal(row["delay_0.95"], row["T_grok_0.95"] - row["T_train_0.95"])
            np.testing.assert_equal(row["delay_0.95_0.99"], row["T_grok_0.95"] - row["T_train_0.99"])
        assert table["T_train_0.99"].notna().all()
        assert table["T_grok_0.95"].notna().sum() >= 3, "some of them generalize, or this test sees little"

    def test_norms_are_those_at_the_event(self, undisturbed):
        table = undisturbed.table.set_index("run")
        for name, row in table[table["T_grok_0.95"].notna()].iterrows():
            metrics = Run.open(undisturbed.path / str(name)).metrics
            assert row["weight_norm_at_T_grok_0.95"] == metrics.loc[int(row["T_grok_0.95"]), "weight_norm"]
            assert row["weight_rms_at_T_grok_0.95"] == metrics.loc[int(row["T_grok_0.95"]), "weight_rms"]
            assert row["weight_norm_max"] == metrics["weight_norm"].max()

    def test_final_measures_are_those_of_the_last_checkpoint(self, undisturbed):
        import grokinterp.measures as gm

        table = undisturbed.table.set_index("run")
        for name in ("weight_decay=0.3,model_seed=0", "weight_decay=3,model_seed=1"):
            snapshot = Run.open(undisturbed.path / name).snapshot(400)
            assert table.loc[name, "final.loss"] == float(gm.loss(snapshot))
            assert table.loc[name, "final.test_accuracy"] == float(
                snapshot.hits[snapshot.task.test_mask].double().mean()
            )
            keys = gm.key_frequencies(snapshot)
            if keys.values:
                assert table.loc[name, "final.excluded_loss"] == float(gm.excluded_loss(snapshot, keys))

    def test_configuration_columns(self, undisturbed):
        table = undisturbed.table
        assert table["optimizer.weight_decay"].tolist() == [0.3] * 4 + [1.0] * 4 + [3.0] * 4
        assert table["model_seed"].tolist() == [0, 1, 2, 3] * 3
        assert table["task.p"].unique().tolist() == [17]
        assert table["optimizer.betas"].unique().tolist() == ["[0.9, 0.98]"]

    def test_the_parquet_file_holds_it(self, undisturbed):
        file = pd.read_parquet(undisturbed.path / "sweep.parquet")
        pd.testing.assert_frame_equal(file, stored(undisturbed.table))

    def test_a_summary_is_made_anew_when_the_run_went_on(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=500))
        grown = train_sweep(tmp_path / "copy", longer, grid=TWELVE, workers=2)
        assert grown.table["step"].tolist() == [500] * 12
        assert all(run.steps[-1] == 500 for run in grown.runs)
        last = [run.metrics.loc[500, "train_loss"] for run in grown.runs]
        assert grown.table["final.train_loss"].tolist() == pytest.approx(last, rel=1e-9)


class TestTasks:
    """Sweeps of the tasks that are not modular arithmetic."""

    def test_parity(self, tmp_path):
        base = preset("parity")
        base = replace(base, schedule=replace(base.schedule, steps=600, evaluate_every=10, checkpoints=600))
        found = train_sweep(tmp_path / "s", base, grid={"optimizer.weight_decay": [0.0, 1.0]}, workers=2)
        table = found.table
        assert table["task.operands"].tolist() == [10, 10]
        assert table["T_train_0.99"].max() <= 200
        assert table["outcome"][1] == "grokked"
        assert table["T_grok_0.95"][1] > table["T_train_0.99"][1]
        assert table["final.train_accuracy"].tolist() == [1.0, 1.0]

    def test_a_regression_has_events_and_norms_but_no_measures(self, tmp_path):
        base = preset("teacher-student")
        base = replace(base, schedule=replace(base.schedule, steps=300, evaluate_every=20, checkpoints=300))
        found = train_sweep(tmp_path / "s", base, grid={"model.init_scale": [0.5, 2.0]}, workers=1)
        table = found.table
        assert table["status"].tolist() == ["finished"] * 2
        for run, row in zip(found.runs, table.to_dict("records"), strict=True):
            step, _ = events_by_hand(run.path, "train_accuracy", 0.95)
            np.testing.assert_equal(row["T_train_0.95"], step)
            assert row["final.test_loss"] == run.metrics["test_loss"].iloc[-1]
        assert "final.excluded_loss" not in table


class TestFolder:
    def test_a_sweep_may_grow_by_values(self, undisturbed, tmp_path):
        grid = {"optimizer.weight_decay": [1.0], "model_seed": [0]}
        first = train_sweep(tmp_path / "small", BASE, grid=grid, workers=1)
        grown = train_sweep(tmp_path / "small", BASE, grid=grid | {"model_seed": [0, 1]}, workers=1)
        assert grown.table["status"].tolist() == ["finished"] * 2
        assert first.points[0] == grown.points[0]

    def test_another_sweep_is_refused(self, undisturbed):
        with pytest.raises(ConfigError, match=r"holds another sweep: its run weight_decay=0\.3,model_seed=0"):
            train_sweep(undisturbed.path, BASE, grid={"model_seed": range(4)})
        other = replace(BASE, task=replace(BASE.task, p=13))
        with pytest.raises(ConfigError, match="holds another sweep"):
            train_sweep(undisturbed.path, other, grid=TWELVE)
        fewer = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        with pytest.raises(ConfigError, match="holds another sweep"):
            train_sweep(undisturbed.path, fewer, grid=TWELVE)
        assert Sweep.open(undisturbed.path) == undisturbed

    def test_a_run_is_no_sweep_and_no_place_for_one(self, undisturbed):
        run = undisturbed.path / undisturbed.points[0].name
        with pytest.raises(RunError, match="is not a sweep: it holds no"):
            Sweep.open(run)
        with pytest.raises(RunError, match="is a run: choose another folder"):
            train_sweep(run, BASE, grid=TWELVE)

    def test_what_is_in_the_way_of_one_run_stops_no_other(self, tmp_path):
        (tmp_path / "model_seed=0").mkdir()
        (tmp_path / "model_seed=0" / "mine.txt").write_text("precious")
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        found = train_sweep(tmp_path, short, grid={"model_seed": [0, 1]}, workers=1)
        assert found.table["status"].tolist() == ["failed", "finished"]
        assert "is not an empty folder" in found.failures["model_seed=0"].message
        assert (tmp_path / "model_seed=0" / "mine.txt").read_text() == "precious"

    @pytest.mark.parametrize(
        "content",
        [
            *("", "{", "[]", '{"format_version": 1}'),
            '{"format_version": 1, "base": {}, "runs": [1]}',
            '{"format_version": 1, "base": {}, "runs": []}',
            '{"format_version": 1, "base": {}, "runs": [{"name": "a", "values": {"foo": 1}}]}',
            '{"format_version": 1, "base": {}, "runs": [{"name": "a", "values": {}}, {"name": "a", "values": {}}]}',
        ],
    )
    def test_a_damaged_sweep_file(self, tmp_path, content):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(RunError, match="damaged"):
            Sweep.open(tmp_path)

    def test_no_run_of_a_damaged_sweep_lies_outside_of_it(self, undisturbed, tmp_path):
        content = json.loads((undisturbed.path / "sweep.json").read_text())
        content["runs"][0]["name"] = "../elsewhere"
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="no name of a folder"):
            Sweep.open(tmp_path)

    def test_a_later_version_is_refused(self, undisturbed, tmp_path):
        content = json.loads((undisturbed.path / "sweep.json").read_text()) | {"format_version": 2}
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="format version 2"):
            Sweep.open(tmp_path)


def start(folder: Path, *more: str, config: RunConfig = BASE, grid: tuple[str, ...] = ()) -> subprocess.Popen:
    """The sweep of twelve as a command of its own."""
    file = folder.parent / f"{folder.name}-config.json"
    file.write_text(config.to_json())
    grid = grid or ("optimizer.weight_decay=0.3,1,3", "model_seed=0:4")
    command = [sys.executable, "-m", "grokinterp.cli", "sweep", str(folder), "--config", str(file), "--grid", *grid]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def command(*arguments: str) -> subprocess.CompletedProcess:
    """grokinterp sweep, to its end."""
    return command_of("sweep", *arguments)


def command_of(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "grokinterp.cli", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, check=False, env=environment, timeout=300)


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def finished(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*/status.json") if json.loads(file.read_text())["status"] == "finished"]


def workers_of(folder: Path) -> list[int]:
    """Processes that work for a sweep: they hold a lock in one of its runs."""
    found = []
    for file in folder.glob("*/.lock"):
        with contextlib.suppress(OSError, IndexError):  # released, or not yet written, in this instant
            found.append(int(file.read_text().split()[1]))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def assert_same_table(one: pd.DataFrame, other: pd.DataFrame) -> None:
    # restricted_loss_novel may differ in the last bit from call to call (LAPACK)
    pd.testing.assert_frame_equal(stored(one), stored(other), rtol=1e-12, atol=0)


def stored(table: pd.DataFrame) -> pd.DataFrame:
    """With the types that a file keeps."""
    return pd.read_parquet(io.BytesIO(table.to_parquet()))


def assert_whole(folder: Path, count: int, schedule: ScheduleConfig = BASE.schedule) -> None:
    """Every run is there once, with every evaluated step once, in order."""
    evaluated, kept = (range(0, schedule.steps + 1, int(k)) for k in (schedule.evaluate_every, schedule.checkpoints))
    runs = sorted(file.parent for file in folder.glob("*/config.json"))
    assert len(runs) == count
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(evaluated), run
        assert Run.open(run).steps == list(kept)


class TestOneDamagedRun:
    """Whatever one run's files hold, the others are in the table, and a sweep goes on with them."""

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("status.json", '{"status": "finished"}'),
            ("status.json", '{"status": "finished", "step": null}'),
            ("status.json", "[1, 2"),
            ("config.json", "{"),
            ("metrics.jsonl", '{"step": 0}\nnonsense\n'),
            ("analysis/summary.json", '{"version": 2, "status": "x", "row": {"T_grok_0.95": "x"}}'),
            ("analysis/summary.json", "{"),
        ],
    )
    def test_does_not_hide_the_others(self, undisturbed, tmp_path, file, content):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        (tmp_path / "copy" / "weight_decay=1,model_seed=0" / file).write_text(content)
        if file == "metrics.jsonl":
            (tmp_path / "copy" / "weight_decay=1,model_seed=0" / "analysis" / "summary.json").unlink()
        table = Sweep.open(tmp_path / "copy").table
        others = table["run"] != "weight_decay=1,model_seed=0"
        assert_same_table(table[others].reset_index(drop=True), undisturbed.table[others].reset_index(drop=True))
        again = train_sweep(tmp_path / "copy", workers=1)
        assert set(again.failures) <= {"weight_decay=1,model_seed=0"}
        if file.startswith("analysis"):
            assert_same_table(again.table, undisturbed.table)

    def test_a_run_of_another_configuration_is_not_taken_for_its_own(self, undisturbed, tmp_path):
        name = "weight_decay=1,model_seed=0"
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / name)
        shutil.copytree(undisturbed.path / "weight_decay=1,model_seed=1", tmp_path / "copy" / name)
        found = Sweep.open(tmp_path / "copy")
        row = found.table.set_index("run").loc[name]
        assert (row["status"], row["outcome"]) == ("failed", None)
        assert "another configuration" in row["failure"]
        again = train_sweep(found.path, workers=1)
        assert again.failures[name].kind == "invalid"
        assert "another configuration" in again.failures[name].message

    def test_a_damaged_resume_point_stops_no_ensemble(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=50))
        train_sweep(tmp_path / "s", short, grid={"model_seed": range(3)}, workers=1)
        (tmp_path / "s" / "model_seed=1" / "resume.safetensors").write_bytes(b"damaged")
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        grown = train_sweep(tmp_path / "s", longer, grid={"model_seed": range(3)}, workers=1, ensembles="always")
        assert grown.table["status"].tolist() == ["finished", "failed", "finished"]
        assert grown.table["step"][[0, 2]].tolist() == [100, 100]
        assert "resume.safetensors is damaged" in grown.failures["model_seed=1"].message

    def test_an_old_failure_of_a_finished_run_is_forgotten(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        found = Sweep.open(tmp_path / "copy")
        found.note(found.points[0].name, Failure("killed", "the sweep was killed before it could forget this"))
        (found.path / ".sweep.parquet.77.tmp").touch()
        assert train_sweep(found.path).failures == {}
        assert_same_table(found.table, undisturbed.table)
        assert not (found.path / ".sweep.parquet.77.tmp").exists()


class TestKilled:
    def test_a_killed_sweep_goes_on_to_the_same_table(self, undisturbed, tmp_path):
        folder = tmp_path / "killed"
        process = start(folder, "--workers", "2")
        wait_for(lambda: len(finished(folder)) >= 4 and workers_of(folder))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert 4 <= len(finished(folder)) < 12, "it was killed in the middle"
        again = start(folder, "--workers", "2")
        said, _ = again.communicate(timeout=300)
        assert again.returncode == 0, said
        assert_whole(folder, 12)
        assert_same_table(pd.read_parquet(folder / "sweep.parquet"), undisturbed.table)

    def test_no_worker_outlives_a_killed_sweep(self, tmp_path):
        folder = tmp_path / "orphans"
        long = replace(BASE, schedule=replace(BASE.schedule, steps=1_000_000))
        process = start(folder, "--workers", "2", config=long)
        wait_for(lambda: len(workers_of(folder)) == 2)
        workers = workers_of(folder)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_for(lambda: not any(map(alive, workers)), 20)

    def test_a_killed_worker_costs_its_run_only(self, tmp_path):
        folder = tmp_path / "unlucky"
        process = start(folder, "--workers", "1", grid=("model_seed=0:3",))
        wait_for(lambda: (folder / "model_seed=1" / ".lock").is_file() and workers_of(folder))
        os.kill(workers_of(folder)[0], signal.SIGKILL)
        process.communicate(timeout=300)
        assert process.returncode == 1
        found = Sweep.open(folder)
        assert found.table["status"].tolist() == ["finished", "failed", "finished"]
        assert found.failures["model_seed=1"].kind == "killed"
        assert "SIGKILL" in found.table["failure"][1]
        # Tried again, it goes on from its resume point; the failure is forgotten.
        again = train_sweep(folder, workers=1)
        assert again.failures == {}
        assert again.table["status"].tolist() == ["finished"] * 3
        assert_whole(folder, 3)

    def test_ctrl_c_stops_so_that_it_can_go_on(self, undisturbed, tmp_path):
        folder = tmp_path / "interrupted"
        process = start(folder, "--workers", "2")
        wait_for(lambda: len(finished(folder)) >= 2 and len(workers_of(folder)) == 2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "go on with: grokinterp sweep" in said
        table = Sweep.open(folder).table
        assert set(table["status"]) <= {"finished", "stopped", "missing"}
        assert (table["status"] != "finished").any()
        assert Sweep.open(folder).failures == {}
        assert not list(folder.glob("**/.lock"))
        assert_same_table(train_sweep(folder, workers=2).table, undisturbed.table)


class TestFailures:
    def test_three_kinds_of_failure_are_named_and_the_rest_finishes(self, tmp_path, memory_limit):
        """One diverges, one is invalid, one takes more memory than there is; the kernel kills it."""
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
        ended = subprocess.run(
            memory_limit([*command, str(tmp_path / "points.json"), "--workers", "1"]),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ended.returncode == 1, ended.stderr
        found = Sweep.open(folder)
        kinds = {name: failure.kind for name, failure in found.failures.items()}
        assert kinds == {
            "lr=1e+30": "diverged",
            "train_fraction=1.5": "invalid",
            "width=12000": "killed",
            "train_fraction=0.001": "invalid",
        }
        assert "SIGKILL" in found.failures["width=12000"].message
        for name, failure in found.failures.items():
            assert f"failed {name}: {failure}" in ended.stdout
        table = found.table.set_index("run")
        assert table.loc[["model_seed=0", "model_seed=1"], "status"].tolist() == ["finished"] * 2
        assert table["status"].value_counts().to_dict() == {"failed": 3, "finished": 2, "diverged": 1}
        assert table.loc["train_fraction=1.5", "task.train_fraction"] == 1.5

    def test_what_nobody_foresaw_is_an_error_with_its_traceback(self, tmp_path, monkeypatch):
        from grokinterp.sweep import jobs

        def broken(*given, **options):
            raise ZeroDivisionError("one of those days")

        monkeypatch.setattr(jobs, "train", broken)
        found = plan(tmp_path / "s", BASE, grid={"model_seed": [0]})
        found.write()
        failure = train_point(found, "model_seed=0").failure
        assert failure is not None
        assert failure == found.failures["model_seed=0"]
        assert (failure.kind, failure.message) == ("error", "ZeroDivisionError: one of those days")
        assert "Traceback" in failure.details
        assert found.table["failure"].tolist() == ["error: ZeroDivisionError: one of those days"]

    def test_diverged_runs_are_not_tried_again(self, tmp_path):
        config = replace(BASE, loss="mse", schedule=replace(BASE.schedule, steps=30))
        first = train_sweep(tmp_path / "s", config, grid={"optimizer.lr": [1e30]}, workers=1)
        assert first.failures["lr=1e+30"].kind == "diverged"
        before = (tmp_path / "s" / "lr=1e+30" / "status.json").stat().st_mtime_ns
        seen: list[Progress] = []
        train_sweep(tmp_path / "s", watch=seen.append)
        assert list(seen[-1].failed) == ["lr=1e+30"]
        assert (tmp_path / "s" / "lr=1e+30" / "status.json").stat().st_mtime_ns == before

    def test_a_failure_file_that_is_damaged_counts_as_none(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        found = Sweep.open(tmp_path / "copy")
        found.note(found.points[0].name, Failure("killed", "once"))
        assert list(found.failures) == [found.points[0].name]
        (tmp_path / "copy" / "failures" / f"{found.points[0].name}.json").write_text("[1, 2")
        assert found.failures == {}


@pytest.fixture
def memory_limit():
    """Makes a command run where it may take 1.3 GB of memory, so that the kernel kills what takes more."""
    group = Path("/sys/fs/cgroup/memory") / f"grokinterp-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(1_300_000_000))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    yield lambda command: ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    wait_for(lambda: not (group / "cgroup.procs").read_text().strip(), 10)
    group.rmdir()


class TestTableOfFailures:
    def test_when_no_run_makes_sense(self, tmp_path):
        ended = command(str(tmp_path / "s"), "--preset", "psi", "--grid", "optimizer.lr=-1,-2")
        assert ended.returncode == 1
        assert "failed lr=-1: invalid: lr=-1: optimizer: lr must be a finite number > 0" in ended.stdout
        assert (tmp_path / "s" / "report.html").is_file()
        assert Sweep.open(tmp_path / "s").table["T_grok_0.95"].isna().all()

    def test_senseless_values_leave_the_columns_of_the_others_alone(self, tmp_path):
        points = [{"model_seed": 1}, {"model_seed": 10**30}, {"optimizer.lr": "much"}, {"optimizer.betas": [0.5]}]
        found = Sweep(tmp_path / "s", BASE, expand(BASE, points=points))
        found.write()
        table = found.table
        assert table["optimizer.lr"].dtype == float
        assert table["model_seed"].tolist()[0] == 1
        assert table["failure"].notna().tolist() == [False, True, True, True]
        found.collect()


class TestExecutor:
    def test_may_be_used_again(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        executor = LocalExecutor(1)
        for seed in range(2):
            found = train_sweep(tmp_path / str(seed), short, grid={"model_seed": [seed]}, executor=executor)
            assert found.table["status"].tolist() == ["finished"]

    def test_an_answer_that_is_none_is_an_error_of_that_run(self, tmp_path, monkeypatch):
        from grokinterp.runs.processes import JsonProcess

        exchange, asked = JsonProcess.exchange, []

        def nonsense_at_first(process, question):
            asked.append(question)
            return exchange(process, question) if len(asked) > 1 else json.loads("gibberish")

        monkeypatch.setattr(JsonProcess, "exchange", nonsense_at_first)
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        found = train_sweep(tmp_path / "s", short, grid={"model_seed": [0, 1]}, workers=1)
        assert found.table["status"].tolist() == ["failed", "finished"]
        assert found.failures["model_seed=0"].kind == "error"

    def test_progress_counts_every_run_once_and_no_step_twice(self, tmp_path):
        long = replace(BASE, schedule=replace(BASE.schedule, steps=3000, evaluate_every=100))
        half = replace(BASE, schedule=replace(BASE.schedule, steps=1500, evaluate_every=100))
        train_sweep(tmp_path / "s", half, grid={"model_seed": [0]}, workers=1)
        seen: list[tuple[int, float | None]] = []

        def watch(progress: Progress) -> None:
            assert progress.done + len(progress.failed) + len(progress.running) + progress.waiting == progress.total
            if "model_seed=0" in progress.running and progress.seconds_left is None:
                seen.append(progress.running["model_seed=0"])

        train_sweep(tmp_path / "s", long, grid={"model_seed": [0, 1]}, workers=1, watch=watch)
        assert seen, "steps that were made before are not taken for progress"
        assert seen[0] == (1500, 3000)


class TestEnsembles:
    def test_runs_of_one_shape_are_trained_together(self, undisturbed, tmp_path):
        grid = TWELVE | {"model_seed": [0, 1]}
        found = train_sweep(
            tmp_path / "s", BASE, grid=grid | {"task.train_fraction": [0.7, 0.5]}, workers=1, ensembles="always"
        )
        assert found.table["status"].tolist() == ["finished"] * 12
        assert {run.environment["ensemble"] for run in found.runs} == {6}
        theirs = undisturbed.table.set_index(["optimizer.weight_decay", "model_seed"])
        ours = found.table[found.table["task.train_fraction"] == 0.7].set_index(
            ["optimizer.weight_decay", "model_seed"]
        )
        for key, row in ours.iterrows():
            assert row["final.train_loss"] == pytest.approx(theirs.loc[key, "final.train_loss"], rel=0.05)
            assert row["T_train_0.99"] == pytest.approx(theirs.loc[key, "T_train_0.99"], abs=10)

    def test_one_that_cannot_be_trained_does_not_stop_its_group(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        (tmp_path / "s" / "model_seed=1").mkdir(parents=True)
        (tmp_path / "s" / "model_seed=1" / "mine.txt").touch()
        found = train_sweep(tmp_path / "s", short, grid={"model_seed": range(3)}, workers=1, ensembles="always")
        assert found.table["status"].tolist() == ["finished", "failed", "finished"]

    def test_stopped_ones_go_on_together_where_they_stand(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        first = train_sweep(tmp_path / "s", short, grid={"model_seed": [0, 1]}, workers=1)
        assert all("ensemble" not in run.environment for run in first.runs)
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=200))
        again = train_sweep(tmp_path / "s", longer, grid={"model_seed": range(4)}, workers=1, ensembles="always")
        assert again.table["step"].tolist() == [200] * 4
        assert [run.environment.get("ensemble") for run in again.runs] == [None, None, 2, 2]
        assert [run.environment["resumed"][-1]["ensemble"] for run in again.runs[:2]] == [2, 2]


class TestJobArray:
    def test_its_commands_give_the_table_of_the_sweep(self, undisturbed, tmp_path):
        folder = tmp_path / "with space"
        file = tmp_path / "config.json"
        file.write_text(BASE.to_json())
        grid = ["--grid", "optimizer.weight_decay=3", "model_seed=0:2"]
        lines = command(str(folder), "--config", str(file), *grid, "--print-commands").stdout.splitlines()
        assert len(lines) == 2
        assert not list(folder.glob("*/config.json"))
        for line in lines:
            program = f"{sys.executable} -m grokinterp.cli"
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(line.replace("grokinterp", program, 1), shell=True, check=True, env=environment)
        assert commands(Sweep.open(folder)) == []
        whole = command(str(folder))
        assert whole.returncode == 0
        report = folder / "report.html"
        assert f"report: {report}" in whole.stdout
        assert "model_seed=1" in report.read_text()
        assert command_of("report", str(folder), "--output", str(tmp_path / "again.html")).returncode == 0
        assert (tmp_path / "again.html").read_text() == report.read_text()
        expected = undisturbed.table[undisturbed.table["run"].isin([p.name for p in Sweep.open(folder).points])]
        assert_same_table(Sweep.open(folder).table, expected.reset_index(drop=True))

    def test_two_elements_with_one_run_do_it_once(self, tmp_path):
        folder = tmp_path / "s"
        file = tmp_path / "config.json"
        file.write_text(BASE.to_json())
        described = [str(folder), "--config", str(file), "--grid", "model_seed=0:2"]
        words = [sys.executable, "-m", "grokinterp.cli", "sweep", *described, "--only", "model_seed=0"]
        both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        said = [process.communicate(timeout=300)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert Sweep.open(folder).failures == {}
        assert Sweep.open(folder).table["status"].tolist() == ["finished", "missing"]

    def test_one_that_is_stopped_says_so(self, tmp_path):
        folder = tmp_path / "s"
        long = replace(BASE, schedule=replace(BASE.schedule, steps=1_000_000))
        Sweep(folder, long, expand(long, grid={"model_seed": [0]})).write()
        words = [sys.executable, "-m", "grokinterp.cli", "sweep", str(folder), "--only", "model_seed=0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        wait_for(lambda: workers_of(folder) and (folder / "model_seed=0" / "metrics.jsonl").exists())
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said == f"{folder / 'model_seed=0'}: stopped\n"

    def test_a_grown_sweep_has_a_command_for_every_run(self, undisturbed):
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=500))
        assert len(commands(plan(undisturbed.path, longer, grid=TWELVE))) == 12
        assert commands(undisturbed) == []

    def test_a_run_that_is_not_in_the_sweep(self, undisturbed):
        ended = command(str(undisturbed.path), "--only", "model_seed=77")
        assert ended.returncode == 2
        assert "has no run 'model_seed=77'; it has 12" in ended.stderr


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--preset", "psi"], "nothing varies"),
            (["--preset", "psi", "--grid", "model_seed"], "not of the form FIELD=VALUES"),
            (["--preset", "psi", "--grid", "model_sed=1"], "did you mean 'model_seed'"),
            (["--preset", "psi", "--grid", "model_seed=1", "model_seed=2"], "names model_seed twice"),
            (["--preset", "psy", "--grid", "model_seed=1"], "did you mean 'psi'"),
            (["--preset", "psi", "--points", "nowhere.json"], "nowhere.json"),
            (["--preset", "psi", "--grid", "model_seed=1", "--address", "auto"], "--executor ray"),
            (["--preset", "psi", "--grid", "model_seed=1", "--workers", "0"], "workers must lie in"),
            ([], "is not a sweep"),
        ],
    )
    def test_bad_input_is_one_line_and_leaves_nothing(self, tmp_path, options, said):
        ended = command(str(tmp_path / "s"), *options)
        assert ended.returncode == 2
        assert said in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert not (tmp_path / "s").exists()

    def test_dry_run_lists_the_runs_and_writes_nothing(self, tmp_path):
        options = ["--preset", "psi", "--task.p", "11", "--grid", "model_seed=0:3", "--dry-run"]
        ended = command(str(tmp_path / "s"), *options)
        assert ended.returncode == 0
        assert ended.stdout.split() == ["model_seed=0", "model_seed=1", "model_seed=2"]
        assert "3 runs" in ended.stderr
        assert not (tmp_path / "s").exists()

    def test_two_sweeps_in_one_folder_at_once(self, tmp_path):
        from grokinterp.runs.locks import hold

        with hold(tmp_path / "s"), pytest.raises(RunError, match=r"is in use by process \d+ on"):
            train_sweep(tmp_path / "s", BASE, grid={"model_seed": [0]})


class TestStrangers:
    """A sweep that somebody else made: its links are read through, and nothing is written or removed beyond them."""

    @pytest.fixture
    def strangers(self, tmp_path) -> Path:
        return Path(shutil.copytree(Path(__file__).parent / "data" / "recipes" / "sweep", tmp_path / "sweep"))

    @staticmethod
    def moved(folder: Path, tmp_path: Path) -> Path:
        """Moves a folder away and leaves a link to it."""
        away = Path(shutil.move(folder, tmp_path / "away"))
        folder.symlink_to(away)
        return away

    def test_failures_kept_elsewhere_are_neither_removed_nor_replaced(self, strangers, tmp_path):
        away = self.moved(strangers / "failures", tmp_path)
        before = {file.name: file.read_text() for file in away.iterdir()}
        found = Sweep.open(strangers)
        assert sorted(f"{name}.json" for name in found.failures) == sorted(before)
        for failure in (None, Failure("error", "something else")):
            with pytest.raises(RunError, match="leads out of"):
                found.note("weight_decay=0,n_heads=3", failure)
        assert {file.name: file.read_text() for file in away.iterdir()} == before

    def test_a_run_kept_elsewhere_is_in_the_table_and_is_not_trained(self, strangers, tmp_path):
        name = "weight_decay=0,n_heads=2"
        away = self.moved(strangers / name, tmp_path)
        found = Sweep.open(strangers)
        assert found.table.set_index("run").loc[name, "status"] == "finished"
        (away / "status.json").unlink()  # it is not known to have finished
        before = sorted(path.relative_to(away) for path in away.rglob("*"))
        assert "leads out of" in str(train_point(found, name).failure)
        assert sorted(path.relative_to(away) for path in away.rglob("*")) == before

    @pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "", "a\nb", "\x1b[31m", "x" * 300, "a/b"])
    def test_a_name_that_is_none_of_a_folder_is_refused(self, name, strangers):
        content = json.loads((strangers / "sweep.json").read_text())
        content["runs"][0]["name"] = name
        (strangers / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="a run's name is no name of a folder"):
            Sweep.open(strangers)

    def test_a_failure_is_told_in_one_line(self, strangers):
        file = strangers / "failures" / "weight_decay=0,n_heads=3.json"
        file.write_text(json.dumps({"kind": "error", "message": "one\ntwo \x1b[31m", "details": ""}))
        assert str(Sweep.open(strangers).failures["weight_decay=0,n_heads=3"]) == "error: one two \\x1b[31m"
        file.write_text(json.dumps({"kind": "of another kind", "message": "x", "details": ""}))
        assert "weight_decay=0,n_heads=3" not in Sweep.open(strangers).failures
