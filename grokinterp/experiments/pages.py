"""The HTML report on one recipe."""

from collections.abc import Iterable, Sequence
from html import escape

from grokinterp.experiments.contradictions import Contradiction
from grokinterp.experiments.outcome import VERDICTS, Claim, Comparison, Outcome
from grokinterp.experiments.recipe import Recipe
from grokinterp.report.page import page as html_page
from grokinterp.report.plots import block
from grokinterp.report.sections import table as html_table

COMPARISON_HEAD = ("", "published", "measured: median (range)", "runs")
CONTRADICTION_HEAD = ("", "what the sources say", "our position")


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
        sections["Where sources disagree"] = _html_table(CONTRADICTION_HEAD, contradiction_rows(contradictions), "wide")
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
    table = _html_table(COMPARISON_HEAD, comparison_rows(comparisons))
    if all(comparison.comparable for comparison in comparisons):
        return table
    return f'<p class="note">These runs are smaller than the published ones, so the numbers may differ.</p>{table}'


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Renders plain text as an HTML table; line breaks in cells become <br>."""
    return html_table(head, [[escape(cell).replace("\n", "<br>") for cell in row] for row in rows], kind)


def comparison_rows(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """The rows of a table of published and measured numbers."""
    return [[entry.quantity, entry.printed, entry.measured, str(entry.n)] for entry in comparisons]


def contradiction_rows(contradictions: Iterable[Contradiction]) -> list[list[str]]:
    """The rows of a table of contradictions."""
    return [[entry.topic, "\n".join(entry.sources), entry.resolution] for entry in contradictions]
