"""analyze: the numbers are those of the measures, the cache never serves stale ones, and what is missing says why."""

import dataclasses
import importlib
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import grokinterp.measures as gm
from grokinterp.analysis import evaluator as evaluator_module
from grokinterp.analysis.timeline import analyze, select_steps
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError, MissingNeedError, RunError
from grokinterp.measures import Column, Snapshot, Undefined, measure
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

P = 7
TRANSFORMER = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.4),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=40, evaluate_every=10, checkpoints=10, resume_every=40),
)
MLP = replace(TRANSFORMER, model=MLPConfig(width=16))
STEPS = [0, 10, 20, 30, 40]


@pytest.fixture(autouse=True)
def own_register(monkeypatch):
    """Measures that a test registers are gone after it."""
    monkeypatch.setattr("grokinterp.measures.base._REGISTER", gm.registered())


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Run:
    return train(TRANSFORMER, tmp_path_factory.mktemp("timeline") / "transformer")


@pytest.fixture
def run(trained, tmp_path) -> Run:
    """The trained run, without anything analyzed yet."""
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("analysis"))
    return Run.open(tmp_path / "run")


@pytest.fixture(scope="session")
def analyzed(trained) -> Any:
    return analyze(trained, frequencies=(1, 3))


def fresh(run: Run, folder: Path, **options) -> Any:
    """The analysis of a copy in which nothing was ever analyzed."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("analysis"))
    return analyze(Run.open(folder), **options)


def assert_same(one: Any, other: Any, *, to_the_bit: bool = True) -> None:
    """What was computed twice may differ in the last bits (LAPACK); what was read from a cache may not."""
    how = {"check_exact": True} if to_the_bit else {"rtol": 1e-12, "atol": 1e-12}
    pd.testing.assert_frame_equal(one.timeline, other.timeline, check_like=True, **how)
    pd.testing.assert_frame_equal(one.frequencies, other.frequencies, check_like=True, **how)
    assert one.reference == other.reference
    assert one.transition == other.transition
    assert one.reasons == other.reasons
    assert one.definitions == other.definitions
    assert one.warnings == other.warnings


class Count:
    """What was evaluated, and which snapshots were made, since it was made."""

    def __init__(self, monkeypatch):
        self.cells: list[tuple[str, int]] = []
        self.snapshots: list[int] = []
        evaluate, snapshot = evaluator_module.evaluate, Run.snapshot

        def counted(job, at):
            self.cells.append((job.measure.name, at.step))
            return evaluate(job, at)

        def made(run, step):
            self.snapshots.append(step)
            return snapshot(run, step)

        monkeypatch.setattr(evaluator_module, "evaluate", counted)
        monkeypatch.setattr(Run, "snapshot", made)

    @property
    def measures(self) -> set[str]:
        return {name for name, _ in self.cells}

    @property
    def steps(self) -> set[int]:
        return {step for _, step in self.cells}

    def clear(self) -> None:
        self.cells.clear()
        self.snapshots.clear()


@pytest.fixture
def count(monkeypatch) -> Count:
    return Count(monkeypatch)


K = (1, 3)
DIRECT = {
    "loss": lambda s: gm.loss(s),
    "train_loss": lambda s: gm.loss(s, subset="train"),
    "test_loss": lambda s: gm.loss(s, subset="test"),
    "accuracy": lambda s: gm.accuracy(s),
    "train_accuracy": lambda s: gm.accuracy(s, subset="train"),
    "test_accuracy": lambda s: gm.accuracy(s, subset="test"),
    "mirror_accuracy": lambda s: gm.accuracy(s, subset="mirror"),
    "novel_accuracy": lambda s: gm.accuracy(s, subset="novel"),
    "margin": lambda s: gm.margin(s),
    "train_margin": lambda s: gm.margin(s, subset="train"),
    "test_margin": lambda s: gm.margin(s, subset="test"),
    "weight_norm": lambda s: gm.weight_norm(s),
    "weight_rms": lambda s: gm.weight_rms(s),
    "sum_of_squares": lambda s: gm.sum_of_squares(s),
    "group_norm.embed": lambda s: gm.group_norms(s)["embed"],
    "group_norm.blocks.0.mlp": lambda s: gm.group_norms(s)["blocks.0.mlp"],
    "group_rms.unembed": lambda s: gm.group_rms(s)["unembed"],
    "gini_embedding": lambda s: gm.gini_embedding(s),
    "gini_neuron_logit": lambda s: gm.gini_neuron_logit(s),
    "logit_variance_explained": lambda s: gm.logit_variance_explained(s, K),
    "restricted_loss": lambda s: gm.restricted_loss(s, K),
    "restricted_loss_train": lambda s: gm.restricted_loss(s, K, subset="train"),
    "restricted_loss_test": lambda s: gm.restricted_loss(s, K, subset="test"),
    "restricted_loss_neuron": lambda s: gm.restricted_loss(s, K, level="neuron"),
    "restricted_loss_novel": lambda s: gm.restricted_loss_novel(s, K),
    "excluded_loss": lambda s: gm.excluded_loss(s, K),
    "excluded_loss_all": lambda s: gm.excluded_loss(s, K, subset="all"),
    "excluded_loss_test": lambda s: gm.excluded_loss(s, K, subset="test"),
    "excluded_loss_neuron": lambda s: gm.excluded_loss(s, K, level="neuron"),
    "excluded_loss_novel": lambda s: gm.excluded_loss_novel(s, K),
    "circuit_efficiency_ratio": lambda s: gm.circuit_efficiency(s, K).circuit_efficiency_ratio,
    "generalized_margin_share": lambda s: gm.circuit_efficiency(s, K).generalized_margin_share,
    "efficiency_gen": lambda s: gm.circuit_efficiency(s, K).efficiency_gen,
    "margin_gen": lambda s: gm.circuit_efficiency(s, K).margin_gen,
    "ratio_from_keys": lambda s: gm.circuit_efficiency(s, K).ratio_from_keys,
}
DIRECT_ARRAYS = {
    "embedding_power": gm.embedding_power,
    "neuron_logit_power": gm.neuron_logit_power,
    "cosine_coefficient": gm.cosine_coefficients,
    "cosine_similarity": gm.cosine_similarities,
    "excluded_loss_k": lambda s: gm.excluded_loss_per_frequency(s, subset="train"),
    "restricted_loss_k": gm.restricted_loss_per_frequency,
    "is_key": lambda s: torch.tensor([float(k in gm.key_frequencies(s).values) for k in (1, 2, 3)]),
}


class TestValues:
    @pytest.mark.parametrize("column", DIRECT)
    def test_a_column_is_the_measure_at_each_checkpoint(self, column, analyzed):
        for step in STEPS:
            expected = DIRECT[column](analyzed.run.snapshot(step))
            assert analyzed.timeline[column][step] == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True), step

    @pytest.mark.parametrize("column", DIRECT_ARRAYS)
    def test_an_array_over_frequencies_is_the_measure_at_each_checkpoint(self, column, analyzed):
        for step in STEPS:
            expected = DIRECT_ARRAYS[column](analyzed.run.snapshot(step)).double().tolist()
            assert analyzed.frequencies[column][step].tolist() == expected
            assert analyzed.frequencies[column][step].index.tolist() == [1, 2, 3]

    def test_every_checkpoint_and_every_measure_is_there(self, analyzed):
        assert analyzed.timeline.index.tolist() == STEPS
        assert analyzed.timeline.index.name == "step"
        assert analyzed.frequencies.index.names == ["step", "k"]
        assert set(DIRECT) <= set(analyzed.timeline.columns)
        assert set(DIRECT_ARRAYS) <= set(analyzed.frequencies.columns)

    def test_analysis_and_training_agree(self, analyzed):
        metrics = analyzed.run.metrics
        for column in set(metrics.columns) & set(analyzed.timeline.columns):
            expected = metrics[column].to_numpy()
            assert analyzed.timeline[column].to_numpy() == pytest.approx(expected, rel=1e-5), column

    def test_every_nan_has_a_reason(self, analyzed):
        for column in analyzed.timeline:
            for step in STEPS:
                is_nan = math.isnan(analyzed.timeline[column][step])
                assert bool(analyzed.why_missing(column, step)) == is_nan, (column, step)

    def test_every_column_is_defined(self, analyzed):
        for column in [*DIRECT, *DIRECT_ARRAYS]:
            assert analyzed.definitions[column.split(".")[0]]

    @pytest.mark.parametrize("name", ["excluded_loss", "restricted_loss"])
    def test_a_number_is_not_defined_as_the_array_of_its_name(self, name, analyzed):
        assert analyzed.definitions[name] == gm.find_measure(name).columns[0].definition

    def test_a_path_will_do_for_a_run(self, run):
        assert analyze(str(run.path), measures=["loss"]).run.path == run.path

    def test_an_mlp(self, tmp_path):
        found = analyze(train(MLP, tmp_path / "mlp"), frequencies=[2])
        snapshot = found.run.snapshot(40)
        assert found.timeline["restricted_loss"][40] == gm.restricted_loss(snapshot, 2)
        assert found.timeline["gini_embedding"][40] == gm.gini_embedding(snapshot)
        assert found.timeline["group_norm.layers.0"][40] == gm.group_norms(snapshot)["layers.0"]

    def test_curves_are_on_the_finest_grid(self, tmp_path):
        schedule = replace(TRANSFORMER.schedule, evaluate_every=5)
        found = analyze(train(replace(MLP, schedule=schedule), tmp_path / "run"), measures=["margin"])
        assert found.curves("test_loss").index.tolist() == list(range(0, 41, 5))
        assert found.curves("margin").index.tolist() == STEPS
        assert found.curves("nothing").empty
        assert found.name == "run"

    def test_progress_is_told(self, run):
        told = []
        analyze(run, measures=["loss"], progress=lambda done, of: told.append((done, of)))
        assert told == [(i, 5) for i in range(6)]


class TestCache:
    def test_the_second_time_nothing_is_computed(self, run, count):
        first = analyze(run)
        assert count.steps == set(STEPS)
        count.clear()
        second = analyze(Run.open(run.path))
        assert count.cells == []
        assert set(count.snapshots) <= {40}
        assert_same(first, second)
        assert first.summary() == second.summary()

    def test_only_new_checkpoints_are_computed(self, run, count):
        analyze(run, frequencies=[1])
        count.clear()
        RunWriter(run.path, run.config).save_checkpoint(50, run.weights(40))
        found = analyze(Run.open(run.path), frequencies=[1])
        assert count.steps == {50}
        assert found.timeline.index.tolist() == [*STEPS, 50]
        assert found.timeline["restricted_loss"][50] == found.timeline["restricted_loss"][40]

    def test_a_resumed_run_is_analyzed_like_one_never_stopped(self, run, tmp_path, count):
        analyze(run, frequencies=[1])
        count.clear()
        longer = replace(TRANSFORMER, schedule=replace(TRANSFORMER.schedule, steps=60))
        found = analyze(train(longer, run.path, resume=True), frequencies=[1])
        assert count.steps == {50, 60}
        assert_same(found, fresh(run, tmp_path / "fresh", frequencies=[1]), to_the_bit=False)

    @pytest.mark.parametrize(
        "options",
        [
            {"frequencies": [2]},
            {"frequencies": [1, 2, 3]},
            {"rule": "embedding_norm"},
            {"rule": "unembedding_power"},
            {"reference_step": 20, "rule": "embedding_norm"},
        ],
    )
    def test_another_reference_is_computed_anew_and_back_again(self, options, run, tmp_path):
        first = analyze(run, frequencies=[1, 3])
        changed = analyze(run, **options)
        assert_same(changed, fresh(run, tmp_path / "changed", **options), to_the_bit=False)
        assert_same(analyze(run, frequencies=[1, 3]), first, to_the_bit=False)

    def test_what_needs_no_reference_is_not_computed_anew(self, run, count):
        analyze(run, frequencies=[1])
        count.clear()
        analyze(run, frequencies=[2])
        assert count.measures == {name for name, each in gm.registered().items() if "reference" in each.needs}

    def test_a_changed_weights_file_is_noticed(self, run, count):
        before = analyze(run, frequencies=[1])
        count.clear()
        RunWriter(run.path, run.config).save_checkpoint(20, run.weights(0))
        after = analyze(run, frequencies=[1])
        assert count.steps == {20}
        assert after.timeline["loss"][20] == before.timeline["loss"][0] != before.timeline["loss"][20]
        pd.testing.assert_frame_equal(after.timeline.drop(20), before.timeline.drop(20), check_exact=True)

    def test_a_deleted_checkpoint_is_gone(self, run):
        analyze(run, measures=["loss"])
        (run.path / "weights" / "step_000020.safetensors").unlink()
        assert analyze(run, measures=["loss"]).timeline.index.tolist() == [0, 10, 30, 40]

    def test_a_selection_of_steps_keeps_the_others_cached(self, run, count):
        whole = analyze(run, frequencies=[1])
        count.clear()
        part = analyze(run, frequencies=[1], steps="10:20")
        assert count.cells == []
        pd.testing.assert_frame_equal(part.timeline, whole.timeline.loc[10:20], check_exact=True)
        again = analyze(run, frequencies=[1])
        assert count.cells == []
        assert_same(again, whole)

    def test_a_selection_of_measures_keeps_the_others_cached(self, run, count):
        whole = analyze(run, frequencies=[1])
        part = analyze(run, frequencies=[1], measures=["gini_embedding"])
        assert "gini_embedding" in part.timeline
        assert "gini_neuron_logit" not in part.timeline
        count.clear()
        assert_same(analyze(run, frequencies=[1]), whole)
        assert count.cells == []

    @pytest.mark.parametrize("name", ["analysis.json", "timeline.parquet", "frequencies.parquet"])
    @pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "missing", "another's"])
    def test_a_damaged_cache_is_computed_anew(self, name, damage, run, tmp_path):
        first = analyze(run)
        file = run.path / "analysis" / name
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        elif damage == "another's":
            other = fresh(run, tmp_path / "other", steps=[0], measures=[])
            shutil.copy(other.run.path / "analysis" / name, file)
        else:
            file.write_bytes(
                {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x00rubbish" * 99}[damage]
            )
        again = analyze(run)
        assert_same(again, first, to_the_bit=False)
        assert_same(analyze(run), again)

    @pytest.mark.parametrize("text", ["[]", "{}", "null", '{"measures": {}, "checksums": []}', '{"measures": 3}'])
    def test_an_index_of_another_form_is_computed_anew(self, text, run):
        first = analyze(run)
        (run.path / "analysis" / "analysis.json").write_text(text)
        assert_same(analyze(run), first, to_the_bit=False)

    @pytest.mark.parametrize("table", ["timeline.parquet", "frequencies.parquet"])
    def test_tables_and_index_of_different_analyses_are_never_mixed(self, table, run, tmp_path, monkeypatch):
        """The disk fills up after one table was replaced: its numbers must not pass for those of the old index."""
        first = analyze(run, frequencies=[1])
        with monkeypatch.context() as disk:
            rename = Path.replace

            def full_after(self, target):
                written = {"timeline.parquet", table}
                if Path(target).parent.name == "analysis" and Path(target).name not in written:
                    raise OSError(28, "No space left on device")
                return rename(self, target)

            disk.setattr(Path, "replace", full_after)
            analyze(run, frequencies=[2])
        assert_same(analyze(run, frequencies=[1]), first, to_the_bit=False)
        expected = fresh(run, tmp_path / "fresh", frequencies=[2])
        assert_same(analyze(run, frequencies=[2]), expected, to_the_bit=False)

    def test_the_cache_is_files_that_anybody_reads(self, run):
        found = analyze(run)
        folder = run.path / "analysis"
        assert sorted(file.name for file in folder.iterdir()) == [
            "analysis.json",
            "frequencies.parquet",
            "timeline.parquet",
        ]
        pd.testing.assert_frame_equal(pd.read_parquet(folder / "timeline.parquet"), found.timeline, check_like=True)
        assert json.loads((folder / "analysis.json").read_text())["summary"] == found.summary()

    def test_a_folder_that_cannot_be_written_still_gives_the_analysis(self, run, tmp_path, caplog):
        expected = fresh(run, tmp_path / "fresh")
        (run.path / "analysis").write_text("in the way")
        assert_same(analyze(run), expected, to_the_bit=False)
        assert "the analysis was not cached" in caplog.text


class TestSteps:
    @pytest.mark.parametrize(
        ("steps", "chosen"),
        [
            (None, STEPS),
            ("0:40", STEPS),
            ("10:30", [10, 20, 30]),
            ("5:35", [10, 20, 30]),
            (":20", [0, 10, 20]),
            ("20:", [20, 30, 40]),
            ("20", [20]),
            ("0:40:20", [0, 20, 40]),
            ("10:40:20", [10, 30]),
            ("::20", [0, 20, 40]),
            (":", STEPS),
            ("30:9999", [30, 40]),
            ([40, 0, 40], [0, 40]),
        ],
    )
    def test_selection(self, steps, chosen):
        assert select_steps(STEPS, steps) == chosen

    @pytest.mark.parametrize("steps", ["a", "1:2:3:4", "-5:10", "0.5", "1,2", "0:10:-1"])
    def test_what_is_no_selection(self, steps):
        with pytest.raises(ConfigError, match=r"give A:B:C, for instance 0:5000:100"):
            select_steps(STEPS, steps)

    def test_a_stride_of_zero(self):
        with pytest.raises(ConfigError):
            select_steps(STEPS, "0:40:0")

    @pytest.mark.parametrize("steps", ["1:9", "50:", "30:20", "15", []])
    def test_a_selection_of_nothing(self, steps):
        with pytest.raises(RunError, match=r"no checkpoint at steps .*available: 0 to 40, 5 in all"):
            select_steps(STEPS, steps)

    def test_a_list_with_a_step_that_was_not_kept(self):
        with pytest.raises(RunError, match=r"no checkpoint at \[15\]; available: 0 to 40"):
            select_steps(STEPS, [10, 15])

    def test_the_table_has_the_rows_asked_for(self, run):
        found = analyze(run, steps="10:30:20")
        assert found.timeline.index.tolist() == [10, 30]
        assert found.frequencies.index.unique("step").tolist() == [10, 30]
        assert found.summary()["steps"] == {"first": 10, "last": 30, "count": 2}
        assert found.reference.frequencies.step == 40

    def test_a_run_that_kept_nothing(self, run):
        shutil.rmtree(run.path / "weights")
        with pytest.raises(RunError, match="has no checkpoint yet: there is nothing to analyze"):
            analyze(run)


class TestReference:
    def test_it_is_of_the_last_checkpoint_by_the_rule(self, run):
        found = analyze(run, rule="embedding_norm").reference
        assert found.frequencies == gm.key_frequencies(run.snapshot(40), "embedding_norm")
        assert set(found.by_rule) == set(gm.RULES)
        assert found.by_rule["unembedding_power"] == gm.key_frequencies(run.snapshot(40), "unembedding_power").values

    def test_it_is_of_another_checkpoint_if_asked(self, run):
        found = analyze(run, rule="embedding_norm", reference_step=10, measures=["restricted_loss"])
        assert found.reference.frequencies == gm.key_frequencies(run.snapshot(10), "embedding_norm")
        expected = gm.restricted_loss(run.snapshot(30), found.reference.frequencies)
        assert found.timeline["restricted_loss"][30] == expected

    def test_it_is_what_was_given(self, run):
        found = analyze(run, frequencies=[3, 1])
        assert found.reference.frequencies.values == (1, 3)
        assert found.reference.frequencies.rule == "given"

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"frequencies": [4]}, ConfigError, r"frequencies of Z_7 lie in 1 .. 3; given: \[4\]"),
            ({"frequencies": [0]}, ConfigError, r"given: \[0\]"),
            ({"reference_step": 15}, RunError, "no checkpoint at the reference step 15; available: 0 to 40"),
            ({"measures": ["restricted_los"]}, ConfigError, "did you mean 'restricted_loss'"),
            ({"measures": ["grokinterp.nothing:x"]}, ConfigError, "cannot be imported"),
            ({"measures": ["json:nothing"]}, ConfigError, "give package.module:function"),
        ],
    )
    def test_what_is_not_there(self, options, kind, message, run):
        with pytest.raises(kind, match=message):
            analyze(run, **options)
        assert not (run.path / "analysis").exists()


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
        found = analyze(run, measures=[largest_logit, "gini_embedding"])
        for step in STEPS:
            assert found.timeline["largest_logit"][step] == run.snapshot(step).logits.max()
        assert found.definitions["largest_logit"] == "The largest logit of all."
        assert "test_accuracy" in found.timeline

    def test_a_function_by_its_place(self, run):
        found = analyze(run, measures=["test_timeline:largest_logit"])
        assert found.timeline["largest_logit"][40] == run.snapshot(40).logits.max()

    def test_an_array_over_frequencies(self, run):
        found = analyze(run, measures=[per_frequency])
        assert found.frequencies["per_frequency"][30].tolist() == [1, 2, 30]
        assert "per_frequency" not in found.timeline

    def test_a_dictionary(self, run):
        found = analyze(run, measures=[by_part])
        assert found.timeline["by_part.high"].tolist() == STEPS
        assert found.timeline["by_part.low"].tolist() == [-1] * 5

    def test_a_dataclass_with_a_reference(self, run):
        @measure("ends", needs=("reference",), columns=(Column("least", "the least key"), Column("most", "the last")))
        def ends(snapshot: Snapshot, frequencies: Any) -> Ends:
            return Ends(min(frequencies), max(frequencies))

        found = analyze(run, measures=["ends"], frequencies=[2, 3])
        assert found.timeline["least"].tolist() == [2] * 5
        assert found.timeline["most"].tolist() == [3] * 5
        assert found.definitions["least"] == "the least key"

    def test_what_a_measure_misses_becomes_nan_with_its_reason(self, run):
        found = analyze(run, measures=[needs_history])
        assert found.timeline["needs_history"].isna().all()
        assert found.why_missing("needs_history") == "nobody wrote it down"
        assert found.why_missing("needs_history", 20) == "nobody wrote it down"
        assert found.summary()["final"]["needs_history"] is None
        assert found.summary()["missing"]["needs_history"] == "nobody wrote it down"

    def test_what_is_undefined_becomes_nan_with_its_reason(self, run):
        found = analyze(run, measures=[undefined_at_0])
        assert found.timeline["undefined_at_0"].isna().tolist() == [True, False, False, False, False]
        assert found.reasons["undefined_at_0"] == {"no step was made": [0]}
        assert found.why_missing("undefined_at_0", 10) == ""
        assert analyze(run, measures=[undefined_at_0]).reasons == found.reasons

    def test_an_infinity_is_null_in_the_summary(self, run):
        found = analyze(run, measures=[infinite])
        assert found.summary()["final"]["infinite"] is None
        assert found.why_missing("infinite") == "the value is not finite"

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
        found = analyze(run, measures=[gm.gini_embedding, "margin"])
        assert {"gini_embedding", "margin"} <= set(found.timeline)
        assert "gini_neuron_logit" not in found.timeline


class TestChangedMeasures:
    """A stored number never outlives what computed it."""

    def module(self, folder: Path, text: str, monkeypatch) -> Any:
        """A module of the user's, as it is after being edited and loaded again."""
        monkeypatch.syspath_prepend(str(folder))
        (folder / "my_measures.py").write_text(text)
        monkeypatch.delitem(sys.modules, "my_measures", raising=False)
        importlib.invalidate_caches()
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        return importlib.import_module("my_measures")

    def test_an_edited_function(self, run, tmp_path, monkeypatch):
        for value in (1.0, 2.0):
            self.module(tmp_path, f"def answer(snapshot):\n    return {value}\n", monkeypatch)
            found = analyze(run, measures=["my_measures:answer"])
            assert found.timeline["answer"].tolist() == [value] * 5

    def test_an_edited_constant_beside_the_function(self, run, tmp_path, monkeypatch):
        for value in (1.0, 2.0):
            text = f"VALUE = {value}\n\ndef answer(snapshot):\n    return VALUE\n"
            self.module(tmp_path, text, monkeypatch)
            found = analyze(run, measures=["my_measures:answer"])
            assert found.timeline["answer"].tolist() == [value] * 5

    def test_an_edited_helper_of_the_function(self, run, tmp_path, monkeypatch):
        for value in (1.0, 2.0):
            text = f"def helper():\n    return {value}\n\ndef answer(snapshot):\n    return helper()\n"
            self.module(tmp_path, text, monkeypatch)
            found = analyze(run, measures=["my_measures:answer"])
            assert found.timeline["answer"].tolist() == [value] * 5

    def test_functions_made_by_a_function(self, run):
        def constant(value: float):
            def answer(snapshot: Snapshot) -> float:
                return value

            return answer

        for value in (1.0, 2.0):
            assert analyze(run, measures=[constant(value)]).timeline["answer"].tolist() == [value] * 5

    def test_a_raised_version(self, run, count):
        def register(version: int) -> None:
            @measure("answer", version=version)
            def answer(snapshot: Snapshot) -> float:
                return 42.0

        for version, computed in ((1, True), (1, False), (2, True)):
            register(version)
            count.clear()
            analyze(run, measures=["answer"])
            assert ("answer" in count.measures) == computed

    def test_changed_options(self, run):
        def register(shift: float) -> None:
            @measure("answer", columns=(Column("answer", "a shifted step", {"shift": shift}),))
            def answer(snapshot: Snapshot, *, shift: float) -> float:
                return snapshot.step + shift

        for shift in (0.0, 0.5):
            register(shift)
            found = analyze(run, measures=["answer"])
            assert found.timeline["answer"].tolist() == [step + shift for step in STEPS]


