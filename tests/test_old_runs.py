"""Runs written by earlier versions of this package open, analyze and resume with the same results as then.

tests/data/README.md says which version made which run. Beside each run are the results of that version.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from grokinterp.analysis.timeline import analyze
from grokinterp.config import RegressionConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.experiments.document import write_markdown
from grokinterp.experiments.results import results_in
from grokinterp.report import write_report, write_sweep_report
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep, train_sweep
from grokinterp.sweep.rows import stored_summary
from grokinterp.training import train

DATA = Path(__file__).parent / "data"
RUNS = sorted(path.parent.relative_to(DATA).as_posix() for path in DATA.glob("*/*/config.json"))
STOPPED = [name for name in RUNS if name.split("/")[1] in ("stopped", "killed", "intervened")]
REPORTED = {name.split("/")[0]: name for name in RUNS}.values()  # one of each version: a report takes a second
SWEEPS = sorted(path.parent.relative_to(DATA).as_posix() for path in DATA.glob("*/*/sweep.json"))
RESULTS = sorted(path.parent.relative_to(DATA).as_posix() for path in DATA.glob("*/*/results.json"))


def said_then(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())


@pytest.fixture
def copy(tmp_path):
    """Makes a copy of a fixture, which the test may change."""
    return lambda name: Path(shutil.copytree(DATA / name, tmp_path / name.replace("/", "-")))


def as_then(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index("step").astype(float)


def bytes_kept(run: Run, step: int) -> str:
    """SHA-256 of the concatenated files of a step."""
    files = [run.path / folder / f"step_{step:06d}.safetensors" for folder in ("weights", "logits")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def test_every_earlier_version_has_fixtures():
    states = {name.split("/")[0] for name in RUNS}
    assert states == {"trainer", "performance", "sweeps", "interventions", "recipes", "trust", "checksums"}
    assert len(RUNS) == 27
    assert len(STOPPED) == 8
    assert (SWEEPS, RESULTS) == (
        ["checksums/sweep", "recipes/sweep", "sweeps/sweep"],
        ["checksums/reproduction", "recipes/reproduction", "sweeps/reproduction"],
    )


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_gives_the_results_of_then(name):
    then, run = said_then(name), Run.open(DATA / name)
    now = json.loads(run.config.to_json())
    for section, fields in then["config"].items():
        if isinstance(fields, dict):  # fields added later have their defaults
            assert {field: now[section][field] for field in fields} == fields
        else:
            assert now[section] == fields
    assert {field: run.status.get(field) for field in then["status"]} == then["status"]
    pd.testing.assert_frame_equal(run.metrics, as_then(then["metrics"]), check_like=True, rtol=1e-13)
    assert {str(step): bytes_kept(run, step) for step in run.steps} == then["checksums"]
    assert run.task.train_mask is not None
    assert run.task.train_mask.int().tolist() == then["train_mask"]


@pytest.mark.parametrize("name", RUNS)
def test_the_logits_of_an_old_checkpoint_are_as_they_were(name):
    then, run = said_then(name)["logits"], Run.open(DATA / name)
    if isinstance(run.config.task, RegressionConfig):
        logits = run.forward.logits(run.weights(then["step"]), run.task.tokens).detach()
    else:
        logits = run.snapshot(then["step"]).logits
    np.testing.assert_allclose(logits[:6].double().numpy(), np.array(then["rows"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_is_analyzed_and_reported(name, copy, tmp_path):
    run = Run.open(copy(name))
    if isinstance(run.config.task, RegressionConfig):
        with pytest.raises(ConfigError, match="regression"):
            analyze(run, workers=0)
        return
    analysis = analyze(run, workers=0)
    assert list(analysis.timeline.index) == run.steps
    # The metrics of that time equal today's measures.
    logged = run.metrics.loc[analysis.timeline.index]
    np.testing.assert_allclose(analysis.timeline["train_accuracy"], logged["train_accuracy"], atol=1e-12)
    if name in REPORTED:
        assert write_report(analysis, tmp_path / "report.html").stat().st_size > 1_000_000


@pytest.mark.parametrize("name", ["performance/analyzed", "recipes/analyzed", "trust/analyzed", "checksums/analyzed"])
def test_an_old_analysis_gives_the_numbers_of_then(name, copy):
    then = as_then(said_then(name)["timeline"])
    now = analyze(copy(name), workers=0).timeline
    missing = set(then.columns) - set(now.columns)
    assert not missing
    pd.testing.assert_frame_equal(now[list(then.columns)], then, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STOPPED)
def test_an_old_stopped_run_finishes_as_if_it_had_not_stopped(name, copy):
    run = Run.open(copy(name))
    mask = torch.empty(16).bernoulli_(0.8, generator=torch.Generator().manual_seed(3))
    if getattr(run.config.model, "dropout", 0) and mask.sum() != 15:
        pytest.skip(f"torch {torch.__version__} draws other dropout masks than that which began this run")
    then = said_then(name)["when finished"]
    assert run.status["status"] != "finished"
    finished = train(run.config, run.path, resume=True, progress=False)
    assert finished.status["status"] == "finished"
    pd.testing.assert_frame_equal(finished.metrics, as_then(then["metrics"]), check_like=True, rtol=1e-4, atol=1e-6)
    assert set(map(str, finished.steps)) == set(then["checksums"])
    assert list(run.path.rglob(".*.tmp")) == []


def test_an_old_run_starts_another(copy, tmp_path):
    run = Run.open(DATA / "trainer/transformer")
    train(run.config, tmp_path / "new", start_from=f"{run.path}@30", progress=False)
    began = Run.open(tmp_path / "new").weights(0)
    assert all(torch.equal(weight, began[name]) for name, weight in run.weights(30).items())


@pytest.mark.parametrize("name", SWEEPS)
def test_an_old_sweep_has_its_table_and_continues(name, copy, tmp_path):
    then = said_then(name)
    found = Sweep.open(copy(name))
    kept = [Run.open(found.path / point.name) for point in found.points if (found.path / point.name).exists()]
    assert len(kept) == 2
    assert all(stored_summary(run) is not None for run in kept)
    assert list(found.axes) == then["axes"]
    table = pd.read_parquet(found.path / "sweep.parquet")
    # The table checks invalid configurations again, and today's message differs in one word.
    old_message, new_message = "change one, or give d_head", "change one, or set d_head"
    today = [
        {**row, "failure": row["failure"] and row["failure"].replace(old_message, new_message)} for row in then["table"]
    ]
    for rows, expected in ((table, then["table"]), (found.table, today)):
        now = json.loads(rows.to_json(orient="records"))
        assert [row["run"] for row in now] == [row["run"] for row in expected]
        for old, new in zip(expected, now, strict=True):
            assert {field: new[field] for field in old} == old
    again = train_sweep(found.path, workers=1)  # nothing is left to do: the other runs cannot be trained
    assert sorted(again.failures) == ["weight_decay=0,n_heads=3", "weight_decay=1,n_heads=3"]
    assert write_sweep_report(again.table, again.axes, again.name, tmp_path / "report.html").is_file()


@pytest.mark.parametrize("name", RESULTS)
def test_old_results_of_a_reproduction_are_read(name, tmp_path):
    found = results_in(DATA / name)
    assert found is not None
    assert (found.recipe, found.quick, found.lost) == ("ridge", True, 0)
    stored = json.loads((DATA / name / "results.json").read_text())
    added = {"number": None, "fewest": None}
    assert [{**added, **claim} for claim in stored["claims"]] == [asdict(claim) for claim in found.claims]
    shutil.copytree(DATA / name, tmp_path / "results" / "ridge-quick")
    page = write_markdown(tmp_path / "results", tmp_path / "page.md").read_text()
    assert all(claim["measured"].replace("|", "\\|") in page for claim in stored["claims"])


class TestTheFuture:
    """Files of a later version are refused, or left alone if they can be computed again, and never misread."""

    @staticmethod
    def rewrite(file: Path, **fields: Any) -> Path:
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))
        return file

    @pytest.mark.parametrize("version", [2, 0, "1", None, [1], {"v": 1}])
    def test_a_run(self, version, copy):
        folder = copy("recipes/norms")
        file = self.rewrite(folder / "config.json", format_version=version, from_the_future=1)
        with pytest.raises(ConfigError, match=r"config\.json has format version .* reads version 1: ") as raised:
            Run.open(folder)
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_sweep(self, copy):
        folder = copy("recipes/sweep")
        file = folder / "sweep.json"
        file.write_text(json.dumps({"format_version": 2, "grid": "of another form"}))
        with pytest.raises(RunError, match=r"sweep\.json has format version 2, .* reads version 1: install"):
            Sweep.open(folder)

    def test_a_sweep_of_future_runs(self, copy):
        folder = copy("recipes/sweep")
        base = json.loads((folder / "sweep.json").read_text())["base"] | {"format_version": 2}
        self.rewrite(folder / "sweep.json", base=base)
        with pytest.raises(ConfigError, match=r"sweep\.json has format version 2"):
            Sweep.open(folder)

    def test_a_summary_is_computed_again(self, copy):
        run = Run.open(copy("recipes/sweep") / "weight_decay=0,n_heads=2")
        assert stored_summary(run) is not None
        self.rewrite(run.path / "analysis" / "summary.json", version=3)
        assert stored_summary(run) is None

    def test_an_analysis_is_computed_again(self, copy):
        folder = copy("recipes/analyzed")
        now = analyze(folder, workers=0).timeline
        file = folder / "analysis" / "analysis.json"
        written = json.loads(file.read_text())
        assert written["format_version"] == 1
        self.rewrite(file, format_version=2, measures={"of another form": []})
        pd.testing.assert_frame_equal(analyze(folder, workers=0).timeline, now)
        assert json.loads(file.read_text())["format_version"] == 1

    def test_the_results_of_a_reproduction(self, tmp_path):
        shutil.copytree(DATA / "recipes/reproduction", tmp_path / "results")
        self.rewrite(tmp_path / "results" / "results.json", format_version=3, claims="of another form")
        with pytest.raises(RunError, match=r"results\.json has format version 3, .* reads version 2: install"):
            results_in(tmp_path / "results")
