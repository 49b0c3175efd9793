"""The cache of analyze never serves stale or damaged values, and a changed measure is computed anew."""

import ast
import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analyses import STEPS, TRANSFORMER, Count, assert_same, fresh

import grokinterp
import grokinterp.measures as gm
from grokinterp.analysis.cache import _SOURCES
from grokinterp.analysis.timeline import analyze
from grokinterp.measures import Column, Snapshot, measure
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RunWriter
from grokinterp.training import train


@pytest.fixture(autouse=True)
def isolated_register(monkeypatch):
    """Measures that a test registers are gone after it."""
    monkeypatch.setattr("grokinterp.measures.base._REGISTER", gm.registered())


@pytest.fixture
def count(monkeypatch) -> Count:
    return Count(monkeypatch)


def test_every_module_that_measures_import_is_in_the_key():
    """A changed rule in any of them must not serve numbers of the old one."""
    package = Path(grokinterp.__file__).parent
    waiting, seen = (
        [*package.glob("measures/*.py"), package / "analysis/measure_calls.py", package / "runs/run.py"],
        set(),
    )
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grokinterp."):
                base = package.joinpath(*node.module.split(".")[1:])
                names = [base.with_suffix(".py"), base / "__init__.py", *(base / f"{a.name}.py" for a in node.names)]
                waiting += [name for name in names if name.is_file()]
    covered = {file for source in _SOURCES for file in (package / source).glob("*.py")}
    covered |= {package / source for source in _SOURCES if source.endswith(".py")}
    assert seen - covered == set()
    assert package / "config" / "model.py" in seen


class TestCache:
    def test_another_split_or_model_is_another_key(self, run, count):
        first = analyze(run)
        file = run.path / "config.json"
        file.write_text(file.read_text().replace('"data_seed": 0', '"data_seed": 1'))
        count.clear()
        second = analyze(Run.open(run.path))
        assert count.steps == set(STEPS)
        assert first.timeline["train_loss"].tolist() != second.timeline["train_loss"].tolist()

    def test_the_second_time_nothing_is_computed(self, run, count):
        first = analyze(run)
        assert count.steps == set(STEPS)
        count.clear()
        second = analyze(Run.open(run.path))
        assert count.values == []
        assert set(count.snapshots) <= {40}
        assert_same(first, second)
        assert first.summary() == second.summary()

    def test_only_new_checkpoints_are_computed(self, run, count):
        analyze(run, frequencies=[1])
        count.clear()
        RunWriter(run.path, run.config).save_checkpoint(50, run.weights(40))
        analysis = analyze(Run.open(run.path), frequencies=[1])
        assert count.steps == {50}
        assert analysis.timeline.index.tolist() == [*STEPS, 50]
        assert analysis.timeline["restricted_loss"][50] == analysis.timeline["restricted_loss"][40]

    def test_a_resumed_run_is_analyzed_like_one_never_stopped(self, run, tmp_path, count):
        analyze(run, frequencies=[1])
        count.clear()
        longer = replace(TRANSFORMER, schedule=replace(TRANSFORMER.schedule, steps=60))
        analysis = analyze(train(longer, run.path, resume=True), frequencies=[1])
        assert count.steps == {50, 60}
        assert_same(analysis, fresh(run, tmp_path / "fresh", frequencies=[1]), to_the_bit=False)

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
        assert count.measures == {
            name for name, each in gm.registered().items() if "reference" in each.needs and not each.costly
        }

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
        assert count.values == []
        pd.testing.assert_frame_equal(part.timeline, whole.timeline.loc[10:20], check_exact=True)
        again = analyze(run, frequencies=[1])
        assert count.values == []
        assert_same(again, whole)

    def test_a_selection_of_measures_keeps_the_others_cached(self, run, count):
        whole = analyze(run, frequencies=[1])
        part = analyze(run, frequencies=[1], measures=["gini_embedding"])
        assert "gini_embedding" in part.timeline
        assert "gini_neuron_logit" not in part.timeline
        count.clear()
        assert_same(analyze(run, frequencies=[1]), whole)
        assert count.values == []

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
        analysis = analyze(run)
        folder = run.path / "analysis"
        assert sorted(file.name for file in folder.iterdir()) == [
            "analysis.json",
            "frequencies.parquet",
            "timeline.parquet",
        ]
        pd.testing.assert_frame_equal(pd.read_parquet(folder / "timeline.parquet"), analysis.timeline, check_like=True)
        assert json.loads((folder / "analysis.json").read_text())["summary"] == analysis.summary()

    def test_a_folder_that_cannot_be_written_still_gives_the_analysis(self, run, tmp_path, caplog):
        expected = fresh(run, tmp_path / "fresh")
        (run.path / "analysis").write_text("in the way")
        assert_same(analyze(run), expected, to_the_bit=False)
        assert "the analysis was not cached" in caplog.text


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
            analysis = analyze(run, measures=["my_measures:answer"])
            assert analysis.timeline["answer"].tolist() == [value] * 5

    def test_an_edited_constant_beside_the_function(self, run, tmp_path, monkeypatch):
        for value in (1.0, 2.0):
            text = f"VALUE = {value}\n\ndef answer(snapshot):\n    return VALUE\n"
            self.module(tmp_path, text, monkeypatch)
            analysis = analyze(run, measures=["my_measures:answer"])
            assert analysis.timeline["answer"].tolist() == [value] * 5

    def test_an_edited_helper_of_the_function(self, run, tmp_path, monkeypatch):
        for value in (1.0, 2.0):
            text = f"def helper():\n    return {value}\n\ndef answer(snapshot):\n    return helper()\n"
            self.module(tmp_path, text, monkeypatch)
            analysis = analyze(run, measures=["my_measures:answer"])
            assert analysis.timeline["answer"].tolist() == [value] * 5

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
            analysis = analyze(run, measures=["answer"])
            assert analysis.timeline["answer"].tolist() == [step + shift for step in STEPS]
