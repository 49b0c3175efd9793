"""Figures of provable grokking: what Xu et al. 2026 show of ridge regression, random features and two-layer networks.

Each takes what `grokinterp.theory` returns: a table of `ridge_sweep`, stages, solutions, or runs.

    >>> from grokinterp.figures import ridge
    >>> from grokinterp.theory import ridge_sweep
    >>> figure = ridge.times(ridge_sweep({"weight_decay": [1e-4, 1e-3]}, seeds=[0]))
    >>> figure.layout.xaxis.title.text
    'weight decay λ'
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import log_ticks, tick_label
from grokinterp.figures.style import FAINT, GREY, QUANTITY_COLOURS, TEMPLATE, run_colours
from grokinterp.theory import RidgeSolution, Stages, TwoLayerRun

_TRAIN, _TEST = QUANTITY_COLOURS["train"], QUANTITY_COLOURS["test"]
_AXES = {
    "weight_decay": "weight decay λ",
    "n": "training examples n",
    "m": "features m",
    "init_variance": "variance at the start ν²",
    "lr": "step size η",
    "teacher_norm": "norm of the teacher",
}
_BOUNDS = (
    ("t1_bound_gaussian", "bound on t<sub>1</sub>, (8)", _TRAIN, "dash", True),
    ("t2_bound_gaussian", "bound on t<sub>2</sub>, (8)", _TEST, "dash", True),
    ("t1_bound_sharp", "bound on t<sub>1</sub>, Theorem 4.4", _TRAIN, "dot", "legendonly"),
    ("t2_bound_sharp", "bound on t<sub>2</sub>, Theorem 4.5", _TEST, "dot", "legendonly"),
)
_CURVE_POINTS = 400


def times(table: pd.DataFrame) -> go.Figure:
    """t1, where the train loss is last at ε, and t2, where the population loss is first at c, as one setting varies.

    Points are seeds, lines their medians. t1 keeps below its bound and t2 above its own (dashed; medians, too). More
    weight decay shortens t2 in proportion and leaves t1 alone; the step size divides both; more features change little
    (Xu et al. 2026, Figure 2; the panel over η is not in the paper).

    Args:
        table: from `grokinterp.theory.ridge_sweep`.

    Raises:
        ConfigError: the table has no rows.
    """
    if table.empty:
        raise ConfigError("the table has no rows: give one that ridge_sweep returned")
    fields = [str(field) for field in dict.fromkeys(table["varied"])]
    columns = min(2, len(fields))
    rows = math.ceil(len(fields) / columns)
    figure = go.Figure(make_subplots(rows=rows, cols=columns, vertical_spacing=0.28 / rows, horizontal_spacing=0.09))
    for i, field in enumerate(fields):
        part = table.loc[table["varied"] == field]
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        middle = part.groupby(field).median(numeric_only=True)
        x = middle.index.to_numpy(dtype=float)
        for column, name, colour in (("t1", "t<sub>1</sub>", _TRAIN), ("t2", "t<sub>2</sub>", _TEST)):
            seeds = [int(seed) for seed in part["seed"]]
            points = _points(_values(part, field), _values(part, column), seeds, name, colour)
            figure.add_trace(points.update(legendgroup=column, showlegend=False), **place)
            median = _median(x, _values(middle, column), name, colour)
            figure.add_trace(median.update(legendgroup=column, showlegend=i == 0), **place)
        for column, name, colour, dash, visible in _BOUNDS:
            y = _values(middle, column)
            trace = go.Scatter(
                x=x,
                y=np.where(y > 0, y, np.nan),
                mode="lines",
                name=name,
                line={"color": colour, "width": 1.5, "dash": dash},
                visible=visible,
                legendgroup=column,
                showlegend=i == 0,
                hovertemplate=f"<b>{name}</b><br>%{{x:.3g}}<br>%{{y:,.0f}} steps<extra></extra>",
            )
            figure.add_trace(trace, **place)
        figure.update_xaxes(**_log_axis(x, _AXES.get(field, field)), **place)
        shown = [_values(part, "t1"), _values(part, "t2"), *(_values(middle, column) for column, *_ in _BOUNDS[:2])]
        figure.update_yaxes(**_log_axis(np.concatenate(shown), "steps" if place["col"] == 1 else ""), **place)
    missing = int(np.isnan(np.concatenate([_values(table, "t1"), _values(table, "t2")])).sum())
    notes = [f"{missing} times do not exist and are not drawn: the table says why"] if missing else []
    return _finish(figure, "Overfitting and generalization times", rows, notes)


def stage_curves(runs: Stages | Sequence[Stages]) -> go.Figure:
    """Train and population loss with the zero teacher, and the envelopes of Theorem 4.1 (Xu et al. 2026, Figure 1).

    The train loss keeps below a bound that falls at the rate of the smallest positive eigenvalue; the population loss
    keeps above one that falls at the rate of weight decay alone. Envelopes (dashed) are those of the first run.

    Args:
        runs: from `grokinterp.theory.stages`, one or several.

    Raises:
        ConfigError: there are none.
    """
    runs = [runs] if isinstance(runs, Stages) else list(runs)
    if not runs:
        raise ConfigError("no stages were given: give one, or a list of them")
    figure = go.Figure()
    floor = min(float(run.population_loss.min()) for run in runs) / 10
    for i, run in enumerate(runs):
        for name, values, colour in (
            ("train loss", run.train_loss, _TRAIN),
            ("population loss", run.population_loss, _TEST),
        ):
            faint = 1 / len(runs) ** 0.4
            figure.add_trace(_curve(run.steps.tolist(), values.tolist(), name, colour, False, opacity=faint))
            if i == 0:
                figure.add_trace(_key(name, colour, "solid", group=name))
    first = runs[0]
    for name, values, colour in (
        ("train loss is at most", first.train_envelope, _TRAIN),
        ("population loss is at least", first.population_envelope, _TEST),
    ):
        figure.add_trace(_curve(first.steps.tolist(), values.tolist(), name, colour, True, dash="dash", width=1.5))
    top = max(float(run.train_envelope.max()) for run in runs)
    figure.update_xaxes(title_text="step (log scale)", type="log", dtick=1, exponentformat="power")
    figure.update_yaxes(
        title_text="loss", type="log", dtick=1, exponentformat="power", range=[math.log10(floor), math.log10(3 * top)]
    )
    notes = [f"each of {len(runs)} random starts and training sets is drawn"] if len(runs) > 1 else []
    return _finish(figure, "Zero teacher: losses and their envelopes", 1, notes)


def loss_curves(solutions: Mapping[str, RidgeSolution], *, last: int | None = None) -> go.Figure:
    """Train (dotted) and population loss (solid) of exact trajectories, such as random features (Figure 3).

    Args:
        solutions: by what the legend is to call them.
        last: the last step drawn; by default where weight decay has ended its work in all of them.

    Raises:
        ConfigError: there are none.
    """
    if not solutions:
        raise ConfigError("no solution was given: give a dictionary of at least one")
    if last is None:
        last = math.ceil(max(8 / (one.lr * one.weight_decay) for one in solutions.values()))
    steps = sorted({0, *np.geomspace(1, last, _CURVE_POINTS).round().astype(int).tolist()})
    figure, lowest = go.Figure(), math.inf
    for (name, one), colour in zip(solutions.items(), run_colours(len(solutions)), strict=True):
        population = one.population_losses(steps).tolist()
        lowest = min(lowest, *population)
        figure.add_trace(_curve(steps, population, name, colour, True, group=name))
        train = one.train_losses(steps).tolist()
        figure.add_trace(_curve(steps, train, name, colour, False, dash="dot", group=name, said=f"{name}, train"))
    for name, dash in (("population loss", "solid"), ("train loss", "dot")):
        figure.add_trace(_key(name, GREY, dash))
    figure.update_xaxes(title_text="step (log scale)", type="log", dtick=1, exponentformat="power")
    top = max(float(one.population_losses([0])[0]) for one in solutions.values())
    limits = [math.log10(min(lowest / 3, 1e-3)), math.log10(3 * top)]
    figure.update_yaxes(title_text="loss", type="log", dtick=1, exponentformat="power", range=limits)
    return _finish(figure, "Loss curves", 1, [])


def two_layer_times(runs: Sequence[TwoLayerRun]) -> go.Figure:
    """t1 and t2 of a two-layer ReLU network, both layers trained, against weight decay (Xu et al. 2026, Figure 4).

    Points are seeds, lines their medians. The grey band falls as 1/λ: t2 follows it, and t1 does not.

    Args:
        runs: from `grokinterp.theory.train_two_layer`.

    Raises:
        ConfigError: there are none.
    """
    if not runs:
        raise ConfigError("no run was given: give at least one")
    table = pd.DataFrame([{"weight_decay": run.weight_decay, "t1": run.t1, "t2": run.t2} for run in runs], dtype=float)
    middle = table.groupby("weight_decay").median()
    x, t2 = middle.index.to_numpy(dtype=float), _values(middle, "t2")
    band = {"color": FAINT, "width": 9}
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(x=x, y=t2[0] * x[0] / x, mode="lines", line=band, name="falls as 1/λ", hoverinfo="skip")
    )
    for column, name, colour in (("t1", "t<sub>1</sub>", _TRAIN), ("t2", "t<sub>2</sub>", _TEST)):
        order = list(range(len(runs)))
        points = _points(_values(table, "weight_decay"), _values(table, column), order, name, colour)
        figure.add_trace(points.update(showlegend=False))
        figure.add_trace(_median(x, _values(middle, column), name, colour))
    figure.update_xaxes(**_log_axis(x, _AXES["weight_decay"]))
    figure.update_yaxes(**_log_axis(np.concatenate([_values(table, "t1"), _values(table, "t2")]), "steps"))
    return _finish(figure, "Two-layer ReLU network", 1, [])


def _values(table: pd.DataFrame, column: str) -> np.ndarray:
    return np.asarray(table[column], dtype=float)


def _median(x: np.ndarray, y: np.ndarray, name: str, colour: str) -> go.Scatter:
    line = {"color": colour, "width": 2}
    return go.Scatter(x=x, y=y, mode="lines", line=line, name=f"{name}, median of seeds", hoverinfo="skip")


def _points(x: np.ndarray, y: np.ndarray, seeds: Sequence[int], name: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        customdata=seeds,
        mode="markers",
        name=name,
        marker={"size": 6, "color": colour, "opacity": 0.45},
        hovertemplate=f"<b>{name}</b> %{{y:,.0f}}<br>at %{{x:.3g}}, seed %{{customdata}}<extra></extra>",
    )


def _curve(
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    colour: str,
    showlegend: bool,
    *,
    dash: str = "solid",
    width: float = 2.0,
    opacity: float = 1.0,
    group: str = "",
    said: str = "",
) -> go.Scatter:
    """A line over steps; step 0, which has no place on a logarithmic axis, is left out."""
    return go.Scatter(
        x=[step for step in x if step > 0],
        y=[value if value > 0 else None for step, value in zip(x, y, strict=True) if step > 0],
        mode="lines",
        name=name,
        legendgroup=group or name,
        showlegend=showlegend,
        opacity=opacity,
        line={"color": colour, "dash": dash, "width": width, "simplify": False},
        hovertemplate=f"<b>{said or name}</b><br>step %{{x:,}}<br>%{{y:.4g}}<extra></extra>",
    )


def _key(name: str, colour: str, dash: str, group: str = "") -> go.Scatter:
    """An entry in the legend for what a colour or a dash means."""
    style = {"color": colour, "dash": dash, "width": 2}
    return go.Scatter(x=[None], y=[None], mode="lines", line=style, name=name, legendgroup=group, hoverinfo="skip")


def _log_axis(values: Iterable[float], title: str) -> dict[str, Any]:
    """A logarithmic axis, with ticks at powers of ten where there are several, and 1-2-5 where not."""
    drawn = [value for value in values if value > 0] or [1.0]
    low, high = min(drawn), max(drawn)
    decades = math.log10(high / low)
    pad = 0.06 * decades + 0.03
    axis: dict[str, Any] = {"type": "log", "range": [math.log10(low) - pad, math.log10(high) + pad]}
    axis |= {"title_text": title, "gridcolor": FAINT, "tickfont": {"size": 11}}
    if decades >= 2.5:
        return axis | {"dtick": 1, "exponentformat": "power"}
    ticks = log_ticks(low / 10**pad, high * 10**pad)
    return axis | {"tickvals": ticks, "ticktext": [tick_label(tick) for tick in ticks]}


def _finish(figure: go.Figure, title: str, panels: int, notes: list[str]) -> go.Figure:
    figure.update_layout(template=TEMPLATE, title={"text": title}, margin_t=64)
    if panels > 1:
        figure.update_layout(height=200 + 240 * panels)
    figure.update_layout(meta={"notes": notes, "panels": panels, "empty": False})
    return figure
