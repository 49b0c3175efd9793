"""Figures of a sweep in which every run is a point: times with their power law, and weight norms at T_grok."""

import math
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
import pandas as pd
from plotly import colors
from plotly import graph_objects as go
from plotly.graph_objects import Figure

from grokinterp.errors import ConfigError, nearest
from grokinterp.figures.canvas import Canvas, log_ticks
from grokinterp.figures.inputs import Table, as_table
from grokinterp.figures.style import GRAY, OUTCOME_LABELS, run_colors
from grokinterp.figures.sweeps import counts_text, quantity_name, value_label
from grokinterp.statistics import Observed, PowerLaw, observe, power_law, remaining_axes, settings, summarize, values_of
from grokinterp.statistics.formatting import short
from grokinterp.statistics.outcomes import Outcome

# With more combinations of the other axes, lines and names would hide the points.
MAX_GROUPS = 10
_MAX_TICKS = 14

# Symbols of runs that did not reach the event; outcomes without an entry are drawn like undetermined ones.
_SYMBOLS: dict[str, str] = {
    Outcome.DNF_TEST: "triangle-up-open",
    Outcome.DNF_TRAIN: "triangle-down-open",
    Outcome.SEMI_GROKKED: "diamond-open",
    Outcome.UNDETERMINED: "circle-open",
}


@dataclass(frozen=True)
class _Places:
    """Positions of the values of an axis: logarithms if all values are numbers, otherwise 0, 1, 2 and so on."""

    positions: dict[Any, float]
    numeric: bool
    title: str
    gap: float

    @classmethod
    def from_table(cls, table: pd.DataFrame, axis: str) -> "_Places":
        values = values_of(table, axis)
        if not values or not all(_is_number(value) and value >= 0 for value in values) or not any(values):
            return cls({value: float(i) for i, value in enumerate(values)}, False, escape(axis), 1.0)
        positions = {value: math.log10(value) for value in values if value > 0}
        gaps = np.diff(sorted(positions.values()))
        gap = float(gaps.min()) if len(gaps) else 1.0
        if 0 in values:
            positions[0] = min(positions.values()) - max(gap, 0.3)  # 0 has no logarithm: it goes to the left edge
        return cls(positions, True, f"{escape(axis)} (log scale)", gap)

    def ticks(self) -> dict[str, Any]:
        values = sorted(self.positions, key=lambda value: self.positions[value])
        ticks = values[:: math.ceil(len(values) / _MAX_TICKS)]
        low, high = self.positions[values[0]], self.positions[values[-1]]
        margin = 0.06 * (high - low) + 0.4 * self.gap
        return {
            "tickvals": [self.positions[value] for value in ticks],
            "ticktext": [value_label(value) for value in ticks],
            "range": [low - margin, high + margin],
        }


@dataclass(frozen=True)
class _Group:
    """The runs of one combination of the other axes, with their name, color, and horizontal shift."""

    name: str
    color: str
    runs: pd.DataFrame
    shift: float
    width: float


