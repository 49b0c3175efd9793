"""What an analysis keeps survives its end at any instant, names the weights it is of, and notices when these change."""

import hashlib
import itertools
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from grokinterp.analysis import evaluator as evaluator_module
from grokinterp.analysis.cache import AnalysisCache, Journal
from grokinterp.analysis.measure_calls import Value
from grokinterp.analysis.timeline import analyze
from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.errors import RunError
from grokinterp.measures import registered
from grokinterp.runs.checksums import with_checksum, without_checksum
from grokinterp.runs.locks import hold
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

CONFIG = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.4),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=50, evaluate_every=10, checkpoints=10, resume_every=50),
)
STEPS = [0, 10, 20, 30, 40, 50]
KEYS = (1, 3)


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def own_register(monkeypatch):
    monkeypatch.setattr("grokinterp.measures.base._REGISTER", registered())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("integrity") / "run")


@pytest.fixture(scope="module")
def expected(trained, tmp_path_factory) -> Any:
    """The analysis of a copy that nothing happens to."""
    shutil.copytree(trained.path, tmp_path_factory.mktemp("expected") / "run")
    return analyze(tmp_path_factory.getbasetemp() / "expected0" / "run", frequencies=KEYS, workers=0)


@pytest.fixture
def run(trained, tmp_path) -> Run:
    shutil.copytree(trained.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def evaluated(monkeypatch) -> list[tuple[str, int]]:
    """Every measure and step that was computed."""
    evaluations: list[tuple[str, int]] = []
    evaluate = evaluator_module.evaluate

    def noted(job, snapshot):
        evaluations.append((job.measure.name, snapshot.step))
        return evaluate(job, snapshot)

    monkeypatch.setattr(evaluator_module, "evaluate", noted)
    return evaluations


def assert_same(one: Any, other: Any) -> None:
    how = {"rtol": 1e-12, "atol": 1e-12, "check_like": True}
    pd.testing.assert_frame_equal(one.timeline, other.timeline, **how)
    pd.testing.assert_frame_equal(one.frequencies, other.frequencies, **how)
    assert (one.reference, one.reasons, one.checksums) == (other.reference, other.reasons, other.checksums)


def steps_of(evaluated: list[tuple[str, int]]) -> set[int]:
    return {step for _, step in evaluated}


def journal(run: Run) -> Path:
    return run.path / "analysis" / "unfinished.jsonl"


def killed_before_saving(run: Run, monkeypatch, **options) -> None:
    def never(cache, summary):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("grokinterp.analysis.cache.AnalysisCache.save", never)
        with pytest.raises(Killed):
            analyze(run, frequencies=KEYS, workers=0, **options)


class TestKilled:
    def test_while_it_evaluates_loses_one_checkpoint(self, run, monkeypatch, evaluated, expected):
        counted = evaluator_module.evaluate

        def killed_at_30(job, snapshot):
            if snapshot.step == 30 and job.measure.name == "accuracy":
                raise Killed
            return counted(job, snapshot)

        with monkeypatch.context() as patch:
            patch.setattr(evaluator_module, "evaluate", killed_at_30)
            with pytest.raises(Killed):
                analyze(run, frequencies=KEYS, workers=0)
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert steps_of(evaluated) == {30, 40, 50}

    def test_before_it_saves_loses_nothing(self, run, monkeypatch, evaluated, expected):
        killed_before_saving(run, monkeypatch)
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert evaluated == []
        assert not journal(run).exists()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)  # from the tables
        assert evaluated == []

    def test_again_and_again_it_adds_to_what_was_kept(self, run, monkeypatch, evaluated, expected):
        killed_before_saving(run, monkeypatch, steps="0:20")
        journal(run).write_bytes(journal(run).read_bytes()[:-7])  # its last line was being written
        killed_before_saving(run, monkeypatch, steps="30:40")
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert steps_of(evaluated) == {20, 50}

    @pytest.mark.parametrize("part", [0, 0.1, 0.37, 0.5, 0.86, 0.999])
    def test_a_journal_cut_anywhere_gives_what_is_whole(self, part, run, monkeypatch, evaluated, expected):
        killed_before_saving(run, monkeypatch)
        content = journal(run).read_bytes()
        kept = content[: int(part * len(content))]
        journal(run).write_bytes(kept)
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        whole = {json.loads(line)["step"] for line in kept.split(b"\n")[:-1] if line}
        assert steps_of(evaluated) == set(STEPS) - whole

    def test_damaged_lines_are_passed_over(self, run, monkeypatch, evaluated, expected):
        killed_before_saving(run, monkeypatch)
        lines = journal(run).read_bytes().splitlines(keepends=True)
        assert len(lines) == 1 + len(STEPS)
        foreign = [b"\x00" * 100 + b"\n", b"[]\n", b'{"step": 0}\n', b'{"step": 0, "checksum": "", "cells": [[1]]}\n']
        foreign += [b'{"step": "x", "checksum": 1, "cells": []}\n', b"[" * 100_000 + b"\n"]
        journal(run).write_bytes(b"".join([lines[1], *foreign, lines[2], lines[3][:50] + b"\n", *lines[4:]]))
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert steps_of(evaluated) == {20}

    def test_what_it_kept_of_other_weights_does_not_count(self, run, monkeypatch, evaluated):
        killed_before_saving(run, monkeypatch)
        RunWriter(run.path, run.config).save_checkpoint(20, run.weights(10))
        evaluated.clear()
        analysis = analyze(run, frequencies=KEYS, workers=0)
        assert steps_of(evaluated) == {20}
        assert analysis.timeline["loss"][20] == analysis.timeline["loss"][10]

    @pytest.mark.parametrize("nth", range(12))
    def test_at_any_write_of_saving_it_loses_nothing(self, nth, run, monkeypatch, evaluated, expected):
        """Files appear by renaming and go by unlinking: the process ends right before or after each of these."""
        analyze(run, frequencies=KEYS, steps="0:20", workers=0)
        killed_before_saving(run, monkeypatch)
        done = itertools.count()
        rename, unlink = Path.replace, Path.unlink
        reached: list[int] = []

        def dies(act):
            def last(*arguments, **options):
                number = next(done)
                if number == nth // 2:
                    reached.append(number)
                    if nth % 2:
                        act(*arguments, **options)
                    raise Killed
                return act(*arguments, **options)

            return last

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dies(rename))
            patch.setattr("grokinterp.analysis.cache.remove", lambda path: dies(unlink)(path))
            patch.setattr("grokinterp.analysis.cache.remove", lambda path: dies(unlink)(path))
            with pytest.raises(Killed):
                analyze(run, frequencies=KEYS, workers=0)
        assert reached
        evaluated.clear()
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert evaluated == []
        files = {file.name for file in (run.path / "analysis").iterdir() if not file.name.endswith(".tmp")}
        assert files == {"analysis.json", "timeline.parquet", "frequencies.parquet"}


