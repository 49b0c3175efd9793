"""The look of every figure: one template, and one color per quantity in all figures.

The palette is that of Okabe and Ito (2008), whose colors readers with any common color blindness can tell apart.
"""

from typing import Any

from plotly import colors as plotly_colors
from plotly import graph_objects as go

from grokinterp.statistics.outcomes import Outcome

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY, FAINT = "#767676", "#E6E6E6"

# Without yellow, which is invisible as a thin line on white.
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")

_PART_COLORS = {"embed": GREEN, "unembed": PURPLE, "attn": ORANGE, "mlp": SKY, "pos_embed": GRAY}
_INPUT_COLORS = {"train": BLUE, "test": VERMILLION, "all": BLACK, "mirror": SKY, "novel": ORANGE}
QUANTITY_COLORS = _INPUT_COLORS | {"restricted": GREEN, "excluded": PURPLE, "total": BLACK} | _PART_COLORS
PHASE_COLORS = {
    "memorization": "rgba(0, 114, 178, 0.09)",
    "until circuit formed": "rgba(240, 228, 66, 0.17)",
    "circuit formation": "rgba(240, 228, 66, 0.17)",
    "cleanup": "rgba(0, 158, 115, 0.10)",
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

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS: dict[str, Any] = {"showline": True, "linecolor": "#9A9A9A", "gridcolor": "#ECECEC", "zeroline": False}
_AXIS |= {"ticks": "outside", "ticklen": 4, "tickcolor": "#9A9A9A", "automargin": True, "title": {"standoff": 8}}
_LEGEND: dict[str, Any] = {"orientation": "h", "font": {"size": 12}, "bgcolor": "rgba(255, 255, 255, 0)"}
_LEGEND |= {"yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.0, "xanchor": "left"}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": "#222222"},
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
    }
)


def run_colors(n: int) -> list[str]:
    """Return one color for each of n runs."""
    return _spread(n, PALETTE)


def key_colors(frequencies: tuple[int, ...]) -> dict[int, str]:
    """Return the color of each key frequency of a run: the same in all figures, and never that of the train loss."""
    palette = tuple(color for color in PALETTE if color != QUANTITY_COLORS["train"])
    return dict(zip(frequencies, _spread(len(frequencies), palette), strict=True))


def _spread(n: int, palette: tuple[str, ...]) -> list[str]:
    """Return the first n colors of the palette, or, if it has fewer, n colors evenly spaced on one scale."""
    if n <= len(palette):
        return list(palette[:n])
    return [str(color) for color in plotly_colors.sample_colorscale("Viridis", [0.92 * i / (n - 1) for i in range(n)])]


def part_color(part: str, position: int) -> str:
    """Return the color of a part of the model, chosen by the last component of its name."""
    return QUANTITY_COLORS.get(part.split(".")[-1], PALETTE[position % len(PALETTE)])
