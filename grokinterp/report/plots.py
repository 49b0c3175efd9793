"""The figures of a report, in its order. Each brings its docstring along as the caption."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from grokinterp import figures
from grokinterp.analysis.result import Analysis
from grokinterp.errors import ConfigError
from grokinterp.report.sections import capital

FIGURES: dict[str, tuple[Callable[[list[Analysis]], Figure], ...]] = {
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
    "Circuit efficiency": (figures.circuit_efficiency, figures.logit_margins),
}


def plot(function: Callable[[list[Analysis]], Figure], analyses: list[Analysis]) -> str:
    """A figure with its heading, caption and notes; where nothing can be drawn, the reason in its place."""
    return block(function(analyses), function.__name__, caption_of(function))


def caption_of(function: Callable[..., Figure]) -> str:
    """What a figure's docstring says to readers: not what it says to callers, from its first section on."""
    return " ".join(re.split(r"\n\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0].split())


def block(figure: Figure, name: str, caption: str = "") -> str:
    """A finished figure as HTML; `name` is its anchor, and no other figure's on the page."""
    meta: dict[str, Any] = figure.layout.meta  # pyright: ignore[reportAttributeAccessIssue]
    title = str(figure.layout.title.text)  # pyright: ignore[reportAttributeAccessIssue]
    notes = "".join(f'<p class="note">{capital(note)}.</p>' for note in meta["notes"])
    head = f"<h3>{title}</h3>"
    if meta["empty"]:
        return f'<figure class="missing">{head}{notes}</figure>'
    # The page gives the title, so that it can wrap, and the height, which depends on the window's width.
    figure.update_layout(title=None, margin_t=40, height=None)
    content = str(figure.to_json()).replace("<", "\\u003c")  # no text in it can end the script element
    wide, narrow = (_height(figure, meta, width) for width in (1000, 370))
    return (
        f'<figure>{head}<div class="plot" id="{name}" style="--wide: {wide}px; --narrow: {narrow}px"></div>'
        f'<script type="application/json" data-for="{name}">{content}</script>'
        f"<figcaption>{escape(caption)}{notes}</figcaption></figure>"
    )


def write_images(figures: Mapping[Path, Figure], width: int = 1000) -> None:
    """Writes figures as PNG, of this width in pixels, without the buttons that nobody can press there.

    Raises:
        ConfigError: the extra grokinterp[images] or a Chrome for it is missing, or an image could not be made.
    """
    heights = {file: _height(figure, figure.layout.meta, width) for file, figure in figures.items()}  # pyright: ignore
    try:
        for file, figure in figures.items():
            still = Figure(figure)
            still.layout.updatemenus = ()  # pyright: ignore[reportAttributeAccessIssue]
            still.write_image(file, format="png", width=width, height=heights[file])
    except Exception as error:  # kaleido, its Chrome and the file system each have errors of their own
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"no image could be written ({type(error).__name__}: {first}): images need pip install grokinterp[images] "
            "and a Chrome, whose place BROWSER_PATH may give"
        ) from None


def _height(figure: Figure, meta: dict[str, Any], width: int) -> int:
    """Room for the panels and, below them, for the legend as it wraps in a window of that width."""
    entries = [str(trace.name or "") for trace in figure.data if trace.showlegend is not False]  # pyright: ignore
    entries += [str(shape.name or "") for shape in figure.layout.shapes if shape.showlegend]  # pyright: ignore
    longest = max((len(line) for name in entries for line in name.split("<br>")), default=0)
    lines = max((1 + name.count("<br>") for name in entries), default=1)
    rows = lines * math.ceil(len(entries) / max(1, width // (45 + 7 * longest)))
    panels = meta["panels"]
    return 100 + meta.get("height", 300 if panels == 1 else 200 * panels) + 19 * rows
