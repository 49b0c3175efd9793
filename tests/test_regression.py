"""Teacher-student regression: against plain torch.nn and the published log of Omnigrok's code; a run like any other."""

import json
import os
import signal
import sys
from dataclasses import replace
from itertools import pairwise

import processes
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokinterp.analysis.timeline import analyze
from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RegressionConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.runs.run import Run
from grokinterp.sweep.listing import describe_runs
from grokinterp.tasks import RegressionTask, Task
from grokinterp.training import train, train_many
from grokinterp.training.ensemble import ensemble_pays
from grokinterp.training.estimate import estimate
from grokinterp.training.evaluation import evaluate
from grokinterp.training.losses import loss_function, squared_error_and_gradient

PRESET = preset("teacher-student")
SHORT = ScheduleConfig(steps=60, evaluate_every=10, checkpoints=20, resume_every=20)
SMALL = replace(
    PRESET,
    task=RegressionConfig(d_in=3, d_out=2, teacher_width=8, teacher_depth=1, n_train=20, n_test=30, threshold=0.02),
    model=MLPConfig(input="vector", activation="tanh", depth=2, width=10),
    schedule=SHORT,
)
STEADY = OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.0, batch_size=7)
MINIBATCHES = replace(SMALL, optimizer=STEADY)


# --- the task --------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A tanh network as PyTorch makes it."""

    def __init__(self, widths: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)

    def named(self) -> dict[str, Tensor]:
        *hidden, last = self.layers
        named = {
            f"layers.{i}.{n}": w
            for i, layer in enumerate(hidden)
            for n, w in (("W", layer.weight.T), ("b", layer.bias))
        }
        return named | {"unembed.W_U": last.weight.T, "unembed.b_U": last.bias}


@pytest.mark.parametrize("config", [RegressionConfig(), replace(SMALL.task, data_seed=7)], ids=["paper", "small"])
def test_teacher_and_inputs_are_those_drawn_after_manual_seed(config):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(config.data_seed)
        teacher = Plain([config.d_in, *[config.teacher_width] * config.teacher_depth, config.d_out])
        train_inputs = torch.normal(0, 1, size=(config.n_train, config.d_in))
        test_inputs = torch.normal(0, 1, size=(config.n_test, config.d_in))
        labels = torch.cat([teacher(train_inputs), teacher(test_inputs)])
    before = torch.get_rng_state()
    task = RegressionTask.from_config(config)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in teacher.named().items():
        assert torch.equal(task.teacher[name], weight), name
    assert torch.equal(task.inputs, torch.cat([train_inputs, test_inputs]))
    assert torch.equal(task.labels, labels)
    assert task.train_mask.nonzero().flatten().tolist() == list(range(config.n_train))
    assert torch.equal(task.test_mask, ~task.train_mask)
    assert task.tokens is task.inputs


def test_labels_equal_the_outputs_of_a_sequential_with_the_stored_teacher():
    task = RegressionTask.from_config(RegressionConfig(data_seed=3))
    shapes = [(5, 100), (100, 100), (100, 5)]
    layers = [nn.Linear(*shape).double() for shape in shapes]
    names = ["layers.0.W", "layers.1.W", "unembed.W_U"]
    with torch.no_grad():
        for layer, name in zip(layers, names, strict=True):
            layer.weight.copy_(task.teacher[name].T)
            layer.bias.copy_(task.teacher[name.replace("W_U", "b_U").replace(".W", ".b")])
        sequential = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
        torch.testing.assert_close(task.labels.double(), sequential(task.inputs.double()), rtol=0, atol=1e-6)


