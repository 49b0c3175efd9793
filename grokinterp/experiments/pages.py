"""Pages about experiments: an HTML report on one recipe, and a Markdown page on all results."""

import os
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from grokinterp.errors import RunError
from grokinterp.experiments.literature import (
    ASSERTIONS,
    CONTRADICTIONS,
    Contradiction,
    claims_by_assertion,
    combine_verdicts,
)
from grokinterp.experiments.outcome import VERDICTS, Claim, Comparison, Outcome
from grokinterp.experiments.recipe import Recipe
from grokinterp.experiments.results import RESULTS, Machine, Results, results_in
from grokinterp.report.page import page as html_page
from grokinterp.report.page import write_output
from grokinterp.report.plots import block
from grokinterp.report.sections import table as html_table
from grokinterp.statistics.formatting import duration

_COMPARISON_HEAD = ("", "published", "measured: median (range)", "runs")
_CONTRADICTION_HEAD = ("", "what the sources say", "our position")

# Markdown passes HTML tags through; <br> is the only one that the page needs.
_TAG = re.compile(r"<(?=[A-Za-z/!?])(?!br>)")

_MARKDOWN_HEAD = """# Reproductions

This page compares the results that published studies of grokking report with those that grokinterp measures when it
repeats the experiments. All results come from the `results.json` files that `grokinterp reproduce` writes. To
regenerate the page from these files, run

    grokinterp reproduce --document {page} --folder {folder}

To repeat an experiment, run `grokinterp reproduce NAME`. For an experiment marked "quick form", add `--quick`. A quick
form is smaller than the published experiment, so it can show a trend but not reproduce a published number. The verdict
`not supported` is a result, not an error; `inconclusive` means that these runs cannot decide the claim. Times are in
updates, which equal epochs in full-batch training.
"""


def html_report(recipe: Recipe, quick: bool, outcome: Outcome, contradictions: Sequence[Contradiction]) -> str:
    """Renders one recipe as HTML: claims, comparisons, figures, contradictions between sources, and settings."""
    counts = {verdict: sum(claim.verdict == verdict for claim in outcome.claims) for verdict in VERDICTS}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    form = recipe.form(quick)
    lead = f'<p class="lead">{escape(recipe.source)}. {len(outcome.claims)} claims: {summary}.</p>'
    if form.note:
        lead += f"<p>{'Quick form' if quick else 'Full form'}: {escape(form.note)}</p>"
    failures = [
        f"<b>{escape(claim.name)}</b>: {escape(claim.statement)} This should hold at this scale, but does not."
        for claim in outcome.claims
        if claim.failed
    ]
    sections = {"Claims": _html_claims(outcome.claims)}
    if outcome.comparisons:
        sections["Published and measured"] = _html_comparisons(outcome.comparisons)
    for title, figures in outcome.figures.items():
        anchor = "figure-" + "-".join(title.lower().split())
        sections[title] = "".join(
            block(figure, f"{anchor}-{i}", caption) for i, (figure, caption) in enumerate(figures)
        )
    if contradictions:
        sections["Where sources disagree"] = _html_table(
            _CONTRADICTION_HEAD, _contradiction_rows(contradictions), "wide"
        )
    settings = [[name, str(value)] for name, value in outcome.settings.items()]
    sections["What was run"] = _html_table(["", ""], [["form", "quick" if quick else "full"], *settings])
    return html_page(escape(recipe.title), lead, [*failures, *map(escape, outcome.warnings)], sections)


def _html_claims(claims: Iterable[Claim]) -> str:
    rows = [
        [
            f"{escape(claim.name)}<small>{escape(claim.statement)}</small>",
            *map(escape, (claim.published, claim.measured, claim.threshold, str(claim.n))),
            f'<span class="outcome">{claim.verdict}</span>'
            + ("" if claim.should_hold else "<small>not expected to hold</small>"),
        ]
        for claim in claims
    ]
    return html_table(["claim", "published", "measured here", "criterion", "runs", "verdict"], rows, "claims")


