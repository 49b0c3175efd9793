"""verify: intact runs have no problems, and each kind of damage is one line that names the file."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rewriting import flip, rewrite
from safetensors.torch import load_file, save_file
from trainings import contents

from grokinterp.analysis.timeline import analyze
from grokinterp.cli import main
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.report import write_report
from grokinterp.runs.checksums import without_checksum
from grokinterp.runs.metrics import metric_line
from grokinterp.runs.repair import repair
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.runs.writer import RunWriter
from grokinterp.sweep import train_sweep
from grokinterp.tasks import Task
from grokinterp.training import Callback, train
from grokinterp.training.recorder import Recorder

CONFIG = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=MLPConfig(width=8, depth=1),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=30, evaluate_every=5, checkpoints=10, resume_every=10),
)


class StopAt(Callback):
    """Raises an error at a step, like a failing tracker."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, step):
        if step == self.step:
            raise RuntimeError("out of luck")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(CONFIG, folder)
    analyze(folder, workers=0)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a run that the test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def problem(run: Path) -> str:
    """The only problem of a run."""
    (found,) = verify(run).problems
    return found


def lines_of(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


def verify_strictly(run: Path) -> None:
    raise RunError(verify(run).problems[0])


def unrecorded(run: Path, name: str) -> None:
    """Removes the checksum of a file from status.json, as in runs from before checksums were recorded."""
    checksums = json.loads((run / "status.json").read_text())["checksums"]
    del checksums[name]
    rewrite(run / "status.json", checksums=checksums)


class TestWholeRuns:
    def test_a_finished_run(self, run):
        found = verify(run)
        assert found.problems == ()
        assert found.checkpoints == 4
        assert found.evaluations == 7

    @pytest.mark.parametrize("name", ["demo", "psi", "manir", "manir-transformer", "power", "parity", "nanda"])
    def test_every_architecture(self, name, tmp_path):
        config = preset(name)
        if isinstance(config.model, MLPConfig):
            model = replace(config.model, width=8, d_embed=None)
        else:
            model = replace(config.model, d_model=8, n_heads=2, d_head=None, d_mlp=8)
        task = config.task if name == "parity" else replace(config.task, p=7)
        if name == "parity":
            task = replace(task, operands=4)
        schedule = ScheduleConfig(steps=3, evaluate_every=1, checkpoints=2, resume_every=2)
        train(replace(config, model=model, task=task, schedule=schedule), tmp_path / "run")
        assert verify(tmp_path / "run").problems == ()

    def test_a_regression(self, tmp_path):
        config = preset("teacher-student")
        schedule = ScheduleConfig(steps=3, evaluate_every=1, checkpoints=2, resume_every=2)
        train(replace(config, schedule=schedule), tmp_path / "run")
        assert verify(tmp_path / "run").problems == ()

    def test_a_recorded_run_before_and_after_closing(self, tmp_path):
        recorder = Recorder(tmp_path / "run", Task.modular_addition(7, 0.5))
        for step in (0, 5):
            recorder.record(step, torch.randn(49, 7), weights={"embed.W_E": torch.randn(7, 4)})
        assert verify(tmp_path / "run").problems == ()
        recorder.close()
        assert verify(tmp_path / "run").problems == ()

    def test_a_run_stopped_by_an_error(self, tmp_path):
        with pytest.raises(RuntimeError):
            train(CONFIG, tmp_path / "run", callbacks=[StopAt(17)])
        assert Run.open(tmp_path / "run").status["status"] == "stopped"
        assert verify(tmp_path / "run").problems == ()

    def test_a_diverged_run(self, tmp_path):
        optimizer = OptimizerConfig(name="sgd", lr=1e12, weight_decay=0.0)
        train(replace(CONFIG, optimizer=optimizer, loss="mse"), tmp_path / "run")
        assert Run.open(tmp_path / "run").status["status"] == "diverged"
        assert verify(tmp_path / "run").problems == ()

    def test_an_extended_run_with_checkpoints_evenly_spaced_in_log_step(self, tmp_path):
        short = replace(CONFIG, schedule=replace(CONFIG.schedule, checkpoints="log:5", evaluate_every="log:7"))
        train(short, tmp_path / "run")
        train(replace(short, schedule=replace(short.schedule, steps=100)), tmp_path / "run", resume=True)
        assert verify(tmp_path / "run").problems == ()

    def test_leftovers_of_a_crash_are_not_problems(self, run):
        status = json.loads((run / "status.json").read_text())
        rewrite(run / "status.json", status="running", step=20)
        status["checksums"] = {n: c for n, c in status["checksums"].items() if "000030" not in n and "/" in n}
        rewrite(run / "status.json", checksums=status["checksums"])
        shutil.copy(run / "weights" / "step_000020.safetensors", run / "weights" / ".step_000030.safetensors.7.tmp")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 35, "train_lo')
        assert [p for p in verify(run).problems if "resume" not in p] == []


class TestDamage:
    def test_a_flipped_bit_in_weights(self, run):
        file = run / "weights" / "step_000010.safetensors"
        flip(file, -1)
        assert "step_000010.safetensors: its checksum differs" in verify(run).problems[0]
        stale = "analysis.json: it was computed from other weights at step 10"
        assert any(stale in line for line in verify(run).problems)
        assert len(verify(run).problems) == 2

    def test_missing_weights(self, run):
        (run / "weights" / "step_000010.safetensors").unlink()
        assert "weights/step_000010.safetensors: the file is missing, although it was written" in problem(run)

    def test_weights_that_were_never_saved(self, run):
        (run / "weights" / "step_000010.safetensors").unlink()
        unrecorded(run, "weights/step_000010.safetensors")
        assert "weights: there is no checkpoint at step 10, which is scheduled" in problem(run)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda w: w | {"unembed.W_U": w["unembed.W_U"][:4].contiguous()}, "has shape [4, 7] instead of [8, 7]"),
            (lambda w: w | {"unembed.W_U": w["unembed.W_U"].double()}, "unembed.W_U is float64 instead of float32"),
            (lambda w: {name: t for name, t in w.items() if name != "unembed.W_U"}, "missing unembed.W_U"),
            (lambda w: w | {"layers.9.W": torch.zeros(2)}, "unexpected layers.9.W"),
            (lambda w: w | {"unembed.b_U": torch.full((7,), torch.nan)}, "unembed.b_U: not finite"),
        ],
        ids=["shape", "dtype", "missing", "unexpected", "nan"],
    )
    def test_weights_that_do_not_fit(self, change, said, run):
        shutil.rmtree(run / "analysis")
        file = run / "weights" / "step_000010.safetensors"
        save_file(change(load_file(file)), file, metadata={"step": "10"})
        unrecorded(run, "weights/step_000010.safetensors")
        found = verify(run).problems
        assert any(said in line for line in found), found

    def test_the_weights_of_another_step(self, run):
        shutil.rmtree(run / "analysis")
        shutil.copy(run / "weights" / "step_000020.safetensors", run / "weights" / "step_000010.safetensors")
        unrecorded(run, "weights/step_000010.safetensors")
        assert any("the file is from step 20" in line for line in verify(run).problems)

    def test_a_checkpoint_later_than_the_run(self, run):
        weights = load_file(run / "weights" / "step_000030.safetensors")
        save_file(weights, run / "weights" / "step_000040.safetensors", metadata={"step": "40"})
        assert any("weights: step 40: the run finished earlier, at step 30" in line for line in verify(run).problems)

    def test_a_digit_of_the_metrics(self, run):
        text = (run / "metrics.jsonl").read_text()
        (run / "metrics.jsonl").write_text(text.replace("1", "2", 1))
        assert "metrics.jsonl: its checksum differs" in verify(run).problems[-1]

    def test_a_digit_of_the_configuration(self, run):
        config = json.loads((run / "config.json").read_text())
        config["optimizer"]["lr"] = 0.004
        (run / "config.json").write_text(json.dumps(config))
        found = verify(run).problems
        assert "resume.safetensors was written with another config.json" in found[0]
        assert "config.json: its checksum differs" in found[1]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda lines: lines[:3] + lines[4:], "there is no line for step 15, although the run evaluates there"),
            (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "its steps do not increase: step 10"),
            (lambda lines: [*lines[:3], lines[2], *lines[3:]], "its steps do not increase: step 10"),
            (
                lambda lines: [*lines[:6], '{"step": 30, "loss": 1.0}\n'],
                "columns differ from those of the first line at",
            ),
            (lambda lines: [*lines[:3], "?\n", *lines[4:]], "line 4 is damaged"),
            (lambda lines: [*lines, metric_line({"step": 35, "loss": 1.0})], "it continues to step 35"),
        ],
        ids=["missing", "swapped", "twice", "columns", "damaged", "late"],
    )
    def test_lines_of_the_metrics(self, change, said, run):
        (run / "metrics.jsonl").write_text("".join(change(lines_of(run))))
        unrecorded(run, "metrics.jsonl")
        found = verify(run).problems
        assert any(said in line for line in found), found

    def test_a_flipped_bit_in_the_resume_point(self, run):
        file = run / "resume.safetensors"
        flip(file, -40)
        assert "resume.safetensors is damaged (its checksum does not match its content)" in problem(run)

    def test_another_runs_resume_point(self, run, tmp_path):
        other = train(replace(CONFIG, model_seed=1), tmp_path / "other")
        shutil.copy(other.path / "resume.safetensors", run / "resume.safetensors")
        assert "resume.safetensors was written with another config.json" in problem(run)

    def test_a_missing_resume_point(self, run):
        (run / "resume.safetensors").unlink()
        assert "resume.safetensors: the file is missing" in problem(run)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"status": "tired"}, "the status 'tired' is not one of running, finished, stopped, diverged"),
            ({"step": 31}, "step 31 is beyond the 30 steps of config.json"),
            ({"step": -1}, "is damaged"),
            ({"step": 20}, "resume.safetensors: it is from step 30, but status.json from step 20"),
        ],
    )
    def test_a_status_that_makes_no_sense(self, changes, said, run):
        rewrite(run / "status.json", **changes)
        found = verify(run).problems
        assert any(said in line for line in found), found

    @pytest.mark.parametrize("name", ["status.json", "environment.json"])
    def test_a_missing_file(self, name, run):
        (run / name).unlink()
        assert f"{name}: the file is missing" in problem(run)

    @pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "status.json"])
    def test_a_folder_in_place_of_a_file_is_one_problem_of_several(self, name, run):
        (run / name).unlink()
        (run / name).mkdir()
        (run / "weights" / "step_000010.safetensors").unlink()
        found = verify(run).problems
        assert any(name in line for line in found)
        assert name == "config.json" or len(found) > 1

    def test_a_damaged_configuration(self, run):
        (run / "config.json").write_text("{")
        assert "config.json is not JSON" in problem(run)

    def test_every_byte_of_weights_counts(self, run):
        """A flipped bit is detected wherever it is in a checkpoint file."""
        file = run / "weights" / "step_000020.safetensors"
        whole = file.read_bytes()
        shutil.rmtree(run / "analysis")
        for position in range(0, len(whole), 41):
            file.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            assert len(verify(run).problems) == 1, position

    def test_nothing_is_written(self, run):
        before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
        verify(run)
        assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before

    @pytest.mark.parametrize("size", [500, -70])
    def test_a_truncated_report(self, size, run):
        write_report(analyze(run, workers=0))
        file = run / "analysis" / "report.html"
        file.write_bytes(file.read_bytes()[:size])
        assert "report.html is damaged" in problem(run)


