"""Figures of a whole sweep: the outcome of each setting. They take the sweep's table and the names of its axes."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import Canvas, log_ticks
from grokinterp.figures.inputs import Table, as_table
from grokinterp.figures.style import GRAY, OUTCOME_COLORS, OUTCOME_LABELS
from grokinterp.statistics import SEEDS, observe, remaining_axes, settings, summarize, values_of
from grokinterp.statistics.formatting import setting as format_setting
from grokinterp.statistics.formatting import short
from grokinterp.statistics.outcomes import Outcome

MAX_SETTINGS = 60  # bars of a figure
_MAX_RUNS = 12  # runs listed in the hover text of a cell
_CELL_LABELS = OUTCOME_LABELS | {Outcome.SEMI_GROKKED: "semi", Outcome.UNDETERMINED: "open"}  # fit a grid of 8 x 10
_GENERALIZED = (Outcome.GROKKED, Outcome.GENERALIZED_WITHOUT_DELAY)
_CODES: dict[str, int] = {outcome: code for code, outcome in enumerate(OUTCOME_LABELS)}  # values of a heatmap


def value_label(value: Any) -> str:
    """Format a value of an axis as HTML."""
    return escape(format_setting(value))


def setting_name(axes: Sequence[str], row: Any) -> str:
    """Format the values of a run's axes as a label, such as `weight_decay = 1`."""
    return ", ".join(f"{escape(axis.rsplit('.', 1)[-1])} = {value_label(row[axis])}" for axis in axes)


def quantity_name(quantity: str) -> str:
    """Return the title of a column of the table as HTML: T_grok(0.95) for `T_grok_0.95`."""
    name, _, thresholds = quantity.partition("_0.")
    thetas = [f"0.{part}" for part in thresholds.split("_0.")] if thresholds else []
    if name == "delay" and thetas:
        return f"T<sub>grok</sub>({thetas[0]}) − T<sub>train</sub>({thetas[-1]})"
    if name.startswith("T_") and thetas:
        event, _, pairs = name.removeprefix("T_").partition("_")
        return f"T<sub>{event}</sub>({thetas[0]})" + (f", {pairs} pairs" if pairs else "")
    return escape(quantity.removeprefix("final.").replace("_", " "))


def phase_diagram(table: Table, x: str, y: str, value: str = "outcome") -> Figure:
    """The outcome of each setting on two axes, or the median of a quantity over its seeds.

    A cell has the color of its most frequent outcome. If its runs disagree, it shows how many had that outcome. The
    median of a time is the Kaplan-Meier median, which counts runs that never reached the event; k/n is the number of
    runs that did. A cell without a median shows the most frequent outcome among the runs that did not generalize.

    Args:
        table: a Sweep, its path, or its table with one row per run.
        x: the horizontal axis.
        y: the vertical axis.
        value: `outcome`, or a numeric column such as `T_grok_0.95`.

    Raises:
        ConfigError: the table lacks a column, x and y are the same, or one of them is a seed.
    """
    if x == y:
        raise ConfigError(f"a phase diagram needs two different axes, but x and y are both {x}")
    if seeds := {x, y} & set(SEEDS):
        raise ConfigError(f"a cell of a phase diagram combines all seeds: choose another axis than {min(seeds)}")
    table = as_table(table)
    name = "Outcome" if value == "outcome" else quantity_name(value)
    canvas = Canvas(f"{name} by setting", [], y_titles=[escape(y)], x_title=escape(x))
    xs, ys = values_of(table, x), values_of(table, y)
    shape = (len(ys), len(xs))
    codes, medians = np.full(shape, np.nan), np.full(shape, np.nan)
    texts, hovers = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    for setting, runs in settings(table, [x, y]):
        cell = ys.index(setting[y]), xs.index(setting[x])
        outcomes = Counter(observe(runs, "T_grok_0.95" if value == "outcome" else value).outcomes)
        hovers[cell] = _hover(setting, runs, outcomes)
        row = None if value == "outcome" else summarize(runs, [x, y], value).to_dict("records")[0]
        if row is not None and math.isfinite(row["median"]):
            medians[cell] = row["median"]
            texts[cell] = short(row["median"]) + (f"<br>{row['k']}/{row['n']}" if row["k"] < row["n"] else "")
            continue
        outcome, count, n = _most_frequent(outcomes, excluded=() if row is None else _GENERALIZED)
        codes[cell] = _CODES[outcome]
        texts[cell] = _CELL_LABELS[outcome] + (f"<br>{count}/{n}" if count < n else "")
    labels = {"x": [value_label(value) for value in xs], "y": [value_label(value) for value in ys]}
    if np.isfinite(medians).any():
        canvas.add(_heatmap(medians, texts, hovers, labels).update(_color_bar(medians, name)))
    if np.isfinite(codes).any():
        n = len(_CODES)
        scale = [[(code + end) / n, OUTCOME_COLORS[outcome]] for outcome, code in _CODES.items() for end in (0, 1)]
        coded = _heatmap(codes, texts, hovers, labels)
        canvas.add(coded.update(zmin=-0.5, zmax=n - 0.5, colorscale=scale, showscale=False))
    for outcome, code in _CODES.items():
        if (codes == code).any():
            line = {"color": GRAY, "width": 1}
            marker = {"symbol": "square", "size": 12, "color": OUTCOME_COLORS[outcome], "line": line}
            canvas.marker_key(OUTCOME_LABELS[outcome], marker)
    if merged := remaining_axes(table, [x, y]):
        canvas.note(f"each cell combines all values of {', '.join(map(escape, merged))}")
    figure = canvas.finish()
    category = {"type": "category", "categoryorder": "array", "showgrid": False, "ticks": ""}
    figure.update_xaxes(**category, categoryarray=labels["x"])
    figure.update_yaxes(**category, categoryarray=labels["y"])
    return _sized(canvas, figure, 90 + 46 * max(len(ys), 4))


