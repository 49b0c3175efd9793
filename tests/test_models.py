"""Transformers against TransformerLens itself, and against published initial losses."""

import math
import sys
from dataclasses import replace
from typing import Any

import processes
import pytest
import torch
import torch.nn.functional as F
from hooked import HookedTransformer, HookedTransformerConfig, needs_hooked_transformer
from torch import Tensor
from weights import in_float64, randomized, weights_of

from grokinterp.config import MLPConfig, OptimizerConfig, RecordedConfig, RunConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.models.forward import prefix
from grokinterp.models.modules import Transformer
from grokinterp.models.shapes import parameter_shapes
from grokinterp.tasks import Task
from grokinterp.training.optimizers import Updater

pytestmark = [
    pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning"),
    needs_hooked_transformer,
]

P = 7


def gradients(logits: Tensor, labels: Tensor, parameters: dict[str, Any]) -> dict[str, Tensor]:
    loss = F.cross_entropy(logits, labels)
    derivatives = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), derivatives, strict=True)
    }


# --- the transformer-lens preset is the TransformerLens demo ---------------------------------------------------------


@pytest.fixture(scope="module")
def mainline() -> tuple[RunConfig, Task, Any]:
    config = preset("transformer-lens")
    task = task_of(config)
    return config, task, build_model(config, task)


def test_mainline_has_the_parameters_of_the_transformer_lens_demo(mainline):
    _, _, model = mainline
    assert isinstance(model, HookedTransformer)
    assert sum(parameter.numel() for parameter in model.parameters()) == 227_313


def test_mainline_has_the_initial_losses_of_the_demo(mainline):
    _, task, model = mainline
    with torch.no_grad():
        logits = model(task.tokens)[:, -1].double()
    assert logits.shape == (113**2, 113)
    train, test = task.train_mask, task.test_mask
    assert F.cross_entropy(logits[train], task.labels[train]).item() == pytest.approx(4.7358857555, abs=1e-6)
    assert F.cross_entropy(logits[test], task.labels[test]).item() == pytest.approx(4.7329808682, abs=1e-6)


def test_mainline_weights_equal_those_that_transformer_lens_draws(mainline):
    _, _, model = mainline
    with torch.random.fork_rng():
        plain = HookedTransformer(
            HookedTransformerConfig(
                n_layers=1,
                n_heads=4,
                d_model=128,
                d_head=32,
                d_mlp=512,
                act_fn="relu",
                normalization_type=None,
                d_vocab=114,
                d_vocab_out=113,
                n_ctx=3,
                init_weights=True,
                device="cpu",
                seed=999,
            )
        )
    theirs = weights_of(plain)
    ours = weights_of(model)
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name


# In a process of its own: the type checker that conftest.py installs draws from Python's global generator itself.
GLOBAL_GENERATORS = """
import random, numpy, torch
from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.models import build_model, forward_for
from grokinterp.tasks import Task
import transformer_lens

def state():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()

task = Task.modular_addition(7)
before = state()
for init in ("nanda", "transformer_lens", "torch"):
    build_model(TransformerConfig(init=init, biases="trained"), task, seed=999)
    assert state() == before, init
deep = TransformerConfig(n_layers=2, d_model=8, d_mlp=8, normalization="layernorm")
for plain in (False, True):
    forward_for(deep, task, plain=plain).logits(dict(build_model(deep, task).named_parameters()), task.tokens)
    assert state() == before, plain
for init in ("torch", "normal"):
    build_model(MLPConfig(input="sum", init=init), task, seed=999)
    assert state() == before, init
"""


@pytest.mark.slow
def test_building_does_not_use_global_generators():
    processes.run([sys.executable, "-c", GLOBAL_GENERATORS], check=True)


# --- fast logits against HookedTransformer's own ---------------------------------------------------------------------

SMALL = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
ONE_LAYER = {
    "demo": SMALL,
    "no equals": replace(SMALL, equals_token=False),
    "three heads of five": replace(SMALL, n_heads=3, d_head=5),
    "one head, no equals": replace(SMALL, n_heads=1, equals_token=False),
    "gelu": replace(SMALL, activation="gelu"),
    "gelu, three heads, no equals": replace(SMALL, activation="gelu", n_heads=3, d_head=7, equals_token=False),
    "equals logit": replace(SMALL, equals_logit=True),
    "equals logit, gelu": replace(SMALL, equals_logit=True, activation="gelu", n_heads=4),
    "scaled output": replace(SMALL, output_scale=0.3),
}
DEEPER = {
    "two layers": replace(SMALL, n_layers=2),
    "layernorm": replace(SMALL, normalization="layernorm"),
    "two layers, layernorm, gelu, no equals": replace(
        SMALL, n_layers=2, normalization="layernorm", activation="gelu", equals_token=False
    ),
    "three layers, no equals": replace(SMALL, n_layers=3, equals_token=False),
    "two layers, three heads of five, equals logit": replace(SMALL, n_layers=2, n_heads=3, d_head=5, equals_logit=True),
    "two layers, scaled output": replace(SMALL, n_layers=2, output_scale=3.0),
}


