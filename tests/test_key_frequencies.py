"""Key frequencies, evaluation pairs and neuron frequencies, on models whose answer is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from explicit_measures import Reference, cosine_cube, exact, memorizer, normal, random_snapshot

from grokinterp.errors import ConfigError
from grokinterp.measures import (
    Activity,
    KeyFrequencies,
    Snapshot,
    Undefined,
    as_frequencies,
    circuit_efficiency,
    cosine_coefficients,
    cross_entropy_from_logits,
    evaluation_pairs,
    excluded_loss,
    excluded_loss_novel,
    key_frequencies,
    logit_variance_explained,
    loss,
    neuron_frequencies,
    restricted_loss,
    restricted_loss_novel,
)
from grokinterp.tasks import Task


class TestExactCosineLogits:
    @exact
    @pytest.mark.parametrize("fraction", [None, 0.3], ids=["unknown split", "known split"])
    def test_cube_cosine_finds_exactly_their_frequencies(self, p: int, amplitudes: dict, fraction: float | None):
        snapshot = Snapshot.from_logits(Task.modular_addition(p, fraction), cosine_cube(p, amplitudes))
        keys = key_frequencies(snapshot)
        assert (keys.values, keys.rule, keys.reason) == (tuple(amplitudes), "cube_cosine", "")

    @exact
    def test_restricted_loss_is_the_full_loss(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p, 0.3), cosine_cube(p, amplitudes))
        for subset in ("all", "train", "test"):
            full = loss(snapshot, subset=subset)
            assert restricted_loss(snapshot, tuple(amplitudes), subset=subset) == pytest.approx(full, rel=1e-9)
        assert restricted_loss_novel(snapshot, tuple(amplitudes)) == pytest.approx(
            loss(snapshot, subset="train"), rel=1e-9
        )

    @exact
    def test_excluded_loss_is_chance(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p, 0.3), cosine_cube(p, amplitudes))
        for subset in ("all", "train", "test"):
            value = excluded_loss(snapshot, tuple(amplitudes), subset=subset)
            assert value == pytest.approx(math.log(p), rel=1e-12)
        assert excluded_loss_novel(snapshot, tuple(amplitudes)) == pytest.approx(math.log(p), rel=1e-12)

    @exact
    def test_coefficients_are_the_amplitudes(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p), cosine_cube(p, amplitudes))
        expected = torch.tensor([amplitudes.get(k, 0.0) for k in range(1, p // 2 + 1)], dtype=torch.float64)
        torch.testing.assert_close(cosine_coefficients(snapshot), expected, rtol=1e-12, atol=1e-11)

    @exact
    def test_all_their_variance_is_on_the_keys(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p), cosine_cube(p, amplitudes))
        assert logit_variance_explained(snapshot, tuple(amplitudes)) == pytest.approx(1.0, rel=1e-12)

    @exact
    def test_unseen_pairs_have_the_full_margin(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p, 0.3), cosine_cube(p, amplitudes))
        efficiency = circuit_efficiency(snapshot, tuple(amplitudes))
        assert efficiency.generalized_margin_share == pytest.approx(1.0, rel=1e-12)
        assert efficiency.margin_train == pytest.approx(p / (p - 1) * sum(amplitudes.values()), rel=1e-12)
        assert math.isnan(efficiency.circuit_efficiency_ratio)
        assert efficiency.circuit_efficiency_ratio.reason == efficiency.reason == "memorized margin exhausted"

    @pytest.mark.filterwarnings("ignore:are these the logits")  # sines answer a + b + 1
    def test_sine_logits_have_no_key_frequency(self):
        cube = cosine_cube(31, {3: 20.0, 7: 20.0}, wave=np.sin)
        keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(31), cube))
        assert (keys.values, keys.reason) == ((), "no frequency stands out")

    @pytest.mark.filterwarnings("ignore:are these the logits")  # sines answer a + b + 1
    def test_the_noise_floor_is_five_times_the_root_mean_square_of_the_sines(self):
        p, sines = 31, dict.fromkeys(range(1, 16), 1.0)
        for amplitude, expected in ((4.9, ()), (5.1, (4,))):
            logits = cosine_cube(p, {4: amplitude}) + cosine_cube(p, sines, wave=np.sin)
            keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(p), logits))
            assert keys.values == expected

    def test_the_threshold_without_noise_is_a_similarity_of_one_twentieth(self):
        p = 31
        for similarity, expected in ((0.0495, (7,)), (0.0505, (4, 7))):
            weak = similarity / math.sqrt(1 - similarity**2)
            logits = cosine_cube(p, {7: 1.0, 4: weak})
            keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(p, 0.3), logits))
            assert (keys.values, keys.threshold) == (expected, 0.05)

    def test_a_weaker_double_is_labeled_as_a_harmonic_and_stays(self):
        logits = cosine_cube(31, {7: 20.0, 14: 5.0, 12: 18.0})
        keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(31), logits))
        assert keys.values == (7, 12, 14)
        assert keys.harmonics == ((14, 7),)

    @pytest.mark.parametrize(("operation", "p"), [("subtract", 31), ("multiply_nonzero", 31), ("divide", 31)])
    def test_frequencies_live_on_the_group_of_the_operation(self, operation: str, p: int):
        task = Task.of(operation, p, 0.3)
        reference = Reference(random_snapshot(operation, p))
        order = reference.order
        position = {c: i for i, c in enumerate(range(p))}
        if order == p - 1:
            position = {c: reference.logarithm(c) for c in range(1, p)}
        logits = torch.full((len(task.inputs), p), -30.0, dtype=torch.float64)
        for i, s in enumerate(reference.sums):
            for c, m in position.items():
                logits[i, c] = 20 * math.cos(2 * math.pi * 4 * (s - m) / order) + 9 * math.cos(
                    2 * math.pi * 11 * (s - m) / order
                )
        snapshot = Snapshot.from_logits(task, logits)
        keys = key_frequencies(snapshot)
        assert keys.values == (4, 11)
        coefficients = cosine_coefficients(snapshot)
        assert coefficients[[3, 10]].tolist() == pytest.approx([20.0, 9.0], rel=1e-9)
        inside = torch.from_numpy(reference.sums >= 0)
        full = cross_entropy_from_logits(logits[inside], task.labels[inside]).item()
        assert restricted_loss(snapshot, keys) == pytest.approx(full, rel=1e-9)


class TestNoKeyFrequencies:
    @pytest.mark.parametrize("fraction", [None, 0.3, 0.8])
    @pytest.mark.parametrize("p", [30, 31, 53])
    def test_of_an_untrained_model(self, p: int, fraction: float | None):
        for seed in range(3):
            task = Task.modular_addition(p, fraction, seed)
            keys = key_frequencies(Snapshot.from_logits(task, normal(p * p, p, seed=seed)))
            assert (keys.values, keys.reason) == ((), "no frequency stands out")

    @pytest.mark.parametrize("split_known", [True, False], ids=["known split", "unknown split"])
    @pytest.mark.parametrize("fraction", [0.2, 0.3, 0.5, 0.8])
    @pytest.mark.parametrize("p", [30, 31, 53])
    def test_of_a_memorizer(self, p: int, fraction: float, split_known: bool):
        for seed in range(3):
            keys = key_frequencies(memorizer(p, fraction, seed, split_known=split_known))
            assert (keys.values, keys.reason) == ((), "no frequency stands out")

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e5])
    def test_of_constant_logits(self, value: float):
        logits = torch.full((961, 31), value, dtype=torch.float64)
        keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(31), logits))
        assert (keys.values, keys.reason) == ((), "constant logits")

    def test_of_logits_that_are_not_finite(self):
        logits = cosine_cube(31, {3: 20.0})
        logits[0, 0, 0] = math.inf
        keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(31), logits))
        assert (keys.values, keys.reason) == ((), "the logits are not finite")

    def test_leaves_every_loss_undefined_with_that_reason(self):
        snapshot = random_snapshot("add", 11)
        none = KeyFrequencies((), "cube_cosine")
        for value in (
            restricted_loss(snapshot, none),
            excluded_loss(snapshot, none),
            restricted_loss_novel(snapshot, none),
            excluded_loss_novel(snapshot, none),
            logit_variance_explained(snapshot, none),
            circuit_efficiency(memorizer(11, 0.3, 0), none).ratio_from_keys,
        ):
            assert isinstance(value, Undefined)
            assert value.reason == "no key frequencies"


class TestEvaluationPairs:
    def test_are_novel_pairs_where_there_are_enough(self):
        snapshot = random_snapshot("add", 31)
        expected = Reference(snapshot).held_out
        assert expected.sum() >= 62
        assert evaluation_pairs(snapshot).tolist() == expected.tolist()

    def test_are_all_test_pairs_where_the_operation_does_not_commute(self):
        snapshot = random_snapshot("subtract", 31)
        assert evaluation_pairs(snapshot).tolist() == (~snapshot.task.train_mask).tolist()

    def test_are_all_pairs_where_novel_ones_are_fewer_than_2p(self):
        task = Task.modular_addition(31, 0.8)
        assert int(task.novel_mask.sum()) < 62
        assert evaluation_pairs(Snapshot.from_logits(task, normal(961, 31))).all()

    def test_are_all_pairs_of_an_unknown_split(self):
        assert evaluation_pairs(Snapshot.from_logits(Task.modular_addition(31), normal(961, 31))).all()


class TestNeuronFrequencies:
    @staticmethod
    def waves(p: int, k: int) -> list[np.ndarray]:
        x = np.arange(p)
        rows = [np.ones(p), np.cos(2 * np.pi * k * x / p)]
        rows += [] if 2 * k == p else [np.sin(2 * np.pi * k * x / p)]
        return [row / np.linalg.norm(row) for row in rows]

    @pytest.mark.parametrize("p", [11, 12])
    def test_agree_with_a_loop_over_products_of_waves(self, p: int):
        neurons = normal(p * p, 6)
        neurons[:, 2], neurons[:, 4] = 0.0, 3.7
        snapshot = Snapshot(
            Task.modular_addition(p), normal(p * p, p), activity=lambda: Activity(neurons, normal(6, p))
        )
        neurons_by_frequency = neuron_frequencies(snapshot)
        for n in range(6):
            grid = neurons[:, n].numpy().reshape(p, p)
            grid = grid - grid.mean()
            if n in (2, 4):
                assert (neurons_by_frequency.frequency[n].item(), neurons_by_frequency.explained[n].item()) == (0, 0.0)
                continue
            shares = []
            for k in range(1, p // 2 + 1):
                products = itertools.product(self.waves(p, k), repeat=2)
                shares.append(sum((u @ grid @ v) ** 2 for u, v in products) / (grid**2).sum())
            assert neurons_by_frequency.frequency[n].item() == 1 + int(np.argmax(shares))
            assert neurons_by_frequency.explained[n].item() == pytest.approx(max(shares), rel=1e-10)

    @pytest.mark.parametrize(("p", "low", "top"), [(11, 3, 5), (12, 5, 6)])
    def test_pure_neurons_form_clusters_and_one_neuron_makes_no_key(self, p: int, low: int, top: int):
        a, b = Task.modular_addition(p).inputs.double().T * (2 * math.pi / p)
        columns = [
            (low * a).cos() + (low * b).sin(),
            (low * a).sin() * (low * b).cos() + 4.0,
            (top * a).cos() * (top * b).cos(),
            (top * a).cos() + 0.1 * (low * b).cos(),
            a.cos() + b.cos(),
            torch.zeros_like(a),
        ]
        neurons = torch.stack(columns, dim=1)
        snapshot = Snapshot(
            Task.modular_addition(p), normal(p * p, p), activity=lambda: Activity(neurons, normal(6, p))
        )
        assert neuron_frequencies(snapshot).clusters(0.85) == {1: 1, low: 2, top: 2}
        assert neuron_frequencies(snapshot).clusters(0.999) == {1: 1, low: 2, top: 1}
        assert key_frequencies(snapshot, rule="neuron_clusters").values == (low, top)


class TestFrequenciesGiven:
    @pytest.mark.parametrize("wrong", ["12", [1.5], [1.0], 1.5, True, [True], torch.tensor([1.0]), None, [[1]]])
    @pytest.mark.parametrize("function", [restricted_loss, excluded_loss, circuit_efficiency])
    def test_are_integers(self, function, wrong, unchecked):
        snapshot = Snapshot.from_logits(Task.modular_addition(13, 0.4), torch.eye(13)[torch.arange(169) % 13])
        if function is circuit_efficiency:
            snapshot = Snapshot.from_logits(snapshot.task, torch.eye(13)[snapshot.task.labels])
        with pytest.raises(ConfigError, match=r"^each of the frequencies must be an integer, but is "):
            function(snapshot, wrong)

    @pytest.mark.parametrize("right", [np.int64(3), [np.int32(3)], torch.tensor([3]), np.array([3]), (3,), {3}])
    def test_of_numpy_and_pytorch_count(self, right, unchecked):
        assert as_frequencies(right, 13) == (3,)


class TestThreshold:
    def snapshot(self) -> Snapshot:
        a, b, c = torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij")
        waves = [x * torch.cos(2 * torch.pi * k * (a + b - c) / 31) for k, x in ((3, 20.0), (7, 6.0), (11, 2.0))]
        return Snapshot.from_logits(Task.modular_addition(31), torch.stack(waves).sum(dim=0))

    @pytest.mark.parametrize(("threshold", "keys"), [(None, (3, 7, 11)), (0.2, (3, 7)), (0.5, (3,)), (0.99, ())])
    def test_a_larger_one_leaves_fewer(self, threshold, keys):
        """The similarities are 0.953, 0.286 and 0.095: each amplitude over the root of the sum of squares."""
        found = key_frequencies(self.snapshot(), threshold=threshold)
        assert found.values == keys
        assert found.threshold == (threshold or 0.05)

    @pytest.mark.parametrize("threshold", [0, 1, -0.1, math.nan, True, "0.1"])
    def test_it_lies_between_0_and_1(self, threshold, unchecked):
        with pytest.raises(ConfigError, match=r"^threshold must be a number between 0 and 1, but is"):
            key_frequencies(self.snapshot(), threshold=threshold)
