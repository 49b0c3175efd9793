"""reproduce: runs a recipe, and writes what it found."""

import io
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import grokinterp
from grokinterp.errors import ConfigError, nearest
from grokinterp.experiments.base import Claim, Outcome, Progress
from grokinterp.experiments.conduct import conduct
from grokinterp.experiments.contradictions import Contradiction, contradictions_of
from grokinterp.experiments.recipe import Recipe
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.report import report_page
from grokinterp.experiments.results import RESULTS, RESULTS_VERSION, results_in
from grokinterp.report.plots import Figure, write_images
from grokinterp.runs.environment import cores, processor
from grokinterp.runs.files import make_folder, write_atomically


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
