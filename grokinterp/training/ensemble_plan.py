"""What train_many checks before it begins: which runs it can train together, and from which step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from grokinterp.config.run import RunConfig, TrainingSettings, flat_config
from grokinterp.errors import ConfigError, RunError
from grokinterp.runs.resume_point import read_resume_point
from grokinterp.runs.run import Run
from grokinterp.tasks import AnyTask
from grokinterp.training.interventions import interventions_of
from grokinterp.training.preparation import has_ended, task_to_train

# Settings that may differ between the runs of an ensemble; all others are their shape.
_VARIABLE = {
    *("model_seed", "model.init", "model.init_scale"),
    *("task.data_seed", "task.split", "task.train_fraction", "task.label_noise", "task.random_labels"),
    *(f"optimizer.{name}" for name in ("lr", "weight_decay", "betas", "eps", "momentum")),
}
# Their values may differ, but either all runs have a value or none has.
_VARIABLE_IF_SET = {"optimizer.warmup_steps", "optimizer.clip"}


def shape_of(config: RunConfig) -> str:
    """Describes the shape of a run as text; `train_many` can train two runs together if these texts are equal.

    Raises:
        ConfigError: the configuration cannot be trained, or has an intervention that `train_many` does not support.
    """
    split = task_to_train(config, None, "cpu").require_split()
    shape = _shape(config, config.training(), split)
    shape |= {name: bool(shape[name]) for name in _VARIABLE_IF_SET}
    return repr(sorted(shape.items(), key=lambda item: item[0]))


@dataclass(frozen=True)
class Plan:
    """A run to train or resume.

    Attributes:
        config: what to train.
        settings: its optimizer and schedule.
        folder: the run folder.
        task: the task.
        train_mask: `[n]`, which inputs are training examples.
        begun: the run to resume; None for a new run.
    """

    config: RunConfig
    settings: TrainingSettings
    folder: Path
    task: AnyTask
    train_mask: Tensor
    begun: Run | None

    def training_set(self) -> tuple[Tensor, Tensor]:
        """Tokens and labels of the training examples."""
        return self.task.tokens[self.train_mask], self.task.labels[self.train_mask]

    def has_ended(self) -> bool:
        """Whether the run needs no more updates."""
        return self.begun is not None and has_ended(self.begun, self.config)

    def step(self) -> int:
        """The step at which the run continues: that of its resume point, or 0."""
        point = None if self.begun is None else read_resume_point(self.folder, self.config)
        return 0 if point is None else point[0]


def require_separate(count: int, folders: Sequence[Path]) -> None:
    if len(folders) != count:
        raise ConfigError(f"{count} configurations and {len(folders)} paths were given: give one path for each")
    paths = [folder.resolve() for folder in folders]
    first = {path: i for i, path in reversed(list(enumerate(paths)))}
    for i, path in enumerate(paths):
        for outer in (path, *path.parents):
            if first.get(outer, i) != i:
                raise ConfigError(
                    f"{folders[first[outer]]} and {folders[i]} are the same folder, or one inside the other: "
                    "give each run its own folder"
                )


def require_same_shape(plans: Sequence[Plan]) -> None:
    shapes = [_shape(plan.config, plan.settings, plan.train_mask) for plan in plans]
    for shape, plan in zip(shapes[1:], plans[1:], strict=True):
        for name, first in shapes[0].items():
            value = shape.get(name)
            same = bool(first) == bool(value) if name in _VARIABLE_IF_SET else first == value
            if not same:
                raise ConfigError(
                    f"runs trained together must have the same shape, but {name} is {first} in {plans[0].folder} and "
                    f"{value} in {plan.folder}: train them separately"
                )


def _shape(config: RunConfig, settings: TrainingSettings, train_mask: Tensor) -> dict[str, Any]:
    """The settings, by dotted name, in which runs must agree to be stacked."""
    if unsupported := interventions_of(config):
        raise ConfigError(
            f"train_many does not support {', '.join(unsupported)}: train such runs one by one, as a sweep does"
        )
    shape = {name: value for name, value in flat_config(config).items() if name not in _VARIABLE}
    decay = "decoupled" if settings.optimizer.decoupled else "coupled"
    return shape | {"optimizer.decay": decay, "the number of training examples": int(train_mask.sum())}


def common_step(plans: Sequence[Plan]) -> int:
    steps = [plan.step() for plan in plans]
    for plan, step in zip(plans, steps, strict=True):
        if step != steps[0]:
            raise RunError(
                f"{plans[0].folder} resumes from step {steps[0]} but {plan.folder} from step {step}, and runs trained "
                "together must be at the same step: resume them one by one with train(config, path, resume=True)"
            )
    return steps[0]
