"""Small runs, and tools to analyze them, shared by the tests of `analyze`."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from grokinterp.analysis import evaluator as evaluator_module
from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training.recorder import Recorder

P = 7
TRANSFORMER = RunConfig(
    task=TaskConfig(p=P, train_fraction=0.4),
    model=TransformerConfig(d_model=16, n_heads=2, d_mlp=32),
    optimizer=OptimizerConfig(lr=3e-3),
    schedule=ScheduleConfig(steps=40, evaluate_every=10, checkpoints=10, resume_every=40),
)
MLP = replace(TRANSFORMER, model=MLPConfig(width=16))
STEPS = [0, 10, 20, 30, 40]


def unanalyzed_copy(run: Run, folder: Path) -> Run:
    """A copy of a run without its analysis."""
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("analysis"))
    return Run.open(folder)


def fresh(run: Run, folder: Path, **options) -> Any:
    """The analysis of a copy without a cache."""
    return analyze(unanalyzed_copy(run, folder), **options)


def assert_same(first: Any, second: Any, *, to_the_bit: bool = True) -> None:
    """Compares two analyses. What is computed twice may differ in the last bits (LAPACK); what is cached may not."""
    tolerance = {"check_exact": True} if to_the_bit else {"rtol": 1e-12, "atol": 1e-12}
    pd.testing.assert_frame_equal(first.timeline, second.timeline, check_like=True, **tolerance)
    pd.testing.assert_frame_equal(first.frequencies, second.frequencies, check_like=True, **tolerance)
    assert first.reference == second.reference
    assert first.transition == second.transition
    assert first.reasons == second.reasons
    assert first.definitions == second.definitions
    assert first.warnings == second.warnings


class Count:
    """Counts the values that are computed and the snapshots that are made."""

    def __init__(self, monkeypatch):
        self.values: list[tuple[str, int]] = []
        self.snapshots: list[int] = []
        evaluate, snapshot = evaluator_module.evaluate, Run.snapshot

        def counted_evaluate(call, checkpoint):
            self.values.append((call.measure.name, checkpoint.step))
            return evaluate(call, checkpoint)

        def counted_snapshot(run, step, **options):
            self.snapshots.append(step)
            return snapshot(run, step, **options)

        monkeypatch.setattr(evaluator_module, "evaluate", counted_evaluate)
        monkeypatch.setattr(Run, "snapshot", counted_snapshot)

    @property
    def measures(self) -> set[str]:
        return {name for name, _ in self.values}

    @property
    def steps(self) -> set[int]:
        return {step for _, step in self.values}

    def clear(self) -> None:
        self.values.clear()
        self.snapshots.clear()


def cosines(task: Task, keys: tuple[int, ...], scale: float = 12.0) -> torch.Tensor:
    a, b = task.inputs.unbind(1)
    m = (a + b)[:, None] - torch.arange(task.p)[None, :]
    return scale * sum(torch.cos(2 * torch.pi * k * m / task.p) for k in keys)


def memorized(task: Task, scale: float = 12.0) -> torch.Tensor:
    """Logits that are right on the training pairs and random elsewhere."""
    noise = torch.randn(len(task.inputs), task.p, generator=torch.Generator().manual_seed(1))
    return noise + scale * torch.eye(task.p)[task.labels] * task.train_mask[:, None]


def record_dying_key(folder: Path) -> Run:
    """A run that memorizes at 100, generalizes with keys 2 and 5 at 200, and has lost key 2 at 400."""
    task = Task.modular_addition(13, train_fraction=0.4)
    with Recorder(folder, task) as recorder:
        recorder.record(0, 0.01 * memorized(task, 0.0))
        recorder.record(100, memorized(task))
        for step, keys in ((200, (2, 5)), (300, (2, 5)), (400, (5,))):
            recorder.record(step, cosines(task, keys))
    return recorder.run
