"""Makes the runs of tests/data, with the package as it was at some commit; README.md says which made what.

    git worktree add --detach /tmp/old COMMIT
    cd tests/data && PYTHONPATH=/tmp/old python make.py FOLDER KIND ...

Beside each run goes FOLDER/KIND.json: what that package said of it then.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig, TransformerConfig
from grokinterp.runs.run import Run
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.callbacks import Callback
from grokinterp.training.recorder import Recorder

SCHEDULE = ScheduleConfig(steps=30, evaluate_every=5, checkpoints=15, resume_every=10)
TRANSFORMER = RunConfig(
    task=TaskConfig(p=5, train_fraction=0.6),
    model=TransformerConfig(d_model=8, n_heads=2, d_mlp=16),
    optimizer=OptimizerConfig(lr=1e-2, warmup_steps=3),
    schedule=SCHEDULE,
    model_seed=3,
)
MLP = replace(
    TRANSFORMER,
    task=TaskConfig(p=6, train_fraction=0.6, operation="subtract", split="python", data_seed=2),
    model=MLPConfig(width=8, input="concat", d_embed=4, shared_embedding=False),
    optimizer=OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3),
    loss="mse",
)


class Stop(Callback):
    """Ends a training between two updates: as Ctrl-C does, or as a power cut does."""

    def __init__(self, step: int, how: Callable[[], None]):
        self.step, self.how = step, how

    def on_step(self, step: int) -> None:
        if step == self.step:
            self.how()


def transformer(path: Path) -> None:
    train(TRANSFORMER, path)


def mlp(path: Path) -> None:
    train(MLP, path)


def analyzed(path: Path) -> None:
    """Grokking enough to have key frequencies: p = 5 has but two."""
    analyze(train(replace(TRANSFORMER, task=TaskConfig(p=7, train_fraction=0.5)), path), workers=0)


def unfinished(path: Path) -> None:
    """An analysis that was stopped after two of three checkpoints, and left what it had in its journal."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    run = train(replace(TRANSFORMER, task=TaskConfig(p=7, train_fraction=0.5)), path)
    with contextlib.suppress(KeyboardInterrupt):
        analyze(run, workers=0, progress=stop)


def recorded(path: Path) -> None:
    """Somebody's own loop, on a split of his own."""
    task = Task.modular_addition(p=5, train_indices=[0, 3, 4, 7, 9, 11, 12, 13, 18, 20, 21, 24])
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(25, 5, generator=generator))
    with Recorder(path, task, description="a table of 25 rows") as recorder:
        for step in range(3):
            recorder.record(step * 10, lambda tokens, scale=1.0 + step: scale * table, weights={"embed.W_E": table})


def _cut(config: RunConfig, path: Path, how: Callable[[], None]) -> dict[str, Any]:
    child = os.fork()
    if not child:
        try:
            train(config, path, callbacks=[Stop(17, how)])
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(child, 0)
    with TemporaryDirectory() as folder:
        whole = train(config, Path(folder) / "whole")
        return {"when finished": _said_of(whole)}


def stopped(path: Path) -> dict[str, Any]:
    """Ctrl-C after 17 updates; minibatches, so that the resume point holds their order."""
    config = replace(TRANSFORMER, optimizer=replace(TRANSFORMER.optimizer, batch_size=6))  # pyright: ignore
    return _cut(config, path, lambda: os.kill(os.getpid(), signal.SIGINT))


def killed(path: Path) -> dict[str, Any]:
    """kill -9 after 17 updates: metrics and status are ahead of the resume point of step 10."""
    return _cut(MLP, path, lambda: os.kill(os.getpid(), signal.SIGKILL))


def regression(path: Path) -> None:
    from grokinterp.config import RegressionConfig

    task = RegressionConfig(d_in=3, d_out=2, teacher_width=6, n_train=12, n_test=8)
    train(replace(TRANSFORMER, task=task, model=MLPConfig(input="vector", width=8), loss="mse"), path)


