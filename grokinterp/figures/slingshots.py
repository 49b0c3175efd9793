"""Training loss and last-layer norm of the runs of a sweep, where slingshots show."""

from collections.abc import Sequence

import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.inputs import Table, as_table
from grokinterp.figures.style import run_colors
from grokinterp.figures.sweeps import setting_name
from grokinterp.statistics import remaining_axes


def slingshot_curves(table: Table, losses: Sequence[pd.Series], norms: Sequence[pd.Series]) -> Figure:
    """Training loss on a logarithmic axis and, below it, the L2 norm of the last layer's matrix.

    Runs that differ only in their seeds share a color. Long curves are thinned without losing a spike.

    Args:
        table: a Sweep, its path, or rows of its table.
        losses: the training loss of the same runs, in the same order, each indexed by step.
        norms: the norm of the last layer's matrix of the same runs, each indexed by step.

    Raises:
        ConfigError: the three differ in length.
    """
    table = as_table(table)
    if not len(table) == len(losses) == len(norms):
        raise ConfigError(f"{len(table)} rows, {len(losses)} losses and {len(norms)} norms: pass one of each per run")
    axes = remaining_axes(table, [])
    names = [setting_name(axes, row) for _, row in table.iterrows()]
    groups = list(dict.fromkeys(names))
    colors = dict(zip(groups, run_colors(len(groups)), strict=True))
    canvas = Canvas("Slingshots", [], y_titles=["training loss (nats)", "L2 norm of the last layer"], log_y=[True])
    for i, (name, loss, norm) in enumerate(zip(names, losses, norms, strict=True)):
        for row, series in enumerate((loss.dropna(), norm), start=1):
            showlegend = row == 1 and names.index(name) == i
            style = {"color": colors[name], "width": 1.2, "legendgroup": name}
            canvas.line(series, name, hover=name, row=row, showlegend=showlegend, **style)
    return canvas.finish()
