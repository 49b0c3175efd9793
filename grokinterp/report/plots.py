"""The figures of a report, in order. The docstring of each figure function is its caption."""

import inspect
import re
from collections.abc import Callable
from html import escape
from typing import Any

from plotly.graph_objects import Figure

from grokinterp import figures
from grokinterp.analysis.result import Analysis
from grokinterp.figures.saving import natural_height
from grokinterp.figures.wording import describe
from grokinterp.report.sections import capital

FIGURES: dict[str, tuple[Callable[[list[Analysis]], Figure], ...]] = {
    "At a glance": (figures.overview,),
    "Accuracy and loss": (figures.accuracy_curves, figures.loss_curves),
    "Progress measures": (figures.progress_measures, figures.weight_norms, figures.gini),
    "Frequencies": (
        figures.embedding_spectrum_over_training,
        figures.embedding_spectrum,
        figures.neuron_logit_spectrum,
        figures.key_frequencies_over_training,
        figures.excluded_loss_per_frequency,
        figures.cosine_coefficients,
    ),
    "The circuit": (figures.idealized_accuracy,),
    "Margins": (figures.circuit_efficiency, figures.logit_margins),
}


def plot(function: Callable[[list[Analysis]], Figure], analyses: list[Analysis]) -> str:
    """Return a figure as HTML, with heading, caption and notes; a figure without data is replaced by the reason."""
    return block(function(analyses), function.__name__, caption_of(function))


def caption_of(function: Callable[..., Figure]) -> str:
    """Return the docstring of a figure function without the sections for callers, such as Args."""
    sections = re.split(r"\n\n(?=(?:Args|Returns|Raises|Source):)", inspect.getdoc(function) or "")
    return " ".join(" ".join(text for text in sections if not text.startswith(("Args", "Returns", "Raises"))).split())


def block(figure: Figure, name: str, caption: str = "") -> str:
    """Return a figure as HTML. `name` is its anchor and must be unique on the page."""
    meta: dict[str, Any] = figure.layout.meta  # pyright: ignore[reportAttributeAccessIssue]
    title = str(figure.layout.title.text)  # pyright: ignore[reportAttributeAccessIssue]
    notes = "".join(f'<p class="note">{capital(note)}.</p>' for note in meta["notes"])
    head = f"<h3>{title}</h3>"
    if meta["empty"]:
        return f'<figure class="missing">{head}{notes}</figure>'
    text = escape(describe(figure), quote=True)
    # The page sets the title, so that it can wrap, and the height, which depends on the window's width. Its script
    # replaces plotly's buttons, which the keyboard cannot reach.
    figure.update_layout(title=None, margin_t=40, height=None)
    content = str(figure.to_json()).replace("<", "\\u003c")  # so that no text can end the script element
    caption_html = re.sub("`(.*?)`", r"<code>\1</code>", escape(caption))
    wide, narrow = (natural_height(figure, width) for width in (1000, 370))
    return (
        f'<figure>{head}<div class="steps" role="group" aria-label="step axis"></div>'
        f'<div class="plot" id="{name}" role="img" aria-label="{text}" style="--wide: {wide}px; --narrow: {narrow}px">'
        "</div>"
        f'<script type="application/json" data-for="{name}">{content}</script>'
        f"<figcaption>{caption_html}{notes}</figcaption></figure>"
    )
