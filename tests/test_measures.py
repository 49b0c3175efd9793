"""The measures against their definitions: slow and obvious references, hand-built models, and the text of errors."""

import inspect
import itertools
import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import Tensor

from grokinterp.config import MLPConfig
from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import (
    Activity,
    KeyFrequencies,
    Snapshot,
    Undefined,
    accuracy,
    base,
    circuit_efficiency,
    cosine_coefficients,
    cosine_similarities,
    cross_entropy_from_logits,
    embedding_power,
    evaluation_pairs,
    excluded_loss,
    excluded_loss_from_logits,
    excluded_loss_novel,
    excluded_loss_per_frequency,
    find_measure,
    gini,
    gini_embedding,
    gini_neuron_logit,
    group_norms,
    group_rms,
    key_frequencies,
    logit_variance_explained,
    loss,
    margin,
    margin_from_logits,
    measure,
    neuron_frequencies,
    neuron_logit_power,
    registered,
    restricted_loss,
    restricted_loss_from_logits,
    restricted_loss_novel,
    restricted_loss_per_frequency,
    sum_of_squares,
    weight_norm,
    weight_rms,
)
from grokinterp.models.mlp_forward import mlp
from grokinterp.tasks import Task

OPERATIONS = [
    ("add", 11),
    ("add", 12),
    ("subtract", 11),
    ("subtract", 12),
    ("multiply", 11),
    ("multiply_nonzero", 11),
    ("divide", 11),
]
operations = pytest.mark.parametrize(("operation", "p"), OPERATIONS)
EXACT = [(31, {3: 20.0, 7: 15.0, 12: 18.0}), (30, {4: 20.0, 7: 15.0, 15: 18.0})]
exact = pytest.mark.parametrize(("p", "amplitudes"), EXACT, ids=["odd", "even with the Nyquist frequency"])


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine_cube(p: int, amplitudes: dict[int, float], wave=np.cos) -> Tensor:
    """sum over k of A_k wave(w_k (a + b - c)), as [p, p, p]."""
    a, b, c = np.meshgrid(np.arange(p), np.arange(p), np.arange(p), indexing="ij")
    cube = sum(amplitude * wave(2 * np.pi * k * (a + b - c) / p) for k, amplitude in amplitudes.items())
    return torch.from_numpy(np.asarray(cube))


def random_snapshot(operation: str, p: int, seed: int = 0) -> Snapshot:
    task = Task.of(operation, p, 0.4, seed)
    n = len(task.inputs)
    return Snapshot(
        task,
        normal(n, p, seed=seed, scale=2.0),
        activity=lambda: Activity(normal(n, 7, seed=seed + 100), normal(7, p, seed=seed + 200)),
    )


def memorizer(p: int, fraction: float, seed: int, *, known: bool = True) -> Snapshot:
    """Random logits, and 10 more on the label of every training pair."""
    task = Task.modular_addition(p, fraction, seed)
    logits = normal(p * p, p, seed=seed)
    logits[task.train_mask.nonzero().flatten(), task.labels[task.train_mask]] += 10
    return Snapshot.from_logits(task if known else Task.modular_addition(p), logits)


def with_novel_pairs(p: int, diagonal: int, mirrored: int) -> Task:
    """All is trained on but some pairs (a, a), and some pairs with their mirrors."""
    below = [(a, b) for a in range(p) for b in range(a)][:mirrored]
    novel = {(a, a) for a in range(diagonal)} | set(below) | {(b, a) for a, b in below}
    return Task.modular_addition(p, train_indices=[i for i in range(p * p) if divmod(i, p) not in novel])


@cache
def smallest_root(p: int) -> int:
    return next(r for r in range(2, p) if len({r**i % p for i in range(p - 1)}) == p - 1)


