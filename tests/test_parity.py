"""Parity of k bits: labels against strings, models against TransformerLens and plain torch.nn, training, outcomes."""

import json
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from weights import in_float64, randomized

from grokinterp.analysis.result import Analysis
from grokinterp.analysis.timeline import analyze
from grokinterp.analysis.transition import find_transition
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.config.presets import preset
from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import accuracy, loss, restricted_loss
from grokinterp.models import build_model, forward_for, task_of
from grokinterp.report import write_report
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training import train, train_many
from grokinterp.training.estimate import estimate
from grokinterp.training.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")


def parity(k: int, **changes) -> TaskConfig:
    return replace(TaskConfig(operation="parity", p=2, operands=k, train_fraction=0.5, data_seed=3), **changes)


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5, 10])
def test_labels_and_inputs_against_strings_of_bits(k):
    task = Task.from_config(parity(k))
    strings = [format(number, f"0{k}b") for number in range(2**k)]
    assert ["".join(map(str, bits)) for bits in task.inputs.tolist()] == strings
    assert task.labels.tolist() == [bin(number).count("1") % 2 for number in range(2**k)]
    assert (task.p, task.n_classes, task.operands) == (2, 2, k)
    assert task.config.n_inputs == 2**k
    assert task.tokens.tolist() == [[*map(int, bits), 2] for bits in strings]
    assert task.config.title == f"parity of {k} bits"


@pytest.mark.parametrize("k", [2, 7, 10])
def test_classes_are_balanced_and_chance_is_a_half(k):
    task = Task.from_config(parity(k, split="unknown", train_fraction=None))
    assert task.labels.bincount().tolist() == [2 ** (k - 1)] * 2
    for answer in (0, 1):
        constant = F.one_hot(torch.full((2**k,), answer), 2).double()
        assert evaluate(task, constant, {})["accuracy"] == 0.5


@pytest.mark.parametrize("dropped", [0, 4, 9])
def test_nine_of_ten_bits_carry_no_information(dropped):
    """What makes the task hard: whatever is guessed from all bits but one is right for half of the strings."""
    task = Task.from_config(parity(10))
    kept = torch.cat([task.inputs[:, :dropped], task.inputs[:, dropped + 1 :]], dim=1)
    groups = (kept * 2 ** torch.arange(9)).sum(dim=1)
    assert torch.bincount(groups, weights=task.labels.double()).tolist() == [1.0] * 2**9


@pytest.mark.parametrize("split", ["torch", "python", "numpy"])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
def test_splits_are_disjoint_whole_sized_and_seeded(split, fraction):
    config = parity(8, split=split, train_fraction=fraction)
    task = Task.from_config(config)
    assert int(task.train_mask.sum()) == int(fraction * 256)
    assert torch.equal(task.test_mask, ~task.train_mask)
    assert torch.equal(task.train_mask, Task.from_config(config).train_mask)
    assert not torch.equal(task.train_mask, Task.from_config(replace(config, data_seed=4)).train_mask)


def test_noisy_labels_are_the_other_class_and_random_labels_are_half_right():
    clean, noisy = Task.from_config(parity(8)), Task.from_config(parity(8, label_noise=0.25))
    changed = clean.labels != noisy.labels
    assert int(changed.sum()) == 32
    assert not (changed & ~clean.train_mask).any()
    assert torch.equal(noisy.labels[changed], 1 - clean.labels[changed])
    control = Task.from_config(parity(12, random_labels=True))
    right = (control.labels == Task.from_config(parity(12)).labels).double().mean().item()
    assert right == pytest.approx(0.5, abs=4 * 0.5 / 64)


def test_parity_has_no_pairs_no_mirrors_and_no_group():
    task = Task.of("parity", 2, 0.5, operands=6)
    assert task.mirror_mask is None
    assert task.novel_mask is None
    assert torch.equal(task.held_out_mask, task.test_mask)
    assert task.why_no_mirror == "parity of 6 bits is not an operation on pairs: no input has a mirror"
    assert task.group is None
    assert task.grid_indices is None
    assert task.why_no_group == "parity of 6 bits has no cyclic group: it is not an operation on pairs"