def _sized(canvas: Canvas, figure: Figure, content: int) -> Figure:
    """Set the height that a figure needs, also in its meta, from which a report computes heights."""
    figure.update_layout(height=content + 130, meta=canvas.meta | {"height": content})
    return figure


def _most_frequent(outcomes: Counter[str], excluded: Sequence[str] = ()) -> tuple[str, int, int]:
    """Return the most frequent outcome, its count, and the number of runs; a tie goes to the first of `Outcome`.

    Runs that failed or have not begun count only if all runs did; `excluded` outcomes only if no run has another.
    """
    begun = {o: n for o, n in outcomes.items() if o not in (Outcome.FAILED, Outcome.MISSING)} or dict(outcomes)
    candidates = {o: n for o, n in begun.items() if o not in excluded} or begun
    outcome = max(candidates, key=lambda o: (candidates[o], -_CODES[o]))
    return outcome, candidates[outcome], sum(begun.values())


def _heatmap(z: np.ndarray, texts: np.ndarray, hovers: np.ndarray, labels: dict[str, list[str]]) -> go.Heatmap:
    # Empty cells get a blank, because plotly sizes text by the distance between cells that have text.
    heatmap = go.Heatmap(z=z, text=np.where(np.isfinite(z), texts, " "), texttemplate="%{text}", **labels)
    heatmap.update(hovertext=hovers, hovertemplate="%{hovertext}<extra></extra>", hoverongaps=False)
    return heatmap.update(xgap=2, ygap=2)


def _color_bar(values: np.ndarray, name: str) -> dict[str, Any]:
    """Return the colors of a heatmap of values: on a logarithmic scale if all values are positive."""
    finite = values[np.isfinite(values)]
    bar: dict[str, Any] = {"title": {"text": name, "side": "right"}, "thickness": 14, "outlinewidth": 0}
    scale: dict[str, Any] = {"colorscale": "Viridis", "reversescale": True, "colorbar": bar}
    if (finite > 0).all():
        ticks = log_ticks(float(finite.min()), float(finite.max())) or [float(finite[0])]
        bar |= {"tickvals": np.log10(ticks).tolist(), "ticktext": [short(tick) for tick in ticks]}
        scale["z"] = np.log10(values)
    return scale