def test_inputs_are_standard_normal_and_the_seed_decides_everything():
    task = RegressionTask.from_config(RegressionConfig(d_in=4, n_train=9000, n_test=1000))
    torch.testing.assert_close(task.inputs.mean(dim=0), torch.zeros(4), rtol=0, atol=0.04)
    torch.testing.assert_close(task.inputs.T.cov(), torch.eye(4), rtol=0, atol=0.06)
    assert task.inputs.pow(4).mean().item() == pytest.approx(3.0, abs=0.2)
    again, other = (RegressionTask.from_config(RegressionConfig(data_seed=seed)) for seed in (0, 1))
    assert torch.equal(RegressionTask.from_config(RegressionConfig()).labels, again.labels)
    for part in ("inputs", "labels"):
        assert not torch.equal(getattr(again, part), getattr(other, part))


def test_more_test_inputs_leave_teacher_and_training_inputs_as_they_are():
    few, many = (RegressionTask.from_config(RegressionConfig(n_test=n)) for n in (10, 500))
    assert torch.equal(few.inputs[:100], many.inputs[:100])
    assert torch.equal(few.labels[:100], many.labels[:100])


# --- configurations --------------------------------------------------------------------------------------------------


def test_configurations_survive_json_and_old_ones_stay_tasks_of_classes():
    for config in (PRESET, SMALL, MINIBATCHES):
        assert RunConfig.from_json(config.to_json()) == config
    assert json.loads(PRESET.to_json())["task"]["operation"] == "teacher_student"
    assert isinstance(RunConfig.from_json('{"task": {"p": 97}}').task, TaskConfig)
    assert PRESET.task.title == "teacher_student 5-100-100-5"
    assert (SMALL.task.n_inputs, SMALL.task.train_fraction) == (50, 0.4)


UNKNOWN = [
    (
        {"operation": "teacher_student", "p": 5},
        "task.p is not a key of this configuration: choose from operation, d_in",
    ),
    ({"operation": "teacher_student", "n_tests": 5}, "task.n_tests is not a key .*: did you mean 'n_test'"),
    (
        {"operation": "add", "threshold": 0.1},
        "task.threshold is not a key of this configuration: choose from operation, p",
    ),
    ({"operation": "teacher_student", "d_in": 0}, "task: d_in must be at least 1, but is 0"),
    ({"operation": "teacher_student", "n_train": "many"}, "task.n_train: "),
    ({"operation": "teacher_student", "threshold": 0.0}, "task: threshold must be a finite number > 0, but is 0.0"),
    ({"operation": "teacher_student", "data_seed": -1}, r"task: data_seed must lie in \[0, 2\^32\), but is -1"),
    (3, "task: .*dictionary"),
]


@pytest.mark.parametrize(("task", "message"), UNKNOWN, ids=[message for _, message in UNKNOWN])
def test_bad_keys_and_values_are_refused_by_name(task, message):
    raw = json.loads(PRESET.to_json()) | {"task": task}
    with pytest.raises(ConfigError, match=f"^here: {message}"):
        RunConfig.from_json(json.dumps(raw), source="here")


NEEDS_VECTORS = "teacher_student .* is a regression: it needs model.kind mlp with model.input vector"
UNFIT = [
    (lambda: replace(PRESET, loss="cross_entropy"), "teacher_student 5-100-100-5 is a regression: it needs loss mse"),
    (lambda: replace(PRESET, model=TransformerConfig()), NEEDS_VECTORS),
    (lambda: replace(PRESET, model=MLPConfig(input="one_hot")), NEEDS_VECTORS),
    (lambda: replace(PRESET, model=RecordedConfig()), NEEDS_VECTORS),
    (lambda: replace(PRESET, task=TaskConfig()), "vector works only for regressions, and add mod 113 is not one"),
    (
        lambda: build_model(PRESET.model, Task.of("add", 5)),
        "vector works only for regressions, and add mod 5 is not one",
    ),
    (lambda: build_model(MLPConfig(), task_of(PRESET)), NEEDS_VECTORS),
    (lambda: MLPConfig(input="vector", d_embed=3), "d_embed has no effect with model.input vector"),
    (lambda: MLPConfig(input="vector", architecture="residual"), r"as wide as the layers \(128\), but it is vector"),
]


