"""The files of a sweep that belong to no run: damage to them is reported, and files of others are left alone."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rewriting import flip, rewrite
from sweeps import BASE, InProcess

from grokinterp.cli import main
from grokinterp.errors import RunError
from grokinterp.report import write_sweep_report
from grokinterp.runs.run import Run
from grokinterp.runs.verification import Verification, verify
from grokinterp.sweep import Failure, Sweep, train_sweep
from grokinterp.sweep.rows import stored_summary
from grokinterp.sweep.verification import verify_sweep
from grokinterp.training import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Sweep:
    return train_sweep(tmp_path_factory.mktemp("sweep"), BASE, grid={"model_seed": [0, 1]}, executor=InProcess())


class TestStoredFiles:
    """Files of a sweep that belong to no training, and the summaries that its table is read from."""

    @pytest.fixture
    def sweep(self, trained, tmp_path) -> Sweep:
        shutil.copytree(trained.path, tmp_path / "sweep")
        sweep = Sweep.open(tmp_path / "sweep")
        sweep.collect()
        sweep.record_failure(sweep.points[0].name, Failure("error", "out of luck"))
        write_sweep_report(sweep.table, sweep.axes, sweep.name, sweep.path / "report.html")
        assert verify_sweep(sweep.path) == Verification((), 0, 0)
        return sweep

    @pytest.mark.parametrize("name", ["sweep.parquet", "report.html", "failures"])
    def test_a_flipped_bit_is_reported(self, name, sweep):
        path = sweep.path / name
        file = next(path.iterdir()) if path.is_dir() else path
        flip(file, file.stat().st_size // 2)
        (problem,) = verify_sweep(sweep.path).problems
        assert f"{file.name} is damaged" in problem

    @pytest.mark.parametrize("size", [0, 100, 1000])
    def test_a_truncated_table_is_reported(self, size, sweep):
        (sweep.path / "sweep.parquet").write_bytes((sweep.path / "sweep.parquet").read_bytes()[:size])
        assert "sweep.parquet is damaged" in verify_sweep(sweep.path).problems[0]

    @pytest.mark.parametrize("lost", ["config.json", "the whole run"])
    def test_a_lost_run_is_a_problem(self, lost, sweep, capsys):
        run = sweep.path / sweep.points[1].name
        if lost == "config.json":
            (run / "config.json").unlink()
        else:
            shutil.rmtree(run)
        (problem,) = verify_sweep(sweep.path).problems
        assert problem.startswith(f"{run}: ")
        assert main(["verify", str(sweep.path)]) == 1

    def test_an_enormous_table_is_not_read(self, sweep):
        with (sweep.path / "sweep.parquet").open("r+b") as file:
            file.truncate(1 << 31)  # sparse
        assert "it has 2,147,483,648 bytes" in verify_sweep(sweep.path).problems[0]

    def test_a_table_of_an_earlier_version_is_named(self, sweep):
        sweep.table.to_parquet(sweep.path / "sweep.parquet", index=False)
        assert verify_sweep(sweep.path) == Verification((), 0, 0, ("sweep.parquet",))

    @pytest.mark.parametrize("content", [{"outcome": [None]}, {"run": ["x"] * 9000, "step": 1}])
    def test_a_table_that_is_no_result_of_the_sweep_is_damaged(self, sweep, content):
        pd.DataFrame(content).to_parquet(sweep.path / "sweep.parquet", index=False)
        (problem,) = verify_sweep(sweep.path).problems
        assert problem.startswith(f"{sweep.path / 'sweep.parquet'} is damaged (")

    def test_metadata_for_pandas_are_not_parsed(self, sweep):
        table = pa.table({"run": [sweep.points[0].name], "step": [1]}, metadata={"pandas": "[" * 100_000})
        pq.write_table(table, sweep.path / "sweep.parquet")
        assert verify_sweep(sweep.path).problems == ()

    def test_a_table_names_only_runs_of_the_sweep(self, sweep):
        pd.DataFrame({"run": ["../\0" + "x" * 5000], "step": [1]}).to_parquet(sweep.path / "sweep.parquet", index=False)
        (problem,) = verify_sweep(sweep.path).problems
        assert "the run is missing, although sweep.parquet has its results" in problem

    @pytest.mark.parametrize("name", ["report.html", "sweep.parquet", "failures"])
    def test_a_new_sweep_replaces_no_files_of_others(self, name, tmp_path):
        (tmp_path / name).write_text("precious")
        with pytest.raises(RunError, match=f"{name} exists, but is of no sweep"):
            train_sweep(tmp_path, BASE, grid={"model_seed": [0]}, executor=InProcess())
        assert [file.name for file in tmp_path.iterdir() if file.name != ".lock"] == [name]
        assert (tmp_path / name).read_text() == "precious"

    def test_a_run_that_was_finished_outside_the_sweep_is_no_failure(self, sweep):
        name = sweep.points[1].name
        sweep.record_failure(name, Failure("killed", "its process was killed by SIGKILL"))
        assert sweep.table.set_index("run")["failure"][name] is None

    def test_a_run_that_was_extended_outside_the_sweep_says_what_to_do(self, sweep):
        run = Run.open(sweep.path / sweep.points[1].name)
        longer = replace(run.config, schedule=replace(run.config.schedule, steps=run.config.schedule.steps + 10))
        train(longer, run.path, resume=True)
        assert "has more steps than the sweep: run the sweep again with that" in sweep.table["failure"][1]

    def test_a_damaged_sweep_file(self, sweep):
        data = (sweep.path / "sweep.json").read_bytes()
        flip(sweep.path / "sweep.json", data.index(b'"model_seed": 1') + 14, bit=1)
        with pytest.raises(RunError, match=r"sweep.json is damaged"):
            verify_sweep(sweep.path)

    @pytest.mark.parametrize("damage", ["a digit", "an unknown outcome"])
    def test_a_damaged_summary_is_computed_again(self, damage, sweep):
        file = sweep.path / sweep.points[1].name / "analysis" / "summary.json"
        table, row = sweep.table, json.loads(file.read_text())["row"]
        if damage == "a digit":
            flip(file, file.read_bytes().index(b'"step": ') + 8)
            assert any("summary.json is damaged" in problem for problem in verify(file.parents[1]).problems)
        else:
            rewrite(file, row=row | {"outcome": "GROKKED"})
        assert stored_summary(Run.open(file.parents[1])) is None
        assert sweep.table["outcome"].tolist() == table["outcome"].tolist()
