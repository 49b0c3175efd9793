"""reproduce: runs a recipe and writes its results."""

import io
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import grokinterp
from grokinterp.config import TaskConfig
from grokinterp.errors import ConfigError, RunError, nearest
from grokinterp.experiments.claims.numbers import counted
from grokinterp.experiments.contradictions import Contradiction, contradictions_of
from grokinterp.experiments.evidence import Entry, Evidence
from grokinterp.experiments.outcome import Claim, Comparison, Figures, Outcome, Progress
from grokinterp.experiments.pages import html_report
from grokinterp.experiments.recipe import Arm, Form, Published, Recipe
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.records.computation import Computation
from grokinterp.experiments.records.folder import Records, default_folder
from grokinterp.experiments.results import RESULTS, RESULTS_VERSION, Machine, Results, results_in
from grokinterp.experiments.training import ALL, Choice, configurations, recorded, train_missing
from grokinterp.figures import learning_curves
from grokinterp.figures.saving import rendered
from grokinterp.runs.checksums import is_own
from grokinterp.runs.environment import cores, processor
from grokinterp.runs.files import exists, make_folder, remove, write_atomically
from grokinterp.statistics.formatting import step_or_ratio
from grokinterp.statistics.outcomes import Outcome as RunOutcome
from grokinterp.training.preparation import choose_device

_SCREEN = {"width": 1000 / 96, "font_size": 9.75, "dpi": 96}  # 1,000 pixels, with text of the usual size


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction.

    >>> from grokinterp.experiments import Outcome, catalog
    >>> outcome = Outcome(claims=(), tables={}, figures={}, settings={})
    >>> Reproduction(catalog()["ridge"], quick=True, folder=Path("results"), outcome=outcome).report
    PosixPath('results/report.html')

    Attributes:
        recipe: the recipe.
        quick: whether this is its quick form.
        folder: holds results.json, the tables as parquet, report.html, and the runs.
        outcome: its claims, tables and figures.
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
        """Claims that should hold at this scale but do not."""
        return tuple(claim for claim in self.claims if claim.failed)

    @property
    def contradictions(self) -> tuple[Contradiction, ...]:
        """Disagreements between publications about this experiment."""
        return contradictions_of(self.recipe.name)

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def rows(self) -> pd.DataFrame:
        """The claims as a table: one row per claim, one column per field."""
        return pd.DataFrame([asdict(claim) for claim in self.claims])


