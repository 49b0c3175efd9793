"""train_many: every member is the run that `train` would have made, in a folder of its own, however the others fare."""

import errno
import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from grokinterp.config import (
    MLPConfig,
    OptimizerConfig,
    RecordedConfig,
    RunConfig,
    ScheduleConfig,
    TaskConfig,
    TransformerConfig,
)
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.run import Run
from grokinterp.training import Callback, ensemble, ensemble_pays, train, train_many, trainer
from grokinterp.training.callbacks import ProgressBar
from grokinterp.training.ensemble_optimizer import Stack

P = 7
SCHEDULE = ScheduleConfig(steps=30, evaluate_every=10, checkpoints=10, resume_every=10)
TRANSFORMER = TransformerConfig(d_model=16, n_heads=2, d_mlp=32)
MLP = MLPConfig(width=16, depth=2)
ADAMW = OptimizerConfig(lr=3e-3, weight_decay=0.5)
MOMENTUM = OptimizerConfig(name="sgd", lr=0.03, momentum=0.9, weight_decay=1e-2)


def config_of(model: Any, optimizer: OptimizerConfig = ADAMW, **more: Any) -> RunConfig:
    task = TaskConfig(p=P, train_fraction=0.5)
    return RunConfig(**({"task": task, "model": model, "optimizer": optimizer, "schedule": SCHEDULE} | more))


NOISY = TaskConfig(p=P, train_fraction=0.5, label_noise=0.2)
KINDS = {
    "transformer": config_of(TRANSFORMER),
    "transformer, trained biases": config_of(replace(TRANSFORMER, biases="trained", init="torch", activation="gelu")),
    "transformer without =": config_of(replace(TRANSFORMER, equals_token=False, biases="mlp")),
    "transformer, class of =, float32 loss": config_of(replace(TRANSFORMER, equals_logit=True), loss_dtype="float32"),
    "transformer, two layers, LayerNorm": config_of(replace(TRANSFORMER, n_layers=2, normalization="layernorm")),
    "transformer, squared error, noisy labels": config_of(TRANSFORMER, loss="mse", task=NOISY),
    "mlp, minibatches": config_of(MLP, replace(ADAMW, batch_size=7)),
    "mlp, embedded, minibatches": config_of(replace(MLP, input="concat"), replace(ADAMW, batch_size=7)),
    "mlp, residual": config_of(replace(MLP, input="sum", architecture="residual")),
    "mlp, squared error, float32": config_of(MLP, loss="mse", loss_dtype="float32"),
    "adamw, warm-up": config_of(MLP, replace(ADAMW, warmup_steps=12)),
    "adamw, clip": config_of(MLP, replace(ADAMW, clip=0.05)),
    "adam": config_of(MLP, OptimizerConfig(name="adam", lr=3e-3, weight_decay=0.01)),
    "adam, everything": config_of(
        MLP, OptimizerConfig(name="adam", lr=3e-3, weight_decay=0.01, warmup_steps=12, clip=0.05, batch_size=7)
    ),
    "sgd": config_of(MLP, replace(MOMENTUM, momentum=0.0)),
    "sgd, momentum": config_of(MLP, replace(MOMENTUM, batch_size=7)),
    "sgd, decoupled": config_of(MLP, replace(MOMENTUM, decay="decoupled", warmup_steps=12, clip=0.5)),
}


def variants(config: RunConfig, count: int = 3) -> list[RunConfig]:
    """Runs of one shape: other seeds, learning rates, weight decays, sizes of the initialization."""
    given = config.optimizer
    assert given is not None
    return [
        replace(
            config,
            model_seed=i,
            task=replace(config.task, data_seed=10 + i, split=("torch", "python", "numpy")[i % 3]),
            model=replace(config.model, init_scale=1.0 - 0.1 * i),
            optimizer=replace(given, lr=given.lr * (1 + 0.5 * i), weight_decay=given.weight_decay * abs(2 - i)),
        )
        for i in range(count)
    ]


def lasting(config: RunConfig, steps: int, **schedule: Any) -> RunConfig:
    assert config.schedule is not None
    return replace(config, schedule=replace(config.schedule, steps=steps, **schedule))


