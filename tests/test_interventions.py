"""Interventions: compared with loops in plain torch, and resumed bit for bit."""

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.nn.functional as F
from rewriting import rewrite
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.runs.resume_point import write_resume_point
from grokinterp.runs.run import Run
from grokinterp.runs.tensors import deserialize
from grokinterp.sweep import train_sweep
from grokinterp.training import Callback, ensemble_pays, train, train_many
from grokinterp.training.ensemble_plan import shape_of
from grokinterp.training.estimate import estimate
from grokinterp.training.evaluation import evaluate
from grokinterp.training.gradients import gradients_function
from grokinterp.training.interventions import Dropout, draws_in_updates, interventions_of, orthogonal_to
from grokinterp.training.optimizers import Updater

P = 7
NOISE_STREAM, DROPOUT_STREAM = 0xC2B2AE35, 0x27D4EB2F


class Toy(nn.Module):
    """A small model whose gradients differ from update to update, with frozen weights that must not change."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(4, 6, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
        self.zero = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def loss(self) -> Tensor:
        x = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4)
        return (torch.tanh(x @ self.first + self.frozen + self.zero) @ self.second - x.sum(dim=1)).square().mean()

    def trained(self) -> list[nn.Parameter]:
        return [self.first, self.second, self.zero]


def by_ours(config: OptimizerConfig, count: int, seed: int = 5) -> Toy:
    toy = Toy()
    updater = Updater(toy.named_parameters(), config, seed)
    for step in range(count):
        toy.loss().backward()
        updater.apply(step)
    return toy


def by_hand(config: OptimizerConfig, count: int, seed: int = 5) -> Toy:
    """Each intervention as its source describes it, one tensor at a time, with an optimizer from torch.optim."""
    toy = Toy()
    weights = toy.trained()
    optimizer: Any
    if config.name == "sgd":
        decay = 0.0 if config.decoupled else config.weight_decay
        optimizer = torch.optim.SGD(weights, lr=config.lr, momentum=config.momentum, weight_decay=decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
        optimizer = kind(weights, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)
    drawn = torch.Generator().manual_seed(seed ^ NOISE_STREAM)
    past: list[list[Tensor]] = [[] for _ in weights]
    means: list[Any] = [None for _ in weights]
    start = math.sqrt(sum(w.detach().square().sum().item() for w in weights))
    for _ in range(count):
        gradients = torch.autograd.grad(toy.loss(), weights)
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            g = g + config.l1 * torch.sign(w.detach())
            if config.gradient_noise:
                g = g + config.gradient_noise * torch.randn(w.shape, generator=drawn, dtype=w.dtype)
            if config.orthogonal_gradient:
                v, u = w.detach().flatten(), g.flatten()
                across = u - (v @ u) / (v @ v + 1e-30) * v
                g = (across * (u.norm() / (across.norm() + 1e-30))).reshape(w.shape)
            if config.grokfast == "ema":
                means[i] = g if means[i] is None else config.grokfast_alpha * means[i] + (1 - config.grokfast_alpha) * g
                g = g + config.amplification * means[i]
            if config.grokfast == "ma":
                past[i] = [*past[i], g][-config.grokfast_window :]
                if len(past[i]) == config.grokfast_window:
                    g = g + config.amplification * (sum(past[i]) / len(past[i]))
            w.grad = g.detach().clone()  # clipping must not change the stored gradient
        if config.clip is not None:
            total = math.sqrt(sum(w.grad.square().sum().item() for w in weights if w.grad is not None))
            for w in weights:
                assert w.grad is not None
                w.grad *= min(1.0, config.clip / (total + 1e-6))
        if config.name == "sgd" and config.decoupled:
            for w in weights:
                w.data *= 1 - config.lr * config.weight_decay
        optimizer.step()
        if config.constrain_norm:
            now = math.sqrt(sum(w.detach().square().sum().item() for w in weights))
            for w in weights:
                w.data *= start / now
    return toy


OPTIMIZERS = {
    "sgd": OptimizerConfig(name="sgd", lr=3e-2, momentum=0.9, weight_decay=0.1),
    "sgd, decoupled": OptimizerConfig(name="sgd", lr=3e-2, weight_decay=0.1, decay="decoupled"),
    "adam": OptimizerConfig(name="adam", lr=1e-2, weight_decay=0.1, eps=1e-3),
    "adamw": OptimizerConfig(name="adamw", lr=1e-2, weight_decay=1.0, eps=1e-3),
}
INTERVENTIONS: dict[str, dict[str, Any]] = {
    "l1": {"l1": 0.05},
    "noise": {"gradient_noise": 0.1},
    "orthogonal": {"orthogonal_gradient": True},
    "ema": {"grokfast": "ema", "grokfast_alpha": 0.8},
    "ma": {"grokfast": "ma", "grokfast_window": 4, "grokfast_lambda": 1.5},
    "norm": {"constrain_norm": True},
}
ALL = {"l1": 0.05, "gradient_noise": 0.1, "orthogonal_gradient": True, "grokfast": "ema", "constrain_norm": True}
INTERVENTIONS |= {"all": {**ALL, "clip": 0.3}, "all, ma": {**ALL, "clip": 0.3, **INTERVENTIONS["ma"]}}


class TestUpdates:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("name", INTERVENTIONS)
    def test_updates_equal_those_of_an_explicit_loop(self, name, optimizer):
        config = replace(OPTIMIZERS[optimizer], **INTERVENTIONS[name])
        ours, expected, without = by_ours(config, 12), by_hand(config, 12), by_ours(OPTIMIZERS[optimizer], 12)
        for w, wanted, plain in zip(ours.trained(), expected.trained(), without.trained(), strict=True):
            torch.testing.assert_close(w, wanted, rtol=1e-9, atol=1e-12)
            assert (w - plain).abs().max() > 1e-3
        assert torch.equal(ours.frozen, torch.ones(6))

    def test_grokfast_has_the_defaults_of_its_code(self):
        ema, ma = OptimizerConfig(grokfast="ema"), OptimizerConfig(grokfast="ma")
        assert (ema.amplification, ema.grokfast_alpha) == (2.0, 0.98)
        assert (ma.amplification, ma.grokfast_window) == (5.0, 100)
        assert OptimizerConfig(grokfast="ma", grokfast_lambda=0.0).amplification == 0.0

    @pytest.mark.parametrize(("kind", "moved"), [("ema", [3, 3, 3, 3, 3]), ("ma", [1, 1, 6, 6, 6])])
    def test_grokfast_on_a_constant_gradient(self, kind, moved):
        """The mean of a constant gradient is the gradient, so that steps are 1 + lambda times as long."""
        window = {"grokfast_window": 3} if kind == "ma" else {}
        config = OptimizerConfig(name="sgd", lr=1.0, weight_decay=0.0, grokfast=kind, **window)
        weight = nn.Parameter(torch.zeros(2))
        updater = Updater([("w", weight)], config)
        steps = []
        for step in range(5):
            before = weight.detach().clone()
            weight.grad = torch.tensor([-1.0, -0.5])
            updater.apply(step)
            steps.append((weight.detach() - before).tolist())
        torch.testing.assert_close(torch.tensor(steps), torch.tensor([[m, 0.5 * m] for m in map(float, moved)]))

    def test_noise_has_its_size_and_another_stream_for_each_seed(self):
        def drawn(seed: int) -> Tensor:
            weight = nn.Parameter(torch.zeros(200_000))
            config = OptimizerConfig(name="sgd", lr=1.0, weight_decay=0.0, gradient_noise=0.3)
            updater = Updater([("w", weight)], config, seed)
            weight.grad = torch.ones(200_000)
            updater.apply(0)
            return -weight.detach() - 1.0

        one, other = drawn(0), drawn(1)
        assert one.std().item() == pytest.approx(0.3, rel=0.01)
        assert abs(one.mean().item()) < 5 * 0.3 / math.sqrt(200_000)
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 5 / math.sqrt(200_000)

    def test_l1_does_not_move_a_zero_weight(self):
        weight = nn.Parameter(torch.tensor([2.0, 0.0, -3.0]))
        updater = Updater([("w", weight)], OptimizerConfig(name="sgd", lr=0.5, weight_decay=0.0, l1=0.1))
        weight.grad = torch.zeros(3)
        updater.apply(0)
        torch.testing.assert_close(weight.detach(), torch.tensor([1.95, 0.0, -2.95]))


class TestOrthogonalGradient:
    def test_the_result_is_orthogonal_and_has_the_same_norm(self):
        generator = torch.Generator().manual_seed(0)
        weight, other = torch.randn(2, 30, 20, generator=generator)
        for gradient in (other, other + 50.0 * weight):
            found = orthogonal_to(weight, gradient)
            assert abs((found * weight).sum().item()) < 1e-5 * found.norm().item() * weight.norm().item()
            assert found.norm().item() == pytest.approx(gradient.norm().item(), rel=1e-5)
            left = other - (other * weight).sum() / weight.square().sum() * weight
            assert F.cosine_similarity(found.flatten(), left.flatten(), dim=0).item() == pytest.approx(1.0, abs=1e-5)

    def test_for_zero_weights_the_result_is_the_gradient(self):
        gradient = torch.tensor([1.0, -2.0])
        torch.testing.assert_close(orthogonal_to(torch.zeros(2), gradient), gradient)

    @pytest.mark.parametrize("gradient", [[0.3], [0.0]])
    def test_a_gradient_along_the_weights_becomes_zero(self, gradient):
        """Scaled to the old norm, rounding errors would become as large as the gradient."""
        assert orthogonal_to(torch.tensor([0.7]), torch.tensor(gradient)).tolist() == [0.0]
        weight = torch.tensor([0.1, 0.7, -1.3])
        assert orthogonal_to(weight, 0.37 * weight).tolist() == [0.0, 0.0, 0.0]


class NoReading(TorchDispatchMode):
    """Refuses operations that copy a number from the device to the host, which a CUDA graph cannot do."""

    READING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.READING, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted({*INTERVENTIONS} - {"noise", "all", "all, ma"}))
def test_an_update_stays_in_its_tensors_as_a_cuda_graph_needs_it(name):
    toy = Toy()
    interventions = Updater(toy.named_parameters(), replace(OPTIMIZERS["sgd"], **INTERVENTIONS[name])).interventions
    for step in range(4):
        toy.zero_grad()
        toy.loss().backward()
        held = [*toy.trained(), *interventions.slow.values(), interventions.count]
        held += [w.grad for w in toy.trained() if w.grad is not None]
        held += [] if interventions.norm is None or step == 0 else [interventions.norm]
        with NoReading():
            interventions.change_gradients()
            interventions.change_weights()
        after = [*toy.trained(), *interventions.slow.values(), interventions.count]
        after += [w.grad for w in toy.trained() if w.grad is not None]
        after += [] if interventions.norm is None or step == 0 else [interventions.norm]
        assert all(one is other for one, other in zip(held, after, strict=True))


SCHEDULE = ScheduleConfig(steps=30, evaluate_every=5, checkpoints=10, resume_every=10)
TRANSFORMER = TransformerConfig(d_model=16, n_heads=2, d_mlp=32)
MLP = MLPConfig(width=16, depth=2)


def config_of(model: Any = MLP, **more: Any) -> RunConfig:
    chosen = {"lr": 1e-2, "weight_decay": 0.5, "batch_size": 15} | more
    task = TaskConfig(p=P, train_fraction=0.5)
    return RunConfig(task=task, model=model, optimizer=OptimizerConfig(**chosen), schedule=SCHEDULE, model_seed=4)


RUNS = {name: config_of(**chosen) for name, chosen in INTERVENTIONS.items()} | {
    "dropout": config_of(replace(MLP, dropout=0.2)),
    "dropout, transformer": config_of(replace(TRANSFORMER, dropout=0.2)),
    "dropout, two layers": config_of(replace(TRANSFORMER, dropout=0.2, n_layers=2, normalization="layernorm")),
    "stablemax": replace(config_of(TRANSFORMER), loss="stablemax"),
    "scaled output": config_of(replace(TRANSFORMER, output_scale=3.0)),
    "everything": replace(
        config_of(replace(TRANSFORMER, dropout=0.1, output_scale=0.5), **INTERVENTIONS["all, ma"]), loss="stablemax"
    ),
}


class Death(Callback):
    def __init__(self, step: int):
        self.at = step

    def on_step(self, step: int) -> None:
        if step == self.at:
            raise KeyboardInterrupt


def result(path: Path) -> dict[str, bytes]:
    """The files that must be equal bit for bit: metrics, checkpoints, and the resume point."""
    files = [path / "metrics.jsonl", path / "resume.safetensors", *(path / "weights").glob("step_*.safetensors")]
    return {file.name: file.read_bytes() for file in files}


def train_with_deaths(config: RunConfig, path: Path, deaths: list[int], **options: Any) -> Run:
    for i, step in enumerate(deaths):
        again = {"resume": True} if i else options
        with pytest.raises(KeyboardInterrupt):
            train(config, path, callbacks=[Death(step)], progress=False, **again)
    return train(config, path, resume=True, progress=False)


def resume_state(run: Run) -> dict[str, Tensor]:
    file = run.path / "resume.safetensors"
    return deserialize(file.read_bytes(), file).tensors


class TestRuns:
    @pytest.mark.parametrize("name", RUNS)
    def test_runs_resume_bit_for_bit(self, name, tmp_path):
        whole = train(RUNS[name], tmp_path / "whole", progress=False)
        torn = train_with_deaths(RUNS[name], tmp_path / "torn", [5, 17, 24])
        assert whole.status["status"] == "finished"
        assert result(torn.path) == result(whole.path)

    @pytest.mark.parametrize("name", ["dropout, two layers", "everything"])
    def test_runs_with_the_plain_forward_pass_resume_too(self, name, tmp_path):
        whole = train(RUNS[name], tmp_path / "whole", progress=False, plain_forward=True)
        torn = train_with_deaths(RUNS[name], tmp_path / "torn", [17], plain_forward=True)
        assert torn.environment["forward_path"] == "module"
        assert result(torn.path) == result(whole.path)

    @pytest.mark.parametrize("name", RUNS)
    def test_interventions_change_the_run(self, name, tmp_path):
        config = RUNS[name]
        model = replace(config.model, dropout=0.0, output_scale=1.0)  # pyright: ignore
        plain = replace(config_of(model), loss="cross_entropy")
        one = train(config, tmp_path / "one", progress=False)
        other = train(plain, tmp_path / "other", progress=False)
        assert all(torch.equal(w, other.weights(0)[key]) for key, w in one.weights(0).items())
        assert any(not torch.allclose(w, other.weights(30)[key]) for key, w in one.weights(30).items())

    def test_without_interventions_the_resume_point_has_no_state_of_them(self, tmp_path):
        run = train(config_of(), tmp_path / "run", progress=False)
        kinds = {key.split(":")[0] for key in resume_state(run)}
        assert kinds == {"weights", "optimizer", "batches"}

    def test_a_run_of_another_kind_of_device_is_refused_in_one_line(self):
        dropout = Dropout(0.5, 0, "cpu")
        with pytest.raises(RunError, match="another kind of device than cpu: resume it on the kind of device"):
            dropout.restore({"dropout:draws": torch.zeros(16, dtype=torch.uint8)})

    @pytest.mark.parametrize(
        ("name", "key"),
        [("noise", "interventions:noise:draws"), ("dropout", "dropout:draws")],
        ids=["noise", "dropout"],
    )
    @pytest.mark.parametrize("stored", ["elsewhere", "lacking"])
    def test_bad_random_states_are_refused_before_anything_is_written(self, name, key, stored, tmp_path):
        run = train(RUNS[name], tmp_path / "run", progress=False)
        state = resume_state(run)
        assert state.pop(key).numel() > 16
        if stored == "elsewhere":  # the state of a CUDA generator has 16 bytes
            state[key] = torch.zeros(16, dtype=torch.uint8)
        write_resume_point(run.path, 30, state)
        longer = replace(RUNS[name], schedule=replace(SCHEDULE, steps=40))
        before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
        message = "another kind of device than cpu" if stored == "elsewhere" else "resume.safetensors lacks .*--restart"
        with pytest.raises(RunError, match=message):
            train(longer, run.path, resume=True, progress=False, device="cpu")
        assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
        assert train(longer, run.path, restart=True, progress=False).status["step"] == 40


class TestConstrainedNorm:
    def norms(self, run: Run) -> list[float]:
        return run.metrics["weight_norm"].tolist()

    @pytest.mark.parametrize("model", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
    def test_the_norm_stays(self, model, tmp_path):
        config = config_of(replace(model, init_scale=0.8), constrain_norm=True, weight_decay=0.0)
        norms = self.norms(train(config, tmp_path / "run", progress=False))
        assert len(norms) == 7
        assert norms == pytest.approx([norms[0]] * 7, rel=1e-6)
        free = replace(config, optimizer=replace(config.optimizer, constrain_norm=False))  # pyright: ignore
        assert self.norms(train(free, tmp_path / "free", progress=False))[-1] > 1.05 * norms[0]

    def test_the_norm_is_that_of_the_starting_checkpoint_even_after_a_kill(self, tmp_path):
        first = train(config_of(weight_decay=0.0), tmp_path / "first", progress=False)
        config = config_of(constrain_norm=True)
        options = {"start_from": f"{first.path}@30"}
        whole = train(config, tmp_path / "whole", progress=False, **options)
        wanted = self.norms(first)[-1]
        assert self.norms(whole) == pytest.approx([wanted] * 7, rel=1e-6)
        assert wanted > 1.05 * self.norms(first)[0]
        torn = train_with_deaths(config, tmp_path / "torn", [5, 17], **options)
        assert result(torn.path) == result(whole.path)

    def test_from_before_the_first_resume_point(self, tmp_path):
        first = train(config_of(weight_decay=0.0), tmp_path / "first", progress=False)
        config = config_of(constrain_norm=True)
        path = tmp_path / "torn"
        with pytest.raises(KeyboardInterrupt):
            train(config, path, callbacks=[Death(1)], progress=False, start_from=f"{first.path}@30")
        (path / "resume.safetensors").unlink()
        rewrite(path / "status.json", step=0)
        shutil.rmtree(first.path / "weights")  # the run keeps a copy of what it started from
        run = train(config, path, resume=True, progress=False)
        assert self.norms(run) == pytest.approx([self.norms(first)[-1]] * 7, rel=1e-6)


def masks(seed: int, share: float, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The masks of the first update, in the order of computation."""
    generator = torch.Generator().manual_seed(seed ^ DROPOUT_STREAM)
    return [torch.empty(shape).bernoulli_(1 - share, generator=generator) / (1 - share) for shape in shapes]


