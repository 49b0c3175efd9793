"""The look of every figure: one template, and one color per quantity in all figures.

The palette is that of Okabe and Ito (2008), whose colors readers with any common color blindness can tell apart.
"""

from plotly import colors as plotly_colors
from plotly import graph_objects as go

from grokinterp.statistics.outcomes import Outcome

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GRAY, FAINT = "#767676", "#E6E6E6"

# Without yellow, which is invisible as a thin line on white.
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")

QUANTITY_COLORS = {
    "train": BLUE,
    "test": VERMILLION,
    "all": BLACK,
    "mirror": SKY,
    "novel": ORANGE,
    "restricted": GREEN,
    "excluded": PURPLE,
    "total": BLACK,
    "embed": GREEN,
    "unembed": PURPLE,
    "attn": ORANGE,
    "mlp": SKY,
    "pos_embed": GRAY,
}
PHASE_COLORS = {
    "memorization": "rgba(0, 114, 178, 0.09)",
    "until circuit formed": "rgba(240, 228, 66, 0.17)",
    "circuit formation": "rgba(240, 228, 66, 0.17)",
    "cleanup": "rgba(0, 158, 115, 0.10)",
}

OUTCOME_COLORS: dict[str, str] = {
    Outcome.GROKKED: GREEN,
    Outcome.GENERALIZED_WITHOUT_DELAY: SKY,
    Outcome.SEMI_GROKKED: YELLOW,
    Outcome.DNF_TEST: ORANGE,
    Outcome.DNF_TRAIN: VERMILLION,
    Outcome.DIVERGED: PURPLE,
    Outcome.UNDETERMINED: "#B4B4B4",
    Outcome.FAILED: "#4D4D4D",
    Outcome.MISSING: "#EFEFEF",
}
OUTCOME_LABELS: dict[str, str] = {
    Outcome.GROKKED: "grokked",
    Outcome.GENERALIZED_WITHOUT_DELAY: "no delay",
    Outcome.SEMI_GROKKED: "semi-grokked",
    Outcome.DNF_TEST: "DNF test",
    Outcome.DNF_TRAIN: "DNF train",
    Outcome.DIVERGED: "diverged",
    Outcome.UNDETERMINED: "undetermined",
    Outcome.FAILED: "failed",
    Outcome.MISSING: "not begun",
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_AXIS = {
    "showline": True,
    "linecolor": "#9A9A9A",
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#9A9A9A",
    "gridcolor": "#ECECEC",
    "zeroline": False,
    "automargin": True,
    "title": {"standoff": 8},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": "#222222"},
        "paper_bgcolor": "#FFFFFF",
        "plot_bgcolor": "#FFFFFF",
        "colorway": list(PALETTE),
        "title": {"x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top", "font": {"size": 16}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0.0,
            "yanchor": "bottom",
            "x": 0.0,
            "xanchor": "left",
            "font": {"size": 12},
            "bgcolor": "rgba(255, 255, 255, 0)",
        },
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
