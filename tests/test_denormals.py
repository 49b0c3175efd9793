"""A late update has no denormal numbers, which many processors take a hundred times as long to compute with.

Late in training, most gradients of the logits would be below the smallest normal float32, 1.2e-38. These tests train
models to that point and watch every operator of one more update. Nothing is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.training import ensemble, losses, train, train_many, trainer
from grokinterp.training.gradients import gradients_function
from grokinterp.training.losses import cross_entropy_and_gradient
from grokinterp.training.optimizers import Updater, drop_negligible

# Operators whose results, or whose first argument, are uninitialized memory.
UNWRITTEN_RESULTS = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided")
OVERWRITTEN = ("copy_", "_foreach_copy_", "zero_", "fill_")


def denormals(tensor: Tensor) -> int:
    magnitude = tensor.detach().abs()
    return int(((magnitude > 0) & (magnitude < torch.finfo(tensor.dtype).tiny)).sum())


@dataclass(frozen=True)
class Place:
    """An operator that read or wrote denormal numbers."""

    operator: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    count: int


@dataclass
class Watch(TorchDispatchMode):
    """Records every operator of forward, backward and optimizer, and the denormals that it read or wrote."""

    operators: set[str] = field(default_factory=set)
    places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        read = args[1:] if name in OVERWRITTEN else args
        self.record(str(func), (read, kwargs))
        out = func(*args, **(kwargs or {}))
        self.operators.add(str(func))
        if name not in UNWRITTEN_RESULTS:
            self.record(str(func), (out, args))  # some operators write to an argument
        return out

    def record(self, operator: str, values: Any) -> None:
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and (count := denormals(tensor)):
                self.places.append(Place(operator, tuple(tensor.shape), tensor.dtype, count))

    @property
    def count(self) -> int:
        return sum(place.count for place in self.places)


# --- models late in training -----------------------------------------------------------------------------------------

SMALL = TransformerConfig(d_model=32, n_heads=4, d_mlp=64)
LATE = {
    "=": SMALL,
    "no =": replace(SMALL, equals_token=False),
    "class of =": replace(SMALL, equals_logit=True, biases="mlp"),
}


@dataclass(frozen=True)
class Late:
    """A model with training loss below 1e-6 and the state of its optimizer; tests change neither."""

    config: RunConfig
    tokens: Tensor
    labels: Tensor
    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    step: int

    def update(self, loss_dtype: str) -> tuple[Tensor, Watch]:
        """The loss of one more update on a copy, and what the watch recorded."""
        config = replace(self.config, loss_dtype=loss_dtype)
        weights = self.copy_weights()
        assert config.optimizer is not None
        updater = Updater(weights.items(), config.optimizer)
        updater.restore({name: value.clone() for name, value in self.state.items()})
        gradients = gradients_function(config, forward_for(config.model, task_of(config)), weights)
        with Watch() as watch:
            loss = gradients(self.tokens, self.labels)
            updater.apply(self.step)
        return loss, watch

    def gradients_of(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Watch:
        """The same gradients by autograd, of another loss."""
        weights = self.copy_weights()
        forward = forward_for(self.config.model, task_of(self.config))
        with Watch() as watch:
            loss(forward.logits(weights, self.tokens), self.labels).backward()
        return watch

    def copy_weights(self) -> dict[str, nn.Parameter]:
        model = self.config.model
        assert isinstance(model, TransformerConfig)
        return {n: nn.Parameter(w.clone(), requires_grad=model.trains(n)) for n, w in self.weights.items()}


@cache
def late(name: str) -> Late:
    config = RunConfig(
        task=TaskConfig(p=23, train_fraction=0.6),
        model=LATE[name],
        optimizer=OptimizerConfig(lr=1e-2, weight_decay=0.02),
        loss_dtype="float32",
    )
    assert config.optimizer is not None
    task = task_of(config)
    tokens, labels = task.tokens[task.train_mask], task.labels[task.train_mask]
    weights = dict(build_model(config, task).named_parameters())
    updater = Updater(weights.items(), config.optimizer)
    gradients = gradients_function(config, forward_for(config.model, task), weights)
    for step in range(1500):
        loss = gradients(tokens, labels)
        if loss < 5e-7:
            final_weights = {name: weight.detach().clone() for name, weight in weights.items()}
            return Late(config, tokens, labels, final_weights, updater.state(), step)
        updater.apply(step)
    raise AssertionError(f"{name} did not learn its training set: loss {loss:.1e}")


@pytest.mark.parametrize("loss_dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "=" else pytest.mark.slow) for name in LATE])
def test_a_late_update_has_no_denormals(name, loss_dtype, matrix_products):
    loss, watch = late(name).update(loss_dtype)
    assert 0 < loss.item() < 1e-6
    assert watch.places == []
    assert "aten._fused_adamw_.default" in watch.operators, "the optimizer was not watched"
    product = "mkldnn._linear_pointwise.default" if matrix_products == "onednn" else "aten.addmm.default"
    assert product in watch.operators, "the products were not watched"
    assert "aten.index_add_.default" in watch.operators, "the explicit backward pass was not watched"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (name, dtype) == ("=", torch.float32) else pytest.mark.slow)
        for name in LATE
        for dtype in (torch.float32, torch.float64)
    ],
)
def test_pytorchs_cross_entropy_has_thousands_of_denormals(name, dtype):
    watch = late(name).gradients_of(lambda logits, labels: F.cross_entropy(logits.to(dtype), labels))
    assert watch.count > 1000
    assert any(place.operator == "aten.mm.default" for place in watch.places), "they do not reach matrix products"


@pytest.mark.parametrize("loss_dtype", ["float32", "float64"])
def test_without_the_thresholds_an_update_has_denormals(loss_dtype, monkeypatch):
    """Only the thresholds in `losses` keep denormals out."""
    monkeypatch.setattr(losses, "_NEGLIGIBLE_EXPONENT", dict.fromkeys((torch.float32, torch.float64), -1e6))
    monkeypatch.setattr(losses, "_NEGLIGIBLE_GRADIENT", 0.0)
    _, watch = late("=").update(loss_dtype)
    assert watch.count > 100


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "=" else pytest.mark.slow) for name in LATE])
def test_the_state_of_a_late_run_has_no_denormals(name):
    """Every neuron is active here; the running average of gradients that are exactly 0 would become denormal."""
    run = late(name)
    assert run.step > 300
    assert {key: denormals(value) for key, value in {**run.state, **run.weights}.items() if denormals(value)} == {}


# --- weights without a gradient ------------------------------------------------------------------------------------

DEAD = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=MLPConfig(width=16),
    optimizer=OptimizerConfig(name="sgd", lr=0.1, momentum=0.0, weight_decay=5.0),  # halves a weight at every step
    schedule=ScheduleConfig(steps=140, evaluate_every=70, checkpoints=70),
)


@pytest.mark.parametrize("together", [False, True])
def test_weights_that_vanish_become_zero(together, tmp_path, monkeypatch):
    def denormals_left(name: str) -> int:
        folder = tmp_path / name
        run = train_many([DEAD], [folder])[0] if together else train(DEAD, folder)
        return sum(map(denormals, run.weights("last").values()))

    assert denormals_left("run") == 0
    monkeypatch.setattr(ensemble if together else trainer, "DROP_EVERY", 10**9)
    assert denormals_left("unmended") > 100


def test_a_run_resumed_before_they_vanish_ends_in_the_same_bits(tmp_path):
    whole = train(DEAD, tmp_path / "whole")
    train(DEAD.replace({"schedule.steps": 70}), tmp_path / "parts")
    parts = train(DEAD, tmp_path / "parts", resume=True)
    assert parts.checksum(140) == whole.checksum(140)


def test_a_mean_vanishes_with_its_square_and_other_entries_stay():
    state = {
        "exp_avg": torch.tensor([1e-3, 1e-20]),
        "exp_avg_sq": torch.tensor([1.0, 1e-40]),
        "step": torch.tensor(3.0),
        "momentum_buffer": None,
        "seen": torch.tensor([0, 1]),
    }
    drop_negligible([], [state])
    assert state["exp_avg"].tolist() == pytest.approx([1e-3, 0.0])
    assert state["exp_avg_sq"].tolist() == [1.0, 0.0]
    assert state["step"] == 3
    assert state["seen"].tolist() == [0, 1]


def test_moments_without_a_gradient_become_zero():
    weight = nn.Parameter(torch.ones(5))
    updater = Updater([("w", weight)], OptimizerConfig(weight_decay=0.0))
    for step in range(1000):
        weight.grad = torch.full((5,), 1e-3) if step == 0 else torch.zeros(5)
        updater.apply(step)
    states = updater.optimizer.state[weight]
    assert denormals(states["exp_avg"]) == 5
    kept = weight.clone(), states["exp_avg_sq"].clone()
    updater.drop_negligible()
    assert not states["exp_avg"].any()
    assert torch.equal(weight, kept[0])
    assert torch.equal(states["exp_avg_sq"], kept[1])
    assert kept[1].all()


# --- the loss alone, at any margin -----------------------------------------------------------------------------------


def logits_with_margin(margin: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(113, (400,), generator=generator)
    logits = 3 * torch.randn(400, 113, generator=generator)
    return logits.scatter(1, labels[:, None], margin).to(dtype), labels


@pytest.mark.parametrize(
    ("dtype", "margin"),
    [
        *((torch.float32, margin) for margin in (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)),
        *((torch.float64, margin) for margin in (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200)),
    ],
)
def test_the_loss_has_no_denormals_at_any_margin(dtype, margin):
    """A margin of 16 corresponds to a loss of 1e-7."""
    logits, labels = logits_with_margin(float(margin), dtype)
    with Watch() as watch:
        cross_entropy_and_gradient(logits, labels, 3830)
    assert [place for place in watch.places if place.shape == (400, 113)] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_has_no_exponential_of_a_very_negative_number(dtype):
    """On x86 it takes 20 times as long as another, also that of -inf, the correct class."""
    smallest: list[float] = []

    class Exponents(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("exp", "exp_"):
                smallest.append(args[0].min().item())
            return func(*args, **(kwargs or {}))

    logits, labels = logits_with_margin(10.0, dtype)
    logits[:, 5] = -1e4
    with Exponents():
        cross_entropy_and_gradient(logits, labels, 3830)
    assert len(smallest) == 1
    assert smallest[0] > -70


# --- the watch itself ------------------------------------------------------------------------------------------------


def test_the_watch_finds_denormals():
    tiny = torch.tensor([1e-40, 1e-30, 0.0, 1.0, -1e-42])
    with Watch() as watch:
        (tiny * 1.0).add_(0.0)
    assert {place.operator for place in watch.places} == {"aten.mul.Tensor", "aten.add_.Tensor"}
    assert {place.count for place in watch.places} == {2}
    assert watch.operators == {"aten.mul.Tensor", "aten.add_.Tensor"}


def test_the_watch_finds_denormals_written_to_arguments():
    weight, gradient = torch.ones(4, requires_grad=True), torch.full((4,), 1e-40)
    weight.grad = gradient
    with Watch() as watch:
        torch.optim.SGD([weight], lr=1.0, fused=True, momentum=0.5).step()
    assert any("sgd" in place.operator for place in watch.places)