class Reference:
    """Every pair by hand: sum classes, p^2-sized waves, masks and losses, in numpy and loops."""

    def __init__(self, snapshot: Snapshot):
        config = snapshot.task.config
        self.p, self.operation = config.p, config.operation
        self.pairs = [tuple(pair) for pair in snapshot.task.inputs.tolist()]
        self.logits = snapshot.logits.numpy()
        self.order = self.p if self.operation in ("add", "subtract") else self.p - 1
        self.sums = np.array([self._sum(a, b) for a, b in self.pairs])
        self.labels = [self._label(a, b) for a, b in self.pairs]
        trained = {pair for pair, t in zip(self.pairs, snapshot.task.train_mask.tolist(), strict=True) if t}
        commutes = self.operation in ("add", "multiply", "multiply_nonzero")
        inside = self.sums >= 0
        train = np.array([pair in trained for pair in self.pairs])
        mirrored = np.array([commutes and (b, a) in trained for a, b in self.pairs])
        self.masks = {"all": inside, "train": inside & train, "test": inside & ~train}
        self.held_out = inside & ~train & ~mirrored

    def _label(self, a: int, b: int) -> int:
        if self.operation == "add":
            return (a + b) % self.p
        if self.operation == "subtract":
            return (a - b) % self.p
        if self.operation == "divide":
            return next(c for c in range(self.p) if c * b % self.p == a)
        return a * b % self.p

    def _sum(self, a: int, b: int) -> int:
        if self.operation == "add":
            return (a + b) % self.p
        if self.operation == "subtract":
            return (a - b) % self.p
        if a == 0 or b == 0:
            return -1
        sign = -1 if self.operation == "divide" else 1
        return (self.logarithm(a) + sign * self.logarithm(b)) % (self.p - 1)

    def logarithm(self, x: int) -> int:
        return next(i for i in range(self.p - 1) if smallest_root(self.p) ** i % self.p == x)

    def part(self, values: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
        """(sum over K of u u^T + v v^T) values, u and v unit vectors over pairs."""
        total = np.zeros_like(values)
        for k in keys:
            for wave in (np.cos, np.sin):
                if wave is np.sin and 2 * k == self.order:
                    continue
                u = np.where(self.sums >= 0, wave(2 * np.pi * k * self.sums / self.order), 0.0)
                u = u / np.sqrt((u**2).sum())
                total += np.outer(u, u @ values)
        return total

    def mean(self) -> np.ndarray:
        return self.logits[self.sums >= 0].mean(axis=0)

    def loss(self, logits: np.ndarray, mask: np.ndarray) -> float:
        losses = []
        for i in np.flatnonzero(mask):
            shifted = logits[i] - logits[i].max()
            losses.append(math.log(sum(math.exp(x) for x in shifted)) - shifted[self.labels[i]])
        return sum(losses) / len(losses)

    def keys(self) -> tuple[int, ...]:
        return (1, 3) if self.order % 2 else (1, 3, self.order // 2)

    def key_part(self, snapshot: Snapshot, keys: tuple[int, ...], level: str) -> np.ndarray:
        if level == "logit":
            return self.part(self.logits, keys)
        return self.part(snapshot.neurons.numpy(), keys) @ snapshot.neuron_logit_map.numpy()


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
    def test_all_the_margin_survives_on_unseen_pairs(self, p: int, amplitudes: dict):
        snapshot = Snapshot.from_logits(Task.modular_addition(p, 0.3), cosine_cube(p, amplitudes))
        found = circuit_efficiency(snapshot, tuple(amplitudes))
        assert found.generalized_margin_share == pytest.approx(1.0, rel=1e-12)
        assert found.margin_train == pytest.approx(p / (p - 1) * sum(amplitudes.values()), rel=1e-12)
        assert math.isnan(found.circuit_efficiency_ratio)
        assert found.circuit_efficiency_ratio.reason == found.reason == "memorized margin exhausted"

    def test_sine_logits_have_no_key_frequency(self):
        cube = cosine_cube(31, {3: 20.0, 7: 20.0}, wave=np.sin)
        keys = key_frequencies(Snapshot.from_logits(Task.modular_addition(31), cube))
        assert (keys.values, keys.reason) == ((), "no frequency stands out")

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

    def test_a_weaker_double_is_labelled_and_kept(self):
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

    @pytest.mark.parametrize("known", [True, False], ids=["known split", "unknown split"])
    @pytest.mark.parametrize("fraction", [0.2, 0.3, 0.5, 0.8])
    @pytest.mark.parametrize("p", [30, 31, 53])
    def test_of_a_memorizer(self, p: int, fraction: float, known: bool):
        for seed in range(3):
            keys = key_frequencies(memorizer(p, fraction, seed, known=known))
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


class TestRestrictedAndExcludedLoss:
    @operations
    @pytest.mark.parametrize("level", ["logit", "neuron"])
    def test_restricted_loss_is_what_explicit_projection_gives(self, operation: str, p: int, level: str):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        keys = reference.keys()
        part = reference.key_part(snapshot, keys, level)
        for subset, mask in reference.masks.items():
            expected = reference.loss(part + reference.mean(), mask)
            without = reference.loss(part, mask)
            assert restricted_loss(snapshot, keys, subset=subset, level=level) == pytest.approx(expected, rel=1e-11)
            assert restricted_loss(snapshot, keys, subset=subset, level=level, constant=False) == pytest.approx(
                without, rel=1e-11
            )

    @operations
    @pytest.mark.parametrize("level", ["logit", "neuron"])
    def test_excluded_loss_is_what_explicit_projection_gives(self, operation: str, p: int, level: str):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        keys = reference.keys()
        rest = reference.logits - reference.key_part(snapshot, keys, level)
        for subset, mask in reference.masks.items():
            expected = reference.loss(rest, mask)
            assert excluded_loss(snapshot, keys, subset=subset, level=level) == pytest.approx(expected, rel=1e-11)

    @operations
    @pytest.mark.parametrize("level", ["logit", "neuron"])
    def test_one_frequency_at_a_time(self, operation: str, p: int, level: str):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        frequencies = range(1, reference.order // 2 + 1)
        parts = [reference.key_part(snapshot, (k,), level) for k in frequencies]
        for subset, mask in reference.masks.items():
            excluded = [reference.loss(reference.logits - part, mask) for part in parts]
            restricted = [reference.loss(part + reference.mean(), mask) for part in parts]
            assert excluded_loss_per_frequency(snapshot, subset=subset, level=level).tolist() == pytest.approx(
                excluded, rel=1e-11
            )
            assert restricted_loss_per_frequency(snapshot, subset=subset, level=level).tolist() == pytest.approx(
                restricted, rel=1e-11
            )

    @operations
    def test_defaults_are_all_pairs_for_restricted_and_training_pairs_for_excluded(self, operation: str, p: int):
        snapshot = random_snapshot(operation, p)
        assert restricted_loss(snapshot, (2,)) == restricted_loss(snapshot, (2,), subset="all")
        assert excluded_loss(snapshot, (2,)) == excluded_loss(snapshot, (2,), subset="train")

    @operations
    def test_with_all_frequencies_restricted_logits_are_the_sum_class_averages(self, operation: str, p: int):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        averaged = np.zeros_like(reference.logits)
        for i, s in enumerate(reference.sums):
            averaged[i] = np.mean([reference.logits[j] for j, t in enumerate(reference.sums) if t == s], axis=0)
        every = range(1, reference.order // 2 + 1)
        for subset, mask in reference.masks.items():
            expected = reference.loss(averaged, mask)
            assert restricted_loss(snapshot, every, subset=subset) == pytest.approx(expected, rel=1e-11)

    @operations
    def test_cross_fitted_losses_are_what_least_squares_on_held_out_pairs_gives(self, operation: str, p: int):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        keys = reference.keys()[-2:]
        columns = [np.ones(len(reference.sums))]
        for k in keys:
            columns.append(np.cos(2 * np.pi * k * reference.sums / reference.order))
            if 2 * k != reference.order:
                columns.append(np.sin(2 * np.pi * k * reference.sums / reference.order))
        design = np.stack(columns, axis=1)
        coefficients = np.linalg.lstsq(design[reference.held_out], reference.logits[reference.held_out])[0]
        train = reference.masks["train"]
        restricted = reference.loss(design @ coefficients, train)
        excluded = reference.loss(reference.logits - design[:, 1:] @ coefficients[1:], train)
        assert restricted_loss_novel(snapshot, keys) == pytest.approx(restricted, rel=1e-10)
        assert excluded_loss_novel(snapshot, keys) == pytest.approx(excluded, rel=1e-10)

    @pytest.mark.parametrize(("diagonal", "mirrored", "enough"), [(10, 5, True), (11, 4, False)])
    @pytest.mark.parametrize("function", [restricted_loss_novel, excluded_loss_novel])
    def test_cross_fitting_needs_four_held_out_pairs_a_coefficient(
        self, function, diagonal: int, mirrored: int, enough: bool
    ):
        task = with_novel_pairs(11, diagonal, mirrored)
        value = function(Snapshot.from_logits(task, normal(121, 11)), (1, 4))
        assert math.isfinite(value) == enough
        if not enough:
            assert value.reason == "19 held-out pairs are too few to fit 5 coefficients"

    def test_repeated_and_unordered_frequencies_count_once(self):
        snapshot = random_snapshot("add", 11)
        assert restricted_loss(snapshot, [5, 2, 2, 5]) == restricted_loss(snapshot, KeyFrequencies((2, 5)))
        assert excluded_loss(snapshot, 3) == excluded_loss(snapshot, (3,))


class TestFromLogits:
    @operations
    def test_equal_the_forms_on_snapshots(self, operation: str, p: int):
        snapshot = random_snapshot(operation, p)
        task = snapshot.task
        inside = task.sum_class >= 0
        logits, labels, sums = snapshot.logits[inside], task.labels[inside], task.sum_class[inside]
        train = task.train_mask[inside]
        for keys in ((2,), (1, 4, 5)):
            assert restricted_loss_from_logits(logits, labels, sums, keys).item() == pytest.approx(
                restricted_loss(snapshot, keys), rel=1e-13
            )
            assert restricted_loss_from_logits(logits, labels, sums, keys, train).item() == pytest.approx(
                restricted_loss(snapshot, keys, subset="train"), rel=1e-13
            )
            assert excluded_loss_from_logits(logits, labels, sums, keys).item() == pytest.approx(
                excluded_loss(snapshot, keys, subset="all"), rel=1e-13
            )
            assert excluded_loss_from_logits(logits, labels, sums, keys, train).item() == pytest.approx(
                excluded_loss(snapshot, keys), rel=1e-13
            )

    def test_of_loss_and_margin_equal_the_forms_on_snapshots(self):
        snapshot = random_snapshot("add", 11)
        labels = snapshot.task.labels
        assert cross_entropy_from_logits(snapshot.logits, labels).item() == loss(snapshot)
        assert margin_from_logits(snapshot.logits, labels).item() == margin(snapshot)

    @pytest.mark.parametrize("p", [11, 12])
    def test_gradients_agree_with_finite_differences(self, p: int):
        task = Task.modular_addition(p, 0.4)
        labels, sums, train = task.labels, task.sum_class, task.train_mask
        keys = (1, p // 2)
        functions = [
            lambda x: restricted_loss_from_logits(x, labels, sums, keys),
            lambda x: restricted_loss_from_logits(x, labels, sums, keys, train),
            lambda x: excluded_loss_from_logits(x, labels, sums, keys),
            lambda x: excluded_loss_from_logits(x, labels, sums, keys, train),
            lambda x: cross_entropy_from_logits(x, labels),
            lambda x: margin_from_logits(x, labels),
        ]
        trained = int(train.nonzero()[0])
        entry = (trained, int(labels[trained]))
        for function in functions:
            logits = normal(p * p, p).requires_grad_()
            (gradient,) = torch.autograd.grad(function(logits), logits)
            step = torch.zeros(p * p, p, dtype=torch.float64)
            step[entry] = 1e-4
            difference = (function(logits + step) - function(logits - step)).item() / 2e-4
            assert gradient[entry].item() == pytest.approx(difference, rel=1e-6)
            assert abs(difference) > 1e-5


class TestLossesAndMargins:
    """Nine pairs mod 3; every pair is answered right with 2 but (0, 0), which has 5 on class 1."""

    @pytest.fixture
    def snapshot(self) -> Snapshot:
        logits = torch.zeros(3, 3, 3)
        for a, b in itertools.product(range(3), repeat=2):
            logits[a, b, (a + b) % 3] = 2.0
        logits[0, 0] = torch.tensor([0.0, 5.0, 0.0])
        return Snapshot.from_logits(Task.modular_addition(3, train_indices=[0, 1, 2, 3]), logits)

    def test_accuracy(self, snapshot: Snapshot):
        found = [accuracy(snapshot, subset=s) for s in ("all", "train", "test", "mirror", "novel")]
        assert found == [8 / 9, 3 / 4, 1.0, 1.0, 1.0]

    def test_margin(self, snapshot: Snapshot):
        found = [margin(snapshot, subset=s) for s in ("all", "train", "test", "mirror", "novel")]
        assert found == pytest.approx([(8 * 2 - 2.5) / 9, (3 * 2 - 2.5) / 4, 2.0, 2.0, 2.0], rel=1e-15)

    def test_loss(self, snapshot: Snapshot):
        right = math.log(math.exp(2) + 2) - 2
        wrong = math.log(math.exp(5) + 2)
        expected = [(8 * right + wrong) / 9, (3 * right + wrong) / 4, right]
        assert [loss(snapshot, subset=s) for s in ("all", "train", "test")] == pytest.approx(expected, rel=1e-14)

    def test_mirrored_and_novel_pairs(self, snapshot: Snapshot):
        assert snapshot.mask("mirror").nonzero().flatten().tolist() == [6]
        assert snapshot.mask("novel").nonzero().flatten().tolist() == [4, 5, 7, 8]

    def test_loss_far_below_the_resolution_of_single_precision(self):
        logits = torch.zeros(3, 3, 3)
        for a, b in itertools.product(range(3), repeat=2):
            logits[a, b, (a + b) % 3] = 30.0
        value = loss(Snapshot.from_logits(Task.modular_addition(3), logits))
        assert value == pytest.approx(2 * math.exp(-30), rel=1e-3)

    @pytest.mark.parametrize("function", [loss, accuracy, margin])
    def test_of_a_subset_without_pairs_are_undefined_with_a_reason(self, function):
        everything_but_one = [i for i in range(9) if i != 4]
        task = Task.modular_addition(3, train_indices=everything_but_one)
        value = function(Snapshot.from_logits(task, normal(9, 3)), subset="mirror")
        assert isinstance(value, Undefined)
        assert value.reason == "no mirror pairs"


class TestCosines:
    @pytest.mark.parametrize("p", [11, 12])
    def test_coefficients_and_similarities_are_projections_on_the_cube(self, p: int):
        snapshot = Snapshot.from_logits(Task.modular_addition(p), normal(p * p, p))
        logits = snapshot.logits.numpy().reshape(p, p, p)
        centred = logits - logits.mean(axis=2, keepdims=True)
        coefficients, similarities = cosine_coefficients(snapshot), cosine_similarities(snapshot)
        for k in range(1, p // 2 + 1):
            cube = cosine_cube(p, {k: 1.0}).numpy()
            along = (logits * cube).sum()
            assert coefficients[k - 1].item() == pytest.approx(along / (cube**2).sum(), rel=1e-10)
            cosine = along / (np.linalg.norm(centred) * np.linalg.norm(cube))
            assert similarities[k - 1].item() == pytest.approx(cosine, rel=1e-10)

    def test_coefficients_in_the_scale_of_nanda_et_al(self):
        p = 11
        snapshot = Snapshot.from_logits(Task.modular_addition(p), normal(p * p, p))
        logits = snapshot.logits.numpy().reshape(p, p, p)
        for k in range(1, p // 2 + 1):
            q = cosine_cube(p, {k: 1.0}).numpy()
            q = q / np.linalg.norm(q)
            beta = cosine_coefficients(snapshot)[k - 1].item()
            assert beta * p * math.sqrt(p / 2) == pytest.approx((logits * q).sum(), rel=1e-10)

    @operations
    def test_variance_explained_is_what_explicit_projection_gives(self, operation: str, p: int):
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        inside = reference.sums >= 0
        spread = reference.logits[inside] - reference.mean()
        for keys in ((2,), reference.keys()):
            centred = np.where(inside[:, None], reference.logits - reference.mean(), 0.0)
            expected = (reference.part(centred, keys) ** 2).sum() / (spread**2).sum()
            assert logit_variance_explained(snapshot, keys) == pytest.approx(expected, rel=1e-11)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e5])
    def test_variance_explained_of_constant_logits_is_undefined(self, value: float):
        logits = torch.full((961, 31), value, dtype=torch.float64)
        snapshot = Snapshot.from_logits(Task.modular_addition(31), logits)
        explained = logit_variance_explained(snapshot, (3,))
        assert isinstance(explained, Undefined)
        assert explained.reason == "constant logits"


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
        found = neuron_frequencies(snapshot)
        for n in range(6):
            grid = neurons[:, n].numpy().reshape(p, p)
            grid = grid - grid.mean()
            if n in (2, 4):
                assert (found.frequency[n].item(), found.explained[n].item()) == (0, 0.0)
                continue
            shares = []
            for k in range(1, p // 2 + 1):
                products = itertools.product(self.waves(p, k), repeat=2)
                shares.append(sum((u @ grid @ v) ** 2 for u, v in products) / (grid**2).sum())
            assert found.frequency[n].item() == 1 + int(np.argmax(shares))
            assert found.explained[n].item() == pytest.approx(max(shares), rel=1e-10)

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


class TestSpectra:
    @pytest.mark.parametrize("n", [2, 7, 113])
    def test_gini_is_half_the_relative_mean_absolute_difference(self, n: int):
        x = normal(n).abs()
        differences = sum(abs(s - t) for s in x.tolist() for t in x.tolist())
        assert gini(x) == pytest.approx(differences / (2 * n * n * x.mean().item()), rel=1e-12)

    def test_gini_of_nothing_is_undefined(self):
        value = gini(torch.zeros(5))
        assert isinstance(value, Undefined)
        assert value.reason == "all components are zero"

    @staticmethod
    def norms(table: np.ndarray) -> list[float]:
        """Norms of the components const, cos 1, sin 1, ...; the sine of the Nyquist frequency does not exist."""
        n, x = len(table), np.arange(len(table))
        rows = [np.ones(n)]
        for k in range(1, n // 2 + 1):
            rows += [np.cos(2 * np.pi * k * x / n)] + ([] if 2 * k == n else [np.sin(2 * np.pi * k * x / n)])
        return [float(np.linalg.norm(row @ table / np.linalg.norm(row))) for row in rows]

    @pytest.mark.parametrize("p", [11, 12])
    def test_of_embedding_and_neuron_logit_map(self, p: int):
        task = Task.modular_addition(p)
        embedding, readout = normal(p + 1, 5), normal(6, p, seed=1)
        snapshot = Snapshot(
            task,
            normal(p * p, p),
            weights={"embed.W_E": embedding},
            activity=lambda: Activity(normal(p * p, 6), readout),
        )
        for table, power, coefficient in (
            (embedding[:p].numpy(), embedding_power, gini_embedding),
            (readout.T.numpy(), neuron_logit_power, gini_neuron_logit),
        ):
            norms = self.norms(table)
            assert len(norms) == p
            expected = [sum(x**2 for x in norms[2 * k - 1 : 2 * k + 1]) for k in range(1, p // 2 + 1)]
            assert power(snapshot).tolist() == pytest.approx(expected, rel=1e-11)
            assert coefficient(snapshot) == pytest.approx(gini(torch.tensor(norms, dtype=torch.float64)), rel=1e-11)
            squares = torch.tensor(norms, dtype=torch.float64).square()
            assert coefficient(snapshot, power=True) == pytest.approx(gini(squares), rel=1e-11)

    def test_of_the_rules_that_read_them(self):
        p, task = 31, Task.modular_addition(31)
        angle = 2 * math.pi * torch.arange(p, dtype=torch.float64) / p
        embedding = torch.stack([4.0 * (3 * angle).cos(), 1.1 * (5 * angle).sin(), 0.9 * (8 * angle).cos()], dim=1)
        readout = torch.stack([(3 * angle).cos(), 0.24 * (5 * angle).sin(), 0.21 * (8 * angle).cos()])
        snapshot = Snapshot(
            task,
            normal(p * p, p),
            weights={"embed.W_E": torch.cat([embedding, torch.full((1, 3), 9.0)])},
            activity=lambda: Activity(normal(p * p, 3), readout),
        )
        assert key_frequencies(snapshot, rule="embedding_norm").values == (3, 5)
        assert key_frequencies(snapshot, rule="unembedding_power").values == (3, 5)

    def test_of_two_tables_and_of_one_hot_inputs_stand_side_by_side(self):
        p = 11
        task = Task.modular_addition(p, equals_token=False)
        left, right = normal(p, 4), normal(p, 4, seed=1)
        expected = self.norms(torch.cat([left, right], dim=1).numpy())
        for weights in (
            {"embed_a.W_E": left, "embed_b.W_E": right},
            {"layers.0.W": torch.cat([left, right])},
        ):
            snapshot = Snapshot.from_logits(task, normal(p * p, p), weights=weights)
            assert gini_embedding(snapshot) == pytest.approx(
                gini(torch.tensor(expected, dtype=torch.float64)), rel=1e-11
            )

    @pytest.mark.parametrize("operation", ["multiply_nonzero", "divide"])
    def test_of_a_product_are_taken_in_the_order_of_logarithms(self, operation: str):
        p = 11
        snapshot = random_snapshot(operation, p)
        reference = Reference(snapshot)
        embedding = normal(p + 1, 5)
        by_logarithm = np.zeros((p - 1, 5))
        readout = np.zeros((p - 1, 7))
        for x in range(1, p):
            by_logarithm[reference.logarithm(x)] = embedding[x].numpy()
            readout[reference.logarithm(x)] = snapshot.neuron_logit_map[:, x].numpy()
        snapshot = replace(snapshot, weights={"embed.W_E": embedding})
        for table, coefficient in ((by_logarithm, gini_embedding), (readout, gini_neuron_logit)):
            expected = gini(torch.tensor(self.norms(table), dtype=torch.float64))
            assert coefficient(snapshot) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("weights", "trained"),
    [({}, None), ({"embed.W_E": torch.ones(2, 3)}, ()), ({"embed.W_E": torch.ones(0, 3)}, None)],
    ids=["none", "all frozen", "empty"],
)
def test_the_mean_over_no_weights_is_missing(weights, trained):
    snapshot = Snapshot(Task.modular_addition(3), torch.zeros(9, 3).double(), weights=weights, trained=trained)
    with pytest.raises(MissingNeedError, match="no parameter of the model is trained"):
        weight_rms(snapshot)
    assert group_rms(snapshot) == {}


def test_norms_are_of_trained_parameters_and_by_part():
    weights = {
        "embed.W_E": torch.full((2, 3), 2.0),
        "blocks.0.attn.W_Q": torch.full((1, 1, 4), 3.0),
        "blocks.0.attn.b_Q": torch.full((4,), 100.0),
        "blocks.0.mlp.W_in": torch.full((5,), 1.0),
        "layers.1.W": torch.full((2,), 6.0),
    }
    trained = tuple(name for name in weights if name != "blocks.0.attn.b_Q")
    snapshot = Snapshot(Task.modular_addition(3), torch.zeros(9, 3).double(), weights=weights, trained=trained)
    squares = 6 * 4.0 + 4 * 9.0 + 5 * 1.0 + 2 * 36.0
    assert sum_of_squares(snapshot) == squares
    assert weight_norm(snapshot) == pytest.approx(math.sqrt(squares), rel=1e-15)
    assert weight_rms(snapshot) == pytest.approx(math.sqrt(squares / 17), rel=1e-15)
    assert group_norms(snapshot) == pytest.approx(
        {"embed": 24**0.5, "blocks.0.attn": 6.0, "blocks.0.mlp": 5**0.5, "layers.1": 72**0.5}, rel=1e-15
    )
    assert group_rms(snapshot) == pytest.approx(
        {"embed": 2.0, "blocks.0.attn": 3.0, "blocks.0.mlp": 1.0, "layers.1": 6.0}, rel=1e-15
    )


CIRCUITS = [("relu", 1, 2), ("relu", 2, 3), ("quadratic", 1, 3)]


def circuit_weights(task: Task, activation: str, depth: int) -> dict[str, Tensor]:
    """A bias-free MLP on one-hot inputs: units that add by trigonometry, and one unit for each training pair."""
    p, x = task.p, torch.arange(task.p, dtype=torch.float64)
    first, last = [], []
    for k, j in itertools.product((1, 3, 4), range(16)):
        angle, phase = 2 * math.pi * k * x / p, 2 * math.pi * j / 16
        first.append(torch.cat([(angle + phase).cos(), (angle + phase).cos()]))
        last.append(0.2 * (angle + 2 * phase).cos())
    for i in task.train_mask.nonzero().flatten().tolist():
        a, b = task.inputs[i].tolist()
        both = torch.zeros(2 * p, dtype=torch.float64) if activation == "quadratic" else torch.full((2 * p,), -0.5)
        both[a] += 1
        both[p + b] += 1
        answer = torch.zeros(p, dtype=torch.float64)
        answer[task.labels[i]] = 1.0
        first.append(both.double())
        last.append(answer)
    weights = {"layers.0.W": torch.stack(first, dim=1), "unembed.W_U": torch.stack(last)}
    if depth == 2:
        weights["layers.1.W"] = torch.eye(len(last), dtype=torch.float64)
    return weights


class TestCircuitEfficiency:
    @pytest.mark.parametrize("p", [31, 53])
    def test_nothing_of_a_memorizers_margin_survives(self, p: int):
        for seed in range(10):
            snapshot = memorizer(p, 0.3, seed)
            n_novel = int(snapshot.task.novel_mask.sum())
            found = circuit_efficiency(snapshot)
            # The margin of standard normal logits has variance 1 + 1 / (p - 1).
            error = math.sqrt((1 + 1 / (p - 1)) / n_novel) / found.margin_train
            assert found.margin_train == pytest.approx(10, abs=0.5)
            assert abs(found.generalized_margin_share) < 3 * error
            if found.margin_gen <= 0:
                assert found.circuit_efficiency_ratio.reason == found.reason == "no margin on unseen pairs"
            else:
                assert found.circuit_efficiency_ratio < 4 * error

    @pytest.mark.parametrize(("activation", "depth", "degree"), CIRCUITS)
    @pytest.mark.parametrize("scale", [0.5, 1.7])
    def test_scaling_all_weights_leaves_the_ratio_and_scales_the_efficiencies(
        self, activation: str, depth: int, degree: int, scale: float
    ):
        task = Task.modular_addition(13, 0.4, equals_token=False)
        weights = circuit_weights(task, activation, depth)
        config = MLPConfig(
            input="one_hot", depth=depth, width=len(weights["unembed.W_U"]), activation=activation, biases=False
        )
        forward = partial(mlp, config=config)
        one = circuit_efficiency(Snapshot.from_activations(task, forward, weights))
        other = circuit_efficiency(
            Snapshot.from_activations(task, forward, {name: scale * w for name, w in weights.items()})
        )
        assert one.reason == other.reason == ""
        assert 0.1 < one.generalized_margin_share < 0.9
        assert other.circuit_efficiency_ratio == pytest.approx(one.circuit_efficiency_ratio, rel=1e-10)
        assert other.generalized_margin_share == pytest.approx(one.generalized_margin_share, rel=1e-10)
        factor = scale ** (degree - 2)
        assert other.efficiency_gen == pytest.approx(factor * one.efficiency_gen, rel=1e-10)
        assert other.efficiency_mem == pytest.approx(factor * one.efficiency_mem, rel=1e-10)

    @pytest.mark.parametrize("operation", ["add", "subtract"])
    def test_is_margins_over_the_sum_of_squares(self, operation: str):
        p = 31
        task = Task.of(operation, p, 0.3)
        logits = normal(p * p, p)
        hit = torch.arange(p * p), task.labels
        logits[hit] += 4.0
        logits[task.train_mask.nonzero().flatten(), task.labels[task.train_mask]] += 7.0
        weights = {"embed.W_E": normal(p, 4), "unembed.W_U": normal(4, p), "unembed.b_U": torch.full((p,), 50.0)}
        trained = ("embed.W_E", "unembed.W_U")
        found = circuit_efficiency(Snapshot(task, logits, weights=weights, trained=trained))
        reference = Reference(Snapshot(task, logits))

        def mean_margin(mask: np.ndarray) -> float:
            rows = [(reference.logits[i], reference.labels[i]) for i in np.flatnonzero(mask)]
            return float(np.mean([row[y] - np.delete(row, y).mean() for row, y in rows]))

        o_train, o_gen = mean_margin(reference.masks["train"]), mean_margin(reference.held_out)
        squares = float((weights["embed.W_E"] ** 2).sum() + (weights["unembed.W_U"] ** 2).sum())
        assert found.margin_train == pytest.approx(o_train, rel=1e-12)
        assert found.margin_gen == pytest.approx(o_gen, rel=1e-12)
        assert found.margin_mem == pytest.approx(o_train - o_gen, rel=1e-12)
        assert found.sum_of_squares == pytest.approx(squares, rel=1e-12)
        assert found.efficiency_gen == pytest.approx(o_gen / squares, rel=1e-12)
        assert found.efficiency_mem == pytest.approx((o_train - o_gen) / squares, rel=1e-12)
        assert found.circuit_efficiency_ratio == pytest.approx(o_gen / (o_train - o_gen), rel=1e-12)
        assert found.generalized_margin_share == pytest.approx(o_gen / o_train, rel=1e-12)
        assert found.reason == ""

    @pytest.mark.parametrize("p", [30, 31])
    def test_ratio_from_keys_splits_the_margin_by_cosines(self, p: int):
        amplitudes = {4: 3.0, p // 2: 2.0}
        task = Task.modular_addition(p, 0.3)
        logits = cosine_cube(p, amplitudes).reshape(p * p, p)
        logits[task.train_mask.nonzero().flatten(), task.labels[task.train_mask]] += 7.0
        o_gen = p / (p - 1) * 5.0
        centred = logits - logits.mean(dim=1, keepdim=True)
        centred = centred - centred.mean(dim=0)
        rows = [(centred[i].tolist(), int(task.labels[i])) for i in task.train_mask.nonzero().flatten().tolist()]
        o_mem = sum(row[y] - (sum(row) - row[y]) / (p - 1) for row, y in rows) / len(rows) - o_gen
        found = circuit_efficiency(Snapshot.from_logits(task, logits), tuple(amplitudes))
        assert found.ratio_from_keys == pytest.approx(o_gen / o_mem, rel=1e-10)

    def test_without_weights_margins_remain_and_efficiencies_say_why_not(self):
        task = Task.modular_addition(31, 0.3)
        logits = 5 * torch.nn.functional.one_hot(task.labels, 31).double()
        logits[task.train_mask] *= 2
        found = circuit_efficiency(Snapshot.from_logits(task, logits))
        assert found.circuit_efficiency_ratio == pytest.approx(1.0, rel=1e-12)
        for value in (found.sum_of_squares, found.efficiency_gen, found.efficiency_mem):
            assert isinstance(value, Undefined)
            assert value.reason == "the snapshot has no weights"

    def test_reasons(self):
        p, task = 31, Task.modular_addition(31, 0.3)
        right = torch.nn.functional.one_hot(task.labels, p).double()
        not_finite = 5 * right
        not_finite[0, 0] = math.nan
        trained_only = 5 * right
        trained_only[~task.train_mask] *= -1
        few = Task.modular_addition(p, 0.97)
        for logits, of, reason in (
            (normal(p * p, p), task, "training set not fitted"),
            (not_finite, task, "the logits are not finite"),
            (trained_only, task, "no margin on unseen pairs"),
            (5 * right, task, "memorized margin exhausted"),
            (5 * right, few, f"{int(few.novel_mask.sum())} held-out pairs are fewer than p = 31"),
        ):
            found = circuit_efficiency(Snapshot.from_logits(of, logits))
            assert math.isnan(found.circuit_efficiency_ratio)
            assert found.circuit_efficiency_ratio.reason == found.reason == reason

    def test_as_many_novel_pairs_as_p_are_enough(self):
        for diagonal, mirrored, reason in ((9, 1, ""), (10, 0, "10 held-out pairs are fewer than p = 11")):
            task = with_novel_pairs(11, diagonal, mirrored)
            logits = 5 * torch.nn.functional.one_hot(task.labels, 11).double()
            logits[task.train_mask] *= 2
            assert circuit_efficiency(Snapshot.from_logits(task, logits)).reason == reason

    def test_accuracy_of_nineteen_in_twenty_counts_as_fitted(self):
        train = list(range(0, 400))
        task = Task.modular_addition(31, train_indices=train)
        for wrong, fitted in ((20, True), (21, False)):
            logits = 5 * torch.nn.functional.one_hot(task.labels, 31).double()
            logits[task.train_mask] *= 2
            logits[:wrong] *= -0.01
            found = circuit_efficiency(Snapshot.from_logits(task, logits))
            assert found.reason == ("" if fitted else "training set not fitted")

    def test_the_memorized_margin_is_exhausted_below_a_fiftieth(self):
        task = Task.modular_addition(31, 0.3)
        for share, reason in ((0.981, "memorized margin exhausted"), (0.979, "")):
            logits = 5 * torch.nn.functional.one_hot(task.labels, 31).double()
            logits[~task.train_mask] *= share
            found = circuit_efficiency(Snapshot.from_logits(task, logits))
            assert found.generalized_margin_share == pytest.approx(share, rel=1e-12)
            assert found.reason == reason


class TestMissingNeeds:
    TASK = Task.modular_addition(11)
    NO_GROUP = Task.of("x^3+xy", 11, 0.4)

    @pytest.mark.parametrize(
        ("need", "call"),
        [
            ("grid", lambda s, g: restricted_loss(g, (2,))),
            ("grid", lambda s, g: excluded_loss(g, (2,))),
            ("grid", lambda s, g: excluded_loss_per_frequency(g)),
            ("grid", lambda s, g: restricted_loss_novel(g, (2,))),
            ("grid", lambda s, g: cosine_coefficients(g)),
            ("grid", lambda s, g: key_frequencies(g)),
            ("split", lambda s, g: loss(s, subset="train")),
            ("split", lambda s, g: accuracy(s, subset="novel")),
            ("split", lambda s, g: margin(g, subset="mirror")),
            ("split", lambda s, g: excluded_loss(s, (2,))),
            ("split", lambda s, g: restricted_loss_novel(s, (2,))),
            ("split", lambda s, g: excluded_loss_novel(s, (2,))),
            ("split", lambda s, g: circuit_efficiency(s)),
            ("weights", lambda s, g: sum_of_squares(s)),
            ("weights", lambda s, g: weight_rms(s)),
            ("weights", lambda s, g: group_norms(s)),
            ("weights", lambda s, g: gini_embedding(s)),
            ("weights", lambda s, g: key_frequencies(s, rule="embedding_norm")),
            ("neurons", lambda s, g: neuron_frequencies(s)),
            ("neurons", lambda s, g: neuron_logit_power(s)),
            ("neurons", lambda s, g: key_frequencies(s, rule="neuron_clusters")),
            ("neurons", lambda s, g: key_frequencies(s, rule="unembedding_power")),
            ("neurons", lambda s, g: restricted_loss(s, (2,), level="neuron")),
        ],
    )
    def test_are_named(self, need: str, call):
        snapshot = Snapshot.from_logits(self.TASK, normal(121, 11))
        without_group = Snapshot.from_logits(self.NO_GROUP, normal(121, 11))
        with pytest.raises(MissingNeedError, match=f" needs {need}: ") as caught:
            call(snapshot, without_group)
        assert caught.value.need == need
        assert caught.value.reason

    def test_weights_without_an_embedding(self):
        snapshot = Snapshot.from_logits(self.TASK, normal(121, 11), weights={"head.weight": torch.ones(3)})
        with pytest.raises(MissingNeedError, match=r"no parameter named embed\.W_E, embed_a"):
            gini_embedding(snapshot)

    def test_circuit_efficiency_needs_no_group(self):
        found = circuit_efficiency(Snapshot.from_logits(self.NO_GROUP, normal(121, 11)))
        assert found.reason == "training set not fitted"


class TestErrors:
    @pytest.mark.parametrize("shape", [(24, 5), (5, 25), (25, 4), (5, 5), (5, 5, 4), (4, 5, 5), (125,)])
    def test_logits_of_a_wrong_shape(self, shape: tuple[int, ...]):
        with pytest.raises(ConfigError) as caught:
            Snapshot.from_logits(Task.modular_addition(5), torch.zeros(shape))
        assert str(caught.value) == (
            "logits of add mod 5 must be floating point, of shape [25, 5] or [5, 5, 5] (extra classes are dropped), "
            f"but are torch.float32 of shape {list(shape)}"
        )

    def test_logits_of_a_task_that_is_no_square(self):
        with pytest.raises(ConfigError, match=r"logits of divide mod 5 .* of shape \[20, 5\] \(extra classes"):
            Snapshot.from_logits(Task.of("divide", 5), torch.zeros(5, 5, 5))

    def test_logits_of_whole_numbers(self):
        with pytest.raises(ConfigError, match=r"must be floating point.*but are torch\.int64 of shape \[25, 5\]"):
            Snapshot.from_logits(Task.modular_addition(5), torch.zeros(25, 5, dtype=torch.int64))

    def test_the_class_of_equals_is_dropped(self):
        task, logits = Task.modular_addition(5), normal(25, 6)
        for given in (logits, logits.reshape(5, 5, 6)):
            assert torch.equal(Snapshot.from_logits(task, given).logits, logits[:, :5])
        positions = torch.stack([normal(25, 6, seed=1), logits], dim=1)
        assert torch.equal(Snapshot.from_model(task, lambda tokens: positions).logits, logits[:, :5])

    @pytest.mark.parametrize(
        ("operation", "p", "order", "wrong"),
        [("add", 31, 31, 16), ("add", 31, 31, 0), ("add", 30, 30, 16), ("divide", 11, 10, 6), ("add", 31, 31, -3)],
    )
    def test_frequencies_out_of_range(self, operation: str, p: int, order: int, wrong: int):
        snapshot = random_snapshot(operation, p)
        for function in (restricted_loss, excluded_loss, excluded_loss_novel, logit_variance_explained):
            with pytest.raises(ConfigError) as caught:
                function(snapshot, (2, wrong))
            assert str(caught.value) == f"frequencies of Z_{order} lie in 1 .. {order // 2}; given: [{wrong}]"

    def test_unknown_rule_and_subset_give_the_nearest_name(self):
        snapshot = random_snapshot("add", 11)
        with pytest.raises(ConfigError, match="rule 'cube_cosin' is not known: did you mean 'cube_cosine'"):
            inspect.unwrap(key_frequencies)(snapshot, "cube_cosin")
        with pytest.raises(ConfigError, match="subset 'trian': did you mean 'train'"):
            inspect.unwrap(Snapshot.mask)(snapshot, "trian")

    def test_undefined_is_a_nan_with_a_reason(self):
        value = Undefined("because")
        assert math.isnan(value)
        assert isinstance(value, float)
        assert value.reason == "because"


@pytest.fixture
def own_register(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "_REGISTER", dict(base._REGISTER))


@pytest.mark.usefixtures("own_register")
class TestRegister:
    def test_a_measure_is_found_by_name_and_by_function(self):
        @measure("largest_weight", needs=("weights",), version=3)
        def largest(snapshot: Snapshot) -> float:
            """The largest weight.

            Of all.
            """
            return max(w.max().item() for w in snapshot.weights.values())

        found = find_measure("largest_weight")
        assert found == registered()["largest_weight"] == find_measure(largest)
        assert (found.needs, found.version, found.uses_reference) == (("weights",), 3, False)
        assert [(c.name, c.definition) for c in found.columns] == [("largest_weight", "The largest weight.")]
        task, logits = Task.modular_addition(5), normal(25, 5)
        weights = {"embed.W_E": torch.tensor([1.0, 4.0])}
        assert found.function(Snapshot.from_logits(task, logits, weights=weights)) == 4.0
        with pytest.raises(MissingNeedError, match="largest_weight needs weights: the snapshot was made without"):
            largest(Snapshot.from_logits(task, logits))

    def test_a_function_elsewhere_is_found_by_module_and_name(self, tmp_path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "strangers_measures.py").write_text(
            "def spread(snapshot):\n"
            "    '''Largest minus smallest logit.'''\n"
            "    return (snapshot.logits.max() - snapshot.logits.min()).item()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        found = find_measure("strangers_measures:spread")
        assert (found.name, found.needs) == ("spread", ("logits",))
        logits = torch.zeros(25, 5)
        logits[3, 2] = 7.0
        assert found.function(Snapshot.from_logits(Task.modular_addition(5), logits)) == 7.0

    @pytest.mark.parametrize("what", ["no_such_module:spread", "grokinterp.measures:no_such_function"])
    def test_what_cannot_be_imported_says_how_to_name_it(self, what: str):
        with pytest.raises(ConfigError, match=rf"measure '{what}' cannot be imported: .*; give package\.module:func"):
            find_measure(what)

    @pytest.mark.parametrize(
        ("typo", "meant"), [("restricted_los", "restricted_loss"), ("gini_embeding", "gini_embedding")]
    )
    def test_a_typo_gives_the_nearest_name(self, typo: str, meant: str):
        with pytest.raises(ConfigError, match=rf"measure '{typo}' is not known: did you mean '{meant}'\?"):
            find_measure(typo)

    def test_an_unknown_need_is_refused(self):
        with pytest.raises(ConfigError, match=r"measure 'm': unknown needs \['wieghts'\]; known: logits, grid"):
            measure("m", needs=("wieghts",))

    def test_each_measure_of_the_package_says_what_its_columns_mean(self):
        for found in registered().values():
            assert found.columns
            assert all(column.name and column.definition for column in found.columns)
            assert set(found.needs) <= set(base.NEEDS)
