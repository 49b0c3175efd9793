"""The architectures of Power et al. 2022 and Manir and Rupa 2026, against PyTorch's own layers and printed numbers."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights import in_float64, randomized, weights_of

from grokinterp.analysis.timeline import analyze
from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.models.modules import Transformer
from grokinterp.training import train, train_many
from grokinterp.training.gradients import gradients_function
from grokinterp.training.optimizers import Updater

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

P = 7
SMALL = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
POWER = replace(SMALL, n_layers=2, normalization="post_layernorm", positions="sinusoidal", init="torch")
ENCODER = replace(
    SMALL,
    activation="gelu",
    normalization="layernorm",
    equals_token=False,
    init="torch_encoder",
    attention="bidirectional",
    readout="mean",
    final_norm=False,
)
ARCHITECTURES = {
    "power": POWER,
    "power, one layer, no equals": replace(POWER, n_layers=1, equals_token=False),
    "power, three layers, three heads of five": replace(POWER, n_layers=3, n_heads=3, d_head=5),
    "encoder": ENCODER,
    "encoder, two layers": replace(ENCODER, n_layers=2),
    "encoder with a final norm and equals": replace(ENCODER, final_norm=True, equals_token=True, equals_logit=True),
    "bidirectional, two layers, last": replace(SMALL, n_layers=2, attention="bidirectional"),
    "bidirectional, post norm, mean": replace(POWER, attention="bidirectional", readout="mean"),
    "no norm, mean": replace(SMALL, attention="bidirectional", readout="mean"),
    "causal, no final norm": replace(SMALL, n_layers=2, normalization="layernorm", final_norm=False),
    "sinusoidal, folded": replace(SMALL, positions="sinusoidal"),
    "constant attention": replace(SMALL, attention="bidirectional", attention_rate=0.0, equals_token=False),
    "partly constant attention, two layers": replace(SMALL, n_layers=2, attention="bidirectional", attention_rate=0.3),
    "two embeddings": replace(SMALL, shared_embedding=False),
    "two embeddings, two layers, no equals": replace(SMALL, shared_embedding=False, n_layers=2, equals_token=False),
    "tanh, two layers": replace(SMALL, activation="tanh", n_layers=2),
    "bidirectional, folded": replace(SMALL, attention="bidirectional"),
}
TASKS = {
    "pairs": TaskConfig(p=P, train_fraction=0.5),
    "division": TaskConfig(operation="divide", p=P, train_fraction=0.5),
    "parity": TaskConfig(operation="parity", p=2, operands=4, train_fraction=0.5),
}


def run_of(model: TransformerConfig, task: str = "pairs") -> RunConfig:
    return RunConfig(task=TASKS[task], model=model)


def random_model(config: RunConfig) -> Any:
    """The model in float64, with every parameter drawn anew, biases, LayerNorms and positions too, and all trained."""
    model = randomized(build_model(config, task_of(config)))
    return in_float64(model)


# --- the modules are the published blocks ----------------------------------------------------------------------------


def torch_layers(config: TransformerConfig, weights: dict[str, Tensor]) -> nn.TransformerEncoder:
    """PyTorch's own blocks with the same weights: norm_first is the difference between the two publications."""
    d = config.d_model
    layer = nn.TransformerEncoderLayer(
        d,
        config.n_heads,
        config.d_mlp,
        dropout=0.0,
        activation=config.activation,
        batch_first=True,
        norm_first=config.normalization == "layernorm",
        dtype=torch.float64,
    )
    stack = nn.TransformerEncoder(layer, config.n_layers, enable_nested_tensor=False).train()
    with torch.no_grad():
        for i, into in enumerate(stack.layers):
            assert isinstance(into, nn.TransformerEncoderLayer)
            w = {name.removeprefix(f"blocks.{i}."): weight for name, weight in weights.items()}
            rows = [w[f"attn.W_{x}"].transpose(1, 2).reshape(d, d) for x in "QKV"]  # [h, d, e] to [h e, d]
            into.self_attn.in_proj_weight.copy_(torch.cat(rows))
            into.self_attn.in_proj_bias.copy_(torch.cat([w[f"attn.b_{x}"].flatten() for x in "QKV"]))
            into.self_attn.out_proj.weight.copy_(w["attn.W_O"].reshape(d, d).T)
            into.self_attn.out_proj.bias.copy_(w["attn.b_O"])
            into.linear1.weight.copy_(w["mlp.W_in"].T)
            into.linear1.bias.copy_(w["mlp.b_in"])
            into.linear2.weight.copy_(w["mlp.W_out"].T)
            into.linear2.bias.copy_(w["mlp.b_out"])
            for norm, name in ((into.norm1, "ln1"), (into.norm2, "ln2")):
                norm.weight.copy_(w[f"{name}.w"])
                norm.bias.copy_(w[f"{name}.b"])
    return stack


