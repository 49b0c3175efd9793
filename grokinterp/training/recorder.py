"""Recorder: logs any training loop to a run folder, which analyze, report and figures can read."""

import logging
import math
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.display import Card, Displayed
from grokinterp.errors import ConfigError, RunError, as_integer
from grokinterp.measures import Snapshot
from grokinterp.measures.checks import require_task, require_weights
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.files import MAX_STEP, as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter, require_vacant
from grokinterp.tasks import Task
from grokinterp.training.evaluation import evaluate

log = logging.getLogger(__name__)


def _abandon(path: Path, lock: ExitStack, process: int) -> None:
    """Unlocks the folder of a recorder that nobody closed, and says so; while Python exits, only this can do it."""
    if os.getpid() != process:  # a forked child, while the recorder goes on in its parent
        return
    lock.close()
    log.warning("%s was never closed: its status remains `running`. Call close(), or use `with Recorder(...)`", path)


class Recorder(Displayed):
    """Records a training loop of your own as a run: logits on every input, metrics, and weights.

    >>> task = Task.modular_addition(p=7, train_fraction=0.5)
    >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 16), torch.nn.Linear(16, 7))  # 7 numbers and `=`
    >>> with Recorder("checkpoints/mine", task) as recorder:
    ...     for step in range(200):
    ...         if step % 100 == 0:
    ...             metrics = recorder.record(step, model)
    ...         # make an update of the model here
    >>> recorder.run.steps
    [0, 100]

    The architecture is unknown, so the logits themselves are stored, and all measures of logits work. Measures of
    weights work if parameters have TransformerLens names (`embed.W_E`, ...).

    Attributes:
        run: the run so far.
    """

    _INSTEAD: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("log", "save", "step", "update", "add", "checkpoint", "write"), "recorder.record(step, model)"
    )

    def __init__(self, path: str | Path, task: Task, *, description: str = "", keep_weights: bool = True):
        """Starts a run.

        Args:
            path: an empty or new folder.
            task: the task, with the split used for training.
            description: of the model, for the report.
            keep_weights: whether to store named parameters beside the logits.

        Raises:
            ConfigError: an argument has a wrong type.
            RunError: the folder is not empty or not writable, or another process uses it.
        """
        require_task(task)
        folder = as_path(path)
        config = RunConfig(
            task=task.config, model=RecordedConfig(description=description), optimizer=None, schedule=None
        )
        self.task = task
        self.keep_weights = keep_weights
        self._last_step = -1
        require_vacant(folder)
        with ExitStack() as stack:
            stack.enter_context(hold(folder))
            self._writer = RunWriter.create(folder, config, describe_environment("cpu", "recorded"), task)
            self._writer.write_status(RunStatus.RUNNING, 0)
            self._lock = stack.pop_all()
        self._unclosed = weakref.finalize(self, _abandon, folder, self._lock, os.getpid())

    @property
    def run(self) -> Run:
        return Run.open(self._writer.path)

    @torch.no_grad()
    def record(
        self,
        step: SupportsIndex,
        model: Callable[[Tensor], Tensor] | Tensor,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, float]:
        """Records a checkpoint.

        Args:
            step: number of updates made; must increase from call to call.
            model: called with `task.tokens`, as in `Snapshot.from_model`; or the logits themselves. A module is put
                into evaluation mode for the call.
            weights: named parameters; by default those of a module, if it has any.

        Returns:
            The metrics of the step, as written to metrics.jsonl.

        Raises:
            ConfigError: the step does not increase or is larger than 10^12, or the logits have the wrong shape.
            RunError: the recorder was closed, or the step cannot be written. Nothing of it remains, so that it can be
                recorded again; but if only status.json could not be written, the step is recorded.
        """
        if not self._unclosed.alive:
            raise RunError(f"{self._writer.path} was closed: record further steps in another folder")
        step = as_integer(step, "step")
        if step > MAX_STEP:
            raise ConfigError(f"step {step} is larger than {MAX_STEP:,}: count updates, not nanoseconds or tokens")
        if step <= self._last_step:
            raise ConfigError(f"step {step} was recorded after step {self._last_step}: steps must increase")
        if isinstance(model, Tensor):
            snapshot = Snapshot.from_logits(self.task, model)
        elif not callable(model):
            raise ConfigError(
                f"model must be a tensor of logits or a function that returns one, but is {type(model).__name__}"
            )
        else:
            snapshot = self._from_model(model)
            if weights is None and isinstance(model, nn.Module):
                weights = dict(model.named_parameters()) or None
        require_weights(weights)
        saved = {name: w for name, w in (weights or {}).items() if self.keep_weights}
        trained = {name: w for name, w in (weights or {}).items() if w.requires_grad or not w.is_leaf}
        trained = trained or dict(weights or {})
        row = {"step": step, **evaluate(self.task, snapshot.logits, trained)}
        before = self._writer.metrics_size()
        try:
            self._writer.save_checkpoint(step, {"logits": snapshot.logits}, folder="logits")
            if saved:
                self._writer.save_checkpoint(step, saved, frozen=[name for name in saved if name not in trained])
            self._writer.append_metrics(row)
        except BaseException:
            self._writer.undo_step(step, before)  # a step is recorded completely or not at all
            raise
        self._last_step = step
        self._writer.write_status(RunStatus.RUNNING, step)
        return row

    def _from_model(self, model: Callable[[Tensor], Tensor]) -> Snapshot:
        if not isinstance(model, nn.Module):
            return Snapshot.from_model(self.task, model)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        modes = {part: part.training for part in model.modules()}
        model.eval()
        try:
            return Snapshot.from_model(self.task, lambda tokens: model(tokens.to(device)))
        finally:
            for part, training in modes.items():
                part.training = training

    def _card(self) -> Card:
        run = self.run._card()
        return Card(f"Recorder of {run.title}", run.facts, ["recorder.record(step, model)", "recorder.run"])

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        reason = "" if error is None else repr(error)
        self.close(RunStatus.STOPPED if reason else RunStatus.FINISHED, reason)

    def close(self, status: str = RunStatus.FINISHED, reason: str = "") -> None:
        """Ends the run and unlocks its folder; the context manager calls this method on exit.

        A recorder that is never closed unlocks the folder, too, and logs a warning; the run's status remains `running`.
        """
        losses = self.run.metrics
        column = "train_loss" if "train_loss" in losses else "loss"
        if len(losses) and not math.isfinite(losses[column].iloc[-1]):
            status, reason = RunStatus.DIVERGED, f"the loss was not finite at step {self._last_step}"
        self._unclosed.detach()
        with self._lock:
            self._writer.write_status(RunStatus(status), max(self._last_step, 0), reason=reason)
