"""analyze: its numbers are those of the measures, at the selected steps, with the reference and in the summary."""

import json
import math
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from analyses import MLP, STEPS, TRANSFORMER, record_dying_key

import grokinterp.measures as gm
from grokinterp.analysis.timeline import analyze, select_steps
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.run import Run
from grokinterp.training import train


@pytest.fixture(scope="session")
def analyzed(trained) -> Any:
    return analyze(trained, frequencies=(1, 3))


@pytest.fixture(scope="session")
def dying_key(tmp_path_factory) -> Run:
    return record_dying_key(tmp_path_factory.mktemp("timeline") / "dying")


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
    def test_columns_are_the_measures_at_each_checkpoint(self, analyzed):
        snapshots = [analyzed.run.snapshot(step) for step in STEPS]
        expected = np.array([[function(snapshot) for function in DIRECT.values()] for snapshot in snapshots])
        columns = analyzed.timeline.loc[STEPS, list(DIRECT)].to_numpy()
        assert columns == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)

    def test_arrays_over_frequencies_are_the_measures_at_each_checkpoint(self, analyzed):
        expected = pd.concat(
            {
                step: pd.DataFrame(
                    {name: function(snapshot).double().numpy() for name, function in DIRECT_ARRAYS.items()},
                    index=[1, 2, 3],
                )
                for step, snapshot in ((step, analyzed.run.snapshot(step)) for step in STEPS)
            },
            names=["step", "k"],
        )
        pd.testing.assert_frame_equal(analyzed.frequencies[list(DIRECT_ARRAYS)], expected, check_exact=True)

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

    def test_several_reasons_have_their_steps(self, analyzed):
        other = replace(analyzed, reasons={"loss": {"too early": STEPS[:1], "too late": STEPS[-1:]}})
        assert other.why_missing("loss", STEPS[-1]) == "too late"
        first, last = f"(steps {STEPS[0]} to {STEPS[0]})", f"(steps {STEPS[-1]} to {STEPS[-1]})"
        assert other.why_missing("loss") == f"too early {first}; too late {last}"
        with pytest.raises(ConfigError, match=rf"^step 12345 was not analyzed: the nearest one is {STEPS[-1]}$"):
            other.why_missing("loss", 12345)

    def test_a_column_that_does_not_exist_is_refused(self, analyzed):
        for read in (analyzed.curves, analyzed.why_missing):
            with pytest.raises(
                ConfigError, match=r"^there is no column 'test_acuracy': did you mean 'test_accuracy'\?"
            ):
                read("test_acuracy")
        known = {*analyzed.timeline, *analyzed.frequencies, *analyzed.metrics, "restricted_loss_union"}
        assert all(isinstance(analyzed.why_missing(name), str) for name in known)

    def test_every_column_is_defined(self, analyzed):
        for column in [*DIRECT, *DIRECT_ARRAYS]:
            assert analyzed.definitions[column.split(".")[0]]

    @pytest.mark.parametrize("name", ["excluded_loss", "restricted_loss"])
    def test_a_number_is_not_defined_as_the_array_of_its_name(self, name, analyzed):
        assert analyzed.definitions[name] == gm.find_measure(name).columns[0].definition

    def test_a_path_will_do_for_a_run(self, run):
        assert analyze(str(run.path), measures=["loss"]).run.path == run.path

    def test_an_mlp(self, tmp_path):
        analysis = analyze(train(MLP, tmp_path / "mlp"), frequencies=[2])
        snapshot = analysis.run.snapshot(40)
        assert analysis.timeline["restricted_loss"][40] == gm.restricted_loss(snapshot, 2)
        assert analysis.timeline["gini_embedding"][40] == gm.gini_embedding(snapshot)
        assert analysis.timeline["group_norm.layers.0"][40] == gm.group_norms(snapshot)["layers.0"]

    def test_curves_are_on_the_finest_grid(self, tmp_path):
        schedule = replace(TRANSFORMER.schedule, evaluate_every=5)
        analysis = analyze(train(replace(MLP, schedule=schedule), tmp_path / "run"), measures=["margin"])
        assert analysis.curves("test_loss").index.tolist() == list(range(0, 41, 5))
        assert analysis.curves("margin").index.tolist() == STEPS
        assert analysis.name == "run"

    def test_progress_is_told(self, run):
        told = []
        analyze(run, measures=["loss"], progress=lambda done, of: told.append((done, of)))
        assert told == [(i, 5) for i in range(6)]


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
        analysis = analyze(run, steps="10:30:20")
        assert analysis.timeline.index.tolist() == [10, 30]
        assert analysis.frequencies.index.unique("step").tolist() == [10, 30]
        assert analysis.summary()["steps"] == {"first": 10, "last": 30, "count": 2}
        assert analysis.reference.frequencies.step == 40

    def test_a_run_that_kept_nothing(self, run):
        shutil.rmtree(run.path / "weights")
        with pytest.raises(RunError, match="has no checkpoint yet: there is nothing to analyze"):
            analyze(run)