class TestWriting:
    def test_what_is_known_is_not_written_again(self, run):
        analyze(run, frequencies=KEYS)
        before = {file: file.stat().st_mtime_ns for file in (run.path / "analysis").iterdir()}
        analyze(run, frequencies=KEYS)
        assert {file: file.stat().st_mtime_ns for file in (run.path / "analysis").iterdir()} == before

    def test_another_analysis_is_not_disturbed(self, run, expected, caplog):
        with hold(run.path / "analysis"):
            assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
            assert [file.name for file in (run.path / "analysis").iterdir()] == [".lock"]
        assert len(caplog.records) == 1
        assert f"was not cached: {run.path / 'analysis'} is in use by process {os.getpid()}" in caplog.text

    def test_nothing_is_said_where_nothing_is_to_be_kept(self, run, caplog):
        first = analyze(run, frequencies=KEYS)
        with hold(run.path / "analysis"):
            assert_same(analyze(run, frequencies=KEYS), first)
        assert caplog.records == []

    def test_a_disk_that_fills_up_is_said_once(self, run, expected, monkeypatch, caplog):
        appended = itertools.count()

        def full(path, line):
            if next(appended) >= 2:
                raise RunError(f"cannot write {path}: No space left on device")

        monkeypatch.setattr("grokinterp.analysis.cache.append", full)
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "No space left on device" in caplog.text


