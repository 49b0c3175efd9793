"""Canvas: builds a figure over training, with its step axis, its phases, and the reasons for missing data."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from grokinterp.analysis.result import Analysis
from grokinterp.figures.inputs import labels
from grokinterp.figures.phases import STRIP, phase_shapes
from grokinterp.figures.style import GRAY, TEMPLATE
from grokinterp.figures.thinning import MOST_POINTS, moments_of, thinned_curve

# Curves of at most this many points also get markers: a line alone could be overlooked, and one point has no line.
_FEW_POINTS = 25
_MARKERS = 10  # of longer curves


@dataclass
class _Plotted:
    """A trace, its x values if they are steps (else None), and its panel."""

    trace: Any
    steps: np.ndarray | None
    row: int


@dataclass(frozen=True)
class _Missing:
    """A quantity that is not drawn, its run, the reason, and the panel."""

    quantity: str
    run: str
    reason: str
    row: int


class Canvas:
    """Collects traces over training steps and builds a figure whose step axis can be linear or logarithmic.

    A logarithmic axis has no place for step 0, which is therefore drawn at the left edge and labeled 0.

    Attributes:
        figure: the figure so far.
        notes: remarks on missing or thinned data; also in `figure.layout.meta["notes"]`.
        meta: the finished figure's `layout.meta`, which a report reads.
    """

    def __init__(
        self,
        title: str,
        analyses: Sequence[Analysis],
        *,
        y_titles: Sequence[str],
        log_y: Sequence[bool] = (),
        x_title: str | None = None,
        row_titles: Sequence[str] | None = None,
        columns: int = 1,
    ):
        """Start a figure with one panel per title in `y_titles`, numbered row by row; methods call the number `row`.

        Set `x_title` only if x is not the step.
        """
        self.title, self.analyses, self.x_title = title, analyses, x_title
        self.names = labels(analyses)
        self.panels, self.columns = len(y_titles), columns
        self.rows = math.ceil(self.panels / columns)
        spacing: dict[str, Any] = {"vertical_spacing": 0.09 if columns == 1 else 0.12, "horizontal_spacing": 0.14}
        shared: dict[str, Any] = {"shared_xaxes": True, "subplot_titles": row_titles or None}
        panels = make_subplots(rows=self.rows, cols=columns, **shared, **spacing)
        self.figure = go.Figure(panels)
        self.notes: list[str] = []
        self.meta: dict[str, Any] = {}
        self.missing: list[_Missing] = []
        self.traces: list[_Plotted] = []
        self.lines: list[dict[str, Any]] = []
        self.log_rows = {row for row, is_log in enumerate(log_y, start=1) if is_log}
        for row, y_title in enumerate(y_titles, start=1):
            kind = "log" if row in self.log_rows else "linear"
            self.figure.update_yaxes(title_text=y_title, type=kind, **self._cell(row))

    def _cell(self, panel: int) -> dict[str, Any]:
        return {"row": (panel - 1) // self.columns + 1, "col": (panel - 1) % self.columns + 1}

    @property
    def single(self) -> bool:
        return len(self.analyses) == 1

    def name_of(self, analysis: Analysis) -> str:
        """Return a run's legend name."""
        return next(name for run, name in zip(self.analyses, self.names, strict=True) if run is analysis)

    def add(self, trace: Any, steps: np.ndarray | None = None, row: int = 1) -> None:
        """Add a trace; pass its x values as `steps` if they are steps."""
        self.traces.append(_Plotted(trace, steps, row))

    def line(
        self,
        series: pd.Series,
        name: str,
        *,
        color: str,
        hover: str = "",
        dash: str = "solid",
        symbol: str = "",
        width: float = 2.0,
        row: int = 1,
        limit: int = MOST_POINTS,
        **scatter: Any,
    ) -> None:
        """Draw a series, indexed by step, as a line; one of more than `limit` points is thinned.

        With a `symbol`, some of its points get markers, so that the line can be recognized without its color.
        """
        curve = thinned_curve(series, moments_of(self.analyses), limit)
        if len(curve) < len(series):
            self.note(f"of {len(series):,} points of a curve, the smallest and largest of each stretch are drawn")
        steps, values = np.asarray(curve.index), curve.to_numpy(dtype=float)
        if row in self.log_rows and (zeros := int((series <= 0).sum())):
            self.note(f"{name}: a logarithmic axis cannot show {zeros} values of 0 or less")
        text = f"<b>{hover or name}</b><br>step %{{customdata:,}}<br>%{{y:.4g}}<extra></extra>"
        trace = go.Scatter(x=steps, y=values, customdata=steps, name=name, hovertemplate=text, **scatter)
        trace.update(mode="lines+markers" if symbol or len(values) <= _FEW_POINTS else "lines")
        marker = {"size": 7 if symbol else 5, "color": color, "symbol": symbol or "circle"}
        marker |= {"maxdisplayed": _MARKERS} if len(values) > _FEW_POINTS else {}
        trace.update(line={"color": color, "dash": dash, "width": width}, marker=marker)
        self.add(trace, steps, row)

    def key(self, name: str, *, dash: str, row: int = 1) -> None:
        """Add a legend entry that explains a dash style, for figures whose colors stand for runs."""
        self.add(legend_key(name, line={"color": GRAY, "dash": dash, "width": 2}), None, row)

    def marker_key(self, name: str, marker: dict[str, Any]) -> None:
        """Add a legend entry that explains a marker."""
        self.add(legend_key(name, mode="markers", marker=marker))

    def level(self, y: float, name: str = "", row: int = 1) -> None:
        """Draw a horizontal reference line."""
        axis = "" if row == 1 else str(row)
        shape = {"type": "line", "xref": f"x{axis} domain", "x0": 0, "x1": 1, "yref": f"y{axis}", "y0": y, "y1": y}
        shape |= {"line": {"color": GRAY, "width": 1, "dash": "dot"}, "layer": "below"}
        self.lines.append(shape | ({"name": name, "showlegend": True} if name else {}))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def lacks(self, quantity: str, analysis: Analysis, column: str, row: int = 1, reason: str = "") -> None:
        """Record why a run's quantity is not drawn, for the notes and for the panel if it stays empty."""
        reason = reason or analysis.why_missing(column) or "it was not measured"
        self.missing.append(_Missing(quantity, self.name_of(analysis), escape(reason), row))

    def absent(self, quantity: str, reason: str, row: int = 1) -> None:
        """Record why a quantity is not drawn for any run."""
        self.missing.append(_Missing(escape(quantity), "", escape(reason), row))

    def runs(self, colors: Sequence[str], symbols: Sequence[str]) -> None:
        """Add a legend entry for each run with a trace; clicking it hides or shows all traces of the run."""
        groups = {str(plotted.trace.legendgroup) for plotted in self.traces}
        for name, color, symbol in zip(self.names, colors, symbols, strict=True):
            if name in groups:
                style = {"color": color, "width": 3}
                marker = {"color": color, "size": 7, "symbol": symbol}
                self.add(legend_key(name, mode="lines+markers", line=style, marker=marker, legendgroup=name))

    def merge_legend(self) -> None:
        """Give a curve that several panels show one legend entry, which hides and shows it in all of them."""
        seen: set[str] = set()
        for trace in (plotted.trace for plotted in self.traces):
            if trace.showlegend is not False:
                trace.update(showlegend=trace.name not in seen, legendgroup=trace.legendgroup or trace.name)
                seen.add(trace.name)

    def finish(self, *, log_step: bool = False, bands: bool = True) -> go.Figure:
        """Return the figure, with both step scales, reasons for missing data, and a single run's phases."""
        figure = self.figure
        figure.update_layout(template=TEMPLATE, title={"text": self.title})
        has_data = self._explain()
        if self.rows > 1:
            figure.update_layout(height=200 + 210 * self.rows)
        if self.x_title is not None:
            figure.update_xaxes(title_text=self.x_title, row=self.rows)
            figure.update_layout({"shapes": self.lines})
            figure.update_layout(margin_t=64)  # room for buttons is not needed
        elif has_data:
            self._step_axis(log_step, bands)
        for plotted in self.traces:
            figure.add_trace(plotted.trace, **self._cell(plotted.row))
        for row in self.log_rows:
            figure.update_yaxes(**self._log_ticks(row), **self._cell(row))
        self.meta = {"notes": self.notes, "panels": self.rows, "empty": not has_data}
        figure.update_layout(meta=self.meta)
        if self.notes and has_data:
            text = "<br>".join(line for note in self.notes for line in textwrap.wrap(note, 110))
            figure.update_layout(title_subtitle={"text": text, "font": {"size": 11, "color": GRAY}})
            figure.update_layout(margin_t=(82 if self.x_title else 118) + 15 * text.count("<br>"))
        return figure

    def _explain(self) -> bool:
        """Write the reasons for missing data into the notes and into each empty panel; return True if any has data."""
        filled = {plotted.row for plotted in self.traces if _has_data(plotted.trace)}
        self.notes[:0] = self._reasons(self.missing)
        for row in range(1, self.panels + 1):
            if row in filled:
                continue
            # plotly draws no axes for a panel without a trace.
            self.add(go.Scatter(x=[None], y=[None], showlegend=False, hoverinfo="skip"), None, row)
            reasons = self._reasons([m for m in self.missing if m.row == row]) or ["no data"]
            axis: Any = self.figure.layout["yaxis" if row == 1 else f"yaxis{row}"]
            low, high = axis.domain or (0, 1)
            left, right = self.figure.layout["xaxis" if row == 1 else f"xaxis{row}"].domain or (0, 1)  # pyright: ignore
            text = "<br>".join(line for reason in reasons for line in textwrap.wrap(reason, 44 // self.columns))
            place = {"xref": "paper", "yref": "paper", "x": (left + right) / 2, "y": (low + high) / 2}
            self.figure.add_annotation(text=text, font={"color": GRAY, "size": 13}, showarrow=False, **place)
            self.figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, **self._cell(row))
            if not filled:
                self.figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, **self._cell(row))
        return bool(filled)

    def _reasons(self, missing: Sequence[_Missing]) -> list[str]:
        """Return one sentence per reason, with the quantities and runs that are missing for it."""
        by_run: dict[tuple[str, str], list[str]] = {}
        for m in missing:
            quantities = by_run.setdefault((m.reason, m.run), [])
            quantities += [m.quantity] if m.quantity not in quantities else []
        by_quantities: dict[tuple[str, str], list[str]] = {}
        for (reason, run), quantities in by_run.items():
            by_quantities.setdefault((reason, ", ".join(quantities)), []).append(run)
        return [
            f"not drawn: {names}" + ("" if self.single or runs == [""] else f" of {', '.join(runs)}") + f" ({reason})"
            for (reason, names), runs in by_quantities.items()
        ]

    def _log_ticks(self, row: int) -> dict[str, Any]:
        """Return ticks at powers of ten, which are easier to read than 0.0000001, 100n, or a bare 2 and 5."""
        ys = [np.asarray(d.trace.y, dtype=float) for d in self.traces if d.row == row and d.trace.visible is not False]
        y = np.concatenate(ys) if ys else np.empty(0)
        y = y[np.isfinite(y) & (y > 0)]
        decades = math.log10(y.max() / y.min()) if len(y) else 0.0
        spacing = {"dtick": 1} if 1 <= decades <= 6 else {"nticks": 8}
        return spacing | {"exponentformat": "power"}

    def _phases(self, edge: float | None, last: float, bands: bool) -> list[dict[str, Any]]:
        return phase_shapes(self.analyses[0], self.panels, self.columns, edge, last, bands) if self.single else []

    def _step_axis(self, log_step: bool, bands: bool) -> None:
        xs = [plotted.steps for plotted in self.traces]
        nonempty = [steps for steps in xs if steps is not None and len(steps)]
        # The axis covers the whole run even if a curve begins late, so that figures can be compared at a glance.
        all_steps = np.concatenate([*nonempty, *(analysis.timeline.index for analysis in self.analyses)])
        positive = all_steps[all_steps > 0]
        last = float(all_steps.max())
        axes = ["xaxis" if row == 1 else f"xaxis{row}" for row in range(1, self.panels + 1)]
        bottom = axes[-self.columns :]
        linear: dict[str, Any] = {"shapes": self.lines + self._phases(None, last, bands)}
        single_step = bool((all_steps == last).all())
        span = [last - 0.6, last + 0.6] if single_step else [-0.01 * last, 1.01 * last]
        for axis in axes:
            linear |= {f"{axis}.type": "linear", f"{axis}.range": span}
            # 2k is shorter than 2000, but ~s would write 0.2 as 200m.
            linear |= {f"{axis}.tickmode": "auto", f"{axis}.tickformat": "~s" if last >= 1000 else "d"}
            if single_step:
                linear |= {f"{axis}.tickmode": "array", f"{axis}.tickvals": [last]}
            elif last < 10:
                linear |= {f"{axis}.tickmode": "linear", f"{axis}.dtick": 1}
        linear |= {f"{axis}.title.text": "step" for axis in bottom}
        if not len(positive) or positive.min() == last:  # a logarithmic axis would show nothing more
            self.figure.update_layout(_nested(linear))
            return

        first = float(positive.min())
        decades = math.log10(last / first)
        edge = first / 10 ** max(0.1 * decades, 0.1)  # position of step 0
        has_zero = bool((all_steps == 0).any())
        low = math.log10(edge if has_zero else first)
        ticks = log_ticks(first, last)
        logarithmic: dict[str, Any] = {"shapes": self.lines + self._phases(edge if has_zero else first, last, bands)}
        for axis in axes:
            logarithmic |= {f"{axis}.type": "log", f"{axis}.tickmode": "array"}
            logarithmic |= {f"{axis}.range": [low - 0.02 * decades, math.log10(last) + 0.02 * decades]}
            logarithmic |= {f"{axis}.tickvals": [edge, *ticks] if has_zero else ticks}
            logarithmic |= {f"{axis}.ticktext": [*(["0"] if has_zero else []), *map(tick_label, ticks)]}
        logarithmic |= {f"{axis}.title.text": "step (log scale)" for axis in bottom}

        moved = [None if steps is None else np.where(steps == 0, edge, steps) for steps in xs]
        x_linear = [[None] if steps is None else steps.tolist() for steps in xs]
        x_log = [[None] if steps is None else _plain(steps) for steps in moved]
        if all(x == x_linear[0] for x in x_linear):  # plotly repeats one array for all traces
            x_linear, x_log = x_linear[:1], x_log[:1]
        self.figure.update_layout(_nested(logarithmic if log_step else linear))
        if log_step:
            for plotted, steps in zip(self.traces, moved, strict=True):
                if steps is not None:
                    plotted.trace.x = steps
        buttons = [
            {"label": "linear steps", "method": "update", "args": [{"x": x_linear}, linear]},
            {"label": "log steps", "method": "update", "args": [{"x": x_log}, logarithmic]},
        ]
        menu: dict[str, Any] = {"type": "buttons", "direction": "right", "active": int(log_step), "buttons": buttons}
        menu |= {"x": 0.0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "font": {"size": 11}}
        menu |= {"pad": {"b": STRIP + 4, "t": 0, "l": 0, "r": 0}, "bgcolor": "#FFFFFF", "bordercolor": "#C8C8C8"}
        self.figure.update_layout(updatemenus=[menu])