def dropped_gradients(config: RunConfig, plain: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of an update on all training examples, with dropout."""
    task = task_of(config)
    model = build_model(config, task)
    weights = dict(model.named_parameters())
    assert task.train_mask is not None
    hook = Dropout(config.model.dropout, config.model_seed, "cpu")  # pyright: ignore
    compute = gradients_function(config, forward_for(config.model, task, plain=plain), weights, hook=hook)
    loss = compute(task.tokens[task.train_mask], task.labels[task.train_mask])
    return loss, {name: w.grad for name, w in weights.items() if w.grad is not None}


class TestDropout:
    def reference(self, config: RunConfig, hooks: Callable[[int], dict[str, Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        """The same computed by TransformerLens's module, with hooks that multiply its neurons by masks."""
        task = task_of(config)
        model: Any = build_model(config, task).double()
        assert task.train_mask is not None
        tokens = task.tokens[task.train_mask]
        for name, mask in hooks(len(tokens)).items():
            model.hook_dict[name].add_hook(lambda value, hook, mask=mask: value * mask.double())
        logits = model(tokens)
        loss = F.cross_entropy(logits[:, -1] if logits.ndim == 3 else logits, task.labels[task.train_mask])
        loss.backward()
        return loss, {name: w.grad for name, w in model.named_parameters() if w.grad is not None}

    def compare(self, config: RunConfig, hooks: Callable[[int], dict[str, Tensor]], plain: bool = False) -> None:
        loss, gradients = dropped_gradients(config, plain)
        wanted, expected = self.reference(config, hooks)
        torch.testing.assert_close(loss.double(), wanted.detach(), rtol=1e-5, atol=1e-6)
        assert len(gradients) >= 5
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-4, atol=1e-6, msg=name)

    @pytest.mark.parametrize("architecture", ["flat", "residual"])
    def test_of_an_mlp(self, architecture):
        model = MLPConfig(width=16, input="sum", dropout=0.3, architecture=architecture)

        def hooks(n: int) -> dict[str, Tensor]:
            found = masks(4, 0.3, [(n, 16), (n, 16)])
            return {f"layers.{i}.hook_post": mask for i, mask in enumerate(found)}

        self.compare(config_of(model), hooks)

    def test_of_a_transformer_at_its_last_position(self):
        def hooks(n: int) -> dict[str, Tensor]:
            (mask,) = masks(4, 0.3, [(n, 32)])
            return {"blocks.0.mlp.hook_post": torch.stack([torch.ones_like(mask), torch.ones_like(mask), mask], dim=1)}

        self.compare(config_of(replace(TRANSFORMER, dropout=0.3)), hooks)

    def test_of_each_pair_by_itself_where_positions_are_shared(self):
        model = replace(TRANSFORMER, dropout=0.3, n_layers=2, normalization="layernorm")

        def hooks(n: int) -> dict[str, Tensor]:
            *first, last = masks(4, 0.3, [(n, 32)] * 4)
            ones = torch.ones_like(last)
            layers = [torch.stack(first, dim=1), torch.stack([ones, ones, last], dim=1)]
            return {f"blocks.{i}.mlp.hook_post": mask for i, mask in enumerate(layers)}

        self.compare(config_of(model), hooks)

    def test_of_the_module_itself(self):
        def hooks(n: int) -> dict[str, Tensor]:
            found = masks(4, 0.3, [(n, 3, 32)] * 2)
            return {f"blocks.{i}.mlp.hook_post": mask for i, mask in enumerate(found)}

        self.compare(config_of(replace(TRANSFORMER, dropout=0.3, n_layers=2)), hooks, plain=True)

    def test_keeps_the_mean_and_drops_its_share(self):
        dropout = Dropout(0.3, 0, "cpu")
        value = torch.full((1000, 100), 2.0)
        found = dropout("blocks.0.mlp.hook_post", value)
        assert (found == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
        assert found[found != 0].unique().tolist() == pytest.approx([2.0 / 0.7])
        assert dropout("hook_embed", value) is value
        assert not torch.equal(found, dropout("blocks.0.mlp.hook_post", value))

    @pytest.mark.parametrize("name", ["dropout", "dropout, transformer", "dropout, two layers", "everything"])
    def test_is_never_in_an_evaluation(self, name, tmp_path):
        config = RUNS[name]
        run = train(config, tmp_path / "run", progress=False)
        for step in (0, 20):
            logits = run.forward.logits(run.weights(step), run.task.tokens)
            row = evaluate(run.task, logits, {}, config.loss)
            for column in ("train_loss", "test_loss", "train_accuracy"):
                assert run.metrics[column].loc[step] == pytest.approx(row[column], rel=1e-5)

    def test_dropout_cannot_be_compiled(self, tmp_path):
        with pytest.raises(ConfigError, match=r"omit --compile or model\.dropout"):
            train(RUNS["dropout"], tmp_path / "run", compile=True)
        assert not (tmp_path / "run").exists()


class TestTogether:
    """Ensembles refuse interventions in updates, but support options that only concern logits and losses."""

    ALONE = sorted({*RUNS} - {"stablemax", "scaled output"})

    @pytest.mark.parametrize("name", ALONE)
    def test_such_runs_are_not_stacked(self, name, tmp_path):
        options = interventions_of(RUNS[name])
        assert options
        match = f"train_many does not support {', '.join(options)}".replace(".", r"\.")
        with pytest.raises(ConfigError, match=match):
            shape_of(RUNS[name])
        with pytest.raises(ConfigError, match=match):
            train_many([RUNS[name], replace(RUNS[name], model_seed=1)], [tmp_path / "a", tmp_path / "b"])
        assert not list(tmp_path.iterdir())
        assert not ensemble_pays(RUNS[name], "cpu")

    def test_runs_with_and_without_interventions_are_not_stacked(self, tmp_path):
        with pytest.raises(ConfigError, match=r"train_many does not support optimizer\.l1: train such runs one by one"):
            train_many([config_of(), RUNS["l1"]], [tmp_path / "a", tmp_path / "b"])

    @pytest.mark.slow
    def test_a_sweep_trains_them_one_by_one(self, tmp_path):
        points = [{"optimizer.grokfast": kind, "model_seed": seed} for kind in ("none", "ema") for seed in (0, 1)]
        found = train_sweep(tmp_path / "s", config_of(), points=points, workers=1, ensembles="always")
        assert found.table["status"].tolist() == ["finished"] * 4
        for point in found.points:
            run = Run.open(found.path / point.name)
            alone = train(point.config(found.base), tmp_path / point.name, progress=False)
            if "ema" in point.name:
                assert "ensemble" not in run.environment
                assert result(run.path) == result(alone.path)
            else:
                assert run.environment["ensemble"] == 2

    @pytest.mark.parametrize("name", ["stablemax", "scaled output"])
    def test_losses_and_scaled_outputs_are_stacked(self, name, tmp_path):
        configs = [RUNS[name], replace(RUNS[name], model_seed=9)]
        runs = train_many(configs, [tmp_path / "a", tmp_path / "b"])
        for config, run in zip(configs, runs, strict=True):
            alone = train(config, tmp_path / f"alone{config.model_seed}", progress=False)
            torch.testing.assert_close(
                torch.tensor(run.metrics["test_loss"].tolist()),
                torch.tensor(alone.metrics["test_loss"].tolist()),
                rtol=1e-3,
                atol=1e-3,
            )
            for key, weight in run.weights(30).items():
                torch.testing.assert_close(weight, alone.weights(30)[key], rtol=1e-3, atol=1e-3)


FLAGS = """
--task.p 7 --model.d-model 16 --model.n-heads 2 --model.d-mlp 16 --schedule.steps 3 --loss stablemax
--optimizer.grokfast ma --optimizer.grokfast-window 2 --optimizer.grokfast-lambda 0.5 --optimizer.l1 0.001
--optimizer.constrain-norm --optimizer.orthogonal-gradient --optimizer.gradient-noise 0.01
--model.dropout 0.1 --model.output-scale 0.5
"""


def test_flags_reach_a_run(tmp_path):
    command = [sys.executable, "-m", "grokinterp.cli", "train", str(tmp_path / "run"), *FLAGS.split()]
    processes.run(command, check=True, capture_output=True)
    run = Run.open(tmp_path / "run")
    assert run.status["status"] == "finished"
    assert len(interventions_of(run.config)) == 6
    assert (run.config.loss, run.config.model.output_scale) == ("stablemax", 0.5)  # pyright: ignore
    assert run.config.optimizer is not None
    assert (run.config.optimizer.grokfast_window, run.config.optimizer.amplification) == (2, 0.5)


def test_which_runs_draw_random_numbers_in_updates():
    drawing = {name for name, config in RUNS.items() if draws_in_updates(config)}
    assert drawing == {
        "noise",
        "dropout",
        "dropout, transformer",
        "dropout, two layers",
        "all",
        "all, ma",
        "everything",
    }


def test_costs_are_estimated_with_interventions():
    assert estimate(RUNS["everything"], tries=2).seconds_per_step > 0