def sha256(run: Run, step: int) -> str:
    return hashlib.sha256((run.path / "weights" / f"step_{step:06d}.safetensors").read_bytes()).hexdigest()


def overwrite(run: Run, step: int, weights: dict[str, Any]) -> None:
    RunWriter(run.path, run.config).save_checkpoint(step, weights)


class TestChecksums:
    def test_a_result_names_what_it_was_computed_from(self, run):
        analysis = analyze(run, frequencies=KEYS, steps="10:30")
        assert analysis.checksums == {step: sha256(run, step) for step in (10, 20, 30)}
        lines = "".join(f"{step} {sha256(run, step)}\n" for step in (10, 20, 30))
        digest = hashlib.sha256(lines.encode()).hexdigest()
        assert analysis.weights_sha256 == analysis.summary()["weights_sha256"] == digest

    def test_a_snapshot_names_its_file(self, run):
        assert run.snapshot(20).checksum == run.checksum(20) == sha256(run, 20)

    def test_of_a_recorded_step_both_files_count(self, tmp_path):
        task = Task.modular_addition(p=5, train_fraction=0.5)
        with Recorder(tmp_path / "recorded", task) as recorder:
            recorder.record(0, torch.randn(25, 5), weights={"embed.W_E": torch.randn(5, 4)})
        run = Run.open(tmp_path / "recorded")
        before = run.checksum(0)
        assert run.snapshot(0).checksum == before
        assert run.recorded_checksums() == {0: before}
        RunWriter(run.path, run.config).save_checkpoint(0, {"embed.W_E": torch.randn(5, 4)})
        assert run.checksum(0) != before == run.recorded_checksums()[0]

    def test_where_nothing_is_kept_there_is_none(self, run):
        with pytest.raises(RunError, match="has no weights of step 15"):
            run.checksum(15)


class TestChangedWeights:
    def test_since_the_last_analysis(self, run):
        analyze(run, frequencies=KEYS)
        for step in (10, 20):
            overwrite(run, step, run.weights(0))
        (changed, recorded), rest = (analysis := analyze(run, frequencies=KEYS)).warnings[:2], analysis.warnings[2:]
        assert changed == "the weights at steps 10, 20 changed since the last analysis: recomputed"
        assert recorded == (
            "the weights at steps 10, 20 do not match the checksums in status.json: check them with "
            f"`grokinterp verify {run.path}`"
        )
        assert not any("the weights at" in warning for warning in rest)
        again = analyze(run, frequencies=KEYS).warnings
        assert not any("last analysis" in warning for warning in again)
        assert recorded in again

    def test_also_where_no_value_of_the_last_analysis_counts(self, run, monkeypatch):
        """With another grokinterp every key is another: weights are not read before they are evaluated."""
        analyze(run, frequencies=KEYS)
        overwrite(run, 20, run.weights(0))
        monkeypatch.setattr(evaluator_module, "measure_key", lambda measure, *_: f"new {measure.name}")
        said = analyze(run, frequencies=KEYS).warnings[0]
        assert said == "the weights at step 20 changed since the last analysis: recomputed"

    def test_of_many_the_first_are_named(self, tmp_path):
        schedule = ScheduleConfig(steps=15, evaluate_every=15, checkpoints=1, resume_every=15)
        run = train(replace(CONFIG, schedule=schedule), tmp_path / "run")
        for step in range(1, 15):
            overwrite(run, step, run.weights(0))
        said = analyze(run, frequencies=KEYS, measures=[]).warnings[0]
        assert "at steps 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 4 more up to 14 do not match the checksums" in said

    def test_an_untouched_run_has_no_such_warning(self, expected):
        assert not any("the weights at" in warning for warning in expected.warnings)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_while_they_are_analyzed(self, workers, run, tmp_path):
        """A step's cells are of one file, even if it is replaced between two measures."""
        analyze(run, frequencies=KEYS, measures=["loss"], steps="0:40", workers=0)

        def meddling(snapshot):  # known to this process alone: workers have answered before it is called
            if snapshot.step == 10:
                overwrite(run, 20, run.weights(40))
            return 0.0

        analysis = analyze(
            run, frequencies=KEYS, measures=["loss", "weight_norm", meddling], steps="0:40", workers=workers
        )
        assert "the weights at step 20 changed during the analysis: recomputed" in analysis.warnings
        assert analysis.checksums[20] == sha256(run, 20)
        pd.testing.assert_series_equal(
            analysis.timeline.loc[20], analysis.timeline.loc[40], check_names=False, rtol=1e-6
        )

        def harmless(snapshot):
            return 1.0

        again = analyze(run, frequencies=KEYS, measures=["loss", "weight_norm", harmless], steps="0:40", workers=0)
        columns = [column for column in again.timeline if column in analysis.timeline]
        pd.testing.assert_frame_equal(again.timeline[columns], analysis.timeline[columns])
        assert not any("last analysis" in warning for warning in again.warnings)

    def test_after_they_were_evaluated(self, run, evaluated):
        """What was read counts: it is kept under its own checksum, and the next analysis sees that it is not valid."""
        old = sha256(run, 20)

        def meddling(snapshot):
            if snapshot.step == 20:
                overwrite(run, 20, run.weights(40))
            return 0.0

        analysis = analyze(run, frequencies=KEYS, measures=["loss", meddling], workers=0)
        assert analysis.checksums[20] == old != sha256(run, 20)
        evaluated.clear()
        again = analyze(run, frequencies=KEYS, measures=["loss"], workers=0)
        assert steps_of(evaluated) == {20}
        assert again.timeline["loss"][20] == again.timeline["loss"][40] != analysis.timeline["loss"][20]
        assert "the weights at step 20 changed since the last analysis: recomputed" in again.warnings

    def test_those_that_the_key_frequencies_are_from(self, run):
        def meddling(snapshot):
            if snapshot.step == 0:
                overwrite(run, 50, run.weights(10))
            return 0.0

        with pytest.raises(
            RunError, match="the weights at step 50, whose key frequencies all measures use, changed during"
        ):
            analyze(run, measures=[meddling], workers=1)