def legend_key(name: str, *, mode: str = "lines", **scatter: Any) -> go.Scatter:
    """Return a trace without points, which only adds a legend entry."""
    return go.Scatter(x=[None], y=[None], mode=mode, name=name, hoverinfo="skip", **scatter)


def _has_data(trace: Any) -> bool:
    return trace.y is not None and any(y is not None and y == y for y in trace.y)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Convert `{"xaxis.type": "log"}` to the form that plotly's Python takes: `{"xaxis_type": "log"}`."""
    return {name.replace(".", "_"): value for name, value in flat.items()}


def _plain(steps: np.ndarray) -> list[float]:
    return [int(x) if float(x).is_integer() else round(float(x), 4) for x in steps]


def log_ticks(first: float, last: float) -> list[float]:
    """Return ticks at powers of ten, or at 1, 2 and 5 times powers of ten if those are too few."""
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    mantissas = (1, 2, 5) if math.log10(last / first) < 2.5 else (1,)
    ticks = [mantissa * 10.0**n for n in decades for mantissa in mantissas]
    return [tick for tick in ticks if first <= tick <= last * 1.0001]


def tick_label(tick: float) -> str:
    """Format a tick with k for thousands and M for millions."""
    if tick >= 1e6:
        return f"{tick / 1e6:g}M"
    return f"{tick / 1e3:g}k" if tick >= 1e3 else f"{tick:g}"
