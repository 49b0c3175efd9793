"""train_many: members resume, stop, diverge and grok independently of each other."""

import errno
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ensembles import (
    KINDS,
    MLP,
    SCHEDULE,
    assert_same_metrics,
    assert_same_weights,
    config_of,
    contents,
    lasting,
    places,
    result,
    variants,
)
from rewriting import rewrite

from grokinterp.config import (
    OptimizerConfig,
    RunConfig,
)
from grokinterp.errors import RunError
from grokinterp.runs.run import Run
from grokinterp.training import Callback, bookkeeping, train, train_many
from grokinterp.training.callbacks import ProgressBar

RESUMED = ["transformer", "adam, everything", "sgd, momentum"]


class TestResuming:
    @pytest.mark.parametrize("kind", RESUMED)
    def test_an_extended_ensemble_equals_an_uninterrupted_one(self, kind, ensemble_and_alone, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        train_many([lasting(config, 20) for config in configs], paths)
        runs = train_many(configs, paths, resume=True)
        assert [result(run) for run in runs] == [result(run) for run in ensemble_and_alone(kind)[0]]
        for run in runs:
            assert run.status["status"] == "finished"
            (resumed,) = run.environment["resumed"]
            assert (resumed["from_step"], resumed["to_step"], resumed["ensemble"]) == (20, 30, 3)

    @pytest.mark.parametrize("kind", RESUMED)
    def test_a_member_can_be_resumed_alone(self, kind, ensemble_and_alone, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        train_many([lasting(config, 20) for config in configs], paths)
        for i, expected in enumerate(ensemble_and_alone(kind)[1]):
            run = train(configs[i], paths[i], resume=True)
            assert_same_weights(run, expected)
            assert_same_metrics(run, expected)

    @pytest.mark.parametrize("kind", RESUMED)
    def test_single_runs_can_be_resumed_together(self, kind, ensemble_and_alone, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        for config, path in zip(configs, paths, strict=True):
            train(lasting(config, 20), path)
        for run, expected in zip(train_many(configs, paths, resume=True), ensemble_and_alone(kind)[1], strict=True):
            assert_same_weights(run, expected)
            assert_same_metrics(run, expected)

    def test_finished_runs_are_left_alone(self, ensemble_and_alone, tmp_path):
        configs, paths = variants(KINDS["transformer"]), places(tmp_path, 3)
        train(configs[1], paths[1])
        before = contents(paths[1])
        for i in (0, 2):
            train(lasting(configs[i], 10), paths[i])
        runs = train_many(configs, paths, resume=True)
        assert contents(paths[1]) == before
        assert [run.status["step"] for run in runs] == [30, 30, 30]
        assert_same_weights(runs[2], ensemble_and_alone("transformer")[1][2])
        before = [contents(path) for path in paths]
        train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before

    def test_runs_that_lost_their_resume_points_are_left_as_they_are(self, tmp_path):
        configs, paths = variants(KINDS["transformer"]), places(tmp_path, 3)
        for run in train_many([lasting(config, 10) for config in configs], paths):
            (run.path / "resume.safetensors").unlink()
        before = [contents(path) for path in paths]
        with pytest.raises(RunError, match=r"has no resume point .*--restart"):
            train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before

    def test_a_run_that_started_from_another_starts_there_again(self, ensemble_and_alone, tmp_path):
        source = ensemble_and_alone("transformer")[1][0]
        config, paths = source.config, places(tmp_path, 2)
        for path, start in zip(paths, (f"{source.path}@20", None), strict=True):
            with pytest.raises(KeyboardInterrupt):
                train(config, path, start_from=start, callbacks=[Death()])
            (path / "resume.safetensors").unlink()  # as if killed before the first one
            rewrite(path / "status.json", status="running", step=0)
        runs = train_many([config, config], paths, resume=True)
        assert all(torch.equal(weight, source.weights(20)[name]) for name, weight in runs[0].weights(0).items())
        assert_same_weights(runs[1], source)

    def test_runs_at_different_steps_are_refused(self, tmp_path):
        configs, paths = variants(KINDS["sgd"]), places(tmp_path, 3)
        for config, path, steps in zip(configs, paths, (10, 10, 20), strict=True):
            train(lasting(config, steps), path)
        before = [contents(path) for path in paths]
        message = r"member0 resumes from step 10 but .*member2 from step 20, .*: resume them one by one with train\("
        with pytest.raises(RunError, match=message):
            train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before


class Death(Callback):
    """Interrupts a training after its first update."""

    def on_step(self, step: int) -> None:
        raise KeyboardInterrupt


def when_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Calls `act` after an update of an ensemble."""

    def on_step(self: ProgressBar, now: int) -> None:
        if now == step:
            act()

    monkeypatch.setattr(ProgressBar, "on_step", on_step)


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("kind", ["transformer", "sgd, momentum"])
    def test_an_interrupt_stops_all_runs_which_resume_bit_for_bit(
        self, kind, number, ensemble_and_alone, tmp_path, monkeypatch
    ):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            when_step(patch, 13, lambda: os.kill(os.getpid(), number))
            runs = train_many(configs, paths)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        for run in runs:
            status = run.status
            assert (status["status"], status["step"], status["reason"]) == ("stopped", 13, "interrupted")
        again = train_many(configs, paths, resume=True)
        assert [result(run) for run in again] == [result(run) for run in ensemble_and_alone(kind)[0]]

    def test_a_second_interrupt_does_not_wait(self, tmp_path, monkeypatch):
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        when_step(monkeypatch, 13, twice)
        with pytest.raises(KeyboardInterrupt):
            train_many(variants(KINDS["sgd"]), places(tmp_path, 3))
        for path in places(tmp_path, 3):
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert status["reason"].startswith("KeyboardInterrupt")

    @pytest.mark.parametrize("file", ["step_000020.safetensors", "resume.safetensors", "status.json"])
    def test_a_full_disk_leaves_every_status_correct(self, file, ensemble_and_alone, tmp_path, monkeypatch):
        configs, paths = variants(KINDS["sgd"]), places(tmp_path, 3)
        rename, tries = Path.replace, []

        def full(self: Path, target: Path) -> Path:
            if Path(target) in (paths[1] / file, paths[1] / "weights" / file):
                tries.append(target)
                if len(tries) == 1 + (file != "step_000020.safetensors"):  # not the first of those written repeatedly
                    raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(RunError, match=r"cannot write .*member1.*: No space left on device"):
                train_many(configs, paths)
        for path in paths:
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert "No space left on device" in status["reason"]
        for i, expected in enumerate(ensemble_and_alone("sgd")[1]):
            assert_same_weights(train(configs[i], paths[i], resume=True), expected)

    def test_a_full_disk_when_the_final_status_is_written(self, tmp_path, monkeypatch):
        configs = [lasting(config, 10, checkpoints=4, resume_every=100) for config in variants(KINDS["sgd"])]
        paths = places(tmp_path, 3)
        rename = Path.replace

        def full(self: Path, target: Path) -> Path:
            if Path(target) == paths[1] / "weights" / "step_000010.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(RunError, match="No space left on device"):
            train_many(configs, paths)
        runs = [Run.open(path) for path in paths]
        assert [run.status["status"] for run in runs] == ["finished", "stopped", "stopped"]
        assert runs[0].steps == [0, 4, 8, 10]

    def test_a_full_disk_during_background_writes(self, tmp_path, monkeypatch):
        """The failure at step 10 is only noticed at step 20, when every member's file has been affected."""
        rename = Path.replace

        def full(self: Path, target: Path) -> Path:
            if Path(target).name == "step_000010.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", full)
        configs = [lasting(config, 30, resume_every=100) for config in variants(KINDS["sgd"])]
        with pytest.raises(RunError, match=r"cannot write .*member0.*: No space left on device"):
            train_many(configs, places(tmp_path, 3))
        for path in places(tmp_path, 3):
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert "No space left on device" in status["reason"]

    def test_an_exception_right_after_the_start(self, tmp_path, monkeypatch):
        """Both resume points are those of step 0, bit for bit."""

        class Fail(Callback):
            def on_step(self, step: int) -> None:
                fail()

        def fail() -> None:
            raise ValueError("no more")

        config, paths = KINDS["sgd, momentum"], places(tmp_path, 2)
        with monkeypatch.context() as patch:
            when_step(patch, 1, fail)
            with pytest.raises(ValueError, match="no more"):
                train_many([config, config], paths)
        with pytest.raises(ValueError, match="no more"):
            train(config, tmp_path / "alone", callbacks=[Fail()])
        for path in paths:
            assert Run.open(path).status["reason"] == "ValueError: no more"
            assert result(Run.open(path)) == result(Run.open(tmp_path / "alone"))

    def test_a_folder_that_cannot_be_created(self, tmp_path):
        (tmp_path / "file").write_text("a file")
        paths = [tmp_path / "first", tmp_path / "file" / "second", tmp_path / "third"]
        with pytest.raises(RunError, match="cannot create the folder"):
            train_many(variants(KINDS["sgd"]), paths)
        assert Run.open(paths[0]).status["status"] == "stopped"
        assert not paths[2].exists()


def diverging(**schedule: Any) -> list[RunConfig]:
    """Three runs, of which the second diverges."""
    optimizer = OptimizerConfig(name="sgd", lr=0.03, weight_decay=0.0)
    configs = variants(config_of(MLP, optimizer, schedule=replace(SCHEDULE, **schedule)))
    return [configs[0], replace(configs[1], optimizer=replace(optimizer, lr=1e12)), configs[2]]


class TestDivergence:
    @pytest.mark.parametrize(
        "schedule",
        [{"evaluate_every": 1, "checkpoints": 1}, {"evaluate_every": 10}, {"evaluate_every": 30, "checkpoints": 30}],
        ids=["watched", "looked at", "unnoticed"],
    )
    def test_only_the_diverging_member_ends(self, schedule, tmp_path):
        configs = diverging(**schedule)
        runs = train_many(configs, places(tmp_path, 3))
        alone = [train(config, tmp_path / f"alone{i}") for i, config in enumerate(configs)]
        assert [run.status["status"] for run in runs] == ["finished", "diverged", "finished"]
        assert runs[1].status["reason"] == alone[1].status["reason"]
        assert runs[1].status["step"] == alone[1].status["step"]
        assert runs[1].steps == alone[1].steps
        assert list(runs[1].metrics.index) == list(alone[1].metrics.index)
        for i in (0, 2):
            assert_same_weights(runs[i], alone[i])
            assert_same_metrics(runs[i], alone[i])

    def test_the_others_are_resumed_without_it(self, tmp_path):
        paths = places(tmp_path, 3)
        train_many(diverging(steps=20), paths)
        before = contents(paths[1])
        runs = train_many(diverging(), paths, resume=True)
        assert contents(paths[1]) == before
        assert [run.status["step"] for run in runs if run.path != paths[1]] == [30, 30]

    def test_divergence_is_noticed_when_all_are_interrupted(self, tmp_path, monkeypatch):
        when_step(monkeypatch, 13, lambda: os.kill(os.getpid(), signal.SIGINT))
        runs = train_many(diverging(evaluate_every=30, checkpoints=30, resume_every=30), places(tmp_path, 3))
        assert [run.status["status"] for run in runs] == ["stopped", "diverged", "stopped"]

    def test_all_may_diverge(self, tmp_path):
        runs = train_many([diverging()[1]] * 2, places(tmp_path, 2))
        assert [run.status["status"] for run in runs] == ["diverged", "diverged"]


class TestStopWhenGrokked:
    @pytest.fixture
    def second_groks_at_10(self, monkeypatch):
        """Gives the run with data seed 11 full test accuracy from its second evaluation on, whatever its weights."""
        evaluate, seeds = bookkeeping.evaluate, []

        def pretend(task, logits, weights, loss):
            seeds.append(task.config.data_seed)
            reached = seeds.count(11) >= 2 and task.config.data_seed == 11
            return evaluate(task, logits, weights, loss) | {"test_accuracy": 1.0 if reached else 0.5}

        monkeypatch.setattr(bookkeeping, "evaluate", pretend)

    @pytest.mark.parametrize("kind", ["transformer", "adam, everything"])
    def test_a_member_ends_and_the_others_continue(self, kind, ensemble_and_alone, second_groks_at_10, tmp_path):
        configs = [lasting(config, 30, stop_when_grokked=True, stop_factor=1.5) for config in variants(KINDS[kind])]
        paths = places(tmp_path, 3)
        runs = train_many(configs, paths)
        assert [(run.status["status"], run.status["step"]) for run in runs] == [
            ("finished", 30),
            ("finished", 20),
            ("finished", 30),
        ]
        assert [run.status["reason"] for run in runs] == ["all steps made", "grokked", "all steps made"]
        assert runs[1].steps == [0, 10, 20]
        for i in (0, 2):
            assert_same_weights(runs[i], ensemble_and_alone(kind)[1][i])
        assert_same_weights(runs[1], ensemble_and_alone(kind)[1][1], 20)
        before = contents(paths[1])
        longer = train_many([lasting(config, 40) for config in configs], paths, resume=True)
        assert [run.status["step"] for run in longer] == [40, 20, 40]
        assert contents(paths[1]) == before