def places(folder: Path, count: int) -> list[Path]:
    return [folder / f"member{i}" for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def result(run: Run) -> dict[str, bytes]:
    """Metrics, kept weights, and the state that a longer run would start from."""
    files = [run.path / "metrics.jsonl", run.path / "resume.safetensors", *(run.path / "weights").glob("*.safetensors")]
    return {file.name: file.read_bytes() for file in files}


def distances(found: Run, expected: Run, step: int = 30) -> dict[str, float]:
    """How far apart two runs of one initialization are, in units of how far training has moved each tensor."""
    start, ours, theirs = expected.weights(0), found.weights(step), expected.weights(step)
    assert list(ours) == list(theirs)
    assert all(torch.equal(weight, start[name]) for name, weight in found.weights(0).items())
    moved = {name: (theirs[name] - start[name]).norm().item() for name in theirs}
    return {
        name: (ours[name] - theirs[name]).norm().item() / moved[name]
        if moved[name]
        else float(not torch.equal(ours[name], start[name]))
        for name in theirs
    }


def assert_same_weights(found: Run, expected: Run, step: int = 30) -> None:
    """Equal but for rounding.

    One rounding of a float32 is 6e-8 of it; what 30 updates make of that stays around 1e-6 of the distance moved (the
    tolerance is ten times that), where a wrong hyperparameter or batch makes it 1e-2 and more. But b_K adds the same to
    all scores of a query: its gradient is rounding alone, and Adam makes whole steps of it.
    """
    for name, distance in distances(found, expected, step).items():
        if not name.endswith("b_K"):
            assert distance <= 1e-5, (name, distance)


def assert_same_metrics(found: Run, expected: Run) -> None:
    ours, theirs = found.metrics, expected.metrics
    assert list(ours.index) == list(theirs.index)
    assert list(ours.columns) == list(theirs.columns)
    # b_K is a part of the norm of the weights.
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(), rtol=1e-4, atol=1e-12)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Of a kind: three variants trained together, and the same three one by one; each kind is trained once."""
    done: dict[str, tuple[list[Run], list[Run]]] = {}

    def of(kind: str) -> tuple[list[Run], list[Run]]:
        if kind not in done:
            folder = tmp_path_factory.mktemp("trained")
            configs = variants(KINDS[kind])
            together = train_many(configs, places(folder, 3))
            done[kind] = together, [train(config, folder / f"alone{i}") for i, config in enumerate(configs)]
        return done[kind]

    return of


class TestEachMemberIsTheRunItWouldBeAlone:
    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_and_metrics(self, kind, trained):
        for found, expected in zip(*trained(kind), strict=True):
            for step in (10, 20, 30):
                assert_same_weights(found, expected, step)
            assert_same_metrics(found, expected)

    @pytest.mark.parametrize("kind", ["transformer", "adam, everything", "sgd", "sgd, momentum"])
    def test_the_folder(self, kind, trained):
        for found, expected in zip(*trained(kind), strict=True):
            assert contents(found.path).keys() == contents(expected.path).keys()
            assert found.config == expected.config
            assert found.steps == expected.steps == [0, 10, 20, 30]
            assert found.status.keys() == expected.status.keys()
            for name in ("status", "step", "reason"):
                assert found.status[name] == expected.status[name]
            assert found.status["checksums"] == {
                **{f"weights/step_{step:06d}.safetensors": found.checksum(step) for step in found.steps},
                **{
                    name: hashlib.sha256((found.path / name).read_bytes()).hexdigest()
                    for name in ("config.json", "metrics.jsonl")
                },
            }
            assert found.environment.keys() == expected.environment.keys() | {"ensemble"}
            assert found.environment["ensemble"] == 3
            assert found.environment["forward_path"] == expected.environment["forward_path"]

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_resume_point(self, kind, trained):
        for found, expected in zip(*trained(kind), strict=True):
            ours, theirs = (load_file(run.path / "resume.safetensors") for run in (found, expected))
            assert ours.keys() == theirs.keys()
            for name, tensor in theirs.items():
                assert ours[name].dtype == tensor.dtype
                assert ours[name].shape == tensor.shape
                if name.startswith("batches") or name.endswith(":step"):
                    assert torch.equal(ours[name], tensor)

    def test_a_member_without_momentum_beside_one_with_it(self, tmp_path):
        configs = [config_of(MLP, replace(MOMENTUM, momentum=momentum)) for momentum in (0.0, 0.9)]
        runs = train_many(configs, places(tmp_path, 2))
        for i, config in enumerate(configs):
            alone = train(config, tmp_path / f"alone{i}")
            assert_same_weights(runs[i], alone)
            points = [load_file(run.path / "resume.safetensors").keys() for run in (runs[i], alone)]
            assert points[0] == points[1]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_loss_has_the_dtype_asked_for(self, dtype, tmp_path, monkeypatch):
        loss, seen = ensemble.LOSSES_AND_GRADIENTS["cross_entropy"], []

        def watched(logits: Tensor, labels: Tensor, count: int) -> Any:
            seen.append((logits.dtype, count))
            return loss(logits, labels, count)

        monkeypatch.setitem(ensemble.LOSSES_AND_GRADIENTS, "cross_entropy", watched)
        train_many([lasting(config_of(MLP, loss_dtype=dtype), 3)] * 2, places(tmp_path, 2))
        assert seen == [(getattr(torch, dtype), 24)] * 3

    def test_random_labels_and_other_initializations(self, tmp_path):
        base = config_of(TRANSFORMER)
        configs = [
            base,
            replace(base, task=replace(base.task, random_labels=True)),
            replace(base, model=replace(TRANSFORMER, init="nanda")),
        ]
        for i, run in enumerate(train_many(configs, places(tmp_path, 3))):
            assert_same_weights(run, train(configs[i], tmp_path / f"alone{i}"))

    @pytest.mark.parametrize("count", [1, 5])
    def test_any_number_of_members(self, count, tmp_path):
        configs = variants(lasting(KINDS["mlp, minibatches"], 10), count)
        for i, run in enumerate(train_many(configs, places(tmp_path, count))):
            assert_same_weights(run, train(configs[i], tmp_path / f"alone{i}"), 10)

    def test_none_at_all(self):
        assert train_many([], []) == []


BASE = config_of(MLP, replace(ADAMW, warmup_steps=4, clip=0.5), schedule=replace(SCHEDULE, steps=10))
BASE_SGD = replace(BASE, optimizer=replace(MOMENTUM, clip=0.5))
SETTINGS = {
    "lr": replace(BASE, optimizer=replace(BASE.optimizer, lr=6e-3)),
    "weight decay": replace(BASE, optimizer=replace(BASE.optimizer, weight_decay=3.0)),
    "first beta": replace(BASE, optimizer=replace(BASE.optimizer, betas=(0.5, 0.98))),
    "second beta": replace(BASE, optimizer=replace(BASE.optimizer, betas=(0.9, 0.5))),
    "eps": replace(BASE, optimizer=replace(BASE.optimizer, eps=1e-2)),
    "warm-up": replace(BASE, optimizer=replace(BASE.optimizer, warmup_steps=8)),
    "clip": replace(BASE, optimizer=replace(BASE.optimizer, clip=0.01)),
    "momentum": replace(BASE_SGD, optimizer=replace(BASE_SGD.optimizer, momentum=0.5)),
    "lr of sgd": replace(BASE_SGD, optimizer=replace(BASE_SGD.optimizer, lr=0.06)),
    "decay of sgd": replace(BASE_SGD, optimizer=replace(BASE_SGD.optimizer, weight_decay=1.0)),
    "model seed": replace(BASE, model_seed=1),
    "data seed": replace(BASE, task=replace(BASE.task, data_seed=1)),
    "split": replace(BASE, task=replace(BASE.task, split="numpy")),
    "label noise": replace(BASE, task=replace(BASE.task, label_noise=0.3)),
    "size of the initialization": replace(BASE, model=replace(MLP, init_scale=2.0)),
    "initialization": replace(BASE, model=replace(MLP, init="normal")),
}


class TestMembersAreIndependent:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_a_setting_is_that_of_its_own_run(self, name, tmp_path):
        changed = SETTINGS[name]
        base = BASE if changed.optimizer.name == "adamw" else BASE_SGD
        runs = train_many([base, changed, base], places(tmp_path, 3))
        alone = [train(config, tmp_path / f"alone{i}") for i, config in enumerate((base, changed))]
        assert_same_weights(runs[0], alone[0], 10)
        assert_same_weights(runs[1], alone[1], 10)
        assert_same_weights(runs[2], alone[0], 10)
        ours, other = runs[0].weights(10), runs[1].weights(10)
        assert max(((ours[w] - other[w]).norm() / ours[w].norm()).item() for w in ours) > 1e-3

    @pytest.mark.parametrize("kind", ["transformer", "mlp, minibatches"])
    def test_a_member_does_not_depend_on_its_company(self, kind, trained, tmp_path):
        first, second, third = trained(kind)[0]
        other = replace(third.config, model_seed=77, task=replace(third.config.task, data_seed=77))
        configs = [other, third.config, first.config, other, other]
        runs = train_many(configs, places(tmp_path, 5))
        assert_same_weights(runs[1], third)
        assert_same_weights(runs[2], first)
        assert_same_weights(train_many([second.config], [tmp_path / "single"])[0], second)

    def test_the_same_ensemble_has_the_same_bits(self, trained, tmp_path):
        together = trained("mlp, minibatches")[0]
        again = train_many([run.config for run in together], places(tmp_path, 3))
        assert [result(run) for run in again] == [result(run) for run in together]


RESUMED = ["transformer", "adam, everything", "sgd, momentum"]


class TestResuming:
    @pytest.mark.parametrize("kind", RESUMED)
    def test_a_longer_ensemble_has_the_bits_of_one_never_stopped(self, kind, trained, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        train_many([lasting(config, 20) for config in configs], paths)
        runs = train_many(configs, paths, resume=True)
        assert [result(run) for run in runs] == [result(run) for run in trained(kind)[0]]
        for run in runs:
            assert run.status["status"] == "finished"
            (resumed,) = run.environment["resumed"]
            assert (resumed["from_step"], resumed["to_step"], resumed["ensemble"]) == (20, 30, 3)

    @pytest.mark.parametrize("kind", RESUMED)
    def test_a_member_goes_on_alone(self, kind, trained, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        train_many([lasting(config, 20) for config in configs], paths)
        for i, expected in enumerate(trained(kind)[1]):
            run = train(configs[i], paths[i], resume=True)
            assert_same_weights(run, expected)
            assert_same_metrics(run, expected)

    @pytest.mark.parametrize("kind", RESUMED)
    def test_lone_runs_go_on_together(self, kind, trained, tmp_path):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        for config, path in zip(configs, paths, strict=True):
            train(lasting(config, 20), path)
        for run, expected in zip(train_many(configs, paths, resume=True), trained(kind)[1], strict=True):
            assert_same_weights(run, expected)
            assert_same_metrics(run, expected)

    def test_what_has_finished_is_left_alone(self, trained, tmp_path):
        configs, paths = variants(KINDS["transformer"]), places(tmp_path, 3)
        train(configs[1], paths[1])
        before = contents(paths[1])
        for i in (0, 2):
            train(lasting(configs[i], 10), paths[i])
        runs = train_many(configs, paths, resume=True)
        assert contents(paths[1]) == before
        assert [run.status["step"] for run in runs] == [30, 30, 30]
        assert_same_weights(runs[2], trained("transformer")[1][2])
        before = [contents(path) for path in paths]
        train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before

    def test_without_resume_points_they_start_again(self, trained, tmp_path):
        configs, paths = variants(KINDS["transformer"]), places(tmp_path, 3)
        for run in train_many([lasting(config, 10) for config in configs], paths):
            (run.path / "resume.safetensors").unlink()
        runs = train_many(configs, paths, resume=True)
        assert [result(run) for run in runs] == [result(run) for run in trained("transformer")[0]]

    def test_a_run_that_started_from_another_starts_there_again(self, trained, tmp_path):
        source = trained("transformer")[1][0]
        config, paths = source.config, places(tmp_path, 2)
        train(lasting(config, 10), paths[0], start_from=f"{source.path}@20")
        train(lasting(config, 10), paths[1])
        for path in paths:
            (path / "resume.safetensors").unlink()
        runs = train_many([config, config], paths, resume=True)
        assert all(torch.equal(weight, source.weights(20)[name]) for name, weight in runs[0].weights(0).items())
        assert_same_weights(runs[1], source)

    def test_runs_at_different_steps_are_refused(self, tmp_path):
        configs, paths = variants(KINDS["sgd"]), places(tmp_path, 3)
        for config, path, steps in zip(configs, paths, (10, 10, 20), strict=True):
            train(lasting(config, steps), path)
        before = [contents(path) for path in paths]
        message = r"member0 resumes from step 10 but .*member2 from step 20, .*: resume them one by one with train\("
        with pytest.raises(RunError, match=message):
            train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before


def when_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Has `act` called after that update of an ensemble."""

    def on_step(self: ProgressBar, now: int) -> None:
        if now == step:
            act()

    monkeypatch.setattr(ProgressBar, "on_step", on_step)


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("kind", ["transformer", "sgd, momentum"])
    def test_an_interrupt_stops_all_and_they_resume_to_the_same_bits(
        self, kind, number, trained, tmp_path, monkeypatch
    ):
        configs, paths = variants(KINDS[kind]), places(tmp_path, 3)
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        with monkeypatch.context() as patch:
            when_step(patch, 13, lambda: os.kill(os.getpid(), number))
            runs = train_many(configs, paths)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
        for run in runs:
            status = run.status
            assert (status["status"], status["step"], status["reason"]) == ("stopped", 13, "interrupted")
        again = train_many(configs, paths, resume=True)
        assert [result(run) for run in again] == [result(run) for run in trained(kind)[0]]

    def test_a_second_interrupt_does_not_wait(self, tmp_path, monkeypatch):
        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        when_step(monkeypatch, 13, twice)
        with pytest.raises(KeyboardInterrupt):
            train_many(variants(KINDS["sgd"]), places(tmp_path, 3))
        for path in places(tmp_path, 3):
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert status["reason"].startswith("KeyboardInterrupt")

    @pytest.mark.parametrize("file", ["step_000020.safetensors", "resume.safetensors", "status.json"])
    def test_a_full_disk_leaves_every_status_true(self, file, trained, tmp_path, monkeypatch):
        configs, paths = variants(KINDS["sgd"]), places(tmp_path, 3)
        rename, tries = Path.replace, []

        def full(self: Path, target: Path) -> Path:
            if Path(target) in (paths[1] / file, paths[1] / "weights" / file):
                tries.append(target)
                if len(tries) == 1 + (file != "step_000020.safetensors"):  # not the first of those written repeatedly
                    raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(RunError, match=r"cannot write .*member1.*: No space left on device"):
                train_many(configs, paths)
        for path in paths:
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert "No space left on device" in status["reason"]
        for i, expected in enumerate(trained("sgd")[1]):
            assert_same_weights(train(configs[i], paths[i], resume=True), expected)

    def test_a_disk_full_when_the_last_words_are_written(self, tmp_path, monkeypatch):
        configs = [lasting(config, 10, checkpoints=4, resume_every=100) for config in variants(KINDS["sgd"])]
        paths = places(tmp_path, 3)
        rename = Path.replace

        def full(self: Path, target: Path) -> Path:
            if Path(target) == paths[1] / "weights" / "step_000010.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(RunError, match="No space left on device"):
            train_many(configs, paths)
        runs = [Run.open(path) for path in paths]
        assert [run.status["status"] for run in runs] == ["finished", "stopped", "stopped"]
        assert runs[0].steps == [0, 4, 8, 10]

    def test_a_disk_full_for_all_when_nobody_waits_for_the_writing(self, tmp_path, monkeypatch):
        """What went wrong at step 10 is only noticed at step 20, with every member's file behind it."""
        rename = Path.replace

        def full(self: Path, target: Path) -> Path:
            if Path(target).name == "step_000010.safetensors":
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", full)
        configs = [lasting(config, 30, resume_every=100) for config in variants(KINDS["sgd"])]
        with pytest.raises(RunError, match=r"cannot write .*member0.*: No space left on device"):
            train_many(configs, places(tmp_path, 3))
        for path in places(tmp_path, 3):
            status = Run.open(path).status
            assert status["status"] == "stopped"
            assert "No space left on device" in status["reason"]

    def test_an_exception_right_after_the_start(self, tmp_path, monkeypatch):
        """Both resume points are those of step 0, to the bit."""

        class Fail(Callback):
            def on_step(self, step: int) -> None:
                fail()

        def fail() -> None:
            raise ValueError("no more")

        config, paths = KINDS["sgd, momentum"], places(tmp_path, 2)
        with monkeypatch.context() as patch:
            when_step(patch, 1, fail)
            with pytest.raises(ValueError, match="no more"):
                train_many([config, config], paths)
        with pytest.raises(ValueError, match="no more"):
            train(config, tmp_path / "alone", callbacks=[Fail()])
        for path in paths:
            assert Run.open(path).status["reason"] == "ValueError: no more"
            assert result(Run.open(path)) == result(Run.open(tmp_path / "alone"))

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("a file")
        paths = [tmp_path / "first", tmp_path / "file" / "second", tmp_path / "third"]
        with pytest.raises(RunError, match="cannot create the folder"):
            train_many(variants(KINDS["sgd"]), paths)
        assert Run.open(paths[0]).status["status"] == "stopped"
        assert not paths[2].exists()


