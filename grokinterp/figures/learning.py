"""Learning curves of the runs of a sweep: accuracies and weight norm, a colour a setting."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.style import GREY, QUANTITY_COLOURS, run_colours
from grokinterp.figures.sweeps import setting_name
from grokinterp.statistics import remaining_axes, settings

_PANELS = {
    "accuracy": (("train_accuracy", "train", "dot"), ("test_accuracy", "test", "solid")),
    "L2 norm of the weights": (("weight_norm", "L2 norm", "solid"),),
}
_MOST_POINTS = 400  # of a curve; more are no sharper at a figure's width


def learning_curves(table: pd.DataFrame, metrics: Sequence[pd.DataFrame], title: str = "Learning curves") -> Figure:
    """Accuracy on the test set (solid) and the training set (dotted), and the L2 norm of all trained weights.

    Runs that differ in their seeds alone have one colour.

    Args:
        table: rows of a sweep's table.
        metrics: of the same runs, in the same order: what was evaluated, by step.
        title: of the figure.

    Raises:
        ConfigError: the two are not of one length.
    """
    if len(table) != len(metrics):
        raise ConfigError(f"{len(table)} rows and the metrics of {len(metrics)} runs were given: give one each")
    canvas = Canvas(escape(title), [], y_titles=list(_PANELS))
    axes = remaining_axes(table, [])
    names = [setting_name(axes, row) for _, row in table.iterrows()]
    groups = [setting_name(axes, setting) for setting, runs in settings(table, axes) if len(runs)]
    colours = dict(zip(groups, run_colours(len(groups)), strict=True))
    named: set[str] = set()
    for name, metric in zip(names, metrics, strict=True):
        for row, lines in enumerate(_PANELS.values(), start=1):
            for column, what, dash in lines:
                if column not in metric:
                    canvas.absent(what, "it was not measured", row)
                    continue
                show = bool(name) and name not in named and dash == "solid"
                named |= {name} if show else set()
                canvas.line(
                    _thinned(metric[column]),
                    name,
                    colour=colours[name],
                    dash=dash,
                    width=1.4,
                    hover=f"{name}, {what}" if name else what,
                    row=row,
                    legendgroup=name,
                    showlegend=show,
                )
    canvas.key("test", dash="solid")
    canvas.key("train", dash="dot")
    return canvas.finish()


def pair_curves(
    metrics: Sequence[pd.DataFrame], title: str = "Mirrored and novel test pairs", *, log_step: bool = True
) -> Figure:
    """Accuracy on training pairs, test pairs, and the two kinds of these, with the RMS of the weights.

    A test pair is mirrored where (b, a) was trained on, and novel where it was not.

    Args:
        metrics: of each run, by step; every run is a line of each colour.
        title: of the figure.
        log_step: begin with a logarithmic axis of steps.
    """
    canvas = Canvas(escape(title), [], y_titles=["accuracy", "RMS of the weights"])
    for i, metric in enumerate(metrics):
        for name in ("train", "mirror", "test", "novel"):
            column, colour = f"{name}_accuracy", QUANTITY_COLOURS[name]
            called = {"mirror": "mirrored"}.get(name, name)
            if column not in metric:
                canvas.absent(f"accuracy on {called} pairs", "it was not measured")
                continue
            shared = {"legendgroup": name, "showlegend": i == 0, "dash": "dot" if name == "train" else "solid"}
            canvas.line(_thinned(metric[column]), f"{called} pairs", colour=colour, width=1.6, **shared)
        canvas.line(_thinned(metric["weight_rms"]), "RMS", colour=GREY, width=1.6, row=2, showlegend=False)
    figure = canvas.finish(log_step=log_step)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _thinned(column: Any) -> pd.Series:
    """What is known of a curve, at as many points as a figure can show."""
    series = pd.Series(column).dropna()
    return pd.Series(series.iloc[:: max(1, -(-len(series) // _MOST_POINTS))])
