"""Recorder: a user's model and training loop, recorded as a run that opens and analyzes like any other."""

import gc
import json
import math
import shutil
import sys

import pandas as pd
import processes
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokinterp.analysis.timeline import analyze
from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.measures import Snapshot, gini_embedding, loss, restricted_loss
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

P = 7


class Plain(nn.Module):
    """A model that does not use this package."""

    def __init__(self, classes: int = P):
        super().__init__()
        self.table = nn.Embedding(P, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(16, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        summed = self.table(tokens[:, 0]) + self.table(tokens[:, 1])
        return self.out(self.dropout(self.norm(summed).relu()))


@pytest.fixture
def task() -> Task:
    return Task.modular_addition(P, train_fraction=0.5, data_seed=2)


@pytest.fixture
def model() -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Plain()


def train_one_step(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(task.tokens[task.train_mask]), task.labels[task.train_mask]).backward()
    optimizer.step()


def files(run: Run) -> set[str]:
    return {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}


class TestATrainingLoop:
    @pytest.fixture(scope="class")
    @classmethod
    def recorded(cls, tmp_path_factory) -> tuple[Run, list[dict], list[Tensor]]:
        task = Task.modular_addition(P, train_fraction=0.5, data_seed=2)
        rows, logits = [], []
        with (
            torch.random.fork_rng(),
            Recorder(tmp_path_factory.mktemp("r") / "mine", task, description="mine") as recorder,
        ):
            torch.manual_seed(0)
            model = Plain()
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            for step in range(31):
                if step % 10 == 0:
                    rows.append(recorder.record(step, model))
                    model.eval()
                    with torch.no_grad():
                        logits.append(model(task.tokens))
                    model.train()
                train_one_step(model, task, optimizer)
        return recorder.run, rows, logits

    def test_the_run_opens(self, recorded):
        run = Run.open(recorded[0].path)
        assert run.status["status"] == "finished"
        assert run.status["step"] == 30
        assert run.steps == [0, 10, 20, 30]
        assert run.config.model.kind == "recorded"
        assert run.config.model.description == "mine"
        assert run.config.optimizer is None
        assert run.environment["forward_path"] == "recorded"

    def test_the_task_has_the_split(self, recorded):
        task = Task.modular_addition(P, train_fraction=0.5, data_seed=2)
        assert torch.equal(recorded[0].task.train_mask, task.train_mask)

    def test_metrics_are_the_rows_that_were_returned(self, recorded):
        run, rows, _ = recorded
        pd.testing.assert_frame_equal(run.metrics, pd.DataFrame(rows).set_index("step"))
        assert {"train_loss", "test_loss", "mirror_accuracy", "novel_accuracy", "weight_norm"} <= set(rows[0])

    def test_snapshots_hold_the_logits_of_the_model_in_evaluation_mode(self, recorded):
        run, rows, logits = recorded
        for step, expected, row in zip(run.steps, logits, rows, strict=True):
            snapshot = run.snapshot(step)
            torch.testing.assert_close(snapshot.logits, expected.double(), rtol=0, atol=0)
            assert snapshot.step == step
            assert loss(snapshot, subset="test") == pytest.approx(row["test_loss"])

    def test_named_parameters_are_stored(self, recorded):
        weights = recorded[0].weights(30)
        assert set(weights) == {name for name, _ in Plain().named_parameters()}
        norm = sum(w.double().square().sum() for w in weights.values()).sqrt().item()
        assert recorded[1][-1]["weight_norm"] == pytest.approx(norm)

    def test_it_is_analyzed(self, recorded):
        run, rows, _ = recorded
        found = analyze(run)
        assert found.timeline.index.tolist() == [0, 10, 20, 30]
        assert found.timeline["test_loss"].tolist() == pytest.approx([row["test_loss"] for row in rows])
        assert found.timeline["weight_norm"].tolist() == pytest.approx([row["weight_norm"] for row in rows])
        assert found.timeline["gini_embedding"].isna().all()
        json.dumps(found.summary(), allow_nan=False)

    def test_its_architecture_is_unknown(self, recorded):
        with pytest.raises(ConfigError, match="a recorded model cannot be built"):
            recorded[0].model(0)
        with pytest.raises(ConfigError):
            train(RunConfig(), recorded[0].path, resume=True)


class TestWhatIsRecorded:
    @pytest.mark.parametrize("shape", [(P * P, P), (P, P, P), (P * P, P + 1), (P, P, P + 3)])
    def test_logits(self, shape, task, tmp_path):
        logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with Recorder(tmp_path / "run", task) as recorder:
            row = recorder.record(5, logits)
        run = recorder.run
        torch.testing.assert_close(run.snapshot(5).logits, logits.reshape(P * P, -1)[:, :P].double(), rtol=0, atol=0)
        assert "weight_norm" not in row
        assert files(run) == {
            "config.json",
            "environment.json",
            "logits/step_000005.safetensors",
            "metrics.jsonl",
            "status.json",
        }

    def test_a_function_of_tokens(self, task, model, tmp_path):
        model.eval()

        def answer(tokens: Tensor) -> Tensor:
            assert tokens.shape == (P * P, 3)
            return torch.stack([torch.zeros(P * P, P), model(tokens)], dim=1)

        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, answer)
        with torch.no_grad():
            torch.testing.assert_close(recorder.run.snapshot(0).logits, model(task.tokens).double(), rtol=0, atol=0)

    @pytest.mark.parametrize("detached", [True, False])
    def test_weights_of_a_function_with_standard_names(self, detached, task, model, tmp_path):
        table = model.table.weight.detach() if detached else model.table.weight
        with Recorder(tmp_path / "run", task) as recorder:
            row = recorder.record(0, model, weights={"embed.W_E": table})
        run = recorder.run
        assert row["weight_norm"] == pytest.approx(table.norm().item())
        expected = gini_embedding(Snapshot.from_logits(task, run.snapshot(0).logits, weights={"embed.W_E": table}))
        assert analyze(run).timeline["gini_embedding"][0] == pytest.approx(expected)

    def test_frozen_parameters_do_not_count_in_the_norm(self, task, model, tmp_path):
        model.table.weight.requires_grad_(False)
        with Recorder(tmp_path / "run", task) as recorder:
            row = recorder.record(0, model)
        trained = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
        assert row["weight_norm"] == pytest.approx(trained.norm().item())
        assert "table.weight" in recorder.run.weights(0)

    def test_weights_need_not_be_stored(self, task, model, tmp_path):
        with Recorder(tmp_path / "run", task, keep_weights=False) as recorder:
            row = recorder.record(0, model)
        assert row["weight_norm"] > 0
        assert recorder.run.steps == [0]
        assert recorder.run.snapshot(0).weights is None
        with pytest.raises(RunError, match="has no weights of step 0"):
            recorder.run.weights(0)

    def test_a_split_made_elsewhere(self, tmp_path):
        task = Task.modular_addition(P, train_indices=[5, 1, 30])
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, torch.zeros(P * P, P))
        assert recorder.run.task.train_mask.nonzero().flatten().tolist() == [1, 5, 30]

    def test_an_unknown_split(self, tmp_path):
        task = Task.modular_addition(P)
        with Recorder(tmp_path / "run", task) as recorder:
            row = recorder.record(0, torch.zeros(P * P, P))
        assert row == {"step": 0, "loss": pytest.approx(math.log(P)), "accuracy": pytest.approx(1 / P)}
        assert recorder.run.task.train_mask is None

    def test_key_frequencies_of_a_model_that_knows_one(self, tmp_path):
        task = Task.modular_addition(31)
        a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, 20 * torch.cos(2 * torch.pi * 7 * (a + b - c) / 31))
        found = analyze(recorder.run)
        assert found.reference.frequencies.values == (7,)
        assert found.timeline["restricted_loss"][0] == restricted_loss(recorder.run.snapshot(0), 7)


