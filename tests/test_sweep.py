"""Sweeps: their runs, their tables, and what one damaged, failed or foreign run means for the others."""

import json
import shutil
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import numpy as np
import pandas as pd
import processes
import pytest
from ensembles import KINDS, assert_same_metrics, assert_same_weights
from rewriting import rewrite
from sweeps import BASE, TWELVE, InProcess, as_stored, assert_same_table, train_twelve

from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.locks import hold
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RunWriter
from grokinterp.sweep import (
    Failure,
    LocalExecutor,
    Progress,
    RayExecutor,
    Sweep,
    executors,
    expand,
    plan,
    running,
    train_point,
    train_sweep,
)
from grokinterp.sweep.jobs import Ended, Job
from grokinterp.training import train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Sweep:
    return train_twelve(tmp_path_factory.getbasetemp())


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
    def test_are_ordinary_runs_with_the_same_bits(self, undisturbed, tmp_path):
        run = Run.open(undisturbed.path / "weight_decay=3,model_seed=2")
        config = replace(BASE, optimizer=replace(BASE.optimizer, weight_decay=3.0), model_seed=2)
        assert run.config == config
        alone = train(config, tmp_path / "alone", progress=False)
        assert run.steps == alone.steps
        assert all(np.array_equal(weight, alone.weights(400)[name]) for name, weight in run.weights(400).items())
        assert (run.path / "metrics.jsonl").read_text() == (alone.path / "metrics.jsonl").read_text()

    def test_leave_no_other_files(self, undisturbed):
        names = {entry.name for entry in undisturbed.path.iterdir()}
        assert names == {point.name for point in undisturbed.points} | {"sweep.json", "sweep.parquet"}

    def test_finished_runs_are_left_unchanged(self, undisturbed):
        before = {run.path: (run.path / "status.json").stat().st_mtime_ns for run in undisturbed.runs}
        reports: list[Progress] = []
        again = train_sweep(undisturbed.path, watch=reports.append)
        assert {run.path: (run.path / "status.json").stat().st_mtime_ns for run in again.runs} == before
        assert (reports[-1].done, reports[-1].total, reports[-1].waiting) == (12, 12, 0)

    def test_axes_are_the_fields_that_vary(self, undisturbed, tmp_path):
        assert undisturbed.axes == ("optimizer.weight_decay", "model_seed")
        fixed = plan(tmp_path, BASE, grid={"optimizer.weight_decay": [0.3], "model_seed": range(4)})
        assert fixed.axes == ("model_seed",)


class TestTable:
    def test_events_match_the_metrics(self, undisturbed):
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
        assert table["T_grok_0.95"].notna().sum() >= 3, "some runs must generalize for this test to mean much"

    def test_norms_match_the_metrics_at_the_event(self, undisturbed):
        table = undisturbed.table.set_index("run")
        for name, row in table[table["T_grok_0.95"].notna()].iterrows():
            metrics = Run.open(undisturbed.path / str(name)).metrics
            assert row["weight_norm_at_T_grok_0.95"] == metrics.loc[int(row["T_grok_0.95"]), "weight_norm"]
            assert row["weight_rms_at_T_grok_0.95"] == metrics.loc[int(row["T_grok_0.95"]), "weight_rms"]
            assert row["weight_norm_max"] == metrics["weight_norm"].max()

    def test_final_measures_match_the_last_checkpoint(self, undisturbed):
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
        pd.testing.assert_frame_equal(file, as_stored(undisturbed.table))

    def test_a_summary_is_recomputed_after_the_run_continues(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=500))
        grown = train_sweep(tmp_path / "copy", longer, grid=TWELVE, executor=InProcess(), ensembles="always")
        assert grown.table["step"].tolist() == [500] * 12
        assert all(run.steps[-1] == 500 for run in grown.runs)
        last = [run.metrics.loc[500, "train_loss"] for run in grown.runs]
        assert grown.table["final.train_loss"].tolist() == pytest.approx(last, rel=1e-9)

    def test_invalid_values_do_not_change_the_columns_of_other_runs(self, tmp_path):
        points = [{"model_seed": 1}, {"model_seed": 10**30}, {"optimizer.lr": "much"}, {"optimizer.betas": [0.5]}]
        sweep = Sweep(tmp_path / "s", BASE, expand(BASE, points=points))
        sweep.write()
        table = sweep.table
        assert table["optimizer.lr"].dtype == float
        assert table["model_seed"].tolist()[0] == 1
        assert table["failure"].notna().tolist() == [False, True, True, True]
        sweep.collect()


