"""Grokking itself, on real runs: one trained here, the run in checkpoints/, and controls that must not grok."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

import grokinterp as gi
from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.measures import key_frequencies

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "run42"

GROKS = RunConfig(
    task=TaskConfig(p=53, train_fraction=0.4, data_seed=598),
    model=TransformerConfig(d_model=128, d_mlp=512),
    optimizer=OptimizerConfig(lr=3e-3, weight_decay=1.0),
    schedule=ScheduleConfig(
        steps=5000, evaluate_every=10, checkpoints="log:15:200+every:50", stop_when_grokked=True, stop_factor=1.1
    ),
    model_seed=1,
    loss_dtype="float32",
)
SMALL = RunConfig(
    task=TaskConfig(p=31, train_fraction=0.5),
    model=TransformerConfig(d_model=64, d_mlp=128),
    optimizer=OptimizerConfig(lr=5e-3, weight_decay=1.0),
    schedule=ScheduleConfig(steps=1500, evaluate_every=50, checkpoints=100),
    loss_dtype="float32",
)


@pytest.fixture(scope="module")
def grokked(tmp_path_factory):
    return gi.analyze(gi.train(GROKS, tmp_path_factory.mktemp("runs") / "p53"))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The run in checkpoints/, analyzed in a copy that shares its weights, so that nothing is written beside it."""
    folder = tmp_path_factory.mktemp("shipped") / "run42"
    folder.mkdir()
    for entry in SHIPPED.iterdir():
        if entry.name != "analysis":
            (folder / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    return gi.analyze(str(folder))


def assert_restricted_loss_leads(analysis, least_lead):
    """The circuit solves the task long before the network does."""
    evidence, transition = analysis.transition.evidence, analysis.transition
    circuit, network = (
        evidence["restricted_loss_below_tenth_of_chance"],
        evidence["test_loss_below_tenth_of_chance"],
    )
    assert circuit is not None
    assert network is not None
    steps = list(analysis.timeline.index)
    assert steps.index(network) - steps.index(circuit) >= 2
    assert evidence["novel_accuracy_at_restricted_loss_below"] < 0.5
    assert network - circuit >= least_lead * transition.delay[0.95]


@pytest.mark.slow
def test_a_transformer_groks(grokked):
    transition = grokked.transition
    assert transition.outcome == "grokked"
    assert transition.T_grok[0.95].step > 5 * transition.T_train[0.99].step
    assert grokked.reference.generalizes
    assert 1 <= len(grokked.reference.frequencies.values) <= 10


@pytest.mark.slow
def test_its_restricted_loss_falls_before_its_test_loss(grokked):
    assert_restricted_loss_leads(grokked, least_lead=0.1)


@pytest.mark.slow
def test_between_memorizing_and_grokking_the_circuit_grows(grokked):
    timeline, transition = grokked.timeline, grokked.transition
    between = timeline[
        (timeline.index >= transition.T_train[0.99].step) & (timeline.index <= transition.T_grok[0.95].step)
    ]
    first, last = between.iloc[0], between.iloc[-1]
    for rises in ("novel_margin", "gini_embedding", "generalized_margin_share"):
        assert last[rises] > first[rises], rises
    for falls in ("restricted_loss", "restricted_loss_novel", "sum_of_squares"):
        assert last[falls] < first[falls], falls


@pytest.mark.slow
def test_without_training_there_are_no_key_frequencies(grokked):
    found = key_frequencies(grokked.run.snapshot(0))
    assert found.values == ()
    assert found.reason


def test_the_shipped_run_shows_all_three_phases(shipped):
    transition = shipped.transition
    assert transition.outcome == "grokked"
    assert (transition.T_train[0.99].step, transition.T_grok[0.95].step) == (130, 2290)
    assert (
        transition.memorization_end.step
        < transition.circuit_formation_end.step
        < transition.T_grok[0.95].step
        < transition.cleanup_end.step
    )
    assert shipped.reference.frequencies.values == (8, 14, 21)
    assert set(shipped.reference.by_rule.values()) == {(8, 14, 21)}
    assert len(shipped.run.steps) >= 55
    assert_restricted_loss_leads(shipped, least_lead=0.1)


def test_the_shipped_runs_efficiency_ratio_passes_one_between_memorizing_and_grokking(shipped):
    crossing = shipped.transition.evidence["circuit_efficiency_ratio_reaches_1"]
    assert shipped.transition.T_train[0.99].step < crossing < shipped.transition.T_grok[0.95].step


@pytest.mark.slow
def test_random_labels_are_memorized_without_a_circuit(tmp_path):
    config = replace(
        SMALL,
        task=replace(SMALL.task, random_labels=True),
        optimizer=replace(SMALL.optimizer, lr=2e-3, weight_decay=0.1),
    )
    analysis = gi.analyze(gi.train(config, tmp_path / "random"))
    assert analysis.timeline["train_accuracy"].iloc[-1] == 1.0
    assert analysis.transition.outcome == "DNF_test"
    assert analysis.reference.frequencies.values == ()
    assert analysis.transition.evidence["restricted_loss_below_tenth_of_chance"] is None
    assert analysis.transition.evidence["circuit_efficiency_ratio_reaches_1"] is None
    assert math.isnan(analysis.timeline["restricted_loss"].iloc[-1])
    assert analysis.why_missing("restricted_loss") == "no key frequencies"


@pytest.mark.slow
def test_without_weight_decay_and_with_little_data_nothing_generalizes(tmp_path):
    config = replace(
        SMALL,
        task=replace(SMALL.task, train_fraction=0.15),
        optimizer=replace(SMALL.optimizer, weight_decay=0.0),
    )
    analysis = gi.analyze(gi.train(config, tmp_path / "memorizer"))
    assert analysis.transition.outcome == "DNF_test"
    assert analysis.transition.evidence["restricted_loss_below_tenth_of_chance"] is None
    assert analysis.transition.evidence["circuit_efficiency_ratio_reaches_1"] is None
    assert key_frequencies(analysis.run.snapshot(analysis.run.steps[-1])).values == ()
