"""Figures of a whole sweep: which setting had which outcome. They take its table, one row a run, and names of axes."""

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
from grokinterp.figures.style import FATE_COLOURS, FATE_NAMES, GREY
from grokinterp.statistics import FATES, SEEDS, observe, remaining_axes, settings, summarize, values_of

# More bars than this no reader compares.
MAX_SETTINGS = 60
_LISTED = 12  # runs named when the pointer rests on a cell
_IN_CELLS = FATE_NAMES | {"semi_grokked": "semi", "undetermined": "open"}  # short enough for a grid of 8 x 10
_THERE = ("grokked", "generalized_without_delay")


def said(value: Any) -> str:
    """A value of an axis as a label: as short as it can be and still be told from others."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else escape(str(value))


def setting_name(axes: Sequence[str], row: Any) -> str:
    """The values of a run's axes as a label: `weight_decay = 1`."""
    return ", ".join(f"{escape(axis.rsplit('.', 1)[-1])} = {said(row[axis])}" for axis in axes)


def short(x: float) -> str:
    """A number in a cell: three digits, thousands as k."""
    if abs(x) >= 1e6:
        return f"{x / 1e6:.3g}M"
    return f"{x / 1e3:.3g}k" if abs(x) >= 1e4 else f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def quantity_name(quantity: str) -> str:
    """A column of the table in words: `T_grok_0.95` is T_grok(0.95)."""
    name, _, thresholds = quantity.partition("_0.")
    thetas = [f"0.{part}" for part in thresholds.split("_0.")] if thresholds else []
    if name == "delay" and thetas:
        return f"T<sub>grok</sub>({thetas[0]}) − T<sub>train</sub>({thetas[-1]})"
    if name.startswith("T_") and thetas:
        event, _, pairs = name.removeprefix("T_").partition("_")
        return f"T<sub>{event}</sub>({thetas[0]})" + (f", {pairs} pairs" if pairs else "")
    return escape(quantity.removeprefix("final.").replace("_", " "))


def phase_diagram(table: pd.DataFrame, x: str, y: str, value: str = "outcome") -> Figure:
    """What became of each setting on two axes: its outcome, or the median of a quantity over its seeds.

    A cell has the colour of its most frequent outcome, and says how many of its runs had it where they disagree. Of a
    quantity that takes time, the median (Kaplan and Meier's) counts runs that never got there; k/n says how many did. A
    cell without a median names the kind of DNF that most of its runs ended in.

    Args:
        table: a sweep's table, one row a run.
        x: the axis across.
        y: the axis upwards.
        value: `outcome`, or a column with numbers such as `T_grok_0.95`.

    Raises:
        ConfigError: the table lacks a column, or x and y are the same.
    """
    if x == y:
        raise ConfigError(f"a phase diagram needs two axes, and was given {x} twice")
    name = "Outcome" if value == "outcome" else quantity_name(value)
    canvas = Canvas(f"{name} by setting", [], y_titles=[escape(y)], x_title=escape(x))
    xs, ys = values_of(table, x), values_of(table, y)
    shape = (len(ys), len(xs))
    codes, medians = np.full(shape, np.nan), np.full(shape, np.nan)
    texts, hovers = np.full(shape, "", dtype=object), np.full(shape, "", dtype=object)
    for setting, runs in settings(table, [x, y]):
        at = ys.index(setting[y]), xs.index(setting[x])
        fates = Counter(observe(runs, "T_grok_0.95" if value == "outcome" else value).fates)
        hovers[at] = _hover(setting, runs, fates)
        row = None if value == "outcome" else summarize(runs, [x, y], value).to_dict("records")[0]
        if row is not None and math.isfinite(row["median"]):
            medians[at] = row["median"]
            texts[at] = short(row["median"]) + (f"<br>{row['k']}/{row['n']}" if row["k"] < row["n"] else "")
            continue
        fate, count, n = _most(fates, besides=() if row is None else _THERE)
        codes[at] = FATES.index(fate)
        texts[at] = _IN_CELLS[fate] + (f"<br>{count}/{n}" if count < n else "")
    labels = {"x": [said(value) for value in xs], "y": [said(value) for value in ys]}
    if np.isfinite(medians).any():
        canvas.add(_measured(medians, texts, hovers, labels, name))
    if np.isfinite(codes).any():
        canvas.add(_coded(codes, texts, hovers, labels))
    for fate in FATES:
        if (codes == FATES.index(fate)).any():
            marker = {"symbol": "square", "size": 12, "color": FATE_COLOURS[fate], "line": {"color": GREY, "width": 1}}
            key = go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=FATE_NAMES[fate], hoverinfo="skip")
            canvas.add(key)
    if others := remaining_axes(table, [x, y]):
        canvas.note(f"each cell takes all values of {', '.join(map(escape, others))} together")
    figure = canvas.finish()
    category = {"type": "category", "categoryorder": "array", "showgrid": False, "ticks": ""}
    figure.update_xaxes(**category, categoryarray=labels["x"])
    figure.update_yaxes(**category, categoryarray=labels["y"])
    return _sized(canvas, figure, 90 + 46 * max(len(ys), 4))


