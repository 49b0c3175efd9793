"""The record of a recipe that trains no runs: inputs, results by setting, claims."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from test_records import absolute_paths

from grokinterp.errors import RunError
from grokinterp.experiments import Claim, Outcome, catalog, reproduce
from grokinterp.experiments.records.computation import (
    COMPUTATION,
    Computation,
    by_setting,
    compare_computations,
)
from grokinterp.experiments.records.folder import Records, default_folder
from grokinterp.experiments.records.record import MAX_RECORD_BYTES
from grokinterp.experiments.reproduction import results_of_records
from grokinterp.runs.checksums import with_checksum

TABLE = pd.DataFrame(
    {"m": [50, 50, 50, 100, 100, 100], "seed": [0, 1, 2] * 2, "delay": [1.0, 2.0, 6.0, 10.0, None, 30.0]}
)
CLAIM = Claim(
    "delay with m", "The delay grows with m.", "Figure 2", "2 at m = 50, 20 at m = 100", 6, "grows", "supported"
)


@pytest.fixture
def outcome():
    results = {"sweep": by_setting(TABLE, ["m"])}
    return Outcome((CLAIM,), {"sweep": TABLE}, {}, {"m": "50, 100", "seeds": 3}, results=results)


def test_results_are_median_and_range_by_setting():
    expected = {"m": [50, 100], "runs": [3, 3]}
    expected |= {"delay, median": [2.0, 20.0], "delay, min": [1.0, 10.0], "delay, max": [6.0, 30.0]}
    assert by_setting(TABLE, ["m"]).to_dict(orient="list") == expected


def test_it_is_read_as_it_was_written(outcome, tmp_path):
    records = Records(tmp_path)
    written = Computation.of("ridge", outcome)
    file = records.add_computation(written)
    assert file == tmp_path / "ridge" / COMPUTATION
    assert records.computation("ridge") == written
    assert records.computation("kumar-polynomial") is None
    assert list(records) == []  # it is of no run
    content = json.loads(file.read_text(encoding="utf-8"))
    assert absolute_paths(content) == []
    assert "command" not in content["environment"]


def test_the_page_shows_its_claims(outcome, tmp_path):
    records = Records(tmp_path)
    records.add_computation(Computation.of("ridge", outcome))
    results = results_of_records(catalog()["ridge"], records)
    assert results is not None
    assert (results.claims, results.settings, results.quick, results.partial) == (
        (CLAIM,),
        {"m": "50, 100", "seeds": 3},
        False,
        False,
    )
    assert results_of_records(catalog()["kumar-polynomial"], records) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"results": {"sweep": {"m": [50], "delay": []}}}, "the columns of sweep have different lengths"),
        ({"claims": [{"name": "delay"}]}, "claims.0"),
        ({"environment": {"packages": 3}}, "its environment names no versions of packages"),
        ({"inputs": {"m": {"deep": 1}}}, "inputs.m"),
        ({"kind": "run"}, "kind"),
        ({"recipe": "../ridge"}, "recipe"),
        ({"format_version": 9}, "format version 9"),
    ],
)
def test_damage_is_refused_by_name(outcome, tmp_path, changes, match):
    content = json.loads(Computation.of("ridge", outcome).to_json())
    del content["checksum"]
    file = tmp_path / "ridge" / COMPUTATION
    file.parent.mkdir()
    file.write_text(json.dumps(with_checksum({**content, **changes})), encoding="utf-8")
    with pytest.raises(RunError, match=match) as error:
        Records(tmp_path).computation("ridge")
    assert str(file) in str(error.value)


def test_a_changed_byte_and_another_recipe_are_refused(outcome, tmp_path):
    file = Records(tmp_path).add_computation(Computation.of("ridge", outcome))
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"supported"', '"not supported"'), encoding="utf-8")
    with pytest.raises(RunError, match="its checksum does not match"):
        Records(tmp_path).computation("ridge")
    other = tmp_path / "kumar-polynomial" / COMPUTATION
    other.parent.mkdir()
    other.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="it is of ridge"):
        Records(tmp_path).computation("kumar-polynomial")


def test_what_does_not_fit_is_not_written(outcome, tmp_path):
    many = tuple(replace(CLAIM, name=f"claim {i}") for i in range(200))
    with pytest.raises(RunError, match="larger than 15,000 bytes"):
        Records(tmp_path).add_computation(Computation.of("ridge", replace(outcome, claims=many)))
    assert not (tmp_path / "ridge" / COMPUTATION).exists()


class TestComparing:
    @pytest.fixture
    def recorded(self, outcome):
        return Computation.of("ridge", outcome)

    def changed(self, recorded, factor):
        table = {**recorded.results["sweep"], "delay, median": [2.0, 20.0 * factor]}
        return replace(recorded, results={"sweep": table})

    def test_equal(self, recorded):
        check = compare_computations(recorded, recorded)
        assert check.passed
        assert str(check) == "all results equal to 6 digits; the same verdicts"

    def test_a_deviation_is_allowed_only_on_another_machine_and_within_the_bound(self, recorded):
        other = replace(recorded, environment={**recorded.environment, "processor": "Abacus"})
        assert not compare_computations(recorded, self.changed(recorded, 1.005)).passed
        check = compare_computations(other, self.changed(recorded, 1.005))
        assert check.passed
        assert "sweep: delay, median" in str(check)
        assert not compare_computations(other, self.changed(recorded, 1.02)).passed

    def test_another_verdict_or_shape_never_passes(self, recorded):
        other = replace(recorded, environment={**recorded.environment, "processor": "Abacus"})
        for found in (
            replace(recorded, claims=(replace(CLAIM, verdict="inconclusive"),)),
            replace(recorded, claims=()),
            replace(recorded, results={}),
            replace(recorded, results={"sweep": {**recorded.results["sweep"], "delay, median": [2.0, None]}}),
        ):
            assert not compare_computations(other, found).passed


def test_the_full_form_leaves_a_record_and_the_quick_form_none(outcome, tmp_path, monkeypatch):
    recipe = replace(catalog()["ridge"], run=lambda quick, progress: outcome)
    monkeypatch.setattr("grokinterp.experiments.reproduction.catalog", lambda: {"ridge": recipe})
    reproduce("ridge", tmp_path / "quick", quick=True, records=tmp_path / "records")
    assert Records(tmp_path / "records").computation("ridge") is None
    reproduce("ridge", tmp_path / "full", records=tmp_path / "records")
    assert Records(tmp_path / "records").computation("ridge") == Computation.of("ridge", outcome)


def test_kept_computations_are_small_and_without_paths():
    files = list(default_folder().glob(f"*/{COMPUTATION}"))
    assert {file.parent.name for file in files} == {
        name for name, recipe in catalog().items() if recipe.run is not None
    }
    for file in files:
        assert absolute_paths(json.loads(file.read_text(encoding="utf-8"))) == []
        assert file.stat().st_size <= MAX_RECORD_BYTES
        assert Records(default_folder()).computation(file.parent.name) is not None
