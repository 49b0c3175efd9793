"""Corner cases that once gave a silently wrong number, or a traceback instead of a message."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

import grokinterp as gi
from grokinterp.analysis.transition import find_transition
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.measures import (
    Snapshot,
    excluded_loss,
    excluded_loss_from_logits,
    find_measure,
    restricted_loss,
    restricted_loss_from_logits,
)
from grokinterp.tasks import Task

TINY = RunConfig(
    task=TaskConfig(p=11, train_fraction=0.5),
    model=MLPConfig(width=16),
    schedule=ScheduleConfig(steps=40, evaluate_every=10, checkpoints=20, resume_every=20),
)


class PartlyFrozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.randn(22, 11))
        self.big = nn.Parameter(100 * torch.ones(5), requires_grad=False)

    def forward(self, tokens):
        return nn.functional.one_hot(tokens[:, :2], 11).flatten(1).float() @ self.W


def test_a_recorded_models_frozen_weights_count_in_no_norm(tmp_path):
    task = Task.modular_addition(11, train_fraction=0.5)
    with gi.Recorder(tmp_path / "run", task) as recorder:
        recorder.record(0, PartlyFrozen())
        recorder.record(5, PartlyFrozen())
    analysis = gi.analyze(recorder.run)
    pd.testing.assert_series_equal(analysis.timeline["weight_norm"], recorder.run.metrics["weight_norm"])


@pytest.mark.parametrize("step", [10.0, "10", None])
def test_a_fractional_step_is_refused_before_anything_is_written(tmp_path, step):
    task = Task.modular_addition(5, train_fraction=0.5)
    with gi.Recorder(tmp_path / "run", task) as recorder:
        recorder.record(np.int64(3), torch.zeros(25, 5))
        with pytest.raises((ConfigError, TypeCheckError)):  # the latter where types are checked, as here
            recorder.record(step, torch.zeros(25, 5))
    assert list(recorder.run.metrics.index) == [3]


def test_squared_errors_are_not_compared_with_chance(tmp_path):
    analysis = gi.analyze(gi.train(replace(TINY, loss="mse"), tmp_path / "run"))
    for name in ("memorization_end", "circuit_formation_end", "cleanup_end"):
        end = getattr(analysis.transition, name)
        assert end.step is None
        assert end.reason
    frame = pd.DataFrame({"train_loss": [9.0, 9.0], "test_loss": 9.0, "train_accuracy": 1.0, "test_accuracy": 1.0})
    assert find_transition(frame, n_classes=11).outcome == "diverged"
    assert find_transition(frame, n_classes=11, cross_entropy=False).outcome == "generalized_without_delay"


def test_a_metrics_line_that_a_power_cut_filled_with_zeros_is_rewritten(tmp_path):
    config = replace(TINY, schedule=replace(TINY.schedule, steps=50))
    whole = gi.train(TINY, tmp_path / "run")
    with (whole.path / "metrics.jsonl").open("ab") as file:
        file.write(bytes(20) + b"\n")
    resumed = gi.train(config, whole.path, resume=True)
    assert list(resumed.metrics.index) == [0, 10, 20, 30, 40, 50]
    assert resumed.environment["resumed"][0]["from_step"] == 40
    assert resumed.environment["resumed"][0]["to_step"] == 50


def test_chance_at_small_p_is_not_semi_grokking():
    steps = range(0, 1000, 50)
    frame = pd.DataFrame({"train_loss": 0.1, "train_accuracy": 1.0, "test_accuracy": 0.12}, index=steps)
    assert find_transition(frame, n_classes=11).outcome == "DNF_test"
    assert find_transition(frame, n_classes=97).outcome == "semi_grokked"


def test_keys_are_lost_only_after_they_were_needed(tmp_path):
    task = Task.modular_addition(13, train_fraction=0.5)
    a, b, c = torch.meshgrid(*[torch.arange(13.0)] * 3, indexing="ij")
    circuit = 30 * torch.cos(2 * torch.pi * 4 * (a + b - c) / 13)
    noise = torch.randn(13, 13, 13, generator=torch.Generator().manual_seed(0))
    with gi.Recorder(tmp_path / "run", task) as recorder:
        for step, logits in ((0, noise), (10, circuit), (20, circuit)):
            recorder.record(step, logits)
    assert gi.analyze(recorder.run, reference_step=0).reference.lost == ()


@pytest.mark.parametrize("operation", ["multiply", "divide", "subtract"])
def test_the_forms_for_training_loops_agree_where_some_pairs_are_outside_of_the_grid(operation):
    task = Task.of(operation, 7, 0.5)
    logits = torch.randn(len(task.inputs), 7, generator=torch.Generator().manual_seed(1))
    snapshot, given = Snapshot.from_logits(task, logits), (logits, task.labels, task.sum_class, (1, 3))
    assert restricted_loss_from_logits(*given).item() == pytest.approx(restricted_loss(snapshot, (1, 3)), rel=1e-12)
    in_training = excluded_loss_from_logits(*given, mask=task.train_mask).item()
    assert in_training == pytest.approx(excluded_loss(snapshot, (1, 3)), rel=1e-12)
    assert restricted_loss_from_logits(logits, task.labels, task.sum_class, ()).isnan()
    assert restricted_loss(snapshot, np.int64(1)) == restricted_loss(snapshot, 1)


def test_only_a_function_is_a_measure():
    with pytest.raises(ConfigError, match="is not a function"):
        find_measure("math:pi")


@pytest.mark.parametrize("device", ["cpu:zzz", "tpu", "cuda:63"])
def test_a_missing_device_is_named(tmp_path, device):
    with pytest.raises(ConfigError, match="device"):
        gi.train(TINY, tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_a_diverged_training_is_not_a_success(tmp_path):
    config = replace(TINY, optimizer=OptimizerConfig(name="sgd", lr=1e9, weight_decay=0.0))
    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    command = [sys.executable, "-m", "grokinterp.cli", "train", str(tmp_path / "run"), "--config", str(file)]
    outcome = processes.run(command, capture_output=True, text=True)
    assert outcome.returncode == 1
    assert "diverged" in outcome.stdout
