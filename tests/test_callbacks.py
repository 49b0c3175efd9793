"""Callbacks: what they receive and when, the stopping rule, and trackers."""

import io
import sys
from collections.abc import Mapping
from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
import pytest
from tqdm import tqdm
from trainings import MINIBATCH_MLP, P, briefly, result, shortened

from grokinterp.cli.train import progress_lines
from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.training import Callback, Tracker, bookkeeping, train
from grokinterp.training.callbacks import _BAR, ProgressLines, describe_metrics
from grokinterp.training.stopping import StopWhenGrokked


class TestStopWhenGrokked:
    @pytest.fixture
    def generalizes_at_60(self, monkeypatch):
        """Test accuracy is 0.98 until step 40, and 0.99 from step 60 on."""
        looked = iter(range(0, 1000, 20))

        def evaluate(task, logits, weights, loss):
            reached = next(looked) >= 60
            losses = {"train_loss": 0.1, "test_loss": 1.0, "weight_norm": 1.0, "weight_rms": 1.0}
            return losses | {"train_accuracy": 1.0, "test_accuracy": 0.99 if reached else 0.98}

        monkeypatch.setattr(bookkeeping, "evaluate", evaluate)

    @pytest.mark.parametrize(("factor", "end"), [(1.0, 60), (1.5, 100), (2.0, 120), (3.0, 180), (4.0, 200)])
    def test_the_run_ends_at_that_multiple_of_its_grok_step(self, factor, end, generalizes_at_60, tmp_path):
        config = shortened(MINIBATCH_MLP, checkpoints=1000, stop_when_grokked=True, stop_factor=factor)
        run = train(config, tmp_path / "run")
        assert run.status["status"] == "finished"
        assert run.status["step"] == run.metrics.index[-1] == end
        assert run.steps == [0, end]
        assert run.status["reason"] == ("grokked" if end < 200 else "all steps made")

    def test_resuming_a_run_that_grokked_does_nothing(self, generalizes_at_60, tmp_path):
        config = shortened(MINIBATCH_MLP, stop_when_grokked=True, stop_factor=1.5)
        run = train(config, tmp_path / "run")
        before = result(run.path)
        again = train(config, tmp_path / "run", resume=True)
        assert (again.status["status"], again.status["step"]) == ("finished", 100)
        assert result(run.path) == before

    def test_a_run_is_not_stopped_by_default(self, generalizes_at_60, tmp_path):
        assert train(MINIBATCH_MLP, tmp_path / "run").status["step"] == 200

    def test_an_accuracy_that_falls_again_still_counts(self):
        rule = StopWhenGrokked(ScheduleConfig(stop_when_grokked=True, stop_factor=2.0))
        rows = [(0, 0.1), (10, 0.995), (15, 0.2), (19, 0.2), (20, 0.2)]
        answers = [rule.on_evaluation({"step": step, "test_accuracy": accuracy}) for step, accuracy in rows]
        assert answers == [False, False, False, False, True]


class Diary(Callback):
    """Records every call; ends the run at a step, or fails there."""

    def __init__(self, end_at: int | None = None, fail_at: int | None = None):
        self.end_at, self.fail_at = end_at, fail_at
        self.entries: list[tuple] = []

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        self.entries.append(("start", step, last_step))

    def on_step(self, step: int) -> None:
        self.entries.append(("step", step))
        if step == self.fail_at:
            raise ValueError(f"no more at {step}")

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        self.entries.append(("evaluation", int(metrics["step"])))
        return metrics["step"] == self.end_at

    def on_end(self, status: str) -> None:
        self.entries.append(("end", status))