def counts_text(outcomes: Counter[str]) -> str:
    """Format counts of outcomes, such as `3 grokked, 1 DNF test`."""
    return ", ".join(f"{outcomes[o]:,} {label}" for o, label in OUTCOME_LABELS.items() if outcomes[o])


def _hover(setting: dict[str, Any], runs: pd.DataFrame, outcomes: Counter[str]) -> str:
    """Return the hover text of a cell, with the numbers of its runs."""
    lines = [f"<b>{escape(axis)} = {value_label(value)}</b>" for axis, value in setting.items()]
    lines.append(counts_text(outcomes))
    seeds = [seed for seed in SEEDS if seed in runs and len(values_of(runs, seed)) > 1]
    columns = [c for c in ("T_train_0.99", "T_grok_0.95", "T_grok_0.99") if c in runs]
    by_run = observe(runs, "T_grok_0.95").outcomes
    records = pd.DataFrame(runs[[*seeds, *columns]]).to_dict("records")
    for outcome, run in zip(by_run[:_MAX_RUNS], records[:_MAX_RUNS], strict=True):
        seed_values = ", ".join(f"{seed.rsplit('.', 1)[-1]} {run[seed]:g}" for seed in seeds)
        times = [f"{quantity_name(c)} {run[c]:,.0f}" for c in columns if run[c] == run[c]]
        lines.append(" · ".join([*filter(None, [seed_values]), OUTCOME_LABELS[outcome], *times]))
    if len(runs) > _MAX_RUNS:
        lines.append(f"and {len(runs) - _MAX_RUNS} more runs")
    return "<br>".join(lines)


def outcome_counts(table: Table, axes: Sequence[str] | None = None) -> Figure:
    """Number of runs with each outcome per setting, and k/n: how many of n runs generalized.

    Runs that never memorized (DNF train) are counted apart from runs that memorized but did not generalize (DNF test).
    n excludes runs that failed or have not begun.

    Args:
        table: a Sweep, its path, or its table with one row per run.
        axes: the fields that define a setting (default: every field that varies, except the seeds).

    Raises:
        ConfigError: the table lacks an axis.
    """
    table = as_table(table)
    axes = [axis for axis in (remaining_axes(table, []) if axes is None else axes) if axis not in SEEDS]
    summary = summarize(table, axes) if len(table) else pd.DataFrame({"n": []})
    canvas = Canvas("Outcomes", [], y_titles=[" · ".join(map(escape, axes))], x_title="runs")
    if summary.empty:
        canvas.absent("outcomes", "the table has no runs")
    if len(summary) > MAX_SETTINGS:
        canvas.note(f"the first {MAX_SETTINGS} of {len(summary)} settings are drawn")
        summary = summary.head(MAX_SETTINGS)
    rows = summary.to_dict("records")
    ends = [sum(row[outcome] for outcome in Outcome) for row in rows]
    names = [" · ".join(value_label(row[axis]) for axis in axes) or "all runs" for row in rows]
    for outcome, label in OUTCOME_LABELS.items():
        counts = [row[outcome] for row in rows]
        if any(counts):
            marker = {"color": OUTCOME_COLORS[outcome], "line": {"color": "#FFFFFF", "width": 1}}
            hover = f"<b>%{{y}}</b><br>%{{x}} {label}<extra></extra>"
            canvas.add(go.Bar(x=counts, y=names, orientation="h", name=label, marker=marker, hovertemplate=hover))
    if rows:
        shares = [f" {sum(row[outcome] for outcome in _GENERALIZED)}/{row['n']}" for row in rows]
        trace = go.Scatter(x=ends, y=names, text=shares, mode="text", textposition="middle right", cliponaxis=False)
        canvas.add(trace.update(showlegend=False, hoverinfo="skip"))
    figure = canvas.finish()
    figure.update_layout(barmode="stack", bargap=0.25, legend_traceorder="normal", margin_r=48)
    figure.update_xaxes(dtick=1 if max(ends, default=0) <= 10 else None, rangemode="tozero", tickformat="d")
    figure.update_yaxes(type="category", range=[len(rows) - 0.5, -0.5], ticks="", showgrid=False)
    return _sized(canvas, figure, 90 + max(22 * len(rows), 120))