def cosines(task: Task, keys: tuple[int, ...], scale: float = 12.0) -> torch.Tensor:
    a, b = task.inputs.unbind(1)
    m = (a + b)[:, None] - torch.arange(task.p)[None, :]
    return scale * sum(torch.cos(2 * torch.pi * k * m / task.p) for k in keys)


def memorized(task: Task, scale: float = 12.0) -> torch.Tensor:
    """Right where it was trained; elsewhere what a seed says."""
    noise = torch.randn(len(task.inputs), task.p, generator=torch.Generator().manual_seed(1))
    return noise + scale * torch.eye(task.p)[task.labels] * task.train_mask[:, None]


@pytest.fixture(scope="session")
def dying_key(tmp_path_factory) -> Run:
    """Memorized at 100, generalized with keys 2 and 5 at 200, and key 2 is gone at 400."""
    task = Task.modular_addition(13, train_fraction=0.4)
    with Recorder(tmp_path_factory.mktemp("recorded") / "dying", task) as recorder:
        recorder.record(0, 0.01 * memorized(task, 0.0))
        recorder.record(100, memorized(task))
        for step, keys in ((200, (2, 5)), (300, (2, 5)), (400, (5,))):
            recorder.record(step, cosines(task, keys))
    return recorder.run


class TestLostKeys:
    @pytest.fixture
    def found(self, dying_key) -> Any:
        return analyze(dying_key)

    def test_the_reference_says_which(self, found):
        assert found.transition.T_grok[0.95].step == 200
        assert found.reference.frequencies.values == (5,)
        assert found.reference.lost == (2,)
        assert found.reference.union == (2, 5)
        assert found.reference.generalizes is True

    def test_it_is_a_warning(self, found):
        warning = next(text for text in found.warnings if "no longer keys" in text)
        assert "[2]" in warning
        assert "_union" in warning

    def test_columns_with_every_key_since_t_grok(self, found):
        measures = ("restricted_loss", "restricted_loss_novel", "excluded_loss", "excluded_loss_novel")
        assert {f"{name}_union" for name in measures} == {name for name in found.timeline if name.endswith("_union")}
        for step in (100, 300, 400):
            snapshot = found.run.snapshot(step)
            for name in measures:
                expected = getattr(gm, name)(snapshot, (2, 5))
                assert found.timeline[f"{name}_union"][step] == pytest.approx(
                    expected, rel=1e-12, abs=1e-12, nan_ok=True
                )
        assert found.timeline["restricted_loss_union"][300] < found.timeline["restricted_loss"][300]
        assert "every key since T_grok" in found.definitions["restricted_loss_union"]

    def test_they_are_in_the_summary(self, found):
        reference = found.summary()["reference"]
        assert reference["lost"] == [2]
        assert reference["union"] == [2, 5]

    def test_they_are_cached(self, found, count):
        again = analyze(found.run)
        assert count.cells == []
        assert_same(found, again)

    def test_nothing_is_lost_where_the_keys_are_given(self, dying_key, tmp_path):
        found = fresh(dying_key, tmp_path / "fresh", frequencies=[5])
        assert found.reference.lost == ()
        assert not [name for name in found.timeline if name.endswith("_union")]

    def test_the_last_checkpoint_counts_though_it_was_not_selected(self, dying_key):
        found = analyze(dying_key, steps="0:100")
        assert found.reference.lost == (2,)
        assert "restricted_loss_union" in found.timeline


