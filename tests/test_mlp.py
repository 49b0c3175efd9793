"""MLPs against plain torch.nn, against the initialization of plain modules, and against published losses."""

import json
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights import randomized, weights_of

from grokinterp.config import MLPConfig, RunConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.tasks import Task
from grokinterp.training.losses import loss_function
from grokinterp.training.optimizers import Updater

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

P = 7


ACTIVATIONS = {"relu": nn.ReLU(), "gelu": nn.GELU(), "tanh": nn.Tanh(), "quadratic": lambda x: x * x}


class PlainMLP(nn.Module):
    """The same network in plain PyTorch, with PyTorch's initialization, built in the order of the data flow."""

    def __init__(self, config: MLPConfig, p: int):
        super().__init__()
        self.config, self.p = config, p
        if config.input != "one_hot":
            width = config.d_embed or config.width
            tables = [nn.Embedding(p, width) for _ in range(1 if config.shared_embedding else 2)]
            self.tables = nn.ModuleList([tables[0], tables[-1]])
            n_in = width if config.input == "sum" else 2 * width
        else:
            n_in = 2 * p
        self.first, self.second, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(config.depth):
            self.first.append(nn.Linear(n_in, config.width, bias=config.biases))
            if config.architecture == "residual":
                self.second.append(nn.Linear(config.width, n_in, bias=config.biases))
                self.norms.append(nn.LayerNorm(n_in))
            else:
                n_in = config.width
        self.head = nn.Linear(config.width, p, bias=config.biases)
        self.activations: dict[str, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        a, b = inputs[:, 0], inputs[:, 1]
        if self.config.input == "one_hot":
            x = torch.cat([F.one_hot(a, self.p), F.one_hot(b, self.p)], dim=1).to(self.head.weight.dtype)
        else:
            left, right = self.tables[0](a), self.tables[1](b)
            x = left + right if self.config.input == "sum" else torch.cat([left, right], dim=1)
            self.activations["hook_embed"] = x
        for i in range(self.config.depth):
            residual = self.config.architecture == "residual"
            pre = self.first[i](self.norms[i](x) if residual else x)
            post = ACTIVATIONS[self.config.activation](pre)
            x = x + 0.5 * self.second[i](post) if residual else post
            self.activations[f"layers.{i}.hook_pre"], self.activations[f"layers.{i}.hook_post"] = pre, post
        return self.config.output_scale * self.head(x)

    def named(self) -> dict[str, Tensor]:
        """The parameters with the names and the layout of grokinterp."""
        parameters: dict[str, Tensor] = {}
        if self.config.input != "one_hot":
            names = ["embed"] if self.config.shared_embedding else ["embed_a", "embed_b"]
            parameters |= {f"{name}.W_E": self.tables[-i].weight for i, name in enumerate(names)}
        for i in range(self.config.depth):
            parameters[f"layers.{i}.W"] = self.first[i].weight.T
            if self.config.biases:
                parameters[f"layers.{i}.b"] = self.first[i].bias
            if self.config.architecture == "residual":
                parameters |= {f"layers.{i}.ln.w": self.norms[i].weight, f"layers.{i}.ln.b": self.norms[i].bias}
                parameters[f"layers.{i}.W_out"] = self.second[i].weight.T
                if self.config.biases:
                    parameters[f"layers.{i}.b_out"] = self.second[i].bias
        parameters["unembed.W_U"] = self.head.weight.T
        if self.config.biases:
            parameters["unembed.b_U"] = self.head.bias
        return parameters


def variants() -> dict[str, MLPConfig]:
    configs = {}
    for input_kind, shared, shape, biases in product(
        ("one_hot", "concat", "sum"), (True, False), ("flat", "residual"), (True, False)
    ):
        if input_kind == "one_hot" and (shape == "residual" or not shared):
            continue
        d_embed = 6 if input_kind == "concat" and shape == "residual" else None
        name = f"{input_kind} {'shared' if shared else 'apart'} {shape} {'biases' if biases else 'bare'}"
        configs[name] = MLPConfig(
            input=input_kind,
            shared_embedding=shared,
            architecture=shape,
            biases=biases,
            d_embed=d_embed,
            width=12,
            depth=2,
            activation="gelu" if shape == "residual" else "relu",
        )
    for activation in ("relu", "gelu", "tanh", "quadratic"):
        configs[f"{activation} alone"] = MLPConfig(width=9, depth=1, activation=activation)
    configs["deep"] = MLPConfig(input="sum", width=10, depth=4, activation="tanh")
    configs["scaled output"] = MLPConfig(width=9, output_scale=0.3)
    configs["scaled output, residual"] = MLPConfig(input="sum", width=9, output_scale=3.0, architecture="residual")
    configs["narrow embedding"] = MLPConfig(input="concat", d_embed=5, width=10, depth=3)
    return configs


MLPS = variants()


@pytest.mark.parametrize("name", MLPS)
def test_mlp_equals_the_plain_torch_network(name):
    config = MLPS[name]
    task = Task.of("add", P, equals_token=False)
    plain = randomized(PlainMLP(config, P)).double()
    assert isinstance(plain, PlainMLP)
    model: Any = nn.Module.to(build_model(config, task), torch.float64)
    assert {n: w.shape for n, w in model.named_parameters()} == {n: w.shape for n, w in plain.named().items()}
    with torch.no_grad():
        for parameter, weight in plain.named().items():
            model.get_parameter(parameter).copy_(weight)
    expected = plain(task.inputs)
    torch.testing.assert_close(model(task.inputs), expected, rtol=1e-12, atol=1e-12)

    forward = forward_for(config, task)
    assert forward.path == "mlp"
    weights = {n: w.requires_grad_() for n, w in weights_of(model).items()}
    result = forward.activations(weights, task.inputs)
    torch.testing.assert_close(result.logits, expected, rtol=1e-12, atol=1e-12)
    assert result.attention is None

    F.cross_entropy(expected, task.labels).backward()
    loss = F.cross_entropy(result.logits, task.labels)
    ours = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    for parameter, gradient in gradients_under_our_names(plain).items():
        torch.testing.assert_close(ours[parameter], gradient, rtol=1e-10, atol=1e-12, msg=parameter)


@pytest.mark.parametrize("input_kind", ["sum", "concat"])
@pytest.mark.parametrize("n", [P - 2, P * P])
def test_the_first_layer_is_multiplied_once_per_token_if_that_is_less(input_kind, n):
    config = MLPConfig(input=input_kind, width=12, depth=2, shared_embedding=False)
    task = Task.of("add", P, equals_token=False)
    plain = randomized(PlainMLP(config, P)).double()
    heights: list[int] = []

    def noting(x: Tensor, w: Tensor) -> Tensor:
        heights.append(len(x))
        return x @ w

    result = forward_for(config, task).activations(plain.named(), task.inputs[:n], matmul=noting)
    torch.testing.assert_close(result.logits, plain(task.inputs[:n]), rtol=1e-12, atol=1e-12)
    assert heights == ([n, n, n] if n < P else [P, P, n, n])


def gradients_under_our_names(plain: PlainMLP) -> dict[str, Tensor]:
    """Gradients of a plain network; they take the place of its parameters, so that `named` lays them out."""
    with torch.no_grad():
        for parameter in plain.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return {name: value.detach() for name, value in plain.named().items()}


@pytest.mark.parametrize("name", MLPS)
def test_mlp_has_the_hooks_of_transformer_lens(name):
    config = MLPS[name]
    task = Task.of("add", P, equals_token=False)
    plain = randomized(PlainMLP(config, P)).double()
    model: Any = nn.Module.to(build_model(config, task), torch.float64)
    with torch.no_grad():
        for parameter, weight in plain.named().items():
            model.get_parameter(parameter).copy_(weight)
        logits, cache = model.run_with_cache(task.inputs)
        torch.testing.assert_close(logits, plain(task.inputs), rtol=1e-12, atol=1e-12)
    names = {f"layers.{i}.hook_{when}" for i in range(config.depth) for when in ("pre", "post")}
    if config.input != "one_hot":
        names.add("hook_embed")
    assert set(cache) == names == set(plain.activations)
    for hook in names:
        torch.testing.assert_close(cache[hook], plain.activations[hook], rtol=1e-12, atol=1e-12, msg=hook)


def test_a_hook_on_an_mlp_can_replace_its_activation():
    task = Task.of("add", P, equals_token=False)
    model: Any = randomized(build_model(MLPConfig(width=8), task))
    with torch.no_grad():
        silenced = model.run_with_hooks(
            task.inputs, fwd_hooks=[("layers.1.hook_post", lambda value, hook: torch.zeros_like(value))]
        )
        torch.testing.assert_close(silenced, model.unembed.b_U.expand(P * P, P))


@pytest.mark.parametrize("name", MLPS)
def test_neurons_and_readout_of_an_mlp_give_its_logits(name):
    config = MLPS[name]
    task = Task.of("add", P, equals_token=False)
    model: Any = nn.Module.to(randomized(build_model(config, task)), torch.float64)
    with torch.no_grad():
        _, cache = model.run_with_cache(task.inputs)
        result = forward_for(config, task).activations(weights_of(model), task.inputs)
        last = f"layers.{config.depth - 1}.hook_post"
        torch.testing.assert_close(result.neurons, cache[last])
        without = model.run_with_hooks(task.inputs, fwd_hooks=[(last, lambda value, hook: torch.zeros_like(value))])
    torch.testing.assert_close(
        without + result.neurons @ result.neuron_logit_map, result.logits, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("name", MLPS)
def test_torch_initialization_of_an_mlp_equals_that_of_plain_modules(name, seed):
    config = MLPS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = PlainMLP(config, P).named()
    weights = weights_of(build_model(config, Task.of("add", P), seed=seed))
    assert set(weights) == set(expected)
    for parameter, weight in expected.items():
        assert torch.equal(weights[parameter], weight.detach()), parameter


def test_normal_initialization_of_an_mlp():
    config = MLPConfig(input="sum", width=256, depth=2, init="normal")
    weights = weights_of(build_model(config, Task.of("add", 97)))
    for name in ("layers.0.W", "layers.1.W", "unembed.W_U"):
        assert weights[name].std().item() == pytest.approx(1 / 16, rel=4 / math.sqrt(2 * weights[name].numel()))
    assert not any(weights[name].any() for name in ("layers.0.b", "layers.1.b", "unembed.b_U"))


@pytest.mark.parametrize(
    ("config", "rms"),
    [
        (MLPConfig(input="sum", depth=2, width=256, activation="gelu"), 0.3721),
        (MLPConfig(input="sum", depth=4, width=512, activation="gelu"), 0.2092),
    ],
    ids=["depth 2, width 256", "depth 4, width 512"],
)
def test_initial_norms_equal_those_of_manir_and_rupa(config, rms):
    """Their Table 7 prints 0.372 and 0.209."""
    weights = weights_of(build_model(config, Task.of("add", 97)))
    squares = sum(weight.double().square().sum().item() for weight in weights.values())
    assert math.sqrt(squares / sum(weight.numel() for weight in weights.values())) == pytest.approx(rms, abs=2e-3)


# --- psi -------------------------------------------------------------------------------------------------------------


def test_psi_starts_and_trains_as_published(public_data):
    """The first model of the sweeps (weight decay 0) was built after torch.manual_seed(42).

    Its log has the train loss before an update, test loss and weight norm after it.
    """
    log = json.loads((public_data / "psi" / "wd_0.0.json").read_text())
    config = preset("psi")
    optimizer = replace(config.training().optimizer, weight_decay=0.0)
    config = replace(config, optimizer=optimizer)
    task = task_of(config)
    model = build_model(config, task)
    weights = dict(model.named_parameters())
    assert sum(weight.numel() for weight in weights.values()) == 53_985
    updater, loss = Updater(weights.items(), optimizer), loss_function(config)
    forward = forward_for(config.model, task)
    for epoch in range(51):
        train_loss = loss(forward.logits(weights, task.tokens[task.train_mask]), task.labels[task.train_mask])
        train_loss.backward()
        updater.apply(epoch)
        if epoch in (0, 50):
            row = log["epoch"].index(epoch)
            with torch.no_grad():
                logits = forward.logits(weights, task.tokens[task.test_mask])
            test_loss = F.cross_entropy(logits, task.labels[task.test_mask])
            norm = math.sqrt(sum(weight.double().square().sum().item() for weight in weights.values()))
            precision = 1e-6 if epoch == 0 else 1e-4
            assert train_loss.item() == pytest.approx(log["train_loss"][row], abs=precision)
            assert test_loss.item() == pytest.approx(log["test_loss"][row], abs=precision)
            assert norm == pytest.approx(log["weight_norm"][row], rel=precision)


def test_psi_reads_operands_without_equals():
    assert task_of(preset("psi")).tokens.shape == (97 * 97, 2)
    assert task_of(preset("nanda")).tokens.shape == (113 * 113, 3)
    assert not task_of(RunConfig(task=TaskConfig(), model=TransformerConfig(equals_token=False))).equals_token