def diverging(**schedule: Any) -> list[RunConfig]:
    """Three runs, of which the second diverges."""
    optimizer = OptimizerConfig(name="sgd", lr=0.03, weight_decay=0.0)
    configs = variants(config_of(MLP, optimizer, schedule=replace(SCHEDULE, **schedule)))
    return [configs[0], replace(configs[1], optimizer=replace(optimizer, lr=1e12)), configs[2]]


class TestDivergence:
    @pytest.mark.parametrize(
        "schedule",
        [{"evaluate_every": 1, "checkpoints": 1}, {"evaluate_every": 10}, {"evaluate_every": 30, "checkpoints": 30}],
        ids=["watched", "looked at", "unnoticed"],
    )
    def test_it_is_that_members_own(self, schedule, tmp_path):
        configs = diverging(**schedule)
        runs = train_many(configs, places(tmp_path, 3))
        alone = [train(config, tmp_path / f"alone{i}") for i, config in enumerate(configs)]
        assert [run.status["status"] for run in runs] == ["finished", "diverged", "finished"]
        assert runs[1].status["reason"] == alone[1].status["reason"]
        assert runs[1].status["step"] == alone[1].status["step"]
        assert runs[1].steps == alone[1].steps
        assert list(runs[1].metrics.index) == list(alone[1].metrics.index)
        for i in (0, 2):
            assert_same_weights(runs[i], alone[i])
            assert_same_metrics(runs[i], alone[i])

    def test_the_others_are_resumed_without_it(self, tmp_path):
        paths = places(tmp_path, 3)
        train_many(diverging(steps=20), paths)
        before = contents(paths[1])
        runs = train_many(diverging(), paths, resume=True)
        assert contents(paths[1]) == before
        assert [run.status["step"] for run in runs if run.path != paths[1]] == [30, 30]

    def test_it_is_noticed_when_all_are_interrupted(self, tmp_path, monkeypatch):
        when_step(monkeypatch, 13, lambda: os.kill(os.getpid(), signal.SIGINT))
        runs = train_many(diverging(evaluate_every=30, checkpoints=30, resume_every=30), places(tmp_path, 3))
        assert [run.status["status"] for run in runs] == ["stopped", "diverged", "stopped"]

    def test_all_may_diverge(self, tmp_path):
        runs = train_many([diverging()[1]] * 2, places(tmp_path, 2))
        assert [run.status["status"] for run in runs] == ["diverged", "diverged"]


