"""What touches TransformerLens, under whichever version is installed: `make test-tl` runs this file with 3.9 and 4."""

import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
import torch
import transformer_lens
from safetensors.torch import load_file
from weights import in_float64, randomized, weights_of

import grokinterp as gi
from grokinterp.config import TransformerConfig
from grokinterp.models import build_model, forward_for
from grokinterp.models.building import set_weights
from grokinterp.models.modules import Transformer
from grokinterp.models.shapes import parameter_shapes
from grokinterp.models.transformer import MAJOR, is_expressible
from grokinterp.tasks import Task

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")

SAMPLE = "checkpoints/run42"
SMALL = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
EXPRESSIBLE = {
    "one layer": SMALL,
    "frozen biases": replace(SMALL, biases="frozen"),
    "no equals": replace(SMALL, equals_token=False),
    "three heads of five": replace(SMALL, n_heads=3, d_head=5),
    "equals logit, gelu": replace(SMALL, equals_logit=True, activation="gelu"),
    "two layers": replace(SMALL, n_layers=2),
    "layernorm": replace(SMALL, n_layers=2, normalization="layernorm"),
    "bidirectional": replace(SMALL, n_layers=2, attention="bidirectional"),
    "scaled output": replace(SMALL, output_scale=0.3),
}
OURS = {
    "post-LayerNorm": replace(SMALL, normalization="post_layernorm"),
    "mean readout": replace(SMALL, attention="bidirectional", readout="mean"),
    "constant attention": replace(SMALL, attention="bidirectional", attention_rate=0.0),
    "two embeddings": replace(SMALL, shared_embedding=False),
    "tanh": replace(SMALL, activation="tanh"),
}


def small_task(config: TransformerConfig) -> Task:
    return Task.modular_addition(7, 0.5, equals_token=config.equals_token)


def random_weights(config: TransformerConfig) -> dict[str, torch.Tensor]:
    """With biases that are not 0 where they are trained."""
    shapes = parameter_shapes(config, small_task(config).config)
    weights = weights_of(randomized(Transformer(config, shapes)))
    return {name: w if config.trains(name) else torch.zeros_like(w) for name, w in weights.items()}


def test_the_version_is_known():
    assert int(version("transformer-lens").split(".")[0]) == MAJOR
    assert MAJOR in (3, 4)


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_the_model_of_the_installed_version_has_our_logits(name):
    config, task = EXPRESSIBLE[name], small_task(EXPRESSIBLE[name])
    assert is_expressible(config)
    weights = random_weights(config)
    model = set_weights(build_model(config, task), weights)
    assert type(model).__name__ == ("HookedTransformer" if MAJOR == 3 else "TransformerBridge")
    with torch.no_grad():
        theirs = in_float64(model)(task.tokens)[:, -1]
        ours = forward_for(config, task).logits({n: w.double() for n, w in weights.items()}, task.tokens)
    torch.testing.assert_close(theirs.double(), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OURS)
def test_what_it_cannot_express_is_ours(name):
    config, task = OURS[name], small_task(OURS[name])
    assert not is_expressible(config)
    weights = random_weights(config)
    model: Any = set_weights(build_model(config, task), weights)
    assert isinstance(model, Transformer)
    with torch.no_grad():
        logits, cache = model.double().run_with_cache(task.tokens)
        ours = forward_for(config, task).logits({n: w.double() for n, w in weights.items()}, task.tokens)
    torch.testing.assert_close(logits[:, -1], ours, rtol=1e-10, atol=1e-10)
    assert cache["post", 0].shape[-1] == config.d_mlp


@pytest.mark.parametrize("biases", ["frozen", "mlp", "trained"])
def test_frozen_biases_stay_frozen(biases):
    config = replace(SMALL, biases=biases)
    model = build_model(config, small_task(config), seed=0)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert any(flags)
    assert all(flags) == (biases == "trained")


def test_hooks_and_cache_of_the_sample_run():
    """The names that both versions have; docs/howto/transformer_lens.md lists them."""
    run = gi.load(SAMPLE)
    model: Any = run.model("last")
    with torch.no_grad():
        logits, cache = model.run_with_cache(run.task.tokens)
    torch.testing.assert_close(logits[:, -1].double(), run.snapshot("last").logits, rtol=1e-4, atol=1e-4)
    neurons = cache["blocks.0.mlp.hook_post"][:, -1]
    torch.testing.assert_close(neurons, run.snapshot("last").neurons, rtol=1e-4, atol=1e-4)
    for name in ("hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_pattern"):
        assert name in cache
    with torch.no_grad():
        silent = model.run_with_hooks(
            run.task.tokens, fwd_hooks=[("blocks.0.mlp.hook_post", lambda value, hook: 0 * value)]
        )
    assert (silent[:, -1].argmax(dim=1) == run.task.labels).double().mean().item() < 0.5
    assert model.W_E.shape == (68, 64)


def test_an_export_loads_in_plain_transformer_lens(tmp_path):
    """With nothing of ours: the state dict, the configuration, and the library."""
    run = gi.load(SAMPLE)
    gi.export_run(run, tmp_path / "lens", f"transformer_lens_{MAJOR}", step="last")
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("operation", "train_indices")}
    state = load_file(tmp_path / "lens" / "step_4240.safetensors")
    library: Any = transformer_lens
    if MAJOR == 3:
        model = library.HookedTransformer(library.HookedTransformerConfig(**config))
        assert model.load_state_dict(state, strict=False).unexpected_keys == []
    else:
        d_mlp = config.pop("d_mlp")
        from transformer_lens.config import TransformerBridgeConfig

        bridge_config = TransformerBridgeConfig(**config)
        bridge_config.d_mlp = d_mlp
        model = library.TransformerBridge.boot_native(bridge_config)
        model.load_state_dict(state)
    weights = {name: weight.double() for name, weight in run.weights("last").items()}
    with torch.no_grad():
        logits = in_float64(model)(run.task.tokens)[:, -1]
        ours = run.forward.logits(weights, run.task.tokens)
    torch.testing.assert_close(logits.double(), ours, rtol=1e-5, atol=1e-5)


def test_a_file_of_the_demo_written_by_this_version_is_read(tmp_path):
    """Version 3 pickles a HookedTransformerConfig; version 4 has only a TransformerBridgeConfig."""
    run = gi.load(SAMPLE)
    gi.export_run(run, tmp_path / "ours.pth", "demo", step="last")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    library: Any = transformer_lens
    fields = dict(content["config"])
    if MAJOR == 3:
        content["config"] = library.HookedTransformerConfig(**fields)
    else:
        d_mlp = fields.pop("d_mlp")
        from transformer_lens.config import TransformerBridgeConfig

        content["config"] = TransformerBridgeConfig(**fields)
        content["config"].d_mlp = d_mlp
    torch.save(content, tmp_path / "theirs.pth")
    back = gi.import_run(tmp_path / "theirs.pth", tmp_path / "back")
    assert all(torch.equal(back.weights(4240)[name], weight) for name, weight in run.weights(4240).items())
