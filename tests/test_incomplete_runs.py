"""analyze on runs that lack something: keys lost after grokking, no group, no split, no weights, an unfinished run."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from analyses import (
    MLP,
    TRANSFORMER,
    Count,
    P,
    assert_same,
    cosines,
    fresh,
    memorized,
    record_dying_key,
)

import grokinterp.measures as gm
from grokinterp.analysis.timeline import analyze
from grokinterp.config import TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder


@pytest.fixture(scope="session")
def dying_key(tmp_path_factory) -> Run:
    return record_dying_key(tmp_path_factory.mktemp("incomplete") / "dying")


@pytest.fixture
def count(monkeypatch) -> Count:
    return Count(monkeypatch)


class TestLostKeys:
    @pytest.fixture
    def analysis(self, dying_key) -> Any:
        return analyze(dying_key)

    def test_the_reference_says_which(self, analysis):
        assert analysis.transition.T_grok[0.95].step == 200
        assert analysis.reference.frequencies.values == (5,)
        assert analysis.reference.lost == (2,)
        assert analysis.reference.union == (2, 5)
        assert analysis.reference.generalizes is True

    def test_it_is_a_warning(self, analysis):
        warning = next(text for text in analysis.warnings if "no longer keys" in text)
        assert "[2]" in warning
        assert "_union" in warning

    def test_columns_with_every_key_since_t_grok(self, analysis):
        measures = ("restricted_loss", "restricted_loss_novel", "excluded_loss", "excluded_loss_novel")
        assert {f"{name}_union" for name in measures} == {name for name in analysis.timeline if name.endswith("_union")}
        for step in (100, 300, 400):
            snapshot = analysis.run.snapshot(step)
            for name in measures:
                expected = getattr(gm, name)(snapshot, (2, 5))
                assert analysis.timeline[f"{name}_union"][step] == pytest.approx(
                    expected, rel=1e-12, abs=1e-12, nan_ok=True
                )
        assert analysis.timeline["restricted_loss_union"][300] < analysis.timeline["restricted_loss"][300]
        assert "every key since T_grok" in analysis.definitions["restricted_loss_union"]

    def test_they_are_in_the_summary(self, analysis):
        reference = analysis.summary()["reference"]
        assert reference["lost"] == [2]
        assert reference["union"] == [2, 5]

    def test_they_are_cached(self, analysis, count):
        again = analyze(analysis.run)
        assert count.values == []
        assert_same(analysis, again)

    def test_nothing_is_lost_where_the_keys_are_given(self, dying_key, tmp_path):
        analysis = fresh(dying_key, tmp_path / "fresh", frequencies=[5])
        assert analysis.reference.lost == ()
        assert not [name for name in analysis.timeline if name.endswith("_union")]

    def test_the_last_checkpoint_counts_though_it_was_not_selected(self, dying_key):
        analysis = analyze(dying_key, steps="0:100")
        assert analysis.reference.lost == (2,)
        assert "restricted_loss_union" in analysis.timeline


class TestWhatIsMissing:
    def test_an_operation_without_a_group(self, tmp_path):
        config = replace(TRANSFORMER, task=TaskConfig(operation="x^3+xy", p=P, train_fraction=0.5))
        analysis = analyze(train(config, tmp_path / "run"))
        reason = "x^3+xy mod 7 has no cyclic group"
        grouped = [
            "restricted_loss",
            "excluded_loss",
            "excluded_loss_novel",
            "gini_embedding",
            "logit_variance_explained",
        ]
        for column in grouped:
            assert analysis.timeline[column].isna().all()
            assert analysis.why_missing(column) == reason
        for column in ("loss", "test_accuracy", "weight_norm", "margin"):
            assert analysis.timeline[column].notna().all()
        assert analysis.reference.frequencies.values == ()
        assert reason in analysis.reference.frequencies.reason
        assert analysis.warnings == ()  # the reason stands beside the key frequencies
        json.dumps(analysis.summary(), allow_nan=False)
        assert_same(analyze(analysis.run), analysis)
        with pytest.raises(ConfigError, match="frequencies were given, but x"):
            analyze(analysis.run, frequencies=[1])

    @pytest.mark.parametrize("operation", ["subtract", "multiply", "multiply_nonzero", "divide", "x^2+y^2"])
    def test_every_kind_of_operation_is_analyzed(self, operation, tmp_path):
        config = replace(MLP, task=TaskConfig(operation=operation, p=P, train_fraction=0.5))
        analysis = analyze(train(config, tmp_path / "run"))
        assert analysis.timeline["loss"].notna().all()
        assert "is_key" in analysis.frequencies or operation == "x^2+y^2"
        assert analysis.frequencies.index.unique("k").tolist() in ([1, 2, 3], [])
        json.dumps(analysis.summary(), allow_nan=False)

    def test_a_model_without_key_frequencies(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            for step in (0, 10):
                recorder.record(step, torch.zeros(169, 13))
        analysis = analyze(recorder.run)
        assert analysis.reference.frequencies.values == ()
        assert analysis.reference.frequencies.reason == "constant logits"
        for column in ("restricted_loss", "excluded_loss", "restricted_loss_novel", "excluded_loss_novel"):
            assert analysis.timeline[column].isna().all()
            assert analysis.why_missing(column) == "no key frequencies"
        assert not any("no key frequencies" in warning for warning in analysis.warnings)  # it is said beside them
        assert analysis.summary()["reference"]["key_frequencies"] == []
        assert analysis.summary()["reference"]["reason"] == "constant logits"

    def test_keys_of_a_model_that_does_not_generalize(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, memorized(task) + cosines(task, (3,), 0.8))
        analysis = analyze(recorder.run)
        assert analysis.reference.frequencies.values == (3,)
        assert analysis.reference.generalizes is False
        assert any("the model does not generalize at" in warning for warning in analysis.warnings)
        assert analysis.timeline["restricted_loss"].notna().all()

    def test_no_weights(self, dying_key):
        analysis = analyze(dying_key)
        assert analysis.timeline["weight_norm"].isna().all()
        assert analysis.why_missing("weight_norm").startswith("the snapshot was made without weights: ")
        assert analysis.why_missing("efficiency_gen", 300)
        assert analysis.timeline["generalized_margin_share"][300] == pytest.approx(1.0)
        assert analysis.transition.cleanup_end.flags in (("from losses",), ("from losses", "coarse grid"))

    def test_no_known_split(self, tmp_path):
        task = Task.modular_addition(13)
        with Recorder(tmp_path / "run", task) as recorder:
            for step in (0, 10):
                recorder.record(step, cosines(task, (4,)))
        analysis = analyze(recorder.run)
        assert analysis.transition.outcome == "undetermined"
        assert analysis.timeline["accuracy"].tolist() == [1.0, 1.0]
        for column in ("train_loss", "test_accuracy", "excluded_loss", "circuit_efficiency_ratio"):
            assert analysis.timeline[column].isna().all()
            assert analysis.why_missing(column) == "the train/test split is unknown"
        assert analysis.reference.frequencies.values == (4,)
        assert analysis.reference.generalizes is True
        json.dumps(analysis.summary(), allow_nan=False)

    def test_a_single_checkpoint(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, cosines(task, (4,)))
        assert analyze(recorder.run).transition.outcome == "undetermined"

    def test_a_diverged_run(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, memorized(task))
            recorder.record(10, torch.full((169, 13), math.nan))
        analysis = analyze(recorder.run)
        assert analysis.transition.outcome == "diverged"
        assert analysis.reference.frequencies.values == ()
        assert np.isfinite(analysis.timeline["train_loss"][0])
        assert np.isnan(analysis.timeline["train_loss"][10])
        json.dumps(analysis.summary(), allow_nan=False)
        assert_same(analyze(recorder.run), analysis)

    def test_a_run_that_is_still_going_on(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        recorder = Recorder(tmp_path / "run", task)
        recorder.record(0, 0.01 * memorized(task, 0.0))
        recorder.record(10, memorized(task))
        analysis = analyze(recorder.run)
        assert analysis.transition.outcome == "undetermined"
        assert "unfinished" in analysis.transition.reason

    def test_a_training_stopped_before_it_memorized_is_unfinished(self, run):
        RunWriter(run.path, run.config).write_status(RunStatus.STOPPED, 40)
        longer = replace(TRANSFORMER, schedule=replace(TRANSFORMER.schedule, steps=10_000))
        RunWriter(run.path, longer).write_config(longer)
        analysis = analyze(Run.open(run.path))
        assert run.metrics["train_accuracy"].max() < 0.99
        assert analysis.transition.outcome == "undetermined"
