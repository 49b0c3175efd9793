"""Figures of a sweep in which every seed is a point: times against an axis with their power law, norms at T_grok."""

import math
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
from grokinterp.figures.style import FATE_NAMES, GREY, run_colours
from grokinterp.figures.sweeps import quantity_name, said, short
from grokinterp.statistics import Observed, PowerLaw, observe, power_law, remaining_axes, settings, summarize, values_of

# Beyond this many combinations of the other axes, lines and names would bury the points.
MAX_GROUPS = 10
_MAX_TICKS = 14

# Runs that did not get there, by fate; those not named are drawn like the last.
_SYMBOLS = {
    "DNF_test": "triangle-up-open",
    "DNF_train": "triangle-down-open",
    "semi_grokked": "diamond-open",
    "undetermined": "circle-open",
}


@dataclass(frozen=True)
class _Places:
    """Where each value of an axis stands: at its logarithm where all are numbers, else one beside the other."""

    at: dict[Any, float]
    numeric: bool
    title: str
    gap: float

    @classmethod
    def of(cls, table: pd.DataFrame, axis: str) -> "_Places":
        values = values_of(table, axis)
        if not values or not all(_is_number(value) and value >= 0 for value in values) or not any(values):
            return cls({value: float(i) for i, value in enumerate(values)}, False, escape(axis), 1.0)
        at = {value: math.log10(value) for value in values if value > 0}
        gaps = np.diff(sorted(at.values()))
        gap = float(gaps.min()) if len(gaps) else 1.0
        if 0 in values:
            at[0] = min(at.values()) - max(gap, 0.3)  # 0 has no logarithm: it stands at the left
        return cls(at, True, f"{escape(axis)} (log scale)", gap)

    def ticks(self) -> dict[str, Any]:
        ordered = sorted(self.at, key=lambda value: self.at[value])
        kept = ordered[:: math.ceil(len(ordered) / _MAX_TICKS)]
        places = list(self.at.values())
        margin = 0.06 * (max(places) - min(places)) + 0.4 * self.gap
        return {
            "tickvals": [self.at[value] for value in kept],
            "ticktext": [said(value) for value in kept],
            "range": [min(places) - margin, max(places) + margin],
        }


@dataclass(frozen=True)
class _Group:
    """The runs of one combination of the other axes: their name, colour and place beside the others."""

    name: str
    colour: str
    runs: pd.DataFrame
    shift: float
    width: float


def delay_against(table: pd.DataFrame, axis: str, quantity: str = "delay_0.95_0.99") -> Figure:
    """A time of every run against an axis of the sweep, with medians and a power law.

    Open symbols are runs that had not got there by their last step, where they stand: upward triangles memorized (DNF
    test), downward ones never did (DNF train) and have no part in the fit. The line joins Kaplan-Meier medians; the
    dashed one is the power law with the 95 % band of the line, fitted by a likelihood that counts censored runs. Each
    combination of the other axes has a colour.

    Args:
        table: a sweep's table, one row a run.
        axis: what stands across.
        quantity: a `T_` or `delay_` column; by default T_grok(0.95) - T_train(0.99).

    Returns:
        The figure; `figure.layout.meta["fits"]` has the fitted numbers, a dict for each combination.

    Raises:
        ConfigError: the table lacks a column.
    """
    places, name = _Places.of(table, axis), quantity_name(quantity)
    canvas = Canvas(f"{name} against {escape(axis)}", [], y_titles=["steps"], x_title=places.title)
    seen = observe(table, quantity)
    drawn = seen.values[np.isfinite(seen.values)]
    if not len(drawn):
        canvas.absent(quantity, "no run has it, nor was followed towards it")
    positive = bool((drawn > 0).all())
    if not positive:
        canvas.note("some values are 0 or less: the scale is linear, and no power law is fitted")
    if positive and len(drawn):
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
    _keys(canvas, seen, places, lines=len(groups) <= MAX_GROUPS, fitted=bool(fits))
    _left_out(canvas, seen)
    figure = canvas.finish()
    if places.at:
        figure.update_xaxes(**places.ticks())
    if positive and len(drawn):
        low, high = float(drawn.min()) / 1.6, 3 * float(drawn.max())  # a wide band may end anywhere
        ticks = log_ticks(low, high)
        figure.update_yaxes(range=np.log10([low, high]).tolist(), tickvals=ticks, ticktext=[short(t) for t in ticks])
    figure.update_layout(height=440 + 34 * len(fits), meta=canvas.meta | {"fits": fits})
    return figure