class TestTheModelIsLeftAlone:
    @pytest.mark.parametrize("training", [True, False])
    def test_its_mode_is_restored(self, training, task, model, tmp_path):
        model.train(training)
        seen = []
        model.dropout.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, model)
        assert seen == [False]
        assert all(module.training == training for module in model.modules())

    def test_its_mode_is_restored_after_an_error(self, task, tmp_path):
        model = Plain(classes=3)
        with Recorder(tmp_path / "run", task) as recorder, pytest.raises(ConfigError, match="logits of add mod 7"):
            recorder.record(0, model)
        assert model.training

    def test_submodules_keep_their_own_mode(self, task, model, tmp_path):
        model.train()
        model.norm.eval()
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, model)
        assert model.training
        assert model.dropout.training
        assert not model.norm.training

    def test_gradients_statistics_and_random_states_are_not_touched(self, task, model, tmp_path):
        model(task.tokens).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
        random_state = torch.get_rng_state()
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, model)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, statistics[name], rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), random_state)

    def test_recording_does_not_change_a_training(self, task, tmp_path):
        weights = []
        for recording in (True, False):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = Plain()
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                recorder = Recorder(tmp_path / str(recording), task)
                for step in range(5):
                    if recording:
                        recorder.record(step, model)
                    train_one_step(model, task, optimizer)
                recorder.close()
            weights.append(model.state_dict())
        for name, weight in weights[0].items():
            torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=0)


