"""The margin ratio and circuit efficiency: definitions, invariances, and the reasons for NaN."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from explicit_measures import Reference, cosine_cube, memorizer, normal, with_novel_pairs
from torch import Tensor

from grokinterp.config import MLPConfig
from grokinterp.measures import (
    Snapshot,
    Undefined,
    circuit_efficiency,
)
from grokinterp.models.mlp_forward import mlp
from grokinterp.tasks import Task

CIRCUITS = [("relu", 1, 2), ("relu", 2, 3), ("quadratic", 1, 3)]


def circuit_weights(task: Task, activation: str, depth: int) -> dict[str, Tensor]:
    """A bias-free MLP on one-hot inputs: trigonometric units that add, and one memorizing unit per training pair."""
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
    def test_a_memorizer_has_no_margin_on_unseen_pairs(self, p: int):
        for seed in range(10):
            snapshot = memorizer(p, 0.3, seed)
            n_novel = int(snapshot.task.novel_mask.sum())
            efficiency = circuit_efficiency(snapshot)
            # The margin of standard normal logits has variance 1 + 1 / (p - 1).
            error = math.sqrt((1 + 1 / (p - 1)) / n_novel) / efficiency.margin_train
            assert efficiency.margin_train == pytest.approx(10, abs=0.5)
            assert abs(efficiency.generalized_margin_share) < 3 * error
            if efficiency.margin_gen <= 0:
                assert efficiency.circuit_efficiency_ratio.reason == efficiency.reason == "no margin on unseen pairs"
            else:
                assert efficiency.circuit_efficiency_ratio < 4 * error

    @pytest.mark.parametrize(("activation", "depth", "degree"), CIRCUITS)
    @pytest.mark.parametrize("scale", [0.5, 1.7])
    def test_scaling_all_weights_keeps_the_ratio_and_scales_the_efficiencies(
        self, activation: str, depth: int, degree: int, scale: float
    ):
        task = Task.modular_addition(13, 0.4, equals_token=False)
        weights = circuit_weights(task, activation, depth)
        config = MLPConfig(
            input="one_hot", depth=depth, width=len(weights["unembed.W_U"]), activation=activation, biases=False
        )
        forward = partial(mlp, config=config)
        original = circuit_efficiency(Snapshot.from_activations(task, forward, weights))
        scaled = circuit_efficiency(
            Snapshot.from_activations(task, forward, {name: scale * w for name, w in weights.items()})
        )
        assert original.reason == scaled.reason == ""
        assert 0.1 < original.generalized_margin_share < 0.9
        assert scaled.circuit_efficiency_ratio == pytest.approx(original.circuit_efficiency_ratio, rel=1e-10)
        assert scaled.generalized_margin_share == pytest.approx(original.generalized_margin_share, rel=1e-10)
        factor = scale ** (degree - 2)
        assert scaled.efficiency_gen == pytest.approx(factor * original.efficiency_gen, rel=1e-10)
        assert scaled.efficiency_mem == pytest.approx(factor * original.efficiency_mem, rel=1e-10)

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
        efficiency = circuit_efficiency(Snapshot(task, logits, weights=weights, trained=trained))
        reference = Reference(Snapshot(task, logits))

        def mean_margin(mask: np.ndarray) -> float:
            rows = [(reference.logits[i], reference.labels[i]) for i in np.flatnonzero(mask)]
            return float(np.mean([row[y] - np.delete(row, y).mean() for row, y in rows]))

        o_train, o_gen = mean_margin(reference.masks["train"]), mean_margin(reference.held_out)
        squares = float((weights["embed.W_E"] ** 2).sum() + (weights["unembed.W_U"] ** 2).sum())
        assert efficiency.margin_train == pytest.approx(o_train, rel=1e-12)
        assert efficiency.margin_gen == pytest.approx(o_gen, rel=1e-12)
        assert efficiency.margin_mem == pytest.approx(o_train - o_gen, rel=1e-12)
        assert efficiency.sum_of_squares == pytest.approx(squares, rel=1e-12)
        assert efficiency.efficiency_gen == pytest.approx(o_gen / squares, rel=1e-12)
        assert efficiency.efficiency_mem == pytest.approx((o_train - o_gen) / squares, rel=1e-12)
        assert efficiency.circuit_efficiency_ratio == pytest.approx(o_gen / (o_train - o_gen), rel=1e-12)
        assert efficiency.generalized_margin_share == pytest.approx(o_gen / o_train, rel=1e-12)
        assert efficiency.reason == ""

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
        efficiency = circuit_efficiency(Snapshot.from_logits(task, logits), tuple(amplitudes))
        assert efficiency.ratio_from_keys == pytest.approx(o_gen / o_mem, rel=1e-10)

    def test_without_weights_margins_are_defined_and_efficiencies_have_a_reason(self):
        task = Task.modular_addition(31, 0.3)
        logits = 5 * torch.nn.functional.one_hot(task.labels, 31).double()
        logits[task.train_mask] *= 2
        efficiency = circuit_efficiency(Snapshot.from_logits(task, logits))
        assert efficiency.circuit_efficiency_ratio == pytest.approx(1.0, rel=1e-12)
        for value in (efficiency.sum_of_squares, efficiency.efficiency_gen, efficiency.efficiency_mem):
            assert isinstance(value, Undefined)
            assert value.reason == "the snapshot has no weights"

    def test_each_undefined_ratio_has_a_reason(self):
        p, task = 31, Task.modular_addition(31, 0.3)
        right = torch.nn.functional.one_hot(task.labels, p).double()
        not_finite = 5 * right
        not_finite[0, 0] = math.nan
        trained_only = 5 * right
        trained_only[~task.train_mask] *= -1
        few = Task.modular_addition(p, 0.97)
        for logits, its_task, reason in (
            (normal(p * p, p), task, "training set not fitted"),
            (not_finite, task, "the logits are not finite"),
            (trained_only, task, "no margin on unseen pairs"),
            (5 * right, task, "memorized margin exhausted"),
            (5 * right, few, f"{int(few.novel_mask.sum())} held-out pairs are fewer than p = 31"),
        ):
            efficiency = circuit_efficiency(Snapshot.from_logits(its_task, logits))
            assert math.isnan(efficiency.circuit_efficiency_ratio)
            assert efficiency.circuit_efficiency_ratio.reason == efficiency.reason == reason

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
            efficiency = circuit_efficiency(Snapshot.from_logits(task, logits))
            assert efficiency.reason == ("" if fitted else "training set not fitted")

    def test_the_memorized_margin_is_exhausted_below_a_fiftieth(self):
        task = Task.modular_addition(31, 0.3)
        for share, reason in ((0.981, "memorized margin exhausted"), (0.979, "")):
            logits = 5 * torch.nn.functional.one_hot(task.labels, 31).double()
            logits[~task.train_mask] *= share
            efficiency = circuit_efficiency(Snapshot.from_logits(task, logits))
            assert efficiency.generalized_margin_share == pytest.approx(share, rel=1e-12)
            assert efficiency.reason == reason


def test_efficiency_without_margin_on_unseen_pairs_is_undefined():
    task = Task.modular_addition(31, 0.3)
    logits = torch.zeros(961, 31).double()
    logits[torch.arange(961), task.labels] = torch.where(task.train_mask, 10.0, -1.0).double()
    snapshot = Snapshot.from_logits(task, logits, weights={"w": torch.ones(4)})
    found = circuit_efficiency(snapshot)
    assert found.margin_gen == pytest.approx(-1.0)
    assert math.isnan(found.efficiency_gen)
    assert found.efficiency_gen.reason == "no margin on unseen pairs"
    assert found.efficiency_mem == pytest.approx(11 / 4)
