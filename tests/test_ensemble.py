"""train_many: every member is the run that `train` would have made, whatever happens to the others."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import (
    ADAMW,
    KINDS,
    MLP,
    MOMENTUM,
    SCHEDULE,
    TRANSFORMER,
    P,
    assert_same_metrics,
    assert_same_weights,
    config_of,
    contents,
    lasting,
    places,
    result,
    variants,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from grokinterp.config import (
    OptimizerConfig,
    RecordedConfig,
    RunConfig,
    TaskConfig,
)
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, RunError
from grokinterp.training import ensemble, ensemble_pays, train, train_many
from grokinterp.training.ensemble_optimizer import Stack


class TestEachMemberIsTheRunItWouldBeAlone:
    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_and_metrics(self, kind, ensemble_and_alone):
        for found, expected in zip(*ensemble_and_alone(kind), strict=True):
            for step in (10, 20, 30):
                assert_same_weights(found, expected, step)
            assert_same_metrics(found, expected)

    @pytest.mark.parametrize("kind", ["transformer", "adam, everything", "sgd", "sgd, momentum"])
    def test_the_folder(self, kind, ensemble_and_alone):
        for found, expected in zip(*ensemble_and_alone(kind), strict=True):
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
    def test_the_resume_point(self, kind, ensemble_and_alone):
        for found, expected in zip(*ensemble_and_alone(kind), strict=True):
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

    def test_no_runs(self):
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
    def test_each_run_uses_its_own_settings(self, name, tmp_path):
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
    def test_a_member_does_not_depend_on_the_others(self, kind, ensemble_and_alone, tmp_path):
        first, second, third = ensemble_and_alone(kind)[0]
        other = replace(third.config, model_seed=77, task=replace(third.config.task, data_seed=77))
        configs = [other, third.config, first.config, other, other]
        runs = train_many(configs, places(tmp_path, 5))
        assert_same_weights(runs[1], third)
        assert_same_weights(runs[2], first)
        assert_same_weights(train_many([second.config], [tmp_path / "single"])[0], second)

    def test_the_same_ensemble_is_equal_bit_for_bit(self, ensemble_and_alone, tmp_path):
        together = ensemble_and_alone("mlp, minibatches")[0]
        again = train_many([run.config for run in together], places(tmp_path, 3))
        assert [result(run) for run in again] == [result(run) for run in together]


def other(**changes: Any) -> RunConfig:
    """BASE with changes in a section: `optimizer={"batch_size": 5}`."""
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
    def test_nested_folders(self, second, tmp_path):
        with pytest.raises(ConfigError, match="are the same folder, or one inside the other: give each run its own"):
            train_many([BASE, BASE], [tmp_path / "run", tmp_path / second])
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_contains_a_run(self, tmp_path):
        paths = places(tmp_path, 3)
        train(BASE, paths[2])
        before = contents(tmp_path)
        with pytest.raises(RunError, match=r"member2 already holds a run: resume it .*, or choose another folder"):
            train_many([BASE] * 3, paths)
        assert contents(tmp_path) == before
        assert not paths[0].exists()

    def test_a_folder_that_is_not_empty(self, tmp_path):
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
    def test_configurations_that_cannot_be_trained(self, bad, tmp_path):
        for configs in ([bad, bad], [BASE, bad]):
            with pytest.raises(ConfigError):
                train_many(configs, places(tmp_path, 2))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
    def test_a_device_that_the_machine_lacks(self, device, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="cpu"):
            train_many([BASE], [tmp_path / "run"], device=device)
        assert not list(tmp_path.iterdir())

    def test_an_unsupported_device(self, tmp_path, monkeypatch):
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

    def test_resuming_what_is_no_run(self, tmp_path):
        train(BASE, tmp_path / "run")
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "mine.txt").write_text("mine")
        before = contents(tmp_path)
        with pytest.raises(RunError, match="is not an empty folder"):
            train_many([BASE, BASE], [tmp_path / "run", tmp_path / "notes"], resume=True)
        assert contents(tmp_path) == before


class TestNoTraces:
    def test_global_random_states_are_left_alone(self, tmp_path):
        def states() -> tuple:  # not Python's own, from which the type checks of the tests draw
            return repr(np.random.get_state()), torch.get_rng_state().tolist()

        before = states()
        train_many(variants(lasting(KINDS["mlp, minibatches"], 10)), places(tmp_path, 3))
        assert states() == before

    def test_nothing_is_printed_outside_a_terminal(self, tmp_path, capfd):
        train_many([BASE], [tmp_path / "run"])
        assert capfd.readouterr() == ("", "")

    def test_a_progress_bar_on_request(self, tmp_path, capsys):
        train_many([BASE, BASE], places(tmp_path, 2), progress=True)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "10/10" in shown.err

    def test_metrics_have_no_times_and_one_line_per_step(self, ensemble_and_alone):
        for run in ensemble_and_alone("transformer")[0]:
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

    def test_a_selected_run_continues_unchanged(self):
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
    """Refuses operations that copy a number from the device to the host, which a CUDA graph cannot do."""

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
    def test_on_a_cpu_only_for_tiny_models(self):
        assert ensemble_pays(KINDS["transformer"], "cpu")
        assert not ensemble_pays(preset("nanda"), "cpu")

    def test_on_cuda_always(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        for device in ("cuda", "auto"):
            assert ensemble_pays(preset("nanda"), device)
