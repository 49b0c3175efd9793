"""How a published experiment is declared: Arm, Form, Published, Recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.outcome import Claim, Figures, Outcome, Progress
from grokinterp.sweep import Point, expand

# In quick forms: a run ends as soon as it is known to have reached 99 %.
UNTIL_GROKKED = {"schedule.stop_when_grokked": True, "schedule.stop_factor": 1.05}


@dataclass(frozen=True)
class Arm:
    """Runs of one kind: a configuration, and what varies on top of it.

    Attributes:
        name: of its sweep's folder, and its key in the evidence.
        base: what its runs have in common.
        grid: values by dotted config field; every combination is a run.
        points: runs one by one, each as values by dotted config field; with a grid, all combinations.
    """

    name: str
    base: RunConfig
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    points: tuple[Mapping[str, Any], ...] = ()

    def expanded(self) -> tuple[Point, ...]:
        """Every run, by name.

        Raises:
            ConfigError: an unknown field.
        """
        return expand(self.base, grid=self.grid or None, points=self.points or None)


@dataclass(frozen=True)
class Form:
    """What a recipe runs.

    Attributes:
        arms: its runs.
        cost: how long it takes on two CPU cores, or what else it needs.
        note: how it differs from what was published.
        gpu: without a GPU it takes days.
    """

    arms: tuple[Arm, ...]
    cost: str
    note: str = ""
    gpu: bool = False


@dataclass(frozen=True)
class Published:
    """A published number, and where its counterpart is found.

    Attributes:
        quantity: what it is of, for instance "T_grok(0.95), λ = 2".
        printed: as the source has it, for instance "45,600 ± 5,550 (5 of 5)".
        arm: in which runs.
        where: which of them, as values by dotted config field.
        column: of the sweep's table; "outcome" counts outcomes.
    """

    quantity: str
    printed: str
    arm: str
    where: Mapping[str, Any]
    column: str


def printed(
    quantity: str, arm: str, axis: str, column: str, values: Mapping[Any, float | str | None]
) -> tuple[Published, ...]:
    """What a source prints of one quantity along an axis, by value of the axis; None is "never".

    >>> [one.quantity for one in printed("T_grok(0.95)", "decay", "optimizer.weight_decay", "T_grok_0.95", {0.5: 4000})]
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

    Attributes:
        name: what `reproduce` calls it; it begins with its source.
        title: what it is about.
        source: the publication.
        full: at the published size.
        quick: smaller but faithful, at most 90 s on two cores.
        decide: its claims, from the evidence.
        published: numbers that the source prints.
        figures: from the evidence; by default the learning curves of every arm.
        run: instead of arms, where an experiment is not of runs: from whether it is the quick form, and a callback.
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
    """A configuration with other values, by dotted field.

    Raises:
        ConfigError: an unknown field, or a value that makes no sense.
    """
    (point,) = expand(config, points=[values])
    return point.config(config)
