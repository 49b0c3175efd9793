"""Updater: compared with torch.optim and with explicit loops."""

from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from grokinterp.config import OptimizerConfig
from grokinterp.training.optimizers import Updater


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(4, 6, generator=generator))
        self.second = nn.Parameter(torch.randn(6, generator=generator))
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def loss(self, scale: float = 1.0) -> Tensor:
        x = torch.linspace(-1, 1, 40).reshape(10, 4)
        return scale * (torch.tanh(x @ self.first + self.frozen) @ self.second - x.sum(dim=1)).square().mean()


def steps_by_ours(config: OptimizerConfig, count: int, scale: float = 1.0) -> Toy:
    toy = Toy()
    updater = Updater(toy.named_parameters(), config)
    for step in range(count):
        toy.loss(scale).backward()
        updater.apply(step)
    return toy


def steps_by_torch(make: Any, count: int, warmup: int = 0) -> Toy:
    toy = Toy()
    optimizer = make([toy.first, toy.second])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / warmup, 1.0) if warmup else 1.0)
    for _ in range(count):
        optimizer.zero_grad()
        toy.loss().backward()
        optimizer.step()
        scheduler.step()
    return toy


def assert_same(ours: Toy, theirs: Toy, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(ours.first, theirs.first, rtol=rtol, atol=1e-6)
    torch.testing.assert_close(ours.second, theirs.second, rtol=rtol, atol=1e-6)
    assert torch.equal(ours.frozen, torch.ones(6))


TORCH = {
    "adamw": (
        OptimizerConfig(name="adamw", lr=1e-2, weight_decay=1.0, betas=(0.9, 0.98)),
        lambda w: torch.optim.AdamW(w, lr=1e-2, weight_decay=1.0, betas=(0.9, 0.98), foreach=False),
    ),
    "adamw with a large eps": (
        OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.3, betas=(0.9, 0.999), eps=1e-2),
        lambda w: torch.optim.AdamW(w, lr=1e-2, weight_decay=0.3, betas=(0.9, 0.999), eps=1e-2, foreach=False),
    ),
    "adam, coupled": (
        OptimizerConfig(name="adam", lr=1e-2, weight_decay=0.5, betas=(0.8, 0.95)),
        lambda w: torch.optim.Adam(w, lr=1e-2, weight_decay=0.5, betas=(0.8, 0.95), foreach=False),
    ),
    "sgd": (
        OptimizerConfig(name="sgd", lr=1e-2, weight_decay=0.0),
        lambda w: torch.optim.SGD(w, lr=1e-2, foreach=False),
    ),
    "sgd, momentum, coupled": (
        OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9, weight_decay=0.2),
        lambda w: torch.optim.SGD(w, lr=1e-2, momentum=0.9, weight_decay=0.2, foreach=False),
    ),
}


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("name", TORCH)
def test_updates_are_those_of_torch_optim(name, warmup):
    config, make = TORCH[name]
    config = OptimizerConfig(**{**vars(config), "warmup_steps": warmup})
    assert_same(steps_by_ours(config, 8), steps_by_torch(make, 8, warmup))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_decoupled_sgd_against_a_loop(momentum):
    lr, decay = 1e-2, 0.7
    ours = steps_by_ours(
        OptimizerConfig(name="sgd", lr=lr, weight_decay=decay, decay="decoupled", momentum=momentum), 6
    )
    toy = Toy()
    velocity = [torch.zeros_like(toy.first), torch.zeros_like(toy.second)]
    for _ in range(6):
        found = torch.autograd.grad(toy.loss(), [toy.first, toy.second])
        with torch.no_grad():
            for i, parameter in enumerate((toy.first, toy.second)):
                velocity[i] = momentum * velocity[i] + found[i]
                parameter.copy_(parameter * (1 - lr * decay) - lr * velocity[i])
    assert_same(ours, toy)
    coupled = steps_by_ours(OptimizerConfig(name="sgd", lr=lr, weight_decay=decay, momentum=momentum), 6)
    if momentum:
        assert (coupled.first - ours.first).abs().max() > 1e-3, "the two kinds of decay differ under momentum"


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_the_first_update_of_a_warm_up_moves_nothing(name):
    config = OptimizerConfig(name=name, lr=0.1, weight_decay=1.0, warmup_steps=10)
    assert torch.equal(steps_by_ours(config, 1).first, Toy().first)
    assert not torch.equal(steps_by_ours(config, 2).first, Toy().first)


def test_the_learning_rate_rises_linearly_and_stays():
    toy = Toy()
    updater = Updater(toy.named_parameters(), OptimizerConfig(name="sgd", lr=1.0, weight_decay=0.0, warmup_steps=4))
    moves = []
    for step in range(7):
        before = toy.second.detach().clone()
        toy.second.grad, toy.first.grad = torch.ones(6), torch.zeros(4, 6)
        updater.apply(step)
        moves.append((before - toy.second.detach()).mean().item())
    assert moves == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1], abs=1e-6)


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e6])
def test_clipping_scales_the_whole_gradient(clip):
    toy = Toy()
    first, second = torch.autograd.grad(toy.loss(), [toy.first, toy.second])
    norm = (first.square().sum() + second.square().sum()).sqrt().item()
    share = min(1.0, clip / norm)
    ours = steps_by_ours(OptimizerConfig(name="sgd", lr=0.5, weight_decay=0.0, clip=clip), 1)
    torch.testing.assert_close(ours.first, toy.first - 0.5 * share * first, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.second, toy.second - 0.5 * share * second, rtol=1e-5, atol=1e-6)


def test_an_update_clears_the_gradients():
    toy = Toy()
    updater = Updater(toy.named_parameters(), OptimizerConfig())
    toy.loss().backward()
    updater.apply(0)
    assert toy.first.grad is None
    assert toy.second.grad is None


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(lr=1e-2, warmup_steps=5),
        OptimizerConfig(name="adam", lr=1e-2, weight_decay=0.1),
        OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9, weight_decay=0.1),
        OptimizerConfig(name="sgd", lr=1e-2, momentum=0.9, weight_decay=0.1, decay="decoupled", clip=0.5),
    ],
    ids=["adamw", "adam", "sgd", "decoupled sgd"],
)
def test_a_restored_optimizer_continues_bit_for_bit(config, stop):
    unbroken = steps_by_ours(config, 7)

    toy = Toy()
    updater = Updater(toy.named_parameters(), config)
    for step in range(stop):
        toy.loss().backward()
        updater.apply(step)
    kept_weights, kept_state = save(dict(toy.state_dict())), save(updater.state())

    resumed = Toy()
    resumed.load_state_dict(load(kept_weights))
    again = Updater(resumed.named_parameters(), config)
    again.restore(load(kept_state))
    for step in range(stop, 7):
        resumed.loss().backward()
        again.apply(step)
    assert torch.equal(resumed.first, unbroken.first)
    assert torch.equal(resumed.second, unbroken.second)


def test_the_state_names_the_parameters_and_leaves_frozen_ones_out():
    toy = Toy()
    updater = Updater(toy.named_parameters(), OptimizerConfig())
    toy.loss().backward()
    updater.apply(0)
    assert set(updater.state()) == {
        f"optimizer:{name}:{key}" for name in ("first", "second") for key in ("step", "exp_avg", "exp_avg_sq")
    }
