"""Values passed as logits that look like something else: probabilities, transposed rows, shifted classes."""

import warnings
from pathlib import Path

import pytest
import torch

from grokinterp.measures import Snapshot
from grokinterp.measures.checks import resemblance
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training.recorder import Recorder

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"


def solved(task: Task, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(len(task.inputs), task.n_classes, generator=torch.Generator().manual_seed(seed))
    return noise.double() + 9 * torch.nn.functional.one_hot(task.labels, task.n_classes)


@pytest.mark.parametrize("fraction", [None, 0.4])
def test_probabilities_and_shifted_classes(fraction):
    task = Task.modular_addition(13, fraction)
    logits = solved(task)
    for values, text in (
        (logits.softmax(dim=1), "look like probabilities"),
        (logits.float().softmax(dim=1), "look like probabilities"),
        (torch.randn(169, 13).softmax(dim=1), "look like probabilities"),
        (logits.roll(1, dims=1), r"classes look shifted by one \(column 1 would be class 0\)"),
        (logits.roll(-1, dims=1), r"classes look shifted by one \(column 12 would be class 0\)"),
    ):
        with pytest.warns(UserWarning, match=r"^are these the logits of add mod 13\? .*" + text):
            Snapshot.from_logits(task, values)
        with pytest.warns(UserWarning, match=text):
            Snapshot.from_model(task, lambda tokens, values=values: values)


@pytest.mark.parametrize("operation", ["subtract", "divide"])
def test_transposed_rows(operation):
    task = Task.of(operation, 13, 0.4)
    position = {tuple(pair): i for i, pair in enumerate(task.inputs.tolist())}
    transposed = solved(task)[[position.get((b, a), 0) for a, b in task.inputs.tolist()]]
    with pytest.warns(UserWarning, match="rows look transposed"):
        Snapshot.from_logits(task, transposed)


def test_transposed_rows_of_a_symmetric_operation_show_in_what_was_memorized():
    run = Run.open(RUN42)
    logits, p = run.snapshot(300).logits, run.classification.p
    assert "rows look transposed" in resemblance(run.classification, logits.view(p, p, p).transpose(0, 1).flatten(0, 1))


def test_a_recorder_does_not_warn_at_every_step(tmp_path):
    task = Task.modular_addition(7, 0.4)
    with warnings.catch_warnings(record=True) as caught, Recorder(tmp_path / "run", task) as recorder:
        warnings.simplefilter("default")
        for step in range(5):
            recorder.record(step, solved(task, step).softmax(dim=1))
    assert {"probabilities" in str(warning.message) for warning in caught} == {True}
    assert len(caught) <= 2  # the type checker adds a frame to the first call, and Python warns once per place


@pytest.mark.parametrize("operation", ["add", "subtract", "divide", "multiply", "x^2+xy+y^2"])
@pytest.mark.parametrize("fraction", [0.3, 0.8])
def test_logits_are_not_suspected(operation, fraction):
    task = Task.of(operation, 13, fraction)
    right = solved(task)
    memorized = torch.where(task.train_mask[:, None], right, torch.randn(len(right), 13).double())
    one_hot = torch.nn.functional.one_hot(task.labels, 13).double()
    for logits in (
        right,
        memorized,
        one_hot,
        right.log_softmax(dim=1),
        torch.randn(len(right), 13).double(),
        0 * right,
    ):
        assert resemblance(task, logits) == ""


def test_checkpoints_of_a_run_are_not_suspected():
    run = Run.open(RUN42)
    assert {resemblance(run.classification, run.snapshot(step).logits) for step in run.steps[::4]} == {""}
