"""Bookkeeper: what a training evaluates, saves and reports, and how it ends."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.models import Forward
from grokinterp.runs.run import Run, StatusName
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import AnyTask
from grokinterp.training.callbacks import Callback, StopWhenGrokked
from grokinterp.training.evaluation import evaluate
from grokinterp.training.numerics import Watch
from grokinterp.training.preparation import GROKKED


class Bookkeeper:
    """One run's folder and callbacks while it trains: what is evaluated, kept and told, and how it ends.

    Attributes:
        over: a callback ended the run, or it diverged.
        status: as last written to status.json; None before that.
        diverged_at: first step with a non-finite loss, where there is one.
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
        """Args: trained: names of the parameters that are not frozen, whose norm is a metric."""
        assert config.schedule is not None
        self.config, self.writer, self.task, self.forward, self.trained = config, writer, task, forward, trained
        self.schedule: ScheduleConfig = config.schedule
        self.callbacks = callbacks
        if self.schedule.stop_when_grokked:
            self.callbacks.append(StopWhenGrokked(self.schedule))
        self.tokens = task.tokens.to(device)
        self.evaluated = set(scheduled_steps(self.schedule.evaluate_every, self.schedule.steps))
        self.kept = set(scheduled_steps(self.schedule.checkpoints, self.schedule.steps))
        self.past: list[Mapping[str, float]] = []
        self.over = False
        self.status: StatusName | None = None
        self.diverged_at: int | None = None
        if writer.findings is None:
            writer.findings = []
        self.watch = Watch(config, task, writer.path, writer.findings)
        self.noted_at = 0  # the step in status.json
        self.began = time.monotonic()
        self.began_at = 0

    def go_back(self) -> tuple[int, dict[str, Tensor]] | None:
        """Step and tensors of the resume point, with all that is later dropped; None to begin at the start again."""
        point = self.writer.read_resume_point()
        self.began_at = 0 if point is None else point[0]
        self.writer.forget_after(-1 if point is None else self.began_at)
        if point is not None:
            self.past = Run(self.writer.path, self.config).metrics.reset_index().to_dict("records")  # pyright: ignore
            self.watch.go_back(self.past)
        return point

    def begin(self, step: int) -> bool:
        """Tells the callbacks what there is; True where the start itself is still to be looked at."""
        for callback in self.callbacks:
            callback.on_start(self.config, step, self.schedule.steps)
        self.over = self.tell(self.past)
        self.note_status(step)
        return step == 0 and not self.past

    def due(self, step: int) -> bool:
        """Whether there is anything to do at a step."""
        return step in self.evaluated or step in self.kept or step % self.schedule.resume_every == 0

    def look(
        self,
        step: int,
        weights: Mapping[str, Tensor],
        state: Callable[[], dict[str, Tensor]],
        still: bool = False,
    ) -> None:
        """Evaluates, keeps and makes a resume point where the schedules say so.

        Args:
            step: number of updates made.
            weights: all parameters.
            state: gives everything that the next update depends on.
            still: whether every gradient of the last update was exactly 0.
        """
        if step in self.evaluated:
            logits = self.forward.logits_by_rows(weights, self.tokens)
            trained = {name: weight for name, weight in weights.items() if name in self.trained}
            row = {"step": step, **evaluate(self.task, logits, trained, self.config.loss)}
            self.writer.append_metrics(row)
            known = len(self.watch.findings)
            self.watch.look(step, logits, weights, row, still)
            if len(self.watch.findings) > known:
                self.note_status(self.noted_at)
            if not math.isfinite(row["train_loss"]):
                self.note_divergence(step)
                return
            self.over = self.tell([row])
        if step in self.kept:
            self.writer.keep(step, weights, wait=False)
        if step % self.schedule.resume_every == 0:
            self.keep_place(step, state)

    def keep_place(self, step: int, state: Callable[[], dict[str, Tensor]]) -> None:
        """Makes a resume point; what was kept up to there has its checksum recorded first."""
        self.note_status(step)
        self.writer.write_resume_point(step, state())

    def note_divergence(self, step: int) -> None:
        """Ends the run if there was a first step with a non-finite loss; -1 says that there was none."""
        if step >= 0:
            self.diverged_at, self.over = step, True
            self.watch.diverged(step)

    def tell(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """Shows every row to every callback; True where one of them wants to end the run."""
        answers = [callback.on_evaluation(row) for row in rows for callback in self.callbacks]
        return any(answers)

    def conclude(
        self, step: int, weights: Mapping[str, Tensor], state: Callable[[], dict[str, Tensor]]
    ) -> tuple[StatusName, str]:
        """Writes what a run leaves behind at its last step for now; its status and the reason for it."""
        if self.diverged_at is not None:
            return "diverged", f"the training loss was not finite at step {self.diverged_at}"
        finished = self.over or step >= self.schedule.steps
        if finished and step not in self.kept:
            self.writer.keep(step, weights, wait=False)
        self.keep_place(step, state)
        return ("finished", self.why_finished(step)) if finished else ("stopped", "interrupted")

    def why_finished(self, step: int) -> str:
        """What ended a run before or at its last step."""
        if step >= self.schedule.steps:
            return "all steps made"
        rules = [c for c in self.callbacks if isinstance(c, StopWhenGrokked)]
        grokked = any(c.grokked_at is not None and step >= c.factor * c.grokked_at for c in rules)
        return GROKKED if grokked else "a callback ended it"

    def note_status(self, step: int) -> None:
        """Says in status.json that the run goes on, and what was found so far."""
        self.status, self.noted_at = "running", step
        self.writer.write_status("running", step)

    def close(self, step: int, status: StatusName, reason: str) -> None:
        """The last word on a run."""
        seconds = time.monotonic() - self.began
        made = step - self.began_at
        timing = {"seconds": round(seconds, 3), "steps_per_second": round(made / seconds, 2) if seconds else None}
        self.status = status
        self.writer.write_status(status, step, reason=reason, timing=timing)
        for callback in self.callbacks:
            callback.on_end(status)