class TestStopWhenGrokked:
    @pytest.fixture
    def second_groks_at_10(self, monkeypatch):
        """Whatever the weights, the run with data seed 11 has full test accuracy from its second evaluation on."""
        evaluate, looked = trainer.evaluate, []

        def pretend(task, logits, weights, loss):
            looked.append(task.config.data_seed)
            reached = looked.count(11) >= 2 and task.config.data_seed == 11
            return evaluate(task, logits, weights, loss) | {"test_accuracy": 1.0 if reached else 0.5}

        monkeypatch.setattr(trainer, "evaluate", pretend)

    @pytest.mark.parametrize("kind", ["transformer", "adam, everything"])
    def test_a_member_ends_and_the_others_go_on(self, kind, trained, second_groks_at_10, tmp_path):
        configs = [lasting(config, 30, stop_when_grokked=True, stop_factor=1.5) for config in variants(KINDS[kind])]
        paths = places(tmp_path, 3)
        runs = train_many(configs, paths)
        assert [(run.status["status"], run.status["step"]) for run in runs] == [
            ("finished", 30),
            ("finished", 20),
            ("finished", 30),
        ]
        assert [run.status["reason"] for run in runs] == ["all steps made", "grokked", "all steps made"]
        assert runs[1].steps == [0, 10, 20]
        for i in (0, 2):
            assert_same_weights(runs[i], trained(kind)[1][i])
        assert_same_weights(runs[1], trained(kind)[1][1], 20)
        before = contents(paths[1])
        longer = train_many([lasting(config, 40) for config in configs], paths, resume=True)
        assert [run.status["step"] for run in longer] == [40, 20, 40]
        assert contents(paths[1]) == before