@pytest.mark.parametrize(("make", "message"), UNFIT, ids=range(len(UNFIT)))
def test_models_and_losses_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# --- model, loss, evaluation -----------------------------------------------------------------------------------------


def test_the_teacher_as_a_model_answers_correctly():
    task = RegressionTask.from_config(RegressionConfig())
    model = MLPConfig(input="vector", activation="tanh", depth=2, width=100)
    outputs = forward_for(model, task).logits_by_rows(task.teacher, task.inputs)
    row = evaluate(task, outputs, task.teacher)
    assert (row["train_accuracy"], row["test_accuracy"]) == (1.0, 1.0)
    assert row["train_loss"] < 1e-12


def test_the_student_is_a_plain_network_times_alpha():
    task = task_of(PRESET)
    student = build_model(PRESET, task)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        plain = Plain([5, 100, 100, 5])
        for parameter in plain.parameters():
            parameter.mul_(2.0)
        expected = plain(task.inputs)
    for name, weight in plain.named().items():
        assert torch.equal(dict(student.named_parameters())[name], weight), name
    torch.testing.assert_close(student(task.inputs).detach(), expected, rtol=1e-5, atol=1e-6)
    _, cache = student.run_with_cache(task.inputs)
    assert cache["layers.1.hook_post"].shape == (200, 100)


def test_metrics_against_a_loop():
    task = task_of(SMALL)
    outputs = task.labels + 0.15 * torch.randn(50, 2, generator=torch.Generator().manual_seed(5))
    weights = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    row = evaluate(task, outputs, weights, "mse")
    errors = [
        sum((x - y) ** 2 for x, y in zip(output, label, strict=True)) / 2
        for output, label in zip(outputs.double().tolist(), task.labels.double().tolist(), strict=True)
    ]
    for name, part in (("train", errors[:20]), ("test", errors[20:])):
        right = sum(error < 0.02 for error in part)
        assert 0 < right < len(part)
        assert row[f"{name}_accuracy"] == pytest.approx(right / len(part))
        assert row[f"{name}_loss"] == pytest.approx(sum(part) / len(part))
    assert row["weight_norm"] == 5.0
    assert set(row) == {"train_loss", "test_loss", "train_accuracy", "test_accuracy", "weight_norm", "weight_rms"}


def test_an_error_of_exactly_the_threshold_does_not_count():
    task = replace(task_of(SMALL), config=replace(SMALL.task, threshold=0.25))
    labels = torch.zeros_like(task.labels)
    row = evaluate(replace(task, labels=labels), labels + 0.5, {})
    assert (row["train_loss"], row["train_accuracy"]) == (0.25, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_training_loss_equals_that_of_pytorch_in_its_dtype(dtype):
    task = task_of(SMALL)
    outputs = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = loss_function(replace(SMALL, loss_dtype=dtype))(outputs, task.labels)
    assert found.dtype == getattr(torch, dtype)
    expected = (outputs.to(found.dtype) - task.labels.to(found.dtype)).square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == "float32" else 1e-14, atol=0)


def test_the_gradient_of_the_ensemble_equals_that_of_autograd():
    task = task_of(SMALL)
    outputs = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    losses, gradient = squared_error_and_gradient(outputs.detach(), task.labels, 50)
    expected = F.mse_loss(outputs, task.labels.double())
    expected.backward()
    torch.testing.assert_close(losses.sum(), expected.detach())
    torch.testing.assert_close(gradient, outputs.grad)


# --- runs ------------------------------------------------------------------------------------------------------------

# Step, train loss, test loss, train and test accuracy, as printed in regression_grokking.ipynb of the code of
# Liu et al. 2022 (github.com/KindXiaoming/Omnigrok): alpha = 2, weight decay 0.05, threshold 0.001.
PUBLISHED = [
    (0, "0.359951", "0.351991", "0.00", "0.00", "429.59"),
    (200, "0.002719", "0.016901", "0.14", "0.04", "423.57"),
    (400, "0.000940", "0.012941", "0.64", "0.07", "419.68"),
    (600, "0.000452", "0.011120", "0.91", "0.10", "416.28"),
    (800, "0.000249", "0.010040", "0.99", "0.11", "413.17"),
]