class TestWhatIsMissing:
    def test_an_operation_without_a_group(self, tmp_path):
        config = replace(TRANSFORMER, task=TaskConfig(operation="x^3+xy", p=P, train_fraction=0.5))
        found = analyze(train(config, tmp_path / "run"))
        reason = "x^3+xy mod 7 has no cyclic group behind it"
        grouped = [
            "restricted_loss",
            "excluded_loss",
            "excluded_loss_novel",
            "gini_embedding",
            "logit_variance_explained",
        ]
        for column in grouped:
            assert found.timeline[column].isna().all()
            assert found.why_missing(column) == reason
        for column in ("loss", "test_accuracy", "weight_norm", "margin"):
            assert found.timeline[column].notna().all()
        assert found.reference.frequencies.values == ()
        assert reason in found.reference.frequencies.reason
        assert any(reason in warning for warning in found.warnings)
        json.dumps(found.summary(), allow_nan=False)
        assert_same(analyze(found.run), found)
        with pytest.raises(ConfigError, match="frequencies were given, but x"):
            analyze(found.run, frequencies=[1])

    @pytest.mark.parametrize("operation", ["subtract", "multiply", "multiply_nonzero", "divide", "x^2+y^2"])
    def test_every_kind_of_operation_is_analyzed(self, operation, tmp_path):
        config = replace(MLP, task=TaskConfig(operation=operation, p=P, train_fraction=0.5))
        found = analyze(train(config, tmp_path / "run"))
        assert found.timeline["loss"].notna().all()
        assert "is_key" in found.frequencies or operation == "x^2+y^2"
        assert found.frequencies.index.unique("k").tolist() in ([1, 2, 3], [])
        json.dumps(found.summary(), allow_nan=False)

    def test_a_model_without_key_frequencies(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            for step in (0, 10):
                recorder.record(step, torch.zeros(169, 13))
        found = analyze(recorder.run)
        assert found.reference.frequencies.values == ()
        assert found.reference.frequencies.reason == "constant logits"
        for column in ("restricted_loss", "excluded_loss", "restricted_loss_novel", "excluded_loss_novel"):
            assert found.timeline[column].isna().all()
            assert found.why_missing(column) == "no key frequencies"
        assert any("no key frequencies" in warning for warning in found.warnings)
        assert found.summary()["reference"]["key_frequencies"] == []
        assert found.summary()["reference"]["reason"] == "constant logits"

    def test_keys_of_a_model_that_does_not_generalize(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        with Recorder(tmp_path / "run", task) as recorder:
            recorder.record(0, memorized(task) + cosines(task, (3,), 0.8))
        found = analyze(recorder.run)
        assert found.reference.frequencies.values == (3,)
        assert found.reference.generalizes is False
        assert any("the model does not generalize at" in warning for warning in found.warnings)
        assert found.timeline["restricted_loss"].notna().all()

    def test_no_weights(self, dying_key):
        found = analyze(dying_key)
        assert found.timeline["weight_norm"].isna().all()
        assert found.why_missing("weight_norm") == "the snapshot was made without weights"
        assert found.why_missing("efficiency_gen", 300)
        assert found.timeline["generalized_margin_share"][300] == pytest.approx(1.0)
        assert found.transition.cleanup_end.flags in (("from losses",), ("from losses", "coarse grid"))

    def test_no_known_split(self, tmp_path):
        task = Task.modular_addition(13)
        with Recorder(tmp_path / "run", task) as recorder:
            for step in (0, 10):
                recorder.record(step, cosines(task, (4,)))
        found = analyze(recorder.run)
        assert found.transition.outcome == "undetermined"
        assert found.timeline["accuracy"].tolist() == [1.0, 1.0]
        for column in ("train_loss", "test_accuracy", "excluded_loss", "circuit_efficiency_ratio"):
            assert found.timeline[column].isna().all()
            assert found.why_missing(column) == "the train/test split is unknown"
        assert found.reference.frequencies.values == (4,)
        assert found.reference.generalizes is True
        json.dumps(found.summary(), allow_nan=False)

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
        found = analyze(recorder.run)
        assert found.transition.outcome == "diverged"
        assert found.reference.frequencies.values == ()
        assert np.isfinite(found.timeline["train_loss"][0])
        assert np.isnan(found.timeline["train_loss"][10])
        json.dumps(found.summary(), allow_nan=False)
        assert_same(analyze(recorder.run), found)

    def test_a_run_that_is_still_going_on(self, tmp_path):
        task = Task.modular_addition(13, train_fraction=0.4)
        recorder = Recorder(tmp_path / "run", task)
        recorder.record(0, 0.01 * memorized(task, 0.0))
        recorder.record(10, memorized(task))
        found = analyze(recorder.run)
        assert found.transition.outcome == "undetermined"
        assert "unfinished" in found.transition.reason

    def test_a_training_stopped_before_it_memorized_is_unfinished(self, run):
        RunWriter(run.path, run.config).write_status("stopped", 40)
        longer = replace(TRANSFORMER, schedule=replace(TRANSFORMER.schedule, steps=10_000))
        RunWriter(run.path, longer).write_config(longer)
        found = analyze(Run.open(run.path))
        assert run.metrics["train_accuracy"].max() < 0.99
        assert found.transition.outcome == "undetermined"


class TestSummary:
    @pytest.fixture(scope="class", params=["trained", "dying_key"])
    @classmethod
    def summary(cls, request) -> dict[str, Any]:
        return analyze(request.getfixturevalue(request.param)).summary()

    def test_it_has_the_keys_of_the_contract(self, summary):
        contract = {
            "run": None,
            "task": {"operation": None, "p": None, "train_fraction": None},
            "steps": {"first": None, "last": None, "count": None},
            "reference": {"rule": None, "step": None, "key_frequencies": None},
            "transition": {
                "outcome": None,
                "T_train": {"0.95": None, "0.99": None},
                "T_grok": {"0.95": None, "0.99": None},
                "delay": {"0.95": None, "0.99": None},
                "phases": {
                    name: {"step": None, "low": None, "high": None, "reason": None}
                    for name in ("memorization_end", "circuit_formation_end", "cleanup_end")
                },
            },
            "final": {},
            "warnings": None,
        }

        def assert_holds(found: dict, wanted: dict, where: str) -> None:
            assert set(wanted) <= set(found), where
            for key, inner in wanted.items():
                if isinstance(inner, dict):
                    assert_holds(found[key], inner, f"{where}.{key}")

        assert_holds(summary, contract, "summary")

    def test_it_is_json_without_nan(self, summary):
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    def test_unknown_phases_and_events_have_reasons(self, summary):
        for phase in summary["transition"]["phases"].values():
            assert (phase["step"] is None) == bool(phase["reason"])
        for name, value in summary["final"].items():
            assert value is not None or summary["missing"][name]

    def test_it_holds_the_last_row(self, trained):
        found = analyze(trained)
        final = found.summary()["final"]
        assert set(final) == set(found.timeline.columns)
        for name, value in final.items():
            expected = found.timeline[name].iloc[-1]
            assert value == (None if math.isnan(expected) else expected)

    def test_numbers_of_a_run_that_is_known(self, dying_key):
        summary = analyze(dying_key).summary()
        assert summary["run"] == str(dying_key.path)
        assert summary["task"] == {"operation": "add", "p": 13, "train_fraction": 0.4}
        assert summary["steps"] == {"first": 0, "last": 400, "count": 5}
        assert summary["reference"]["key_frequencies"] == [5]
        assert summary["transition"]["outcome"] == "grokked" or summary["transition"]["T_train"]["0.99"] == 100
        assert summary["transition"]["T_train"] == {"0.95": 100, "0.99": 100}
        assert summary["transition"]["T_grok"] == {"0.95": 200, "0.99": 200}
        assert summary["transition"]["delay"] == {"0.95": 100, "0.99": 100}