class TestHowItEnds:
    def test_it_is_running_until_closed(self, task, tmp_path):
        recorder = Recorder(tmp_path / "run", task)
        assert Run.open(tmp_path / "run").status["status"] == "running"
        assert Run.open(tmp_path / "run").steps == []
        recorder.record(3, torch.zeros(P * P, P))
        status = Run.open(tmp_path / "run").status
        assert (status["status"], status["step"]) == ("running", 3)
        assert analyze(tmp_path.joinpath("run").as_posix()).transition.outcome == "undetermined"
        recorder.close()
        assert recorder.run.status["status"] == "finished"

    def test_a_recorder_that_nobody_closed_says_so(self, task, tmp_path, caplog):
        Recorder(tmp_path / "closed", task).close()
        Recorder(tmp_path / "open", task)
        gc.collect()
        (record,) = caplog.records
        assert record.getMessage().startswith(f"{tmp_path / 'open'} was never closed: its status remains `running`.")
        assert not (tmp_path / "open" / ".lock").exists()

    @pytest.mark.slow
    def test_a_recorder_left_open_at_the_end_of_a_program_is_one_line(self, tmp_path):
        script = """
import grokinterp as gi
recorder = gi.Recorder("run", gi.Task.modular_addition(p=7, train_fraction=0.5))
"""
        ended = processes.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("run was never closed")

    def test_an_exception_stops_it(self, task, tmp_path):
        def loop() -> None:
            with Recorder(tmp_path / "run", task) as recorder:
                recorder.record(0, torch.zeros(P * P, P))
                raise ZeroDivisionError("my mistake")

        with pytest.raises(ZeroDivisionError, match="my mistake"):
            loop()
        status = Run.open(tmp_path / "run").status
        assert status["status"] == "stopped"
        assert status["reason"] == "ZeroDivisionError('my mistake')"
        assert Run.open(tmp_path / "run").steps == [0]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("split", [0.5, None])
    def test_a_non_finite_loss_means_divergence(self, split, value, tmp_path):
        with Recorder(tmp_path / "run", Task.modular_addition(P, train_fraction=split)) as recorder:
            recorder.record(0, torch.zeros(P * P, P))
            recorder.record(10, torch.full((P * P, P), value))
        run = recorder.run
        assert run.status["status"] == "diverged"
        assert run.status["reason"] == "the loss was not finite at step 10"
        assert '"loss": null' in (run.path / "metrics.jsonl").read_text().replace("train_", "")
        assert analyze(run).transition.outcome == "diverged"

    def test_a_run_without_records_is_valid(self, task, tmp_path):
        with Recorder(tmp_path / "run", task):
            pass
        run = Run.open(tmp_path / "run")
        assert (run.status["status"], run.steps) == ("finished", [])
        with pytest.raises(RunError, match="there is nothing to analyze"):
            analyze(run)


class TestRefusals:
    @pytest.mark.parametrize("step", [10, 9, 0, -1])
    def test_steps_must_increase(self, step, task, tmp_path):
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(10, torch.zeros(P * P, P))
            with pytest.raises(ConfigError, match=f"step {step} was recorded after step 10: steps must increase"):
                recorder.record(step, torch.zeros(P * P, P))
        assert recorder.run.steps == [10]
        assert recorder.run.metrics.index.tolist() == [10]

    def test_steps_that_no_reader_accepts(self, task, tmp_path):
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(10**12 - 1, torch.zeros(P * P, P))
            with pytest.raises(ConfigError, match=r"step 1764412345678901234 is larger than 1,000,000,000,000"):
                recorder.record(1764412345678901234, torch.zeros(P * P, P))
        assert Run.open(tmp_path / "run").metrics.index.tolist() == [10**12 - 1]
        assert verify(tmp_path / "run").problems == ()

    @pytest.mark.parametrize("step", [1.0, True, "1", None])
    def test_steps_that_are_not_integers(self, step, task, tmp_path, unchecked):
        with (
            Recorder(tmp_path / "run", task) as recorder,
            pytest.raises(ConfigError, match=r"^step must be an integer"),
        ):
            recorder.record(step, torch.zeros(P * P, P))
        assert recorder.run.steps == []

    @pytest.mark.parametrize("weights", [{}, {"embed.W_E": [1.0]}])
    def test_weights_that_are_none_leave_no_trace(self, weights, task, tmp_path, unchecked):
        with Recorder(tmp_path / "run", task) as recorder, pytest.raises(ConfigError, match=r"^weights"):
            recorder.record(0, torch.zeros(P * P, P), weights=weights)
        assert recorder.run.steps == []

    @pytest.mark.parametrize("logits", [[[0.0]], None])
    def test_logits_that_are_no_tensor_leave_no_trace(self, logits, task, tmp_path, unchecked):
        with Recorder(tmp_path / "run", task) as recorder:
            with pytest.raises(ConfigError, match=r"^model must be a tensor of logits or a function that returns one"):
                recorder.record(0, logits)
            with pytest.raises(ConfigError, match=r"^the value that the model returns must be a tensor or an array"):
                recorder.record(0, lambda tokens: logits)
        assert recorder.run.steps == []

    def test_logits_of_another_shape_leave_no_trace(self, task, tmp_path):
        with Recorder(tmp_path / "run", task) as recorder:
            with pytest.raises(ConfigError, match=r"must be floating point, of shape \[49, 7\] or \[7, 7, 7\]"):
                recorder.record(0, torch.zeros(P, P))
            recorder.record(0, torch.zeros(P * P, P))
        assert recorder.run.steps == [0]

    def test_an_occupied_folder(self, task, tmp_path):
        with Recorder(tmp_path / "run", task):
            pass
        with pytest.raises(RunError, match="already holds a run"):
            Recorder(tmp_path / "run", task)
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "a.txt").write_text("mine")
        with pytest.raises(RunError, match="is not an empty folder"):
            Recorder(tmp_path / "notes", task)
        assert [file.name for file in (tmp_path / "notes").iterdir()] == ["a.txt"]

    def test_a_folder_that_is_not_writable(self, task, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="cannot create the folder"):
            Recorder(tmp_path / "file" / "run", task)