def delay_against(table: Table, axis: str, quantity: str = "delay_0.95_0.99") -> Figure:
    """A time of every run against an axis of the sweep, with medians and a power law.

    Open symbols are runs that had not reached the event by their last step, at which they are drawn. Upward triangles
    are runs that memorized (DNF test); downward triangles are runs that did not (DNF train), which the fit excludes.
    The solid line joins Kaplan-Meier medians. The dashed line is a power law with its 95 % band, fitted by maximum
    likelihood with right-censored runs. Each combination of the other axes has a color.

    Args:
        table: a Sweep, its path, or its table with one row per run.
        axis: the horizontal axis.
        quantity: a `T_` or `delay_` column (default: T_grok(0.95) - T_train(0.99)).

    Returns:
        The figure. `figure.layout.meta["fits"]` has a dict of fitted numbers for each combination.

    Raises:
        ConfigError: the table lacks a column.
    """
    table = as_table(table)
    places, name = _Places.from_table(table, axis), quantity_name(quantity)
    canvas = Canvas(f"{name} against {escape(axis)}", [], y_titles=["steps"], x_title=places.title)
    observed = observe(table, quantity)
    finite = observed.values[np.isfinite(observed.values)]
    if not len(finite):
        canvas.absent(quantity, "no run reached it or was trained towards it")
    positive = bool((finite > 0).all())
    if not positive:
        canvas.note("some values are 0 or less: the scale is linear, and no power law is fitted")
    if positive and len(finite):
        canvas.log_rows.add(1)
        canvas.figure.update_yaxes(type="log")
    groups = _groups(canvas, table, axis, places)
    fits: list[dict[str, Any]] = []
    for group in groups:
        _points(canvas, group, axis, quantity, places)
        if len(groups) <= MAX_GROUPS:
            fit = _fit(canvas, group, axis, quantity) if positive and places.numeric else None
            _median_line(canvas, group, axis, quantity, places, name="" if fit else group.name)
            if fit is not None:
                _power_law_line(canvas, group, axis, quantity, fit)
                fits.append(_numbers(group.name, fit))
    _keys(canvas, observed, places, lines=len(groups) <= MAX_GROUPS, fitted=bool(fits))
    _note_undrawn(canvas, observed)
    figure = canvas.finish()
    if places.positions:
        figure.update_xaxes(**places.ticks())
    if positive and len(finite):
        low, high = float(finite.min()) / 1.6, 3 * float(finite.max())  # independent of the band, which may be wide
        ticks = log_ticks(low, high)
        figure.update_yaxes(range=np.log10([low, high]).tolist(), tickvals=ticks, ticktext=[short(t) for t in ticks])
    figure.update_layout(height=440 + 34 * len(fits), meta=canvas.meta | {"fits": fits})
    return figure


def norm_at_grok(table: Table, axis: str, unit: Literal["both", "L2", "RMS"] = "both", theta: float = 0.95) -> Figure:
    """Weight norm of every run at T_grok: L2 over all parameters, and RMS (L2 over the root of their number).

    If networks of every size grokked at the same norm, the points would be flat in one of the two units only, because
    at the same L2 norm the RMS falls with the number of parameters. The line joins medians. Runs that did not grok have
    no such norm.

    Args:
        table: a Sweep, its path, or its table with one row per run.
        axis: the horizontal axis.
        unit: `L2`, `RMS`, or `both` in two panels.
        theta: threshold of T_grok, 0.95 or 0.99.

    Raises:
        ConfigError: the table lacks a column, or the unit is unknown.
    """
    table = as_table(table)
    columns = {"L2": f"weight_norm_at_T_grok_{theta:g}", "RMS": f"weight_rms_at_T_grok_{theta:g}"}
    if unit != "both" and unit not in columns:
        raise ConfigError(f"unknown unit {unit!r}: {nearest(unit, ['both', *columns])}")
    units = list(columns) if unit == "both" else [unit]
    places = _Places.from_table(table, axis)
    title = f"Weight norm at T<sub>grok</sub>({theta:g}) against {escape(axis)}"
    canvas = Canvas(title, [], y_titles=[f"{unit} norm" for unit in units], x_title=places.title)
    for row, unit_name in enumerate(units, start=1):
        observed = observe(table, columns[unit_name])
        norms = observed.values[observed.reached]
        if not len(norms):
            canvas.absent(f"{unit_name} norm", "no run grokked, or no norm was recorded", row)
        groups = _groups(canvas, table, axis, places)
        for group in groups:
            _points(canvas, group, axis, columns[unit_name], places, row=row)
            if len(groups) <= MAX_GROUPS:
                _median_line(canvas, group, axis, columns[unit_name], places, row=row, name=group.name)
        if len(norms) > 1:
            spread = float(norms.std(ddof=1) / norms.mean())
            mean = f"mean {norms.mean():.3g}, std (ddof 1) {spread:.0%} of it"
            canvas.note(f"{unit_name} over all {len(norms)} runs: {mean}")
    n_missing = int((~observe(table, columns[units[0]]).reached).sum())
    if n_missing and n_missing < len(table):
        canvas.note(f"{n_missing} of {len(table)} runs have no norm at T<sub>grok</sub>")
    figure = canvas.finish()
    if places.positions:
        figure.update_xaxes(**places.ticks())
    figure.update_yaxes(rangemode="tozero")
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _groups(canvas: Canvas, table: pd.DataFrame, axis: str, places: _Places) -> list[_Group]:
    axes = remaining_axes(table, [axis])
    parts = settings(table, axes) if len(table) else []
    if len(parts) > MAX_GROUPS:
        canvas.note(
            f"{len(parts)} combinations of {', '.join(map(escape, axes))} are too many for names, lines and fits: "
            "select fewer rows of the table to see them"
        )
    width = 0.5 * places.gap / max(len(parts), 1)
    return [
        _Group(
            " · ".join(f"{escape(name.rsplit('.', 1)[-1])} {value_label(value)}" for name, value in setting.items()),
            color,
            runs,
            shift=(i - (len(parts) - 1) / 2) * width,
            width=0.5 * width,
        )
        for i, ((setting, runs), color) in enumerate(zip(parts, run_colors(len(parts)), strict=True))
    ]


