"""reproduce: runs a recipe, and writes what it found."""

import io
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import grokinterp
from grokinterp.errors import ConfigError, nearest
from grokinterp.experiments.evidence import Evidence
from grokinterp.experiments.literature import Contradiction, contradictions_of
from grokinterp.experiments.outcome import Claim, Comparison, Figures, Outcome, Progress
from grokinterp.experiments.pages import report_page
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.results import RESULTS, RESULTS_VERSION, results_in
from grokinterp.figures import learning_curves
from grokinterp.report.plots import Figure, write_images
from grokinterp.runs.environment import cores, processor
from grokinterp.runs.files import make_folder, write_atomically
from grokinterp.statistics import FATES
from grokinterp.sweep import Sweep, train_sweep
from grokinterp.sweep.running import Progress as SweepProgress
from grokinterp.training.preparation import choose_device

_PARTS = 100  # of a run, for the progress bar


@dataclass(frozen=True)
class Reproduction:
    """A recipe that was run.

    Attributes:
        recipe: which.
        quick: whether in its quick form.
        folder: holds results.json, the tables as parquet, report.html, and the runs.
        outcome: what was found.
    """

    recipe: Recipe
    quick: bool
    folder: Path
    outcome: Outcome = field(repr=False)

    @property
    def claims(self) -> tuple[Claim, ...]:
        return self.outcome.claims

    @property
    def failed(self) -> tuple[Claim, ...]:
        """Claims that should hold at this scale, and do not."""
        return tuple(claim for claim in self.claims if claim.failed)

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Where publications disagree about this experiment."""
        return contradictions_of(self.recipe.name)

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def rows(self) -> pd.DataFrame:
        """One row a claim, its fields as columns."""
        return pd.DataFrame([asdict(claim) for claim in self.claims])


def recipe_of(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in catalog():
        raise ConfigError(f"no recipe {name!r}: {nearest(name, catalog())}")
    return catalog()[name]


def reproduce(
    name: str,
    folder: str | Path,
    quick: bool = False,
    progress: Progress | None = None,
    *,
    anyway: bool = False,
    images: bool = False,
) -> Reproduction:
    """Runs a recipe and writes results.json, its tables as parquet, and report.html into a folder.

    Runs that an earlier call finished there are used; one that was interrupted is gone on with. What was found from
    them before is replaced.

    Args:
        name: of the recipe; `catalog()` lists them.
        folder: where to write; made where it is not there.
        quick: the smaller form.
        progress: called with the parts done and to do.
        anyway: run a form that wants a GPU where there is none.
        images: write every figure as figure-1.png, figure-2.png, ... too, for a page of `write_document`.

    Raises:
        ConfigError: there is no such recipe, it wants a GPU, the folder holds another form of it, or images cannot be
            made here.
        RunError: the folder cannot be written to.
    """
    recipe, folder = recipe_of(name), Path(folder)
    form = "quick" if quick else "full"
    earlier = results_in(folder)
    if earlier is not None and (earlier["recipe"], earlier["quick"]) != (name, quick):
        theirs = "quick" if earlier["quick"] else "full"
        raise ConfigError(
            f"{folder} holds the {theirs} form of {earlier['recipe']}, not the {form} form of {name}: choose another "
            "folder"
        )
    done = Reproduction(recipe, quick, folder, conduct(recipe, quick, folder, progress, anyway=anyway))
    make_folder(folder)
    for table_name, content in done.outcome.tables.items():
        buffer = io.BytesIO()
        content.to_parquet(buffer)
        write_atomically(folder / f"{table_name}.parquet", buffer.getvalue())
    drawn = [figure for section in done.outcome.figures.values() for figure, _ in section]
    stills = [Figure(figure) for figure in drawn] if images else []  # the report takes their titles away
    write_atomically(done.report, report_page(recipe, quick, done.outcome, done.contradictions))
    write_atomically(folder / RESULTS, json.dumps(_results(done), indent=2, ensure_ascii=False) + "\n")
    for stale in folder.glob("figure-*.png"):
        stale.unlink()
    write_images({folder / f"figure-{i}.png": figure for i, figure in enumerate(stills, start=1)})
    return done


def _results(done: Reproduction) -> dict[str, Any]:
    outcome = done.outcome
    return {
        "recipe": done.recipe.name,
        "title": done.recipe.title,
        "source": done.recipe.source,
        "format_version": RESULTS_VERSION,
        "version": grokinterp.__version__,
        "quick": done.quick,
        "machine": machine(),
        "seconds": outcome.seconds,
        "settings": dict(outcome.settings),
        "claims": [asdict(claim) for claim in outcome.claims],
        "comparisons": [asdict(comparison) for comparison in outcome.comparisons],
        "contradictions": [asdict(contradiction) for contradiction in done.contradictions],
        "warnings": list(outcome.warnings),
        "lost": outcome.lost,
        "tables": [f"{name}.parquet" for name in outcome.tables],
    }


def machine() -> Mapping[str, Any]:
    """What the numbers were made on: processor, cores that may be used, GPU, and versions."""
    return {
        "processor": processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


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
