"""Running a recipe: its arms are trained as sweeps, its claims decided, published numbers put beside measured ones."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError
from grokinterp.experiments.base import Comparison, Figures, Outcome, Progress
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe
from grokinterp.figures import learning_curves
from grokinterp.statistics import FATES
from grokinterp.sweep import Sweep, train_sweep
from grokinterp.sweep.running import Progress as SweepProgress
from grokinterp.training.preparation import choose_device

_PARTS = 100  # of a run, for the progress bar


def conduct(recipe: Recipe, quick: bool, folder: Path, progress: Progress | None, *, anyway: bool = False) -> Outcome:
    """Runs a recipe, or goes on with it: finished runs are left alone, stopped ones resumed.

    Args:
        recipe: what to run.
        quick: its quick form.
        folder: the runs go below `runs` in it.
        progress: called with the parts done and to do.
        anyway: run a form that wants a GPU where there is none.

    Raises:
        ConfigError: the form wants a GPU and there is none.
        KeyboardInterrupt: somebody wants it to stop; the runs are kept.
    """
    form = recipe.form(quick)
    if form.gpu and not anyway and not choose_device("auto").startswith("cuda"):
        raise ConfigError(
            f"{recipe.name} wants a GPU ({form.cost}), and there is none: give --quick for the smaller form, or "
            "--anyway to run it all the same"
        )
    if recipe.run is not None:
        return recipe.run(quick, progress)
    assert recipe.decide is not None
    evidence = Evidence(_train(form, folder / "runs", progress), quick)
    figures = recipe.figures(evidence) if recipe.figures is not None else curves_of_arms(evidence)
    return Outcome(
        claims=recipe.decide(evidence),
        tables=evidence.tables,
        figures=figures,
        settings=_settings(form),
        comparisons=tuple(compare(evidence, recipe.published)),
        warnings=(*evidence.lost, *evidence.diverged),
        lost=len(evidence.lost),
        seconds=evidence.seconds,
    )


def _train(form: Form, folder: Path, progress: Progress | None) -> dict[str, Sweep]:
    sizes = {arm.name: len(arm.expanded()) for arm in form.arms}
    total, before, sweeps = _PARTS * sum(sizes.values()), 0, {}
    for arm in form.arms:
        interrupted = False

        def watch(now: SweepProgress, before: int = before) -> None:
            nonlocal interrupted
            interrupted = now.interrupted
            if progress is not None:
                under_way = sum(step / steps for step, steps in now.running.values())
                progress(before + int(_PARTS * (now.done + len(now.failed) + under_way)), total)

        sweeps[arm.name] = train_sweep(
            folder / arm.name, arm.base, grid=arm.grid or None, points=arm.points or None, watch=watch
        )
        if interrupted:
            raise KeyboardInterrupt
        before += _PARTS * sizes[arm.name]
    if progress is not None:
        progress(total, total)
    return sweeps


def compare(evidence: Evidence, published: tuple[Published, ...]) -> Iterator[Comparison]:
    """Published numbers beside the median and range of what was measured.

    A number whose runs are not among those of this form (the quick one, mostly) is left out.
    """
    for one in published:
        if one.arm not in evidence.sweeps:
            continue
        table = evidence.table(one.arm, one.where)
        if len(table):
            measured = _counts(table) if one.column == "outcome" else _median_and_range(table[one.column])
            yield Comparison(one.quantity, one.printed, measured, len(table), comparable=not evidence.quick)


def _counts(table: pd.DataFrame) -> str:
    counts = Counter(str(outcome) for outcome in table["outcome"])
    order = [fate for fate in FATES if fate in counts]
    return ", ".join(f"{counts[fate]} {fate}" for fate in order)


def _median_and_range(column: Any) -> str:
    """Of a column of numbers, of which some may be unknown."""
    known = np.asarray(column.dropna(), dtype=float)
    if not len(known):
        return f"none of {len(column)}"
    middle = _said(float(np.median(known)))
    spread = f" ({_said(known.min())} to {_said(known.max())})" if len(known) > 1 else ""
    return f"{middle}{spread}" + (f", {len(known)} of {len(column)}" if len(known) < len(column) else "")


def _said(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _settings(form: Form) -> dict[str, Any]:
    return (
        {"cost": form.cost}
        | ({"note": form.note} if form.note else {})
        | {arm.name: _said_of(arm) for arm in form.arms}
    )


def _said_of(arm: Arm) -> str:
    points = arm.expanded()
    varied: Mapping[str, Any] = dict(arm.grid)
    listed = "; ".join(f"{name} = {', '.join(map(str, values))}" for name, values in varied.items())
    return f"{len(points)} runs of {arm.base.task.title}" + (f": {listed}" if listed else "")


def curves_of_arms(evidence: Evidence) -> Figures:
    """Accuracies and weight norm of every run, an arm a figure; runs that differ in seeds alone share a colour."""
    return {
        "Learning curves": tuple(
            (
                learning_curves(evidence.table(arm), evidence.metrics(arm), title=arm),
                "Accuracy on the test set (solid) and the training set (dotted), and L2 norm of all trained weights. "
                "Runs of one colour differ in their seeds.",
            )
            for arm in evidence.sweeps
            if len(evidence.table(arm))
        )
    }