class TestCallbacks:
    def test_callbacks_receive_everything_in_order(self, tmp_path):
        diary = Diary()
        train(briefly(steps=6), tmp_path / "run", callbacks=[diary])
        assert diary.entries == [
            ("start", 0, 6),
            ("evaluation", 0),
            *[("step", step) for step in (1, 2, 3, 4, 5)],
            ("evaluation", 5),
            ("step", 6),
            ("evaluation", 6),
            ("end", "finished"),
        ]

    def test_rows_are_those_of_the_metrics(self, tmp_path):
        rows = []

        class Keep(Callback):
            def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
                rows.append(dict(metrics))
                return False

        run = train(briefly(), tmp_path / "run", callbacks=[Keep()])
        pd.testing.assert_frame_equal(pd.DataFrame(rows).set_index("step"), run.metrics)

    def test_a_resumed_run_passes_on_past_rows(self, tmp_path):
        train(briefly(), tmp_path / "run")
        diary = Diary()
        train(briefly(steps=12), tmp_path / "run", resume=True, callbacks=[diary])
        assert diary.entries == [
            ("start", 10, 12),
            *[("evaluation", step) for step in (0, 5, 10)],
            ("step", 11),
            ("step", 12),
            ("evaluation", 12),
            ("end", "finished"),
        ]

    def test_a_callback_may_end_the_run(self, tmp_path):
        config = shortened(MINIBATCH_MLP, checkpoints=100)
        run = train(config, tmp_path / "run", callbacks=[Diary(), Diary(end_at=40)])
        assert (run.status["status"], run.status["step"]) == ("finished", 40)
        assert run.steps == [0, 40]

    def test_a_run_ended_by_a_callback_does_not_claim_to_have_grokked(self, tmp_path):
        run = train(briefly(), tmp_path / "run", callbacks=[Diary(end_at=5)])
        assert run.status["step"] == 5
        assert "grokked" not in run.status["reason"]

    def test_an_exception_in_a_callback_stops_the_run_resumably(self, tmp_path, undisturbed):
        diary = Diary(fail_at=70)
        with pytest.raises(ValueError, match="no more at 70"):
            train(MINIBATCH_MLP, tmp_path / "run", callbacks=[diary])
        assert diary.entries[-1] == ("end", "stopped")
        status = Run.open(tmp_path / "run").status
        assert (status["status"], status["reason"]) == ("stopped", "ValueError: no more at 70")
        train(MINIBATCH_MLP, tmp_path / "run", resume=True)
        assert result(tmp_path / "run") == result(undisturbed["minibatch_mlp"].path)


METRICS = {"step": 399_900, "train_accuracy": 1.0, "test_accuracy": 0.032, "train_loss": 1.23e-7, "test_loss": 11.3}


class TestProgress:
    @pytest.mark.parametrize(("columns", "shown"), [(80, "accuracy 1.000/0.032"), (100, "(train/test)]")])
    def test_the_bar_shows_test_accuracy(self, columns, shown):
        output = io.StringIO()
        bar = tqdm(
            total=400_000, initial=399_900, unit="step", ncols=columns, bar_format=_BAR, file=output, mininterval=0
        )
        bar.set_postfix_str(describe_metrics(METRICS), refresh=False)
        bar.start_t -= 3600 * 5
        bar.update(99)
        bar.refresh()
        line = output.getvalue().split("\r")[-1]
        assert shown in line
        assert len(line) <= columns

    def test_a_line_every_thirty_seconds_without_a_terminal(self, monkeypatch):
        now, lines = [1000.0], []
        monkeypatch.setattr("grokinterp.training.callbacks.time.monotonic", lambda: now[0])
        progress = ProgressLines(lines.append)
        progress.on_start(briefly(), 0, 1000)
        for step in range(1, 101):
            now[0] += 1
            progress.on_evaluation(METRICS)
            progress.on_step(step)
        assert lines[1] == (
            "step 60 of 1,000, 6 %; 1 steps/s, about 16 min left; accuracy 1.000/0.032, loss 1.2e-07/11 (train/test)"
        )
        assert len(lines) == 3

    def test_the_command_prints_them_only_where_there_is_no_terminal(self, monkeypatch):
        monkeypatch.setattr("sys.stderr", io.StringIO())
        assert [type(callback) for callback in progress_lines()] == [ProgressLines]
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr("sys.stderr", terminal)
        assert progress_lines() == []