def _sized(canvas: Canvas, figure: Figure, content: int) -> Figure:
    """Gives a figure the height its content needs, and tells a report so, which sets heights by itself."""
    figure.update_layout(height=content + 130, meta=canvas.meta | {"height": content})
    return figure


def _most(fates: Counter[str], besides: Sequence[str] = ()) -> tuple[str, int, int]:
    """The most frequent fate, of equally frequent ones the first of `FATES`; its count; and of how many runs.

    Runs that failed or were not begun count only where there are no others; `besides` are not asked for.
    """
    begun = {fate: count for fate, count in fates.items() if fate not in ("failed", "missing")} or dict(fates)
    asked = {fate: count for fate, count in begun.items() if fate not in besides} or begun
    fate = max(asked, key=lambda fate: (asked[fate], -FATES.index(fate)))
    return fate, asked[fate], sum(begun.values())


def _coded(codes: np.ndarray, texts: np.ndarray, hovers: np.ndarray, labels: dict[str, list[str]]) -> go.Heatmap:
    n = len(FATES)
    scale = [[(i + end) / n, FATE_COLOURS[fate]] for i, fate in enumerate(FATES) for end in (0, 1)]
    return go.Heatmap(
        z=codes,
        zmin=-0.5,
        zmax=n - 0.5,
        colorscale=scale,
        showscale=False,
        **_cells(np.isfinite(codes), texts, hovers),
        **labels,
    )


def _measured(
    values: np.ndarray, texts: np.ndarray, hovers: np.ndarray, labels: dict[str, list[str]], name: str
) -> go.Heatmap:
    known = values[np.isfinite(values)]
    logarithmic = bool((known > 0).all())
    z = np.log10(values) if logarithmic else values
    bar: dict[str, Any] = {"title": {"text": name, "side": "right"}, "thickness": 14, "outlinewidth": 0}
    if logarithmic:
        ticks = log_ticks(float(known.min()), float(known.max())) or [float(known[0])]
        bar |= {"tickvals": np.log10(ticks).tolist(), "ticktext": [short(tick) for tick in ticks]}
    return go.Heatmap(
        z=z,
        colorscale="Viridis",
        reversescale=True,
        colorbar=bar,
        **_cells(np.isfinite(values), texts, hovers),
        **labels,
    )


def _cells(filled: np.ndarray, texts: np.ndarray, hovers: np.ndarray) -> dict[str, Any]:
    return {
        # A blank where there is nothing to say: plotly sizes text by the distance between cells that have some.
        "text": np.where(filled, texts, " "),
        "texttemplate": "%{text}",
        "hovertext": hovers,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }


def _hover(setting: dict[str, Any], runs: pd.DataFrame, fates: Counter[str]) -> str:
    """All numbers of a cell's runs."""
    lines = [f"<b>{escape(axis)} = {said(value)}</b>" for axis, value in setting.items()]
    lines.append(", ".join(f"{fates[fate]} {FATE_NAMES[fate]}" for fate in FATES if fate in fates))
    seeds = [seed for seed in SEEDS if seed in runs and len(values_of(runs, seed)) > 1]
    columns = [c for c in ("T_train_0.99", "T_grok_0.95", "T_grok_0.99") if c in runs]
    named = zip(
        observe(runs, "T_grok_0.95").fates, pd.DataFrame(runs[[*seeds, *columns]]).to_dict("records"), strict=True
    )
    for fate, run in list(named)[:_LISTED]:
        who = ", ".join(f"{seed.rsplit('.', 1)[-1]} {run[seed]:g}" for seed in seeds)
        times = [f"{quantity_name(c)} {run[c]:,.0f}" for c in columns if run[c] == run[c]]
        lines.append(" · ".join([*filter(None, [who]), FATE_NAMES[fate], *times]))
    if len(runs) > _LISTED:
        lines.append(f"and {len(runs) - _LISTED} more runs")
    return "<br>".join(lines)


def outcome_counts(table: pd.DataFrame, axes: Sequence[str] | None = None) -> Figure:
    """How many runs of each setting had which outcome, and k of n that generalized.

    Runs that did not finish because they never memorized (DNF train) and those that memorized and did not generalize
    (DNF test) are counted apart; failed runs and those not begun are no part of n.

    Args:
        table: a sweep's table, one row a run.
        axes: what makes a setting; by default every field that varies, but the seeds.

    Raises:
        ConfigError: the table lacks an axis.
    """
    chosen = [axis for axis in (remaining_axes(table, []) if axes is None else axes) if axis not in SEEDS]
    summary = summarize(table, chosen) if len(table) else pd.DataFrame({"n": []})
    canvas = Canvas("Outcomes", [], y_titles=[" · ".join(map(escape, chosen))], x_title="runs")
    if summary.empty:
        canvas.absent("outcomes", "the table has no runs")
    if len(summary) > MAX_SETTINGS:
        canvas.note(f"the first {MAX_SETTINGS} of {len(summary)} settings are drawn")
        summary = summary.head(MAX_SETTINGS)
    rows = summary.to_dict("records")
    ends = [sum(row[fate] for fate in FATES) for row in rows]
    names = [" · ".join(said(row[axis]) for axis in chosen) or "all runs" for row in rows]
    for fate in FATES:
        counts = [row[fate] for row in rows]
        if any(counts):
            canvas.add(
                go.Bar(
                    x=counts,
                    y=names,
                    orientation="h",
                    name=FATE_NAMES[fate],
                    marker={"color": FATE_COLOURS[fate], "line": {"color": "#FFFFFF", "width": 1}},
                    hovertemplate=f"<b>%{{y}}</b><br>%{{x}} {FATE_NAMES[fate]}<extra></extra>",
                )
            )
    if rows:
        shares = [f" {sum(row[fate] for fate in _THERE)}/{row['n']}" for row in rows]
        canvas.add(
            go.Scatter(
                x=ends, y=names, text=shares, mode="text", textposition="middle right", showlegend=False,
                hoverinfo="skip", cliponaxis=False,
            )
        )  # fmt: skip
    figure = canvas.finish()
    figure.update_layout(barmode="stack", bargap=0.25, legend_traceorder="normal", margin_r=48)
    figure.update_xaxes(dtick=1 if max(ends, default=0) <= 10 else None, rangemode="tozero", tickformat="d")
    figure.update_yaxes(type="category", range=[len(rows) - 0.5, -0.5], ticks="", showgrid=False)
    return _sized(canvas, figure, 90 + max(22 * len(rows), 120))
