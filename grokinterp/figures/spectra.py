"""Figures over frequencies: spectra, and what single frequencies do over training."""

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from grokinterp.analysis.result import Analysis
from grokinterp.figures.canvas import Canvas, as_list, labels
from grokinterp.figures.curves import values
from grokinterp.figures.style import BLUE, GREY, VERMILLION, key_colours, run_colours

# A browser draws this many columns quickly, and no screen shows more of them apart.
MAX_STEPS = 300
# More panels than this under one another are no longer one figure.
MAX_PANELS = 8

_OTHERS = "#BDBDBD"


def keys_of(analysis: Analysis) -> tuple[int, ...]:
    """The key frequencies that figures of a run show: those of the reference, and those that died since T_grok."""
    reference = analysis.reference
    return reference.union if reference.lost else reference.frequencies.values


def by_frequency(analysis: Analysis, column: str) -> pd.DataFrame:
    """A column of `analysis.frequencies` with a row a step and a column a frequency; steps without values left out."""
    if column not in analysis.frequencies:
        return pd.DataFrame()
    table = analysis.frequencies[column].unstack("k")
    return pd.DataFrame(table).dropna(how="all")


def thinned(canvas: Canvas, table: pd.DataFrame) -> pd.DataFrame:
    """At most MAX_STEPS rows, evenly chosen, the first and the last among them; a note says so."""
    if len(table) <= MAX_STEPS:
        return table
    canvas.note(f"{MAX_STEPS} of {len(table)} checkpoints are drawn, evenly chosen")
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, MAX_STEPS).round().astype(int))]


def _group_order(analysis: Analysis) -> int:
    group = analysis.run.classification.group
    return group.order if group is not None else analysis.run.classification.p


def _relative(analyses: Sequence[Analysis]) -> bool:
    """Whether frequencies of these runs are comparable only as shares of the group's order."""
    return len({_group_order(analysis) for analysis in analyses}) > 1


def _column(table: pd.DataFrame, k: int) -> pd.Series:
    return pd.Series(table[k], dtype=float).dropna()


def _shares(table: pd.DataFrame) -> pd.DataFrame:
    total = table.sum(axis=1)
    return table.div(total.where(total > 0), axis=0)


