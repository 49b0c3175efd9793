"""Attention as a function of the token, and linear probes: patterns and activations whose answer is known."""

import math

import pytest
import torch
from hand_built import KEYS, P, clock_weights, random_weights, snapshot_of, split_task

import grokinterp as gi
from grokinterp.config import TransformerConfig
from grokinterp.errors import ConfigError, MissingNeedError
from grokinterp.measures import Activity, Snapshot, attention_by_token, linear_probe
from grokinterp.models.initialization import initial_parameters
from grokinterp.tasks import Task


class TestAttention:
    def test_scores_written_by_hand(self):
        """Two heads whose scores are waves of one frequency each, and one that attends evenly."""
        task = Task.modular_addition(P, 0.5)
        a, b = task.inputs.double().T * 2 * math.pi / P
        scores = torch.stack(
            [
                torch.stack([0.8 * torch.cos(3 * a - 1), 0.8 * torch.cos(3 * b - 1), torch.zeros_like(a)], dim=1),
                torch.stack([0.1 * torch.sin(7 * a), 0.1 * torch.sin(7 * b), torch.zeros_like(a)], dim=1),
                torch.zeros(len(a), 3),
            ],
            dim=1,
        )
        activity = Activity(torch.zeros(P * P, 2), attention=scores.softmax(dim=2))
        found = attention_by_token(Snapshot(task, torch.zeros(P * P, P).double(), activity=lambda: activity))
        assert found.frequency.tolist() == [3, 7, 0]
        assert found.explained[:2].min() > 0.9
        assert found.explained[1] > 0.999  # small scores: softmax is linear
        assert found.one_token[:2].tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
        numbers = torch.arange(P).double() * 2 * math.pi / P
        torch.testing.assert_close(found.score[0], 0.8 * torch.cos(3 * numbers - 1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.pattern[0, 1, 4, 5], activity.attention[4 * P + 5, 0, 1])

    def test_a_single_layer_reads_one_token_at_a_time(self):
        config = TransformerConfig(n_heads=2, d_model=16, d_mlp=24)
        task = Task.modular_addition(P, 0.5)
        weights = {name: w.detach().double() * 4 for name, w in initial_parameters(config, task, 0).items()}
        found = attention_by_token(gi.snapshot(task, config, weights))
        assert found.one_token.tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
        W_E, W_pos = weights["embed.W_E"], weights["pos_embed.W_pos"]
        q = (W_E[P] + W_pos[2]) @ weights["blocks.0.attn.W_Q"][1]
        scores = (W_E[:P] + W_pos[0]) @ weights["blocks.0.attn.W_K"][1] @ q / math.sqrt(8)
        torch.testing.assert_close(found.score[1], scores - scores.mean(), rtol=1e-6, atol=1e-6)

    def test_without_attention(self):
        with pytest.raises(MissingNeedError, match="without attention"):
            attention_by_token(snapshot_of(clock_weights()))


class TestProbe:
    def test_the_circuit_written_by_hand(self):
        """Its neurons hold three frequencies of the sum, and not the others, so they tell most classes apart only."""
        probe = linear_probe(snapshot_of(clock_weights()))
        assert probe.accuracy > 10 / P
        assert probe.control < 3 / P
        keys = torch.zeros(P // 2, dtype=torch.bool)
        keys[[k - 1 for k in KEYS]] = True
        assert probe.explained[keys].min() > 0.99
        assert probe.explained[~keys].max() < 0.5
        assert probe.explained_control.max() < 0.2

    def test_all_waves_of_the_sum_hold_the_class(self):
        snapshot = snapshot_of(clock_weights())
        sums = snapshot.pair_grid.sums
        waves = torch.stack([2 * math.pi * k * sums.double() / P for k in range(1, 12)], dim=1)
        probe = linear_probe(snapshot, torch.cat([waves.cos(), waves.sin()], dim=1))
        assert probe.accuracy == 1.0
        assert probe.explained.min() > 0.99
        assert probe.control < 3 / P

    def test_ridge_regression_by_a_library(self):
        """The penalty as additional rows of a least-squares problem."""
        task = split_task()
        snapshot = snapshot_of(random_weights(30), task, activation="relu")
        neurons, train = snapshot.neurons.double(), task.train_mask
        x = neurons[train] - neurons[train].mean(dim=0)
        level = 0.2 * (x.T @ x).diagonal().mean()
        angle = 2 * math.pi * 4 * snapshot.pair_grid.sums.double() / P
        targets = torch.stack([angle.cos(), angle.sin()], dim=1)
        offset = targets[train].mean(dim=0)
        rows = torch.cat([x, level.sqrt() * torch.eye(30, dtype=torch.float64)])
        right = torch.cat([targets[train] - offset, torch.zeros(30, 2, dtype=torch.float64)])
        matrix = torch.linalg.lstsq(rows, right).solution
        test = task.held_out_mask
        read = (neurons[test] - neurons[train].mean(dim=0)) @ matrix + offset
        left = (read - targets[test]).square().sum()
        expected = 1 - left / (targets[test] - targets[test].mean(dim=0)).square().sum()
        assert linear_probe(snapshot, penalty=0.2).explained[3].item() == pytest.approx(expected.item(), rel=1e-6)

    def test_one_hot_inputs_do_not_hold_the_sum(self):
        task = split_task()
        snapshot = snapshot_of(random_weights(), task, activation="relu")
        inputs = torch.cat([torch.nn.functional.one_hot(x, P) for x in task.inputs.T], dim=1).double()
        probe = linear_probe(snapshot, inputs)
        assert probe.accuracy < 3 / P
        assert probe.explained.max() < 0.1

    def test_pre_activations_and_wrong_arguments(self):
        snapshot = snapshot_of(clock_weights())
        assert linear_probe(snapshot, "pre_activations").accuracy < 3 / P  # they are waves of a plus waves of b
        with pytest.raises(ConfigError, match="penalty must be positive"):
            linear_probe(snapshot, penalty=0.0)
        with pytest.raises(ConfigError, match=r"activations must have shape \[529, d\]"):
            linear_probe(snapshot, torch.zeros(3, 2))