class TestRepair:
    def test_a_damaged_line_is_set_aside_and_all_others_are_kept(self, run, capsys):
        lines = lines_of(run)
        flip(run / "metrics.jsonl", len(lines[0]) + 20)
        damaged = (run / "metrics.jsonl").read_bytes()
        for read in (analyze, verify_strictly):
            with pytest.raises(RunError, match=r"line 2 is damaged: .*verify --repair"):
                read(run)
        assert main(["verify", str(run), "--repair"]) == 1
        out = capsys.readouterr().out
        assert f"{run}/metrics.jsonl: 1 damaged line set aside; the damaged file is now metrics.jsonl.damaged" in out
        assert "there is no line for step 5, although the run evaluates there" in out
        assert lines_of(run) == [lines[0], *lines[2:]]
        assert (run / "metrics.jsonl.damaged").read_bytes() == damaged
        assert list(Run.open(run).metrics.index) == [0, 10, 15, 20, 25, 30]

    def test_a_repaired_run_can_be_extended_and_still_lacks_the_line(self, run):
        lines = lines_of(run)
        flip(run / "metrics.jsonl", len(lines[0]) + 20)
        longer = replace(CONFIG, schedule=replace(CONFIG.schedule, steps=40))
        before = contents(run)
        with pytest.raises(RunError, match=r"verify --repair"):
            train(longer, run, resume=True)
        assert contents(run) == before
        repair(run)
        train(longer, run, resume=True)
        assert lines_of(run)[:6] == [lines[0], *lines[2:]]
        assert any("no line for step 5" in line for line in verify(run).problems)

    def test_metrics_of_another_run_are_not_a_repair(self, run, tmp_path):
        other = train(replace(CONFIG, model_seed=1), tmp_path / "other")
        shutil.copy(other.path / "metrics.jsonl", run / "metrics.jsonl")
        flip(run / "metrics.jsonl", 5)
        repair(run)
        shutil.copy(run / "metrics.jsonl", run / "metrics.jsonl.damaged")
        with pytest.raises(RunError, match=r"written with other lines"):
            train(replace(CONFIG, schedule=replace(CONFIG.schedule, steps=40)), run, resume=True)

    @pytest.mark.parametrize("content", ['{"status": "finished", "step": -1}', '{"status": 5}', "[" * 8_000_000])
    def test_a_status_that_cannot_be_read_for_any_reason_is_renamed(self, content, run):
        (run / "status.json").write_text(content)
        with pytest.raises(RunError, match=r"status\.json"):
            _ = Run.open(run).status
        assert len(repair(run)) == 1
        assert Run.open(run).status == {}

    def test_an_endless_line_of_metrics_is_set_aside(self, run):
        lines = lines_of(run)
        (run / "metrics.jsonl").write_text("".join([*lines[:2], "x" * 3_000_000 + "\n", *lines[2:]]))
        damaged = (run / "metrics.jsonl").read_bytes()
        assert len(repair(run)) == 1
        assert lines_of(run) == lines
        assert (run / "metrics.jsonl.damaged").read_bytes() == damaged

    @pytest.mark.parametrize("name", ["status.json", "environment.json"])
    def test_other_damaged_files_are_renamed(self, name, run):
        before = (run / name).read_bytes()
        (run / name).write_bytes(before[:-30])
        assert len(repair(run)) == 1
        assert (run / f"{name}.damaged").read_bytes() == before[:-30]
        assert any(f"{name}: the file is missing" in line for line in verify(run).problems)

    def test_no_repair_turns_damaged_weights_into_intact_ones(self, run):
        file = run / "weights" / "step_000010.safetensors"
        save_file(load_file(file), file, metadata={"step": "10"})  # other bytes, without a checksum of their own
        (run / "status.json").write_text("{")
        repair(run)
        train(replace(CONFIG, schedule=replace(CONFIG.schedule, steps=40)), run, resume=True)
        lost = "weights/step_000010.safetensors: status.json does not have its checksum"
        assert any(lost in line for line in verify(run).problems)

    def test_an_intact_run_needs_none(self, run):
        before = contents(run)
        assert repair(run) == []
        assert contents(run) == before


