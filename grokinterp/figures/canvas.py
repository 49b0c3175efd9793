"""Canvas: a figure under construction. It knows the step axis, the phases, and how to say what is missing."""

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
from grokinterp.errors import ConfigError
from grokinterp.figures.phases import STRIP, phase_shapes
from grokinterp.figures.style import GREY, TEMPLATE
from grokinterp.figures.thinning import moments_of, thinned_curve

# Below this many points a line alone could be overlooked, or, with one point, is none.
_FEW_POINTS = 25


def as_list(analysis: Analysis | Sequence[Analysis]) -> list[Analysis]:
    """One analysis or several, as a list.

    Raises:
        ConfigError: there are none.
    """
    analyses = [analysis] if isinstance(analysis, Analysis) else list(analysis)
    if not analyses:
        raise ConfigError("no analysis was given: give one, or a list of them")
    return analyses


def labels(analyses: Sequence[Analysis]) -> list[str]:
    """A legend name for each run: its folder's, with what tells it from another of that name, and p where p differs."""
    names = [analysis.name for analysis in analyses]
    if len(set(names)) < len(names):
        names = [f"{analysis.run.path.parent.name}/{analysis.name}" for analysis in analyses]
    if len(set(names)) < len(names):
        names = [f"{name} [{i}]" for i, name in enumerate(names, start=1)]
    moduli = [analysis.run.classification.p for analysis in analyses]
    if len(set(moduli)) > 1:
        names = [f"{name} (p = {p})" for name, p in zip(names, moduli, strict=True)]
    return [escape(name) for name in names]


@dataclass
class _Drawn:
    """A trace, the steps it is drawn against (None where x is something else), and its panel."""

    trace: Any
    steps: np.ndarray | None
    row: int


@dataclass(frozen=True)
class _Missing:
    """What is not drawn, of which run, why, and in which panel."""

    what: str
    run: str
    reason: str
    row: int