def test_the_published_log_is_reproduced_to_its_last_digit(tmp_path):
    schedule = replace(PRESET.schedule, steps=800, checkpoints=200)
    run = train(replace(PRESET, schedule=schedule), tmp_path / "run", device="cpu", progress=False)
    for step, *printed in PUBLISHED:
        row, weights = run.metrics.loc[step], run.weights(step)
        # Their norm counts the first layer's matrix twice.
        squares = row.weight_norm**2 + weights["layers.0.W"].double().square().sum().item()
        found = [f"{row.train_loss:.6f}", f"{row.test_loss:.6f}", f"{row.train_accuracy:.2f}"]
        assert [*found, f"{row.test_accuracy:.2f}", f"{squares:.2f}"] == printed, step


def test_a_student_memorizes_and_then_generalizes(tmp_path):
    """With a strong decay and the threshold of the paper, in seconds."""
    config = replace(
        PRESET,
        task=RegressionConfig(threshold=0.01),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=1.0, betas=(0.9, 0.999)),
        schedule=ScheduleConfig(steps=1500, evaluate_every=20, checkpoints=1500),
    )
    metrics = train(config, tmp_path / "run", device="cpu", progress=False).metrics
    memorized = metrics.index[metrics.train_accuracy >= 0.95][0]
    generalized = metrics.index[metrics.test_accuracy >= 0.95][0]
    assert metrics.test_accuracy[memorized] < 0.8
    assert generalized >= 3 * memorized
    assert metrics.weight_norm.iloc[-1] < metrics.weight_norm[0]


def result(run: Run) -> dict[str, bytes]:
    files = [run.path / "metrics.jsonl", run.path / "resume.safetensors", *(run.path / "weights").iterdir()]
    return {file.name: file.read_bytes() for file in files}


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from grokinterp.config import RunConfig
from grokinterp.training import Callback, train

torch.set_num_threads(1)

class Death(Callback):
    def on_step(self, step):
        if step == 33:
            os.kill(os.getpid(), signal.SIGKILL)

