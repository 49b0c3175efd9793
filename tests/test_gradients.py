"""Loss and gradients of one update, on every path, against HookedTransformer in float64.

In float64 they must agree to the last digits, which shows that the formulas are right. In float32 their errors must be
at most twice as large as those of HookedTransformer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from weights import in_float64 as as_float64
from weights import randomized

from grokinterp.config import MLPConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.models import build_model, forward_for, rows, task_of
from grokinterp.training.gradients import explicit_gradients, gradients_function

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

Gradients = dict[str, Tensor]

SMALL = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
ONE_LAYER = {
    "demo": SMALL,
    "no equals": replace(SMALL, equals_token=False),
    "equals logit": replace(SMALL, equals_logit=True),
    "gelu": replace(SMALL, activation="gelu"),
    "scaled output": replace(SMALL, output_scale=0.3),
    "gelu, three heads of seven, no equals": replace(SMALL, activation="gelu", n_heads=3, d_head=7, equals_token=False),
}
DEEPER = {
    "two layers": replace(SMALL, n_layers=2),
    "layernorm": replace(SMALL, normalization="layernorm"),
    "two layers, scaled output": replace(SMALL, n_layers=2, output_scale=3.0),
    "two layers, layernorm, gelu, no equals": replace(
        SMALL, n_layers=2, normalization="layernorm", activation="gelu", equals_token=False
    ),
    "power": replace(SMALL, n_layers=2, normalization="post_layernorm"),
    "encoder": replace(
        SMALL,
        normalization="layernorm",
        activation="gelu",
        equals_token=False,
        attention="bidirectional",
        readout="mean",
        final_norm=False,
    ),
}
SMALL_ONES = ONE_LAYER | DEEPER


def run_of(model: Any, p: int, **options: Any) -> RunConfig:
    return RunConfig(task=TaskConfig(p=p, train_fraction=0.5), model=model, **options)


def training_set(config: RunConfig) -> tuple[Tensor, Tensor]:
    task = task_of(config)
    return task.tokens[task.train_mask], task.labels[task.train_mask]


def copy_of(model: Any, dtype: torch.dtype = torch.float32) -> Gradients:
    return {name: w.detach().to(dtype).clone().requires_grad_() for name, w in model.named_parameters()}


def left_in(weights: Gradients) -> Gradients:
    return {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in weights.items()}


def ours(config: RunConfig, weights: Gradients, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Gradients]:
    """Loss and gradients as an update computes them."""
    forward = forward_for(config.model, task_of(config))
    loss = gradients_function(config, forward, weights)(tokens, labels)
    return loss, left_in(weights)


def the_modules(model: Any, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Gradients]:
    """Logits, loss and gradients of a HookedTransformer; the loss is always computed in float64."""
    logits = model(tokens)[:, -1]
    loss = F.cross_entropy(logits.double(), labels)
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    whole = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(named.items(), found, strict=True)}
    return logits.detach(), loss.detach(), whole


def in_float64(config: RunConfig, model: Any) -> Any:
    """The same model in float64."""
    exact = as_float64(build_model(config, task_of(config)))
    exact.load_state_dict(model.state_dict())
    return exact.requires_grad_(True)


def assert_same(found: Gradients, true: Gradients) -> None:
    """Checks equality to the last digits; if a gradient is exactly 0, relative to the largest gradient."""
    largest = max(gradient.abs().max().item() for gradient in true.values())
    assert set(found) == set(true)
    for parameter, gradient in true.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-13 * largest, msg=parameter)


def cut_into_chunks(monkeypatch) -> None:
    """Chunks of at least 64 rows: the 144 training pairs of p = 17 form 3 chunks."""
    monkeypatch.setattr(rows, "_CHUNK", 0)


# --- the formulas, in float64 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", ["one chunk", "three chunks"])
@pytest.mark.parametrize("name", SMALL_ONES)
def test_in_float64_an_updates_gradients_are_the_modules_to_the_last_digits(name, chunks, monkeypatch):
    config = run_of(SMALL_ONES[name], p=17)
    tokens, labels = training_set(config)
    if chunks == "three chunks":
        cut_into_chunks(monkeypatch)
        assert len(list(rows.row_chunks(len(tokens), 24, tokens.device))) == 3
    exact = in_float64(config, randomized(build_model(config, task_of(config)), seed=5))
    _, true_loss, true = the_modules(exact, tokens, labels)
    loss, found = ours(config, copy_of(exact, torch.float64), tokens, labels)
    assert loss.item() == pytest.approx(true_loss.item(), rel=1e-13)
    assert_same(found, true)


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers", "layernorm"])
def test_gradients_of_the_squared_error_too(name):
    config = run_of(SMALL_ONES[name], p=7, loss="mse")
    tokens, labels = training_set(config)
    exact = in_float64(config, randomized(build_model(config, task_of(config)), seed=5))
    F.mse_loss(exact(tokens)[:, -1], F.one_hot(labels, 7).double()).backward()
    _, found = ours(config, copy_of(exact, torch.float64), tokens, labels)
    assert_same(found, left_in(dict(exact.named_parameters())))


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers"])
def test_examples_may_repeat_and_come_in_any_order(name):
    """As in a minibatch; each example counts as often as it occurs."""
    config = run_of(SMALL_ONES[name], p=7)
    task = task_of(config)
    some = torch.tensor([40, 3, 3, 3, 12, 48, 0, 0])
    exact = in_float64(config, randomized(build_model(config, task), seed=5))
    _, true_loss, true = the_modules(exact, task.tokens[some], task.labels[some])
    loss, found = ours(config, copy_of(exact, torch.float64), task.tokens[some], task.labels[some])
    assert loss.item() == pytest.approx(true_loss.item(), rel=1e-13)
    assert_same(found, true)


@pytest.mark.parametrize("chunks", ["one chunk", "three chunks"])
@pytest.mark.parametrize("name", ONE_LAYER)
def test_the_gradients_of_a_stack_are_those_of_each_run(name, chunks, monkeypatch):
    """Three runs with their own weights and splits, of which the module knows nothing."""
    config = run_of(ONE_LAYER[name], p=17)
    if chunks == "three chunks":
        cut_into_chunks(monkeypatch)
    configs = [config.replace({"task.data_seed": seed}) for seed in range(3)]
    modules = [in_float64(c, randomized(build_model(c, task_of(c)), seed=i)) for i, c in enumerate(configs)]
    examples = [training_set(c) for c in configs]
    copies = [copy_of(module, torch.float64) for module in modules]
    stacked = {name: torch.stack([copy[name].detach() for copy in copies]) for name in copies[0]}
    tokens, labels = (torch.stack(parts) for parts in zip(*examples, strict=True))
    losses, found = explicit_gradients(config)(stacked, tokens, labels)
    for i, module in enumerate(modules):
        _, true_loss, true = the_modules(module, *examples[i])
        assert losses[i].item() == pytest.approx(true_loss.item(), rel=1e-13)
        assert_same({name: gradient[i] for name, gradient in found.items()}, true)


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers"])
def test_one_example_is_enough(name):
    config = run_of(SMALL_ONES[name], p=7)
    task = task_of(config)
    exact = in_float64(config, randomized(build_model(config, task), seed=5))
    _, true_loss, true = the_modules(exact, task.tokens[8:9], task.labels[8:9])
    loss, found = ours(config, copy_of(exact, torch.float64), task.tokens[8:9], task.labels[8:9])
    assert loss.item() == pytest.approx(true_loss.item(), rel=1e-13)
    assert_same(found, true)


# --- what is left behind ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers"])
def test_gradients_are_added_and_the_weights_left_alone(name):
    config = run_of(SMALL_ONES[name], p=7)
    tokens, labels = training_set(config)
    weights = copy_of(randomized(build_model(config, task_of(config)), seed=5), torch.float64)
    before = {name: w.detach().clone() for name, w in weights.items()}
    _, first = ours(config, weights, tokens, labels)
    first = {name: gradient.clone() for name, gradient in first.items()}
    _, second = ours(config, weights, tokens, labels)
    for parameter, gradient in first.items():
        torch.testing.assert_close(second[parameter], 2 * gradient, rtol=1e-12, atol=0)
        assert torch.equal(weights[parameter].detach(), before[parameter])


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers"])
def test_frozen_parameters_get_no_gradient(name):
    config = run_of(replace(SMALL_ONES[name], biases="frozen"), p=7)
    tokens, labels = training_set(config)
    model: Any = build_model(config, task_of(config))
    weights = dict(model.named_parameters())
    ours(config, weights, tokens, labels)
    with_gradient = {name for name, w in weights.items() if w.grad is not None}
    assert (
        with_gradient
        == {name for name, w in weights.items() if w.requires_grad}
        == set(weights) - {name for name in weights if ".b_" in name}
    )


@pytest.mark.parametrize("model", [*SMALL_ONES.values(), MLPConfig(width=24)], ids=[*SMALL_ONES, "mlp"])
def test_repeating_gives_the_same_bits(model, matrix_products):
    config = run_of(model, p=17, loss_dtype="float32")
    tokens, labels = training_set(config)
    start = randomized(build_model(config, task_of(config)), seed=5)
    (loss, first), (again, second) = (ours(config, copy_of(start), tokens, labels) for _ in range(2))
    assert torch.equal(loss, again)
    assert all(torch.equal(first[parameter], second[parameter]) for parameter in first)


@pytest.mark.parametrize("name", ["demo", "no equals"])
def test_the_size_of_chunks_only_changes_rounding(name, matrix_products, monkeypatch):
    config = run_of(SMALL_ONES[name], p=17)
    tokens, labels = training_set(config)
    start = randomized(build_model(config, task_of(config)), seed=5)
    loss, whole = ours(config, copy_of(start), tokens, labels)
    cut_into_chunks(monkeypatch)
    loss_in_parts, in_parts = ours(config, copy_of(start), tokens, labels)
    assert loss_in_parts.item() == pytest.approx(loss.item(), rel=1e-6)
    largest = max(gradient.norm() for gradient in whole.values())
    for parameter, gradient in whole.items():
        assert (in_parts[parameter] - gradient).norm() <= 1e-6 * max(gradient.norm(), 0.1 * largest), parameter


@pytest.mark.parametrize("name", SMALL_ONES)
@pytest.mark.parametrize("loss_dtype", ["float32", "float64"])
def test_the_loss_has_the_dtype_of_the_run(name, loss_dtype):
    config = run_of(SMALL_ONES[name], p=7, loss_dtype=loss_dtype)
    weights = copy_of(randomized(build_model(config, task_of(config)), seed=5))
    loss, found = ours(config, weights, *training_set(config))
    assert (loss.shape, loss.dtype, loss.requires_grad) == ((), getattr(torch, loss_dtype), False)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


@pytest.mark.parametrize("name", SMALL_ONES)
def test_a_nan_among_the_weights_shows_in_the_loss_and_the_logits(name, matrix_products):
    """Whichever weight it is in: a diverged run must not look healthy for another step."""
    config = run_of(SMALL_ONES[name], p=7)
    tokens, labels = training_set(config)
    forward = forward_for(config.model, task_of(config))
    start = copy_of(randomized(build_model(config, task_of(config)), seed=5))
    overlooked = set()
    for parameter in start:
        weights = {name: w.detach().clone().requires_grad_() for name, w in start.items()}
        weights[parameter].data.flatten()[0] = float("nan")
        loss, _ = ours(config, weights, tokens, labels)
        if loss.isfinite() or forward.logits_by_rows(weights, tokens).isfinite().all():
            overlooked.add(parameter)
    assert overlooked == set()


# --- digits, in float32 ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A configuration, and the draws of its weights over which errors are compared.

    Attributes:
        factor: how many times larger than the module's errors ours may be. The module sums products over three rows
            per pair, two of them 0, whereas we sum over one row. Its products are spread over more partial sums, which
            makes the same product of random matrices 1.5 times as exact. With `power`, whose size varies, our errors
            are 1.6 to 2.2 times the module's.
    """

    config: RunConfig
    draws: int
    draw: Callable[[Any, int], Any]
    factor: float = 2.0


