"""Neuron phases and the rebuilt network: a circuit written down by hand, and the values of published networks."""

import math

import pytest
import torch
from hand_built import (
    KEYS,
    PER_KEY,
    P,
    clock_weights,
    lookup_weights,
    memorizer_weights,
    neurons,
    random_weights,
    shuffled,
    snapshot_of,
    split_task,
)

import grokinterp as gi
from grokinterp.config import MLPConfig, TransformerConfig
from grokinterp.errors import MissingNeedError
from grokinterp.measures import Snapshot, idealized_accuracy, neuron_phases
from grokinterp.models import forward_for
from grokinterp.models.initialization import initial_parameters
from grokinterp.tasks import Task

HE = "he/p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"


def apart(x, y):
    """The distance of two angles."""
    return (torch.as_tensor(x - y) + math.pi).remainder(2 * math.pi).sub(math.pi).abs()


class TestByHand:
    def test_every_neuron_is_found(self):
        phases = neuron_phases(snapshot_of(clock_weights()))
        assert phases.frequency.tolist() == [k for k, _, _ in neurons()]
        assert phases.counts() == dict.fromkeys(KEYS, PER_KEY)
        expected = torch.tensor([[phi, chi, phi + chi] for _, phi, chi in neurons()], dtype=torch.float64)
        for found, true in zip((phases.phase_a, phases.phase_b, phases.phase_out), expected.T, strict=True):
            assert apart(found, true).max() < 1e-6
        for amplitude, true in ((phases.amplitude_a, 1.5), (phases.amplitude_b, 1.5), (phases.amplitude_out, 1.0)):
            torch.testing.assert_close(amplitude, torch.full_like(amplitude, true), rtol=1e-6, atol=0)
        assert phases.misalignment.abs().max() < 1e-6
        torch.testing.assert_close(phases.share, torch.ones_like(phases.share), rtol=1e-6, atol=0)
        assert all(spread < 1e-6 for spread in phases.spread().values())

    @pytest.mark.parametrize("change", [lambda weights: weights, shuffled])
    def test_the_rebuilt_network_is_the_network(self, change):
        found = idealized_accuracy(snapshot_of(change(clock_weights())))
        assert found.idealized_accuracy_all == found.idealized_accuracy_novel == 1.0
        assert found.idealized_accuracy_null < 3 / P

    def test_phases_that_do_not_match_answer_nothing(self):
        weights = clock_weights()
        turned = {**weights, "unembed.W_U": weights["unembed.W_U"].roll(3, dims=1)}  # answers a + b + 3
        assert idealized_accuracy(snapshot_of(turned)).idealized_accuracy_all == 0.0

    def test_a_random_network_and_a_memorizer_of_random_labels_have_no_circuit(self):
        task = split_task()
        labels = torch.randint(0, P, (P * P,), generator=torch.Generator().manual_seed(2))
        memorizer = snapshot_of(memorizer_weights(task, labels), task, activation="relu")
        assert (memorizer.logits.argmax(dim=1) == labels)[task.train_mask].all()
        for snapshot in (memorizer, snapshot_of(random_weights(), task, activation="relu")):
            found = idealized_accuracy(snapshot)
            assert max(found.idealized_accuracy_novel, found.idealized_accuracy_all) < 3 / P

    def test_what_memorizes_sums_with_random_neurons_has_aligned_phases_too(self):
        """Its neurons are those of an untrained network, and it answers no novel pair; only the readout is aligned.

        The readout of neuron m adds up the labels of the training pairs that excite it, and its input at its strongest
        frequency says which these are. So the accuracy does not show that a circuit has been learned in the inputs.
        """
        task = split_task()
        memorizer = snapshot_of(memorizer_weights(task), task, activation="relu")
        assert memorizer.hits[task.train_mask].mean() == 1.0
        assert memorizer.hits[task.novel_mask].mean() < 0.15
        found, phases = idealized_accuracy(memorizer), neuron_phases(memorizer)
        assert found.idealized_accuracy_novel > 0.5
        assert found.idealized_accuracy_null < 3 / P
        untrained = neuron_phases(snapshot_of(random_weights(), task, activation="relu"))
        assert torch.equal(phases.share, untrained.share)

    def test_in_a_lookup_table_phases_are_aligned_but_have_no_share(self):
        """A neuron that reads a single a and a single b has a flat spectrum, whose phases fit its answer at every k."""
        task = split_task()
        snapshot = snapshot_of(lookup_weights(task), task)
        assert snapshot.hits[task.train_mask].mean() == 1.0
        assert snapshot.hits[task.test_mask].mean() < 0.1
        assert idealized_accuracy(snapshot).idealized_accuracy_novel > 0.9
        assert neuron_phases(snapshot).share.max() < 0.1

    def test_a_slow_reference(self):
        """Pair by pair and neuron by neuron, for a network of random weights with ReLU."""
        generator = torch.Generator().manual_seed(3)
        weights = {
            "layers.0.W": torch.randn(2 * P, 40, generator=generator, dtype=torch.float64),
            "unembed.W_U": torch.randn(40, P, generator=generator, dtype=torch.float64),
        }
        snapshot = snapshot_of(weights, activation="relu")
        right = 0
        for a in range(P):
            for b in range(P):
                logits = [0.0] * P
                for m in range(40):
                    rows = weights["layers.0.W"][:P, m], weights["layers.0.W"][P:, m], weights["unembed.W_U"][m]
                    spectra = [torch.fft.rfft(row) for row in rows]
                    k = 1 + int((spectra[0].abs() ** 2 + spectra[1].abs() ** 2)[1:].argmax())
                    size_a, size_b, size_out = (2 / P * abs(complex(s[k])) for s in spectra)
                    phi, chi, psi = (-math.atan2(s[k].imag, s[k].real) for s in spectra)
                    w = 2 * math.pi * k / P
                    value = max(0.0, size_a * math.cos(w * a - phi) + size_b * math.cos(w * b - chi))
                    for c in range(P):
                        logits[c] += value * size_out * math.cos(w * c - psi)
                right += max(range(P), key=logits.__getitem__) == (a + b) % P
        assert idealized_accuracy(snapshot).idealized_accuracy_all == pytest.approx(right / P**2, abs=1e-9)

    def test_an_even_modulus_and_its_nyquist_frequency(self):
        p = 8
        task = Task.modular_addition(p, 0.5, equals_token=False)
        wave = torch.cos(math.pi * torch.arange(p, dtype=torch.float64))
        table = torch.stack([3 * wave, 3 * wave], dim=1)
        weights = {"layers.0.W": torch.cat([table, table]), "unembed.W_U": torch.stack([2 * wave, 2 * wave])}
        config = MLPConfig(input="one_hot", depth=1, width=2, activation="relu", biases=False)
        phases = neuron_phases(gi.snapshot(task, config, weights))
        assert phases.frequency.tolist() == [4, 4]
        assert phases.amplitude_a.tolist() == pytest.approx([3.0, 3.0])
        assert phases.amplitude_out.tolist() == pytest.approx([2.0, 2.0])


