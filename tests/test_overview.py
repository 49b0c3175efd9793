"""What `grokinterp analyze` prints: headline, milestones, shares of the key frequencies, phases and warnings."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analyses import TRANSFORMER, cosines, record_dying_key, unanalyzed_copy

from grokinterp.analysis.overview import headline, key_shares, milestones, value_at
from grokinterp.analysis.result import Analysis
from grokinterp.analysis.timeline import analyze
from grokinterp.analysis.transition import Event
from grokinterp.cli import main
from grokinterp.cli.console import show_analysis
from grokinterp.config import TaskConfig
from grokinterp.report.sections import rules, transitions
from grokinterp.runs.run import Run
from grokinterp.statistics.formatting import number
from grokinterp.statistics.outcomes import Outcome
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"


@pytest.fixture(scope="module")
def grokked(tmp_path_factory) -> Analysis:
    return analyze(unanalyzed_copy(Run.open(RUN42), tmp_path_factory.mktemp("overview") / "run42"))


@pytest.fixture(scope="module")
def memorized(tmp_path_factory) -> Analysis:
    """A run that fits its training set and never generalizes."""
    config = replace(
        TRANSFORMER,
        optimizer=replace(TRANSFORMER.optimizer, lr=1e-2),
        schedule=replace(TRANSFORMER.schedule, steps=100),
    )
    return analyze(train(config, tmp_path_factory.mktemp("overview") / "memorized"))


@pytest.fixture(scope="module")
def lost(tmp_path_factory) -> Analysis:
    """A run that loses a key frequency after grokking."""
    return analyze(record_dying_key(tmp_path_factory.mktemp("overview") / "lost"))


@pytest.fixture
def shown(capsys, monkeypatch) -> Any:
    def show(analysis: Analysis, width: int = 120, **options: Any) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        show_analysis(analysis, **options)
        return capsys.readouterr().out

    return show


def row(text: str, label: str) -> list[str]:
    """The cells of a printed table's row."""
    line = next(line for line in text.splitlines() if line.strip().startswith(label + "  "))
    return line.strip().removeprefix(label).split()


class TestHeadline:
    def test_both_events_are_at_one_threshold(self, grokked, shown):
        transition = grokked.transition
        fits, generalizes = transition.T_train[0.99].step, transition.T_grok[0.99].step
        text = f"fits the training set at step {fits:,}, generalizes at step {generalizes:,} (both at 99 %)"
        assert headline(grokked) == text
        assert " ".join(shown(grokked, 400).splitlines()[0].split()) == f"{grokked.run.path}: grokked: {text}"

    def test_at_the_lower_one_where_the_higher_is_not_reached(self, grokked):
        events = {**grokked.transition.T_grok, 0.99: Event(None, reason="never")}
        transition = replace(grokked.transition, T_grok=events)
        expected = "fits the training set at step 120, generalizes at step 2,290 (both at 95 %)"
        assert headline(replace(grokked, transition=transition)) == expected

    def test_a_run_that_never_generalizes(self, memorized):
        step = memorized.transition.T_train[0.99].step
        assert memorized.transition.outcome == Outcome.DNF_TEST
        expected = f"fits the training set at step {step:,}, does not generalize by step 100 (both at 99 %)"
        assert headline(memorized) == expected

    def test_otherwise_it_is_the_reason_of_the_outcome(self, grokked):
        transition = replace(grokked.transition, outcome=Outcome.DIVERGED, reason="the loss became NaN or infinite")
        assert headline(replace(grokked, transition=transition)) == "the loss became NaN or infinite"


class TestMilestones:
    def test_their_steps(self, grokked):
        ratio = grokked.timeline["circuit_efficiency_ratio"]
        steps = [
            grokked.transition.T_train[0.99].step,
            int(ratio.index[(ratio >= 1).to_numpy().argmax()]),
            grokked.transition.T_grok[0.95].step,
            int(grokked.timeline.index[-1]),
        ]
        assert [milestone.step for milestone in milestones(grokked)] == steps == [130, 1100, 2290, 4240]

    def test_measures_are_read_at_the_nearest_checkpoint(self, grokked):
        analyzed = grokked.timeline.index.to_numpy()
        for milestone in milestones(grokked):
            assert abs(milestone.checkpoint - milestone.step) == np.abs(analyzed - milestone.step).min()
            expected = grokked.timeline["restricted_loss"][milestone.checkpoint]
            assert value_at(grokked, "restricted_loss", milestone) == expected

    def test_accuracies_are_read_at_the_step_itself(self, grokked):
        fits = milestones(grokked)[0]
        assert fits.step not in grokked.timeline.index
        assert value_at(grokked, "test_accuracy", fits) == grokked.metrics["test_accuracy"][fits.step]
        crossing = milestones(grokked)[1]
        assert value_at(grokked, "weight_norm", crossing) == grokked.metrics["weight_norm"][crossing.step]

    def test_what_a_run_does_not_reach_has_a_reason(self, memorized):
        by_name = {milestone.name: milestone for milestone in milestones(memorized)}
        for name in ("margin ratio = 1", "generalizes (95 %)"):
            assert (by_name[name].step, by_name[name].checkpoint) == (None, None)
            assert by_name[name].reason
            assert math.isnan(value_at(memorized, "restricted_loss", by_name[name]))

    def test_an_event_beyond_the_analyzed_steps_has_no_checkpoint(self, grokked):
        part = replace(grokked, timeline=grokked.timeline.loc[:1000])
        generalizes = milestones(part)[2]
        assert (generalizes.step, generalizes.checkpoint) == (2290, None)
        assert math.isnan(value_at(part, "restricted_loss", generalizes))
        assert value_at(part, "test_accuracy", generalizes) >= 0.95