def _html_comparisons(comparisons: Sequence[Comparison]) -> str:
    table = _html_table(_COMPARISON_HEAD, _comparison_rows(comparisons))
    if all(comparison.comparable for comparison in comparisons):
        return table
    return f'<p class="note">These runs are smaller than the published ones, so the numbers may differ.</p>{table}'


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Renders plain text as an HTML table; line breaks in cells become <br>."""
    return html_table(head, [[escape(cell).replace("\n", "<br>") for cell in row] for row in rows], kind)


def write_markdown(folder: Path, page: Path) -> Path:
    """Writes a Markdown page on all results below a folder. If a recipe has both forms, the page shows the full one.

    Args:
        folder: the parent of the folders that `reproduce` wrote.
        page: the output file.

    Raises:
        RunError: there are no results, one of them is damaged, or the page cannot be written (as in `write_output`).
    """
    results = _results_below(folder)
    if not results:
        raise RunError(f"{folder} has no results: run grokinterp reproduce NAME first, or use --folder")
    images = {
        result.recipe: [os.path.relpath(file, page.parent) for file in sorted(place.glob("*.png"), key=_by_number)]
        for place, result in results.items()
    }
    by_source: dict[str, list[Results]] = {}
    for result in results.values():
        by_source.setdefault(result.source, []).append(result)
    parts = [
        _MARKDOWN_HEAD.format(page=page.as_posix(), folder=folder.as_posix()),
        _markdown_assertions(list(results.values())),
    ]
    for source, group in by_source.items():
        parts.append(f"\n## {source}\n")
        parts += [_markdown_recipe(result, images[result.recipe]) for result in group]
    contradictions = _markdown_table(_CONTRADICTION_HEAD, _contradiction_rows(CONTRADICTIONS))
    parts.append(f"\n## Where sources disagree\n\n{contradictions}")
    write_output(page, _TAG.sub("&lt;", "\n".join(parts)))
    return page


def _results_below(folder: Path) -> dict[Path, Results]:
    """Reads the results of each recipe, with the folder that holds them."""
    by_recipe: dict[str, tuple[Path, Results]] = {}
    for file in sorted(folder.glob(f"*/{RESULTS}")):
        result = results_in(file.parent)
        if result is None:  # deleted since the folder was listed
            continue
        _, earlier = by_recipe.get(result.recipe, (None, None))
        if earlier is None or (earlier.quick and not result.quick):
            by_recipe[result.recipe] = (file.parent, result)
    return dict(by_recipe.values())


def _by_number(image: Path) -> tuple[int, str]:
    return len(image.name), image.name


def _markdown_assertions(results: Sequence[Results]) -> str:
    """Decides each assertion by runs of the published size, or by smaller runs if those cannot decide it."""
    rows, full_count, quick_count = [], 0, 0
    for number, claims in claims_by_assertion(results).items():
        full = combine_verdicts(claim.verdict for result, claim in claims if not result.quick)
        quick = combine_verdicts(claim.verdict for result, claim in claims if result.quick)
        if full == "inconclusive" and quick != "inconclusive":
            quick_count += 1
            verdict = f"**{quick}** (smaller runs)"
        else:
            full_count += full != "inconclusive"
            verdict = f"**{full}**"
        evidence = [
            f"[{result.recipe}](#{result.recipe}){' (quick)' if result.quick else ''}: {claim.name}: "
            f"{claim.measured} (n = {claim.n}; {claim.verdict})"
            for result, claim in claims
        ]
        rows.append([str(number), ASSERTIONS[number], verdict, "\n".join(evidence) or "not run"])
    return (
        f"\n## The assertions\n\nOf {len(ASSERTIONS)} assertions, {full_count + quick_count} are decided: "
        f"{full_count} by runs of the published size and {quick_count} only by smaller runs, which can show a trend. "
        '"Mixed" means that some parts of an assertion hold and others do not.\n\n'
        + _markdown_table(["", "assertion", "verdict", "evidence"], rows)
    )


def _markdown_recipe(result: Results, images: Iterable[str]) -> str:
    form = "Quick form" if result.quick else "Full form"
    machine = f", on {_describe_machine(result.machine)}" if result.machine else ""
    time = "" if result.seconds is None else f"; total run time {duration(result.seconds)}, one thread per run"
    parts = [
        f"### {result.recipe}\n\n{result.title}. {form}{machine}{time}.\n",
        *(f"- {name}: {value}" for name, value in result.settings.items() if name != "cost"),
        *(f"- **{warning}**" for warning in result.warnings),
    ]
    if result.comparisons:
        parts.append("\n" + _markdown_table(_COMPARISON_HEAD, _comparison_rows(result.comparisons)))
    rows = [
        [
            *(claim.name, claim.statement, claim.published, claim.measured, str(claim.n), claim.threshold),
            claim.verdict if claim.should_hold else f"{claim.verdict} (not expected to hold)",
        ]
        for claim in result.claims
    ]
    head = ["claim", "", "published", "measured", "runs", "criterion", "verdict"]
    parts.append("\n" + _markdown_table(head, rows))
    parts += [f"\n![{result.title}]({image})" for image in images]
    return "\n".join(parts)


def _describe_machine(machine: Machine) -> str:
    gpu = f", {machine.gpu}" if machine.gpu else ""
    return f"{machine.processor}, {machine.cores} cores{gpu}, torch {machine.torch}"


def _markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders plain text as a Markdown table; line breaks in cells become <br>."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in line) + " |" for line in lines
    )


def _comparison_rows(comparisons: Iterable[Comparison]) -> list[list[str]]:
    return [[entry.quantity, entry.printed, entry.measured, str(entry.n)] for entry in comparisons]


def _contradiction_rows(contradictions: Iterable[Contradiction]) -> list[list[str]]:
    return [[entry.topic, "\n".join(entry.sources), entry.resolution] for entry in contradictions]