class TestTracker:
    @pytest.fixture
    def service(self, monkeypatch):
        calls: list[tuple] = []
        module = SimpleNamespace(
            init=lambda **options: calls.append(("init", options)),
            log=lambda values, step: calls.append(("log", step, values)),
            finish=lambda: calls.append(("finish",)),
        )
        module.init = lambda **options: calls.append(("init", options)) or module
        monkeypatch.setitem(sys.modules, "trackio", module)
        return calls

    def test_rows_are_sent(self, service, tmp_path):
        train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        assert [call[0] for call in service] == ["init", "log", "log", "log", "finish"]
        assert [call[1] for call in service[1:4]] == [0, 5, 10]
        assert service[0][1]["config"]["task"]["p"] == P
        assert {"train_loss", "test_accuracy"} <= set(service[1][2])

    @pytest.mark.parametrize("name", ["trackio", "wandb"])
    def test_a_resumed_training_continues_the_same_run_of_the_service(self, name, service, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, name, sys.modules["trackio"])
        train(briefly(), tmp_path / "run", callbacks=[Tracker(name, "mine")])
        train(briefly(steps=20), tmp_path / "run", resume=True, callbacks=[Tracker(name, "other")])
        train(briefly(), tmp_path / "two", callbacks=[Tracker(name, "mine")])
        first, resumed, other = (call[1] for call in service if call[0] == "init")
        key = "id" if name == "wandb" else "name"
        assert first[key] == resumed[key] != other[key]
        assert first["name"].startswith("run")
        assert first["project"] == resumed["project"] == "mine"
        assert resumed["resume"] == "allow"
        assert [call[1] for call in service if call[0] == "log"] == [0, 5, 10, 15, 20, 0, 5, 10]
        assert verify(tmp_path / "run").problems == ()

    def test_a_training_that_was_not_tracked_before_sends_all_rows(self, service, tmp_path):
        train(briefly(), tmp_path / "run")
        train(briefly(steps=20), tmp_path / "run", resume=True, callbacks=[Tracker("trackio")])
        assert [call[1] for call in service if call[0] == "log"] == [0, 5, 10, 15, 20]

    def test_what_is_sent(self, service, tmp_path):
        """As the docstring says: the configuration, the name of the folder, and the metrics."""
        run = train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        options = service[0][1]
        assert set(options) == {"project", "name", "resume", "config"}
        assert options["config"] == asdict(run.config)
        assert set(service[1][2]) == set(run.metrics.columns)
        assert str(tmp_path) not in repr(service)

    def test_a_damaged_identifier_is_reported(self, service, tmp_path):
        run = train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        (run.path / "tracker.json").write_text((run.path / "tracker.json").read_text().replace("grokint", "grokuni"))
        assert "tracker.json is damaged" in verify(run.path).problems[0]
        with pytest.raises(RunError, match=r"tracker.json is damaged .*, or delete it to continue in a new run"):
            train(briefly(steps=20), run.path, resume=True, callbacks=[Tracker("trackio")])

    def test_a_tracker_that_is_not_installed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trackio", None)
        with pytest.raises(ConfigError, match=r"tracker 'trackio' is not installed: pip install trackio"):
            Tracker("trackio")

    @pytest.mark.parametrize("call", ["init", "log", "finish"])
    def test_a_service_that_fails_is_one_line_and_the_run_resumes(self, call, service, tmp_path, monkeypatch):
        def fail(*arguments, **options):
            raise RuntimeError("no API key\nconfigured")

        with monkeypatch.context() as broken:
            broken.setattr(sys.modules["trackio"], call, fail)
            with pytest.raises(ConfigError, match=r"^trackio cannot .* \(RuntimeError: no API key conf"):
                train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        run = train(briefly(), tmp_path / "run", resume=True, callbacks=[Tracker("trackio")])
        assert run.status["status"] == "finished"

    def test_a_run_whose_tracker_did_not_start_does_not_block_the_same_call(self, service, tmp_path, monkeypatch):
        def fail(**options):
            raise RuntimeError("no API key configured")

        with monkeypatch.context() as broken:
            broken.setattr(sys.modules["trackio"], "init", fail)
            with pytest.raises(ConfigError, match=r"^trackio cannot start"):
                train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")])
        assert train(briefly(), tmp_path / "run", callbacks=[Tracker("trackio")]).status["status"] == "finished"
        with pytest.raises(RunError, match="already holds a run"):
            train(briefly(), tmp_path / "run")

    def test_an_unknown_tracker(self):
        with pytest.raises(ConfigError, match=r"unknown tracker 'wandbb': did you mean 'wandb'\?"):
            Tracker("wandbb")
