"""How every figure looks: one template, and one colour for one quantity wherever it is drawn.

The palette is Okabe and Ito's (2008), which readers with any common colour blindness can tell apart.
"""

from plotly import colors
from plotly import graph_objects as go

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
GREY, FAINT = "#767676", "#E6E6E6"

# Yellow is left out: as a thin line on white it cannot be seen.
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("solid", "dot", "dash", "dashdot", "longdash")

QUANTITY_COLOURS = {
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
    "pos_embed": GREY,
}
PHASE_COLOURS = {
    "memorization": "rgba(0, 114, 178, 0.09)",
    "until circuit formed": "rgba(240, 228, 66, 0.17)",
    "circuit formation": "rgba(240, 228, 66, 0.17)",
    "cleanup": "rgba(0, 158, 115, 0.10)",
}

# What became of a run of a sweep; the order is that of legends and stacked bars.
FATE_COLOURS = {
    "grokked": GREEN,
    "generalized_without_delay": SKY,
    "semi_grokked": YELLOW,
    "DNF_test": ORANGE,
    "DNF_train": VERMILLION,
    "diverged": PURPLE,
    "undetermined": "#B4B4B4",
    "failed": "#4D4D4D",
    "missing": "#EFEFEF",
}
FATE_NAMES = {
    "grokked": "grokked",
    "generalized_without_delay": "no delay",
    "semi_grokked": "semi-grokked",
    "DNF_test": "DNF test",
    "DNF_train": "DNF train",
    "diverged": "diverged",
    "undetermined": "undetermined",
    "failed": "failed",
    "missing": "not begun",
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


def run_colours(n: int) -> list[str]:
    """A colour for each of n runs."""
    return _spread(n, PALETTE)


def key_colours(frequencies: tuple[int, ...]) -> dict[int, str]:
    """The colour of each key frequency of one run, the same in every figure of it; never that of the train loss."""
    colours = _spread(len(frequencies), tuple(colour for colour in PALETTE if colour != QUANTITY_COLOURS["train"]))
    return dict(zip(frequencies, colours, strict=True))


def _spread(n: int, palette: tuple[str, ...]) -> list[str]:
    """The palette while it lasts; beyond, even steps along one scale, since a repeated colour would mislead."""
    if n <= len(palette):
        return list(palette[:n])
    return [str(colour) for colour in colors.sample_colorscale("Viridis", [0.92 * i / (n - 1) for i in range(n)])]


def part_colour(part: str, position: int) -> str:
    """The colour of a part of the model, by the last word of its name."""
    return QUANTITY_COLOURS.get(part.split(".")[-1], PALETTE[position % len(PALETTE)])