class TestBindings:
    @pytest.fixture
    def killed(self, tmp_path) -> Path:
        with pytest.raises(RuntimeError):
            train(CONFIG, tmp_path / "run", callbacks=[StopAt(17)])
        rewrite(tmp_path / "run" / "status.json", status="running")
        assert verify(tmp_path / "run").problems == ()
        return tmp_path / "run"

    @pytest.mark.parametrize(
        ("name", "found", "said"),
        [
            ("config.json", b'"weight_decay": 1.0', "was written with another config.json"),
            ("metrics.jsonl", b'"step": 5', "line 2 is damaged"),
            ("resume.safetensors", b'\\"step\\": 10', "its checksum does not match its content"),
        ],
    )
    def test_what_a_killed_run_is_resumed_from(self, name, found, said, killed):
        data = (killed / name).read_bytes()
        assert found in data
        flip(killed / name, data.index(found) + len(found) - 1, bit=2)
        assert any(said in line for line in verify(killed).problems)
        before = contents(killed)
        with pytest.raises((RunError, ConfigError), match=said):
            train(Run.open(killed).config, killed, resume=True)
        assert contents(killed) == before

    def test_more_steps_bind_the_resume_point_to_both_configurations(self, killed, monkeypatch):
        def die(*_) -> None:
            raise KeyboardInterrupt

        longer = replace(CONFIG, schedule=replace(CONFIG.schedule, steps=40))
        monkeypatch.setattr(RunWriter, "write_environment", die)  # directly after config.json
        with pytest.raises(KeyboardInterrupt):
            train(longer, killed, resume=True)
        monkeypatch.undo()
        assert Run.open(killed).config == longer
        assert verify(killed).problems == ()
        assert train(longer, killed, resume=True).status["step"] == 40

    def test_what_a_run_started_from_is_kept(self, trained, tmp_path):
        run = train(CONFIG, tmp_path / "run", start_from=f"{trained}@10").path
        assert (run / "start.safetensors").read_bytes() == (trained / "weights/step_000010.safetensors").read_bytes()
        flip(run / "start.safetensors", -1)
        assert "start.safetensors: its checksum differs" in problem(run)

    @pytest.mark.parametrize("name", ["split.safetensors", "start.safetensors"])
    def test_a_split_or_start_of_another_run_is_neither_used_nor_accepted(self, name, run, tmp_path):
        task = Task.modular_addition(7, train_indices=[0, 1, 2])
        with Recorder(tmp_path / "other", task) as recorder:
            recorder.record(0, torch.randn(49, 7))
        before = Run.open(run).task.train_mask
        shutil.copy(tmp_path / "other" / "split.safetensors", run / name)
        assert f"{name}: it does not belong to this run" in problem(run)
        assert torch.equal(Run.open(run).task.train_mask, before)


