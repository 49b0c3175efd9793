"""Learning curves of the runs of a sweep: accuracies and weight norm, with one color per setting."""

from collections.abc import Sequence
from html import escape

import pandas as pd
from plotly.graph_objects import Figure

from grokinterp.analysis.phases import known_values
from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.inputs import Analyses, Table, as_metrics, table_and_metrics
from grokinterp.figures.style import GRAY, QUANTITY_COLORS, run_colors
from grokinterp.figures.sweeps import setting_name
from grokinterp.statistics import SEEDS, remaining_axes, settings

_PANELS = {
    "accuracy": (("train_accuracy", "train", "dot"), ("test_accuracy", "test", "solid")),
    "loss": (("train_loss", "train loss", "dot"), ("test_loss", "test loss", "solid")),
    "L2 norm of the weights": (("weight_norm", "L2 norm", "solid"),),
}
_MOST_SEEDS = 10  # of a single setting; more are not told apart by color
_MOST_POINTS = 400  # per curve; at a figure's width, more look no sharper


def learning_curves(
    table: Table | Analyses,
    metrics: Sequence[pd.DataFrame] | None = None,
    title: str = "Learning curves",
    *,
    losses: bool = False,
) -> Figure:
    """Test accuracy (solid), train accuracy (dotted), and the L2 norm of all trained weights.

    Runs that differ only in their seeds share a color, unless these are up to 10 runs of a single setting.

    Args:
        table: a Sweep, its path, or a list of runs; or rows of a sweep's table, with the metrics of these runs.
        metrics: the evaluated metrics of the rows of `table`, in the same order, each indexed by step.
        title: the figure's title.
        losses: also draw test and train loss, on a logarithmic axis.

    Raises:
        ConfigError: `table` and `metrics` differ in length, or `metrics` are not tables.
    """
    if metrics is not None and not isinstance(table, pd.DataFrame):
        raise ConfigError("metrics belong to a table: leave them out for a Sweep or runs, which have their own")
    rows, curves = (table, metrics) if isinstance(table, pd.DataFrame) else table_and_metrics(table)
    if not isinstance(curves, Sequence) or not all(isinstance(metric, pd.DataFrame) for metric in curves):
        raise ConfigError(
            "metrics must be a list of DataFrames, one per row of the table, such as [run.metrics]; a Sweep or a list "
            "of runs in place of the table needs none"
        )
    if len(rows) != len(curves):
        raise ConfigError(f"table has {len(rows)} rows but metrics has {len(curves)} entries: pass one per run")
    panels = {name: lines for name, lines in _PANELS.items() if losses or name != "loss"}
    canvas = Canvas(escape(title), [], y_titles=list(panels), log_y=[name == "loss" for name in panels])
    axes = remaining_axes(rows, [])
    if axes or len(rows) > _MOST_SEEDS:
        names = [setting_name(axes, row) for _, row in rows.iterrows()]
        groups = [setting_name(axes, setting) for setting, runs in settings(rows, axes) if len(runs)]
    else:
        seeds = [seed for seed in SEEDS if seed in rows and len(set(rows[seed])) > 1]
        names = [setting_name(seeds, row) for _, row in rows.iterrows()]
        groups = list(dict.fromkeys(names))
    colors = dict(zip(groups, run_colors(len(groups)), strict=True))
    in_legend = {""}
    for name, metric in zip(names, curves, strict=True):
        for row, lines in enumerate(panels.values(), start=1):
            for column, label, dash in lines:
                if column not in metric:
                    canvas.absent(label, "it was not measured", row)
                    continue
                curve = pd.Series(metric[column]).dropna()
                style = {"color": colors[name], "dash": dash, "width": 1.4, "legendgroup": name, "limit": _MOST_POINTS}
                hover = f"{name}, {label}" if name else label
                showlegend = dash == "solid" and name not in in_legend
                canvas.line(curve, name, hover=hover, row=row, showlegend=showlegend, **style)
                in_legend |= {name} if dash == "solid" else set()
    canvas.key("test", dash="solid")
    canvas.key("train", dash="dot")
    return canvas.finish()


def pair_curves(
    metrics: pd.DataFrame | Sequence[pd.DataFrame] | Analyses,
    title: str = "Mirrored and novel test pairs",
    *,
    log_step: bool = True,
) -> Figure:
    """Accuracy on training pairs, on test pairs, and on mirrored and novel test pairs, with the RMS of the weights.

    A test pair (a, b) is mirrored if (b, a) is a training pair, and novel if it is not.

    Args:
        metrics: runs, or their metrics indexed by step. Each run adds one line of each color.
        title: the figure's title.
        log_step: start with a logarithmic step axis.

    Raises:
        ConfigError: `metrics` are neither runs nor tables.
        RunError: a path is not the folder of a run.
    """
    metrics = as_metrics(metrics)
    canvas = Canvas(escape(title), [], y_titles=["accuracy", "RMS of the weights"])
    for i, metric in enumerate(metrics):
        for name, label in (("train", "train"), ("mirror", "mirrored"), ("test", "test"), ("novel", "novel")):
            curve = known_values(metric, f"{name}_accuracy")
            if curve.empty:
                canvas.absent(f"accuracy on {label} pairs", "it was not measured")
                continue
            style = {"color": QUANTITY_COLORS[name], "dash": "dot" if name == "train" else "solid", "width": 1.6}
            style |= {"legendgroup": name, "limit": _MOST_POINTS}
            canvas.line(curve, f"{label} pairs", showlegend=i == 0, **style)
        norm = known_values(metric, "weight_rms")
        if norm.empty:
            canvas.absent("RMS of the weights", "it was not measured", row=2)
        else:
            canvas.line(norm, "RMS", color=GRAY, width=1.6, row=2, showlegend=False, limit=_MOST_POINTS)
    figure = canvas.finish(log_step=log_step)
    figure.update_yaxes(rangemode="tozero")
    return figure