class TestMissing:
    @pytest.mark.parametrize(("value", "reason"), [(0.0, "no neuron reads a number"), (math.nan, "are not finite")])
    def test_dead_and_diverged_networks(self, value, reason):
        weights = {name: torch.full_like(weight, value) for name, weight in clock_weights().items()}
        found = idealized_accuracy(snapshot_of(weights))
        assert reason in repr(found.idealized_accuracy_all)
        assert reason in repr(found.idealized_accuracy_null)

    def test_a_model_of_ones_own(self):
        task = Task.modular_addition(p=5, train_fraction=0.4)
        activity = gi.measures.Activity(torch.zeros(25, 3))
        snapshot = Snapshot(task, torch.zeros(25, 5).double(), activity=lambda: activity)
        with pytest.raises(MissingNeedError, match="only models of a known architecture"):
            neuron_phases(snapshot)

    def test_without_a_split_only_the_accuracy_on_all_pairs(self):
        task = Task.from_config(gi.TaskConfig("add", P, None, "unknown"), equals_token=False)
        found = idealized_accuracy(snapshot_of(clock_weights(), task))
        assert found.idealized_accuracy_all == 1.0
        assert "split" in repr(found.idealized_accuracy_novel)


# all and novel pairs; the same with square waves; median misalignment and share
HE_VALUES = {
    0: (0.0340, 0, 0.0246, 0, 1.586, 0.263),
    200: (0.9811, 0.9487, 0.9565, 0.9231, None, None),
    1000: (0.9962, 1, 0.9565, 0.9231, 0.1125, 0.520),
    5000: (1, 1, 0.9565, 0.9231, 0.0759, 0.833),
    10000: (1, 1, 0.9565, 0.9231, 0.0610, 0.869),
    49800: (1, 1, 0.9565, 0.9231, 0.0373, 0.901),
}


