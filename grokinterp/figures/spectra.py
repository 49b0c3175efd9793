"""Figures over frequencies: spectra, and single frequencies over training."""

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from grokinterp.analysis.result import Analysis
from grokinterp.figures.canvas import Canvas
from grokinterp.figures.curves import values
from grokinterp.figures.inputs import Analyses, as_list, labels
from grokinterp.figures.style import BLUE, GRAY, VERMILLION, key_styles, run_colors, run_symbols

# Columns of a heatmap. A browser draws this many quickly, and a screen does not resolve more.
MAX_STEPS = 300
# Panels of a figure of several runs.
MAX_PANELS = 8

_NOT_KEY = "#BDBDBD"


def keys_of(analysis: Analysis) -> tuple[int, ...]:
    """Return the key frequencies to highlight: those of the reference step and those that died after T_grok."""
    reference = analysis.reference
    return reference.union if reference.lost else reference.frequencies.values


def by_frequency(analysis: Analysis, column: str) -> pd.DataFrame:
    """Return a column of `analysis.frequencies` as a table [step, frequency], without steps that have no values."""
    if column not in analysis.frequencies:
        return pd.DataFrame()
    table = analysis.frequencies[column].unstack("k")
    return pd.DataFrame(table).dropna(how="all")


def _group_order(analysis: Analysis) -> int:
    group = analysis.run.classification.group
    return group.order if group is not None else analysis.run.classification.p


def _relative(analyses: Sequence[Analysis]) -> bool:
    """Return True if the runs differ in group order, so that only k / order is comparable between them."""
    return len({_group_order(analysis) for analysis in analyses}) > 1


def _column(table: pd.DataFrame, k: int) -> pd.Series:
    return pd.Series(table[k], dtype=float).dropna()


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    total = table.sum(axis=1)
    return table.div(total.where(total > 0), axis=0)


def embedding_spectrum_over_training(analysis: Analyses) -> Figure:
    """Power of the embedding at each frequency, as a share of the total power at that step (without the constant).

    At initialization all frequencies have similar power. The few frequencies of the circuit take over as it forms.
    Triangles at the right edge mark the key frequencies. Each of several runs has its own panel.

    Source: Nanda et al. 2023.
    """
    canvas, tables = _panels("Embedding spectrum over training", as_list(analysis), "embedding_power")
    for row, (run_analysis, table) in enumerate(tables, start=1):
        _heatmap(canvas, run_analysis, _shares(table), row)
    figure = canvas.finish(bands=False)
    largest = max((float(np.nanmax(_shares(table).to_numpy())) for _, table in tables), default=1.0)
    bar = {"title": {"text": "share"}, "thickness": 12, "len": 1.0, "tickformat": ".0%"}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": largest, "colorbar": bar})
    return figure


def _panels(
    title: str, analyses: list[Analysis], column: str, *, without: str = ""
) -> tuple[Canvas, list[tuple[Analysis, pd.DataFrame]]]:
    """Return a canvas with a panel for each run that has a column of `frequencies`, and these runs with their tables.

    With the reason `without`, a table that is zero everywhere counts as empty.
    """
    tables = [(analysis, by_frequency(analysis, column)) for analysis in analyses]
    if without:
        tables = [(analysis, table if (table > 0).to_numpy().any() else table.iloc[:0]) for analysis, table in tables]
    filled = [(analysis, table) for analysis, table in tables if not table.empty]
    panels = filled[:MAX_PANELS]
    names = dict(zip(map(id, analyses), labels(analyses), strict=True))
    canvas = Canvas(
        title,
        analyses,
        y_titles=["frequency k"] * max(len(panels), 1),
        row_titles=[names[id(analysis)] for analysis, _ in panels] if len(analyses) > 1 else None,
    )
    for analysis, table in tables:
        if table.empty:
            is_measured = not by_frequency(analysis, column).empty
            canvas.lacks(title.lower(), analysis, column, reason=without if is_measured else "")
    if len(filled) > len(panels):
        canvas.note(f"the first {len(panels)} of {len(filled)} runs are drawn")
    for i, (analysis, table) in enumerate(panels):
        if len(table) > MAX_STEPS:
            canvas.note(f"{MAX_STEPS} of {len(table)} checkpoints are drawn, evenly spaced")
            rows = np.linspace(0, len(table) - 1, MAX_STEPS).round().astype(int)
            panels[i] = analysis, table.iloc[rows]
    return canvas, panels


