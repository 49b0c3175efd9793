"""Numerical warnings of a training: at the step where a problem occurs, once per kind, and never without cause."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.presets import preset
from grokinterp.models import forward_for
from grokinterp.runs.findings import Finding, findings_in
from grokinterp.runs.run import Run
from grokinterp.tasks import RegressionTask, Task
from grokinterp.training import Callback, train, train_many, trainer
from grokinterp.training.evaluation import evaluate
from grokinterp.training.numerics import Monitor, any_nonzero, median_margin, not_finite, rounded

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"
SCHEDULE = ScheduleConfig(steps=100, evaluate_every=5, checkpoints=5, resume_every=25)
ADAM = OptimizerConfig(name="adam", lr=0.1, weight_decay=0.0)
SGD = OptimizerConfig(name="sgd", lr=100.0, weight_decay=0.0)
BASE = RunConfig(
    task=TaskConfig(p=5, train_fraction=0.6),
    model=MLPConfig(width=32),
    optimizer=ADAM,
    schedule=SCHEDULE,
    loss_dtype="float32",
)
PLAIN = replace(BASE, loss_dtype="float32_plain")
SCALED = replace(BASE, model=MLPConfig(width=256, depth=1, output_scale=1000.0), optimizer=replace(ADAM, lr=0.01))
# A single huge step puts every neuron below 0 on all inputs; there are no biases that could still learn.
DEAD = replace(BASE, model=MLPConfig(width=8, depth=1, biases=False), optimizer=SGD)
DIVERGING = replace(BASE, optimizer=replace(SGD, lr=1e12))
# Coupled decay multiplies every weight by -1.4 per update, and diverges between a resume point and an evaluation.
GROWING = replace(
    BASE,
    optimizer=replace(SGD, lr=1e-3, weight_decay=2400.0, decay="coupled"),
    schedule=replace(SCHEDULE, evaluate_every=20),
)
# The warnings of each run, in order.
LOSING = {
    "plain float32": (PLAIN, ["softmax_collapse", "loss_underflow"]),
    "exact float32": (SCALED, ["softmax_collapse", "zero_gradients", "loss_underflow"]),
    "float64": (replace(SCALED, loss_dtype="float64"), ["softmax_collapse", "zero_gradients"]),
    "dead neurons": (DEAD, ["zero_gradients"]),
    "a huge learning rate": (DIVERGING, ["diverged"]),
    "weights that grow": (GROWING, ["diverged"]),
}
SOUND = {
    "exact float32": BASE,
    "float64": replace(BASE, loss_dtype="float64"),
    "plain float32, early": replace(PLAIN, optimizer=replace(ADAM, lr=1e-3)),
    "mse": replace(BASE, loss="mse", optimizer=replace(ADAM, lr=1e-3)),
    "stablemax": replace(BASE, loss="stablemax", optimizer=replace(ADAM, lr=1e-2)),
    "minibatches": replace(BASE, optimizer=replace(ADAM, lr=1e-2, batch_size=4)),
    "weight decay": replace(BASE, optimizer=OptimizerConfig(lr=1e-2, weight_decay=1.0)),
    "demo": replace(preset("demo"), schedule=ScheduleConfig(200, 10, 100, 100)),
    "parity": replace(preset("parity"), schedule=ScheduleConfig(200, 10, 100, 100)),
    "teacher-student": replace(preset("teacher-student"), schedule=ScheduleConfig(100, 10, 100, 100)),
}


def findings(run: Run) -> list[Finding]:
    return findings_in(run.status)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("losing")
    return {name: train(config, folder / name, progress=False) for name, (config, _) in LOSING.items()}


def logits_at(run: Run, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits of the training examples in float32, and their labels."""
    task = run.classification
    logits = forward_for(run.config.model, task).logits_by_rows(run.weights(step), task.tokens[task.train_mask])
    return logits.numpy(), task.labels[task.train_mask].numpy()