def test_a_published_network(public_data, tmp_path):
    """He et al.'s network can be read at step 200, and answers novel pairs at 10,000."""
    run = gi.import_run(public_data / HE, tmp_path / "run")
    for step, (everything, novel, square, square_novel, misalignment, share) in HE_VALUES.items():
        snapshot = run.snapshot(step)
        found, squares = idealized_accuracy(snapshot), idealized_accuracy(snapshot, wave="square")
        pair, novel_pair = 1.01 / 529, 1.01 / 39
        assert found.idealized_accuracy_all == pytest.approx(everything, abs=pair)
        assert found.idealized_accuracy_novel == pytest.approx(novel, abs=novel_pair)
        assert squares.idealized_accuracy_all == pytest.approx(square, abs=pair)
        assert squares.idealized_accuracy_novel == pytest.approx(square_novel, abs=novel_pair)
        assert found.idealized_accuracy_null < 0.1
        phases = neuron_phases(snapshot)
        if misalignment is not None:
            assert phases.misalignment.abs().median().item() == pytest.approx(misalignment, abs=1e-3)
            assert phases.share.median().item() == pytest.approx(share, abs=1e-3)


def test_run42():
    """The circuit grows from memorization on, long before the network answers by it."""
    run = gi.load("checkpoints/run42")
    steps = {step: min(run.steps, key=lambda other: abs(other - step)) for step in (0, 133, 500, 1100, 1700, 2300)}
    for step, expected in zip(steps, (0.02, 0.06, 0.23, 0.47, 0.72, 0.87), strict=True):
        found = idealized_accuracy(run.snapshot(steps[step]))
        assert found.idealized_accuracy_novel == pytest.approx(expected, abs=0.006)
        assert found.idealized_accuracy_null < 0.03


ARCHITECTURES = {
    "transformer": TransformerConfig(d_model=16, n_heads=2, d_mlp=24, biases="trained"),
    "gelu": TransformerConfig(d_model=16, n_heads=2, d_mlp=24, activation="gelu", equals_token=False),
    "two layers": TransformerConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, normalization="layernorm"),
    "constant attention": TransformerConfig(
        d_model=16, n_heads=2, d_mlp=24, attention_rate=0.0, attention="bidirectional"
    ),
    "one-hot mlp": MLPConfig(input="one_hot", depth=1, width=12),
    "deep mlp": MLPConfig(input="sum", depth=2, width=12, d_embed=8),
    "two tables": MLPConfig(input="concat", depth=1, width=12, d_embed=8, shared_embedding=False, activation="tanh"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_form_of_a_model_gives_the_same_network(name):
    """The pre-activations and the form by embeddings, against the plain forward pass."""
    config = ARCHITECTURES[name]
    task = Task.modular_addition(7, 0.5, equals_token=getattr(config, "equals_token", False))
    parameters = initial_parameters(config, task, 3)
    weights = {name: weight.detach().double() + 0.01 for name, weight in parameters.items()}
    snapshot = gi.snapshot(task, config, weights)
    before = snapshot.pre_activations
    torch.testing.assert_close(before.function(before.values), snapshot.neurons, rtol=1e-9, atol=1e-9)
    if isinstance(config, TransformerConfig):
        plain = forward_for(config, task, plain=True).pre_activations(weights, task.tokens)
        torch.testing.assert_close(before.values, plain, rtol=1e-9, atol=1e-9)
    a, b = task.inputs.T
    of_a, of_b = snapshot.embedded.tables
    torch.testing.assert_close(snapshot.embedded.logits(of_a[a], of_b[b]), snapshot.logits, rtol=1e-9, atol=1e-9)
