"""train: the content of a run, its minibatches, divergence, and refused calls."""

import json
import sys
from dataclasses import replace
from importlib.metadata import version
from itertools import chain

import numpy as np
import pytest
import torch
from trainings import (
    CONFIGS,
    MINIBATCH_MLP,
    PATHS,
    TRANSFORMER,
    P,
    briefly,
    contents,
    result,
    shortened,
)

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
)
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import task_of
from grokinterp.models.products import library
from grokinterp.runs.environment import describe_environment, processor, rounding_changes
from grokinterp.runs.run import Run
from grokinterp.training import train, trainer
from grokinterp.training.gradients import gradients_function

OTHER = {
    "learning rate": replace(MINIBATCH_MLP, optimizer=replace(MINIBATCH_MLP.optimizer, lr=0.1)),
    "modulus": replace(MINIBATCH_MLP, task=TaskConfig(p=11, train_fraction=0.5)),
    "split": replace(MINIBATCH_MLP, task=replace(MINIBATCH_MLP.task, data_seed=1)),
    "model": TRANSFORMER,
    "model seed": replace(MINIBATCH_MLP, model_seed=4),
    "loss": replace(MINIBATCH_MLP, loss="mse"),
    "evaluated steps": shortened(MINIBATCH_MLP, evaluate_every=10),
    "resume points": shortened(MINIBATCH_MLP, resume_every=10),
    "steps and learning rate": shortened(
        replace(MINIBATCH_MLP, optimizer=replace(MINIBATCH_MLP.optimizer, lr=0.1)), steps=400
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("config", OTHER.values(), ids=OTHER)
    def test_resuming_with_another_configuration(self, config, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r": [a-z_.]+ was .+, not .+; only schedule.steps may change"):
            train(config, run.path, resume=True)
        assert contents(run.path) == before

    def test_resuming_with_fewer_steps(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r"200 steps, more than the 150 given: schedule.steps may only grow"):
            train(shortened(MINIBATCH_MLP, steps=150), run.path, resume=True)
        assert contents(run.path) == before

    def test_resuming_what_is_no_run(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(RunError, match="is not an empty folder"):
            train(MINIBATCH_MLP, tmp_path, resume=True)
        assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]

    def test_resuming_from_another_runs_weights(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(ConfigError, match=r"start_from|--from"):
            train(MINIBATCH_MLP, run.path, resume=True, start_from=f"{run.path}@50")
        assert contents(run.path) == before

    def test_overwriting_a_run(self, undisturbed):
        run = undisturbed["minibatch_mlp"]
        before = contents(run.path)
        with pytest.raises(RunError, match=r"already holds a run: resume it .*, or choose another folder"):
            train(MINIBATCH_MLP, run.path)
        assert contents(run.path) == before

    def test_overwriting_a_folder_that_is_not_empty(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("chapter 1")
        with pytest.raises(RunError, match="is not an empty folder: choose another"):
            train(MINIBATCH_MLP, tmp_path)
        assert contents(tmp_path) == {"thesis.tex": b"chapter 1"}

    def test_overwriting_a_file(self, tmp_path):
        (tmp_path / "run").write_text("a file")
        with pytest.raises(RunError, match="choose another"):
            train(MINIBATCH_MLP, tmp_path / "run")
        assert (tmp_path / "run").read_text() == "a file"

    def test_a_folder_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("a file")
        with pytest.raises(RunError, match="cannot create the folder"):
            train(MINIBATCH_MLP, tmp_path / "file" / "run")

    def test_an_empty_folder_is_fine(self, tmp_path):
        assert train(briefly(), tmp_path).status["status"] == "finished"

    @pytest.mark.parametrize(
        "config",
        [
            replace(MINIBATCH_MLP, optimizer=None),
            replace(MINIBATCH_MLP, schedule=None),
            replace(MINIBATCH_MLP, model=RecordedConfig()),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=None, split="unknown")),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=0.5, split="given")),
            replace(MINIBATCH_MLP, task=TaskConfig(p=P, train_fraction=0.01)),
        ],
        ids=[
            "no optimizer",
            "no schedule",
            "recorded model",
            "unknown split",
            "split without indices",
            "nothing to train",
        ],
    )
    def test_a_configuration_that_cannot_be_trained(self, config, tmp_path):
        with pytest.raises(ConfigError):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("resume", [False, True])
    def test_matrix_products_by_an_unknown_library(self, resume, tmp_path, monkeypatch):
        if resume:
            train(briefly(TRANSFORMER), tmp_path / "run")
        before = contents(tmp_path)
        library.cache_clear()
        monkeypatch.setenv("GROKINTERP_PRODUCTS", "blas")
        message = r"^GROKINTERP_PRODUCTS='blas' is not a library: set it to onednn or torch$"
        with pytest.raises(ConfigError, match=message):
            train(briefly(TRANSFORMER, steps=20), tmp_path / "run", resume=resume)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            ("cuda", "this machine has no device .*: use --device cpu"),
            ("cuda:1", "this machine has no device .*: use --device cpu"),
            ("mps", "this machine has no device .*: use --device cpu"),
            ("tpu", "unknown device .tpu.: use auto, cpu, cuda or mps"),
        ],
    )
    def test_a_device_that_the_machine_lacks(self, device, message, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=message):
            train(MINIBATCH_MLP, tmp_path / "run", device=device)
        assert not (tmp_path / "run").exists()