def sums_to_one(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose sum of exp(z - z_max) is 1 in float32, by numpy (Prieto et al. 2025)."""
    terms = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float32)
    right = logits.argmax(axis=1) == labels
    return float(np.mean((terms.sum(axis=1, dtype=np.float32) == 1) & right))


def losses_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log(1 + sum over the wrong classes of exp(z - z_correct)), in extended precision."""
    wide, rows = logits.astype(np.longdouble), np.arange(len(labels))
    terms = np.exp(wide - wide[rows, labels][:, None])
    terms[rows, labels] = 0
    return np.log1p(terms.sum(axis=1))


class NoReading(TorchDispatchMode):
    """Refuses operations that copy a number from the device to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


# --- what is computed ------------------------------------------------------------------------------------------------


def spread(n: int = 200, c: int = 7, widest: float = 40.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of n correctly classified examples, with margins from about 0 to `widest`."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(c, (n,), generator=generator)
    logits = torch.rand(n, c, generator=generator)
    return logits.scatter(1, labels[:, None], torch.linspace(1, widest, n)[:, None]), labels


class TestRounded:
    def test_plain_float32_collapses_where_the_sum_is_one(self):
        logits, labels = spread()
        found = rounded(PLAIN, logits, labels)
        expected = sums_to_one(logits.numpy(), labels.numpy())
        assert 0.4 < expected < 0.7
        assert found.collapsed == expected
        assert found.exact == pytest.approx(float(losses_of(logits.numpy(), labels.numpy()).mean()), rel=1e-12)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_exact_form_drops_terms_below_1e_24(self, dtype):
        """There is no collapse where plain float32 collapses; terms dropped on purpose are far smaller."""
        logits, labels = spread()
        assert rounded(replace(BASE, loss_dtype=dtype), logits, labels).collapsed == 0.0
        logits, labels = spread(widest=100.0)
        parts = losses_of(logits.numpy(), labels.numpy()) / len(labels)
        found = rounded(replace(BASE, loss_dtype=dtype), logits, labels)
        assert found.collapsed == float(np.mean(parts < 1e-24))
        assert 0.4 < found.collapsed < 0.7

    @pytest.mark.parametrize(
        ("dtype", "margin", "zero"),
        [
            ("float32_plain", 10.0, False),
            ("float32_plain", 18.0, True),
            ("float32", 80.0, False),
            ("float32", 110.0, True),
            ("float64", 110.0, False),
            ("float64", 740.0, False),
            ("float64", 760.0, True),
        ],
    )
    def test_the_loss_is_zero_from_these_margins_on(self, dtype, margin, zero):
        logits = torch.zeros(6, 3)
        logits[:, 1] = margin
        found = rounded(replace(BASE, loss_dtype=dtype), logits, torch.ones(6, dtype=torch.int64))
        assert (found.loss == 0) == zero
        if margin < 700:
            assert found.exact == pytest.approx(math.log1p(2 * math.exp(-margin)), rel=1e-12)

    @pytest.mark.parametrize("loss", ["mse", "stablemax"])
    def test_other_losses_do_not_collapse(self, loss):
        logits, labels = spread(widest=1e4)
        found = rounded(replace(BASE, loss=loss), logits, labels)
        assert found.collapsed == 0.0
        assert found.loss == pytest.approx(found.exact, rel=1e-5)

    def test_the_median_margin(self):
        logits, labels = spread(n=201)
        z, rows = logits.numpy().copy(), np.arange(201)
        correct = z[rows, labels.numpy()].copy()
        z[rows, labels.numpy()] = -np.inf
        assert median_margin(logits, labels) == pytest.approx(float(np.median(correct - z.max(axis=1))), rel=1e-6)

    def test_gradients(self):
        zero, tiny, nan = torch.zeros(3, 2), torch.tensor([0.0, 1e-45]), torch.tensor([math.nan])
        assert not any_nonzero([zero, None, torch.zeros(4)])
        assert any_nonzero([zero, tiny])
        assert any_nonzero([nan, zero])

    def test_the_host_does_not_wait_for_gradients(self):
        """It is part of a captured CUDA graph."""
        with NoReading():
            found = any_nonzero([torch.zeros(3), torch.ones(2)])
        assert bool(found)

    def test_names_of_non_finite_tensors(self):
        tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, math.nan]), "c": torch.tensor([-math.inf])}
        assert not_finite(tensors) == ["b", "c"]


# --- trainings that lose something -----------------------------------------------------------------------------------


class TestTrainings:
    @pytest.mark.parametrize("name", LOSING)
    def test_each_kind_is_reported_once_with_its_step(self, name, trained):
        found = findings(trained[name])
        assert [finding.kind for finding in found] == LOSING[name][1]
        for finding in found:
            assert f"step {finding.step}" in finding.message
            assert "\n" not in finding.message

    def test_collapse_in_plain_float32_is_reported_at_its_first_evaluated_step(self, trained):
        run = trained["plain float32"]
        collapse, underflow = findings(run)
        shares = {step: sums_to_one(*logits_at(run, step)) for step in run.steps}
        assert collapse.step == min(step for step, share in shares.items() if share > 0.5)
        assert f"{shares[collapse.step]:.0%} of the training examples" in collapse.message
        assert underflow.step == min(step for step, share in shares.items() if share == 1)
        exact = losses_of(*logits_at(run, underflow.step)).mean()
        assert f"its exact value is {exact:.2g}" in underflow.message
        assert exact > 1e-10

    @pytest.mark.parametrize("name", ["exact float32", "float64"])
    def test_collapse_of_the_exact_form_is_reported_when_most_examples_have_no_gradient(self, name, trained):
        run = trained[name]
        counts = {step: losses_of(*logits_at(run, step)) for step in run.steps}
        lost = [step for step, each in counts.items() if np.mean(each / len(each) < 1e-24) > 0.5]
        assert findings(run)[0].step == lost[0] > 0

    def test_a_loss_that_is_zero_in_float32_is_none_in_float64(self, trained):
        underflow = findings(trained["exact float32"])[-1]
        exact = losses_of(*logits_at(trained["exact float32"], underflow.step))
        assert 0 < exact.max() < 1e-44
        assert "loss_underflow" not in [finding.kind for finding in findings(trained["float64"])]

    def test_neurons_are_dead_where_gradients_are_zero(self, trained):
        run = trained["dead neurons"]
        (finding,) = findings(run)
        assert finding.step == 5
        task = run.classification
        forward = forward_for(run.config.model, task)
        neurons = forward.activity(run.weights(5), task.tokens[task.train_mask]).neurons
        assert (neurons == 0).all()
        assert all(torch.equal(weight, run.weights(100)[name]) for name, weight in run.weights(5).items())

    @pytest.mark.parametrize("evaluate_every", [1, 50])
    def test_a_divergence_names_its_cause(self, evaluate_every, tmp_path, caplog):
        schedule = replace(SCHEDULE, evaluate_every=evaluate_every)
        run = train(replace(DIVERGING, schedule=schedule), tmp_path / "run", progress=False)
        (finding,) = findings(run)
        assert (run.status["status"], finding.step) == ("diverged", 2)
        assert run.status["reason"] == "the training loss was not finite at step 2"
        cause = "the weights are finite, but the logits are not"
        if evaluate_every == 50:
            cause = "weights and losses were finite at step 0, the last evaluated step"
        assert finding.message == f"{run.status['reason']}: {cause}"
        assert [record.getMessage() for record in caplog.records] == [f"{run.path}: {finding.message}"]

    @pytest.mark.parametrize("name", ["plain float32", "float64", "dead neurons", "a huge learning rate"])
    def test_problems_are_reported_on_every_device(self, name, device, tmp_path):
        config, kinds = LOSING[name]
        found = findings(train(config, tmp_path / "run", progress=False, device=device))
        assert [finding.kind for finding in found] == kinds

    def test_the_log_names_run_and_step_once(self, tmp_path, caplog):
        run = train(PLAIN, tmp_path / "run", progress=False)
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warned == [f"{run.path}: {finding.message}" for finding in findings(run)]
        assert len(warned) == 2

    @pytest.mark.parametrize("name", SOUND)
    def test_a_sound_training_has_no_warnings(self, name, tmp_path, caplog):
        run = train(SOUND[name], tmp_path / "run", progress=False)
        assert run.status["warnings"] == []
        assert not caplog.records

    def test_a_run_that_groks_has_no_warnings(self):
        """Every checkpoint of run42, from its first step to long after it grokked."""
        run = Run.open(RUN42)
        task = run.classification
        monitor = Monitor(run.config, task, run.path, [])
        for step in run.steps:
            weights = run.weights(step)
            logits = forward_for(run.config.model, task).logits_by_rows(weights, task.tokens)
            monitor.check(step, logits, weights, evaluate(task, logits, weights), zero_gradients=False)
        assert monitor.findings == []
        assert monitor.finite_at == run.steps[-1]
        assert run.metrics["train_loss"].min() < 1e-5

    def test_gradients_are_only_checked_before_an_evaluation(self, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(trainer, "any_nonzero", lambda grads: asked.append(True) or any_nonzero(grads))
        train(replace(BASE, schedule=replace(SCHEDULE, evaluate_every=20)), tmp_path / "run", progress=False)
        assert len(asked) == 5


# --- what an evaluation sees that a training seldom does -------------------------------------------------------------


class TestMonitor:
    def check(self, config: RunConfig, task: Any, outputs: torch.Tensor, **weights: torch.Tensor) -> list[Finding]:
        monitor = Monitor(config, task, Path("run"), [])
        monitor.check(7, outputs, weights, evaluate(task, outputs, weights, config.loss), zero_gradients=False)
        return monitor.findings

    def test_non_finite_weights_with_a_finite_training_loss(self):
        task = Task.from_config(BASE.task)
        (found,) = self.check(BASE, task, torch.zeros(25, 5), W=torch.tensor([math.inf]))
        assert (found.step, found.kind) == (7, "non_finite")
        assert found.message == "at step 7 weights are not finite (W), although the training loss is finite"

    def test_non_finite_logits_of_test_inputs(self):
        task = Task.from_config(BASE.task)
        logits = torch.zeros(25, 5)
        logits[task.test_mask, 0] = math.nan
        (found,) = self.check(BASE, task, logits, W=torch.ones(2))
        assert found.message.startswith("at step 7 the weights are finite, but the logits are not, although")

    @pytest.mark.parametrize(
        ("dtype", "margin", "kinds"),
        [
            ("float32_plain", 16.0, []),
            ("float32_plain", 18.5, ["softmax_collapse", "loss_underflow"]),
            ("float32", 50.0, []),
            ("float32", 58.0, ["softmax_collapse"]),
            ("float64", 50.0, []),
            ("float64", 58.0, ["softmax_collapse"]),
        ],
    )
    def test_rounding_is_checked_from_the_margins_where_it_can_matter(self, dtype, margin, kinds):
        """With 4 wrong classes: e^-16 is 1.1e-7, 4 e^-18.5 is 3.7e-8, and 4 e^-58 / 15 is 1.7e-26."""
        task = Task.from_config(BASE.task)
        logits = margin * torch.eye(5)[task.labels]
        assert [found.kind for found in self.check(replace(BASE, loss_dtype=dtype), task, logits)] == kinds

    @pytest.mark.parametrize(("difference", "kinds"), [(0.0, []), (1e-23, ["loss_underflow"]), (1e-3, [])])
    def test_squares_of_a_regression_underflow_but_a_perfect_fit_does_not(self, difference, kinds):
        config = replace(preset("teacher-student"), task=RegressionConfig(threshold=1e-3))
        task = RegressionTask.from_config(config.task)
        exact = task.labels.float()
        task = replace(task, labels=torch.zeros_like(exact).double())
        assert [found.kind for found in self.check(config, task, torch.full_like(exact, difference))] == kinds

    def test_invalid_and_missing_warnings_of_a_status_are_ignored(self):
        whole = {"step": 3, "kind": "diverged", "message": "m"}
        assert findings_in({}) == findings_in({"warnings": None}) == findings_in({"warnings": "x"}) == []
        damaged = [whole, 3, {"step": "4", "kind": "diverged", "message": "m"}, {"step": 4}]
        assert findings_in({"warnings": damaged}) == [Finding(3, "diverged", "m")]


# --- going on --------------------------------------------------------------------------------------------------------


class Death(Callback):
    def __init__(self, step: int):
        self.at = step

    def on_step(self, step: int) -> None:
        if step == self.at:
            raise KeyboardInterrupt


def result(path: Path) -> dict[str, bytes]:
    files = [path / "metrics.jsonl", path / "resume.safetensors", *(path / "weights").glob("step_*.safetensors")]
    return {file.name: file.read_bytes() for file in files}


class TestResuming:
    @pytest.mark.parametrize("name", LOSING)
    def test_a_resumed_run_has_the_same_warnings_bit_for_bit(self, name, trained, tmp_path):
        config = LOSING[name][0]
        deaths = [step for step in (12, 30, 61, 76) if step < trained[name].status["step"]]
        for i, step in enumerate(deaths):
            with pytest.raises(KeyboardInterrupt):
                train(config, tmp_path / "run", callbacks=[Death(step)], progress=False, resume=i > 0)
        run = train(config, tmp_path / "run", progress=False, resume=bool(deaths))
        assert run.status["warnings"] == trained[name].status["warnings"]
        assert result(run.path) == result(trained[name].path)

    def test_later_warnings_are_dropped_and_reported_again(self, trained, tmp_path, caplog):
        collapse, underflow = findings(trained["plain float32"])
        assert collapse.step < 25 < 50 < underflow.step < 75, "one before a resume point, one after it"
        with pytest.raises(KeyboardInterrupt):
            train(PLAIN, tmp_path / "run", callbacks=[Death(74)], progress=False)
        assert findings(Run.open(tmp_path / "run")) == [collapse, underflow]
        caplog.clear()
        train(PLAIN, tmp_path / "run", resume=True, progress=False)
        assert [underflow.message in record.getMessage() for record in caplog.records] == [True]

    def test_a_warning_is_on_the_disk_before_the_next_resume_point(self, trained, tmp_path):
        """A run killed right after that resume point would not warn again."""
        collapse, _ = findings(trained["plain float32"])
        seen = []

        class Reader(Callback):
            def on_step(self, step: int) -> None:
                if step == collapse.step + 1:
                    seen.append(json.loads((tmp_path / "run" / "status.json").read_text()))

        train(PLAIN, tmp_path / "run", callbacks=[Reader()], progress=False)
        (status,) = seen
        assert findings_in(status) == [collapse]
        assert (status["status"], status["step"]) == ("running", collapse.step // 25 * 25)

    def test_members_of_an_ensemble_have_their_own_warnings(self, tmp_path):
        sound = replace(DEAD, optimizer=replace(SGD, lr=0.1))
        configs = [sound, DEAD, replace(DIVERGING, model=DEAD.model)]
        alone = [train(config, tmp_path / f"alone{i}", progress=False) for i, config in enumerate(configs)]
        together = train_many(configs, [tmp_path / f"member{i}" for i in range(3)], progress=False)
        assert [[finding.kind for finding in findings(run)] for run in alone] == [[], ["zero_gradients"], ["diverged"]]
        for one, other in zip(together, alone, strict=True):
            assert [(f.step, f.kind) for f in findings(one)] == [(f.step, f.kind) for f in findings(other)]

    def test_an_analysis_includes_the_warnings(self, trained):
        for name in ("plain float32", "a huge learning rate"):
            analysis = analyze(trained[name].path, workers=0)
            messages = [finding.message for finding in findings(trained[name])]
            assert list(analysis.warnings[: len(messages)]) == messages
            assert analysis.summary()["warnings"] == list(analysis.warnings)