def other(**changes: Any) -> RunConfig:
    """BASE with something else in a section: `optimizer={"batch_size": 5}`."""
    sections = {name: replace(getattr(BASE, name), **change) for name, change in changes.items()}
    return replace(BASE, **sections)


SHAPES = {
    r"task.p is 7 in .*member0 and 11 in": other(task={"p": 11}),
    r"task.operation is add in .* and subtract in": other(task={"operation": "subtract"}),
    r"the number of training examples is 24 in .* and 29 in": other(task={"train_fraction": 0.6}),
    r"model.kind is mlp in .* and transformer in": replace(BASE, model=TRANSFORMER),
    r"model.width is 16 in .* and 8 in": other(model={"width": 8}),
    r"model.input is one_hot in .* and sum in": other(model={"input": "sum"}),
    r"loss is cross_entropy in .* and mse in": replace(BASE, loss="mse"),
    r"loss_dtype is float64 in .* and float32 in": replace(BASE, loss_dtype="float32"),
    r"optimizer.name is adamw in .* and adam in": other(optimizer={"name": "adam"}),
    r"optimizer.batch_size is None in .* and 5 in": other(optimizer={"batch_size": 5}),
    r"optimizer.clip is 0.5 in .* and None in": other(optimizer={"clip": None}),
    r"optimizer.warmup_steps is 4 in .* and 0 in": other(optimizer={"warmup_steps": 0}),
    r"schedule.steps is 10 in .* and 11 in": other(schedule={"steps": 11}),
    r"schedule.evaluate_every is 10 in .* and 5 in": other(schedule={"evaluate_every": 5}),
}


