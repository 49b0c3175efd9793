"""The command line: what each command prints and writes, and one clear line for every mistake."""

import errno
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import processes
import pytest
import torch
from shells import ENVIRONMENT, Outcome

import grokinterp
from grokinterp.cli import main
from grokinterp.cli.train import _print_outcome
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.measures import registered
from grokinterp.runs.run import Run
from grokinterp.sweep import plan
from grokinterp.training import train

CONFIG = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=MLPConfig(width=16),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=20, evaluate_every=5, checkpoints=5, resume_every=10),
)
TINY = [
    *("--task.p", "7", "--task.train-fraction", "0.5", "--model.d-model", "16", "--model.n-heads", "2"),
    *("--model.d-mlp", "32", "--schedule.steps", "20", "--schedule.evaluate-every", "5", "--schedule.checkpoints", "5"),
]


DATA = str(Path(__file__).parent / "data" / "recipes" / "sweep")
COMMAND = [sys.executable, "-m", "grokinterp.cli"]


def command(*arguments: str, cwd: Path) -> Outcome:
    """A command as a user gives it, in an interpreter of its own."""
    options = {"cwd": cwd, "env": ENVIRONMENT, "capture_output": True, "text": True}
    found = processes.run([*COMMAND, *arguments], **options)
    return Outcome(found.returncode, found.stdout, found.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    return train(CONFIG, tmp_path_factory.mktemp("cli") / "run").path


@pytest.fixture
def here(made, tmp_path, monkeypatch) -> Path:
    """An empty folder but for a finished run in `run`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "run")
    return tmp_path


class TestHelp:
    def test_help_of_every_command_imports_nothing_heavy(self):
        script = """
import sys
from grokinterp.cli import main
train = (["train"], ["train", "--help-all"], ["train", "--preset", "psi"])
for command in ([], *train, ["analyze"], ["report"], ["list"], ["demo"], ["presets"], ["measures"]):
    try:
        code = main([*command, "--help"])
    except SystemExit as end:
        code = end.code or 0
    assert code == 0, command
assert main([]) == 0
assert main(["--version"]) == 0
heavy = {"torch", "transformer_lens", "pandas", "numpy", "plotly", "safetensors"} & set(sys.modules)
assert not heavy, heavy
"""
        found = processes.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        assert found.stderr == ""
        for option in ("--task.p", "--model.d-model", "--optimizer.weight-decay", "--schedule.steps", "--no-report"):
            assert option in found.stdout
        assert "--model.width" in found.stdout

    @pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
    def test_the_commands_are_listed(self, arguments, shell):
        shown = shell(*arguments)
        assert (shown.code, shown.err) == (0, "")
        for name in ("train", "analyze", "report", "list", "demo"):
            assert f"  {name} " in shown.out

    @pytest.mark.parametrize("command", ["train", "sweep", "analyze", "reproduce"])
    def test_defaults_are_those_of_the_flags_shown(self, command, shell):
        options = re.findall(r"^. (--\S+)", shell(command, "--help").out, flags=re.MULTILINE)
        assert len(options) > 5
        assert not [option for option in options if "format-version" in option or ".no-" in option or "--no-" in option]

    def test_the_version(self, shell):
        assert shell("--version") == Outcome(0, f"grokinterp {grokinterp.__version__}\n", "")


class TestFromTheShell:
    """Each of these starts an interpreter or several."""

    def test_train_then_analyze_then_list(self, tmp_path):
        trained = command("train", "runs/first", *TINY, cwd=tmp_path)
        assert (trained.code, trained.err) == (0, "")
        assert trained.out.splitlines() == [
            "runs/first: finished at step 20 (all steps made)",
            "DNF_train: train accuracy did not reach 0.99 within 20 steps",
            "next: grokinterp analyze runs/first",
        ]
        run = Run.open(tmp_path / "runs" / "first")
        assert run.steps == [0, 5, 10, 15, 20]
        assert run.environment["command"].endswith("train runs/first " + " ".join(TINY))

        analyzed = command("analyze", "runs/first", "--json", "--no-report", cwd=tmp_path)
        assert (analyzed.code, analyzed.err) == (0, "")
        summary = json.loads(analyzed.out)
        assert summary["run"] == "runs/first"
        assert summary["task"] == {"operation": "add", "p": 7, "train_fraction": 0.5}
        assert summary["steps"] == {"first": 0, "last": 20, "count": 5}
        assert not (run.path / "analysis" / "report.html").exists()

        listed = command("list", "runs", "--json", cwd=tmp_path)
        assert (listed.code, listed.err) == (0, "")
        assert [row["run"] for row in json.loads(listed.out)] == ["first"]

    def test_a_mistake_is_one_line(self, tmp_path):
        line = "grokinterp: nothing does not exist: `grokinterp list` shows the existing runs\n"
        assert command("analyze", "nothing", cwd=tmp_path) == Outcome(2, "", line)
        assert contents(tmp_path) == {}

    def test_ctrl_c_leaves_a_run_that_can_be_continued(self, tmp_path):
        endless = [*COMMAND, "train", "run", *TINY, "--schedule.steps", "10000000"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with processes.start(endless, cwd=tmp_path, env=ENVIRONMENT, **pipes) as started:
            processes.wait_until((tmp_path / "run" / "metrics.jsonl").is_file, started)
            started.send_signal(signal.SIGINT)
            out, err = started.communicate(timeout=processes.TIMEOUT)
        assert (started.returncode, err) == (130, "")
        step = Run.open(tmp_path / "run").status["step"]
        assert out.splitlines() == [
            f"run: stopped at step {step:,} of 10,000,000, {step / 1e5:.0f} % (interrupted)",
            "continue with: grokinterp train run --resume",
        ]

    @pytest.mark.parametrize("how", [[], ["--json"]], ids=["table", "json"])
    def test_a_reader_that_has_seen_enough_is_no_error(self, how, made, tmp_path):
        listing = [*COMMAND, "list", str(made.parent), *how]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with processes.start(listing, cwd=tmp_path, env=ENVIRONMENT, **pipes) as started:
            started.stdout.close()
            assert started.stderr.read() == ""
            assert started.wait(processes.TIMEOUT) == 0


class TestTrain:
    def test_dry_run_writes_nothing_and_prints_the_configuration(self, here, shell):
        before = contents(here)
        shown = shell("train", "new", "--preset", "psi", "--task.p", "7", "--model.width", "8", "--dry-run")
        psi = preset("psi")
        expected = replace(psi, task=replace(psi.task, p=7), model=replace(psi.model, width=8))
        assert shown.code == 0
        assert RunConfig.from_json(shown.out) == expected
        assert "parameters; 101 checkpoints of" in shown.err
        assert "for 5,000 steps" in shown.err
        assert contents(here) == before

    @pytest.mark.parametrize("flag", [["--config", "mine.json"], ["--config=mine.json"]])
    def test_a_configuration_file_supplies_the_defaults(self, flag, here, shell):
        (here / "mine.json").write_text(CONFIG.to_json())
        assert shell("train", "new", *flag, "--model-seed", "4").code == 0
        assert Run.open("new").config == replace(CONFIG, model_seed=4)

    def test_resuming_a_finished_run_changes_nothing(self, here, shell):
        before = contents(here)
        assert "run has no more steps to make: nothing was changed" in shell("train", "run", "--resume").out
        assert contents(here) == before

    def test_resuming_takes_the_runs_own_configuration(self, here, shell):
        shown = shell("train", "run", "--resume", "--schedule.steps", "30")
        assert shown.out.splitlines()[0] == "run: finished at step 30 (all steps made)"
        assert Run.open("run").config == replace(CONFIG, schedule=replace(CONFIG.schedule, steps=30))
        assert Run.open("run").steps == [0, 5, 10, 15, 20, 25, 30]

    def test_starting_from_another_runs_weights(self, here, shell):
        (here / "mine.json").write_text(CONFIG.to_json())
        assert shell("train", "new", "--config", "mine.json", "--from", "run@10").code == 0
        weights, source = Run.open("new").weights(0), Run.open("run").weights(10)
        assert all((weights[name] == source[name]).all() for name in source)

    def test_a_diverged_run_says_so(self, here, shell):
        (here / "mine.json").write_text(CONFIG.to_json())
        wild = ["--optimizer.name", "sgd", "--optimizer.weight-decay", "0", "--optimizer.lr", "1e12"]
        shown = shell("train", "new", "--config", "mine.json", *wild)
        assert "new: diverged at step" in shown.out
        assert "the training loss was not finite at step" in shown.out
        assert "next: try a smaller --optimizer.lr (this run had 1e+12)" in shown.out

    def test_a_run_whose_name_starts_with_a_hyphen(self, here, shell):
        (here / "run").rename(here / "-x")
        shown = shell("train", "--resume", "--schedule.steps", "30", "--", "-x")
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.splitlines()[-1] == "next: grokinterp analyze ./-x"


class TestAnalyze:
    def test_json_is_one_object_and_nothing_else(self, here, shell):
        shown = shell("analyze", "run", "--json", "--no-report")
        assert (shown.code, shown.err) == (0, "")
        summary = json.loads(shown.out)
        assert set(summary) >= {"run", "task", "steps", "reference", "transition", "final", "warnings"}
        assert summary == json.loads((here / "run" / "analysis" / "analysis.json").read_text())["summary"]

    def test_json_with_a_report(self, here, shell):
        shown = shell("analyze", "run", "--json")
        assert (shown.code, shown.err) == (0, "")
        assert json.loads(shown.out)["run"] == "run"
        assert (here / "run" / "analysis" / "report.html").is_file()

    def test_a_table_for_people_and_where_the_report_is(self, here, shell):
        shown = shell("analyze", "run")
        assert (shown.code, shown.err) == (0, "")
        for text in ("DNF_train", "fits (99 %)", "generalizes (95 %)", "no phases", "key frequencies", "test accuracy"):
            assert text in shown.out
        assert f"report: {Path('run', 'analysis', 'report.html')}" in shown.out
        report = (here / "run" / "analysis" / "report.html").read_text()
        assert report.lstrip().lower().startswith("<!doctype html>")

    def test_tables_as_csv(self, here, shell):
        assert shell("analyze", "run", "--csv", "--no-report").code == 0
        folder = here / "run" / "analysis"
        timeline = pd.read_csv(folder / "timeline.csv", index_col="step")
        expected = pd.read_parquet(folder / "timeline.parquet")
        pd.testing.assert_frame_equal(timeline, expected, check_like=True, check_dtype=False, rtol=1e-12)
        assert list(pd.read_csv(folder / "frequencies.csv").columns[:2]) == ["step", "k"]

    def test_options_reach_the_analysis(self, here, shell):
        options = ["--measures", "gini_embedding,margin", "--steps", "5:15:5", "--frequencies", "1,3"]
        summary = json.loads(shell("analyze", "run", "--json", "--no-report", *options).out)
        assert summary["steps"] == {"first": 5, "last": 15, "count": 3}
        assert summary["reference"]["key_frequencies"] == [1, 3]
        assert summary["reference"]["rule"] == "given"
        assert "gini_embedding" in summary["final"]
        assert "gini_neuron_logit" not in summary["final"]

    def test_another_rule_at_another_step(self, here, shell):
        options = ["--rule", "embedding_norm", "--reference-step", "10"]
        reference = json.loads(shell("analyze", "run", "--json", "--no-report", *options).out)["reference"]
        assert (reference["rule"], reference["step"]) == ("embedding_norm", 10)

    def test_a_measure_that_raises_is_named_with_the_step(self, run, monkeypatch):
        monkeypatch.setattr("grokinterp.measures.base._REGISTER", registered())  # these two are gone after the test

        def fails(snapshot):
            return 1 / (snapshot.step - 20)

        def two_numbers(snapshot):
            return torch.zeros(2, 2)

        with pytest.raises(ConfigError, match=r"^measure 'fails' failed at step 20: ZeroDivisionError: "):
            grokinterp.analyze(run, measures=[fails], steps=[0, 20])
        with pytest.raises(ConfigError, match=r"^measure 'two_numbers' failed at step 0: "):
            grokinterp.analyze(run, measures=[two_numbers], steps=[0])


class TestAnalyzeSeveral:
    def test_one_table_with_a_row_for_each(self, here, shell):
        shutil.copytree("run", "other")
        shown = shell("analyze", "run", "other", "--measures", "margin")
        assert (shown.code, shown.err) == (0, "")
        rows = [line.split()[:3] for line in shown.out.splitlines() if line.split()[:1] in (["run"], ["other"])]
        assert rows == [["run", "outcome", "T_train(0.99)"], ["run", "DNF", "train"], ["other", "DNF", "train"]]
        assert f"report: {Path('run', 'analysis', 'comparison.html')}" in shown.out

    def test_json_is_a_list(self, here, shell):
        shutil.copytree("run", "other")
        summaries = json.loads(shell("analyze", "run", "other", "--json", "--no-report", "--measures", "margin").out)
        assert [summary["run"] for summary in summaries] == ["run", "other"]

    def test_a_missing_one_is_found_before_the_others_are_analyzed(self, here, shell):
        shown = shell("analyze", "run", "nothing")
        assert (shown.code, shown.out) == (2, "")
        assert not (here / "run" / "analysis").exists()

    def test_none_is_a_mistake(self, here, shell):
        assert shell("analyze").err == "grokinterp: analyze: give at least one run folder\n"


class TestUnfinished:
    def test_list_and_analyze_say_how_far_it_is(self, here, shell):
        content = json.loads((here / "run" / "status.json").read_text())
        del content["checksum"]
        (here / "run" / "status.json").write_text(json.dumps(content | {"status": "stopped", "step": 5}))
        assert "stopped at 25 %" in shell("list", ".").out
        shown = shell("analyze", "run", "--no-report", "--measures", "margin").out
        assert "(stopped at step 5 of 20, 25 %)" in " ".join(shown.split())

    def test_a_run_that_trains_long_after_it_grokked_says_so(self, here, capsys):
        run = Run.open("run")
        lines = (here / "run" / "metrics.jsonl").read_text().splitlines()
        rows = [{name: value for name, value in json.loads(line).items() if name != "checksum"} for line in lines]
        grokked = [row | {"train_accuracy": 1.0, "test_accuracy": float(row["step"] >= 5)} for row in rows]
        (here / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in grokked))
        _print_outcome(run, 20)
        assert "15 of 20 steps came after 99 % test accuracy: --schedule.stop-when-grokked" in capsys.readouterr().out


class TestReport:
    def test_of_one_run(self, here, shell):
        shown = shell("report", "run")
        assert shown == Outcome(0, f"{Path('run', 'analysis', 'report.html')}\n", "")
        assert (here / "run" / "analysis" / "report.html").is_file()

    def test_of_several_runs(self, here, shell):
        shutil.copytree("run", "other")
        assert shell("report", "run", "other", "--output", "both.html") == Outcome(0, "both.html\n", "")
        assert (here / "both.html").is_file()


class TestList:
    def test_a_table(self, here, shell):
        shown = shell("list", ".")
        assert (shown.code, shown.err) == (0, "")
        for text in ("run", "add mod 7", "mlp", "DNF train", "20", "T_train", "T_grok", "age", "▁"):
            assert text in shown.out

    def test_a_damaged_run_is_shown_with_its_damage(self, here, shell):
        shutil.copytree("run", "broken")
        (here / "broken" / "config.json").write_text("{")
        rows = json.loads(shell("list", ".", "--json").out)
        assert [row["run"] for row in rows] == ["broken", "run"]
        assert "is not JSON" in rows[0]["problem"]
        assert rows[1]["checkpoints"] == 5

    def test_the_damage_can_be_read_in_the_table(self, here, shell):
        (here / "run" / "config.json").write_text("{")
        words = " ".join(shell("list", ".").out.replace("│", " ").split())
        assert "is not JSON" in words

    def test_a_run_before_its_first_step(self, here, shell):
        (here / "run" / "metrics.jsonl").unlink()
        (here / "run" / "status.json").unlink()
        row = json.loads(shell("list", ".", "--json").out)[0]
        assert row["status"] == "unknown"
        assert row["test_accuracy"] is None
        assert shell("list", ".").code == 0

    def test_sweeps_in_the_folder_are_named(self, here, shell):
        sweep = plan("weights", Run.open("run").config, grid={"model_seed": range(3)})
        sweep.write()
        shutil.copytree("run", sweep.path / sweep.points[0].name)
        (here / "broken").mkdir()
        (here / "broken" / "sweep.json").write_text("{")
        rows = json.loads(shell("list", ".", "--json").out)
        assert [row["run"] for row in rows if "run" in row] == ["run"]
        assert rows[2] == {"sweep": "weights", "runs": 3, "finished": 1}
        assert rows[1]["sweep"] == "broken"
        assert "damaged" in rows[1]["problem"]
        shown = shell("list", ".").out
        assert "sweeps (list one by its folder)" in shown
        assert ["weights", "3", "1"] in [line.split() for line in shown.splitlines()]

    def test_what_is_being_put_in_place_is_no_run_yet(self, here, shell):
        shutil.copytree("run", ".run.tmp")
        assert [row["run"] for row in json.loads(shell("list", ".", "--json").out)] == ["run"]

    def test_the_last_line_of_the_metrics_counts(self, here, shell):
        metrics = here / "run" / "metrics.jsonl"
        *_, last = metrics.read_text().splitlines()
        expected = json.loads(last)["test_accuracy"]
        with metrics.open("a") as file:
            file.write('{"step": 99, "test_acc')  # is being written
        assert json.loads(shell("list", ".", "--json").out)[0]["test_accuracy"] == expected
        metrics.write_text(metrics.read_text() + "\n")
        assert "its last line is damaged" in json.loads(shell("list", ".", "--json").out)[0]["problem"]
        metrics.write_text('{"step": 99, "test_accuracy": null}\n')
        assert json.loads(shell("list", ".", "--json").out)[0]["test_accuracy"] is None

    def test_no_runs(self, here, shell):
        (here / "empty").mkdir()
        assert shell("list", "empty") == Outcome(0, "no runs in empty: `grokinterp demo` creates one\n", "")


MISTAKES = {
    "command": (["analyse", "run"], "no command 'analyse': did you mean 'analyze'?"),
    "option": (["train", "new", "--task.pp", "7"], "did you mean --task.p?"),
    "option of another model": (["train", "new", "--preset", "psi", "--model.d-model", "8"], "--model.d-model"),
    "option of analyze": (["analyze", "run", "--jsn"], "did you mean --json?"),
    "no folder": (["train"], "train: the run folder is missing"),
    "two folders": (["train", "new", "newer"], "newer"),
    "no value": (["train", "new", "--config"], "--config"),
    "preset": (["train", "new", "--preset", "demoo"], "unknown preset 'demoo': did you mean 'demo'?"),
    "preset and configuration": (
        ["train", "new", "--preset", "demo", "--config", "run/config.json"],
        "--preset and --config exclude each other: give one",
    ),
    "configuration that is not there": (["train", "new", "--config", "no.json"], "--config no.json: no such file"),
    "configuration with an unknown key": (["train", "new", "--config", "unknown.json"], "unknown.json: taks is not a"),
    "configuration that is no JSON": (["train", "new", "--config", "damaged.json"], "damaged.json is not JSON"),
    "configuration of another version": (["train", "new", "--config", "future.json"], "has format version 2"),
    "operation": (["train", "new", "--task.operation", "ad"], "'add'"),
    "modulus": (["train", "new", "--task.p", "seven"], "--task.p"),
    "small modulus": (["train", "new", "--task.p", "2"], "p must be at least 3, but is 2"),
    "division": (
        ["train", "new", "--task.operation", "divide", "--task.p", "12"],
        "division mod 12 is not defined for every pair, because 12 is not a prime",
    ),
    "nothing to train on": (["train", "new", "--task.train-fraction", "0"], "train_fraction must lie strictly between"),
    "nothing to test on": (["train", "new", "--task.train-fraction", "1"], "train_fraction must lie strictly between"),
    "no split": (["train", "new", "--task.split", "unknown", "--task.train-fraction", "None"], "split"),
    "heads": (["train", "new", "--model.d-model", "10", "--model.n-heads", "4"], "not a multiple of n_heads"),
    "schedule": (["train", "new", "--schedule.checkpoints", "often"], "cannot read"),
    "device": (["train", "new", *TINY, "--device", "tpu"], "unknown device 'tpu': use auto, cpu, cuda or mps"),
    "tracker": (["train", "new", *TINY, "--track", "mlflow"], "unknown tracker 'mlflow'"),
    "occupied folder": (["train", "run", *TINY], "run already holds a run: resume it (--resume;"),
    "folder with other things": (["train", "notes", *TINY], "notes exists and is not an empty folder: choose another"),
    "folder below a file": (["train", "file/new", *TINY], "cannot create the folder"),
    "start from nothing": (["train", "new", *TINY, "--from", "run"], "does not have the form RUN@STEP"),
    "start from a step not kept": (["train", "new", *TINY, "--from", "run@7"], "has no weights of step 7"),
    "start from another shape": (["train", "new", *TINY, "--from", "run@5"], "do not fit this model"),
    "resuming nothing": (["train", "new", "--resume"], "nothing to resume or restart in new: it contains no run"),
    "resuming no folder": (["train", "--resume"], "nothing to resume or restart in no folder"),
    "resuming with fewer steps": (["train", "run", "--resume", "--schedule.steps", "10"], "may only grow"),
    "resuming with another option": (
        ["train", "run", "--resume", "--optimizer.lr", "1"],
        "only schedule.steps may change when resuming",
    ),
    "no run": (["analyze", "nothing", "--no-report"], "nothing does not exist"),
    "a sweep": (["analyze", "a_sweep"], "a_sweep is a sweep: give one of its runs"),
    "not a run": (["analyze", "notes", "--no-report"], "notes is not a run: it has no config.json"),
    "run of another version": (["analyze", "future", "--no-report"], "this grokinterp reads version 1"),
    "measure": (["analyze", "run", "--measures", "los"], "measure 'los' is not known: did you mean 'loss'?"),
    "measure of no module": (["analyze", "run", "--measures", "nowhere.at:all"], "cannot be imported"),
    "rule": (["analyze", "run", "--rule", "cube_cosin"], "rule 'cube_cosin' is not known: did you mean 'cube_cosine'?"),
    "steps": (["analyze", "run", "--steps", "a:b"], "steps 'a:b': give A:B:C"),
    "steps not kept": (["analyze", "run", "--steps", "6:9"], "no checkpoint at steps '6:9'"),
    "frequencies": (["analyze", "run", "--frequencies", "one"], "give integers separated by commas"),
    "frequencies out of range": (["analyze", "run", "--frequencies", "9"], "frequencies of Z_7 lie in 1 .. 3"),
    "frequencies and rule": (
        ["analyze", "run", "--rule", "embedding_norm", "--frequencies", "1"],
        "--rule and --frequencies exclude each other: give one",
    ),
    "reference step": (["analyze", "run", "--reference-step", "7"], "no checkpoint at the reference step 7"),
    "report of nothing": (["report"], "report: "),
    "report of no run": (["report", "nothing"], "nothing does not exist"),
    "list of no folder": (["list", "nothing"], "nothing is not a folder: give the folder that contains the runs"),
    "name of 300 bytes": (["analyze", "n" * 300], "File name too long"),
    "path of 5,000 bytes": (["train", "d/" * 2500], "File name too long"),
    "bytes that are not UTF-8": (["list", "\udcff"], "'\\udcff' is not valid utf-8: rename the file or folder"),
    "steps of 5,000 digits": (["analyze", "run", "--steps", "9" * 5000], "give A:B:C"),
    "frequencies of 5,000 digits": (["analyze", "run", "--frequencies", "9" * 5000], "give integers separated"),
    "start from a step of 5,000 digits": (["train", "new", *TINY, "--from", "run@" + "9" * 5000], "the form RUN@STEP"),
    "grid of 5,000 digits": (["sweep", "new", "--grid", "model_seed=0:" + "9" * 5000], "is too large"),
    "measure without names": (
        ["analyze", "run", "--measures", ":"],
        "measure ':' is not known: give package.module:function",
    ),
    "measure of a relative module": (
        ["analyze", "run", "--measures", ".x:y"],
        "measure '.x:y' is not known: give package.module:function",
    ),
    "measure whose module raises": (["analyze", "run", "--measures", "broken:x"], "imported: ZeroDivisionError: div"),
    "format version": (["train", "new", "--format-version", "1"], "--format-version"),
    "demo in another run": (["demo", "--run", "run"], "run contains a run other than the demo"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, message, here, shell):
    (here / "notes").mkdir()
    (here / "notes" / "a.txt").write_text("mine")
    (here / "a_sweep").mkdir()
    (here / "a_sweep" / "sweep.json").write_text("{}")
    (here / "file").write_text("a file")
    (here / "broken.py").write_text("1 / 0")
    (here / "unknown.json").write_text('{"taks": {"p": 7}}')
    (here / "damaged.json").write_text('{"task": {')
    (here / "future.json").write_text('{"format_version": 2}')
    (here / "future").mkdir()
    (here / "future" / "config.json").write_text('{"format_version": 2}')
    before = contents(here)
    shown = shell(*arguments)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("grokinterp: ")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith("\n")
    assert message in shown.err
    assert contents(here) == before


class TestTheOutput:
    @pytest.mark.parametrize("arguments", [["list"], ["analyze", "--help"], []], ids=["list", "help", "usage"])
    def test_a_full_disk_is_one_line(self, arguments, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert main(arguments) == 2
        message = "grokinterp: reading or writing failed: No space left on device; check permissions"
        assert capsys.readouterr().err == f"{message} and free disk space\n"

    def test_a_closed_output_is_no_error(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdout", None)
        assert main(["--version"]) == 0
        sys.stdout.close()
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
    @pytest.mark.parametrize(
        "arguments", [["reproduce", "--list"], ["train", "--help"], ["analyze", "--help"], ["measures"], ["list", DATA]]
    )
    def test_an_encoding_that_lacks_characters_is_no_error(self, arguments, encoding, monkeypatch):
        output = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
        assert main(arguments) == 0
        assert output.getvalue().count(b"\n") > 3
        output.getvalue().decode(encoding)

    def test_an_error_of_the_system_is_one_line_with_the_path(self, monkeypatch, capsys):
        def fail(arguments):
            raise PermissionError(errno.EACCES, "Permission denied", "locked/run")

        monkeypatch.setattr("grokinterp.cli.list.run_list", fail)
        assert main(["list"]) == 2
        message = "grokinterp: cannot access locked/run: Permission denied; check permissions and free disk space\n"
        assert capsys.readouterr().err == message
