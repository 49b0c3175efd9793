"""The declaration of a published experiment: Arm, Form, Published, Recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.config.presets import preset
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures, Outcome, Progress
from grokinterp.runs.run import Run
from grokinterp.sweep import Point, expand

# Fields of a schedule that stops soon after the run reaches a test accuracy of 99 %.
STOP = {"stop_when_grokked": True, "stop_factor": 1.05}


@dataclass(frozen=True)
class Arm:
    """Runs of one kind: a base configuration and the fields that vary.

    >>> arm = Arm("decay", preset("psi"), {"optimizer.weight_decay": (1, 2), "model_seed": range(3)})
    >>> len(arm.expanded())
    6

    Attributes:
        name: the folder of its sweep, and its key in the evidence.
        base: the configuration that its runs share.
        grid: values by dotted config field; every combination is a run.
        points: single runs, each as values by dotted config field; combined with a grid if there is one.
        extract: takes from the checkpoints of a run what the claims need besides its metrics, as plain JSON values; the
            record of the run keeps it.
        updates: how many updates a run is expected to make; None if that follows from its configuration.
    """

    name: str
    base: RunConfig
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    points: tuple[Mapping[str, Any], ...] = ()
    extract: Callable[[Run], Mapping[str, Any]] | None = None
    updates: int | None = None

    def expanded(self) -> tuple[Point, ...]:
        """Lists every run with its name.

        Raises:
            ConfigError: a field does not exist.
        """
        return expand(self.base, grid=self.grid or None, points=self.points or None)


@dataclass(frozen=True)
class Form:
    """The full or the quick version of a recipe.

    >>> Form((Arm("one", preset("psi")),), cost="5 minutes").gpu
    False

    Attributes:
        arms: its runs.
        cost: how long it takes on two CPU cores, or what else it needs.
        note: how it differs from the publication.
        gpu: whether it would take days without a GPU.
    """

    arms: tuple[Arm, ...]
    cost: str
    note: str = ""
    gpu: bool = False


@dataclass(frozen=True)
class Published:
    """A published number and the runs that reproduce it.

    >>> Published("T_grok(0.95)", "2,300", "decay", {"optimizer.weight_decay": 1}, "T_grok_0.95").printed
    '2,300'

    Attributes:
        quantity: the name of the number, for instance "T_grok(0.95), λ = 2".
        printed: the number as the source prints it, for instance "45,600 ± 5,550 (5 of 5)".
        arm: the arm with the runs.
        where: selects runs of the arm, as values by dotted config field.
        column: the column of the sweep's table; "outcome" counts outcomes.
    """

    quantity: str
    printed: str
    arm: str
    where: Mapping[str, Any]
    column: str


def printed(
    quantity: str, arm: str, axis: str, column: str, values: Mapping[Any, float | str | None]
) -> tuple[Published, ...]:
    """Lists the published numbers of one quantity along an axis, given by value of the axis; None stands for "never".

    >>> times = printed("T_grok(0.95)", "decay", "optimizer.weight_decay", "T_grok_0.95", {0.5: 4000})
    >>> [number.quantity for number in times]
    ['T_grok(0.95), weight decay 0.5']
    """
    name = axis.rsplit(".", 1)[-1].replace("_", " ")
    texts = {
        value: "never" if number is None else number if isinstance(number, str) else f"{number:,}"
        for value, number in values.items()
    }
    return tuple(
        Published(f"{quantity}, {name} {value}", text, arm, {axis: value}, column) for value, text in texts.items()
    )


@dataclass(frozen=True)
class Recipe:
    """A published experiment that can be run.

    >>> from grokinterp.experiments import catalog
    >>> catalog()["ridge"].title
    'Provable grokking in ridge regression'

    Attributes:
        name: the name that `reproduce` takes; it begins with its source.
        title: its subject.
        source: the publication.
        full: the form at the published size.
        quick: a smaller but faithful form that takes at most 90 s on two cores.
        decide: derives the claims from the evidence.
        published: numbers that the source prints.
        figures: draws figures from the evidence; the default is the learning curves of every arm.
        run: replaces arms and `decide` for experiments that do not train runs. It takes whether this is the quick form
            and a progress callback.
    """

    name: str
    title: str
    source: str
    full: Form
    quick: Form
    decide: Callable[[Evidence], tuple[Claim, ...]] | None = None
    published: tuple[Published, ...] = ()
    figures: Callable[[Evidence], Figures] | None = None
    run: Callable[[bool, Progress | None], Outcome] | None = None

    def form(self, quick: bool) -> Form:
        """The quick or the full form."""
        return self.quick if quick else self.full


def changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Returns a copy of a configuration with other values, given by dotted field.

    Raises:
        ConfigError: a field does not exist, or a value makes no sense.
    """
    (point,) = expand(config, points=[values])
    return point.config(config)


def variant(base: RunConfig | str, **groups: Mapping[str, Any]) -> RunConfig:
    """Returns a copy of a configuration or preset with other values, given by group of fields.

    >>> variant("demo", task={"p": 53}, schedule={"steps": 2000}).task.p
    53

    Raises:
        ConfigError: there is no such preset or field, or a value makes no sense.
    """
    fields = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    return changed(preset(base) if isinstance(base, str) else base, fields)


def until_grokked(
    steps: int, evaluate_every: int | str, factor: float, *, checkpoints: str = "log:20", **others: Any
) -> ScheduleConfig:
    """A schedule that stops when the run groks.

    Args:
        steps: maximum number of steps.
        evaluate_every: steps between two evaluations, or a schedule of steps.
        factor: a run that groks stops at this multiple of T_grok.
        checkpoints: schedule of checkpoints.
        **others: further fields of `ScheduleConfig`.
    """
    stop = {"stop_when_grokked": True, "stop_factor": factor}
    return ScheduleConfig(steps=steps, evaluate_every=evaluate_every, checkpoints=checkpoints, **stop, **others)