class TestReference:
    def test_it_is_of_the_last_checkpoint_by_the_rule(self, run):
        analysis = analyze(run, rule="embedding_norm").reference
        assert analysis.frequencies == gm.key_frequencies(run.snapshot(40), "embedding_norm")
        assert set(analysis.by_rule) == set(gm.RULES)
        assert analysis.by_rule["unembedding_power"] == gm.key_frequencies(run.snapshot(40), "unembedding_power").values

    def test_it_is_of_another_checkpoint_if_asked(self, run):
        analysis = analyze(run, rule="embedding_norm", reference_step=10, measures=["restricted_loss"])
        assert analysis.reference.frequencies == gm.key_frequencies(run.snapshot(10), "embedding_norm")
        expected = gm.restricted_loss(run.snapshot(30), analysis.reference.frequencies)
        assert analysis.timeline["restricted_loss"][30] == expected

    def test_it_is_what_was_given(self, run):
        analysis = analyze(run, frequencies=[3, 1])
        assert analysis.reference.frequencies.values == (1, 3)
        assert analysis.reference.frequencies.rule == "given"

    @pytest.mark.parametrize(
        ("options", "kind", "message"),
        [
            ({"frequencies": [4]}, ConfigError, r"frequencies of Z_7 lie in 1 .. 3; given: \[4\]"),
            ({"frequencies": [0]}, ConfigError, r"given: \[0\]"),
            ({"reference_step": 15}, RunError, "no checkpoint at the reference step 15; available: 0 to 40"),
            ({"measures": ["restricted_los"]}, ConfigError, "did you mean 'restricted_loss'"),
            ({"measures": ["grokinterp.nothing:x"]}, ConfigError, "cannot be imported"),
            ({"measures": ["json:nothing"]}, ConfigError, "give package.module:function"),
            ({"measures": "loss"}, ConfigError, r"^measures must be a list of measures, but is 'loss'"),
            ({"frequencies": [1.5]}, ConfigError, r"^each of the frequencies must be an integer, but is 1.5"),
            ({"reference_step": 10.5}, ConfigError, "^reference_step must be an integer"),
            ({"steps": [10.5]}, ConfigError, r"^each of the steps must be an integer, but is 10.5"),
            ({"steps": 10}, ConfigError, "^steps must be A:B:C or a list of steps, but is 10"),
            ({"workers": 0.5}, ConfigError, "^workers must be an integer"),
            ({"rule": 3}, ConfigError, "^rule 3 is not known: choose from cube_cosine"),
        ],
    )
    def test_what_is_not_there(self, options, kind, message, run, unchecked):
        with pytest.raises(kind, match=message):
            analyze(run, **options)
        assert not (run.path / "analysis").exists()


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

        def assert_holds(analysis: dict, wanted: dict, where: str) -> None:
            assert set(wanted) <= set(analysis), where
            for key, inner in wanted.items():
                if isinstance(inner, dict):
                    assert_holds(analysis[key], inner, f"{where}.{key}")

        assert_holds(summary, contract, "summary")

    def test_it_is_json_without_nan(self, summary):
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary

    def test_unknown_phases_and_events_have_reasons(self, summary):
        for phase in summary["transition"]["phases"].values():
            assert (phase["step"] is None) == bool(phase["reason"])
        for name, value in summary["final"].items():
            assert value is not None or summary["missing"][name]

    def test_it_holds_the_last_row(self, trained):
        analysis = analyze(trained)
        final = analysis.summary()["final"]
        assert set(final) == set(analysis.timeline.columns)
        for name, value in final.items():
            expected = analysis.timeline[name].iloc[-1]
            assert value == (None if math.isnan(expected) else expected)

    def test_numbers_of_a_run_that_is_known(self, dying_key):
        summary = analyze(dying_key).summary()
        assert summary["run"] == str(dying_key.path)
        assert summary["task"] == {"operation": "add", "p": 13, "train_fraction": 0.4}
        assert summary["steps"] == {"first": 0, "last": 400, "count": 5}
        assert summary["reference"]["key_frequencies"] == [5]
        assert summary["transition"]["outcome"] == "generalized_without_delay"  # 200 is no later than twice 100
        assert summary["transition"]["T_train"] == {"0.95": 100, "0.99": 100}
        assert summary["transition"]["T_grok"] == {"0.95": 200, "0.99": 200}
        assert summary["transition"]["delay"] == {"0.95": 100, "0.99": 100}
