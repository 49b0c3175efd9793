"""describe: the text alternative of a figure, for readers who cannot see it."""

import re
from html import unescape
from typing import Any

import numpy as np
from plotly.graph_objects import Figure

from grokinterp.statistics.formatting import number

_MOST_CURVES, _MOST_BARS = 12, 8


def plain(text: str) -> str:
    """Return a label without its tags.

    >>> plain("T<sub>grok</sub>(0.95) &lt; 10<br>steps")
    'T_grok(0.95) < 10 steps'
    """
    return unescape(re.sub("<[^>]*>", "", text.replace("<sub>", "_").replace("<br>", " ")))


def describe(figure: Figure) -> str:
    """Return what a figure shows, in words: its axes, the ends and extremes of its curves, its phases, and its notes.

    >>> import plotly.graph_objects as go
    >>> loss = go.Scatter(x=[0, 50, 100], y=[4.0, 6.0, 0.5], name="test")
    >>> describe(go.Figure(loss, {"title": "Loss", "xaxis": {"title": "step"}, "yaxis": {"title": "nats"}}))
    'Loss. nats against step: test from 4 at 0 to 0.5 at 100 (highest: 6 at 50).'
    """
    layout: Any = figure.layout
    sentences = [f"{plain(layout.title.text)}."] if layout.title.text else []
    panels: dict[str, list[str]] = {}
    for trace in figure.data:
        if text := _trace(trace):
            panels.setdefault(getattr(trace, "yaxis", None) or "y", []).append(text)
    x_title = next((axis.title.text for axis in reversed([*figure.select_xaxes()]) if axis.title.text), "")
    for axis, texts in panels.items():
        y_title = plain(layout[axis.replace("y", "yaxis")].title.text or "")
        more = f"; {len(texts) - _MOST_CURVES} more curves" if len(texts) > _MOST_CURVES else ""
        against = f"{y_title} against {plain(x_title)}: " if y_title and x_title else ""
        sentences.append(against + "; ".join(texts[:_MOST_CURVES]) + more + ".")
    if named := [plain(shape.name) for shape in layout.shapes if shape.name and shape.showlegend]:
        sentences.append(f"Marked: {', '.join(named)}.")
    meta = layout.meta if isinstance(layout.meta, dict) else {}
    sentences += [f"{plain(note)[:1].upper()}{plain(note)[1:]}." for note in meta.get("notes", ())]
    return " ".join(sentences)


def _trace(trace: Any) -> str:
    """Return what a trace shows; nothing if it is hidden or has no data."""
    name = plain(trace.name or "")
    if trace.visible not in (None, True):
        return ""
    if trace.type == "heatmap":
        return f"a heat map{f' of {name}' if name else ''}"
    if trace.x is None or trace.y is None or trace.type not in ("scatter", "bar"):
        return ""
    if trace.type == "bar":
        return _bars(name, trace)
    try:
        y = np.asarray(trace.y, dtype=float)
        steps = np.asarray(trace.x if np.ndim(trace.customdata) != 1 else trace.customdata)
        x = np.asarray(steps, dtype=float)
    except (TypeError, ValueError):  # names of settings, or text
        return name
    finite = np.isfinite(y) & np.isfinite(x)
    x, y = x[finite], y[finite]
    if not len(y):
        return ""
    if "lines" not in (trace.mode or "lines"):
        return f"{name + ': ' if name else ''}{len(y)} points between {number(y.min())} and {number(y.max())}"
    text = f"{name} from {_at(x, y, 0)} to {_at(x, y, -1)}".strip()
    ends, slack = (y[0], y[-1]), 0.02 * float(y.max() - y.min())
    extremes = [f"highest: {_at(x, y, int(y.argmax()))}"] if y.max() > max(ends) + slack else []
    extremes += [f"lowest: {_at(x, y, int(y.argmin()))}"] if y.min() < min(ends) - slack else []
    return text + (f" ({', '.join(extremes)})" if extremes else "")


def _at(x: np.ndarray, y: np.ndarray, i: int) -> str:
    place = float(x[i])
    return f"{number(float(y[i]))} at {number(int(place) if place.is_integer() else place)}"


def _bars(name: str, trace: Any) -> str:
    """Return the labels and lengths of the longest bars."""
    along, across = (trace.y, trace.x) if trace.orientation == "h" else (trace.x, trace.y)
    pairs = sorted(zip(along, across, strict=True), key=lambda pair: -float(pair[1]))
    listed = ", ".join(f"{plain(str(label))}: {number(float(length))}" for label, length in pairs[:_MOST_BARS])
    return f"{name} ({listed}{', and shorter ones' if len(pairs) > _MOST_BARS else ''})".strip()
