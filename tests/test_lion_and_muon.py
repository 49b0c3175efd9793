"""Lion and Muon: compared with loops over single entries and singular vectors, and with torch.optim.Muon."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import MLP, SCHEDULE, TRANSFORMER, assert_same_weights, config_of, places
from safetensors.torch import load_file
from torch import Tensor, nn

from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, TaskConfig
from grokinterp.errors import ConfigError
from grokinterp.models import initial_parameters, task_of
from grokinterp.models.shapes import hidden_matrices, parameter_shapes
from grokinterp.runs.resume_point import state_shapes
from grokinterp.training import ensemble_pays, train, train_many
from grokinterp.training.lion import Lion
from grokinterp.training.muon import Muon, orthogonalize
from grokinterp.training.optimizers import Updater

LION = OptimizerConfig(name="lion", lr=1e-3, weight_decay=0.7, betas=(0.9, 0.99))
MUON = OptimizerConfig(name="muon", lr=3e-3, weight_decay=0.7, betas=(0.9, 0.95))


def gradients(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def updated(config: OptimizerConfig, name: str, start: Tensor, pulls: list[Tensor]) -> Tensor:
    """A parameter after an update with each of these gradients."""
    weight = nn.Parameter(start.clone())
    other = nn.Parameter(torch.ones(2))  # an optimizer needs a parameter for AdamW, too
    updater = Updater([("embed.W_E", other), (name, weight)], config)
    for step, pull in enumerate(pulls):
        weight.grad, other.grad = pull.clone(), torch.ones(2)
        updater.apply(step)
    return weight.detach()


class TestLion:
    @pytest.mark.parametrize("warmup", [0, 4])
    def test_updates_are_those_of_a_loop_over_the_entries(self, warmup):
        start, pulls = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), gradients((3, 4), 9)
        expected = start.double().numpy().copy()
        for i, j in np.ndindex(3, 4):
            w, m = float(start[i, j]), 0.0
            for step, pull in enumerate(pulls):
                g, lr = float(pull[i, j]), 1e-3 * (min(step / warmup, 1.0) if warmup else 1.0)
                c = 0.9 * m + 0.1 * g
                w = w - lr * (math.copysign(1.0, c) + 0.7 * w)
                m = 0.99 * m + 0.01 * g
            expected[i, j] = w
        ours = updated(replace(LION, warmup_steps=warmup), "layers.1.W", start, pulls)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-7)

    def test_an_entry_without_gradient_only_decays(self):
        ours = updated(LION, "layers.1.W", torch.ones(2, 2), [torch.zeros(2, 2)] * 3)
        torch.testing.assert_close(ours, torch.full((2, 2), (1 - 0.7e-3) ** 3))

    def test_a_parameter_without_gradient_stays(self):
        weight = nn.Parameter(torch.ones(2))
        Lion([weight], lr=0.1).step()
        assert torch.equal(weight.detach(), torch.ones(2))

    def test_a_learning_rate_in_a_tensor(self):
        """On CUDA, the learning rate is a tensor."""
        weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        for weight, lr in zip(weights, (0.1, torch.tensor(0.1)), strict=True):
            weight.grad = torch.tensor([1.0, -1.0, 0.0])
            Lion([weight], lr=lr, weight_decay=0.5).step()
        torch.testing.assert_close(weights[0], weights[1])


def by_singular_vectors(matrix: Tensor) -> Tensor:
    """What `orthogonalize` computes: the polynomial, five times, of each singular value divided by the norm."""
    u, s, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return torch.from_numpy(u @ np.diag(s) @ vt)


class TestOrthogonalize:
    @pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (1, 6)])
    def test_the_polynomial_of_the_singular_values(self, shape):
        (matrix,) = gradients(shape, 1)
        torch.testing.assert_close(orthogonalize(matrix).double(), by_singular_vectors(matrix), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("size", [1e-20, 1e-9, 1.0, 1e9])
    def test_matrices_of_any_size(self, size):
        matrix = gradients((4, 6), 1)[0] * size
        torch.testing.assert_close(orthogonalize(matrix).double(), by_singular_vectors(matrix), rtol=1e-4, atol=1e-5)

    def test_singular_values_are_near_1(self):
        values = torch.linalg.svdvals(orthogonalize(gradients((40, 64), 1)[0]))
        assert values.min() >= 0.68
        assert values.max() <= 1.21

    def test_no_gradient(self):
        assert not orthogonalize(torch.zeros(3, 4)).any()

    def test_a_stack_is_orthogonalized_matrix_by_matrix(self):
        (stack,) = gradients((3, 8, 4), 1)
        together = orthogonalize(stack * torch.tensor([1.0, 100.0, 1e-3])[:, None, None])
        for head, matrix in zip(together, stack, strict=True):
            torch.testing.assert_close(head, orthogonalize(matrix), rtol=1e-4, atol=1e-5)


class TestMuon:
    @pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
    def test_updates_are_those_of_a_loop(self, shape):
        start, pulls = torch.randn(shape, generator=torch.Generator().manual_seed(1)), gradients(shape, 8)
        expected, momentum = start.double(), torch.zeros(shape, dtype=torch.float64)
        for pull in pulls:
            momentum = 0.95 * momentum + 0.05 * pull.double()
            update = by_singular_vectors(0.95 * momentum + 0.05 * pull.double())
            expected = expected * (1 - 3e-3 * 0.7) - 3e-3 * 0.2 * math.sqrt(6) * update
        ours = updated(MUON, "layers.1.W", start, pulls)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon needs PyTorch 2.9")
    def test_updates_are_those_of_torch_optim(self):
        """PyTorch orthogonalizes in bfloat16, which has 8 significant bits."""
        start, pulls = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), gradients((6, 4), 8)
        theirs = nn.Parameter(start.clone())
        reference = torch.optim.Muon([theirs], lr=3e-3, weight_decay=0.7, adjust_lr_fn="match_rms_adamw")
        for pull in pulls:
            theirs.grad = pull.clone()
            reference.step()
        ours = updated(MUON, "layers.1.W", start, pulls)
        assert (ours - theirs).norm() < 0.02 * (ours - start).norm()

    def test_a_weight_stack_is_updated_matrix_by_matrix(self):
        start, pulls = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)), gradients((3, 8, 4), 5)
        together = updated(MUON, "blocks.0.attn.W_Q", start, pulls)
        for i in range(3):
            alone = updated(MUON, "blocks.0.attn.W_Q", start[i], [pull[i] for pull in pulls])
            torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-6)

    def test_the_other_parameters_are_those_of_adamw(self):
        adamw = OptimizerConfig(name="adamw", lr=MUON.lr, weight_decay=0.7, betas=MUON.betas)
        start, pulls = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), gradients((6, 4), 5)
        for name in ("embed.W_E", "unembed.W_U", "layers.1.b", "blocks.0.attn.b_Q"):
            assert torch.equal(updated(MUON, name, start, pulls), updated(adamw, name, start, pulls))
        assert not torch.equal(updated(MUON, "layers.1.W", start, pulls), updated(adamw, "layers.1.W", start, pulls))

    def test_an_update_is_as_large_as_one_of_adamw(self):
        update = updated(replace(MUON, weight_decay=0.0), "layers.1.W", torch.zeros(64, 16), gradients((64, 16), 1))
        assert update.square().mean().sqrt().item() == pytest.approx(0.2 * MUON.lr, rel=0.2)

    def test_the_rate_of_a_warm_up_is_that_of_all_parameters(self):
        start, pulls = torch.ones(3, 3), gradients((3, 3), 1)
        for name in ("layers.1.W", "embed.W_E"):
            assert torch.equal(updated(replace(MUON, warmup_steps=5), name, start, pulls), start)

    def test_a_learning_rate_in_a_tensor(self):
        """On CUDA, the learning rate is a tensor."""
        weights = [nn.Parameter(torch.eye(3)) for _ in range(2)]
        for weight, lr in zip(weights, (0.1, torch.tensor(0.1)), strict=True):
            weight.grad = torch.arange(9.0).view(3, 3)
            Muon([weight], lr=lr, weight_decay=0.5).step()
        torch.testing.assert_close(weights[0], weights[1])

    def test_a_parameter_without_gradient_stays(self):
        weight = nn.Parameter(torch.eye(2))
        Muon([weight], lr=0.1, weight_decay=0.5).step()
        assert torch.equal(weight.detach(), torch.eye(2))


ATTENTION = {f"blocks.0.attn.W_{letter}" for letter in "QKVO"} | {"blocks.0.mlp.W_in", "blocks.0.mlp.W_out"}
HIDDEN = {
    "transformer": (replace(TRANSFORMER, normalization="layernorm", biases="trained"), ATTENTION),
    "MLP on one-hot inputs": (MLPConfig(width=8, depth=3), {"layers.1.W", "layers.2.W"}),
    "MLP on embeddings": (MLPConfig(width=8, depth=2, input="sum"), {"layers.0.W", "layers.1.W"}),
    "MLP on two embeddings": (MLPConfig(width=8, depth=1, input="concat", shared_embedding=False), {"layers.0.W"}),
    "residual MLP": (
        MLPConfig(width=8, depth=1, input="sum", architecture="residual"),
        {"layers.0.W", "layers.0.W_out"},
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_hidden_matrices(kind):
    model, expected = HIDDEN[kind]
    assert set(hidden_matrices(parameter_shapes(model, TaskConfig(p=7)))) == expected


@pytest.mark.parametrize("kind", HIDDEN)
def test_muon_keeps_what_a_resume_point_must_have(kind):
    config = config_of(HIDDEN[kind][0], MUON)
    updater = Updater(initial_parameters(config, task_of(config)).items(), MUON)
    for tensor in updater.tensors:
        tensor.grad = torch.ones_like(tensor)
    updater.apply(0)
    expected = {name: shape for name, shape in state_shapes(config, 1).items() if name.startswith("optimizer:")}
    assert {name: tuple(tensor.shape) for name, tensor in updater.state().items()} == expected


class TestRuns:
    @pytest.mark.parametrize("optimizer", [LION, MUON], ids=["lion", "muon"])
    @pytest.mark.parametrize("model", [TRANSFORMER, MLP], ids=["transformer", "mlp"])
    def test_an_interrupted_run_resumes_bit_for_bit(self, model, optimizer, tmp_path):
        """With clipping, warm-up, minibatches, and the two interventions with a state, as all optimizers."""
        optimizer = replace(optimizer, clip=1.0, warmup_steps=12, batch_size=7, grokfast="ema", gradient_noise=1e-4)
        whole = config_of(model, optimizer)
        expected = train(whole, tmp_path / "whole")
        train(replace(whole, schedule=replace(SCHEDULE, steps=10)), tmp_path / "parts")
        resumed = train(whole, tmp_path / "parts", resume=True)
        for name in ("metrics.jsonl", "resume.safetensors"):
            assert (expected.path / name).read_bytes() == (resumed.path / name).read_bytes()
        for name, weight in expected.weights(30).items():
            assert torch.equal(resumed.weights(30)[name], weight)

    def test_lion_in_an_ensemble(self, tmp_path):
        base = config_of(MLP, LION)
        configs = [base, replace(base, model_seed=1, optimizer=replace(LION, lr=3e-3, betas=(0.8, 0.95)))]
        for i, run in enumerate(train_many(configs, places(tmp_path, 2))):
            alone = train(configs[i], tmp_path / f"alone{i}")
            assert_same_weights(run, alone)
            points = [load_file(each.path / "resume.safetensors").keys() for each in (run, alone)]
            assert points[0] == points[1]

    def test_muon_is_trained_one_by_one(self, tmp_path):
        config = config_of(MLP, MUON)
        message = "train_many does not support optimizer.name muon: train such runs one by one, as a sweep does"
        with pytest.raises(ConfigError, match=message):
            train_many([config] * 2, places(tmp_path, 2))
        assert not list(tmp_path.iterdir())
        assert not ensemble_pays(config, "cpu")


NO_HIDDEN: dict[str, dict[str, Any]] = {
    "one-hot inputs": {"model": MLPConfig(depth=1)},
    "vectors": {"model": MLPConfig(depth=1, input="vector"), "task": RegressionConfig(), "loss": "mse"},
}


@pytest.mark.parametrize("kind", NO_HIDDEN)
def test_muon_needs_hidden_matrices(kind):
    with pytest.raises(ConfigError, match="muon updates matrices between hidden layers, and this MLP has none"):
        RunConfig(**NO_HIDDEN[kind], optimizer=MUON)
    RunConfig(**NO_HIDDEN[kind], optimizer=LION)


def test_the_momentum_of_each_optimizer():
    with pytest.raises(ConfigError, match="momentum applies only to sgd; for muon set muon_momentum"):
        OptimizerConfig(name="muon", momentum=0.9)
    with pytest.raises(ConfigError, match="momentum applies only to sgd; for lion set betas"):
        OptimizerConfig(name="lion", momentum=0.9)
    with pytest.raises(ConfigError, match='muon_momentum has no effect unless name is "muon"'):
        OptimizerConfig(name="sgd", muon_momentum=0.9)
