"""Runs that are killed repeatedly end like runs that were left alone, bit for bit."""

from dataclasses import replace

import pytest
from killing import kill_and_resume, outcome

from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.training import train

# These runs write a lot, so that many kills happen during a write.
MINIBATCH_MLP = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5, data_seed=1),
    model=MLPConfig(width=8, depth=1, dropout=0.1),
    optimizer=OptimizerConfig(lr=3e-3, batch_size=9, gradient_noise=1e-4),
    schedule=ScheduleConfig(steps=16_000, evaluate_every=20, checkpoints=20, resume_every=40),
)
TRANSFORMER = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=TransformerConfig(d_model=8, n_heads=2, d_mlp=16),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=6_000, evaluate_every=10, checkpoints=20, resume_every=30),
)


def fire_at(config: RunConfig, kills: int, tmp_path, seed: int) -> list[int]:
    undisturbed = train(config, tmp_path / "undisturbed")
    found = kill_and_resume(config, tmp_path / "killed", kills, seed=seed)
    assert len(found) == kills
    killed = Run.open(tmp_path / "killed")
    assert outcome(killed.path) == outcome(undisturbed.path)
    assert killed.status["checksums"] == undisturbed.status["checksums"]
    assert verify(killed.path).problems == verify(undisturbed.path).problems == ()
    return found


@pytest.mark.slow
def test_a_run_killed_four_times(tmp_path):
    config = replace(MINIBATCH_MLP, schedule=replace(MINIBATCH_MLP.schedule, steps=1_000))
    fire_at(config, 4, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "seed"), [(MINIBATCH_MLP, 1), (TRANSFORMER, 2)], ids=["mlp", "transformer"])
def test_a_run_killed_a_hundred_times(config, seed, tmp_path, record_property):
    found = fire_at(config, 100, tmp_path, seed)
    record_property("resume points found", found)
    assert found[-1] > found[0]
