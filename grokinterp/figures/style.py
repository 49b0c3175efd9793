"""The look of every figure: one template, and one color per quantity in all figures.

The palette is that of Okabe and Ito (2008), but with a dark violet instead of their reddish purple, which readers with
deuteranopia cannot tell from their green: CIE 1976 color differences of 18 and, with violet, 54. Since even the best
palette has close colors, curves of one figure also differ in their markers or dashes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from plotly import colors as plotly_colors
from plotly import graph_objects as go
from plotly import io as pio

from grokinterp.statistics.outcomes import Outcome

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE, VIOLET = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#4B0055"
GRAY, FAINT = "#767676", "#E6E6E6"

# Without yellow, which is invisible as a thin line on white.
PALETTE = (BLUE, VERMILLION, GREEN, VIOLET, ORANGE, SKY, BLACK)
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star", "pentagon", "cross")

_PART_COLORS = {"embed": GREEN, "unembed": VIOLET, "attn": ORANGE, "mlp": SKY, "pos_embed": GRAY}
_INPUT_COLORS = {"train": BLUE, "test": VERMILLION, "all": BLACK, "mirror": SKY, "novel": ORANGE}
QUANTITY_COLORS = _INPUT_COLORS | {"restricted": GREEN, "excluded": VIOLET, "total": BLACK} | _PART_COLORS
_SYMBOL_ORDER = ("test", "train", "restricted", "excluded", "novel", "mirror", "embed", "unembed", "pos_embed")
QUANTITY_SYMBOLS = dict(zip(_SYMBOL_ORDER, SYMBOLS, strict=True)) | {"attn": "square", "mlp": "x"}
PHASE_COLORS = {
    "memorization": "rgba(0, 114, 178, 0.09)",
    "until circuit formed": "rgba(240, 228, 66, 0.17)",
    "circuit formation": "rgba(240, 228, 66, 0.17)",
    "cleanup": "rgba(0, 158, 115, 0.10)",
}
PHASE_BORDERS = {
    "memorization": "rgba(0, 114, 178, 0.35)",
    "until circuit formed": "rgba(196, 180, 0, 0.45)",
    "circuit formation": "rgba(196, 180, 0, 0.45)",
    "cleanup": "rgba(0, 158, 115, 0.4)",
}

_OUTCOME_STYLES: dict[str, tuple[str, str]] = {
    Outcome.GROKKED: ("grokked", GREEN),
    Outcome.GENERALIZED_WITHOUT_DELAY: ("no delay", SKY),
    Outcome.SEMI_GROKKED: ("semi-grokked", YELLOW),
    Outcome.DNF_TEST: ("DNF test", ORANGE),
    Outcome.DNF_TRAIN: ("DNF train", VERMILLION),
    Outcome.DIVERGED: ("diverged", PURPLE),
    Outcome.UNDETERMINED: ("undetermined", "#B4B4B4"),
    Outcome.FAILED: ("failed", "#4D4D4D"),
    Outcome.MISSING: ("not begun", "#EFEFEF"),
}
OUTCOME_LABELS = {outcome: label for outcome, (label, _) in _OUTCOME_STYLES.items()}
OUTCOME_COLORS = {outcome: color for outcome, (_, color) in _OUTCOME_STYLES.items()}

FONT_SIZE = 13  # pixels
BUTTONS = 36  # height of the buttons above a figure, in pixels
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS: dict[str, Any] = {"showline": True, "linecolor": "#9A9A9A", "gridcolor": "#ECECEC", "zeroline": False}
_AXIS |= {"ticks": "outside", "ticklen": 4, "tickcolor": "#9A9A9A", "automargin": True, "title": {"standoff": 8}}
_LEGEND: dict[str, Any] = {"orientation": "h", "font": {"size": 12}, "bgcolor": "rgba(255, 255, 255, 0)"}
_LEGEND |= {"yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.0, "xanchor": "left"}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": FONT_SIZE, "color": "#222222"},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "colorway": list(PALETTE),
        "title": {"x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top", "font": {"size": 16}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": _LEGEND,
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left", "namelength": -1},
        "hovermode": "closest",
        "margin": {"l": 56, "r": 16, "t": 100, "b": 48},
        # The button that uploads a chart to a server, shown by default since plotly.js 3.7.
        "modebar": {"remove": ["sendChartToCloud"]},
    }
)


def show_in_exported_notebooks() -> None:
    """Let `jupyter nbconvert --to html` show figures, unless the user chose how plotly shows them.

    In Jupyter, plotly stores only data for the front end to draw, which nbconvert cannot draw. Here the output also
    gets an HTML form, and the first one the library plotly.js.
    """
    if pio.renderers.default == "plotly_mimetype" and "PLOTLY_RENDERER" not in os.environ:
        pio.renderers.default = "plotly_mimetype+notebook"


def run_colors(n: int) -> list[str]:
    """Return one color for each of n runs: those of the palette or, for more runs, evenly spaced ones on one scale."""
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    return [str(color) for color in plotly_colors.sample_colorscale("Viridis", [0.92 * i / (n - 1) for i in range(n)])]


def run_symbols(n: int) -> list[str]:
    """Return the marker of each of n runs."""
    return [SYMBOLS[i % len(SYMBOLS)] for i in range(n)]


class LineStyle(NamedTuple):
    """What sets a curve apart from the others of its figure."""

    color: str
    dash: str
    symbol: str


def key_styles(frequencies: tuple[int, ...]) -> dict[int, LineStyle]:
    """Return the style of each key frequency of a run: the same in all figures, and never the color of the train loss.

    Colors repeat after six keys, but then with another dash and another marker.
    """
    colors = [color for color in PALETTE if color != QUANTITY_COLORS["train"]]
    return {
        k: LineStyle(colors[i % len(colors)], DASHES[i % len(DASHES)], SYMBOLS[i % len(SYMBOLS)])
        for i, k in enumerate(frequencies)
    }


def part_styles(parts: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each part of a model; parts of one kind, such as blocks.0.mlp and blocks.1.mlp, share colors.

    Their dashes differ.
    """
    styles, counts = {}, Counter()
    for i, part in enumerate(parts):
        kind = part.split(".")[-1]
        color = QUANTITY_COLORS.get(kind, PALETTE[i % len(PALETTE)])
        symbol = QUANTITY_SYMBOLS.get(kind, SYMBOLS[i % len(SYMBOLS)])
        styles[part] = LineStyle(color, DASHES[counts[color] % len(DASHES)], symbol)
        counts[color] += 1
    return styles