def norm_at_grok(
    table: pd.DataFrame, axis: str, unit: Literal["both", "L2", "RMS"] = "both", theta: float = 0.95
) -> Figure:
    """The weight norm of every run at T_grok: L2 over all parameters, and RMS, L2 over the root of their number.

    A norm at which networks grok whatever their size would be flat in one of the two, and only in one: RMS falls with
    the number of parameters where L2 does not. The line joins medians; runs that did not grok have no such norm.

    Args:
        table: a sweep's table, one row a run.
        axis: what stands across.
        unit: `L2`, `RMS`, or `both` in two panels.
        theta: threshold of T_grok, 0.95 or 0.99.

    Raises:
        ConfigError: the table lacks a column, or there is no such unit.
    """
    columns = {"L2": f"weight_norm_at_T_grok_{theta:g}", "RMS": f"weight_rms_at_T_grok_{theta:g}"}
    if unit != "both" and unit not in columns:
        raise ConfigError(f"unknown unit {unit!r}: {nearest(unit, ['both', *columns])}")
    units = list(columns) if unit == "both" else [unit]
    places = _Places.of(table, axis)
    title = f"Weight norm at T<sub>grok</sub>({theta:g}) against {escape(axis)}"
    canvas = Canvas(title, [], y_titles=[f"{unit} norm" for unit in units], x_title=places.title)
    for row, unit_name in enumerate(units, start=1):
        seen = observe(table, columns[unit_name])
        known = seen.values[seen.reached]
        if not len(known):
            canvas.absent(f"{unit_name} norm", "no run grokked, or no norm was recorded", row)
        groups = _groups(canvas, table, axis, places)
        for group in groups:
            _points(canvas, group, axis, columns[unit_name], places, row=row)
            if len(groups) <= MAX_GROUPS:
                _median_line(canvas, group, axis, columns[unit_name], places, row=row, name=group.name)
        if len(known) > 1:
            spread = float(known.std(ddof=1) / known.mean())
            canvas.note(
                f"{unit_name} over all {len(known)} runs: mean {known.mean():.3g}, std (ddof 1) {spread:.0%} of it"
            )
    without = int((~observe(table, columns[units[0]]).reached).sum())
    if without and without < len(table):
        canvas.note(f"{without} of {len(table)} runs have no norm at T<sub>grok</sub>")
    figure = canvas.finish()
    if places.at:
        figure.update_xaxes(**places.ticks())
    figure.update_yaxes(rangemode="tozero")
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _groups(canvas: Canvas, table: pd.DataFrame, axis: str, places: _Places) -> list[_Group]:
    others = remaining_axes(table, [axis])
    parts = settings(table, others) if len(table) else []
    if len(parts) > MAX_GROUPS:
        canvas.note(
            f"{len(parts)} combinations of {', '.join(map(escape, others))}: colours without names, lines or fits; "
            "take a part of the table to see them"
        )
    width = 0.5 * places.gap / max(len(parts), 1)
    return [
        _Group(
            " · ".join(f"{escape(other.rsplit('.', 1)[-1])} {said(value)}" for other, value in setting.items()),
            colour,
            runs,
            shift=(i - (len(parts) - 1) / 2) * width,
            width=0.5 * width,
        )
        for i, ((setting, runs), colour) in enumerate(zip(parts, run_colours(len(parts)), strict=True))
    ]


def _points(canvas: Canvas, group: _Group, axis: str, quantity: str, places: _Places, *, row: int = 1) -> None:
    """Every run a point, those of one setting a little apart; reached ones filled, the others open."""
    seen, x = observe(group.runs, quantity), np.array(_spread(group, axis, places))
    names = [escape(str(run)) for run in group.runs["run"].tolist()]
    symbols = ["circle" if r else _symbol(f) for r, f in zip(seen.reached, seen.fates, strict=True)]
    for symbol in sorted(set(symbols)):
        chosen = [i for i, other in enumerate(symbols) if other == symbol and math.isfinite(seen.values[i])]
        if not chosen:
            continue
        canvas.add(
            go.Scatter(
                x=x[chosen],
                y=seen.values[chosen],
                mode="markers",
                marker={
                    "color": group.colour,
                    "symbol": symbol,
                    "size": 7 if symbol == "circle" else 10,
                    "opacity": 0.85,
                },
                customdata=[[names[i], FATE_NAMES[seen.fates[i]]] for i in chosen],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{y:,.4~g}<extra></extra>",
                legendgroup=group.name,
                showlegend=False,
            ),
            row=row,
        )


def _symbol(fate: str) -> str:
    return _SYMBOLS.get(fate, "circle-open")


def _spread(group: _Group, axis: str, places: _Places) -> list[float]:
    """Where each run stands: at its setting, and a little beside it, so that equal seeds do not hide each other."""
    values = [_plain(value) for value in group.runs[axis].tolist()]
    counts = {value: values.count(value) for value in set(values)}
    met: dict[Any, int] = {}
    found = []
    for value in values:
        i = met[value] = met.get(value, -1) + 1
        aside = 0.0 if counts[value] == 1 else (i / (counts[value] - 1) - 0.5) * group.width
        found.append(places.at[value] + group.shift + aside)
    return found