def _heatmap(canvas: Canvas, analysis: Analysis, shares: pd.DataFrame, row: int) -> None:
    steps, frequencies = np.asarray(shares.index), np.asarray(shares.columns)
    share = shares.to_numpy(dtype=np.float32).T
    data = {"x": steps, "y": frequencies, "z": share, "customdata": np.broadcast_to(steps, share.shape)}
    hover = "frequency %{y}<br>step %{customdata:,}<br>%{z:.1%} of the power<extra></extra>"
    canvas.add(go.Heatmap(**data, coloraxis="coloraxis", hovertemplate=hover), steps, row)
    keys = keys_of(analysis)
    if not keys:
        return
    last = np.full(len(keys), steps[-1])
    marker = {"symbol": "triangle-left", "size": 9, "color": VERMILLION, "line": {"color": "white", "width": 1}}
    trace = go.Scatter(x=last, y=list(keys), mode="markers", marker=marker, cliponaxis=False, name="key frequencies")
    trace.update(legendgroup="keys", showlegend=row == 1, hovertemplate="key frequency %{y}<extra></extra>")
    canvas.add(trace, last, row)
    canvas.figure.update_yaxes(range=[0.5, frequencies[-1] + 0.5], row=row, col=1, showgrid=False)


def embedding_spectrum(analysis: Analyses) -> Figure:
    """Power of the embedding at each frequency at the last checkpoint, with the key frequencies highlighted.

    The doubles of key frequencies (2k mod p) often stand out in the embedding although the logits do not use them.

    Source: Nanda et al. 2023, section 4.1.
    """
    return _final_spectrum("Embedding spectrum at the end", as_list(analysis), "embedding_power", "embedding power")


def neuron_logit_spectrum(analysis: Analyses) -> Figure:
    """Power of the map from the last layer's neurons to the logits at each frequency, at the last checkpoint.

    It contains only the frequencies that the logits use.

    Source: Nanda et al. 2023, section 4 and Appendix C.2.
    """
    title = "Neuron-logit spectrum at the end"
    return _final_spectrum(title, as_list(analysis), "neuron_logit_power", "power of the map")


def _final_spectrum(title: str, analyses: list[Analysis], column: str, power_name: str) -> Figure:
    relative = _relative(analyses)
    x_title = "frequency / order of the group (k / p)" if relative else "frequency k"
    canvas = Canvas(title, analyses, y_titles=[f"share of the {power_name}"], x_title=x_title)
    if relative:
        canvas.note("the runs differ in p: frequencies are drawn as k / p, because a k is not comparable between them")
    colors = run_colors(len(analyses))
    for run_analysis, name, color in zip(analyses, canvas.names, colors, strict=True):
        table = by_frequency(run_analysis, column)
        if table.empty:
            canvas.lacks(title.lower(), run_analysis, column)
            continue
        share, power = pd.Series(_shares(table).iloc[-1]), pd.Series(table.iloc[-1])
        if canvas.single:
            canvas.title = f"{title} (step {table.index[-1]:,})"
            _bars(canvas, run_analysis, share, power)
        else:
            scale = _group_order(run_analysis) if relative else 1
            keys = keys_of(run_analysis)
            trace = go.Scatter(x=np.asarray(share.index) / scale, y=share.to_numpy(dtype=float), name=name)
            trace.update(mode="lines+markers", line={"color": color, "width": 1})
            trace.update(marker={"color": color, "size": [9 if k in keys else 3 for k in share.index]})
            powers = "<br>%{y:.1%} of the power<br>power %{customdata[1]:.4g}<extra></extra>"
            trace.update(hovertemplate=f"<b>{name}</b><br>frequency %{{customdata[0]}}{powers}")
            canvas.add(trace.update(customdata=np.column_stack([share.index, power])))
    if not canvas.single:
        canvas.note("large markers are key frequencies")
    canvas.figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return canvas.finish()


def _bars(canvas: Canvas, analysis: Analysis, share: pd.Series, power: pd.Series) -> None:
    keys, lost = keys_of(analysis), set(analysis.reference.lost)
    styles = key_styles(keys)
    for kind, frequencies in (
        ("key frequencies", [k for k in keys if k not in lost]),
        ("keys that died", [k for k in keys if k in lost]),
        ("other frequencies", [k for k in share.index if k not in keys]),
    ):
        if not frequencies:
            continue
        y, customdata = (pd.Series(column[frequencies]).to_numpy(dtype=float) for column in (share, power))
        bars = go.Bar(x=frequencies, y=y, customdata=customdata, name=kind, width=0.85, cliponaxis=False)
        pattern = {"shape": "/" if kind == "keys that died" else "", "fgcolor": "white"}
        bars.update(
            marker={"color": [styles[k].color if k in styles else _NOT_KEY for k in frequencies], "pattern": pattern}
        )
        if kind != "other frequencies":
            # In a narrow window, plotly would otherwise shrink or turn the labels to fit the bars.
            bars.update(text=[str(k) for k in frequencies], textposition="outside", textangle=0, constraintext="none")
        powers = "<br>%{y:.1%} of the power<br>power %{customdata:.4g}<extra></extra>"
        canvas.add(bars.update(hovertemplate=f"{kind}<br>frequency %{{x}}{powers}"))
    canvas.figure.update_layout(barmode="overlay")
    canvas.figure.update_xaxes(range=[0.3, len(share) + 0.7])


