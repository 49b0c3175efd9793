"""Recipes: declaration, training as resumable sweeps, claims, comparisons, written results."""

import json
import shutil
from dataclasses import replace
from types import MappingProxyType

import pandas as pd
import pytest
from trainings import TINY

import grokinterp as gi
from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.experiments import Arm, Claim, Evidence, Form, Outcome, Published, Recipe, catalog, reproduce, training
from grokinterp.experiments import reproduction as reproducing
from grokinterp.experiments.contradictions import CONTRADICTIONS, contradictions_of
from grokinterp.experiments.evidence import Entry
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.training import configurations
from grokinterp.sweep import Sweep
from grokinterp.sweep.running import Progress as SweepProgress


def count_runs(evidence: Evidence) -> tuple[Claim, ...]:
    table = evidence.table("decays", {"optimizer.weight_decay": 1.0})
    return (Claim("runs", "There are runs.", "2", str(len(table)), len(table), "2", "supported", number=1),)


TOY = Recipe(
    name="toy-decay",
    title="A toy",
    source="Nobody 2026",
    full=Form((Arm("decays", TINY, {"optimizer.weight_decay": (0.0, 1.0), "model_seed": range(2)}),), "a second"),
    quick=Form((Arm("decays", TINY, {"model_seed": range(1)}),), "less", "one run"),
    decide=count_runs,
    published=(
        Published("step, λ = 1", "60", "decays", {"optimizer.weight_decay": 1.0}, "step"),
        Published("step, λ = 3", "60", "decays", {"optimizer.weight_decay": 3.0}, "step"),
        Published("T_grok(0.95), λ = 0", "none", "decays", {"optimizer.weight_decay": 0.0}, "T_grok_0.95"),
        Published("outcomes", "2 DNF_test", "decays", {"optimizer.weight_decay": 0.0}, "outcome"),
        Published("elsewhere", "1", "another arm", {}, "step"),
    ),
)


@pytest.fixture
def evidence(trained):
    """The evidence of the trained runs from their records, with their folders."""
    records = Records(trained[0].folder.parent / "records")
    folder = trained[0].folder / "runs" / "decays"
    runs = configurations(TOY.full.arms[0]).items()
    entries = [Entry(name, config, records.find(config), folder=folder / name) for name, config in runs]
    return Evidence("toy-decay", {"decays": entries}, quick=False)