class TestRefusals:
    @pytest.mark.parametrize("message", SHAPES)
    def test_runs_of_different_shapes(self, message, tmp_path):
        with pytest.raises(ConfigError, match=f"{message} .*member2: train them separately") as refusal:
            train_many([BASE, BASE, SHAPES[message]], places(tmp_path, 3))
        assert "\n" not in str(refusal.value)
        assert not list(tmp_path.iterdir())

    def test_kinds_of_decay(self, tmp_path):
        coupled, decoupled = config_of(MLP, MOMENTUM), config_of(MLP, replace(MOMENTUM, decay="decoupled"))
        with pytest.raises(ConfigError, match=r"optimizer.decay is coupled in .* and decoupled in"):
            train_many([coupled, decoupled], places(tmp_path, 2))
        assert not list(tmp_path.iterdir())

    def test_a_path_too_few(self, tmp_path):
        with pytest.raises(ConfigError, match="2 configurations and 1 paths were given"):
            train_many([BASE, BASE], [tmp_path / "run"])
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("second", ["run", "other/../run", "run/inside", ""])
    def test_folders_in_one_another(self, second, tmp_path):
        with pytest.raises(ConfigError, match="are the same folder, or one inside the other: give each run its own"):
            train_many([BASE, BASE], [tmp_path / "run", tmp_path / second])
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_holds_a_run(self, tmp_path):
        paths = places(tmp_path, 3)
        train(BASE, paths[2])
        before = contents(tmp_path)
        with pytest.raises(RunError, match=r"member2 already holds a run: resume it .*, or choose another folder"):
            train_many([BASE] * 3, paths)
        assert contents(tmp_path) == before
        assert not paths[0].exists()

    def test_a_folder_that_holds_anything(self, tmp_path):
        paths = places(tmp_path, 2)
        paths[1].mkdir()
        (paths[1] / "thesis.tex").write_text("chapter 1")
        with pytest.raises(RunError, match="is not an empty folder: choose another"):
            train_many([BASE] * 2, paths)
        assert not paths[0].exists()

    @pytest.mark.parametrize(
        "bad",
        [
            replace(BASE, optimizer=None),
            replace(BASE, schedule=None),
            replace(BASE, model=RecordedConfig()),
            replace(BASE, task=TaskConfig(p=P, train_fraction=None, split="unknown")),
            replace(BASE, task=TaskConfig(p=P, train_fraction=0.5, split="given")),
        ],
        ids=["no optimizer", "no schedule", "recorded model", "unknown split", "split without indices"],
    )
    def test_what_describes_no_training(self, bad, tmp_path):
        for configs in ([bad, bad], [BASE, bad]):
            with pytest.raises(ConfigError):
                train_many(configs, places(tmp_path, 2))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
    def test_a_device_that_is_not_there(self, device, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="cpu"):
            train_many([BASE], [tmp_path / "run"], device=device)
        assert not list(tmp_path.iterdir())

    def test_a_device_that_runs_are_not_stacked_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        with pytest.raises(ConfigError, match="use device cpu, or train the runs separately"):
            train_many([BASE], [tmp_path / "run"], device="mps")

    def test_resuming_with_another_configuration(self, tmp_path):
        paths = places(tmp_path, 2)
        train_many([BASE, BASE], paths)
        before = [contents(path) for path in paths]
        longer = [lasting(config, 20) for config in (BASE, SETTINGS["lr"])]
        with pytest.raises(ConfigError, match=r"member1 was trained with another configuration"):
            train_many(longer, paths, resume=True)
        assert [contents(path) for path in paths] == before

    def test_resuming_nothing(self, tmp_path):
        train(BASE, tmp_path / "run")
        before = contents(tmp_path)
        with pytest.raises(RunError, match="does not exist"):
            train_many([BASE, BASE], [tmp_path / "run", tmp_path / "nothing"], resume=True)
        assert contents(tmp_path) == before