class TestVanishing:
    """A training that is resumed removes the checkpoints that it makes again."""

    @pytest.mark.parametrize("workers", [0, 1])
    def test_checkpoints_are_left_out(self, workers, run, monkeypatch, expected):
        snapshot = Run.snapshot

        def removing(self, step, **options):
            result = snapshot(self, step, **options)
            for later in (30, 40):
                (run.path / "weights" / f"step_{later:06d}.safetensors").unlink(missing_ok=True)
            return result

        monkeypatch.setattr(Run, "snapshot", removing)
        analysis = analyze(run, frequencies=KEYS, workers=workers)
        assert analysis.timeline.index.tolist() == [0, 10, 20, 50]
        assert "the weights at steps 30, 40 were removed during the analysis: skipped" in analysis.warnings
        pd.testing.assert_frame_equal(
            analysis.timeline, expected.timeline.drop([30, 40]), check_like=True, rtol=1e-5, atol=1e-9
        )

    def test_also_those_that_were_analyzed_before(self, run, monkeypatch):
        analyze(run, frequencies=KEYS)
        checksum = Run.checksum

        def removing(self, step):
            (run.path / "weights" / "step_000030.safetensors").unlink(missing_ok=True)
            return checksum(self, step)

        monkeypatch.setattr(Run, "checksum", removing)
        analysis = analyze(run, frequencies=KEYS)
        assert analysis.timeline.index.tolist() == [0, 10, 20, 40, 50]
        assert 30 not in analysis.checksums

    def test_a_damaged_one_is_no_vanished_one(self, run):
        (run.path / "weights" / "step_000030.safetensors").write_bytes(b"rubbish" * 10)
        with pytest.raises(RunError, match=r"step_000030.safetensors is damaged"):
            analyze(run, frequencies=KEYS)

    def test_without_any_there_is_nothing_to_say(self, run, monkeypatch):
        snapshot = Run.snapshot

        def removing(self, step, **options):
            result = snapshot(self, step, **options)
            for kept in (run.path / "weights").iterdir():
                kept.unlink()
            return result

        monkeypatch.setattr(Run, "snapshot", removing)
        with pytest.raises(RunError, match="every checkpoint was removed during the analysis"):
            analyze(run, frequencies=KEYS, steps="0:40", workers=0)