class TestKeyShares:
    def test_of_the_embedding_by_numpys_fourier_transform(self, grokked):
        embedding = grokked.run.weights(4240)["embed.W_E"].double().numpy()[:67]
        power = np.square(np.abs(np.fft.fft(embedding, axis=0))).sum(axis=1)[1:]
        shares = key_shares(grokked)
        assert shares.index.tolist() == [8, 14, 21]
        for k, share in shares["embedding"].items():
            assert share == pytest.approx((power[k - 1] + power[67 - k - 1]) / power.sum(), rel=1e-6)

    def test_of_the_logits_by_least_squares(self, grokked):
        task, logits = grokked.run.task, grokked.run.snapshot(4240).logits.numpy()
        logits = (logits - logits.mean(axis=1, keepdims=True)).ravel()
        a, b = task.inputs.numpy().T
        differences = (a + b)[:, None] - np.arange(67)[None, :]
        for k, share in key_shares(grokked)["logits"].items():
            cosine = np.cos(2 * np.pi * k * differences / 67).ravel()
            (amplitude,), *_ = np.linalg.lstsq(cosine[:, None], logits, rcond=None)
            explained = np.square(amplitude * cosine).sum() / np.square(logits).sum()
            assert share == pytest.approx(explained, rel=1e-6)

    def test_they_are_printed_with_their_sum(self, grokked, shown):
        text, shares = shown(grokked), key_shares(grokked)
        for k, values in shares.iterrows():
            assert row(text, str(k)) == [word for value in values for word in (f"{100 * value:.1f}", "%")]
        assert row(text, "all") == [word for value in shares.sum() for word in (f"{100 * value:.1f}", "%")]
        assert "key frequencies: 8, 14, 21 (rule cube_cosine, step 4,240)" in text
        assert "Shares at step 4,240" in text

    def test_where_the_reference_step_was_not_analyzed_they_are_of_the_last_step(self, grokked):
        part = analyze(grokked.run, steps="0:2000")
        shares = key_shares(part)
        assert (part.reference.frequencies.step, shares.attrs["step"]) == (4240, 2000)
        assert shares["logits"][14] == part.frequencies["cosine_similarity"][2000, 14] ** 2

    def test_without_these_measures_there_are_none(self, grokked, shown):
        part = analyze(grokked.run, measures=["margin"])
        assert key_shares(part).columns.tolist() == []
        assert "Shares at" not in shown(part)