def parity(path: Path) -> None:
    task = TaskConfig(operation="parity", p=2, operands=5, train_fraction=0.5)
    train(replace(TRANSFORMER, task=task, model=MLPConfig(input="signs", width=8)), path)


def intervened(path: Path) -> dict[str, Any]:
    """Whatever draws or remembers, stopped after 17 updates."""
    optimizer = OptimizerConfig(
        lr=1e-2, grokfast="ma", grokfast_window=4, gradient_noise=1e-3, orthogonal_gradient=True, constrain_norm=True
    )
    model = replace(TRANSFORMER.model, dropout=0.25, output_scale=0.5)
    config = replace(TRANSFORMER, optimizer=optimizer, model=model, loss="stablemax", loss_dtype="float32")
    return _cut(config, path, lambda: os.kill(os.getpid(), signal.SIGINT))


def started(path: Path) -> None:
    """From the weights of another run, which are kept with it."""
    train(replace(TRANSFORMER, model_seed=4), path, start_from="trainer/transformer@15")


def norms(path: Path) -> None:
    """A transformer as Power et al. have it."""
    model = TransformerConfig(
        d_model=8, n_heads=2, d_mlp=16, n_layers=2, normalization="post_layernorm", positions="sinusoidal",
        attention="bidirectional", readout="mean", biases="trained",
    )  # fmt: skip
    train(replace(TRANSFORMER, model=model), path)


def sweep(path: Path) -> dict[str, Any]:
    """Four runs, of which one cannot be trained."""
    from grokinterp.sweep import train_sweep

    base = replace(TRANSFORMER, schedule=replace(SCHEDULE, steps=10, checkpoints=10, resume_every=10))
    grid = {"optimizer.weight_decay": [0.0, 1.0], "model.n_heads": [2, 3]}
    found = train_sweep(path, base, grid=grid, workers=1)
    table = found.table
    return {"table": json.loads(table.to_json(orient="records")), "axes": list(found.axes)}


def reproduction(path: Path) -> None:
    from grokinterp.experiments import reproduce

    done = reproduce("ridge", path, quick=True)
    for name in done.outcome.tables:
        (path / f"{name}.parquet").unlink()
    (path / "report.html").unlink()


def _said_of(run: Run) -> dict[str, Any]:
    """What it said of a run then: metrics, checksums, and the first logits of the last checkpoint."""
    step = run.steps[-1]
    regression = run.config.task.operation == "teacher_student"
    logits = run.forward.logits(run.weights(step), run.task.tokens) if regression else run.snapshot(step).logits
    return {
        "config": json.loads(run.config.to_json()),
        "status": {name: run.status.get(name) for name in ("status", "step", "reason")},
        "metrics": json.loads(run.metrics.reset_index().to_json(orient="records", double_precision=15)),
        "checksums": {str(step): _checksum(run.path, step) for step in run.steps},
        "train_mask": run.task.train_mask.int().tolist(),
        "logits": {"step": step, "rows": logits[:6].detach().double().tolist()},
    }


def _checksum(path: Path, step: int) -> str:
    """Of the bytes of all files of a step, one after another."""
    files = [path / folder / f"step_{step:06d}.safetensors" for folder in ("weights", "logits")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).hexdigest()


def main(folder: str, kinds: list[str]) -> None:
    torch.set_num_threads(1)
    for kind in kinds:
        path = Path(folder, kind)
        said = globals()[kind](path) or {}
        (path / ".lock").unlink(missing_ok=True)  # of a process that was killed here; it names the machine
        if (path / "config.json").exists():
            run = Run.open(path)
            said |= _said_of(run)
            if (path / "analysis" / "analysis.json").exists():
                analysis = analyze(run, workers=0)
                said["timeline"] = json.loads(analysis.timeline.reset_index().to_json(orient="records"))
        if said:
            Path(folder, f"{kind}.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