def _points(canvas: Canvas, group: _Group, axis: str, quantity: str, places: _Places, *, row: int = 1) -> None:
    """Draw every run as a point, filled if it reached the quantity and open if not."""
    observed, x = observe(group.runs, quantity), np.array(_spread(group, axis, places))
    names = [escape(str(run)) for run in group.runs["run"].tolist()]
    symbols = np.where(observed.reached, "circle", [_symbol(outcome) for outcome in observed.outcomes])
    for symbol in sorted(set(symbols.tolist())):
        selection = np.flatnonzero((symbols == symbol) & np.isfinite(observed.values))
        if not len(selection):
            continue
        marker = {"color": group.color, "symbol": symbol, "size": 7 if symbol == "circle" else 10, "opacity": 0.85}
        trace = go.Scatter(x=x[selection], y=observed.values[selection], mode="markers", marker=marker)
        trace.update(customdata=[[names[i], OUTCOME_LABELS[observed.outcomes[i]]] for i in selection])
        trace.update(hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{y:,.4~g}<extra></extra>")
        canvas.add(trace.update(legendgroup=group.name, showlegend=False), row=row)


def _symbol(outcome: str) -> str:
    return _SYMBOLS.get(outcome, "circle-open")


def _spread(group: _Group, axis: str, places: _Places) -> list[float]:
    """Return the position of each run: that of its setting, with the runs of a setting side by side."""
    values = [_plain(value) for value in group.runs[axis].tolist()]
    counts, ranks, positions = Counter(values), Counter(), []
    for value in values:
        offset = 0.0 if counts[value] == 1 else (ranks[value] / (counts[value] - 1) - 0.5) * group.width
        positions.append(places.positions[value] + group.shift + offset)
        ranks[value] += 1
    return positions


def _median_line(
    canvas: Canvas, group: _Group, axis: str, quantity: str, places: _Places, *, row: int = 1, name: str = ""
) -> None:
    """Join the medians by a line on a numeric axis, and draw each as a dash on an axis of names."""
    summary = summarize(group.runs, [axis], quantity).to_dict("records")
    medians = sorted((places.positions[_plain(r[axis])] + group.shift, r["median"]) for r in summary)
    if not any(math.isfinite(median) for _, median in medians) and not name:
        return
    trace = go.Scatter(x=[x for x, _ in medians], y=[y if math.isfinite(y) else None for _, y in medians])
    if places.numeric:
        trace.update(mode="lines", line={"color": group.color, "width": 1.6})
    else:
        trace.update(mode="markers", marker=_dash(group.color))
    trace.update(hoverinfo="skip", legendgroup=group.name, name=name, showlegend=bool(name) and row == 1)
    canvas.add(trace, row=row)


def _dash(color: str) -> dict[str, Any]:
    return {"symbol": "line-ew-open", "size": 26, "color": color, "line": {"width": 2.5}}


def _plain(value: Any) -> Any:
    return None if value is None or value is pd.NA or value != value else value


def _fit(canvas: Canvas, group: _Group, axis: str, quantity: str) -> PowerLaw | None:
    """Return the power law of a group; if none can be fitted, note the reason and return None."""
    runs = pd.DataFrame(group.runs[group.runs[axis].to_numpy(dtype=float) > 0])
    if len(runs) < len(group.runs):
        canvas.note(f"{escape(axis)} = 0 is not part of the fit: it has no logarithm")
    if len(values_of(runs, axis)) < 2:
        return None
    try:
        return power_law(runs, axis, quantity)
    except ConfigError as error:
        canvas.note(f"no fit{f' of {group.name}' if group.name else ''}: {escape(str(error))}")
        return None


def _power_law_line(canvas: Canvas, group: _Group, axis: str, quantity: str, fit: PowerLaw) -> None:
    """Draw a power law over the settings of the runs it was fitted to."""
    fitted = group.runs[axis].to_numpy(dtype=float)[observe(group.runs, quantity).followed]
    x = np.linspace(np.log10(fitted[fitted > 0].min()), np.log10(fitted.max()), 60)
    band = fit.at(10**x)
    has_interval = math.isfinite(fit.interval.low) or math.isfinite(fit.interval.high)
    if has_interval and bool(np.isfinite(band["high"].to_numpy(dtype=float)).all()):
        outline = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([band["high"], band["low"][::-1]])}
        trace = go.Scatter(**outline, fill="toself", mode="lines", line={"width": 0}, fillcolor=_faint(group.color))
        canvas.add(trace.update(hoverinfo="skip", legendgroup=group.name, showlegend=False))
    interval = f"[{_signed(fit.interval.low)}, {_signed(fit.interval.high)}], " if has_interval else ""
    runs = f"{fit.n} runs" + (f", {fit.n_censored} censored" if fit.n_censored else "")
    prefix = f"{group.name}: " if group.name else ""
    name = f"{prefix}exponent {_signed(fit.exponent)}<br>{interval}{runs}"  # two lines, to fit a narrow window
    line = {"color": group.color, "width": 2, "dash": "dash"}
    trace = go.Scatter(x=x, y=band["y"], mode="lines", line=line, name=name, hoverinfo="skip", legendgroup=group.name)
    canvas.add(trace)


