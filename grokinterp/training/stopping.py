"""Stopping rules: when a run ends before its last step, which is at an evaluated step and changes no update.

Every rule sees all rows of metrics, also those from before a resume, so that a resumed run ends at the same step as an
uninterrupted one.
"""

import math
from collections.abc import Mapping

from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.tasks import AnyTask, Task
from grokinterp.training.callbacks import Callback

REACHED = 0.99  # the accuracy at which a run has memorized (train) or grokked (test)

# How the reasons begin that status.json gives for these ends.
GROKKED = "grokked"
_NOT_MEMORIZED = "not memorized within"
_DEAD = "dead:"


class StoppingRule(Callback):
    """Base class of the rules.

    Attributes:
        reason: why the rule has ended the run, for status.json; None as long as it has not.
    """

    reason: str | None = None


class StopWhenGrokked(StoppingRule):
    """Ends a run at `stop_factor` times the first evaluated step with at least 99 % test accuracy."""

    def __init__(self, schedule: ScheduleConfig):
        self.factor = schedule.stop_factor
        self.grokked_at: int | None = None

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if self.grokked_at is None and (metrics.get("test_accuracy") or 0.0) >= REACHED:
            self.grokked_at = step
        if self.grokked_at is not None and step >= self.factor * self.grokked_at:
            self.reason = GROKKED
        return self.reason is not None


class StopWhenNotMemorized(StoppingRule):
    """Ends a run at the first evaluated step from its memorization budget on, unless it has memorized by then.

    It has memorized if train accuracy was at least 0.99 at an evaluated step that is not later than the budget. This is
    the condition under which `find_transition` gives a run that trained to its last step another outcome than
    DNF_train.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.memorized = False

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if step <= self.budget and (metrics.get("train_accuracy") or 0.0) >= REACHED:
            self.memorized = True
        if step >= self.budget and not self.memorized:
            self.reason = f"{_NOT_MEMORIZED} {self.budget:,} steps"
        return self.reason is not None


class StopWhenDead(StoppingRule):
    """Ends a run whose weights have decayed before the network learned anything.

    A run is dead at an evaluated step t if there is an earlier evaluated step s such that

    - at every evaluated step from s to t, the train loss lies within 2 % of ln p, where p is the number of answers:
      the loss of a network whose output does not depend on its input;
    - from each of these evaluated steps to the next, the RMS of every hidden layer becomes smaller;
    - from s to t, the RMS of every hidden layer falls to a tenth or less;
    - there are at least ten evaluated steps from s to t, both included.

    The RMS of a hidden layer is that of all its trained parameters together; hidden layers are `layers.i` of an MLP,
    and `blocks.i.attn` and `blocks.i.mlp` (with LayerNorm, also its parameters) of a transformer. Embedding and
    unembedding do not count. A single layer that grows, or a single loss that leaves the 2 %, starts the count anew.

    With few training examples, the best constant prediction has a lower loss than ln p, because it knows how often each
    answer occurs among them; if that is more than 2 % lower, no run is called dead.

    The factor of a tenth leaves networks alone whose loss stays at ln p for long before they memorize. Under a weight
    decay just below the largest at which it memorizes, the layers of a network shrink at first, too: those of an MLP of
    depth 4 (p = 31, width 64) shrank to 0.29 of their RMS before they grew again.
    """

    LOSS_TOLERANCE = 0.02
    SHRUNK = 0.1
    EVALUATIONS = 10

    def __init__(self, n_classes: int):
        self.constant_loss = math.log(n_classes)
        self.count = 0  # evaluated steps from s on
        self.start = 0  # s
        self.first: Mapping[str, float] = {}  # RMS by layer at s
        self.previous: Mapping[str, float] = {}

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step, rms = int(metrics["step"]), {n: value for n, value in metrics.items() if n.startswith("group_rms.")}
        is_constant = abs(metrics["train_loss"] - self.constant_loss) <= self.LOSS_TOLERANCE * self.constant_loss
        if not is_constant or not rms:
            self.count = 0
        elif self.count and all(value < self.previous[name] for name, value in rms.items()):
            self.count += 1
        else:
            self.count, self.start, self.first = 1, step, rms
        self.previous = rms
        if self.count >= self.EVALUATIONS and all(value <= self.SHRUNK * self.first[n] for n, value in rms.items()):
            self.reason = (
                f"{_DEAD} from step {self.start:,} to {step:,}, the train loss stayed within 2 % of ln p and the RMS "
                "of every hidden layer fell to a tenth"
            )
        return self.reason is not None


def stopping_rules(config: RunConfig, task: AnyTask) -> list[StoppingRule]:
    """The rules that the schedule of a run sets."""
    schedule = config.training().schedule
    rules: list[StoppingRule] = []
    if schedule.stop_when_grokked:
        rules.append(StopWhenGrokked(schedule))
    if schedule.stop_when_not_memorized and schedule.memorization_budget is not None:
        rules.append(StopWhenNotMemorized(schedule.memorization_budget))
    if schedule.stop_when_dead and isinstance(task, Task):  # RunConfig refuses it for a regression
        rules.append(StopWhenDead(task.n_classes))
    return rules


def ended_by_rule(reason: object) -> bool:
    """Whether a reason in status.json is that of a stopping rule.

    >>> ended_by_rule("grokked"), ended_by_rule("not memorized within 1,000 steps"), ended_by_rule("all steps made")
    (True, True, False)
    """
    return reason == GROKKED or (isinstance(reason, str) and reason.startswith((_NOT_MEMORIZED, _DEAD)))


def is_dead(reason: str) -> bool:
    """Whether a reason in status.json is that of `stop_when_dead`."""
    return reason.startswith(_DEAD)


def last_needed_step(schedule: ScheduleConfig, t_train: int | None, t_grok: int | None) -> int:
    """The step at which a run of a schedule ends at the latest, given when it memorized and grokked.

    >>> schedule = ScheduleConfig(steps=10_000, evaluate_every=100, stop_when_grokked=True, stop_factor=1.1)
    >>> last_needed_step(schedule, t_train=300, t_grok=2500)
    2800
    >>> last_needed_step(schedule, t_train=300, t_grok=None)
    10000

    A run trained with other stopping rules, or with none, is equal to a run of this schedule up to this step, if their
    other settings are equal. `stop_when_dead` is left out: it can end the run earlier, but never later.

    Args:
        schedule: with the steps, evaluations and stopping rules.
        t_train: T_train(0.99), the first evaluated step with a train accuracy of at least 0.99; None: never.
        t_grok: T_grok(0.99), the first evaluated step with a test accuracy of at least 0.99; None: never.
    """
    ends: list[float] = [schedule.steps]
    if schedule.stop_when_grokked and t_grok is not None:
        ends.append(schedule.stop_factor * t_grok)
    budget = schedule.memorization_budget
    if schedule.stop_when_not_memorized and budget is not None and (t_train is None or t_train > budget):
        ends.append(budget)
    evaluated = scheduled_steps(schedule.evaluate_every, schedule.steps)
    return next((step for step in evaluated if step >= min(ends)), schedule.steps)
