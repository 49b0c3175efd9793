"""What a recipe is, what it finds, and what `reproduce` writes of it."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd

import grokinterp
from grokinterp.errors import ConfigError, nearest
from grokinterp.files import make_folder, write_atomically
from grokinterp.report.page import page
from grokinterp.report.plots import Figure, block
from grokinterp.report.sections import table

Verdict = Literal["supported", "not supported", "inconclusive"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Claim:
    """A statement, and what became of it.

    Attributes:
        name: short, one word where it can be.
        statement: what is claimed, as a sentence.
        published: what the source says or prints.
        measured: what was found here.
        n: how many runs it rests on.
        threshold: what had to be found for "supported".
        verdict: "inconclusive" where nothing was found that could decide it.
        should_hold: whether we expect it to hold at the scale of the recipe. Some claims are here because they are
            repeated elsewhere and do not hold.
    """

    name: str
    statement: str
    published: str
    measured: str
    n: int
    threshold: str
    verdict: Verdict
    should_hold: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a recipe found.

    Attributes:
        claims: each with its verdict.
        tables: the numbers behind them, by the name of the file they go to.
        figures: by the section of the report they stand in; each with its caption.
        settings: what was run, by name.
    """

    claims: tuple[Claim, ...]
    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, tuple[tuple[Figure, str], ...]]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A published experiment that can be run.

    Attributes:
        name: what `reproduce` calls it.
        title: what it is about.
        source: the publication.
        cost: of the full recipe, on two CPU cores.
        quick_cost: of the quick one.
        module: where its `run(quick, progress) -> Outcome` is.
    """

    name: str
    title: str
    source: str
    cost: str
    quick_cost: str
    module: str

    def run(self, quick: bool, progress: Progress | None) -> Outcome:
        """Runs the experiment."""
        return import_module(self.module).run(quick, progress)


@dataclass(frozen=True)
class Reproduction:
    """A recipe that was run.

    Attributes:
        recipe: which.
        quick: whether in its quick form.
        folder: holds results.json, the tables as parquet, and report.html.
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
        return tuple(claim for claim in self.claims if claim.should_hold and claim.verdict == "not supported")

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def rows(self) -> pd.DataFrame:
        """One row a claim, its fields as columns."""
        return pd.DataFrame([asdict(claim) for claim in self.claims])


_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "ridge",
            "Provable grokking in ridge regression",
            "Xu, Vardi and Safran 2026, arXiv:2601.19791",
            "about a minute",
            "half a minute",
            "grokinterp.experiments.ridge",
        ),
    )
}


def recipes() -> Mapping[str, Recipe]:
    """Every recipe, by name."""
    return MappingProxyType(_RECIPES)


def reproduce(name: str, folder: str | Path, quick: bool = False, progress: Progress | None = None) -> Reproduction:
    """Runs a recipe and writes results.json, its tables as parquet, and report.html into a folder.

    What an earlier run of the recipe wrote there is replaced.

    Args:
        name: of the recipe; `recipes()` lists them.
        folder: where to write; made where it is not there.
        quick: fewer seeds and settings.
        progress: called with the parts done and to do.

    Raises:
        ConfigError: there is no such recipe.
        RunError: the folder cannot be written to.
    """
    if name not in _RECIPES:
        raise ConfigError(f"no recipe {name!r}: {nearest(name, _RECIPES)}")
    recipe, folder = _RECIPES[name], Path(folder)
    make_folder(folder)
    done = Reproduction(recipe, quick, folder, recipe.run(quick, progress))
    for table_name, content in done.outcome.tables.items():
        buffer = io.BytesIO()
        content.to_parquet(buffer)
        write_atomically(folder / f"{table_name}.parquet", buffer.getvalue())
    write_atomically(folder / "results.json", json.dumps(_results(done), indent=2, ensure_ascii=False) + "\n")
    write_atomically(done.report, _page(done))
    return done


def _results(done: Reproduction) -> dict[str, Any]:
    return {
        "recipe": done.recipe.name,
        "source": done.recipe.source,
        "version": grokinterp.__version__,
        "quick": done.quick,
        "settings": dict(done.outcome.settings),
        "claims": [asdict(claim) for claim in done.claims],
        "tables": [f"{name}.parquet" for name in done.outcome.tables],
    }


def _page(done: Reproduction) -> str:
    counts = {v: sum(c.verdict == v for c in done.claims) for v in ("supported", "not supported", "inconclusive")}
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lead = f'<p class="lead">{escape(done.recipe.source)}. {len(done.claims)} claims: {listed}.</p>'
    failed = [f"<b>{escape(claim.name)}</b>: {escape(claim.statement)}" for claim in done.failed]
    head = ["claim", "published", "measured here", "asked for", "runs", "verdict"]
    rows = [
        [
            f"{escape(claim.name)}<small>{escape(claim.statement)}</small>",
            escape(claim.published),
            escape(claim.measured),
            escape(claim.threshold),
            str(claim.n),
            f'<span class="outcome">{claim.verdict}</span>'
            + ("" if claim.should_hold else "<small>not expected to hold</small>"),
        ]
        for claim in done.claims
    ]
    sections = {"Claims": table(head, rows, "claims")}
    for title, figures in done.outcome.figures.items():
        blocks = (block(figure, f"{_anchor(title)}-{i}", caption) for i, (figure, caption) in enumerate(figures))
        sections[title] = "".join(blocks)
    settings = [[escape(name), escape(str(value))] for name, value in done.outcome.settings.items()]
    sections["What was run"] = table(["", ""], [["form", "quick" if done.quick else "full"], *settings])
    return page(escape(done.recipe.title), lead, failed, sections, "Should hold at this scale, and does not")


def _anchor(title: str) -> str:
    return "figure-" + "-".join(title.lower().split())
