"""The number of threads of a training: chosen by its size, recorded, kept at resume; and the notice that it is slow."""

import logging
from dataclasses import replace

import pytest
import torch

import grokinterp as gi
from grokinterp.config import MLPConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.training import contention, threads, train, train_many
from grokinterp.training.contention import ContentionCheck
from grokinterp.training.threads import choose_threads, count_operations, using_threads

SMALL = RunConfig(
    task=TaskConfig(p=7), model=MLPConfig(width=16), schedule=ScheduleConfig(steps=4, evaluate_every=2, checkpoints=2)
)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 4)


class TestChoice:
    def test_a_small_run_gets_one_thread_and_any_other_pytorchs_number(self):
        with using_threads(3):
            assert choose_threads(SMALL) == 1
            assert choose_threads(gi.preset("nanda")) == 3

    def test_many_small_runs_together_are_no_small_update(self):
        many = int(threads.SMALL_UPDATE / count_operations(SMALL)) + 1
        with using_threads(3):
            assert choose_threads(SMALL, runs=many) == 3

    def test_the_callers_number_decides(self):
        assert choose_threads(SMALL, 4) == 4
        assert choose_threads(gi.preset("nanda"), 1) == 1

    @pytest.mark.parametrize("number", [0, -1, 5])
    def test_an_impossible_number(self, number):
        with pytest.raises(ConfigError, match=rf"^--threads {number} is not possible: .* 4 cores, so"):
            choose_threads(SMALL, number)

    @pytest.mark.parametrize(("available", "kept"), [(4, 3), (2, 2)])
    def test_a_resumed_run_keeps_its_number_if_there_are_so_many_cores(self, available, kept, tmp_path, monkeypatch):
        run = train(SMALL, tmp_path / "run", threads=3)
        monkeypatch.setattr(threads, "cores", lambda: available)
        assert choose_threads(SMALL, begun=run) == kept

    def test_the_latest_number_counts(self, tmp_path):
        train(SMALL, tmp_path / "run")
        longer = SMALL.replace({"schedule.steps": 6})
        run = train(longer, tmp_path / "run", resume=True, threads=2)
        assert choose_threads(longer, begun=run) == 2


class TestTraining:
    def test_it_is_recorded_and_left_as_it_was(self, tmp_path):
        before = torch.get_num_threads()
        run = train(SMALL, tmp_path / "run", threads=2)
        assert run.environment["threads"] == 2
        assert torch.get_num_threads() == before

    def test_of_a_stack(self, tmp_path):
        (run,) = train_many([SMALL], [tmp_path / "run"], threads=2)
        assert run.environment["threads"] == 2

    def test_an_impossible_number_writes_nothing(self, tmp_path):
        with pytest.raises(ConfigError):
            train(SMALL, tmp_path / "run", threads=5)
        assert not (tmp_path / "run").exists()

    def test_in_the_shell(self, shell, tmp_path):
        shown = shell("train", str(tmp_path / "run"), "--preset", "demo", "--task.p", "5", "--schedule.steps", "2")
        assert shown.code == 0, shown.err
        assert Run.open(tmp_path / "run").environment["threads"] == 1
        shown = shell("train", str(tmp_path / "other"), "--threads", "9")
        assert (shown.code, shown.out) == (2, "")
        assert "--threads 9 is not possible" in shown.err

    @pytest.mark.parametrize(("number", "said"), [(1, "with 1 thread ("), (2, "with 2 threads (")])
    def test_a_dry_run_measures_with_it_and_says_so(self, number, said, shell, tmp_path):
        shown = shell("train", str(tmp_path / "run"), "--preset", "demo", "--dry-run", "--threads", str(number))
        assert said in shown.err


class TestContention:
    """The clocks are made up: a run that makes a step a second, on cores that it has or has not."""

    @pytest.fixture
    def said(self, monkeypatch, caplog, tmp_path):
        def after_forty_steps(number: int, share: float, alone: float) -> str:
            clock = {"wall": 0.0}
            monkeypatch.setattr(contention.time, "monotonic", lambda: clock["wall"])
            monkeypatch.setattr(contention.time, "process_time", lambda: clock["wall"] * number * share)
            measured: list[int] = []

            def estimate(config, quick, threads, products):
                measured.append(threads)
                return replace(cost, seconds_per_step=alone)

            cost = gi.training.estimate.estimate(SMALL, tries=1)
            monkeypatch.setattr(contention, "estimate", estimate)
            with using_threads(number), caplog.at_level(logging.WARNING):
                check = ContentionCheck(SMALL)
                check.on_open(tmp_path)
                for step in range(40):
                    clock["wall"] = float(step)
                    check.on_step(step)
            assert set(measured) <= {1}
            return caplog.text

        return after_forty_steps

    def test_on_busy_cores_where_one_thread_is_faster(self, said):
        text = said(number=2, share=0.5, alone=0.02)
        assert text.count("a step takes 1 s with 2 threads, but 0.02 s with one") == 1
        assert "--threads 1" in text

    @pytest.mark.parametrize(
        ("number", "share", "alone"),
        [(2, 1.0, 0.02), (2, 0.5, 0.9), (1, 0.5, 0.02)],
        ids=["the cores are its own", "one thread is not faster", "it has one thread"],
    )
    def test_otherwise_it_says_nothing(self, number, share, alone, said):
        assert said(number, share, alone) == ""
