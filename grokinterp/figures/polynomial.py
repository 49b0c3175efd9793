"""Figures of polynomial regression from lazy to rich (Kumar et al. 2023).

>>> from grokinterp.figures import polynomial
>>> from grokinterp.theory import polynomial_problem, train_polynomial
>>> run = train_polynomial(polynomial_problem(d=20, n_train=60, width=50), curvature=0.5, max_steps=200)
>>> polynomial.polynomial_curves({"ε = 0.5": run}).layout.yaxis.title.text
'mean squared error'
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from plotly import graph_objects as go

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas, log_ticks, tick_label
from grokinterp.figures.ridge import finish
from grokinterp.figures.style import QUANTITY_COLORS, run_colors
from grokinterp.theory import PolynomialRun

__all__ = ["fall_times", "polynomial_curves"]

_AXES = {"scale": "output scale α", "curvature": "curvature ε", "n_train": "training inputs P"}


def polynomial_curves(runs: Mapping[str, PolynomialRun], title: str = "Polynomial regression") -> go.Figure:
    """Training loss (dotted), test loss (solid), weight norm, and alignment of the kernel.

    Args:
        runs: the runs, by legend name.
        title: the figure's title.

    Raises:
        ConfigError: there are no runs.
    """
    if not runs:
        raise ConfigError("no run to draw: pass a dictionary with at least one")
    panels = ["mean squared error", "L2 norm of the weights", "alignment of the kernel"]
    canvas = Canvas(title, [], y_titles=panels)
    for (name, run), color in zip(runs.items(), run_colors(len(runs)), strict=True):
        curves = (
            (run.test_loss, "test loss", "solid", 1),
            (run.train_loss, "train loss", "dot", 1),
            (run.weight_norm, "L2 norm", "solid", 2),
            (run.alignment, "alignment", "solid", 3),
        )
        for i, (values, label, dash, row) in enumerate(curves):
            series = pd.Series(values.numpy(), index=list(run.steps))
            hover = f"{name}, {label}"
            canvas.line(series, name, color=color, dash=dash, hover=hover, row=row, legendgroup=name, showlegend=i == 0)
    canvas.key("test", dash="solid")
    canvas.key("train", dash="dot")
    return canvas.finish(log_step=True)


def fall_times(table: pd.DataFrame, varied: str) -> go.Figure:
    """Steps at which the training and the test loss fall to half, against one setting. Points are seeds, lines medians.

    Args:
        table: has the columns `varied`, T_train and T_test. A time that does not exist is NaN and is not drawn.
        varied: name of the column of the setting.

    Raises:
        ConfigError: the table has no rows.
    """
    if table.empty:
        raise ConfigError("the table has no rows: pass one row per training")
    figure = go.Figure()
    for name, label in (("train", "train loss halves"), ("test", "test loss halves")):
        color = QUANTITY_COLORS[name]
        finite = table.loc[table[f"T_{name}"] > 0]
        medians = finite.groupby(varied)[f"T_{name}"].median()
        marker = {"size": 6, "color": color, "opacity": 0.5}
        hover = f"<b>{label}</b><br>%{{x:.3g}}: step %{{y:,.0f}}<extra></extra>"
        points = {"x": list(finite[varied]), "y": list(finite[f"T_{name}"])}
        figure.add_trace(go.Scatter(**points, mode="markers", marker=marker, hovertemplate=hover, showlegend=False))
        line = {"color": color, "width": 2}
        lines = {"x": list(medians.index), "y": list(medians)}
        figure.add_trace(go.Scatter(**lines, mode="lines", line=line, name=f"{label}, median", hoverinfo="skip"))
    x, y = (np.concatenate([np.asarray(trace[axis], dtype=float) for trace in figure.data]) for axis in "xy")
    axes = (x, figure.update_xaxes, _AXES.get(varied, varied)), (y, figure.update_yaxes, "step")
    for values, update, axis_title in axes:
        low, high = (values.min() / 1.2, values.max() * 1.2) if len(values) else (1.0, 10.0)
        ticks = log_ticks(low, high)
        update(type="log", title_text=axis_title, range=[np.log10(low), np.log10(high)])
        update(tickvals=ticks, ticktext=[tick_label(tick) for tick in ticks])
    missing = int(table[["T_train", "T_test"]].isna().sum().sum())
    notes = [f"not drawn: times of losses that do not fall to half within the budget ({missing})"] if missing else []
    if notes:
        figure.update_layout(title_subtitle={"text": notes[0], "font": {"size": 11}})
    return finish(figure, "When the losses fall", 1, notes)