class Canvas:
    """Collects traces against the training step, and finishes them into a figure that can switch its step axis.

    On the logarithmic axis step 0 stands at the left edge, labelled 0: it has no place on such an axis of its own.

    Attributes:
        figure: what has been drawn so far.
        notes: what a reader should know of missing or thinned data; also in `figure.layout.meta["notes"]`.
        meta: what the finished figure says of itself to a report, its `layout.meta`.
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
    ):
        """Starts a figure with one panel for each title in `y_titles`; `x_title` is given where x is not the step."""
        self.title, self.analyses, self.x_title = title, analyses, x_title
        self.names = labels(analyses)
        self.rows = len(y_titles)
        self.figure = go.Figure(
            make_subplots(
                rows=self.rows, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=row_titles or None
            )
        )
        self.notes: list[str] = []
        self.meta: dict[str, Any] = {}
        self.missing: list[_Missing] = []
        self.traces: list[_Drawn] = []
        self.lines: list[dict[str, Any]] = []
        self.log_rows = {row for row, is_log in enumerate(log_y, start=1) if is_log}
        for row, y_title in enumerate(y_titles, start=1):
            kind = "log" if row in self.log_rows else "linear"
            self.figure.update_yaxes(title_text=y_title, type=kind, row=row, col=1)

    @property
    def single(self) -> bool:
        return len(self.analyses) == 1

    def name_of(self, analysis: Analysis) -> str:
        """What the legend calls a run."""
        return next(name for one, name in zip(self.analyses, self.names, strict=True) if one is analysis)

    def add(self, trace: Any, steps: np.ndarray | None = None, row: int = 1) -> None:
        """Adds a trace; `steps` are its x values where x is the step."""
        self.traces.append(_Drawn(trace, steps, row))

    def line(
        self,
        series: pd.Series,
        name: str,
        *,
        colour: str,
        hover: str = "",
        dash: str = "solid",
        width: float = 2.0,
        row: int = 1,
        **more: Any,
    ) -> None:
        """Draws a series, indexed by step, as a line; of very many points those that show."""
        shown = thinned_curve(series, moments_of(self.analyses))
        if len(shown) < len(series):
            self.note(f"of {len(series):,} points of a curve, the smallest and largest of each stretch are drawn")
        steps, values = np.asarray(shown.index), shown.to_numpy(dtype=float)
        if row in self.log_rows and (zeros := int((series <= 0).sum())):
            self.note(f"{name}: {zeros} values of 0 or less have no place on a logarithmic axis")
        trace = go.Scatter(
            x=steps,
            y=values,
            customdata=steps,
            name=name,
            mode="lines+markers" if len(values) <= _FEW_POINTS else "lines",
            line={"color": colour, "dash": dash, "width": width},
            marker={"size": 5, "color": colour},
            hovertemplate=f"<b>{hover or name}</b><br>step %{{customdata:,}}<br>%{{y:.4g}}<extra></extra>",
            **more,
        )
        self.add(trace, steps, row)

    def key(self, name: str, *, dash: str, row: int = 1) -> None:
        """An entry in the legend for what a dash means, when colours stand for runs."""
        style = {"color": GREY, "dash": dash, "width": 2}
        self.add(go.Scatter(x=[None], y=[None], mode="lines", line=style, name=name, hoverinfo="skip"), None, row)

    def level(self, y: float, name: str = "", row: int = 1) -> None:
        """A horizontal line at a height that means something."""
        axis = "" if row == 1 else str(row)
        shape = {"type": "line", "xref": f"x{axis} domain", "x0": 0, "x1": 1, "yref": f"y{axis}", "y0": y, "y1": y}
        shape |= {"line": {"color": GREY, "width": 1, "dash": "dot"}, "layer": "below"}
        self.lines.append(shape | ({"name": name, "showlegend": True} if name else {}))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def lacks(self, what: str, analysis: Analysis, column: str, row: int = 1, reason: str = "") -> None:
        """Keeps why something is not drawn: for the notes, and for the panel itself if nothing else is in it."""
        reason = reason or analysis.why_missing(column) or "it was not measured"
        self.missing.append(_Missing(what, self.name_of(analysis), escape(reason), row))

    def absent(self, what: str, reason: str, row: int = 1) -> None:
        """The same where what is missing is not one run's."""
        self.missing.append(_Missing(escape(what), "", escape(reason), row))

    def runs(self, colours: Sequence[str]) -> None:
        """An entry in the legend for each run that was drawn; a click on it hides or shows all of the run."""
        drawn = {str(d.trace.legendgroup) for d in self.traces}
        for name, colour in zip(self.names, colours, strict=True):
            if name in drawn:
                style = {"color": colour, "width": 3}
                self.add(go.Scatter(x=[None], y=[None], mode="lines", line=style, name=name, legendgroup=name))

    def finish(self, *, log_step: bool = False, bands: bool = True) -> go.Figure:
        """The figure, with phases and events (of a single run), the step axis's two scales, and reasons."""
        figure = self.figure
        figure.update_layout(template=TEMPLATE, title={"text": self.title})
        drawn = self._explain()
        if self.rows > 1:
            figure.update_layout(height=200 + 210 * self.rows)
        if self.x_title is not None:
            figure.update_xaxes(title_text=self.x_title, row=self.rows, col=1)
            figure.update_layout({"shapes": self.lines})
            figure.update_layout(margin_t=64)  # no buttons to make room for
        elif drawn:
            self._step_axis(log_step, bands)
        for drawing in self.traces:
            figure.add_trace(drawing.trace, row=drawing.row, col=1)
        for row in self.log_rows:
            figure.update_yaxes(**self._log_ticks(row), row=row, col=1)
        self.meta = {"notes": self.notes, "panels": self.rows, "empty": not drawn}
        figure.update_layout(meta=self.meta)
        if self.notes and drawn:
            text = "<br>".join(line for note in self.notes for line in textwrap.wrap(note, 110))
            figure.update_layout(title_subtitle={"text": text, "font": {"size": 11, "color": GREY}})
            figure.update_layout(margin_t=(82 if self.x_title else 118) + 15 * text.count("<br>"))
        return figure

    def _explain(self) -> bool:
        """Says in each panel without data why it has none, and in the notes; whether any panel has data."""
        filled = {drawing.row for drawing in self.traces if _has_data(drawing.trace)}
        said = self._reasons(self.missing)
        self.notes[:0] = said
        for row in range(1, self.rows + 1):
            if row in filled:
                continue
            # An axis without a trace would not be drawn at all, nor the steps below the lowest panel.
            self.add(go.Scatter(x=[None], y=[None], showlegend=False, hoverinfo="skip"), None, row)
            reasons = self._reasons([m for m in self.missing if m.row == row]) or ["there is nothing to show"]
            axis: Any = self.figure.layout["yaxis" if row == 1 else f"yaxis{row}"]
            low, high = axis.domain or (0, 1)
            self.figure.add_annotation(
                text="<br>".join(line for reason in reasons for line in textwrap.wrap(reason, 44)),
                xref="paper",
                yref="paper",
                x=0.5,
                y=(low + high) / 2,
                showarrow=False,
                font={"color": GREY, "size": 13},
            )
            self.figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, row=row, col=1)
            if not filled:
                self.figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, row=row, col=1)
        return bool(filled)

    def _reasons(self, missing: Sequence[_Missing]) -> list[str]:
        """One sentence for each reason, with all that it keeps from being drawn, and of which runs."""
        by_run: dict[tuple[str, str], list[str]] = {}
        for m in missing:
            whats = by_run.setdefault((m.reason, m.run), [])
            whats += [m.what] if m.what not in whats else []
        by_whats: dict[tuple[str, str], list[str]] = {}
        for (reason, run), whats in by_run.items():
            by_whats.setdefault((reason, ", ".join(whats)), []).append(run)
        return [
            f"not drawn: {whats}" + ("" if self.single or runs == [""] else f" of {', '.join(runs)}") + f" ({reason})"
            for (reason, whats), runs in by_whats.items()
        ]

    def _log_ticks(self, row: int) -> dict[str, Any]:
        """Ticks at powers of ten, which are easier to read than 0.0000001, 100n, or a bare 2 and 5."""
        ys = [np.asarray(d.trace.y, dtype=float) for d in self.traces if d.row == row and d.trace.visible is not False]
        y = np.concatenate(ys) if ys else np.empty(0)
        y = y[np.isfinite(y) & (y > 0)]
        decades = math.log10(y.max() / y.min()) if len(y) else 0.0
        spacing = {"dtick": 1} if 1 <= decades <= 6 else {"nticks": 8}
        return spacing | {"exponentformat": "power"}

    def _phases(self, edge: float | None, last: float, bands: bool) -> list[dict[str, Any]]:
        return phase_shapes(self.analyses[0], self.rows, edge, last, bands) if self.single else []

    def _step_axis(self, log_step: bool, bands: bool) -> None:
        xs = [drawing.steps for drawing in self.traces]
        given = [steps for steps in xs if steps is not None and len(steps)]
        # All of the run is shown, also where a curve begins late, so that figures can be compared at a glance.
        every = np.concatenate([*given, *(analysis.timeline.index for analysis in self.analyses)])
        positive = every[every > 0]
        last = float(every.max())
        axes = ["xaxis" if row == 1 else f"xaxis{row}" for row in range(1, self.rows + 1)]
        bottom = axes[-1]
        linear: dict[str, Any] = {"shapes": self.lines + self._phases(None, last, bands)}
        alone = bool((every == last).all())  # a single checkpoint
        span = [last - 0.6, last + 0.6] if alone else [-0.01 * last, 1.01 * last]
        for axis in axes:
            linear |= {f"{axis}.type": "linear", f"{axis}.range": span}
            # 2k is shorter than 2000, but 200m is no way to write 0.2 steps.
            linear |= {f"{axis}.tickmode": "auto", f"{axis}.tickformat": "~s" if last >= 1000 else "d"}
            if alone:
                linear |= {f"{axis}.tickmode": "array", f"{axis}.tickvals": [last]}
            elif last < 10:
                linear |= {f"{axis}.tickmode": "linear", f"{axis}.dtick": 1}
        linear[f"{bottom}.title.text"] = "step"
        if not len(positive) or positive.min() == last:  # nothing that a logarithm could spread
            self.figure.update_layout(_nested(linear))
            return

        first = float(positive.min())
        decades = math.log10(last / first)
        edge = first / 10 ** max(0.1 * decades, 0.1)  # where step 0 is drawn
        has_zero = bool((every == 0).any())
        low = math.log10(edge if has_zero else first)
        ticks = log_ticks(first, last)
        logarithmic: dict[str, Any] = {"shapes": self.lines + self._phases(edge if has_zero else first, last, bands)}
        for axis in axes:
            logarithmic |= {f"{axis}.type": "log", f"{axis}.tickmode": "array"}
            logarithmic |= {f"{axis}.range": [low - 0.02 * decades, math.log10(last) + 0.02 * decades]}
            logarithmic |= {f"{axis}.tickvals": [edge, *ticks] if has_zero else ticks}
            logarithmic |= {f"{axis}.ticktext": ["0"] * has_zero + [tick_label(tick) for tick in ticks]}
        logarithmic[f"{bottom}.title.text"] = "step (log scale)"

        moved = [None if steps is None else np.where(steps == 0, edge, steps) for steps in xs]
        x_linear = [[None] if steps is None else steps.tolist() for steps in xs]
        x_log = [[None] if steps is None else _plain(steps) for steps in moved]
        if all(x == x_linear[0] for x in x_linear):  # one array serves every trace
            x_linear, x_log = x_linear[:1], x_log[:1]
        self.figure.update_layout(_nested(logarithmic if log_step else linear))
        if log_step:
            for drawing, steps in zip(self.traces, moved, strict=True):
                if steps is not None:
                    drawing.trace.x = steps
        self.figure.update_layout(
            updatemenus=[
                {
                    "type": "buttons",
                    "direction": "right",
                    "active": int(log_step),
                    "buttons": [
                        {"label": "linear steps", "method": "update", "args": [{"x": x_linear}, linear]},
                        {"label": "log steps", "method": "update", "args": [{"x": x_log}, logarithmic]},
                    ],
                    "x": 0.0,
                    "xanchor": "left",
                    "y": 1.0,
                    "yanchor": "bottom",
                    "pad": {"b": STRIP + 4, "t": 0, "l": 0, "r": 0},
                    "font": {"size": 11},
                    "bgcolor": "#FFFFFF",
                    "bordercolor": "#C8C8C8",
                }
            ]
        )


def _has_data(trace: Any) -> bool:
    return trace.y is not None and any(y is not None and y == y for y in trace.y)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`{"xaxis.type": "log"}` as plotly's Python takes it: `{"xaxis_type": "log"}`."""
    return {name.replace(".", "_"): value for name, value in flat.items()}


def _plain(steps: np.ndarray) -> list[float]:
    return [int(x) if float(x).is_integer() else round(float(x), 4) for x in steps]


def log_ticks(first: float, last: float) -> list[float]:
    """Powers of ten, or 1-2-5 where those would be too few."""
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    few = math.log10(last / first) < 2.5
    ticks = [mantissa * 10.0**n for n in decades for mantissa in ((1, 2, 5) if few else (1,))]
    return [tick for tick in ticks if first <= tick <= last * 1.0001]


def tick_label(tick: float) -> str:
    if tick >= 1e6:
        return f"{tick / 1e6:g}M"
    return f"{tick / 1e3:g}k" if tick >= 1e3 else f"{tick:g}"