class TestNoTraces:
    def test_global_random_states_are_left_alone(self, tmp_path):
        def states() -> tuple:  # not Python's own, from which the type checks of the tests draw
            return repr(np.random.get_state()), torch.get_rng_state().tolist()

        before = states()
        train_many(variants(lasting(KINDS["mlp, minibatches"], 10)), places(tmp_path, 3))
        assert states() == before

    def test_nothing_is_printed_where_nobody_looks(self, tmp_path, capfd):
        train_many([BASE], [tmp_path / "run"])
        assert capfd.readouterr() == ("", "")

    def test_a_progress_bar_on_request(self, tmp_path, capsys):
        train_many([BASE, BASE], places(tmp_path, 2), progress=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "10/10" in shown.err

    def test_metrics_have_no_clock_and_one_line_a_step(self, trained):
        for run in trained("transformer")[0]:
            rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
            assert [row["step"] for row in rows] == [0, 10, 20, 30]


class TestStack:
    def stack(self, name: str) -> Stack:
        generator = torch.Generator().manual_seed(0)
        runs = []
        for _ in range(3):
            frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
            w = nn.Parameter(torch.randn(2, 4, generator=generator))
            runs.append({"b": frozen, "W": w, "c": nn.Parameter(torch.randn(3, generator=generator))})
        return Stack(runs, [OptimizerConfig(name=name, clip=1.0, warmup_steps=3, weight_decay=0.1)] * 3, "cpu")

    def pull(self, stack: Stack, clock: Tensor) -> None:
        torch.stack([part.square().sum() for part in stack.parts().values()]).sum().backward()
        stack.update(clock)

    @pytest.mark.parametrize("name", ["adamw", "sgd"])
    def test_an_update_stays_in_its_tensors_as_a_cuda_graph_needs_it(self, name):
        stack, clock = self.stack(name), torch.tensor(1)
        held = [stack.weights, *stack.moments.values(), *stack.settings.values()]
        places = [tensor.data_ptr() for tensor in held]
        before = stack.weights.detach().clone()
        self.pull(stack, clock)
        assert stack.weights.grad is None
        assert not torch.equal(stack.weights, before)
        assert [tensor.data_ptr() for tensor in held] == places
        after = [stack.weights, *stack.moments.values(), *stack.settings.values()]
        assert all(one is other for one, other in zip(held, after, strict=True))

    def test_a_selected_run_goes_on_as_it_would_have(self):
        whole, part = self.stack("adamw"), self.stack("adamw")
        for step in range(6):
            if step == 3:
                part.select(torch.tensor([2, 0]))
            self.pull(whole, torch.tensor(step))
            self.pull(part, torch.tensor(step))
        for name, weight in whole.member(2).items():
            torch.testing.assert_close(part.member(0)[name], weight)
        for name, weight in whole.member(0).items():
            torch.testing.assert_close(part.member(1)[name], weight)

    def test_parameters_keep_their_order(self):
        assert list(self.stack("sgd").member(1)) == ["b", "W", "c"]


class NoReading(TorchDispatchMode):
    """Refuses operations that hand a number of the device to the host, which a CUDA graph cannot do."""

    READING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.READING, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "kind", ["transformer, trained biases", "transformer, two layers, LayerNorm", "adam, everything", "sgd, decoupled"]
)
def test_the_host_reads_nothing_in_an_update(kind, tmp_path, monkeypatch):
    compute, watched = ensemble._Ensemble._compute, []

    def watching(self) -> None:
        with NoReading():
            compute(self)
        watched.append(self.step)

    monkeypatch.setattr(ensemble._Ensemble, "_compute", watching)
    train_many(variants(lasting(KINDS[kind], 3)), places(tmp_path, 3))
    assert watched == [0, 1, 2]


class TestEnsemblePays:
    def test_on_a_processor_for_tiny_models_only(self):
        assert ensemble_pays(KINDS["transformer"], "cpu")
        assert not ensemble_pays(preset("nanda"), "cpu")

    def test_on_cuda_always(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        for device in ("cuda", "auto"):
            assert ensemble_pays(preset("nanda"), device)