class TestTerminal:
    @pytest.mark.parametrize("width", [80, 120])
    def test_the_table_has_the_steps_and_values_of_the_analysis(self, width, grokked, shown):
        text, columns = shown(grokked, width), milestones(grokked)
        (heading,) = (line for line in text.splitlines() if "fits (99 %)" in line and "end" in line)
        assert re.split(r"\s{2,}", heading.strip()) == [column.name for column in columns]
        assert row(text, "step") == ["130", "1,100", "2,290", "4,240"]
        assert row(text, "checkpoint") == ["133", "1,100", "2,300", "4,240"]
        for label, column in {
            "test accuracy": "test_accuracy",
            "novel accuracy": "novel_accuracy",
            "restricted loss": "restricted_loss",
            "excluded loss": "excluded_loss",
            "margin ratio": "circuit_efficiency_ratio",
            "weight norm": "weight_norm",
        }.items():
            assert row(text, label) == [number(value_at(grokked, column, milestone)) for milestone in columns]
        assert max(map(len, text.splitlines())) <= width

    def test_phases_and_reasons(self, grokked, shown):
        text = shown(grokked)
        for line in (
            "memorization phase ends at 200 (100 to 400)",
            "circuit formation phase ends at 1,710 (1,500 to 1,850)",
            "cleanup phase ends at 3,330 (2,870 to 3,700)",
            "– margin ratio at end: memorized margin exhausted",
        ):
            assert line in text.splitlines()

    def test_every_measure_with_its_meaning(self, grokked, shown):
        assert "gini_embedding" not in shown(grokked)
        text = shown(grokked, 200, every_measure=True)
        table = text.partition(" meaning ")[2]
        for column in grokked.timeline:
            line = next(line for line in table.splitlines() if line.strip().startswith(f"{column} "))
            assert number(float(grokked.timeline[column].iloc[-1])) in line.split()
            assert grokked.definitions[column if column in grokked.definitions else column.split(".")[0]][:60] in line
        for label, values in {
            "T_train: first step with that train accuracy": ["120", "130"],
            "T_grok: first step with that test accuracy": ["2,290", "2,490"],
            "delay: T_grok - T_train": ["2,170", "2,360"],
        }.items():
            assert row(text, label) == values

    def test_lost_keys_are_told_apart_in_the_table_and_the_definitions(self, lost, shown):
        for width in (80, 120):
            text = shown(lost, width)
            at_end = milestones(lost)[-1]
            for label, column in {
                "restricted loss, keys at 400": "restricted_loss",
                "restricted loss, union of keys": "restricted_loss_union",
            }.items():
                assert row(text, label)[-1] == number(value_at(lost, column, at_end))
            assert "lost since T_grok(0.95): 2; union of keys: 2, 5" in text
            assert max(map(len, text.splitlines())) <= width
        assert "reference step" in lost.definitions["restricted_loss"]
        assert "every key since T_grok(0.95)" in lost.definitions["restricted_loss_union"]

    def test_doubles_are_explained_where_the_keys_are(self, grokked, shown):
        by_rule = grokked.reference.by_rule | {"embedding_norm": (8, 14, 21, 28)}
        analysis = replace(grokked, reference=replace(grokked.reference, by_rule=by_rule))
        text = " ".join(shown(analysis).split())
        assert "also reported by embedding_norm: 28, the double of 14; doubles of key frequencies" in text
        assert "also reported by" not in shown(grokked)
        page = rules([analysis], ["run42"])
        assert "also 28 (= 2 × 14)" in page
        assert "Doubles 2k of a key frequency k often show in the embedding" in page

    def test_one_quantity_has_one_name(self, grokked, shown):
        """T_train is when a run fits its training set; the memorization phase ends later, by another rule."""
        text = shown(grokked, every_measure=True) + "".join(transitions([grokked], ["run42"]))
        assert "memorization phase ends" in text
        assert not re.search(r"memorized at|memorization ends", text)

    def test_a_run_that_never_generalizes(self, memorized, shown):
        text = " ".join(shown(memorized, 80).split())
        assert ": DNF_test: fits the training set at step" in text
        assert "– generalizes (95 %): test accuracy never reached 0.95" in text
        assert "circuit formation phase: test loss never falls below chance" in text

    def test_an_unknown_split(self, tmp_path, shown):
        task = Task.modular_addition(13)
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, cosines(task, (4,)))
            recorder.record(10, cosines(task, (4,)))
        text = shown(analyze(recorder.run), 80)
        assert "undetermined" in text
        assert row(text, "accuracy") == ["–", "–", "–", "1"]
        assert not any(line.strip().startswith("test accuracy") for line in text.splitlines())
        assert "no phases: no test loss was recorded" in text

    def test_no_group(self, tmp_path, shown):
        config = replace(TRANSFORMER, task=TaskConfig(operation="x^3+xy", p=7, train_fraction=0.5))
        analysis = analyze(train(config, tmp_path / "run"))
        text = " ".join(shown(analysis, 80).split())
        reason = analysis.why_missing("restricted_loss")
        assert f"– restricted loss, excluded loss: {reason}" in text
        assert "key frequencies: none (rule cube_cosine, step 40): " in text

    def test_the_command_ends_with_where_the_report_is(self, grokked, capsys):
        assert main(["analyze", str(grokked.run.path)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == f"report: {grokked.run.path / 'analysis' / 'report.html'}"
        assert main(["analyze", str(grokked.run.path), "--no-report", "--all"]) == 0
        assert "gini_embedding" in capsys.readouterr().out


def test_a_diverged_run_is_shown_too(tmp_path, shown):
    task = Task.modular_addition(13, train_fraction=0.4)
    with Recorder(tmp_path / "run", task) as recorder:
        recorder.record(0, torch.randn(169, 13, generator=torch.Generator().manual_seed(1)))
        recorder.record(10, torch.full((169, 13), math.nan))
    text = shown(analyze(recorder.run), 80)
    assert "diverged: the loss became NaN or infinite" in " ".join(text.split())
    assert "no phases: the loss became NaN or infinite" in text