@pytest.mark.parametrize("name", ["power", "power, one layer, no equals", "encoder", "encoder, two layers"])
def test_logits_equal_those_of_pytorch_layers(name):
    config = run_of(ARCHITECTURES[name])
    model, task = random_model(config), task_of(config)
    weights = weights_of(model)
    stack = torch_layers(ARCHITECTURES[name], weights)
    stream = F.embedding(task.tokens, weights["embed.W_E"]) + weights["pos_embed.W_pos"]
    if "power" in name:
        mask = nn.Transformer.generate_square_subsequent_mask(task.tokens.shape[1], dtype=torch.float64)
        read = stack(stream, mask=mask)[:, -1]
    else:
        read = stack(stream).mean(dim=1)
    theirs = read @ weights["unembed.W_U"] + weights["unembed.b_U"]
    ours = model(task.tokens)
    assert ours.shape == (P * P, task.tokens.shape[1] if "power" in name else 1, P)
    torch.testing.assert_close(ours[:, -1], theirs, rtol=1e-12, atol=1e-12)


def test_sinusoids_against_the_formula_number_by_number():
    found = weights_of(build_model(run_of(POWER), task_of(run_of(POWER))))["pos_embed.W_pos"]
    assert found.shape == (3, 16)
    for t in range(3):
        for i in range(0, 16, 2):
            angle = t / 10_000 ** (i / 16)
            assert found[t, i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert found[t, i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_the_residual_stream_is_normalized_after_each_addition():
    config = run_of(POWER)
    model, task = random_model(config), task_of(config)
    assert isinstance(model, Transformer)
    with torch.no_grad():
        logits, cache = model.run_with_cache(task.tokens)
    for i in range(2):
        block: Any = model.get_submodule(f"blocks.{i}")
        norms = [lambda x, ln=ln: F.layer_norm(x, (16,), ln.w, ln.b) for ln in (block.ln1, block.ln2)]
        middle = norms[0](cache["resid_pre", i] + cache["attn_out", i])
        torch.testing.assert_close(cache["resid_mid", i], middle)
        torch.testing.assert_close(cache["resid_post", i], norms[1](middle + cache["mlp_out", i]))
    torch.testing.assert_close(logits, cache["resid_post", 1] @ model.unembed.W_U + model.unembed.b_U)
    assert not [name for name in model.hook_dict if name.startswith("ln_final")]


def test_a_hook_may_replace_the_mean_that_is_read():
    config = run_of(ENCODER)
    model, task = random_model(config), task_of(config)
    with torch.no_grad():
        _, cache = model.run_with_cache(task.tokens)
        torch.testing.assert_close(cache["unembed.hook_mean"][:, 0], cache["resid_post", 0].mean(dim=1))
        silent = model.run_with_hooks(
            task.tokens, fwd_hooks=[("unembed.hook_mean", lambda value, hook: torch.zeros_like(value))]
        )
    torch.testing.assert_close(silent[:, 0], model.unembed.b_U.detach().expand(P * P, P))


def test_a_bidirectional_first_position_sees_the_last_and_a_causal_one_does_not():
    for attention, sees in (("bidirectional", True), ("causal", False)):
        config = run_of(replace(SMALL, n_layers=2, attention=attention))
        model, task = random_model(config), task_of(config)
        with torch.no_grad():
            _, cache = model.run_with_cache(task.tokens)
        first = cache["resid_post", 1][:, 0].reshape(P, P, -1)  # rows (a, b): at the first operand's position
        assert bool((first[:, 0] - first[:, 1]).abs().max() > 1e-3) is sees


# --- the fast path ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_name", TASKS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fast_logits_and_gradients_equal_those_of_the_module(name, task_name):
    if task_name == "parity" and not ARCHITECTURES[name].shared_embedding:
        with pytest.raises(ConfigError, match="shared_embedding false works only for 2 operands"):
            run_of(ARCHITECTURES[name], task_name)
        return
    config = run_of(ARCHITECTURES[name], task_name)
    model, task = random_model(config), task_of(config)
    forward = forward_for(config.model, task)
    folded = "folded" in name and task.operands == 2
    assert forward.path == ("last_position" if folded else "prefix")
    weights = {n: w.requires_grad_() for n, w in weights_of(model).items()}
    theirs, ours = model(task.tokens)[:, -1], forward.logits(weights, task.tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    by_rows = forward.logits_by_rows(weights, task.tokens)
    torch.testing.assert_close(by_rows, theirs.detach(), rtol=1e-12, atol=1e-12)
    labels, named = task.labels, dict(model.named_parameters())
    true = torch.autograd.grad(F.cross_entropy(theirs, labels), list(named.values()), allow_unused=True)
    found = torch.autograd.grad(F.cross_entropy(ours, labels), list(weights.values()), allow_unused=True)
    for parameter, a, b in zip(named, found, true, strict=True):
        zero = torch.zeros_like(named[parameter])
        a, b = (zero if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=parameter)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_neurons_attention_and_readout_are_those_of_run_with_cache(name):
    model_config = ARCHITECTURES[name]
    config = run_of(model_config)
    model, task = random_model(config), task_of(config)
    last, averaged = model_config.n_layers - 1, model_config.readout == "mean"
    with torch.no_grad():
        logits, cache = model.run_with_cache(task.tokens)
        neurons, pattern = cache["post", last], cache["pattern", last]
        neurons = neurons.mean(dim=1) if averaged else neurons[:, -1]
        pattern = pattern.mean(dim=2) if averaged else pattern[:, :, -1]
        for plain in (False, True):
            found = forward_for(model_config, task, plain=plain).activations(weights_of(model), task.tokens)
            # The plain path's own module was built for float32, to which its LayerNorms round.
            tolerance = {"rtol": 1e-5, "atol": 1e-5} if plain else {"rtol": 1e-12, "atol": 1e-12}
            torch.testing.assert_close(found.logits, logits[:, -1], **tolerance)
            torch.testing.assert_close(found.neurons, neurons, **tolerance)
            assert found.attention is not None
            torch.testing.assert_close(found.attention, pattern, **tolerance)
            if found.neuron_logit_map is None:
                continue
            silent = [(f"blocks.{last}.mlp.hook_post", lambda value, hook: torch.zeros_like(value))]
            without = model.run_with_hooks(task.tokens, fwd_hooks=silent)[:, -1]
            assembled = without + found.neurons @ found.neuron_logit_map
            torch.testing.assert_close(assembled, logits[:, -1], rtol=1e-5, atol=1e-5)
    has_norm_behind = model_config.normalization == "post_layernorm" or (
        model_config.normalization == "layernorm" and model_config.final_norm
    )
    assert (found.neuron_logit_map is None) is has_norm_behind


@pytest.mark.parametrize("name", ["power", "encoder"])
def test_models_and_forward_passes_use_the_device_of_the_weights(name):
    """`meta` stands in for a GPU: whatever stays behind on the CPU fails here as it does there."""
    config = run_of(ARCHITECTURES[name])
    task = task_of(config)
    model: Any = build_model(config, task, device="meta")
    tokens = task.tokens.to("meta")
    assert model(tokens).device.type == "meta"
    found = forward_for(config.model, task).logits(dict(model.named_parameters()), tokens)
    assert found.device.type == "meta"


# --- initialization, and what is trained -----------------------------------------------------------------------------


def root_mean_square(model: nn.Module) -> float:
    parameters = list(model.parameters())
    squares = sum(parameter.detach().double().square().sum().item() for parameter in parameters)
    return math.sqrt(squares / sum(parameter.numel() for parameter in parameters))


def test_the_transformer_of_manir_starts_at_the_printed_rms():
    """Manir and Rupa 2026, Table 7: 0.126 at λ = 1, 0.120 at λ = 5, both of which 12 updates give (lr 1e-3)."""
    config = preset("manir-transformer")
    model = build_model(config, task_of(config))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_252_833
    start = root_mean_square(model)
    assert 0.126 < start < 0.128
    # Most of the norm is in an embedding that decay alone moves at first.
    shrunk = {decay: start * (1 - 1e-3 * decay) ** 12 for decay in (1.0, 5.0)}
    assert shrunk[1.0] == pytest.approx(0.126, abs=5e-4)
    assert shrunk[5.0] == pytest.approx(0.120, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embed.W_E", 1.0),
        ("pos_embed.W_pos", 0.02),
        ("blocks.0.attn.W_Q", math.sqrt(6 / (4 * 512)) / math.sqrt(3)),
        ("blocks.0.attn.W_V", math.sqrt(6 / (4 * 512)) / math.sqrt(3)),
        ("blocks.0.attn.W_O", 1 / math.sqrt(3 * 512)),
        ("blocks.0.mlp.W_in", 1 / math.sqrt(3 * 512)),
        ("blocks.0.mlp.b_in", 1 / math.sqrt(3 * 512)),
        ("blocks.0.mlp.W_out", 1 / math.sqrt(3 * 2048)),
        ("unembed.W_U", 1 / math.sqrt(3 * 512)),
        ("blocks.0.attn.b_Q", 0.0),
        ("blocks.0.attn.b_O", 0.0),
    ],
)
def test_torch_encoder_initialization_equals_that_of_the_pytorch_encoder_layer(name, std):
    config = preset("manir-transformer")
    weight = dict(build_model(config, task_of(config), seed=4).named_parameters())[name].detach()
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()), abs=0)
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(512, 4, 2048, activation="gelu")
    theirs = {
        "blocks.0.attn.W_Q": layer.self_attn.in_proj_weight[:512],
        "blocks.0.attn.W_V": layer.self_attn.in_proj_weight[1024:],
        "blocks.0.attn.W_O": layer.self_attn.out_proj.weight,
        "blocks.0.mlp.W_in": layer.linear1.weight,
        "blocks.0.mlp.b_in": layer.linear1.bias,
        "blocks.0.mlp.W_out": layer.linear2.weight,
        "blocks.0.attn.b_Q": layer.self_attn.in_proj_bias,
        "blocks.0.attn.b_O": layer.self_attn.out_proj.bias,
    }.get(name)
    if theirs is not None:
        assert weight.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.01, abs=0)


