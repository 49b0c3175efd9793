"""list_runs: the runs and sweeps in a folder as a table."""

import errno
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import grokinterp as gi
from grokinterp.runs.run import Run
from grokinterp.sweep.listing import describe_runs

DATA = Path(__file__).parent / "data" / "recipes" / "sweep"
NAME = "weight_decay=0,n_heads=2"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one run and one sweep of the stored data."""
    shutil.copytree(DATA, tmp_path / "decay")
    shutil.copytree(DATA / NAME, tmp_path / "alone")
    return tmp_path


def test_a_run_has_its_status_and_last_accuracies(folder):
    table = gi.list_runs(folder)
    run = Run.open(folder / "alone")
    row = table.set_index("run").loc["alone"]
    assert (row["task"], row["model"]) == (run.config.task.title, run.config.model.kind)
    assert row["train_fraction"] == run.config.task.train_fraction
    assert (row["status"], row["step"]) == (run.status["status"], run.status["step"])
    assert row["checkpoints"] == len(run.steps)
    last = run.metrics.iloc[-1]
    assert (row["train_accuracy"], row["test_accuracy"]) == (last["train_accuracy"], last["test_accuracy"])
    assert row["outcome"] == gi.find_transition(run.metrics, n_classes=run.config.task.p).outcome
    assert len(row["sparkline"]) == 10
    assert "problem" not in table


def test_a_sweep_has_one_row_after_the_runs(folder):
    table = gi.list_runs(folder)
    assert table["run"].tolist()[0] == "alone"
    assert pd.isna(table["run"][1])
    statuses = gi.Sweep.open(folder / "decay").statuses()
    assert table.loc[1, ["sweep", "runs", "finished"]].tolist() == ["decay", statuses.total(), statuses["finished"]]
    assert 0 < statuses["finished"] < statuses.total()


def test_the_runs_of_a_sweep_are_listed_by_its_folder(folder):
    names = gi.list_runs(folder / "decay")["run"].tolist()
    assert names == sorted(path.parent.name for path in (folder / "decay").glob("*/config.json"))
    assert NAME in names


@pytest.mark.parametrize("file", ["config.json", "status.json", "metrics.jsonl"])
def test_a_damaged_run_reports_its_problem_and_the_others_are_listed(folder, file):
    shutil.copytree(folder / "alone", folder / "broken")
    (folder / "broken" / file).write_text("{\n")
    table = gi.list_runs(folder).set_index("run")
    assert file in table.loc["broken", "problem"]
    assert pd.isna(table.loc["broken", "status"])
    assert pd.isna(table.loc["alone", "problem"])
    assert table.loc["alone", "status"] == "finished"


def test_a_damaged_sweep_reports_its_problem(folder):
    (folder / "decay" / "sweep.json").write_text("{")
    shutil.copytree(DATA, folder / "intact")
    table = gi.list_runs(folder).set_index("sweep")
    assert "sweep.json is damaged" in table.loc["decay", "problem"]
    assert pd.isna(table.loc["decay", "runs"])
    assert pd.isna(table.loc["intact", "problem"])
    assert table.loc["intact", "runs"] > 0


@pytest.mark.parametrize("locked", ["alone", "decay"])
def test_a_folder_without_permission_does_not_hide_the_others(folder, locked, monkeypatch):
    shutil.copytree(folder / "alone", folder / "open")
    lstat = os.lstat

    def refuse(path, **options):
        if Path(path).parent == folder / locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    table = gi.list_runs(folder).set_index("run")
    assert "Permission denied" in table.loc[locked, "problem"]
    assert table.loc["open", "status"] == "finished"
    with pytest.raises(gi.RunError, match="Permission denied"):
        Run.open(folder / locked)


def test_a_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(gi.RunError, match=r"cannot read .*: Permission denied"):
        gi.list_runs(folder)


def test_an_empty_folder_gives_an_empty_table_with_the_columns_of_runs(tmp_path):
    table = gi.list_runs(tmp_path)
    assert len(table) == 0
    assert table.columns.tolist() == [
        *("run", "task", "train_fraction", "model", "status", "step", "steps", "checkpoints"),
        *("train_accuracy", "test_accuracy", "novel_accuracy", "outcome", "T_train_0.99", "T_grok_0.99"),
        *("sparkline", "modified"),
    ]
    assert describe_runs(tmp_path) == []


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(gi.RunError, match="missing"):
        gi.list_runs(tmp_path / "missing")


def test_the_table_has_the_values_of_the_rows_of_the_command(folder):
    table = gi.list_runs(folder)
    for number, row in enumerate(describe_runs(folder)):
        for name, value in row.items():
            assert table.loc[number, name] == value or (value is None and pd.isna(table.loc[number, name]))