class TestEarlierVersions:
    def test_lines_and_files_without_checksums_are_named_and_accepted(self, run, capsys):
        lines = [json.loads(line) for line in lines_of(run)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(without_checksum(line)) + "\n" for line in lines))
        status = without_checksum(json.loads((run / "status.json").read_text()))
        del status["checksums"]["metrics.jsonl"]
        (run / "status.json").write_text(json.dumps(status))
        (run / "resume.safetensors").unlink()
        rewritten = verify(run)
        assert {"metrics.jsonl", "status.json"} <= set(rewritten.unchecked)
        assert all("resume" in line for line in rewritten.problems)
        main(["verify", str(run)])
        assert "no checksums in files of an earlier version: status.json, metrics.jsonl" in capsys.readouterr().out

    def test_a_line_that_lost_its_checksum_is_damaged(self, run):
        lines = lines_of(run)
        plain = json.dumps(without_checksum(json.loads(lines[3]))) + "\n"
        (run / "metrics.jsonl").write_text("".join([*lines[:3], plain, *lines[4:]]))
        assert any("lines without a checksum follow one" in line for line in verify(run).problems)


class TestCommand:
    def test_an_intact_run(self, run, capsys):
        assert main(["verify", str(run)]) == 0
        assert capsys.readouterr().out == f"{run}: intact, with 4 checkpoint files and 7 evaluations\n"

    def test_one_line_per_problem(self, run, capsys):
        (run / "weights" / "step_000010.safetensors").unlink()
        (run / "resume.safetensors").unlink()
        assert main(["verify", str(run)]) == 1
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_no_run(self, tmp_path, capsys):
        assert main(["verify", str(tmp_path / "none")]) == 2
        assert "does not exist" in capsys.readouterr().err
        with pytest.raises(RunError, match="is not a run"):
            verify(tmp_path)

    def test_a_sweep(self, tmp_path, capsys):
        sweep = train_sweep(tmp_path / "sweep", CONFIG, grid={"model_seed": [0, 1]}, workers=1)
        assert main(["verify", str(sweep.path)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"{sweep.path}: 2 of 2 runs are intact"
        (sweep.path / sweep.points[1].name / "status.json").unlink()
        assert main(["verify", str(sweep.path)]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == f"{sweep.path}: 1 of 2 runs are intact"