class TestStartFrom:
    def test_the_first_checkpoint_is_the_other_runs(self, tmp_path, undisturbed):
        source = undisturbed["minibatch_mlp"]
        run = train(replace(briefly(), model_seed=99), tmp_path / "run", start_from=f"{source.path}@150")
        expected = source.weights(150)
        assert run.weights(0).keys() == expected.keys()
        for name, weight in run.weights(0).items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
        assert run.environment["start_from"] == f"{source.path}@150"

    @pytest.mark.parametrize(
        ("reference", "kind", "message"),
        [
            ("{path}@151", RunError, "has no weights of step 151: the nearest checkpoint is at step 150"),
            ("{path}", ConfigError, "does not have the form RUN@STEP"),
            ("{path}@last", ConfigError, "does not have the form RUN@STEP"),
            ("{path}_none@0", RunError, "does not exist"),
        ],
    )
    def test_a_reference_to_nothing(self, reference, kind, message, tmp_path, undisturbed):
        reference = reference.format(path=undisturbed["minibatch_mlp"].path)
        with pytest.raises(kind, match=message):
            train(briefly(), tmp_path / "run", start_from=reference)
        assert not (tmp_path / "run").exists()

    def test_weights_of_another_shape(self, tmp_path, undisturbed):
        wider = replace(briefly(), model=MLPConfig(width=24, depth=2))
        with pytest.raises(RunError, match="do not fit this model"):
            train(wider, tmp_path / "run", start_from=f"{undisturbed['minibatch_mlp'].path}@50")
        assert not (tmp_path / "run").exists()


def by_hand(run: Run, step: int) -> dict[str, float]:
    """A row of metrics.jsonl, computed from a checkpoint with the module itself, in float64."""
    task, config = run.task, run.config
    model = run.model(step).double()
    with torch.no_grad():
        logits = model(task.tokens)
    logits = logits[:, -1] if logits.ndim == 3 else logits
    labels = task.labels.tolist()
    pairs = [tuple(pair) for pair in task.inputs.tolist()]
    trained = {pair for pair, is_trained in zip(pairs, task.train_mask.tolist(), strict=True) if is_trained}
    if config.loss == "mse":
        target = torch.eye(logits.shape[1], dtype=torch.float64)[task.labels]
        losses = ((logits - target) ** 2).mean(dim=1).tolist()
    else:
        losses = [(row.logsumexp(0) - row[label]).item() for row, label in zip(logits, labels, strict=True)]
    hits = [int(row[:P].argmax()) == label for row, label in zip(logits, labels, strict=True)]
    subsets = {
        "train": [pair in trained for pair in pairs],
        "test": [pair not in trained for pair in pairs],
        "mirror": [(a, b) not in trained and (b, a) in trained for a, b in pairs],
        "novel": [(a, b) not in trained and (b, a) not in trained for a, b in pairs],
    }
    row = {f"{name}_accuracy": float(np.mean(np.array(hits)[mask])) for name, mask in subsets.items()}
    row |= {f"{name}_loss": float(np.mean(np.array(losses)[subsets[name]])) for name in ("train", "test")}
    trains = getattr(config.model, "trains", lambda name: True)
    entries = torch.cat([w.flatten() for name, w in run.weights(step).items() if trains(name)]).double()
    return row | {"weight_norm": entries.norm().item(), "weight_rms": (entries**2).mean().sqrt().item()}