train(RunConfig.from_json(sys.stdin.read()), sys.argv[1], device="cpu", progress=False, callbacks=[Death()])
"""


@pytest.mark.parametrize(
    "config",
    [pytest.param(SMALL, id="adamw", marks=pytest.mark.slow), pytest.param(MINIBATCHES, id="sgd, minibatches")],
)
def test_a_killed_run_resumes_to_the_same_bits(config, tmp_path):
    whole = train(config, tmp_path / "whole", device="cpu", progress=False)
    child = processes.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        input=config.to_json(),
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert child.returncode == -signal.SIGKILL
    halfway = Run.open(tmp_path / "killed")
    assert halfway.status["step"] == 20
    assert isinstance(halfway.task, RegressionTask)
    resumed = train(config, tmp_path / "killed", resume=True, device="cpu", progress=False)
    assert result(resumed) == result(whole)
    assert whole.metrics.train_loss[60] < whole.metrics.train_loss[0]


@pytest.mark.parametrize("config", [SMALL, MINIBATCHES], ids=["adamw", "sgd, minibatches"])
def test_runs_trained_together_equal_those_trained_alone(config, tmp_path):
    configs = [replace(config, model_seed=seed, task=replace(config.task, data_seed=seed)) for seed in (0, 1)]
    together = train_many(configs, [tmp_path / "0", tmp_path / "1"], device="cpu", progress=False)
    for seed, run in enumerate(together):
        alone = train(configs[seed], tmp_path / f"alone{seed}", device="cpu", progress=False)
        assert torch.equal(run.task.labels, alone.task.labels)
        for column in ("train_loss", "test_loss", "train_accuracy", "weight_norm"):
            assert run.metrics[column].to_numpy() == pytest.approx(alone.metrics[column].to_numpy(), rel=1e-4), column
    assert ensemble_pays(config, "cpu")


def test_other_sizes_are_not_trained_together(tmp_path):
    more = replace(SMALL, task=replace(SMALL.task, n_train=21))
    with pytest.raises(ConfigError, match=r"must have the same shape, but task\.n_train is 20"):
        train_many([SMALL, more], [tmp_path / "0", tmp_path / "1"])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Run:
    return train(SMALL, tmp_path_factory.mktemp("regression") / "run", device="cpu", progress=False)


def test_a_run_of_a_regression_opens_like_any_other(small):
    run = Run.open(small.path)
    assert run.config == SMALL
    assert run.steps == [0, 20, 40, 60]
    assert run.environment["forward_path"] == "mlp"
    assert run.status["status"] == "finished"
    model = run.model(60)
    outputs = model(run.task.inputs).detach()
    row = evaluate(run.task, outputs, dict(model.named_parameters()))
    assert row["test_loss"] == pytest.approx(run.metrics.test_loss[60], rel=1e-5)
    assert row["weight_norm"] == pytest.approx(run.metrics.weight_norm[60], rel=1e-6)
    (shown,) = describe_runs(run.path.parent)
    assert shown["task"] == "teacher_student 3-8-2"
    assert shown["train_fraction"] == 0.4
    assert shown["test_accuracy"] == run.metrics.test_accuracy[60]


@pytest.mark.parametrize("ask", [lambda run: run.snapshot(60), analyze, lambda run: run.classification])
def test_a_regression_has_no_snapshot_and_cannot_be_analyzed(ask, small):
    message = "teacher_student 3-8-2 is a regression: it has no classes, so there is no snapshot and nothing to analyze"
    with pytest.raises(ConfigError, match=f"^{small.path}: {message}; losses, .* are in run.metrics$"):
        ask(small)
    assert not (small.path / "analysis").exists()


# In a process of its own, as a person would: the type checker of the tests does not let tyro's placeholders pass.
COMMANDS = """
import contextlib, io, json, sys
from grokinterp.cli import main

said = []
for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    said.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(said))
"""


def test_the_command_line_trains_it_and_refuses_to_analyze_it(tmp_path):
    path = str(tmp_path / "run")
    flags = ["--preset", "teacher-student", "--task.n-train", "7", "--model.width", "6", "--schedule.steps", "3"]
    commands = [
        ["train", path, *flags, "--dry-run"],
        ["train", path, *flags],
        ["analyze", path],
        ["list", str(tmp_path)],
    ]
    child = processes.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    dry, trained, analyzed, listed = json.loads(child.stdout)
    assert [dry[0], trained[0], analyzed[0], listed[0]] == [0, 0, 2, 0]
    assert json.loads(dry[1])["task"]["n_train"] == 7
    ended, following = trained[1].splitlines()
    assert ended == f"{path}: finished at step 3 (all steps made)"
    assert following.startswith(f"next: grokinterp list {tmp_path}; ")
    assert len(Run.open(path).task.labels) == 107
    assert analyzed[1] == ""
    assert analyzed[2].count("\n") == 1
    assert "is a regression: it has no classes" in analyzed[2]
    assert "teacher" in listed[1]


def test_a_run_of_a_regression_can_be_estimated():
    assert estimate(SMALL, tries=1).parameters == 3 * 10 + 10 + 10 * 10 + 10 + 10 * 2 + 2


def test_a_run_can_start_from_another(small, tmp_path):
    started = train(SMALL, tmp_path / "run", start_from=f"{small.path}@40", device="cpu", progress=False)
    for name, weight in started.weights(0).items():
        assert torch.equal(weight, small.weights(40)[name])