TASK = Task.modular_addition(5, 0.5)


def test_a_closed_recorder_records_nothing(tmp_path):
    with Recorder(tmp_path / "run", TASK) as recorder:
        recorder.record(0, torch.zeros(25, 5))
    with pytest.raises(RunError, match="run was closed"):
        recorder.record(5, torch.zeros(25, 5))
    assert recorder.run.status["status"] == "finished"


def test_undoing_a_step_removes_only_what_it_wrote(tmp_path):
    (tmp_path / "precious").mkdir()
    mine = tmp_path / "precious" / "step_000005.safetensors"
    mine.write_text("mine")
    with Recorder(tmp_path / "run", TASK) as recorder:
        recorder.record(0, torch.zeros(25, 5))
        shutil.rmtree(tmp_path / "run" / "logits")
        (tmp_path / "run" / "logits").symlink_to(tmp_path / "precious")
        with pytest.raises(RunError, match="symlink to somewhere outside"):
            recorder.record(5, torch.zeros(25, 5))
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("reason", ["half a pair \udce9", "x" * 9_000_000])
def test_any_error_leaves_a_status_that_can_be_read(reason, tmp_path):
    recorder = Recorder(tmp_path / "run", TASK)
    recorder.record(0, torch.zeros(25, 5))
    recorder.__exit__(ValueError, ValueError(reason), None)
    assert len(recorder.run.status["reason"]) < 2000
    assert verify(tmp_path / "run").problems == ()


def test_a_description_that_cannot_be_stored_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="description must be text"):
        Recorder(tmp_path / "run", TASK, description="a\udce9")
    assert not (tmp_path / "run").exists()


def test_an_interrupted_step_leaves_nothing(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path / "run", TASK)
    recorder.record(0, torch.zeros(25, 5))

    def interrupt(row: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recorder._writer, "append_metrics", interrupt)
    with pytest.raises(KeyboardInterrupt):
        recorder.record(5, torch.zeros(25, 5))
    monkeypatch.undo()
    recorder.close()
    assert recorder.run.steps == [0]
    assert verify(tmp_path / "run").problems == ()


class TestVacantFolders:
    """A run starts in an empty folder, or with the rests of a run that was killed before config.json."""

    @pytest.mark.parametrize("name", ["environment.json", "split.safetensors", ".notes.7.tmp", "logits"])
    def test_files_of_others_are_refused(self, name, tmp_path):
        (tmp_path / "run").mkdir()
        if name == "logits":
            (tmp_path / "run" / name).symlink_to(tmp_path)
        else:
            (tmp_path / "run" / name).write_text('{"mine": 1}')
        with pytest.raises(RunError, match="is not an empty folder"):
            Recorder(tmp_path / "run", TASK)
        assert [entry.name for entry in (tmp_path / "run").iterdir()] == [name]

    def test_rests_of_a_killed_run_are_replaced(self, tmp_path):
        given = Task.modular_addition(5, train_indices=[0, 1, 2])
        with Recorder(tmp_path / "run", given) as recorder:
            recorder.record(0, torch.zeros(25, 5))
        for name in ("config.json", "status.json", "metrics.jsonl"):
            (tmp_path / "run" / name).unlink()
        shutil.rmtree(tmp_path / "run" / "logits")
        (tmp_path / "run" / ".config.json.7.tmp").write_text("half")
        with Recorder(tmp_path / "run", TASK) as recorder:
            recorder.record(0, torch.zeros(25, 5))
        assert not (tmp_path / "run" / "split.safetensors").exists()
        assert not list((tmp_path / "run").glob(".*"))
        assert verify(tmp_path / "run").problems == ()
