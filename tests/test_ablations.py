"""Ablations: a circuit written down by hand, equal ways to remove the same part, run42, and a published network."""

import json
import math

import pytest
import torch
from hand_built import CONFIG, KEYS, PER_KEY, P, clock_weights, snapshot_of

import grokinterp as gi
from grokinterp.analysis.ablations import ablations, with_hook
from grokinterp.config import TransformerConfig
from grokinterp.models.initialization import initial_parameters
from grokinterp.models.modules import Transformer
from grokinterp.models.shapes import parameter_shapes
from grokinterp.tasks import Task

SAMPLE = "checkpoints/run42"


def run_of(config, weights, folder, **task):
    """A run with one checkpoint."""
    source = folder / "weights.pth"
    torch.save(weights, source)
    known = gi.TaskConfig("add", P, 0.5, **task)
    return gi.import_run(source, folder / "run", config=gi.RunConfig(known, config, None, None))


@pytest.fixture
def clock(tmp_path):
    return run_of(CONFIG, clock_weights(), tmp_path)


def found(run, keys=KEYS):
    snapshot = run.snapshot("last", neurons=True)
    return {(ablation.part, ablation.change): ablation.logits for ablation in ablations(run, snapshot, keys)}


def circuit_logits(keys):
    a, b, c = torch.meshgrid(*[torch.arange(P)] * 3, indexing="ij")
    size = 1.5**2 * PER_KEY / 2
    return sum(size * torch.cos(2 * math.pi * k * (a + b - c).double() / P) for k in keys).flatten(0, 1)


class TestByHand:
    def test_removing_a_key_leaves_the_others(self, clock):
        logits = found(clock)
        for part in ("embedding", "neurons", "logits"):
            for k in KEYS:
                expected = circuit_logits([other for other in KEYS if other != k])
                torch.testing.assert_close(logits[part, f"without {k}"], expected, rtol=1e-4, atol=1e-4)
            only = logits[part, "only 2, 5, 9"]
            torch.testing.assert_close(only, circuit_logits(KEYS), rtol=1e-4, atol=1e-4)
            nothing = logits[part, "without 2, 5, 9"]
            assert (nothing - nothing.mean(dim=1, keepdim=True)).abs().max() < 1e-3
            (others,) = [change for at, change in logits if at == part and change.startswith("without others")]
            torch.testing.assert_close(logits[part, others], circuit_logits(KEYS), rtol=1e-4, atol=1e-4)

    def test_a_fit_of_degree_two_keeps_the_circuit(self, clock):
        torch.testing.assert_close(found(clock)["neurons", "degree-2 fit"], circuit_logits(KEYS), rtol=1e-4, atol=1e-4)

    def test_the_table(self, clock):
        table = gi.ablation_table(clock)
        assert list(table.columns) == [f"{s}_{n}" for s in ("train", "mirror", "novel") for n in ("loss", "accuracy")]
        whole, without = table.loc[("network", "as it is")], table.loc[("embedding", "without 2, 5, 9")]
        assert whole["novel_accuracy"] == 1.0
        assert without["novel_loss"] == pytest.approx(math.log(P), abs=1e-3)


@pytest.fixture
def transformer(tmp_path):
    config = TransformerConfig(n_heads=2, d_model=16, d_mlp=24, biases="trained")
    parameters = initial_parameters(config, Task.modular_addition(P), 3)
    weights = {name: weight.detach() + 0.02 for name, weight in parameters.items()}
    return run_of(config, weights, tmp_path)