def demo_with_biases(model: Any, seed: int) -> Any:
    """Matrices as initialized; biases, which would all be 0, of a size that they have after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".b_" in name:
                parameter.normal_(std=0.05, generator=generator)
            parameter.requires_grad_(True)
    return model


MAINLINE = RunConfig(task=TaskConfig(p=113, train_fraction=0.3), model=TransformerConfig(biases="trained"))
COMPARED = {"mainline": Compared(MAINLINE, 7, demo_with_biases)} | {
    name: Compared(run_of(model, p=17), 25, randomized, 2.5 if name == "power" else 2.0)
    for name, model in SMALL_ONES.items()
}
EACH_COMPARED = [pytest.param(name, marks=pytest.mark.slow if name == "mainline" else ()) for name in COMPARED]


@dataclass(frozen=True)
class Draw:
    """A draw of the weights, with the exact results and the errors of HookedTransformer in float32.

    Attributes:
        logits, loss, true: of HookedTransformer in float64.
        off: relative errors of HookedTransformer in float32, for its logits and each gradient.
    """

    weights: Gradients
    logits: Tensor
    loss: float
    true: Gradients
    off: dict[str, float]

    def errors(self, logits: Tensor, gradients: Gradients) -> dict[str, float]:
        """Norm of the difference relative to that of the exact value, or of the largest gradient if that is 0."""
        found = {"logits": ((logits.double() - self.logits).norm() / self.logits.norm()).item()}
        largest = max(gradient.norm() for gradient in self.true.values())
        for name, true in self.true.items():
            scale = largest if is_zero(name) else true.norm()
            found[name] = ((gradients[name].double() - true).norm() / scale).item()
        return found


def is_zero(parameter: str) -> bool:
    """A key bias shifts all scores of a query alike, which softmax ignores, so that its gradient is only rounding."""
    return parameter.endswith("b_K")


@cache
def draws_of(name: str) -> list[Draw]:
    compared = COMPARED[name]
    config = compared.config
    tokens, labels = training_set(config)
    found = []
    for seed in range(compared.draws):
        model: Any = compared.draw(build_model(config, task_of(config), seed=seed), seed)
        logits, loss, true = the_modules(in_float64(config, model), tokens, labels)
        draw = Draw(copy_of(model), logits, loss.item(), true, {})
        own_logits, _, own = the_modules(model, tokens, labels)
        found.append(replace(draw, off=draw.errors(own_logits, own)))
    return found


def assert_at_most_twice(name: str, errors: list[dict[str, float]]) -> None:
    """Compares medians over the draws. In a few draws, rounding puts a neuron on the other side of 0, in our float32 or
    in the module's. The errors of such a draw are 1000 times larger than rounding and would dominate a mean.
    """
    draws = draws_of(name)
    for tensor in errors[0]:
        ours, theirs = median(e[tensor] for e in errors), median(draw.off[tensor] for draw in draws)
        if is_zero(tensor):
            assert max(ours, theirs) <= 1e-7, f"{tensor}: {ours:.1e} of the largest gradient"
        else:
            assert ours <= COMPARED[name].factor * theirs, (
                f"{tensor}: {ours:.2e}, {ours / theirs:.2f} times {theirs:.2e}"
            )


@pytest.mark.parametrize("name", EACH_COMPARED)
def test_only_key_biases_have_no_gradient(name):
    for draw in draws_of(name)[:3]:
        largest = max(gradient.norm() for gradient in draw.true.values())
        zero = {parameter for parameter, true in draw.true.items() if true.norm() <= 1e-14 * largest}
        assert zero == {parameter for parameter in draw.true if is_zero(parameter)}


@pytest.mark.parametrize("loss_dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EACH_COMPARED)
def test_an_updates_errors_are_at_most_twice_the_modules(name, loss_dtype, matrix_products):
    config = replace(COMPARED[name].config, loss_dtype=loss_dtype)
    tokens, labels = training_set(config)
    forward = forward_for(config.model, task_of(config))
    errors = []
    for draw in draws_of(name):
        weights = {parameter: w.detach().clone().requires_grad_() for parameter, w in draw.weights.items()}
        loss, found = ours(config, weights, tokens, labels)
        assert loss.item() == pytest.approx(draw.loss, rel=2e-6)
        errors.append(draw.errors(forward.logits_by_rows(weights, tokens), found))
    assert_at_most_twice(name, errors)


@pytest.mark.parametrize("name", EACH_COMPARED)
def test_autograds_errors_are_at_most_twice_the_modules(name):
    """Gradients through the forward pass alone, with PyTorch's own products, as in measures."""
    config = COMPARED[name].config
    tokens, labels = training_set(config)
    forward = forward_for(config.model, task_of(config))
    errors = []
    for draw in draws_of(name):
        weights = {parameter: w.detach().clone().requires_grad_() for parameter, w in draw.weights.items()}
        logits = forward.logits(weights, tokens)
        F.cross_entropy(logits.double(), labels).backward()
        errors.append(draw.errors(logits.detach(), left_in(weights)))
    assert_at_most_twice(name, errors)