def excluded_loss_per_frequency(analysis: Analyses) -> Figure:
    """Training loss with one frequency at a time removed from the logits, over training.

    The line of a key frequency rises when the network comes to rely on it. The gray line is the largest value among all
    other frequencies and falls with the train loss.

    Source: Nanda et al. 2023, section 5.1.
    """
    canvas = Canvas(
        "Excluded loss per frequency", as_list(analysis), y_titles=["cross entropy, train (nats)"], log_y=[True]
    )
    _per_frequency(canvas, "excluded_loss_k", "excluded loss per frequency")
    if canvas.single and canvas.traces:
        train = values(canvas.analyses[0], "train_loss")
        if not train.empty:
            canvas.line(train, "train loss", color=BLUE, dash="dot", width=1.5, showlegend=True)
    return canvas.finish()


def cosine_coefficients(analysis: Analyses) -> Figure:
    """Amplitude of cos w_k(a + b - c), the function that the circuit computes, in the logits at each frequency.

    The gray line is the largest amplitude among the frequencies that are not key frequencies.

    Source: Nanda et al. 2023, section 4.2.
    """
    canvas = Canvas("Cosine coefficients", as_list(analysis), y_titles=["amplitude (logits)"])
    _per_frequency(canvas, "cosine_coefficient", "cosine coefficients")
    return canvas.finish()


def _per_frequency(canvas: Canvas, column: str, quantity: str) -> None:
    """Draw a line for each key frequency and one for the largest value of all other frequencies."""
    colors, symbols = run_colors(len(canvas.analyses)), run_symbols(len(canvas.analyses))
    for run_analysis, name, color, symbol in zip(canvas.analyses, canvas.names, colors, symbols, strict=True):
        table = by_frequency(run_analysis, column)
        if table.empty:
            canvas.lacks(quantity, run_analysis, column)
            continue
        keys = [k for k in keys_of(run_analysis) if k in table]
        largest = pd.Series(table.drop(columns=keys).max(axis=1)).dropna()
        if canvas.single:
            for k, style in key_styles(tuple(keys)).items():
                suffix = " (died)" if k in run_analysis.reference.lost else ""
                canvas.line(_column(table, k), f"k = {k}{suffix}", **style._asdict(), showlegend=True)
            if not largest.empty:
                canvas.line(largest, "largest of the others", color=GRAY, width=1.5, showlegend=True)
            if not keys:
                reason = run_analysis.reference.frequencies.reason or "the rule finds none"
                canvas.note(f"no key frequencies: {escape(reason)}")
            continue
        style = {"color": color, "symbol": symbol, "legendgroup": name, "showlegend": False}
        for k in keys:
            canvas.line(_column(table, k), name, hover=f"{name}</b><br>frequency {k}<b>", **style)
        hover = f"{name}</b><br>largest of the other frequencies<b>"
        canvas.line(largest, name, hover=hover, dash="dot", width=1, **style)
    if not canvas.single and canvas.traces:
        canvas.runs(colors, symbols)
        canvas.key("a key frequency", dash="solid")
        canvas.key("largest of the others", dash="dot")


def key_frequencies_over_training(analysis: Analyses) -> Figure:
    """Frequencies that the rule counts as key frequencies at each checkpoint.

    Key frequencies appear one after another as the circuit forms, and some die after grokking. Those of the reference
    step, and those that died after T_grok, are colored as in the other figures; all others are gray. Each of several
    runs has its own panel.
    """
    reason = "no frequency is a key at any checkpoint"
    canvas, tables = _panels("Key frequencies over training", as_list(analysis), "is_key", without=reason)
    for row, (run_analysis, table) in enumerate(tables, start=1):
        styles = key_styles(keys_of(run_analysis))
        rows, columns = np.nonzero(table.to_numpy(dtype=float) > 0)
        steps, frequencies = np.asarray(table.index)[rows], np.asarray(table.columns)[columns]
        colors = [styles[k].color if k in styles else _NOT_KEY for k in map(int, frequencies)]
        marker = {"symbol": "square", "size": 5, "color": colors}
        trace = go.Scatter(x=steps, y=frequencies, customdata=steps, mode="markers", marker=marker, showlegend=False)
        trace.update(hovertemplate="frequency %{y}<br>key at step %{customdata:,}<extra></extra>")
        canvas.add(trace, steps, row)
        canvas.figure.update_yaxes(range=[0, max(table.columns) + 1], row=row, col=1)
    return canvas.finish()
