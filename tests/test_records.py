"""Records: what they keep of a run, which configurations they serve, and how damaged ones are refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokinterp.config.presets import preset
from grokinterp.errors import RunError
from grokinterp.experiments import catalog
from grokinterp.experiments.records.folder import Records, has_bf16_products, is_same_run, serves
from grokinterp.experiments.records.record import MAX_RECORD_BYTES, Record
from grokinterp.experiments.records.recording import record_run
from grokinterp.experiments.records.thinning import digests, exact_steps, thinned_steps
from grokinterp.runs.checksums import with_checksum
from grokinterp.runs.run import Run
from grokinterp.sweep.rows import config_columns, summarize

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "reproductions" / "records"
RUN42 = ROOT / "checkpoints" / "run42"
RUN42_CONFIG = Run.open(RUN42).config


@pytest.fixture(scope="module")
def run():
    return Run.open(RUN42)


@pytest.fixture(scope="module")
def record(run):
    return record_run(run, "demo", "run42", {"demo": {"keys": 3}})


class TestContent:
    def test_the_row_is_that_of_the_complete_metrics(self, run, record):
        row, expected = record.row(run.config), summarize(run) | config_columns(run.config)
        assert set(row) == set(expected)
        for name, value in expected.items():
            if isinstance(value, float):
                rounded = 0.0 if name.startswith("T_") else 1e-5 if name.startswith("final.") else 1e-12
                assert row[name] == pytest.approx(value, rel=rounded), name
            else:
                assert row[name] == value, name

    def test_rows_around_events_are_exact_and_the_others_rounded_to_five_digits(self, run, record):
        metrics = run.metrics
        exact = exact_steps(metrics)
        assert set(exact) <= set(record.metrics.index)
        columns = [name for name in metrics if name != "weight_rms"]
        pd.testing.assert_frame_equal(record.metrics.loc[exact, columns], metrics.loc[exact, columns], check_exact=True)
        steps = list(record.metrics.index)
        pd.testing.assert_frame_equal(record.metrics, metrics.loc[steps, list(record.metrics)], rtol=1e-4)

    def test_it_is_small_plain_json_without_command_or_path(self, record, tmp_path):
        file = Records(tmp_path).add(record)
        assert file == tmp_path / "demo" / "run42.json"
        assert file.stat().st_size <= MAX_RECORD_BYTES
        content = json.loads(file.read_text())
        assert "command" not in content["environment"]
        assert not absolute_paths(content)
        again = Record.read(file)
        assert again == replace(record, metrics=again.metrics)
        pd.testing.assert_frame_equal(again.metrics, record.metrics, check_exact=True)

    def test_norms_and_keys(self, run, record):
        assert record.norms.step == min(run.steps, key=lambda step: abs(step - 2490))
        squares = {}
        for name, weight in run.weights(record.norms.step).items():
            part = ".".join(name.split(".")[: 3 if name.startswith("blocks") else 1])
            squares[part] = squares.get(part, 0.0) + float(weight.double().square().sum())
        assert dict(record.norms.groups) == pytest.approx({part: math.sqrt(x) for part, x in squares.items()}, rel=1e-5)
        assert record.key_frequencies.values == (8, 14, 21)
        assert record.extracted == {"demo": {"keys": 3}}

    def test_an_unfinished_run_leaves_none(self, run, monkeypatch):
        monkeypatch.setattr(Run, "status", {"status": "running", "step": 5})
        with pytest.raises(RunError, match="has not ended"):
            record_run(run, "demo", "run42")

    def test_a_run_without_weights_by_group_or_classes(self, tmp_path):
        """A regression has no snapshot; its norms come from the weights themselves."""
        from grokinterp.training import train

        config = preset("teacher-student").replace({"schedule.steps": 20, "schedule.evaluate_every": 10})
        found = record_run(train(config, tmp_path / "run", progress=False), "toy", "run")
        assert set(found.norms.groups) == {"layers.0", "layers.1", "unembed"}
        assert found.key_frequencies is None


class TestThinning:
    def test_events_are_never_thinned_away(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            accuracy = np.clip(np.sort(rng.normal(0.5, 0.6, 3000)), 0, 1)
            table = pd.DataFrame(
                {"train_accuracy": accuracy, "test_loss": rng.random(3000)}, index=range(0, 30_000, 10)
            )
            steps = thinned_steps(table.index.to_numpy(), exact_steps(table), 50)
            assert len(steps) <= 72
            for theta in (0.95, 0.99):
                hits = table.index[table["train_accuracy"] >= theta]
                if len(hits):
                    assert hits[0] in steps
                    assert hits[0] - 10 in steps or hits[0] == 0
            assert table["test_loss"].idxmax() in steps

    def test_digests_tell_where_metrics_part(self):
        table = pd.DataFrame({"a": np.arange(10.0), "b": 1.0}, index=range(10))
        changed = table.copy()
        changed.loc[5, "b"] = np.nextafter(1.0, 2.0)
        ours, theirs = (list(digests(each, range(10))) for each in (table, changed))
        assert ours[:5] == theirs[:5]
        assert all(a != b for a, b in zip(ours[5:], theirs[5:], strict=True))


class TestServing:
    @pytest.mark.parametrize(
        ("changes", "served"),
        [
            ({}, True),
            ({"schedule.stop_factor": 1.2}, True),  # the run went on for longer
            ({"schedule.stop_factor": 2.5}, False),
            ({"schedule.stop_when_grokked": False}, False),
            ({"schedule.steps": 4240, "schedule.stop_when_grokked": False}, True),
            ({"schedule.steps": 4000, "schedule.stop_when_grokked": False}, False),  # its last step need not be kept
            ({"schedule.evaluate_every": 50}, True),
            ({"schedule.evaluate_every": 5}, False),
            ({"schedule.checkpoints": 7}, True),
            ({"model_seed": 1}, False),
            ({"task.data_seed": 1}, False),
            ({"optimizer.weight_decay": 0.9}, False),
            ({"loss_dtype": "float64"}, False),
        ],
    )
    def test_a_record_serves_the_same_run_if_it_covers_it(self, record, changes, served):
        config = record.config.replace(changes)
        assert serves(record, config) is served
        seeds = not any(not name.startswith("schedule") for name in changes)
        assert is_same_run(record.config, config) is seeds

    def test_a_diverged_run_serves_arms_that_would_have_come_to_its_end(self, record):
        diverged = replace(record, status="diverged")
        assert serves(diverged, record.config.replace({"schedule.stop_factor": 2.5}))
        assert not serves(diverged, record.config.replace({"schedule.stop_factor": 1.2}))

    def test_a_dead_run_serves_arms_with_that_rule(self, record):
        dead = replace(record, reason="dead: from step 10 to 4240, ...")
        rule = {"schedule.stop_when_grokked": False, "schedule.stop_when_dead": True}
        assert serves(dead, record.config.replace(rule))
        assert not serves(record, record.config.replace(rule))
        assert not serves(dead, record.config.replace({"schedule.stop_when_grokked": False}))

    def test_another_memorization_budget_changes_the_outcome(self, record):
        config = record.config.replace({"schedule.memorization_budget": 50})
        assert record.row(config)["outcome"] == "DNF_train"
        assert record.row(record.config)["outcome"] == "grokked"

    def test_what_one_recipe_trained_counts_in_another(self, record, tmp_path):
        records = Records(tmp_path)
        records.add(record)
        found = Records(tmp_path)
        assert found.find(record.config) is not None
        assert found.find(record.config, "demo") is not None
        assert found.find(record.config, "another") is None  # nothing was extracted for it
        assert found.find(record.config.replace({"model_seed": 5})) is None
        assert [each.name for each in found] == ["run42"]

    def test_float32_is_preferred(self, record, tmp_path):
        records = Records(tmp_path)
        content = {**record.content, "name": "bf16", "environment": {**record.environment, "products": "bf16"}}
        (tmp_path / "demo").mkdir()
        (tmp_path / "demo" / "bf16.json").write_text(json.dumps(with_checksum(content)))
        assert has_bf16_products(records.find(record.config))
        records.add(record)
        assert not has_bf16_products(records.find(record.config))


class TestDamage:
    @staticmethod
    def refused(tmp_path, content, match):
        file = tmp_path / "demo" / "run42.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(with_checksum(content)))
        with pytest.raises(RunError, match=match) as raised:
            list(records := Records(tmp_path))
        with pytest.raises(RunError, match=match):  # what was read before the error does not stay
            records.find(RUN42_CONFIG)
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_changed_byte(self, record, tmp_path):
        self.refused(tmp_path, record.to_json().replace('"train_loss":[4', '"train_loss":[5'), "checksum")
        self.refused(tmp_path, record.to_json()[:-400], "is damaged")

    @pytest.mark.parametrize(
        ("path", "value", "match"),
        [
            (("format_version",), 2, "format version 2, and this grokinterp reads version 1"),
            (("kind",), "weights", "kind"),
            (("status",), "running", "status"),
            (("outcome",), "DNF_test", "its outcome is DNF_test, but grokked in its metrics"),
            (("times", "T_grok_0.99"), 2480, "its T_grok_0.99 is 2480, but 2490 in its metrics"),
            (("step",), 10, "it ends at step 10, its metrics at 4240"),
            (("step",), "4240", "step"),
            (("config", "task", "p"), -1, "p"),
            (("config", "optimizer", "name"), "sgdd", "optimizer"),
            (("metrics", "train_loss"), [1.0], "its metrics are not a table"),
            (("metrics", "step"), [], "its metrics are not a table"),
            (("metrics", "train_loss"), "all", "train_loss"),
            (("digests",), ["0"], "its metrics are not a table"),
            (("norms",), {"step": 1}, "norms"),
            (("step",), 10**9, "it ends at step 1000000000, its metrics at 4240"),
            (("parameters",), -1, "parameters"),
            (("parameters",), 10**400, "parameters"),
            (("seconds",), float("inf"), "seconds"),
            (("metrics", "train_loss", 3), float("nan"), "train_loss"),
            (("metrics", "step", 1), float("inf"), "step"),
            (("final", "test_accuracy"), 0.0, "its measures repeat a column"),
            (("environment", "packages"), [1], "names no versions"),
            (("extracted",), [1], "extracted"),
            (("name",), "", "name"),
            (("name",), "other", "is the record of demo/other"),
        ],
    )
    def test_what_contradicts_itself(self, record, tmp_path, path, value, match):
        content = json.loads(json.dumps(record.content))
        inner = content
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        self.refused(tmp_path, content, match)

    def test_a_missing_checksum(self, record, tmp_path):
        self.refused(tmp_path, json.dumps(record.content), "it has no checksum")

    def test_other_content(self, tmp_path):
        self.refused(tmp_path, "", "is damaged")
        self.refused(tmp_path, "[1, 2]", "is damaged")
        self.refused(tmp_path, "[" * 100_000, "is damaged|larger")
        self.refused(tmp_path, json.dumps({"format_version": 1, "x": "y" * 50_000}), "bytes")

    def test_a_hostile_name_stays_in_the_folder(self, record):
        content = {**record.content, "name": "../../outside"}
        with pytest.raises(RunError, match="name"):
            Record.from_content(content, "hostile")


class TestKeptRecords:
    """The records in the repository."""

    def test_they_are_small_plain_and_without_paths(self):
        files = sorted(KEPT.glob("*/*.json"))
        assert sum(file.stat().st_size for file in files) <= 5_000_000
        for file in files:
            assert file.stat().st_size <= MAX_RECORD_BYTES, file
            content = json.loads(file.read_text(encoding="utf-8"))
            assert "command" not in content.get("environment", {}), file
            assert not absolute_paths(content), file

    def test_each_serves_an_arm_of_its_recipe(self):
        from grokinterp.experiments.training import configurations

        for record in Records(KEPT):
            arm_name, _, name = record.name.partition(",")
            arm = next(arm for arm in catalog()[record.recipe].full.arms if arm.name == arm_name)
            config = configurations(arm).get(name)
            assert config is None or serves(record, config), record.name


def absolute_paths(content) -> list[str]:
    """The texts in parsed JSON that contain an absolute path of some operating system."""
    if isinstance(content, dict):
        return [found for item in content.items() for part in item for found in absolute_paths(part)]
    if isinstance(content, list):
        return [found for item in content for found in absolute_paths(item)]
    pattern = r"(^|[\s=:,;'\"(])(/[\w.]|~/|[A-Za-z]:[\\/]|\\\\)"
    return [content] if isinstance(content, str) and re.search(pattern, content) else []


def test_absolute_paths_are_found():
    assert absolute_paths({"a": ["ran in /home/x", "a/b"], "/tmp/x": "C:\\x"}) == ["ran in /home/x", "/tmp/x", "C:\\x"]
    assert absolute_paths({"T_train": "1/λ", "unit": "steps/s"}) == []