def test_the_transformer_of_power_has_about_400_000_parameters_and_no_biases():
    """Power et al. 2022, appendix A.1.2: about 4e5 non-embedding parameters."""
    config = preset("power")
    model = build_model(config, task_of(config))
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(w.numel() for name, w in trained.items() if "embed" not in name) == 394_240
    assert {name.rsplit(".", 1)[1] for name in trained} == {
        *("W_E", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U"),
        *("w", "b"),  # LayerNorm's
    }
    assert not any(weight.any() for name, weight in weights_of(model).items() if ".b_" in name)
    assert trained["embed.W_E"].std().item() == pytest.approx(1.0, abs=0.03)
    assert trained["blocks.1.mlp.W_out"].abs().max().item() == pytest.approx(1 / math.sqrt(512), rel=1e-3)


@pytest.mark.parametrize("init_scale", [1.0, 0.5])
def test_sinusoidal_positions_are_neither_scaled_nor_trained(init_scale):
    config = run_of(replace(POWER, init_scale=init_scale))
    task = task_of(config)
    model = build_model(config, task)
    before = weights_of(model)
    torch.testing.assert_close(before["pos_embed.W_pos"][0], torch.tensor([0.0, 1.0] * 8))
    updater = Updater(model.named_parameters(), OptimizerConfig(lr=1e-2))
    step = gradients_function(config, forward_for(config.model, task), dict(model.named_parameters()))
    for t in range(2):
        step(task.tokens, task.labels)
        updater.apply(t)
    after = weights_of(model)
    still = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert still == {"pos_embed.W_pos"} | {name for name in still if name.endswith("b_K")}
    assert before["embed.W_E"].std().item() == pytest.approx(init_scale, rel=0.2)


# --- configurations, and runs from one end to the other --------------------------------------------------------------

REFUSED = [
    ({"readout": "mean"}, "readout mean needs attention bidirectional: with causal attention the first position"),
    ({"final_norm": False}, "final_norm false applies only to normalization layernorm: none has no final LayerNorm"),
    (
        {"final_norm": False, "normalization": "post_layernorm"},
        "final_norm false applies only to normalization layernorm: post_layernorm has no final LayerNorm",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_incompatible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**options)


SHORT = ScheduleConfig(steps=6, evaluate_every=2, checkpoints=2, resume_every=2)


@pytest.mark.parametrize("name", ["power", "encoder", "causal, no final norm"])
def test_a_run_is_trained_resumed_and_analyzed(name, tmp_path):
    config = replace(run_of(ARCHITECTURES[name]), schedule=SHORT, optimizer=OptimizerConfig(batch_size=10))
    assert RunConfig.from_json(config.to_json()) == config
    whole = train(config, tmp_path / "whole", progress=False)
    half = replace(config, schedule=replace(SHORT, steps=4))
    train(half, tmp_path / "resumed", progress=False)
    resumed = train(config, tmp_path / "resumed", resume=True, progress=False)
    for parameter, weight in whole.weights(6).items():
        assert torch.equal(weight, resumed.weights(6)[parameter]), parameter
    model: Any = whole.model(6)
    with torch.no_grad():
        logits = model(whole.task.tokens)[:, -1].double()
    snapshot = whole.snapshot(6)
    torch.testing.assert_close(snapshot.logits, logits, rtol=1e-4, atol=1e-5)
    assert snapshot.trained is not None
    assert ("pos_embed.W_pos" in snapshot.trained) is (name != "power")
    timeline = analyze(whole).timeline
    assert list(timeline.index) == [0, 2, 4, 6]
    assert timeline["train_loss"].notna().all()


@pytest.mark.parametrize("name", ["power", "encoder"])
def test_an_ensemble_trains_them_like_single_runs(name, tmp_path):
    config = replace(run_of(ARCHITECTURES[name]), schedule=SHORT)
    alone = train(config, tmp_path / "alone", progress=False)
    together = train_many([config, replace(config, model_seed=1)], [tmp_path / "a", tmp_path / "b"], progress=False)
    for parameter, weight in alone.weights(6).items():
        if parameter.endswith("b_K"):  # without effect on attention: Adam makes whole updates of rounding errors
            continue
        torch.testing.assert_close(together[0].weights(6)[parameter], weight, rtol=1e-3, atol=1e-5, msg=parameter)
    assert not torch.equal(together[1].weights(6)["embed.W_E"], together[0].weights(6)["embed.W_E"])