def recipe_of(name: str) -> Recipe:
    """Looks up a recipe.

    Raises:
        ConfigError: there is no recipe of that name.
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
    records: str | Path | None = None,
    choice: Choice = ALL,
) -> Reproduction:
    """Runs a recipe and writes results.json, its tables as parquet, and report.html into a folder.

    >>> reproduction = reproduce("memo-parity", "results/memo-parity", quick=True)  # doctest: +SKIP
    >>> [claim.verdict for claim in reproduction.outcome.claims]  # doctest: +SKIP

    Trains only runs that have no record, resumes interrupted ones, and adds the record of each run of the full form as
    soon as it has ended. Replaces earlier results in the folder.

    Args:
        name: the name of the recipe; `catalog()` lists them.
        folder: the output folder, created if needed.
        quick: run the smaller form.
        progress: called with the completed and the total number of parts.
        anyway: train a form that needs a GPU without one.
        images: also write every figure as figure-1.png, figure-2.png, ..., for a page of `write_markdown`.
        records: the folder of records (default: that of the documentation in a source checkout, else
            reproductions/records).
        choice: which of the runs without a record to train.

    Raises:
        ConfigError: there is no such recipe, it needs a GPU, the folder holds another recipe or form, or this machine
            cannot write images.
        RunError: the folder cannot be written to.
    """
    recipe, folder = recipe_of(name), Path(folder)
    form = "quick" if quick else "full"
    earlier = results_in(folder)
    if earlier is not None and (earlier.recipe, earlier.quick) != (name, quick):
        earlier_form = "quick" if earlier.quick else "full"
        raise ConfigError(
            f"{folder} holds the {earlier_form} form of {earlier.recipe}, not the {form} form of {name}: choose "
            "another folder"
        )
    if earlier is None and exists(folder / "report.html") and not is_own(folder / "report.html"):
        raise RunError(f"{folder / 'report.html'} exists, but is of no reproduction: choose another folder")
    kept = None if records is None else Path(records)
    outcome = run_recipe(recipe, quick, folder, progress, anyway=anyway, records=kept, choice=choice)
    result = Reproduction(recipe, quick, folder, outcome)
    make_folder(folder)
    for table_name, content in result.outcome.tables.items():
        buffer = io.BytesIO()
        content.to_parquet(buffer)
        write_atomically(folder / f"{table_name}.parquet", buffer.getvalue())
    figures = [figure for section in result.outcome.figures.values() for figure, _ in section]
    stills = deepcopy(figures) if images else []  # copies, because the report removes the titles
    write_atomically(folder / RESULTS, json.dumps(_results(result), indent=2, ensure_ascii=False) + "\n")
    write_atomically(result.report, html_report(recipe, quick, result.outcome, result.contradictions))
    pngs = rendered(stills, "png", **_SCREEN) if images else []
    for stale in folder.glob("figure-*.png"):
        if stale.stem.removeprefix("figure-").isdecimal():
            remove(stale)
    for i, image in enumerate(pngs, start=1):
        write_atomically(folder / f"figure-{i}.png", image)
    return result


def _results(result: Reproduction) -> dict[str, Any]:
    outcome = result.outcome
    return {
        "recipe": result.recipe.name,
        "title": result.recipe.title,
        "source": result.recipe.source,
        "format_version": RESULTS_VERSION,
        "version": grokinterp.__version__,
        "quick": result.quick,
        "machine": machine(),
        "seconds": outcome.seconds,
        "settings": dict(outcome.settings),
        "claims": [asdict(claim) for claim in outcome.claims],
        "comparisons": [asdict(comparison) for comparison in outcome.comparisons],
        "contradictions": [contradiction.to_dict() for contradiction in result.contradictions],
        "warnings": list(outcome.warnings),
        "lost": outcome.lost,
        "missing": outcome.missing,
        "bf16": outcome.bf16,
        "partial": outcome.partial,
        "tables": [f"{name}.parquet" for name in outcome.tables],
    }


def machine() -> Mapping[str, Any]:
    """Describes this machine: processor, usable cores, GPU, and versions."""
    return {
        "processor": processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run_recipe(
    recipe: Recipe,
    quick: bool,
    folder: Path,
    progress: Progress | None,
    *,
    anyway: bool = False,
    records: Path | None = None,
    choice: Choice = ALL,
) -> Outcome:
    """Runs a recipe or continues it: trains only runs without a record, and resumes interrupted ones.

    Args:
        recipe: the recipe.
        quick: run its quick form, whose runs leave no records.
        folder: the runs go into its subfolder `runs`.
        progress: called with the completed and the total number of parts.
        anyway: train a form that needs a GPU without one.
        records: the folder of records; None for the default.
        choice: which of the runs without a record to train.

    Raises:
        ConfigError: runs of a form that needs a GPU have no record, and there is none; or a choice is unknown.
        RunError: a record is damaged.
        KeyboardInterrupt: the user interrupted the run. Finished and interrupted runs stay in the folder.
    """
    form = recipe.form(quick)
    choice.require_known(form)
    shelf = Records(default_folder() if records is None else records)
    found = {} if quick else recorded(recipe, form, shelf)
    complete = bool(form.arms) and len(found) == sum(len(arm.expanded()) for arm in form.arms)
    if form.gpu and not complete and not anyway and choice == ALL and not choose_device("auto").startswith("cuda"):
        raise ConfigError(
            f"{recipe.name} needs a GPU ({form.cost}), and this machine has none: use --quick for the smaller form, "
            "--arms, --only or --seeds to choose some of its runs, or --anyway to train them all on the CPU"
        )
    if recipe.run is not None:
        outcome = recipe.run(quick, progress)
        if not quick:
            shelf.add_computation(Computation.of(recipe.name, outcome))
        return outcome
    extracting = [(recipe.name, arm) for arm in form.arms] if quick else extracting_arms()
    keep = (lambda record: None) if quick else shelf.add
    entries = train_missing(recipe, form, folder / "runs", found, choice, progress, keep, extracting)
    return outcome_of(recipe, Evidence(recipe.name, entries, quick))


def outcome_of(recipe: Recipe, evidence: Evidence, *, draw: bool = True) -> Outcome:
    """Decides the claims of a recipe and draws its figures.

    Args:
        recipe: the recipe.
        evidence: its runs.
        draw: whether to draw the figures, too.
    """
    figures = recipe.figures or curves_of_arms
    return Outcome(
        claims=recipe.decide(evidence) if recipe.decide else (),
        tables=evidence.tables,
        figures=figures(evidence) if draw else {},
        settings=_settings(recipe.form(evidence.quick), evidence),
        comparisons=tuple(compare(evidence, recipe.published)),
        warnings=(*evidence.lost, *evidence.diverged),
        lost=len(evidence.lost),
        missing=evidence.missing,
        bf16=evidence.bf16,
        partial=evidence.partial,
        seconds=evidence.seconds,
    )


def results_of_records(recipe: Recipe, records: Records) -> Results | None:
    """The results of a recipe's full form from records alone; None if it has none.

    Raises:
        RunError: a record is damaged.
    """
    if recipe.run is not None:
        return _results_of_computation(recipe, records.computation(recipe.name))
    form = recipe.form(quick=False)
    found = recorded(recipe, form, records)
    if not found:
        return None
    entries = {
        arm.name: [Entry(name, config, found.get((arm.name, name))) for name, config in configurations(arm).items()]
        for arm in form.arms
    }
    try:
        outcome = outcome_of(recipe, Evidence(recipe.name, entries, quick=False), draw=False)
    except (KeyError, TypeError, AttributeError) as error:  # `extracted` is of an earlier version, or damaged
        raise RunError(
            f"records of {recipe.name} do not hold what its claims need ({error}): remove records/{recipe.name} and "
            "train its runs again"
        ) from None
    shared = ("seconds", "settings", "claims", "comparisons", "warnings", "lost", "missing", "bf16", "partial")
    return Results(
        recipe.name,
        recipe.title,
        recipe.source,
        False,
        machine=_machines([record.environment for record in found.values()]),
        **{name: getattr(outcome, name) for name in shared},
    )


def _results_of_computation(recipe: Recipe, computation: Computation | None) -> Results | None:
    if computation is None:
        return None
    machine = _machines([computation.environment])
    settings, claims = computation.inputs, computation.claims
    return Results(
        recipe.name, recipe.title, recipe.source, False, None, machine, settings, claims, (), (), 0, 0, False, False
    )


def _machines(environments: Sequence[Mapping[str, Any]]) -> Machine:
    """The machines on which runs were recorded, as one."""
    processors = {str(environment.get("processor", "unknown processor")) for environment in environments}
    versions = {str(dict(environment["packages"]).get("torch", "unknown")) for environment in environments}
    return Machine(", ".join(sorted(processors)), None, None, ", ".join(sorted(versions)))


def extracting_arms() -> list[tuple[str, Arm]]:
    """The arms of all full forms that extract something from their runs, each with the name of its recipe."""
    return [(name, arm) for name, recipe in catalog().items() for arm in recipe.full.arms if arm.extract is not None]


def compare(evidence: Evidence, published: tuple[Published, ...]) -> Iterator[Comparison]:
    """Compares published numbers with the median and range of the measured ones.

    Skips numbers whose runs are not part of this form, which happens mostly in the quick form.
    """
    for number in published:
        if number.arm not in evidence.entries:
            continue
        table = evidence.table(number.arm, number.where)
        if len(table):
            measured = _counts(table) if number.column == "outcome" else _median_and_range(table[number.column])
            yield Comparison(number.quantity, number.printed, measured, len(table), comparable=not evidence.quick)


def _counts(table: pd.DataFrame) -> str:
    counts = Counter(table["outcome"])
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in RunOutcome if outcome in counts)


def _median_and_range(column: Any) -> str:
    """Formats the median and range of the values in a column; missing values are counted."""
    values = np.asarray(column.dropna(), dtype=float)
    if not len(values):
        return f"none of {len(column)}"
    text = step_or_ratio(float(np.median(values)))
    if len(values) > 1:
        text += f" ({step_or_ratio(values.min())} to {step_or_ratio(values.max())})"
    return text if len(values) == len(column) else f"{text}, {len(values)} of {len(column)}"


def _settings(form: Form, evidence: Evidence) -> dict[str, Any]:
    note = {"note": form.note} if form.note else {}
    arms = {arm.name: _describe_arm(arm, len(evidence.table(arm.name))) for arm in form.arms}
    return {"cost": form.cost} | note | arms


def _describe_arm(arm: Arm, count: int) -> str:
    task, title, size = arm.base.task, arm.base.task.title, len(arm.expanded())
    if isinstance(task, TaskConfig) and "task.operation" in arm.grid:
        title = f"arithmetic mod {task.p}"
    text = f"{counted(size, 'run')} of {title}" if count == size else f"{count} of {counted(size, 'run')} of {title}"
    axes = "; ".join(f"{name} = {', '.join(map(str, values))}" for name, values in arm.grid.items())
    return f"{text}: {axes}" if axes else text


def curves_of_arms(evidence: Evidence) -> Figures:
    """Draws the accuracies and weight norm of every run: one figure per arm, one color per setting."""
    return {
        "Learning curves": tuple(
            (
                learning_curves(evidence.table(arm), evidence.metrics(arm), title=arm),
                "Accuracy on the test set (solid) and the training set (dotted), and L2 norm of all trained weights. "
                "Runs that differ only in their seeds share a color.",
            )
            for arm in evidence.arms
        )
    }
