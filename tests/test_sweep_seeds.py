"""A sweep of a few seeds: its log, the command that its runs record, and its report."""

import io
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console
from sweeps import BASE, InProcess

from grokinterp.cli.console import SweepDisplay
from grokinterp.cli.report import write_report_of_sweep
from grokinterp.runs.run import Run
from grokinterp.sweep import Progress, Sweep, train_sweep
from grokinterp.sweep.jobs import Job, run_job

CONFIG = replace(BASE, schedule=replace(BASE.schedule, steps=40))
COMMAND = "grokinterp sweep seeds --grid model_seed=0:3"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Sweep:
    arguments, sys.argv = sys.argv, ["/bin/grokinterp", *COMMAND.split()[1:]]
    try:
        return train_sweep(
            tmp_path_factory.mktemp("sweep") / "seeds", CONFIG, grid={"model_seed": range(3)}, executor=InProcess()
        )
    finally:
        sys.argv = arguments


class TestLog:
    @pytest.fixture
    def display(self) -> SweepDisplay:
        display = SweepDisplay(Path("seeds"))
        display._console = Console(file=io.StringIO(), width=120)
        return display

    def lines(self, display: SweepDisplay) -> list[str]:
        return display._console.file.getvalue().splitlines()

    def test_it_says_how_many_runs_train(self, display):
        for done, running in ((0, {}), (0, {"a": (10, 40)}), (1, {}), (1, {"b": (0, 40)}), (2, {})):
            display.show(Progress(2, done=done, running=running))
        assert self.lines(display) == [
            "0 of 2 done, 1 running, 1 waiting, 0 failed: a at 10 of 40",
            "1 of 2 done, 1 running, 0 waiting, 0 failed: b at 0 of 40",
            "2 of 2 done, 0 running, 0 waiting, 0 failed",
        ]

    def test_it_goes_on_while_a_run_trains(self, display, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("grokinterp.cli.console.time.monotonic", lambda: now[0])
        for step in range(90):
            now[0] += 1
            display.show(Progress(1, running={"a": (step, 100)}))
        assert [line.split(": ")[1] for line in self.lines(display)] == [f"a at {i} of 100" for i in (0, 31, 62)]


def test_runs_record_the_command_of_the_sweep(seeds, tmp_path, monkeypatch):
    assert {run.environment["command"] for run in seeds.runs} == {COMMAND}
    monkeypatch.setattr(sys, "argv", ["/site-packages/grokinterp/sweep/worker.py"])
    job = Job(str(tmp_path), {"a": CONFIG.to_json()}, command=COMMAND)
    for sent in (job, replace(job, runs={"b": CONFIG.to_json()}, command="")):
        run_job(Job(**asdict(sent)))
    assert [Run.open(tmp_path / name).environment["command"] for name in "ab"] == [COMMAND, "worker.py"]


def test_the_report_shows_learning_curves_first(seeds, tmp_path):
    text = write_report_of_sweep(seeds, seeds.table, tmp_path / "report.html").read_text()
    assert text.index('id="learning-curves"') < text.index('id="axes"')
    assert "outcome_counts" not in text
    assert "to ∞" not in text
    assert "<details><summary>" in text[text.index('id="final-measures"') :]


def test_a_large_sweep_has_no_learning_curves(seeds, tmp_path, monkeypatch):
    monkeypatch.setattr("grokinterp.report.sweep.MAX_CURVES", 2)
    text = write_report_of_sweep(seeds, seeds.table, tmp_path / "report.html").read_text()
    assert "learning-curves" not in text
    assert "3 runs: " in text