class TestEqualWays:
    """Removing a part through hooks, and removing it from the weights on the fast path."""

    @pytest.mark.parametrize(
        ("part", "removed"),
        [
            ("head 0", {"attn.W_O": 0}),
            ("head 1", {"attn.W_O": 1}),
            ("attention", {"attn.W_O": None, "attn.b_O": None}),
            ("all neurons", {"mlp.W_out": None}),
        ],
    )
    def test_zeros(self, transformer, part, removed):
        weights = {name: weight.clone() for name, weight in transformer.weights("last").items()}
        for name, place in removed.items():
            if place is None:
                weights[f"blocks.0.{name}"].zero_()
            else:
                weights[f"blocks.0.{name}"][place].zero_()
        expected = gi.snapshot(transformer.task, transformer.config.model, weights).logits
        torch.testing.assert_close(found(transformer)[part, "zero"], expected, rtol=1e-4, atol=1e-4)

    def test_means(self, transformer):
        """A mean over inputs, input by input: the logits with the mean of the MLP's neurons, by a loop."""
        snapshot = transformer.snapshot("last", neurons=True)
        readout = snapshot.neuron_logit_map.double()
        mean = snapshot.neurons.double().mean(dim=0)
        rows = [
            logits - neurons @ readout + mean @ readout
            for logits, neurons in zip(snapshot.logits, snapshot.neurons.double(), strict=True)
        ]
        torch.testing.assert_close(found(transformer)["all neurons", "mean"], torch.stack(rows), rtol=1e-4, atol=1e-4)

    def test_neurons_through_hooks(self, transformer):
        """The degree-2 fit, put into the module instead of the fast path."""
        config, task = transformer.config.model, transformer.task
        snapshot = transformer.snapshot("last", neurons=True)
        phases = gi.measures.neuron_frequencies(snapshot)
        a, b = task.inputs.double().T * 2 * math.pi / P
        fitted = torch.empty_like(snapshot.neurons, dtype=torch.float64)
        for m, k in enumerate(phases.frequency.tolist()):
            waves = [[torch.ones_like(x), (k * x).cos(), (k * x).sin()] for x in (a, b)]
            columns = torch.stack([u * v for u in waves[0] for v in waves[1]], dim=1)
            values = snapshot.neurons[:, m].double()
            fitted[:, m] = columns @ torch.linalg.lstsq(columns, values[:, None]).solution[:, 0]
        module = Transformer(config, parameter_shapes(config, task.config))
        module.load_state_dict(dict(transformer.weights("last")))

        def put(value):
            value = value.clone()
            value[:, -1] = fitted.float()
            return value

        logits = with_hook(module, task.tokens, "blocks.0.mlp.hook_post", put)[:, -1].double()
        torch.testing.assert_close(found(transformer)["neurons", "degree-2 fit"], logits, rtol=1e-4, atol=1e-4)

    def test_hooks_are_as_before_after_an_error(self, transformer):
        config, task = transformer.config.model, transformer.task
        module = Transformer(config, parameter_shapes(config, task.config))
        module.load_state_dict(dict(transformer.weights("last")))
        seen = []
        module.add_hook("blocks.0.hook_attn_out", lambda value, hook: seen.append(1), is_permanent=True)

        def fail(value):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            with_hook(module, task.tokens, "blocks.0.hook_attn_out", fail)
        seen.clear()
        module(task.tokens)
        assert seen == [1]


def test_run42():
    table = gi.ablation_table(SAMPLE)
    loss = table["novel_loss"]
    before = loss["network", "as it is"]
    for k in (8, 14, 21):
        assert loss["embedding", f"without {k}"] > 1e4 * before
    (others,) = [change for part, change in table.index if part == "embedding" and change.startswith("without others")]
    assert loss["embedding", others] < 2 * before
    assert loss["neurons", "only 8, 14, 21"] < before
    assert loss["logits", "only 8, 14, 21"] < before
    assert loss["neurons", "degree-2 fit"] < before


def test_a_published_network(public_data, tmp_path):
    run = gi.import_run(public_data / "chughtai" / "C113_T_seed1", tmp_path / "run")
    table = gi.ablation_table(run)
    loss = table["novel_loss"]
    before = loss["network", "as it is"]
    for k in (16, 30, 56):
        assert loss["embedding", f"without {k}"] > 1e3 * before
    (others,) = [change for part, change in table.index if part == "embedding" and change.startswith("without others")]
    assert loss["embedding", others] < 3 * before
    assert loss["logits", "only 16, 30, 56"] < before


class TestRefusals:
    def test_without_a_group(self, tmp_path):
        task = gi.TaskConfig("x^2+y^2", 7, 0.5)
        config = gi.MLPConfig(input="one_hot", depth=1, width=4)
        weights = {
            n: w.detach() for n, w in initial_parameters(config, Task.from_config(task, equals_token=False), 0).items()
        }
        torch.save(weights, tmp_path / "weights.pth")
        run = gi.import_run(tmp_path / "weights.pth", tmp_path / "run", config=gi.RunConfig(task, config, None, None))
        with pytest.raises(gi.ConfigError, match="ablations remove frequencies, but"):
            gi.ablation_table(run)

    def test_a_frequency_out_of_range(self):
        with pytest.raises(gi.ConfigError, match=r"frequencies of Z_67 lie in 1 \.\. 33"):
            gi.ablation_table(SAMPLE, frequencies=[40])

    def test_the_logits_of_the_circuit(self):
        torch.testing.assert_close(snapshot_of(clock_weights()).logits, circuit_logits(KEYS), rtol=1e-6, atol=1e-6)


def test_the_command(clock, shell):
    """`--ablations` adds a table, `--circuit` the costly measures; both also in JSON."""
    shown = shell("analyze", str(clock.path), "--ablations", "--circuit", "--no-report", "--json", "--workers", "0")
    assert (shown.code, shown.err) == (0, "")
    content = json.loads(shown.out)
    rows = {(row["part"], row["change"]): row for row in content["ablations"]}
    assert rows["network", "as it is"]["novel_accuracy"] == 1.0
    assert rows["embedding", "without 2, 5, 9"]["novel_accuracy"] < 0.2
    assert content["final"]["logit_sum_class_share"] == pytest.approx(1.0)
    assert content["final"]["guaranteed_share"] == content["final"]["idealized_accuracy_novel"] == 1.0
    plain = shell("analyze", str(clock.path), "--ablations", "--no-report")
    assert plain.code == 0
    assert "ablations at the reference step" in plain.out
    assert "guaranteed_share" not in json.loads(shell("analyze", str(clock.path), "--no-report", "--json").out)["final"]
