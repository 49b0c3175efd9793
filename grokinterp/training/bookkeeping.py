"""Bookkeeper: evaluates, saves and reports a training run, and decides when it ends."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from grokinterp.config import RunConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.models import Forward
from grokinterp.runs.resume_point import read_resume_point
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import AnyTask
from grokinterp.training.callbacks import Callback
from grokinterp.training.evaluation import evaluate, hidden_rms
from grokinterp.training.numerics import Monitor
from grokinterp.training.stopping import StoppingRule, stopping_rules


class Bookkeeper:
    """Looks after the folder and the callbacks of a run while it trains: evaluates, saves, reports and ends it.

    Attributes:
        ended: a callback has ended the run, or it has diverged.
        status: as last written to status.json; None before the first write.
        diverged_at: first step with a non-finite loss; None if there is none.
    """

    def __init__(
        self,
        config: RunConfig,
        writer: RunWriter,
        task: AnyTask,
        forward: Forward,
        trained: Collection[str],
        device: str,
        callbacks: list[Callback],
    ):
        """Prepares the bookkeeping; writes nothing yet.

        Args:
            config: of the run.
            writer: of the run folder.
            task: of the run.
            forward: computes the logits of an evaluation.
            trained: names of the parameters that are not frozen, whose norm is a metric.
            device: of the parameters.
            callbacks: to notify.
        """
        self.config, self.writer, self.task, self.forward, self.trained = config, writer, task, forward, trained
        self.schedule = config.training().schedule
        self.callbacks = callbacks
        self.callbacks += stopping_rules(config, task)
        self.tokens = task.tokens.to(device)
        self.evaluation_steps = set(scheduled_steps(self.schedule.evaluate_every, self.schedule.steps))
        self.checkpoint_steps = set(scheduled_steps(self.schedule.checkpoints, self.schedule.steps))
        self.past_rows: list[Mapping[str, float]] = []
        self.ended = False
        self.status: RunStatus | None = None
        self.diverged_at: int | None = None
        if writer.findings is None:
            writer.findings = []
        self.monitor = Monitor(config, task, writer.path, writer.findings)
        self.status_step = 0  # the step in status.json
        self.start_time = time.monotonic()
        self.start_step = 0

    def rewind(self) -> tuple[int, dict[str, Tensor]] | None:
        """Drops everything later than the resume point, and returns its step and tensors.

        Returns:
            None if there is no resume point, so that the run starts again from step 0.
        """
        point = read_resume_point(self.writer.path, self.config)
        self.start_step = 0 if point is None else point[0]
        self.writer.discard_after(-1 if point is None else self.start_step)
        if point is not None:
            metrics = Run(self.writer.path, self.config).metrics
            self.past_rows = metrics.reset_index().to_dict("records")  # pyright: ignore
            self.monitor.resume(self.past_rows)
        return point

    def begin(self, step: int) -> bool:
        """Notifies the callbacks of the start and of past evaluations; returns whether step 0 must be evaluated."""
        for callback in self.callbacks:
            callback.on_open(self.writer.path)
            callback.on_start(self.config, step, self.schedule.steps)
        self.ended = self.notify_callbacks(self.past_rows)
        self.note_status(step)
        return step == 0 and not self.past_rows

    def is_due(self, step: int) -> bool:
        """Whether `evaluate_and_save` has anything to do at a step."""
        return step in self.evaluation_steps or step in self.checkpoint_steps or step % self.schedule.resume_every == 0

    def evaluate_and_save(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        state: Callable[[], dict[str, Tensor]],
        zero_gradients: bool = False,
    ) -> None:
        """Evaluates, saves a checkpoint and writes a resume point, each if it is scheduled.

        Args:
            step: number of updates made.
            weights: all parameters.
            state: returns everything that the next update depends on.
            zero_gradients: whether every gradient of the last update was exactly 0.
        """
        if step in self.evaluation_steps:
            logits = self.forward.logits_by_rows(weights, self.tokens)
            trained = {name: weight for name, weight in weights.items() if name in self.trained}
            row = {"step": step, **evaluate(self.task, logits, trained, self.config.loss)}
            if self.schedule.stop_when_dead:
                row |= hidden_rms(trained)
            self.writer.append_metrics(row)
            count = len(self.monitor.findings)
            self.monitor.check(step, logits, weights, row, zero_gradients)
            if len(self.monitor.findings) > count:
                self.note_status(self.status_step)
            if not math.isfinite(row["train_loss"]):
                self.note_divergence(step)
                return
            self.ended = self.notify_callbacks([row])
        if step in self.checkpoint_steps:
            self.writer.save_checkpoint(step, weights, wait=False)
        if step % self.schedule.resume_every == 0:
            self.write_resume_point(step, state)

    def write_resume_point(self, step: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Writes a resume point, after recording the checksums of all checkpoints so far."""
        self.note_status(step)
        self.writer.write_resume_point(step, state())

    def note_divergence(self, step: int) -> None:
        """Ends the run if `step`, the first step with a non-finite loss, is not -1 (no such step)."""
        if step >= 0:
            self.diverged_at, self.ended = step, True
            self.monitor.report_divergence(step)

    def notify_callbacks(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """Passes every row to every callback; returns whether a callback ends the run."""
        answers = [callback.on_evaluation(row) for row in rows for callback in self.callbacks]
        return any(answers)

    def conclude(
        self, step: int, weights: Mapping[str, Tensor], state: Callable[[], dict[str, Tensor]]
    ) -> tuple[RunStatus, str]:
        """Saves the last checkpoint and resume point; returns the run's status and the reason for it."""
        if self.diverged_at is not None:
            return RunStatus.DIVERGED, f"the training loss was not finite at step {self.diverged_at}"
        finished = self.ended or step >= self.schedule.steps
        if finished and step not in self.checkpoint_steps:
            self.writer.save_checkpoint(step, weights, wait=False)
        self.write_resume_point(step, state)
        return (RunStatus.FINISHED, self.finish_reason(step)) if finished else (RunStatus.STOPPED, "interrupted")

    def finish_reason(self, step: int) -> str:
        """The reason why the run finished at this step."""
        if step >= self.schedule.steps:
            return "all steps made"
        rules = [callback for callback in self.callbacks if isinstance(callback, StoppingRule)]
        return next((rule.reason for rule in rules if rule.reason is not None), "a callback ended it")

    def note_status(self, step: int) -> None:
        """Writes to status.json that the run is running, with its warnings so far."""
        self.status, self.status_step = RunStatus.RUNNING, step
        self.writer.write_status(RunStatus.RUNNING, step)

    def close(self, step: int, status: RunStatus, reason: str) -> None:
        """Writes the final status, and notifies the callbacks of the end."""
        seconds = time.monotonic() - self.start_time
        updates = step - self.start_step
        timing = {"seconds": round(seconds, 3), "steps_per_second": round(updates / seconds, 2) if seconds else None}
        self.status = status
        self.writer.write_status(status, step, reason=reason, timing=timing)
        for callback in self.callbacks:
            callback.on_end(status)