def _median_line(
    canvas: Canvas, group: _Group, axis: str, quantity: str, places: _Places, *, row: int = 1, name: str = ""
) -> None:
    """Joins the medians of numbers; those of words, between which nothing lies, are dashes of their own."""
    summary = summarize(group.runs, [axis], quantity).to_dict("records")
    known = sorted((places.at[_plain(r[axis])] + group.shift, r["median"]) for r in summary)
    if not any(math.isfinite(median) for _, median in known) and not name:
        return
    style: dict[str, Any] = {"mode": "lines", "line": {"color": group.colour, "width": 1.6}}
    if not places.numeric:
        style = {"mode": "markers", "marker": _dash(group.colour)}
    canvas.add(
        go.Scatter(
            x=[x for x, _ in known],
            y=[median if math.isfinite(median) else None for _, median in known],
            hoverinfo="skip",
            legendgroup=group.name,
            name=name,
            showlegend=bool(name) and row == 1,
            **style,
        ),
        row=row,
    )


def _dash(colour: str) -> dict[str, Any]:
    return {"symbol": "line-ew-open", "size": 26, "color": colour, "line": {"width": 2.5}}


def _plain(value: Any) -> Any:
    return None if value is None or value is pd.NA or value != value else value


def _fit(canvas: Canvas, group: _Group, axis: str, quantity: str) -> PowerLaw | None:
    """The power law of a group, or a note that says why it has none."""
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
    """The line over the settings whose runs it was fitted to."""
    used = group.runs[axis].to_numpy(dtype=float)[observe(group.runs, quantity).followed]
    x = np.linspace(np.log10(used[used > 0].min()), np.log10(used.max()), 60)
    band = fit.at(10**x)
    ends_known = math.isfinite(fit.interval.low) or math.isfinite(fit.interval.high)
    if ends_known and bool(np.isfinite(band["high"].to_numpy(dtype=float)).all()):
        canvas.add(
            go.Scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([band["high"], band["low"][::-1]]),
                fill="toself",
                mode="lines",
                line={"width": 0},
                fillcolor=_faint(group.colour),
                hoverinfo="skip",
                legendgroup=group.name,
                showlegend=False,
            )
        )
    interval = f"[{_signed(fit.interval.low)}, {_signed(fit.interval.high)}], " if ends_known else ""
    runs = f"{fit.n} runs" + (f", {fit.n_censored} censored" if fit.n_censored else "")
    prefix = f"{group.name}: " if group.name else ""
    canvas.add(
        go.Scatter(
            x=x,
            y=band["y"],
            mode="lines",
            line={"color": group.colour, "width": 2, "dash": "dash"},
            name=f"{prefix}exponent {_signed(fit.exponent)}<br>{interval}{runs}",  # two lines fit a narrow window
            hoverinfo="skip",
            legendgroup=group.name,
        )
    )


def _signed(x: float) -> str:
    return f"{x:.2f}".replace("-", "−")


def _faint(colour: str) -> str:
    red, green, blue = colors.hex_to_rgb(colour) if colour.startswith("#") else colors.unlabel_rgb(colour)
    return f"rgba({red:.0f}, {green:.0f}, {blue:.0f}, 0.13)"


def _numbers(name: str, fit: PowerLaw) -> dict[str, Any]:
    return {
        "group": name,
        "exponent": fit.exponent,
        "low": fit.interval.low,
        "high": fit.interval.high,
        "n": fit.n,
        "n_censored": fit.n_censored,
        "spread": fit.spread,
        "method": fit.method,
    }


def _keys(canvas: Canvas, seen: Observed, places: _Places, *, lines: bool, fitted: bool) -> None:
    """What symbols and dashes mean, in grey."""
    if lines and places.numeric:
        canvas.key("median", dash="solid")
    elif lines:
        canvas.add(go.Scatter(x=[None], y=[None], mode="markers", marker=_dash(GREY), name="median", hoverinfo="skip"))
    if fitted:
        canvas.key("power law, 95 % band", dash="dash")
    not_there = {
        fate
        for fate, value, reached in zip(seen.fates, seen.values, seen.reached, strict=True)
        if value == value and not reached
    }
    for fate in [fate for fate in FATE_NAMES if fate in not_there]:
        marker = {"symbol": _symbol(fate), "size": 10, "color": GREY}
        name = f"{FATE_NAMES[fate] if fate in _SYMBOLS else 'not there'}, at its last step"
        canvas.add(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip"))


def _left_out(canvas: Canvas, seen: Observed) -> None:
    without = [fate for fate, value in zip(seen.fates, seen.values, strict=True) if value != value]
    if without and len(without) < len(seen.fates):
        counts = ", ".join(f"{without.count(fate)} {FATE_NAMES[fate]}" for fate in FATE_NAMES if fate in without)
        canvas.note(f"not drawn, without a number: {counts}")