class TestMetrics:
    @pytest.mark.parametrize(
        "config",
        [
            briefly(TRANSFORMER),
            briefly(replace(TRANSFORMER, model=replace(TRANSFORMER.model, equals_logit=True, biases="mlp"))),
            briefly(replace(TRANSFORMER, loss="mse")),
            briefly(),
        ],
        ids=["transformer", "class of =, trained mlp biases", "mse", "mlp"],
    )
    def test_rows_agree_with_the_weights(self, config, tmp_path):
        run = train(config, tmp_path / "run")
        assert list(run.metrics.index) == run.steps == [0, 5, 10]
        for step, row in run.metrics.iterrows():
            expected = by_hand(run, step)
            assert set(row.index) == set(expected)
            for name, value in expected.items():
                exact = name.endswith("accuracy") or name.startswith("weight")
                assert row[name] == pytest.approx(value, rel=1e-9 if exact else 1e-5), (step, name)

    def test_lines_are_plain_json_in_order_without_times(self, undisturbed):
        lines = (undisturbed["transformer"].path / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["step"] for row in rows] == list(range(0, 201, 20))
        for row in rows:
            assert not any(word in name for name in row for word in ("time", "second", "clock", "date"))

    def test_an_operation_that_does_not_commute_has_no_mirrored_pairs(self, tmp_path):
        config = replace(briefly(), task=TaskConfig(operation="subtract", p=P, train_fraction=0.5))
        columns = train(config, tmp_path / "run").metrics.columns
        assert not {"mirror_accuracy", "novel_accuracy"} & set(columns)

    @pytest.mark.parametrize("kind", PATHS)
    def test_status_and_environment_describe_the_training(self, kind, undisturbed):
        run = undisturbed[kind]
        assert run.status["reason"] == "all steps made"
        assert run.status["timing"]["seconds"] > 0
        assert run.environment["forward_path"] == PATHS[kind]
        assert run.environment["compiled"] is False
        assert run.environment["matrix_products"] in ("onednn", "torch")
        assert run.environment["device"] == "cpu"
        assert run.environment["threads"] == 1
        assert run.environment["packages"]["torch"] == version("torch")
        assert run.environment["processor"] == processor()
        assert run.environment["float32_precision"] == "highest"

    @pytest.mark.parametrize(
        ("program", "recorded"),
        [
            ("/usr/bin/grokinterp", "grokinterp train run --model-seed 3"),
            ("/lib/grokinterp/cli/__main__.py", "grokinterp train run --model-seed 3"),
            ("/home/me/mine.py", "mine.py"),
            ("", ""),
        ],
    )
    def test_the_arguments_of_other_programs_are_not_recorded(self, program, recorded, monkeypatch):
        monkeypatch.setattr(sys, "argv", [program, "train", "run", "--model-seed", "3"])
        assert describe_environment("cpu", "mlp")["command"] == recorded

    def test_a_lower_precision_of_onednn_is_recorded(self, monkeypatch):
        monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
        assert describe_environment("cpu", "mlp")["float32_precision"] == "highest; ONEDNN_DEFAULT_FPMATH_MODE=BF16"
        monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "strict")
        assert describe_environment("cpu", "mlp")["float32_precision"] == "highest"

    def test_every_cause_of_other_rounding_is_compared(self):
        old = describe_environment("cpu", "mlp")
        assert rounding_changes(old, {**old, "python": "4", "command": "other", "forward_path": "prefix"}) == []
        for name in ("processor", "device", "threads", "matrix_products", "float32_precision"):
            assert rounding_changes(old, {**old, name: "new"}) == [f"{name}: {old[name]} -> new"]
            assert rounding_changes({k: v for k, v in old.items() if k != name}, {**old, name: "new"}) == []
        assert rounding_changes(old, {**old, "packages": {"torch": "9"}}) == [f"torch: {version('torch')} -> 9"]
        assert rounding_changes({"packages": 3}, old) == []

    def test_the_environment_names_the_matrix_products_that_were_used(self, matrix_products, tmp_path):
        assert train(briefly(TRANSFORMER), tmp_path / "run").environment["matrix_products"] == matrix_products


class TestSchedules:
    def test_evaluations_and_checkpoints_are_independent(self, tmp_path):
        config = shortened(
            MINIBATCH_MLP, steps=100, evaluate_every="log:3+every:40", checkpoints="dense:10:14:2", resume_every=33
        )
        run = train(config, tmp_path / "run")
        assert list(run.metrics.index) == [0, 1, 10, 40, 80, 100]
        assert run.steps == [0, 10, 12, 14, 100]

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_evaluations_do_not_change_the_training(self, kind, tmp_path, undisturbed):
        config = shortened(CONFIGS[kind], evaluate_every=200, checkpoints=100, resume_every=1000)
        run = train(config, tmp_path / "run")
        assert run.steps == [0, 100, 200]
        for step in run.steps:
            name = f"weights/step_{step:06d}.safetensors"
            assert (run.path / name).read_bytes() == (undisturbed[kind].path / name).read_bytes()


