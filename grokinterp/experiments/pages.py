"""The pages of experiments: a report on one recipe in HTML, and one in Markdown on all results."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from grokinterp.errors import RunError
from grokinterp.experiments.literature import ASSERTIONS, CONTRADICTIONS, Contradiction, by_assertion, decide
from grokinterp.experiments.outcome import VERDICTS, Claim, Comparison, Outcome
from grokinterp.experiments.recipe import Recipe
from grokinterp.experiments.results import RESULTS, results_in
from grokinterp.report.page import page as html_page
from grokinterp.report.plots import block
from grokinterp.report.sections import table
from grokinterp.runs.files import make_folder, write_atomically
from grokinterp.training.estimate import duration

Result = Mapping[str, Any]

_TAG = re.compile(r"<(?=[A-Za-z/!?])")

_HEAD = """# Reproductions

What published studies of grokking report, and what grokinterp finds when it runs them. Every line is from a
`results.json` that `grokinterp reproduce` wrote; this page is written from these by

    grokinterp reproduce --document {page} --folder {folder}

and any one of them is made again by `grokinterp reproduce NAME` (with `--quick` where it says "quick form", which is
smaller than the publication: such runs can show a direction, not a published number). `not supported` is a result, not
an error; `inconclusive` means that what was run cannot tell. Times are in updates (epochs, where batches are full).
"""


def write_document(folder: Path, page: Path) -> Path:
    """Writes a Markdown page on all results below a folder; where both forms of a recipe are there, on the full one.

    Args:
        folder: its subfolders are those that `reproduce` wrote.
        page: the file.

    Raises:
        RunError: there are no results, one is damaged, or the page cannot be written.
    """
    results = list(_results(folder))
    if not results:
        raise RunError(f"{folder} has no results: run grokinterp reproduce NAME first, or give its folder by --folder")
    parts = [
        _HEAD.format(page=page.as_posix(), folder=folder.as_posix()),
        _assertions(results),
        *(_source(source, those, folder, page) for source, those in _by_source(results).items()),
        _contradictions(),
    ]
    make_folder(page.parent)
    write_atomically(page, "\n".join(parts))
    return page


def _results(folder: Path) -> Iterable[Result]:
    found: dict[str, Result] = {}
    for file in sorted(folder.glob(f"*/{RESULTS}")):
        read = results_in(file.parent)
        if read is None:  # it went in this instant
            continue
        result = {**_plain(read), "folder": file.parent}
        known = found.get(result["recipe"])
        if known is None or (known["quick"] and not result["quick"]):
            found[result["recipe"]] = result
    return found.values()


def _plain(value: Any) -> Any:
    """The same with no text that a reader of Markdown takes for HTML."""
    if isinstance(value, str):
        return _TAG.sub("&lt;", value)
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _by_source(results: Sequence[Result]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["source"], []).append(result)
    return found


def _assertions(results: Sequence[Result]) -> str:
    """Decided by the runs of published size, and only where these say nothing by smaller ones."""
    quick = {result["recipe"]: bool(result["quick"]) for result in results}
    rows, at_size, scaled_down = [], 0, 0
    for number, claims in by_assertion(results).items():
        found = decide(claim["verdict"] for recipe, claim in claims if not quick[recipe])
        smaller = decide(claim["verdict"] for recipe, claim in claims if quick[recipe])
        at_size += found != "inconclusive"
        if found == "inconclusive" and smaller != "inconclusive":
            scaled_down += 1
            verdict = f"**{smaller}** (smaller runs)"
        else:
            verdict = f"**{found}**"
        evidence = [
            f"{_link(recipe)}{' (quick)' if quick[recipe] else ''}: {claim['name']}: {claim['measured']} "
            f"(n = {claim['n']}; {claim['verdict']})"
            for recipe, claim in claims
        ]
        rows.append([str(number), ASSERTIONS[number], verdict, "<br>".join(evidence) or "not run"])
    return (
        f"\n## The assertions\n\n{at_size + scaled_down} of {len(ASSERTIONS)} are decided: {at_size} by runs of the "
        f'published size, {scaled_down} by smaller ones alone, which can tell a direction or a shape. "Mixed" means '
        "that parts of it hold and others do not.\n\n" + _table(["", "assertion", "verdict", "evidence"], rows)
    )


def _source(source: str, results: Sequence[Result], folder: Path, page: Path) -> str:
    parts = [f"\n## {source}\n"]
    for result in results:
        seconds = result["seconds"]
        form = "Quick form" if result["quick"] else "Full form"
        took = "" if seconds is None else f"; its runs took {duration(seconds)} in all, one thread each"
        parts.append(f"### {result['recipe']}\n\n{result['title']}. {form}{_where(result['machine'])}{took}.\n")
        parts += [f"- {name}: {value}" for name, value in result["settings"].items() if name != "cost"]
        parts += [f"- **{warning}**" for warning in result["warnings"]]
        if result["comparisons"]:
            rows = [[c["quantity"], c["printed"], c["measured"], str(c["n"])] for c in result["comparisons"]]
            parts.append("\n" + _table(["", "published", "measured: median (range)", "runs"], rows))
        rows = [_claim_row(claim) for claim in result["claims"]]
        parts.append("\n" + _table(["claim", "", "published", "measured", "runs", "asked for", "verdict"], rows))
        for image in sorted(Path(result["folder"]).glob("*.png"), key=lambda file: (len(file.name), file.name)):
            parts.append(f"\n![{result['title']}]({os.path.relpath(image, page.parent)})")
    return "\n".join(parts)


def _where(machine: Mapping[str, Any] | None) -> str:
    if machine is None:
        return ""
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return f", on {machine['processor']}, {machine['cores']} cores{gpu}, torch {machine['torch']}"


def _claim_row(claim: Mapping[str, Any]) -> list[str]:
    said = claim["verdict"] + ("" if claim["should_hold"] else " (not expected to hold)")
    texts = [claim[name] for name in ("name", "statement", "published", "measured")]
    return [*texts, str(claim["n"]), claim["threshold"], said]


def _contradictions() -> str:
    rows = [[one.topic, "<br>".join(one.says), one.held] for one in CONTRADICTIONS]
    return "\n## Where sources disagree\n\n" + _table(["", "what the sources say", "what we hold"], rows)


def _link(recipe: str) -> str:
    return f"[{recipe}](#{recipe})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def report_page(recipe: Recipe, quick: bool, outcome: Outcome, contradictions: Sequence[Contradiction]) -> str:
    """The whole page: claims, published beside measured, figures, where sources disagree, and what was run."""
    counts = {verdict: sum(claim.verdict == verdict for claim in outcome.claims) for verdict in VERDICTS}
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    form = recipe.form(quick)
    lead = f'<p class="lead">{escape(recipe.source)}. {len(outcome.claims)} claims: {listed}.</p>'
    if form.note:
        lead += f"<p>{'Quick form' if quick else 'Full form'}: {escape(form.note)}</p>"
    failed = [
        f"<b>{escape(claim.name)}</b>: {escape(claim.statement)} It should at this scale, and does not."
        for claim in outcome.claims
        if claim.failed
    ]
    sections = {"Claims": _claims_section(outcome.claims)}
    if outcome.comparisons:
        sections["Published and measured"] = _comparisons_section(outcome.comparisons)
    for title, figures in outcome.figures.items():
        blocks = (block(figure, f"{_anchor(title)}-{i}", caption) for i, (figure, caption) in enumerate(figures))
        sections[title] = "".join(blocks)
    if contradictions:
        sections["Where sources disagree"] = _contradictions_section(contradictions)
    settings = [[escape(name), escape(str(value))] for name, value in outcome.settings.items()]
    sections["What was run"] = table(["", ""], [["form", "quick" if quick else "full"], *settings])
    return html_page(escape(recipe.title), lead, [*failed, *map(escape, outcome.warnings)], sections)


def _claims_section(claims: Sequence[Claim]) -> str:
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
        for claim in claims
    ]
    return table(head, rows, "claims")


def _comparisons_section(comparisons: Sequence[Comparison]) -> str:
    rows = [[escape(c.quantity), escape(c.printed), escape(c.measured), str(c.n)] for c in comparisons]
    smaller = not all(c.comparable for c in comparisons)
    said = '<p class="note">These runs are smaller than the published ones: the numbers need not agree.</p>' * smaller
    return said + table(["", "published", "measured: median (range)", "runs"], rows)


def _contradictions_section(contradictions: Sequence[Contradiction]) -> str:
    rows = [[escape(c.topic), "<br>".join(map(escape, c.says)), escape(c.held)] for c in contradictions]
    return table(["", "what the sources say", "what we hold"], rows, "wide")


def _anchor(title: str) -> str:
    return "figure-" + "-".join(title.lower().split())
