"""What status.json and the resume point rely on is on the disk before they are renamed into place."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings import MINIBATCH_MLP

from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

BINDING = ("status.json", "resume.safetensors")


def contents(folder: Path) -> dict[str, object]:
    """The size of the metrics, and the names of the checkpoints in each folder."""
    found: dict[str, object] = {}
    for name in ("weights", "logits"):
        if (folder / name).is_dir():
            found[name] = sorted(file.name for file in (folder / name).glob("*.safetensors"))
    if (folder / "metrics.jsonl").is_file():
        found["metrics.jsonl"] = (folder / "metrics.jsonl").stat().st_size
    return found


@pytest.fixture
def renames(monkeypatch, tmp_path) -> list[tuple[str, dict[str, object], dict[str, object]]]:
    """For each rename of a binding file: its name, what is in the run at that time, and what of it was synced."""
    folder, synced, renamed = tmp_path / "run", {}, []
    fsync, rename = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.parent == folder and path.name in contents(folder):
            synced[path.name] = contents(folder)[path.name]

    def watched_rename(self: Path, target: Path) -> Path:
        if Path(target).name in BINDING:
            renamed.append((Path(target).name, contents(folder), dict(synced)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_rename)
    return renamed


def test_a_training_syncs_what_it_relies_on(renames, tmp_path):
    schedule = replace(MINIBATCH_MLP.schedule, steps=40, evaluate_every=5, checkpoints=10, resume_every=20)
    train(replace(MINIBATCH_MLP, schedule=schedule), tmp_path / "run", progress=False)
    assert {name for name, _, _ in renames} == set(BINDING)
    assert len(renames[-1][1]["weights"]) == 5
    for name, present, synced in renames:
        assert synced == present, name


def test_a_recorder_syncs_what_it_relies_on(renames, tmp_path):
    task = Task.modular_addition(p=5, train_fraction=0.5)
    with Recorder(tmp_path / "run", task) as recorder:
        for step in range(3):
            recorder.record(step, torch.zeros(25, 5), weights={"w": torch.ones(2, requires_grad=True)})
    assert len(renames[-1][1]["logits"]) == 3
    for name, present, synced in renames:
        assert synced == present, name