DIVERGING = replace(
    MINIBATCH_MLP,
    optimizer=OptimizerConfig(name="sgd", lr=1e12, weight_decay=0.0),
    schedule=ScheduleConfig(steps=60, evaluate_every=1, checkpoints=1, resume_every=10),
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Run:
    """A run that diverges, with an evaluation at every step."""
    return train(DIVERGING, tmp_path_factory.mktemp("diverged") / "run")


class TestDivergence:
    def test_the_first_step_with_a_non_finite_loss_is_named(self, watched):
        losses = watched.metrics["train_loss"]
        assert watched.status["status"] == "diverged"
        assert losses.isna().sum() == 1
        assert watched.status["reason"] == f"the training loss was not finite at step {losses.index[-1]}"
        assert losses.index[-1] < 60

    def test_the_run_opens_and_its_weights_are_finite(self, watched):
        run = Run.open(watched.path)
        assert run.steps == list(range(int(run.metrics.index[-1])))
        for step in run.steps:
            assert all(torch.isfinite(weight).all() for weight in run.weights(step).values())

    def test_nan_is_null_in_the_metrics(self, watched):
        last = (watched.path / "metrics.jsonl").read_text().splitlines()[-1]
        assert "NaN" not in last
        assert "Infinity" not in last
        assert json.loads(last)["train_loss"] is None

    def test_the_same_step_is_named_without_an_evaluation_there(self, watched, tmp_path):
        run = train(shortened(DIVERGING, evaluate_every=50, checkpoints=60, resume_every=1000), tmp_path / "run")
        assert run.status["status"] == "diverged"
        assert run.status["reason"] == watched.status["reason"]
        assert list(run.metrics.index) == [0]

    def test_resuming_diverges_again(self, watched):
        before = result(watched.path)
        again = train(DIVERGING, watched.path, resume=True)
        assert again.status["status"] == "diverged"
        assert result(watched.path) == before


def watch_batches(monkeypatch) -> list[list[tuple[int, int]]]:
    """Records the pairs of each update, in order."""
    seen: list[list[tuple[int, int]]] = []

    def watched(config, forward, weights, **options):
        gradients = gradients_function(config, forward, weights, **options)

        def noted(tokens, labels):
            assert torch.equal(labels, tokens[:, :2].sum(dim=1) % P)
            seen.append([tuple(pair) for pair in tokens[:, :2].tolist()])
            return gradients(tokens, labels)

        return noted

    monkeypatch.setattr(trainer, "gradients_function", watched)
    return seen


class TestMinibatches:
    def trained_on(self, config: RunConfig) -> set[tuple[int, int]]:
        task = task_of(config)
        return {tuple(pair) for pair in task.inputs[task.train_mask].tolist()}

    def config(self, batch_size: int | None, steps: int, model_seed: int = 3, kind: str = "minibatch_mlp") -> RunConfig:
        config = CONFIGS[kind]
        assert config.optimizer is not None
        optimizer = replace(config.optimizer, batch_size=batch_size)
        return replace(briefly(config, steps), optimizer=optimizer, model_seed=model_seed)

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_each_epoch_covers_the_training_set_in_a_new_order(self, kind, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        config = self.config(8, 9, kind=kind)
        train(config, tmp_path / "run")
        assert [len(batch) for batch in seen] == [8] * 9
        epochs = [[*chain(*seen[i : i + 3])] for i in (0, 3, 6)]
        for epoch in epochs:
            assert len(epoch) == 24
            assert set(epoch) == self.trained_on(config)
        assert epochs[0] != epochs[1] != epochs[2]

    @pytest.mark.parametrize("kind", CONFIGS)
    def test_the_remainder_of_an_epoch_is_dropped(self, kind, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        train(self.config(7, 9, kind=kind), tmp_path / "run")
        assert [len(batch) for batch in seen] == [7] * 9
        for i in (0, 3, 6):
            assert len({*chain(*seen[i : i + 3])}) == 21

    @pytest.mark.parametrize("batch_size", [None, 24, 1000])
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_a_batch_may_be_the_whole_training_set(self, kind, batch_size, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        config = self.config(batch_size, 3, kind=kind)
        train(config, tmp_path / "run")
        assert len(seen) == 3
        for batch in seen:
            assert len(batch) == 24
            assert set(batch) == self.trained_on(config)

    def test_the_order_comes_from_the_models_seed(self, tmp_path, monkeypatch):
        seen = watch_batches(monkeypatch)
        for i, seed in enumerate((3, 3, 4)):
            train(self.config(8, 6, seed), tmp_path / str(i))
        assert seen[:6] == seen[6:12]
        assert seen[:6] != seen[12:]
