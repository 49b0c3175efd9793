"""Training loss and last-layer norm of the runs of a sweep, where slingshots show."""

from collections.abc import Sequence

import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.style import run_colours
from grokinterp.figures.sweeps import setting_name
from grokinterp.statistics import remaining_axes

_MOST_POINTS = 1500  # of a curve


def slingshot_curves(table: pd.DataFrame, losses: Sequence[pd.Series], norms: Sequence[pd.Series]) -> Figure:
    """Training loss on a logarithmic axis, and the L2 norm of the last layer's matrix below it.

    Runs that differ in their seeds alone have one colour. A curve of more than 1500 points shows the largest loss of
    each stretch, so that no spike is left out.

    Args:
        table: rows of a sweep's table.
        losses: training loss of the same runs, in order, by step.
        norms: norm of the last layer's matrix of the same runs, by step.

    Raises:
        ConfigError: the three are not of one length.
    """
    if not len(table) == len(losses) == len(norms):
        raise ConfigError(f"{len(table)} rows, {len(losses)} losses and {len(norms)} norms were given: give one each")
    axes = remaining_axes(table, [])
    names = [setting_name(axes, row) for _, row in table.iterrows()]
    groups = list(dict.fromkeys(names))
    colours = dict(zip(groups, run_colours(len(groups)), strict=True))
    canvas = Canvas("Slingshots", [], y_titles=["training loss (nats)", "L2 norm of the last layer"], log_y=[True])
    for i, (name, loss, norm) in enumerate(zip(names, losses, norms, strict=True)):
        for row, series in enumerate((_highest(loss.dropna()), norm), start=1):
            canvas.line(
                series,
                name,
                colour=colours[name],
                width=1.2,
                hover=name,
                row=row,
                legendgroup=name,
                showlegend=row == 1 and names.index(name) == i,
            )
    return canvas.finish()


def _highest(loss: pd.Series) -> pd.Series:
    """The largest of each stretch, at its step."""
    stretch = -(-len(loss) // _MOST_POINTS)
    if stretch <= 1:
        return loss
    highest = [loss.iloc[i : i + stretch].idxmax() for i in range(0, len(loss), stretch)]
    return pd.Series(loss.loc[highest])