def _signed(x: float) -> str:
    return f"{x:.2f}".replace("-", "−")


def _faint(color: str) -> str:
    red, green, blue = colors.hex_to_rgb(color) if color.startswith("#") else colors.unlabel_rgb(color)
    return f"rgba({red:.0f}, {green:.0f}, {blue:.0f}, 0.13)"


def _numbers(name: str, fit: PowerLaw) -> dict[str, Any]:
    numbers = {field: getattr(fit, field) for field in ("exponent", "n", "n_censored", "spread", "method")}
    return {"group": name, "low": fit.interval.low, "high": fit.interval.high} | numbers


def _keys(canvas: Canvas, observed: Observed, places: _Places, *, lines: bool, fitted: bool) -> None:
    """Add legend entries, in gray, that explain symbols and dash styles."""
    if lines and places.numeric:
        canvas.key("median", dash="solid")
    elif lines:
        canvas.marker_key("median", _dash(GRAY))
    if fitted:
        canvas.key("power law, 95 % band", dash="dash")
    unreached = set(np.array(observed.outcomes, dtype=object)[~observed.reached & ~np.isnan(observed.values)])
    for outcome in [outcome for outcome in OUTCOME_LABELS if outcome in unreached]:
        label = OUTCOME_LABELS[outcome] if outcome in _SYMBOLS else "not reached"
        canvas.marker_key(f"{label}, at its last step", {"symbol": _symbol(outcome), "size": 10, "color": GRAY})


def _note_undrawn(canvas: Canvas, observed: Observed) -> None:
    undrawn = Counter(o for o, value in zip(observed.outcomes, observed.values, strict=True) if value != value)
    if 0 < undrawn.total() < len(observed.outcomes):
        canvas.note(f"not drawn, because they have no number: {counts_text(undrawn)}")