@pytest.fixture
def shelf(monkeypatch):
    monkeypatch.setattr(reproducing, "catalog", lambda: MappingProxyType({"toy-decay": TOY}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproducing, "catalog", lambda: MappingProxyType({"toy-decay": TOY}))
        calls = []
        folder = tmp_path_factory.mktemp("results") / "toy"
        kept = folder.parent / "records"
        done = reproduce("toy-decay", folder, progress=lambda *call: calls.append(call), records=kept)
    return done, calls


def test_a_recipe_trains_its_arms_as_sweeps(trained):
    done, calls = trained
    assert sorted(path.name for path in done.folder.iterdir()) == [
        *("decays.parquet", "report.html", "results.json", "runs")
    ]
    table = Sweep.open(done.folder / "runs" / "decays").table
    columns = [*table, *(name for name in done.outcome.tables["decays"] if name not in table)]
    pd.testing.assert_frame_equal(table, done.outcome.tables["decays"][columns], rtol=1e-5)
    assert list(table["optimizer.weight_decay"]) == [0, 0, 1, 1]
    assert calls[-1] == (400, 400)
    assert done.claims[0].measured == "2"
    seconds = sum(run.status["timing"]["seconds"] for run in Sweep.open(done.folder / "runs" / "decays").runs)
    assert done.outcome.seconds == pytest.approx(seconds, rel=0.1)


def test_published_numbers_stand_beside_medians_and_ranges(trained):
    done, _ = trained
    rows = {row.quantity: (row.printed, row.measured, row.n, row.comparable) for row in done.outcome.comparisons}
    outcomes = rows.pop("outcomes")
    assert rows == {
        "step, λ = 1": ("60", "60 (60 to 60)", 2, True),
        "T_grok(0.95), λ = 0": ("none", "none of 2", 2, True),
    }
    assert outcomes[1] in ("2 DNF_train", "2 DNF_test", "1 DNF_test, 1 DNF_train")
    assert reproducing._median_and_range(pd.Series([1.0, None, 40_000.0, 2.5])) == "2.5 (1 to 40,000), 3 of 4"


def test_results_json_holds_settings_and_claims(trained):
    done, _ = trained
    results = json.loads((done.folder / "results.json").read_text())
    assert (results["recipe"], results["quick"], results["source"]) == ("toy-decay", False, "Nobody 2026")
    assert results["claims"][0]["number"] == 1
    assert results["machine"]["cores"] >= 1
    assert results["machine"]["torch"].startswith("2.")
    assert results["settings"]["decays"].startswith("4 runs of ")
    page = done.report.read_text()
    assert "Published and measured" in page
    assert page.count('class="plot"') == 1


def test_finished_runs_are_left_alone(trained, shelf):
    done, _ = trained
    weights = done.folder / "runs" / "decays" / "weight_decay=0,model_seed=0" / "weights" / "step_000060.safetensors"
    before = weights.stat().st_mtime_ns
    again = reproduce("toy-decay", done.folder, records=done.folder.parent / "others")
    assert weights.stat().st_mtime_ns == before
    assert again.claims == done.claims


def test_a_folder_keeps_to_one_form_of_one_recipe(trained, shelf):
    done, _ = trained
    with pytest.raises(ConfigError, match="holds the full form of toy-decay, not the quick form of toy-decay"):
        reproduce("toy-decay", done.folder, quick=True)


@pytest.mark.slow
def test_an_interrupted_recipe_resumes(tmp_path, shelf, monkeypatch):
    real = training.train_sweep

    def interrupted(path, base, *, watch, **more):
        swept = real(path, base, watch=watch, **more)
        watch(SweepProgress(4, done=1, interrupted=True))
        return swept

    monkeypatch.setattr(training, "train_sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce("toy-decay", tmp_path, records=tmp_path / "records")
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setattr(training, "train_sweep", real)
    assert reproduce("toy-decay", tmp_path, records=tmp_path / "records").claims[0].verdict == "supported"


@pytest.mark.slow
def test_failed_runs_are_reported(tmp_path, monkeypatch):
    arm = Arm("fractions", TINY, {"task.train_fraction": (0.6, 0.001)})
    recipe = replace(TOY, full=Form((arm,), "a second"), decide=lambda _: (), published=())
    monkeypatch.setattr(reproducing, "catalog", lambda: {"toy-decay": recipe})
    (warning,) = reproduce("toy-decay", tmp_path, records=tmp_path / "records").outcome.warnings
    assert warning.startswith("run fractions/train_fraction=0.001 invalid: ")


def test_failed_and_missing_runs_are_no_evidence_but_diverged_ones_are(evidence):
    first, second, *others = evidence.entries["decays"]
    failed = replace(first, record=None, failure="killed: its process was killed by SIGKILL")
    diverged = replace(others[0], record=replace(others[0].record, status="diverged", outcome="diverged"))
    rest = (failed, replace(second, record=None), diverged, *others[1:])
    changed = Evidence("toy-decay", {"decays": rest}, quick=False)
    assert len(changed.table("decays")) == 2
    assert list(changed.tables["decays"]["status"]) == ["failed", "missing", "diverged", "finished"]
    assert changed.lost == ("run decays/weight_decay=0,model_seed=0 killed: its process was killed by SIGKILL",)
    assert changed.missing == 1
    assert changed.partial
    assert not evidence.partial
    assert len(changed.diverged) == 1
    assert changed.arms == ("decays",)
    assert Evidence("toy-decay", {"decays": rest[:2]}, quick=False).arms == ()


def test_a_form_that_needs_a_gpu_is_refused_without_one(trained, tmp_path, monkeypatch):
    recipe = replace(TOY, full=replace(TOY.full, cost="60 hours", gpu=True))
    monkeypatch.setattr(reproducing, "catalog", lambda: {"toy-decay": recipe})
    monkeypatch.setattr(reproducing, "choose_device", lambda _: "cpu")
    with pytest.raises(
        ConfigError, match=r"toy-decay needs a GPU \(60 hours\), and this machine has none: use --quick"
    ):
        reproduce("toy-decay", tmp_path / "new", records=tmp_path / "records")
    trained_folder = shutil.copytree(trained[0].folder, tmp_path / "trained")
    assert reproduce("toy-decay", trained_folder, anyway=True, records=tmp_path / "records").claims
    # Nothing is left to train.
    assert reproduce("toy-decay", tmp_path / "again", records=tmp_path / "records").claims


def test_evidence_is_selected_by_arm_and_value(evidence):
    runs = evidence.runs("decays", {"optimizer.weight_decay": 1})
    assert [run.config.model_seed for run in runs] == [0, 1]
    assert [list(metrics.index) for metrics in evidence.metrics("decays", {"model_seed": 1})] == [
        list(range(0, 61, 10))
    ] * 2
    assert len(evidence.table("decays", {"task.operation": "add", "model_seed": 0})) == 2
    with pytest.raises(ConfigError, match="no arm 'decay': did you mean 'decays'"):
        evidence.table("decay")
    with pytest.raises(ConfigError, match=r"has no column 'optimizer\.wd'"):
        evidence.table("decays", {"optimizer.wd": 1})


@pytest.mark.parametrize("name", [name for name, recipe in catalog().items() if recipe.decide is not None])
def test_a_recipe_decides_nothing_without_runs(name):
    recipe = catalog()[name]
    arms = {arm.name: [Entry(run, config) for run, config in configurations(arm).items()] for arm in recipe.full.arms}
    evidence = Evidence(name, arms, quick=False)
    assert not evidence.arms
    assert not evidence.partial
    assert {claim.verdict for claim in recipe.decide(evidence)} <= {"inconclusive"}


def test_every_recipe_is_well_declared():
    assert gi.experiments.catalog is catalog
    for name, recipe in catalog().items():
        assert recipe.name == name
        assert (recipe.run is None) == (recipe.decide is not None)
        for form in (recipe.full, recipe.quick):
            assert form.cost
            names = [arm.name for arm in form.arms]
            assert len(set(names)) == len(names)
            assert bool(names) == (recipe.run is None)
            for arm in form.arms:
                points = arm.expanded()
                assert len({point.name for point in points}) == len(points)
                for point in points:
                    point.config(arm.base)  # raises if the values do not fit
        arms = {arm.name: arm for arm in recipe.full.arms}
        for number in recipe.published:
            configs = [point.config(arms[number.arm].base) for point in arms[number.arm].expanded()]
            assert any(_has(config, number.where) for config in configs), number


def _has(config: RunConfig, where) -> bool:
    from grokinterp.config.run import flat_config

    flat = flat_config(config)
    return all(flat[name] == value for name, value in where.items())


def test_an_unknown_recipe_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no recipe 'rigde': did you mean 'ridge'"):
        reproduce("rigde", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_should_hold_but_does_not_is_a_failure(tmp_path, monkeypatch):
    claims = (
        Claim("a", "A <b>.", "1", "2", 3, "=", "not supported"),
        Claim("b", "B.", "1", "2", 3, "=", "not supported", should_hold=False),
        Claim("c", "C.", "1", "-", 0, "=", "inconclusive"),
        Claim("d", "D.", "1", "1", 3, "=", "supported"),
    )
    recipe = replace(TOY, decide=None, run=lambda *_: Outcome(claims, {}, {}, {"x": 1}))
    monkeypatch.setattr(reproducing, "catalog", lambda: {"toy-decay": recipe})
    done = reproduce("toy-decay", tmp_path / "new" / "folder", records=tmp_path / "records")
    assert [claim.name for claim in done.failed] == ["a"]
    page = done.report.read_text()
    assert "<li><b>a</b>: A &lt;b&gt;. This should hold at this scale, but does not.</li>" in page
    assert "4 claims: 1 supported, 2 not supported, 1 inconclusive" in page
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(RunError, match="cannot create the folder"):
        reproduce("toy-decay", blocked, records=tmp_path / "records")


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "results.json").write_text('{"recipe": "ridge"}')
    with pytest.raises(RunError, match=r"results\.json is damaged .*: remove it"):
        reproduce("ridge", tmp_path)


def test_contradictions_belong_to_recipes():
    assert all(any(recipe.startswith(entry.recipes) for recipe in catalog()) for entry in CONTRADICTIONS)
    assert {entry.topic for entry in contradictions_of("ridge")} >= {"over-parameterization in ridge regression"}
    assert contradictions_of("nothing") == ()
