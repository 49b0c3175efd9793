"""Falls of train accuracy after memorization, and a late rise of test loss, found in the metrics of a run."""

import math
from pathlib import Path

import pytest
import torch

from grokinterp.config import MLPConfig, RunConfig, TaskConfig
from grokinterp.runs.findings import Finding, StabilityMonitor
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training.numerics import Monitor

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"


def found(**columns: list[float]) -> list[Finding]:
    monitor = StabilityMonitor()
    for step in range(len(next(iter(columns.values())))):
        monitor.add(10 * step, {"train_loss": 0.1} | {name: values[step] for name, values in columns.items()})
    return monitor.findings


@pytest.mark.parametrize(
    ("accuracy", "steps"),
    [
        ([0.1, 0.94, 0.5, 0.9], None),  # never memorized
        ([0.1, 0.95, 0.9, 0.95], None),  # not below 0.9
        ([0.1, 0.95, 0.89, 0.95], "step 20"),
        ([1.0, 0.7, 0.8, 0.94, 0.6, 1.0], "step 10"),  # one fall, until 0.95 is reached again
        ([1.0, 0.7, 1.0, 0.6], "steps 10, 30"),
        ([1.0, math.nan, 1.0], None),
    ],
)
def test_falls_of_train_accuracy(accuracy, steps):
    findings = found(train_accuracy=accuracy)
    assert [finding.kind for finding in findings] == ["instability"] * (steps is not None)
    if steps is not None:
        assert f"fell below 0.9 at {steps} (lowest: {min(accuracy[1:]):.3f})" in findings[0].message
        assert str(findings[0].step) in steps


def test_many_falls_are_counted():
    (finding,) = found(train_accuracy=[1.0, 0.5] * 13)
    assert "at steps 10, 30, 50, 70, 90, 110, 130, 150, 170, 190 and 3 more (lowest" in finding.message


@pytest.mark.parametrize(
    ("accuracy", "loss", "step"),
    [
        ([0.0, 0.2, 0.4], [4.0, 10.0, 30.0], None),  # memorization
        ([0.0, 0.96, 1.0, 1.0], [9.0, 0.1, 1e-3, 9e-3], None),  # less than tenfold
        ([0.0, 0.96, 1.0, 1.0], [9.0, 0.1, 1e-3, 1e-2], 30),
        ([0.0, 0.96, 1.0, 0.2], [9.0, 0.1, 1e-3, 5e-2], 30),
        ([0.0, 0.96, 1.0, 1.0], [9.0, 0.1, 1e-7, 9e-4], None),  # too small to change an answer
        ([0.0, 0.96, 1.0, 1.0], [9.0, 0.1, 1e-7, 1e-3], 30),
    ],
)
def test_a_late_rise_of_test_loss(accuracy, loss, step):
    findings = found(test_accuracy=accuracy, test_loss=loss)
    assert [(finding.kind, finding.step) for finding in findings] == [("late_test_loss_rise", step)] * (
        step is not None
    )


def test_the_largest_test_loss_is_named():
    (finding,) = found(test_accuracy=[1.0, 1.0, 1.0, 1.0], test_loss=[0.02, 0.01, 0.2, 0.5])
    assert "rose from 0.01 to at least 10 times that at step 20 (largest: 0.5)" in finding.message


def test_a_run_that_groks_smoothly_has_none():
    monitor = StabilityMonitor()
    for step, row in Run.open(RUN42).metrics.iterrows():
        monitor.add(step, row.to_dict())
    assert monitor.findings == []


def test_non_finite_losses_are_another_finding():
    monitor = StabilityMonitor()
    for step, loss, accuracy in ((0, 0.1, 1.0), (10, math.nan, 0.0)):
        monitor.add(step, {"train_loss": loss, "train_accuracy": accuracy})
    assert monitor.findings == []


@pytest.mark.parametrize("resumed", [False, True])
def test_training_warns_once_of_each_and_a_resumed_one_too(resumed):
    config = RunConfig(task=TaskConfig(p=5, train_fraction=0.4), model=MLPConfig())
    monitor = Monitor(config, Task.from_config(config.task), Path("run"), [])
    accuracies = [0.2, 1.0, 1.0, 0.6, 1.0, 0.7]
    rows = [{"step": i, "train_loss": 0.1, "train_accuracy": accuracy} for i, accuracy in enumerate(accuracies)]
    if resumed:
        monitor.resume(rows[:3])
    for row in rows[3:] if resumed else rows:
        monitor.check(row["step"], torch.zeros(25, 5), {}, row, zero_gradients=False)
    (finding,) = monitor.findings
    assert (finding.step, finding.kind) == (3, "instability")
    assert finding.message.endswith("it fell below 0.9 at step 3 (lowest: 0.600)")
