"""Losses, cosines, spectra and norms against slow, explicit reference implementations."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from explicit_measures import Reference, cosine_cube, normal, operations, random_snapshot, with_novel_pairs

from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import (
    Activity,
    KeyFrequencies,
    Snapshot,
    Undefined,
    accuracy,
    cosine_coefficients,
    cosine_similarities,
    cross_entropy_from_logits,
    embedding_power,
    evaluation_pairs,
    excluded_loss,
    excluded_loss_from_logits,
    excluded_loss_novel,
    excluded_loss_per_frequency,
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
from grokinterp.tasks import Task


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


TASK = Task.modular_addition(5)
GOOD = {"logits": torch.zeros(25, 5), "labels": TASK.labels, "sums": TASK.sum_class, "mask": TASK.labels > 0}
WRONG_ARGUMENTS = [
    ("logits", torch.zeros(5, 5, 5), "logits must be floating point, of shape [n, c], but are torch.float32 of shape"),
    ("logits", torch.zeros(25, 5).long(), "logits must be floating point, of shape [n, c], but are torch.int64"),
    ("logits", np.zeros((25, 5)), "logits must be a tensor, but is ndarray"),
    ("logits", torch.zeros(24, 5), "labels must have shape [24], one entry per row of the logits, but is [25]"),
    ("logits", torch.zeros(25, 4), "labels must be integers in 0 .. 3, the 4 classes of the logits"),
    ("labels", TASK.labels[:, None], "labels must have shape [25], one entry per row of the logits, but is [25, 1]"),
    ("labels", TASK.labels.float(), "labels must be integers in 0 .. 4"),
    ("labels", TASK.labels - 1, "labels must be integers in 0 .. 4"),
    ("labels", TASK.labels.tolist(), "labels must be a tensor, but is list"),
    ("sums", None, "sums must be"),
    ("sums", TASK.sum_class[:5], "sums must have shape [25]"),
    ("sums", TASK.sum_class.double(), "sums must be task.sum_class"),
    ("mask", torch.ones(5, 5) > 0, "mask must have shape [25], one entry per row of the logits, but is [5, 5]"),
    ("mask", torch.ones(25), "mask must be boolean, but is torch.float32"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_ARGUMENTS)
def test_an_argument_that_does_not_fit_is_named(name, value, message, unchecked):
    arguments = {**GOOD, name: value}
    for function in (restricted_loss_from_logits, excluded_loss_from_logits):
        with pytest.raises(ConfigError, match="^" + re.escape(message)):
            function(**arguments, frequencies=1)
    if name in ("logits", "labels"):
        for function in (cross_entropy_from_logits, margin_from_logits):
            with pytest.raises(ConfigError, match="^" + re.escape(message)):
                function(arguments["logits"], arguments["labels"])


def test_measures_take_snapshots(unchecked):
    for name, entry in registered().items():
        with pytest.raises(ConfigError, match=rf"^{name} needs a Snapshot, but got Tensor: make one with"):
            entry.function(torch.zeros(25, 5))
    for function in (key_frequencies, evaluation_pairs, neuron_frequencies):
        with pytest.raises(ConfigError, match=rf"^{function.__name__} needs a Snapshot, but got Tensor"):
            function(torch.zeros(25, 5))


def test_snapshots_take_tasks_and_steps(unchecked):
    with pytest.raises(ConfigError, match=r"^task must be a Task.* but is 'add'"):
        Snapshot.from_logits("add", torch.zeros(25, 5))
    with pytest.raises(ConfigError, match=r"^task must be a Task.* but is 'add'"):
        Snapshot.from_model("add", lambda tokens: tokens)
    with pytest.raises(ConfigError, match=r"^step must be an integer, but is 1.5"):
        Snapshot.from_logits(TASK, torch.zeros(25, 5), step=1.5)


@pytest.mark.parametrize("shape", [(5,), (4, 8), (8, 0, 1)])
def test_an_embedding_of_another_shape_is_missing(shape):
    snapshot = Snapshot.from_logits(TASK, torch.zeros(25, 5), weights={"embed.W_E": torch.ones(shape)})
    for function in (gini_embedding, embedding_power):
        with pytest.raises(MissingNeedError, match=r"embed.W_E must have shape \[at least 5, d\].* but has shape \["):
            function(snapshot)


@pytest.mark.parametrize("x", ["abc", [1.0], torch.zeros(2, 2), torch.tensor([1.0, -1.0])])
def test_gini_is_of_non_negative_numbers(x, unchecked):
    with pytest.raises(ConfigError, match=r"^x must be a tensor of non-negative numbers, of shape \[n\]"):
        gini(x)


class TestLossesAndMargins:
    """Nine pairs mod 3; every pair is answered right with logit 2 except (0, 0), which has 5 on class 1."""

    @pytest.fixture
    def snapshot(self) -> Snapshot:
        logits = torch.zeros(3, 3, 3)
        for a, b in itertools.product(range(3), repeat=2):
            logits[a, b, (a + b) % 3] = 2.0
        logits[0, 0] = torch.tensor([0.0, 5.0, 0.0])
        return Snapshot.from_logits(Task.modular_addition(3, train_indices=[0, 1, 2, 3]), logits)

    def test_accuracy(self, snapshot: Snapshot):
        values = [accuracy(snapshot, subset=s) for s in ("all", "train", "test", "mirror", "novel")]
        assert values == [8 / 9, 3 / 4, 1.0, 1.0, 1.0]

    def test_margin(self, snapshot: Snapshot):
        values = [margin(snapshot, subset=s) for s in ("all", "train", "test", "mirror", "novel")]
        assert values == pytest.approx([(8 * 2 - 2.5) / 9, (3 * 2 - 2.5) / 4, 2.0, 2.0, 2.0], rel=1e-15)

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


def test_cross_fitted_losses_of_logits_that_are_not_finite_are_undefined():
    """The least-squares fit must not see them: it would fail."""
    task = Task.modular_addition(p=11, train_fraction=0.5)
    snapshot = Snapshot.from_logits(task, torch.full((121, 11), math.nan))
    for function in (restricted_loss_novel, excluded_loss_novel):
        value = function(snapshot, (1, 2))
        assert math.isnan(value)
        assert isinstance(value, Undefined)
        assert value.reason == "the logits are not finite"


@pytest.mark.parametrize(
    ("weights", "message"), [({}, "is empty"), ([1.0], "must be a dict"), ({"w": 1.0}, "must be a")]
)
def test_weights_that_are_none_are_refused(weights, message, unchecked):
    task = Task.modular_addition(5)
    with pytest.raises(ConfigError, match=rf"^weights(\['w'\])? {message}"):
        Snapshot.from_logits(task, torch.zeros(25, 5), weights=weights)
    with pytest.raises(ConfigError, match=rf"^weights(\['w'\])? {message}"):
        Snapshot.from_model(task, lambda tokens: torch.zeros(25, 5), weights=weights)
