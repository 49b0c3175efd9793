"""The page that `reproduce` writes of one recipe."""

from collections.abc import Sequence
from html import escape

from grokinterp.experiments.base import VERDICTS, Claim, Comparison, Outcome
from grokinterp.experiments.contradictions import Contradiction
from grokinterp.experiments.recipe import Recipe
from grokinterp.report.page import page
from grokinterp.report.plots import block
from grokinterp.report.sections import table


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
    sections = {"Claims": _claims(outcome.claims)}
    if outcome.comparisons:
        sections["Published and measured"] = _comparisons(outcome.comparisons)
    for title, figures in outcome.figures.items():
        blocks = (block(figure, f"{_anchor(title)}-{i}", caption) for i, (figure, caption) in enumerate(figures))
        sections[title] = "".join(blocks)
    if contradictions:
        sections["Where sources disagree"] = _contradictions(contradictions)
    settings = [[escape(name), escape(str(value))] for name, value in outcome.settings.items()]
    sections["What was run"] = table(["", ""], [["form", "quick" if quick else "full"], *settings])
    return page(escape(recipe.title), lead, [*failed, *map(escape, outcome.warnings)], sections)


def _claims(claims: Sequence[Claim]) -> str:
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


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    rows = [[escape(c.quantity), escape(c.printed), escape(c.measured), str(c.n)] for c in comparisons]
    smaller = not all(c.comparable for c in comparisons)
    said = '<p class="note">These runs are smaller than the published ones: the numbers need not agree.</p>' * smaller
    return said + table(["", "published", "measured: median (range)", "runs"], rows)


def _contradictions(contradictions: Sequence[Contradiction]) -> str:
    rows = [[escape(c.topic), "<br>".join(map(escape, c.says)), escape(c.held)] for c in contradictions]
    return table(["", "what the sources say", "what we hold"], rows, "wide")


def _anchor(title: str) -> str:
    return "figure-" + "-".join(title.lower().split())