class TestTasks:
    """Sweeps of the tasks that are not modular arithmetic."""

    def test_parity(self, tmp_path):
        base = preset("parity")
        base = replace(base, schedule=replace(base.schedule, steps=600, evaluate_every=10, checkpoints=600))
        sweep = train_sweep(tmp_path / "s", base, grid={"optimizer.weight_decay": [0.0, 1.0]}, executor=InProcess())
        table = sweep.table
        assert table["task.operands"].tolist() == [10, 10]
        assert table["T_train_0.99"].max() <= 200
        assert table["outcome"][1] == "grokked"
        assert table["T_grok_0.95"][1] > table["T_train_0.99"][1]
        assert table["final.train_accuracy"].tolist() == [1.0, 1.0]

    def test_a_regression_has_events_and_norms_but_no_measures(self, tmp_path):
        base = preset("teacher-student")
        base = replace(base, schedule=replace(base.schedule, steps=300, evaluate_every=20, checkpoints=300))
        sweep = train_sweep(tmp_path / "s", base, grid={"model.init_scale": [0.5, 2.0]}, executor=InProcess())
        table = sweep.table
        assert table["status"].tolist() == ["finished"] * 2
        for run, row in zip(sweep.runs, table.to_dict("records"), strict=True):
            step, _ = events_by_hand(run.path, "train_accuracy", 0.95)
            np.testing.assert_equal(row["T_train_0.95"], step)
            assert row["final.test_loss"] == run.metrics["test_loss"].iloc[-1]
        assert "final.excluded_loss" not in table


class TestFolder:
    def test_a_sweep_may_grow_by_values(self, undisturbed, tmp_path):
        grid = {"optimizer.weight_decay": [1.0], "model_seed": [0]}
        first = train_sweep(tmp_path / "small", BASE, grid=grid, executor=InProcess())
        grown = train_sweep(tmp_path / "small", BASE, grid=grid | {"model_seed": [0, 1]}, executor=InProcess())
        assert grown.table["status"].tolist() == ["finished"] * 2
        assert first.points[0] == grown.points[0]

    def test_a_different_sweep_is_refused(self, undisturbed):
        with pytest.raises(ConfigError, match=r"holds a different sweep: its run weight_decay=0\.3,model_seed=0"):
            train_sweep(undisturbed.path, BASE, grid={"model_seed": range(4)})
        other = replace(BASE, task=replace(BASE.task, p=13))
        with pytest.raises(ConfigError, match="holds a different sweep"):
            train_sweep(undisturbed.path, other, grid=TWELVE)
        fewer = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        with pytest.raises(ConfigError, match="holds a different sweep"):
            train_sweep(undisturbed.path, fewer, grid=TWELVE)
        assert Sweep.open(undisturbed.path) == undisturbed

    def test_a_run_folder_is_neither_a_sweep_nor_a_place_for_one(self, undisturbed):
        run = undisturbed.path / undisturbed.points[0].name
        with pytest.raises(RunError, match="is not a sweep: it has no"):
            Sweep.open(run)
        with pytest.raises(RunError, match="is a run: choose another folder"):
            train_sweep(run, BASE, grid=TWELVE)

    def test_files_in_the_way_of_one_run_do_not_stop_the_others(self, tmp_path):
        (tmp_path / "model_seed=0").mkdir()
        (tmp_path / "model_seed=0" / "mine.txt").write_text("precious")
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        sweep = train_sweep(tmp_path, short, grid={"model_seed": [0, 1]}, executor=InProcess())
        assert sweep.table["status"].tolist() == ["failed", "finished"]
        assert "is not an empty folder" in sweep.failures["model_seed=0"].message
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

    def test_a_run_name_that_leads_out_of_the_sweep_is_refused(self, undisturbed, tmp_path):
        runs = json.loads((undisturbed.path / "sweep.json").read_text())["runs"]
        runs[0]["name"] = "../elsewhere"
        shutil.copy(undisturbed.path / "sweep.json", tmp_path)
        rewrite(tmp_path / "sweep.json", runs=runs)
        with pytest.raises(RunError, match="not a valid folder name"):
            Sweep.open(tmp_path)

    def test_a_later_version_is_refused(self, undisturbed, tmp_path):
        shutil.copy(undisturbed.path / "sweep.json", tmp_path)
        rewrite(tmp_path / "sweep.json", format_version=2)
        with pytest.raises(RunError, match="format version 2"):
            Sweep.open(tmp_path)

    def test_two_sweeps_in_one_folder_at_once(self, tmp_path):
        from grokinterp.runs.locks import hold

        with hold(tmp_path / "s"), pytest.raises(RunError, match=r"is in use by process \d+ on"):
            train_sweep(tmp_path / "s", BASE, grid={"model_seed": [0]})