def embedding_spectrum_over_training(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """The embedding's power at each frequency, as a share of the whole at that step (the constant left out).

    All frequencies are alike at the initialization; the circuit's few take over as it forms (Nanda et al. 2023).
    Triangles at the right mark the key frequencies. Of several runs each has a panel.
    """
    canvas, tables = _panels("Embedding spectrum over training", as_list(analysis), "embedding_power")
    for row, (one, table) in enumerate(tables, start=1):
        _heatmap(canvas, one, _shares(table), row)
    figure = canvas.finish(bands=False)
    largest = max((float(np.nanmax(_shares(table).to_numpy())) for _, table in tables), default=1.0)
    bar = {"title": {"text": "share"}, "thickness": 12, "len": 1.0, "tickformat": ".0%"}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": largest, "colorbar": bar})
    return figure


def _panels(
    title: str, analyses: list[Analysis], column: str, *, without: str = ""
) -> tuple[Canvas, list[tuple[Analysis, pd.DataFrame]]]:
    """A figure with a panel for each run that has a column of `frequencies`, and those runs with what they have.

    With `without`, a column of zeros is nothing to draw, for that reason.
    """
    tables = [(one, by_frequency(one, column)) for one in analyses]
    if without:
        tables = [(one, table if (table > 0).to_numpy().any() else table.iloc[:0]) for one, table in tables]
    filled = [(one, table) for one, table in tables if not table.empty]
    shown = filled[:MAX_PANELS]
    names = dict(zip(map(id, analyses), labels(analyses), strict=True))
    canvas = Canvas(
        title,
        analyses,
        y_titles=["frequency k"] * max(len(shown), 1),
        row_titles=[names[id(one)] for one, _ in shown] if len(analyses) > 1 else None,
    )
    for one, table in tables:
        if table.empty:
            measured = not by_frequency(one, column).empty
            canvas.lacks(title.lower(), one, column, reason=without if measured else "")
    if len(filled) > len(shown):
        canvas.note(f"the first {len(shown)} of {len(filled)} runs are drawn")
    return canvas, [(one, thinned(canvas, table)) for one, table in shown]


def _heatmap(canvas: Canvas, analysis: Analysis, shares: pd.DataFrame, row: int) -> None:
    steps, frequencies = np.asarray(shares.index), np.asarray(shares.columns)
    share = shares.to_numpy(dtype=np.float32).T
    where = np.broadcast_to(steps, share.shape)
    canvas.add(
        go.Heatmap(
            x=steps,
            y=frequencies,
            z=share,
            customdata=where,
            coloraxis="coloraxis",
            hovertemplate="frequency %{y}<br>step %{customdata:,}<br>%{z:.1%} of the power<extra></extra>",
        ),
        steps,
        row,
    )
    keys = keys_of(analysis)
    if not keys:
        return
    last = np.full(len(keys), steps[-1])
    canvas.add(
        go.Scatter(
            x=last,
            y=list(keys),
            mode="markers",
            marker={"symbol": "triangle-left", "size": 9, "color": VERMILLION, "line": {"color": "white", "width": 1}},
            cliponaxis=False,
            name="key frequencies",
            legendgroup="keys",
            showlegend=row == 1,
            hovertemplate="key frequency %{y}<extra></extra>",
        ),
        last,
        row,
    )
    canvas.figure.update_yaxes(range=[0.5, frequencies[-1] + 0.5], row=row, col=1, showgrid=False)


def embedding_spectrum(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """The embedding's power at each frequency at the last checkpoint, key frequencies highlighted.

    Nanda et al. 2023, section 4.1. Beside the key frequencies their doubles (2k mod p) often stand out in the embedding
    without a part in the logits.
    """
    return _final_spectrum("Embedding spectrum at the end", as_list(analysis), "embedding_power", "embedding's")


def neuron_logit_spectrum(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Power at each frequency of the map from the last layer's neurons to the logits, at the last checkpoint.

    Only the frequencies that the logits use remain in it (Nanda et al. 2023, section 4 and Appendix C.2).
    """
    return _final_spectrum("Neuron-logit spectrum at the end", as_list(analysis), "neuron_logit_power", "map's")


def _final_spectrum(title: str, analyses: list[Analysis], column: str, whose: str) -> Figure:
    relative = _relative(analyses)
    canvas = Canvas(
        title,
        analyses,
        y_titles=[f"share of the {whose} power"],
        x_title="frequency / order of the group (k / p)" if relative else "frequency k",
    )
    if relative:
        canvas.note("the runs differ in p: frequencies are drawn as k / p, and one k is not the same in two of them")
    colours = run_colours(len(analyses))
    for one, name, colour in zip(analyses, canvas.names, colours, strict=True):
        table = by_frequency(one, column)
        if table.empty:
            canvas.lacks(title.lower(), one, column)
            continue
        share, power = pd.Series(_shares(table).iloc[-1]), pd.Series(table.iloc[-1])
        if canvas.single:
            canvas.title = f"{title} (step {table.index[-1]:,})"
            _bars(canvas, one, share, power)
        else:
            scale = _group_order(one) if relative else 1
            keys = set(keys_of(one))
            canvas.add(
                go.Scatter(
                    x=np.asarray(share.index) / scale,
                    y=share.to_numpy(dtype=float),
                    customdata=np.column_stack([share.index, power]),
                    name=name,
                    mode="lines+markers",
                    line={"color": colour, "width": 1},
                    marker={"color": colour, "size": [9 if k in keys else 3 for k in share.index]},
                    hovertemplate=f"<b>{name}</b><br>frequency %{{customdata[0]}}<br>%{{y:.1%}} of the power"
                    "<br>power %{customdata[1]:.4g}<extra></extra>",
                )
            )
    if not canvas.single:
        canvas.note("large markers are key frequencies")
    canvas.figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return canvas.finish()


def _bars(canvas: Canvas, analysis: Analysis, share: pd.Series, power: pd.Series) -> None:
    keys, lost = keys_of(analysis), set(analysis.reference.lost)
    colours = key_colours(keys)
    for kind, chosen in (
        ("key frequencies", [k for k in keys if k not in lost]),
        ("keys that died", [k for k in keys if k in lost]),
        ("other frequencies", [k for k in share.index if k not in keys]),
    ):
        if not chosen:
            continue
        died = kind.startswith("keys that died")
        canvas.add(
            go.Bar(
                x=chosen,
                y=pd.Series(share[chosen]).to_numpy(dtype=float),
                customdata=pd.Series(power[chosen]).to_numpy(dtype=float),
                name=kind,
                width=0.85,
                marker={
                    "color": [colours.get(k, _OTHERS) for k in chosen],
                    "pattern": {"shape": "/" if died else "", "fgcolor": "white"},
                },
                text=[str(k) for k in chosen] if kind != "other frequencies" else None,
                textposition="outside",
                cliponaxis=False,
                hovertemplate=f"{kind}<br>frequency %{{x}}<br>%{{y:.1%}} of the power<br>power %{{customdata:.4g}}"
                "<extra></extra>",
            )
        )
    canvas.figure.update_layout(barmode="overlay")
    canvas.figure.update_xaxes(range=[0.3, len(share) + 0.7])


def excluded_loss_per_frequency(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Training loss with one frequency at a time taken out of the logits, over training (Nanda et al. 2023, 5.1).

    The line of a key frequency rises when the network comes to rely on it; the grey one is the largest among all
    other frequencies, and falls with the train loss.
    """
    canvas = Canvas(
        "Excluded loss per frequency", as_list(analysis), y_titles=["cross entropy, train (nats)"], log_y=[True]
    )
    _per_frequency(canvas, "excluded_loss_k", "excluded loss per frequency")
    if canvas.single and canvas.traces:
        train = values(canvas.analyses[0], "train_loss")
        if not train.empty:
            canvas.line(train, "train loss", colour=BLUE, dash="dot", width=1.5, showlegend=True)
    return canvas.finish()


def cosine_coefficients(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Amplitude in the logits, at each frequency, of cos w_k(a + b - c), the answer that the circuit computes.

    Nanda et al. 2023, section 4.2. The grey line is the largest among the frequencies that are no keys.
    """
    canvas = Canvas("Cosine coefficients", as_list(analysis), y_titles=["amplitude (logits)"])
    _per_frequency(canvas, "cosine_coefficient", "cosine coefficients")
    return canvas.finish()


def _per_frequency(canvas: Canvas, column: str, what: str) -> None:
    """A line for each key frequency, and the largest of the others."""
    colours = run_colours(len(canvas.analyses))
    for one, name, colour in zip(canvas.analyses, canvas.names, colours, strict=True):
        table = by_frequency(one, column)
        if table.empty:
            canvas.lacks(what, one, column)
            continue
        keys = [k for k in keys_of(one) if k in table]
        others = pd.Series(table.drop(columns=keys).max(axis=1)).dropna()
        if canvas.single:
            for k, key_colour in key_colours(tuple(keys)).items():
                died = " (died)" if k in one.reference.lost else ""
                canvas.line(_column(table, k), f"k = {k}{died}", colour=key_colour, showlegend=True)
            if not others.empty:
                canvas.line(others, "largest of the others", colour=GREY, width=1.5, showlegend=True)
            if not keys:
                canvas.note(f"no key frequencies: {escape(one.reference.frequencies.reason or 'none was found')}")
            continue
        style = {"colour": colour, "legendgroup": name, "showlegend": False}
        for k in keys:
            canvas.line(_column(table, k), name, hover=f"{name}</b><br>frequency {k}<b>", **style)
        hover = f"{name}</b><br>largest of the other frequencies<b>"
        canvas.line(others, name, hover=hover, dash="dot", width=1, **style)
    if not canvas.single and canvas.traces:
        canvas.runs(colours)
        canvas.key("a key frequency", dash="solid")
        canvas.key("largest of the others", dash="dot")


def key_frequencies_over_training(analysis: Analysis | Sequence[Analysis]) -> Figure:
    """Which frequencies the rule counts as keys at each checkpoint.

    Keys come one after another as the circuit forms, and some die after grokking. Frequencies that are keys at the
    reference have their colour, others are grey. Of several runs each has a panel.
    """
    none = "no frequency is a key at any checkpoint"
    canvas, tables = _panels("Key frequencies over training", as_list(analysis), "is_key", without=none)
    for row, (one, table) in enumerate(tables, start=1):
        colours = key_colours(keys_of(one))
        steps, columns = np.nonzero(table.to_numpy(dtype=float) > 0)
        at, k = np.asarray(table.index)[steps], np.asarray(table.columns)[columns]
        canvas.add(
            go.Scatter(
                x=at,
                y=k,
                customdata=at,
                mode="markers",
                marker={"symbol": "square", "size": 5, "color": [colours.get(int(one_k), _OTHERS) for one_k in k]},
                showlegend=False,
                hovertemplate="frequency %{y}<br>key at step %{customdata:,}<extra></extra>",
            ),
            at,
            row,
        )
        top = max(table.columns)
        canvas.figure.update_yaxes(range=[0, top + 1], row=row, col=1)
    return canvas.finish()