SIGNS = MLPConfig(input="signs")
REFUSED = [
    (
        lambda: TaskConfig(operation="parity", operands=5),
        r"parity is the sum of bits mod 2: set task.p to 2 \(it is 113\)",
    ),
    (lambda: parity(1), r"operands, the number of bits, must lie in 2 .. 20, .* but is 1$"),
    (lambda: parity(21), r"operands, the number of bits, must lie in 2 .. 20, .* but is 21$"),
    (lambda: TaskConfig(operands=3), "add has 2 operands, but operands is 3: only parity can have more"),
    (lambda: TaskConfig(p=2), "p must be at least 3, but is 2"),
    (lambda: TaskConfig(operation="s5_xy", p=120, operands=3), "s5_xy has 2 operands, but operands is 3"),
    (lambda: RunConfig(model=SIGNS), "model.input signs works only for bits, and add mod 113 has none"),
    (lambda: build_model(SIGNS, Task.of("add", 5)), "model.input signs works only for bits, and add mod 5 has none"),
    (lambda: MLPConfig(input="signs", d_embed=3), "d_embed has no effect with model.input signs"),
    (lambda: MLPConfig(input="signs", architecture="residual"), r"as wide as the layers \(128\), but it is signs"),
    (
        lambda: RunConfig(task=parity(5), model=MLPConfig(input="sum", shared_embedding=False)),
        "model.shared_embedding false works only for 2 operands, and parity of 5 bits has 5",
    ),
    (
        lambda: RunConfig(task=parity(5), model=MLPConfig(input="concat", d_embed=64, architecture="residual")),
        "a residual MLP with model.input concat works only for 2 operands, .* of 5 bits has 5: choose model.input sum",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_configurations_from_before_operands_can_be_read():
    raw = json.loads(RunConfig().to_json())
    del raw["task"]["operands"]
    assert RunConfig.from_json(json.dumps(raw)) == RunConfig()
    config = preset("parity")
    assert RunConfig.from_json(config.to_json()) == config


# --- models ----------------------------------------------------------------------------------------------------------

K = 6
TRANSFORMERS = {
    "one layer": TransformerConfig(d_model=16, n_heads=2, d_mlp=24),
    "no equals": TransformerConfig(d_model=16, n_heads=2, d_mlp=24, equals_token=False, biases="trained"),
    "equals logit": TransformerConfig(d_model=16, n_heads=2, d_mlp=24, equals_logit=True, biases="mlp", init="nanda"),
    "two layers": TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, normalization="layernorm"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_prefix_logits_and_gradients_equal_those_of_the_module(name):
    config = RunConfig(task=parity(K), model=TRANSFORMERS[name])
    task = task_of(config)
    module = in_float64(randomized(build_model(config, task)))
    assert module.cfg.n_ctx == K + config.model.equals_token
    assert module.cfg.d_vocab == 2 + config.model.equals_token
    weights = dict(module.named_parameters())
    forward = forward_for(config.model, task)
    assert forward.path == "prefix"
    ours, theirs = forward.logits(weights, task.tokens), module(task.tokens)[:, -1]
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forward.logits_by_rows(weights, task.tokens), theirs.detach(), rtol=1e-10, atol=1e-10)
    names = list(weights)
    for_ours = torch.autograd.grad(F.cross_entropy(ours, task.labels), list(weights.values()), allow_unused=True)
    for_theirs = torch.autograd.grad(F.cross_entropy(theirs, task.labels), list(weights.values()), allow_unused=True)
    for which, a, b in zip(names, for_ours, for_theirs, strict=True):
        zero = torch.zeros_like(weights[which])
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=1e-8, atol=1e-10, msg=which)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_and_neurons_are_those_of_run_with_cache(name):
    config = RunConfig(task=parity(K), model=TRANSFORMERS[name])
    task = task_of(config)
    module = in_float64(randomized(build_model(config, task)))
    weights = {n: w.detach() for n, w in module.named_parameters()}
    activity = forward_for(config.model, task).activity(weights, task.tokens)
    neurons, attention = activity.neurons, activity.attention
    last = config.model.n_layers - 1
    with torch.no_grad():
        _, cache = module.run_with_cache(task.tokens)
    torch.testing.assert_close(attention, cache[f"blocks.{last}.attn.hook_pattern"][:, :, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(neurons, cache[f"blocks.{last}.mlp.hook_post"][:, -1], rtol=1e-9, atol=1e-9)


def test_two_bits_are_a_pair_and_take_the_folded_path():
    config = RunConfig(task=parity(2), model=TransformerConfig(d_model=8, n_heads=2, d_mlp=8))
    task = task_of(config)
    module = randomized(build_model(config, task))
    forward = forward_for(config.model, task)
    assert forward.path == "last_position"
    with torch.no_grad():
        expected = module(task.tokens)[:, -1]
        found = forward.logits(dict(module.named_parameters()), task.tokens)
    torch.testing.assert_close(found, expected)
    assert task.tokens.tolist() == [[*bits, 2] for bits in product((0, 1), repeat=2)]


def plain_mlp(task: Task, config: MLPConfig, weights: dict[str, Tensor]) -> Tensor:
    """The logits by torch.nn.functional, with vectors written out."""
    if config.input == "one_hot":
        x = F.one_hot(task.inputs, 2).flatten(1).double()
    elif config.input == "signs":
        x = torch.tensor([[1.0 if bit else -1.0 for bit in bits] for bits in task.inputs.tolist()]).double()
    else:
        embedded = F.one_hot(task.inputs, 2).double() @ weights["embed.W_E"]
        x = embedded.flatten(1) if config.input == "concat" else embedded.sum(dim=1)
    for i in range(config.depth):
        x = F.relu(F.linear(x, weights[f"layers.{i}.W"].T, weights[f"layers.{i}.b"]))
    return F.linear(x, weights["unembed.W_U"].T, weights["unembed.b_U"])


@pytest.mark.parametrize(("kind", "width_in"), [("one_hot", 2 * K), ("signs", K), ("concat", 5 * K), ("sum", 5)])
def test_mlps_on_bits_equal_the_plain_networks(kind, width_in):
    model = MLPConfig(input=kind, width=12, d_embed=5 if kind in ("concat", "sum") else None)
    task = task_of(RunConfig(task=parity(K), model=model))
    module = randomized(build_model(model, task)).double()
    weights = {name: w.detach() for name, w in module.named_parameters()}
    assert weights["layers.0.W"].shape == (width_in, 12)
    expected = plain_mlp(task, model, weights)
    torch.testing.assert_close(module(task.tokens).detach(), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(forward_for(model, task).logits_by_rows(weights, task.tokens), expected)


def test_a_model_on_summed_embeddings_sees_the_number_of_ones_only():
    model = MLPConfig(input="sum", width=12)
    task = task_of(RunConfig(task=parity(K), model=model))
    logits = build_model(model, task)(task.tokens)
    for ones in range(K + 1):
        alike = logits[task.inputs.sum(dim=1) == ones]
        torch.testing.assert_close(alike, alike[:1].expand_as(alike), rtol=1e-4, atol=1e-6)


# --- training --------------------------------------------------------------------------------------------------------

SHORT = ScheduleConfig(steps=60, evaluate_every=10, checkpoints=20, resume_every=20)
SMALL = {
    "signs": replace(preset("parity"), task=parity(6), schedule=SHORT, model=MLPConfig(input="signs", width=16)),
    "minibatches": RunConfig(
        task=parity(6),
        schedule=SHORT,
        model=MLPConfig(input="one_hot", width=16),
        optimizer=OptimizerConfig(batch_size=7),
    ),
    "transformer": RunConfig(task=parity(6), schedule=SHORT, model=TRANSFORMERS["one layer"]),
}


@pytest.fixture(scope="module")
def grokked(tmp_path_factory) -> Run:
    return train(preset("parity"), tmp_path_factory.mktemp("parity") / "run", device="cpu", progress=False)


@pytest.fixture(scope="module")
def analysis(grokked) -> Analysis:
    return analyze(grokked, steps=[0, 100, 500, 2000], workers=0)


def test_an_mlp_memorizes_and_then_generalizes(grokked):
    metrics = grokked.metrics
    memorized = metrics.index[metrics.train_accuracy >= 0.99][0]
    generalized = metrics.index[metrics.test_accuracy >= 0.95][0]
    assert memorized <= 200
    assert metrics.test_accuracy[memorized] < 0.75
    assert 1.5 * memorized < generalized <= 1000
    assert metrics.test_accuracy.iloc[-1] >= 0.95


def test_a_parity_run_is_analyzed_and_reported(analysis, tmp_path):
    final = analysis.timeline.iloc[-1]
    assert analysis.transition.outcome == "grokked"
    assert analysis.timeline.loss[0] == pytest.approx(0.6931, abs=0.02)
    assert final.test_accuracy >= 0.95
    assert final.isna()["restricted_loss"]
    assert analysis.reference.frequencies.values == ()
    assert analysis.reference.frequencies.reason == analysis.run.task.why_no_group
    assert "parity of 10 bits" in write_report(analysis, tmp_path / "report.html").read_text()


def test_a_snapshot_has_the_scores_of_training(grokked):
    snapshot = grokked.snapshot(2000)
    assert accuracy(snapshot, subset="test") == grokked.metrics.test_accuracy[2000]
    assert loss(snapshot, subset="train") == pytest.approx(grokked.metrics.train_loss[2000], rel=1e-5)
    with pytest.raises(MissingNeedError, match="parity of 10 bits has no cyclic group: it is not"):
        restricted_loss(snapshot, [1])


def result(run: Run) -> dict[str, bytes]:
    files = [run.path / "metrics.jsonl", run.path / "resume.safetensors", *(run.path / "weights").iterdir()]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("name", SMALL)
def test_a_stopped_run_resumes_to_the_same_bits(name, tmp_path):
    config = SMALL[name]
    whole = train(config, tmp_path / "whole", device="cpu", progress=False)
    part = replace(config, schedule=replace(SHORT, steps=40))
    train(part, tmp_path / "part", device="cpu", progress=False)
    resumed = train(config, tmp_path / "part", resume=True, device="cpu", progress=False)
    assert result(resumed) == result(whole)
    assert whole.metrics.train_loss.iloc[-1] < whole.metrics.train_loss.iloc[0]


@pytest.mark.parametrize("name", SMALL)
def test_runs_trained_together_equal_those_trained_alone(name, tmp_path):
    configs = [replace(SMALL[name], model_seed=seed) for seed in (0, 1)]
    together = train_many(configs, [tmp_path / "0", tmp_path / "1"], device="cpu", progress=False)
    for seed, run in enumerate(together):
        alone = train(configs[seed], tmp_path / f"alone{seed}", device="cpu", progress=False)
        for column in ("train_loss", "test_loss", "weight_norm"):
            assert run.metrics[column].to_numpy() == pytest.approx(alone.metrics[column].to_numpy(), rel=1e-3), column


def test_a_parity_run_can_be_estimated():
    cost = estimate(SMALL["signs"], tries=1)
    assert cost.parameters == 6 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2


# --- outcomes of few classes -----------------------------------------------------------------------------------------


def curves(test: float, at_end: float | None = None, steps: int = 2000) -> pd.DataFrame:
    """Memorized at 100, with that test accuracy from then on, or up to the last fifth."""
    index = range(0, steps + 1, 50)
    rows = [
        {
            "train_loss": 0.01,
            "test_loss": 1.0,
            "train_accuracy": 1.0 if step >= 100 else 0.6,
            "test_accuracy": at_end if at_end is not None and step > 0.8 * steps else test,
        }
        for step in index
    ]
    return pd.DataFrame(rows, index=pd.Index(index, name="step"))


OUTCOMES = [
    (2, curves(0.5), "DNF_test"),
    (2, curves(0.6), "DNF_test"),
    (2, curves(0.64), "semi_grokked"),
    (2, curves(0.9), "semi_grokked"),
    (2, curves(0.6, 1.0), "grokked"),
    (2, curves(0.74, 1.0), "grokked"),
    (2, curves(0.76, 1.0), "generalized_without_delay"),
    (3, curves(0.34), "DNF_test"),
    (3, curves(0.51), "semi_grokked"),
    (3, curves(0.49, 1.0), "grokked"),
    (3, curves(0.51, 1.0), "generalized_without_delay"),
    (10, curves(0.19), "DNF_test"),
    (10, curves(0.21), "semi_grokked"),
    (113, curves(0.049), "DNF_test"),
    (113, curves(0.051), "semi_grokked"),
    (113, curves(0.49, 1.0), "grokked"),
    (113, curves(0.51, 1.0), "generalized_without_delay"),
]


@pytest.mark.parametrize(("n_classes", "frame", "outcome"), OUTCOMES)
def test_chance_counts_in_the_outcome(n_classes, frame, outcome):
    assert find_transition(frame, n_classes=n_classes).outcome == outcome