class TestOneDamagedRun:
    """If one run is damaged, the others are still in the table, and the sweep continues."""

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
        intact = table["run"] != "weight_decay=1,model_seed=0"
        assert_same_table(table[intact].reset_index(drop=True), undisturbed.table[intact].reset_index(drop=True))
        again = train_sweep(tmp_path / "copy", executor=InProcess())
        assert set(again.failures) <= {"weight_decay=1,model_seed=0"}
        if file.startswith("analysis"):
            assert_same_table(again.table, undisturbed.table)

    def test_a_run_of_a_different_configuration_counts_as_failed(self, undisturbed, tmp_path):
        name = "weight_decay=1,model_seed=0"
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy" / name)
        shutil.copytree(undisturbed.path / "weight_decay=1,model_seed=1", tmp_path / "copy" / name)
        sweep = Sweep.open(tmp_path / "copy")
        row = sweep.table.set_index("run").loc[name]
        assert (row["status"], row["outcome"]) == ("failed", None)
        assert "a different configuration" in row["failure"]
        again = train_sweep(sweep.path, executor=InProcess())
        assert again.failures[name].kind == "invalid"
        assert "another configuration" in again.failures[name].message

    def test_a_damaged_resume_point_does_not_stop_the_ensemble(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=50))
        train_sweep(tmp_path / "s", short, grid={"model_seed": range(3)}, executor=InProcess())
        (tmp_path / "s" / "model_seed=1" / "resume.safetensors").write_bytes(b"damaged")
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        grown = train_sweep(
            tmp_path / "s", longer, grid={"model_seed": range(3)}, executor=InProcess(), ensembles="always"
        )
        assert grown.table["status"].tolist() == ["finished", "failed", "finished"]
        assert grown.table["step"][[0, 2]].tolist() == [100, 100]
        assert "resume.safetensors is damaged" in grown.failures["model_seed=1"].message

    def test_an_old_failure_of_a_finished_run_is_deleted(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        sweep = Sweep.open(tmp_path / "copy")
        sweep.record_failure(sweep.points[0].name, Failure("killed", "from an earlier attempt"))
        (sweep.path / ".sweep.parquet.77.tmp").touch()
        assert train_sweep(sweep.path).failures == {}
        assert_same_table(sweep.table, undisturbed.table)
        assert not (sweep.path / ".sweep.parquet.77.tmp").exists()

    def test_temporary_files_of_others_are_left_alone(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        sweep = Sweep.open(tmp_path / "copy")
        name = sweep.points[0].name
        files = [".draft.odt.tmp", ".thesis.tex.4711.tmp", f"{name}/.notes.1.tmp"]
        for file in files:
            (sweep.path / file).write_text("mine")
        (sweep.path / ".editor.tmp").mkdir()
        (sweep.path / ".editor.tmp" / "undo").write_text("mine")
        (sweep.path / f".{name}.tmp").mkdir()  # ours: received from a cluster when the sweep was killed
        (sweep.path / name / "status.json").unlink()
        train_sweep(sweep.path, executor=InProcess())
        assert all((sweep.path / file).read_text() == "mine" for file in [*files, ".editor.tmp/undo"])
        assert not (sweep.path / f".{name}.tmp").exists()


class TestFailures:
    def test_an_unexpected_exception_is_an_error_with_its_traceback(self, tmp_path, monkeypatch):
        from grokinterp.sweep import jobs

        def broken(*arguments, **options):
            raise ZeroDivisionError("one of those days")

        monkeypatch.setattr(jobs, "train", broken)
        sweep = plan(tmp_path / "s", BASE, grid={"model_seed": [0]})
        sweep.write()
        failure = train_point(sweep, "model_seed=0").failure
        assert failure is not None
        assert failure == sweep.failures["model_seed=0"]
        assert (failure.kind, failure.message) == ("error", "ZeroDivisionError: one of those days")
        assert "Traceback" in failure.details
        assert sweep.table["failure"].tolist() == ["error: ZeroDivisionError: one of those days"]

    def test_diverged_runs_are_not_retried(self, tmp_path):
        config = replace(BASE, loss="mse", schedule=replace(BASE.schedule, steps=30))
        first = train_sweep(tmp_path / "s", config, grid={"optimizer.lr": [1e30]}, executor=InProcess())
        assert first.failures["lr=1e+30"].kind == "diverged"
        before = (tmp_path / "s" / "lr=1e+30" / "status.json").stat().st_mtime_ns
        reports: list[Progress] = []
        train_sweep(tmp_path / "s", watch=reports.append)
        assert list(reports[-1].failed) == ["lr=1e+30"]
        assert (tmp_path / "s" / "lr=1e+30" / "status.json").stat().st_mtime_ns == before

    def test_a_damaged_failure_file_counts_as_none(self, undisturbed, tmp_path):
        shutil.copytree(undisturbed.path, tmp_path / "copy")
        sweep = Sweep.open(tmp_path / "copy")
        sweep.record_failure(sweep.points[0].name, Failure("error", "once"))
        assert list(sweep.failures) == [sweep.points[0].name]
        (tmp_path / "copy" / "failures" / f"{sweep.points[0].name}.json").write_text("[1, 2")
        assert sweep.failures == {}


class TestRay:
    """What `RayExecutor` asks of Ray, without Ray; tests/test_sweep_ray.py trains on a real cluster."""

    @pytest.fixture
    def calls(self, monkeypatch) -> list[dict]:
        """The arguments of each call of ray.init, which fails."""
        calls: list[dict] = []

        def init(**options):
            calls.append(options)
            raise RuntimeError("no sockets left\nmore")

        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
        monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace())
        return calls

    def test_without_an_address_no_other_cluster_is_joined_and_no_other_machine_can_connect(self, calls, monkeypatch):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # Ray ignores it only if the address is "local"
        with pytest.raises(ConfigError, match=r"^Ray cannot be started on this machine: no sockets left$"):
            list(RayExecutor().execute([]))
        assert [(call["address"], call["_node_ip_address"]) for call in calls] == [("local", "127.0.0.1")]

    def test_an_address_is_used_as_given(self, calls):
        with pytest.raises(ConfigError, match=r"^no Ray cluster at 'auto': no sockets left$"):
            list(RayExecutor(address="auto").execute([]))
        assert [call["address"] for call in calls] == ["auto"]

    @pytest.mark.parametrize("in_use", [False, True])
    def test_a_folder_that_is_sent_back_replaces_none_in_use(self, tmp_path, in_use):
        from grokinterp.sweep.ray_executor import _pack

        for name, content in (("run", "here"), ("sent", "from the node")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "status.json").write_text(content)
        answer = [asdict(Ended("run"))], {"run": _pack(tmp_path / "sent")}
        ray = SimpleNamespace(get=lambda reference: answer, exceptions=SimpleNamespace(RayError=ArithmeticError))
        job = Job(str(tmp_path), {"run": "{}"}, "cpu")
        with hold(tmp_path / "run") if in_use else nullcontext():
            (ended,) = RayExecutor(results="sent")._fetch(ray, None, job)
        assert (tmp_path / "run" / "status.json").read_text() == ("here" if in_use else "from the node")
        assert ("is in use by" in str(ended.failure)) == in_use


class TestExecutor:
    @pytest.mark.slow
    def test_can_be_reused(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        executor = LocalExecutor(1)
        for seed in range(2):
            sweep = train_sweep(tmp_path / str(seed), short, grid={"model_seed": [seed]}, executor=executor)
            assert sweep.table["status"].tolist() == ["finished"]

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot suspend a process")
    def test_a_suspended_worker_notices_that_it_is_to_end(self):
        thread = executors._WorkerThread(Queue(), Queue(), LocalExecutor(1))
        with processes.start(["sleep", "1000"]) as process:
            process.send_signal(signal.SIGSTOP)
            thread.worker = SimpleNamespace(process=process)
            thread.interrupt()
            assert process.wait(processes.TIMEOUT) == -signal.SIGTERM

    def test_an_unreadable_answer_is_an_error_of_its_run(self, tmp_path, monkeypatch):
        from grokinterp.runs.processes import JsonProcess

        exchange, questions = JsonProcess.exchange, []

        def first_unreadable(process, question):
            questions.append(question)
            return exchange(process, question) if len(questions) > 1 else json.loads("gibberish")

        monkeypatch.setattr(JsonProcess, "exchange", first_unreadable)
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        sweep = train_sweep(tmp_path / "s", short, grid={"model_seed": [0, 1]}, workers=1)
        assert sweep.table["status"].tolist() == ["failed", "finished"]
        assert sweep.failures["model_seed=0"].kind == "error"

    @pytest.mark.slow
    def test_progress_counts_every_run_once_and_no_step_twice(self, tmp_path):
        long = replace(BASE, schedule=replace(BASE.schedule, steps=800, evaluate_every=100))
        half = replace(BASE, schedule=replace(BASE.schedule, steps=400, evaluate_every=100))
        train_sweep(tmp_path / "s", half, grid={"model_seed": [0]}, executor=InProcess())
        starts: list[tuple[int, int]] = []

        def watch(progress: Progress) -> None:
            assert progress.done + len(progress.failed) + len(progress.running) + progress.waiting == progress.total
            if "model_seed=0" in progress.running and progress.seconds_left is None:
                starts.append(progress.running["model_seed=0"])

        train_sweep(tmp_path / "s", long, grid={"model_seed": [0, 1]}, workers=1, watch=watch)
        assert starts, "earlier steps must not count as progress of this call"
        assert starts[0] == (400, 800)


class TestEnsembles:
    def test_runs_of_one_shape_are_trained_together(self, undisturbed, tmp_path):
        grid = TWELVE | {"model_seed": [0, 1]}
        sweep = train_sweep(
            tmp_path / "s",
            BASE,
            grid=grid | {"task.train_fraction": [0.7, 0.5]},
            executor=InProcess(),
            ensembles="always",
        )
        assert sweep.table["status"].tolist() == ["finished"] * 12
        assert {run.environment["ensemble"] for run in sweep.runs} == {6}
        theirs = undisturbed.table.set_index(["optimizer.weight_decay", "model_seed"])
        ours = sweep.table[sweep.table["task.train_fraction"] == 0.7].set_index(
            ["optimizer.weight_decay", "model_seed"]
        )
        for key, row in ours.iterrows():
            assert row["final.train_loss"] == pytest.approx(theirs.loc[key, "final.train_loss"], rel=0.05)
            assert row["T_train_0.99"] == pytest.approx(theirs.loc[key, "T_train_0.99"], abs=10)

    @pytest.mark.parametrize(("workers", "sizes"), [(1, [5, 5]), (2, [3, 2, 3, 2]), (9, [1] * 10)])
    def test_runs_of_one_shape_are_divided_among_the_workers(self, workers, sizes, tmp_path):
        sweep = plan(tmp_path / "s", BASE, grid={"task.train_fraction": [0.7, 0.5], "model_seed": range(5)})
        jobs, _ = running._prepare(sweep, sweep.points, "cpu", True, workers, "float32")
        assert [len(job.runs) for job in jobs] == sizes

    def test_a_run_that_cannot_be_trained_does_not_stop_its_group(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=20))
        (tmp_path / "s" / "model_seed=1").mkdir(parents=True)
        (tmp_path / "s" / "model_seed=1" / "mine.txt").touch()
        sweep = train_sweep(
            tmp_path / "s", short, grid={"model_seed": range(3)}, executor=InProcess(), ensembles="always"
        )
        assert sweep.table["status"].tolist() == ["finished", "failed", "finished"]

    def test_stopped_runs_resume_together_from_their_steps(self, tmp_path):
        short = replace(BASE, schedule=replace(BASE.schedule, steps=100))
        first = train_sweep(tmp_path / "s", short, grid={"model_seed": [0, 1]}, executor=InProcess())
        assert all("ensemble" not in run.environment for run in first.runs)
        longer = replace(BASE, schedule=replace(BASE.schedule, steps=200))
        again = train_sweep(
            tmp_path / "s", longer, grid={"model_seed": range(4)}, executor=InProcess(), ensembles="always"
        )
        assert again.table["step"].tolist() == [200] * 4
        assert [run.environment.get("ensemble") for run in again.runs] == [None, None, 2, 2]
        assert [run.environment["resumed"][-1]["ensemble"] for run in again.runs[:2]] == [2, 2]

    def test_a_killed_ensemble_continues_in_groups_of_one_step_equal_up_to_rounding(self, tmp_path, monkeypatch):
        """The runs of an ensemble write their resume points one after another, so a kill can come between two."""
        config = KINDS["transformer"]  # with resume points every 10 steps
        options = {"grid": {"model_seed": range(3)}, "executor": InProcess(), "ensembles": "always"}
        whole = train_sweep(tmp_path / "whole", config, **options)
        write = RunWriter.write_resume_point

        def die_before_the_last(self: RunWriter, step: int, tensors) -> None:
            if (self.path.name, step) == ("model_seed=2", 20):
                raise KeyboardInterrupt
            write(self, step, tensors)

        with monkeypatch.context() as patch:
            patch.setattr(RunWriter, "write_resume_point", die_before_the_last)
            with pytest.raises(KeyboardInterrupt):
                train_sweep(tmp_path / "killed", config, **options)
        killed = train_sweep(tmp_path / "killed", config, **options)
        again = [run.environment["resumed"][-1] for run in killed.runs]
        assert [entry.get("ensemble") for entry in again] == [2, 2, None]
        assert killed.table["status"].tolist() == ["finished"] * 3
        for run, expected in zip(killed.runs, whole.runs, strict=True):
            assert_same_weights(run, expected)
            assert_same_metrics(run, expected)


class TestForeignSweep:
    """A sweep by someone else: symlinks are followed for reading, and nothing is written or removed beyond them."""

    @pytest.fixture
    def foreign(self, tmp_path) -> Path:
        return Path(shutil.copytree(Path(__file__).parent / "data" / "recipes" / "sweep", tmp_path / "sweep"))

    @staticmethod
    def move_away(folder: Path, tmp_path: Path) -> Path:
        """Move a folder and leave a symlink to it."""
        target = Path(shutil.move(folder, tmp_path / "away"))
        folder.symlink_to(target)
        return target

    def test_failures_behind_a_symlink_are_neither_removed_nor_replaced(self, foreign, tmp_path):
        target = self.move_away(foreign / "failures", tmp_path)
        before = {file.name: file.read_text() for file in target.iterdir()}
        sweep = Sweep.open(foreign)
        assert sorted(f"{name}.json" for name in sweep.failures) == sorted(before)
        for failure in (None, Failure("error", "something else")):
            with pytest.raises(RunError, match="is a symlink to somewhere outside"):
                sweep.record_failure("weight_decay=0,n_heads=3", failure)
        assert {file.name: file.read_text() for file in target.iterdir()} == before

    def test_a_run_behind_a_symlink_is_in_the_table_and_is_not_trained(self, foreign, tmp_path):
        name = "weight_decay=0,n_heads=2"
        target = self.move_away(foreign / name, tmp_path)
        sweep = Sweep.open(foreign)
        assert sweep.table.set_index("run").loc[name, "status"] == "finished"
        (target / "status.json").unlink()  # without it, the run may be unfinished
        before = sorted(path.relative_to(target) for path in target.rglob("*"))
        assert "is a symlink to somewhere outside" in str(train_point(sweep, name).failure)
        assert sorted(path.relative_to(target) for path in target.rglob("*")) == before

    @pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "", "a\nb", "\x1b[31m", "x" * 300, "a/b"])
    def test_an_invalid_folder_name_is_refused(self, name, foreign):
        content = json.loads((foreign / "sweep.json").read_text())
        content["runs"][0]["name"] = name
        (foreign / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(RunError, match="the name of a run is not a valid folder name"):
            Sweep.open(foreign)

    def test_a_failure_is_described_in_one_line(self, foreign):
        file = foreign / "failures" / "weight_decay=0,n_heads=3.json"
        file.write_text(json.dumps({"kind": "error", "message": "one\ntwo \x1b[31m", "details": ""}))
        assert str(Sweep.open(foreign).failures["weight_decay=0,n_heads=3"]) == "error: one two \\x1b[31m"
        file.write_text(json.dumps({"kind": "of another kind", "message": "x", "details": ""}))
        assert "weight_decay=0,n_heads=3" not in Sweep.open(foreign).failures