class TestClaims:
    """Small files that claim more than the run can have: they are not believed, and the run is analyzed anew."""

    def reseal(self, run: Run, **changes: Any) -> None:
        file = run.path / "analysis" / "analysis.json"
        content = without_checksum(json.loads(file.read_text())) | changes
        file.write_text(json.dumps(with_checksum(content)))

    def test_a_table_with_more_rows_than_checkpoints_is_not_read(self, run, expected, monkeypatch):
        analyze(run, frequencies=KEYS, workers=0)
        file = run.path / "analysis" / "timeline.parquet"
        names = pq.ParquetFile(file).schema_arrow.names
        ones = pa.array(np.ones(20_000))  # stored once per page, as a run-length
        batch = pa.table(dict.fromkeys(names, ones))
        with pq.ParquetWriter(file, batch.schema, compression="zstd") as writer:
            for _ in range(3):
                writer.write_table(batch)
        content = json.loads((run.path / "analysis" / "analysis.json").read_text())
        self.reseal(run, tables=content["tables"] | {file.name: hashlib.sha256(file.read_bytes()).hexdigest()})
        reads = []
        read = pq.ParquetFile.read
        monkeypatch.setattr(pq.ParquetFile, "read", lambda *a, **k: reads.append(1) or read(*a, **k))
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert reads == []

    def test_checksums_of_thousands_of_steps(self, run, expected):
        analyze(run, frequencies=KEYS, workers=0)
        self.reseal(run, checksums={str(step): "0" for step in range(5_000)})
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)

    def test_journal_entries_of_other_steps_and_of_endless_columns(self, run, expected, monkeypatch):
        analyze(run, frequencies=KEYS, workers=0)
        filled = Journal(journal(run))
        for step in range(1000, 1200):
            filled.append(step, "0" * 64, [(f"m{step}", "key", Value({"x": 1.0}))])
        for number in range(3):
            wide = {f"column {number} {i}": [1.0] * 1000 for i in range(30)}
            filled.append(10, "0" * 64, [(f"wide {number}", "key", Value({}, wide))])
        monkeypatch.setattr("grokinterp.analysis.cache.MAX_NUMBERS", 200_000)
        cache = AnalysisCache(run.path / "analysis", run.steps)
        with cache:
            assert not [name for name in cache.values.keys if name.startswith("m1")]
            assert len([name for name in cache.values.keys if name.startswith("wide")]) <= 1
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)

    def test_entries_beyond_a_limit_are_not_read(self, run, monkeypatch):
        filled = Journal(journal(run))
        journal(run).parent.mkdir(exist_ok=True)
        for number in range(20):
            filled.append(10, "0" * 64, [(f"m{number}", "key", Value({"x": 1.0}))])
        monkeypatch.setattr("grokinterp.analysis.cache._MAX_ENTRIES", (5, 0))
        with AnalysisCache(run.path / "analysis", run.steps) as cache:
            assert len([name for name in cache.values.keys if name.startswith("m")]) == 5

    def test_a_summary_of_many_columns_lists_the_columns_only_once(self, run, monkeypatch):
        analysis = analyze(run, frequencies=KEYS, workers=0)
        monkeypatch.setattr(type(analysis), "_require_column", lambda *args: pytest.fail("for each column"))
        assert analysis.summary()["missing"]

    def test_a_hard_link_in_place_of_the_journal_is_not_written_through(self, run, tmp_path, expected):
        mine = tmp_path / "mine"
        mine.write_text("my notes")
        journal(run).parent.mkdir(exist_ok=True)
        journal(run).hardlink_to(mine)
        assert_same(analyze(run, frequencies=KEYS, workers=0), expected)
        assert mine.read_text() == "my notes"


def test_temporary_files_of_killed_analyses_are_removed(run):
    folder = run.path / "analysis"
    folder.mkdir(exist_ok=True)
    ours = [folder / f".{name}.7.tmp" for name in ("analysis.json", "timeline.parquet", ".timeline.parquet.next")]
    theirs = folder / ".notes.txt.7.tmp"
    for file in (*ours, theirs):
        file.write_text("half")
    analyze(run, frequencies=KEYS, workers=0)
    assert [file.exists() for file in ours] == [False, False, False]
    assert theirs.read_text() == "half"
