"""Users' own measures in analyze: functions, dictionaries, dataclasses, and values that are missing or refused."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from analyses import STEPS

import grokinterp.measures as gm
from grokinterp.analysis.timeline import analyze
from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import Column, Snapshot, Undefined, measure


@pytest.fixture(autouse=True)
def isolated_register(monkeypatch):
    """Measures that a test registers are gone after it."""
    monkeypatch.setattr("grokinterp.measures.base._REGISTER", gm.registered())


def largest_logit(snapshot: Snapshot) -> float:
    """The largest logit of all."""
    return snapshot.logits.max().item()


def per_frequency(snapshot: Snapshot) -> torch.Tensor:
    return torch.tensor([1.0, 2.0, snapshot.step])


def by_part(snapshot: Snapshot) -> dict[str, float]:
    return {"low": -1.0, "high": float(snapshot.step)}


def needs_history(snapshot: Snapshot) -> float:
    raise MissingNeedError("needs_history", "history", "nobody wrote it down")


def undefined_at_0(snapshot: Snapshot) -> float:
    return Undefined("no step was made") if snapshot.step == 0 else 1.0


def infinite(snapshot: Snapshot) -> float:
    return math.inf


def text(snapshot: Snapshot) -> str:
    return "seven"


@dataclasses.dataclass(frozen=True)
class Ends:
    least: float
    most: float


class TestUserMeasures:
    def test_a_function(self, run):
        analysis = analyze(run, measures=[largest_logit, "gini_embedding"])
        for step in STEPS:
            assert analysis.timeline["largest_logit"][step] == run.snapshot(step).logits.max()
        assert analysis.definitions["largest_logit"] == "The largest logit of all."
        assert "test_accuracy" in analysis.timeline

    def test_a_function_by_its_place(self, run):
        analysis = analyze(run, measures=["test_user_measures:largest_logit"])
        assert analysis.timeline["largest_logit"][40] == run.snapshot(40).logits.max()

    def test_an_array_over_frequencies(self, run):
        analysis = analyze(run, measures=[per_frequency])
        assert analysis.frequencies["per_frequency"][30].tolist() == [1, 2, 30]
        assert "per_frequency" not in analysis.timeline

    def test_a_dictionary(self, run):
        analysis = analyze(run, measures=[by_part])
        assert analysis.timeline["by_part.high"].tolist() == STEPS
        assert analysis.timeline["by_part.low"].tolist() == [-1] * 5

    def test_a_dataclass_with_a_reference(self, run):
        @measure("ends", needs=("reference",), columns=(Column("least", "the least key"), Column("most", "the last")))
        def ends(snapshot: Snapshot, frequencies: Any) -> Ends:
            return Ends(min(frequencies), max(frequencies))

        analysis = analyze(run, measures=["ends"], frequencies=[2, 3])
        assert analysis.timeline["least"].tolist() == [2] * 5
        assert analysis.timeline["most"].tolist() == [3] * 5
        assert analysis.definitions["least"] == "the least key"

    def test_what_a_measure_misses_becomes_nan_with_its_reason(self, run):
        analysis = analyze(run, measures=[needs_history])
        assert analysis.timeline["needs_history"].isna().all()
        assert analysis.why_missing("needs_history") == "nobody wrote it down"
        assert analysis.why_missing("needs_history", 20) == "nobody wrote it down"
        assert analysis.summary()["final"]["needs_history"] is None
        assert analysis.summary()["missing"]["needs_history"] == "nobody wrote it down"

    def test_what_is_undefined_becomes_nan_with_its_reason(self, run):
        analysis = analyze(run, measures=[undefined_at_0])
        assert analysis.timeline["undefined_at_0"].isna().tolist() == [True, False, False, False, False]
        assert analysis.reasons["undefined_at_0"] == {"no step was made": [0]}
        assert analysis.why_missing("undefined_at_0", 10) == ""
        assert analyze(run, measures=[undefined_at_0]).reasons == analysis.reasons

    def test_an_infinity_is_null_in_the_summary(self, run):
        analysis = analyze(run, measures=[infinite])
        assert analysis.summary()["final"]["infinite"] is None
        assert analysis.why_missing("infinite") == "the value is not finite"

    def test_what_is_no_number_is_refused(self, run):
        with pytest.raises(ConfigError, match="measure 'text' returned str: a measure returns a number"):
            analyze(run, measures=[text])

    def test_grokinterps_own_names_are_taken(self, run):
        def loss(snapshot: Snapshot) -> float:
            return -1.0

        with pytest.raises(ConfigError, match=r"'loss' is reserved for a built-in measure"):
            analyze(run, measures=[loss])
        assert analyze(run).timeline["loss"][0] == gm.loss(run.snapshot(0))

    def test_own_measures_by_function_or_name(self, run):
        analysis = analyze(run, measures=[gm.gini_embedding, "margin"])
        assert {"gini_embedding", "margin"} <= set(analysis.timeline)
        assert "gini_neuron_logit" not in analysis.timeline