def small_task(config: TransformerConfig, operation: Any = "add") -> Task:
    return Task.of(operation, P, train_fraction=0.5, equals_token=config.equals_token)


@pytest.mark.parametrize("name", ONE_LAYER)
def test_last_position_logits_equal_those_of_the_module(name):
    config = ONE_LAYER[name]
    task = small_task(config)
    model: Any = randomized(build_model(config, task))
    forward = forward_for(config, task)
    assert forward.path == "last_position"
    with torch.no_grad():
        theirs = model(task.tokens)[:, -1]
        ours = forward.logits(weights_of(model), task.tokens)
    assert ours.shape == (P * P, P + 1 if config.equals_logit else P)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("operation", ["divide", "multiply_nonzero"])
def test_last_position_logits_on_inputs_that_are_not_all_pairs(operation):
    task = small_task(SMALL, operation)
    model: Any = randomized(build_model(SMALL, task))
    some = torch.tensor([5, 0, 17, 17])
    with torch.no_grad():
        theirs = model(task.tokens)[:, -1]
        forward, weights = forward_for(SMALL, task), weights_of(model)
        whole, part = forward.logits(weights, task.tokens), forward.logits(weights, task.tokens[some])
    assert (whole - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert (part - theirs[some]).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", ONE_LAYER | DEEPER)
def test_float64_logits_and_gradients_equal_those_of_the_module(name):
    config = (ONE_LAYER | DEEPER)[name]
    task = small_task(config)
    model = in_float64(randomized(build_model(config, task)))
    weights = {name: weight.requires_grad_() for name, weight in weights_of(model).items()}
    theirs, ours = model(task.tokens)[:, -1], forward_for(config, task).logits(weights, task.tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected = gradients(theirs, task.labels, dict(model.named_parameters()))
    actual = gradients(ours, task.labels, weights)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(actual[parameter], gradient, rtol=1e-10, atol=1e-12, msg=parameter)


def test_the_float64_module_computes_in_float64():
    """Its LayerNorms too: otherwise every comparison with it would be one with float32."""
    config = DEEPER["layernorm"]
    task = small_task(config)
    model = in_float64(randomized(build_model(config, task)))
    _, cache = model.run_with_cache(task.tokens)
    assert {str(value.dtype) for value in cache.values()} == {"torch.float64"}
    before, after = cache["resid_pre", 0], cache["blocks.0.ln1.hook_normalized"]
    torch.testing.assert_close(after, F.layer_norm(before, before.shape[-1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ONE_LAYER | DEEPER)
def test_neurons_attention_and_readout_equal_those_of_run_with_cache(name):
    config = (ONE_LAYER | DEEPER)[name]
    task = small_task(config)
    model = in_float64(randomized(build_model(config, task)))
    last = config.n_layers - 1
    with torch.no_grad():
        logits, cache = model.run_with_cache(task.tokens)
        result = forward_for(config, task).activations(weights_of(model), task.tokens)
    torch.testing.assert_close(result.neurons, cache["post", last][:, -1], rtol=1e-12, atol=1e-12)
    assert result.attention is not None
    torch.testing.assert_close(result.attention, cache["pattern", last][:, :, -1], rtol=1e-12, atol=1e-12)
    if config.normalization == "layernorm":
        assert result.neuron_logit_map is None
        return
    assert result.neuron_logit_map is not None
    before = cache["resid_mid", last][:, -1] + model.blocks[last].mlp.b_out
    rest = config.output_scale * (before @ model.unembed.W_U + model.unembed.b_U)
    assembled = rest + result.neurons @ result.neuron_logit_map
    torch.testing.assert_close(assembled, logits[:, -1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", DEEPER)
def test_prefix_logits_equal_those_of_the_module(name):
    config = DEEPER[name]
    task = small_task(config)
    model: Any = randomized(build_model(config, task))
    forward = forward_for(config, task)
    assert forward.path == "prefix"
    with torch.no_grad():
        theirs = model(task.tokens)[:, -1]
        assert (forward.logits(weights_of(model), task.tokens) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("operation", ["divide", "multiply_nonzero"])
@pytest.mark.parametrize("name", DEEPER)
def test_prefix_logits_on_inputs_that_are_not_all_pairs(name, operation):
    config = DEEPER[name]
    task = small_task(config, operation)
    model = in_float64(randomized(build_model(config, task)))
    forward, weights = forward_for(config, task), weights_of(model)
    some = torch.tensor([5, 0, 17, 17])
    with torch.no_grad():
        theirs = model(task.tokens)[:, -1]
        torch.testing.assert_close(forward.logits(weights, task.tokens), theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(forward.logits(weights, task.tokens[some]), theirs[some], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ONE_LAYER)
def test_one_layer_has_the_same_logits_by_prefix(name):
    config = ONE_LAYER[name]
    task = small_task(config)
    weights = weights_of(in_float64(randomized(build_model(config, task))))
    with torch.no_grad():
        by_prefix = prefix(weights, task.tokens, config).logits
        folded = forward_for(config, task).logits(weights, task.tokens)
    torch.testing.assert_close(by_prefix, folded, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ONE_LAYER | DEEPER)
def test_our_own_transformer_is_a_hooked_transformer_in_all_but_name(name):
    """The same parameters, logits, and activations at the hooks that both have."""
    config = (ONE_LAYER | DEEPER)[name]
    task = small_task(config)
    theirs = in_float64(randomized(build_model(config, task)))
    ours = Transformer(config, parameter_shapes(config, task.config)).double()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    ours.load_state_dict(weights_of(theirs))
    with torch.no_grad():
        expected, their_cache = theirs.run_with_cache(task.tokens)
        found, our_cache = ours.run_with_cache(task.tokens)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert set(our_cache) <= set(their_cache)
    for hook in our_cache:
        torch.testing.assert_close(our_cache[hook], their_cache[hook], rtol=1e-12, atol=1e-12, msg=hook)


@pytest.mark.parametrize("name", ["demo", "two layers", "layernorm"])
def test_plain_runs_the_module(name):
    config = (ONE_LAYER | DEEPER)[name]
    task = small_task(config)
    model: Any = in_float64(randomized(build_model(config, task)))
    plain = forward_for(config, task, plain=True)
    assert plain.path == "module"
    with torch.no_grad():
        logits = plain.logits(weights_of(model), task.tokens)
        torch.testing.assert_close(logits, model(task.tokens)[:, -1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("config", [SMALL, DEEPER["layernorm"], MLPConfig(width=9)], ids=["one", "layernorm", "mlp"])
def test_output_scale_multiplies_the_logits(config, plain):
    """Of every forward pass, and of the module that a user gets."""
    task = small_task(config) if isinstance(config, TransformerConfig) else Task.of("add", P, equals_token=False)
    scaled = replace(config, output_scale=2.5)
    model, other = randomized(build_model(config, task)), randomized(build_model(scaled, task))
    weights = weights_of(model)
    assert all(torch.equal(w, weights[name]) for name, w in weights_of(other).items())
    forward, of_scaled = forward_for(config, task, plain=plain), forward_for(scaled, task, plain=plain)
    with torch.no_grad():
        expected = 2.5 * forward.logits(weights, task.tokens)
        torch.testing.assert_close(of_scaled.logits(weights, task.tokens), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(of_scaled.logits_by_rows(weights, task.tokens), expected, rtol=1e-5, atol=1e-5)
        logits = other(task.tokens)
        torch.testing.assert_close(logits[:, -1] if logits.ndim == 3 else logits, expected, rtol=1e-5, atol=1e-5)
        readouts = [of.activity(weights, task.tokens).neuron_logit_map for of in (forward, of_scaled)]
    if readouts[0] is not None:
        assert readouts[1] is not None
        torch.testing.assert_close(readouts[1], 2.5 * readouts[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["demo", "no equals", "two layers", "layernorm"])
def test_models_and_forward_passes_use_the_device_of_the_weights(name):
    """`meta` stands in for a GPU: whatever stays behind on the CPU fails here as it does there."""
    config = (ONE_LAYER | DEEPER)[name]
    task = small_task(config)
    model: Any = build_model(config, task, device="meta")
    tokens = task.tokens.to("meta")
    assert model(tokens).device.type == "meta"
    assert forward_for(config, task).logits(dict(model.named_parameters()), tokens).device.type == "meta"


# --- initialization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, MLPConfig(input="sum")], ids=["transformer", "mlp"])
def test_the_seed_determines_the_weights(config):
    task = Task.of("add", P)
    first, again, other = (weights_of(build_model(config, task, seed=seed)) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "W" in name)


def test_the_seed_of_a_run_is_that_of_its_model():
    task = Task.of("add", P)
    run = RunConfig(model=SMALL, model_seed=5)
    by_run, by_seed = weights_of(build_model(run, task)), weights_of(build_model(SMALL, task, seed=5))
    assert all(torch.equal(by_run[name], by_seed[name]) for name in by_run)


@pytest.fixture(scope="module")
def nanda() -> dict[str, Tensor]:
    config = preset("nanda")
    return weights_of(build_model(config, task_of(config), seed=4))


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embed.W_E", 1 / math.sqrt(128)),
        ("pos_embed.W_pos", 1 / math.sqrt(128)),
        ("blocks.0.attn.W_Q", 1 / math.sqrt(128)),
        ("blocks.0.attn.W_K", 1 / math.sqrt(128)),
        ("blocks.0.attn.W_V", 1 / math.sqrt(128)),
        ("blocks.0.attn.W_O", 1 / math.sqrt(128)),
        ("blocks.0.mlp.W_in", 1 / math.sqrt(128)),
        ("blocks.0.mlp.W_out", 1 / math.sqrt(128)),
        ("unembed.W_U", 1 / math.sqrt(114)),
    ],
)
def test_the_initialization_of_nanda(nanda, name, std):
    weight = nanda[name]
    standard_error = 1 / math.sqrt(2 * weight.numel())
    assert weight.std().item() == pytest.approx(std, rel=4 * standard_error)
    assert abs(weight.mean().item()) < 4 * std / math.sqrt(weight.numel())


def test_the_model_of_nanda_has_an_equals_logit_and_starts_without_biases(nanda):
    assert nanda["unembed.W_U"].shape == (128, 114)
    assert nanda["embed.W_E"].shape == (114, 128)
    for name, weight in nanda.items():
        assert not (".b_" in name and weight.any()), name


@pytest.mark.parametrize(
    ("name", "fan_in"),
    [
        ("blocks.0.attn.W_Q", 64),
        ("blocks.0.attn.b_Q", 64),
        ("blocks.0.attn.W_O", 4 * 24),
        ("blocks.0.attn.b_O", 4 * 24),
        ("blocks.0.mlp.W_in", 64),
        ("blocks.0.mlp.b_in", 64),
        ("blocks.0.mlp.W_out", 512),
        ("blocks.0.mlp.b_out", 512),
        ("unembed.W_U", 64),
        ("unembed.b_U", 64),
    ],
)
def test_torch_initialization_of_a_transformer_is_uniform_by_fan_in(name, fan_in):
    config = TransformerConfig(d_model=64, n_heads=4, d_head=24, d_mlp=512, biases="trained", init="torch")
    weight = weights_of(build_model(config, Task.of("add", 113)))[name]
    bound = 1 / math.sqrt(fan_in)
    assert 0.9 * bound < weight.abs().max().item() <= bound
    relative = 0.6 if weight.numel() < 100 else 4 / math.sqrt(weight.numel())
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=relative)


@pytest.mark.parametrize("name", ["embed.W_E", "pos_embed.W_pos"])
def test_torch_initialization_of_embeddings_is_standard_normal(name):
    weight = weights_of(build_model(TransformerConfig(init="torch"), Task.of("add", 113)))[name]
    assert weight.std().item() == pytest.approx(1.0, rel=4 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize("scale", [0.5, 8.0])
@pytest.mark.parametrize(
    "config",
    [replace(SMALL, init="torch"), replace(SMALL, init="nanda"), SMALL, MLPConfig(input="concat"), MLPConfig()],
    ids=["transformer torch", "transformer nanda", "transformer", "mlp concat", "mlp one-hot"],
)
def test_init_scale_multiplies_every_initial_weight(config, scale):
    task = Task.of("add", P)
    plain, scaled = (weights_of(build_model(c, task, seed=3)) for c in (config, replace(config, init_scale=scale)))
    for name, weight in plain.items():
        assert torch.equal(scaled[name], scale * weight), name


@pytest.mark.parametrize(
    ("biases", "trained"),
    [
        ("frozen", set()),
        ("mlp", {"blocks.0.mlp.b_in", "blocks.0.mlp.b_out"}),
        (
            "trained",
            {f"blocks.0.attn.b_{x}" for x in "QKVO"} | {"blocks.0.mlp.b_in", "blocks.0.mlp.b_out", "unembed.b_U"},
        ),
    ],
)
def test_only_trained_biases_change(biases, trained):
    config = replace(SMALL, biases=biases)
    task = small_task(config)
    model = build_model(config, task)
    before = weights_of(model)
    updater = Updater(model.named_parameters(), OptimizerConfig(lr=1e-2))
    forward = forward_for(config, task)
    for step in range(2):
        F.cross_entropy(forward.logits(dict(model.named_parameters()), task.tokens), task.labels).backward()
        updater.apply(step)
    moved = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
    matrices = {name for name in before if ".W_" in name}
    without_effect = {"blocks.0.attn.b_K"}  # shifts all scores of a query alike; only rounding may move it
    assert moved - matrices - without_effect == trained - without_effect
    assert matrices <= moved
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == (
        set(before) - matrices - trained
    )


def test_a_recorded_model_can_neither_be_built_nor_run():
    task = Task.of("add", P)
    with pytest.raises(ConfigError, match="recorded model cannot be built"):
        build_model(RecordedConfig(), task)
    with pytest.raises(ConfigError, match="recorded model has no forward pass"):
        forward_for(RecordedConfig(), task)
