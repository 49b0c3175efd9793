"""Figures of provable grokking (Xu et al. 2026) in ridge regression, random features and two-layer networks.

Each function takes results of `grokinterp.theory`: a table of `ridge_sweep`, stages, solutions, or runs.

    >>> from grokinterp.figures import ridge
    >>> from grokinterp.theory import ridge_sweep
    >>> figure = ridge.times(ridge_sweep({"weight_decay": [1e-4, 1e-3]}, seeds=[0]))
    >>> figure.layout.xaxis.title.text
    'weight decay λ'
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from grokinterp.errors import ConfigError
from grokinterp.figures.canvas import legend_key, log_ticks, tick_label
from grokinterp.figures.style import BLACK, FAINT, GRAY, GREEN, QUANTITY_COLORS, TEMPLATE, VIOLET, run_colors
from grokinterp.theory import RidgeSolution, Stages, TwoLayerRun, expected_times
from grokinterp.theory.sweep import setting_of

__all__ = ["loss_curves", "overparameterization", "stage_curves", "times", "two_layer_times"]

_TRAIN, _TEST = QUANTITY_COLORS["train"], QUANTITY_COLORS["test"]
_AXES = {
    "weight_decay": "weight decay λ",
    "n": "training examples n",
    "m": "features m",
    "init_variance": "initial variance ν²",
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
_SIDES = (("m < n", GREEN), ("m ≥ n", VIOLET))
_EXPECTED_POINTS = 40


def times(table: pd.DataFrame) -> go.Figure:
    """t1, the last step with train loss ε, and t2, the first step with population loss c, against each setting.

    Points are seeds, lines their medians. t1 stays below its bound and t2 above its own (dashed lines, also medians).
    t2 is inversely proportional to weight decay, on which t1 does not depend. Both are inversely proportional to the
    step size. More features change little.

    Args:
        table: the table that `grokinterp.theory.ridge_sweep` returns.

    Raises:
        ConfigError: the table has no rows.

    Source: Xu et al. 2026, Figure 2 (without the panel over η).
    """
    if table.empty:
        raise ConfigError("the table has no rows: pass a table that ridge_sweep returned")
    fields = [str(field) for field in dict.fromkeys(table["varied"])]
    columns = min(2, len(fields))
    rows = math.ceil(len(fields) / columns)
    figure = go.Figure(make_subplots(rows=rows, cols=columns, vertical_spacing=0.28 / rows, horizontal_spacing=0.09))
    for i, field in enumerate(fields):
        part = table.loc[table["varied"] == field]
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        medians = part.groupby(field).median(numeric_only=True)
        x = medians.index.to_numpy(dtype=float)
        for column, name, color in (("t1", "t<sub>1</sub>", _TRAIN), ("t2", "t<sub>2</sub>", _TEST)):
            seeds = [int(seed) for seed in part["seed"]]
            points = _points(_values(part, field), _values(part, column), seeds, name, color)
            figure.add_trace(points.update(legendgroup=column, showlegend=False), **place)
            line = _median(x, _values(medians, column), name, color)
            figure.add_trace(line.update(legendgroup=column, showlegend=i == 0), **place)
        for column, name, color, dash, visible in _BOUNDS:
            y = _values(medians, column)
            trace = go.Scatter(x=x, y=np.where(y > 0, y, np.nan), mode="lines", name=name, visible=visible)
            trace.update(line={"color": color, "width": 1.5, "dash": dash}, legendgroup=column, showlegend=i == 0)
            trace.update(hovertemplate=f"<b>{name}</b><br>%{{x:.3g}}<br>%{{y:,.0f}} steps<extra></extra>")
            figure.add_trace(trace, **place)
        figure.update_xaxes(**_log_axis(x, _AXES.get(field, field)), **place)
        y = [_values(part, "t1"), _values(part, "t2"), *(_values(medians, column) for column, *_ in _BOUNDS[:2])]
        figure.update_yaxes(**_log_axis(np.concatenate(y), "steps" if place["col"] == 1 else ""), **place)
    missing = int(np.isnan(np.concatenate([_values(table, "t1"), _values(table, "t2")])).sum())
    notes = [f"{missing} times do not exist and are not drawn; the table gives the reasons"] if missing else []
    return finish(figure, "Overfitting and generalization times", rows, notes)


def overparameterization(table: pd.DataFrame, *, c: float = 0.01) -> go.Figure:
    """The delay t2 - t1 against the number of features per training example, and against the slowest decay rate.

    Points are seeds, and the line is their median. The dashed curve is the delay expected for large random matrices.
    The dotted line is ln(ν²/c) / (2 g), the time in which the population loss would fall to c if every direction of
    weight space decayed at the slowest rate g = η (λ + λ_min(ΦᵀΦ)/n).

    Args:
        table: the table that `grokinterp.theory.ridge_sweep` returns for several m, with n, λ, η, ν² and ‖θ*‖ fixed.
        c: the thresholds c and ε with which it was computed.

    Raises:
        ConfigError: the table has no rows, or another setting than m varies.
    """
    if table.empty:
        raise ConfigError("the table has no rows: pass a table that ridge_sweep returned")
    rows = table.to_dict("records")
    setting = setting_of(rows[0])
    others = [name for name in asdict(setting) if name != "m"]
    if varied := [name for name in others if len({row[name] for row in rows}) > 1]:
        raise ConfigError(f"the table varies {', '.join(varied)}, but this figure draws runs that differ only in m")
    features, delays, seeds = _values(table, "m"), _values(table, "delay"), np.array([row["seed"] for row in rows])
    sizes = np.unique(np.geomspace(features.min(), features.max(), _EXPECTED_POINTS).round().astype(int))
    expected = [expected_times(replace(setting, m=int(m)), eps=c, c=c) for m in sizes]
    rates = np.array([times.slowest_rate for times in expected])
    figure = go.Figure(make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05))
    ratio = features / setting.n
    medians = table.groupby("m").median(numeric_only=True)
    line = _median(medians.index.to_numpy(dtype=float) / setting.n, _values(medians, "delay"), "delay", GRAY)
    figure.add_trace(line.update(name="median of the seeds"), row=1, col=1)
    panels = (
        (ratio, sizes / setting.n, "features per training example, m/n"),
        (_values(table, "slowest_rate"), rates, "slowest decay rate g"),
    )
    for column, (x, expected_x, title) in enumerate(panels, start=1):
        place: dict[str, Any] = {"row": 1, "col": column}
        for (name, color), side in zip(_SIDES, (ratio < 1, ratio >= 1), strict=True):
            points = _points(x[side], delays[side], seeds[side].tolist(), name, color)
            figure.add_trace(points.update(legendgroup=name, showlegend=column == 1), **place)
        dashed = {"color": BLACK, "width": 1.5, "dash": "dash"}
        curve = go.Scatter(x=expected_x, y=[times.delay for times in expected], mode="lines", line=dashed)
        curve.update(name="expected for large n and m", legendgroup="expected", showlegend=column == 1)
        figure.add_trace(curve.update(hovertemplate="expected: %{y:,.0f} steps at %{x:.3g}<extra></extra>"), **place)
        figure.update_xaxes(**_log_axis([*x, *expected_x], title), **place)
    limit = go.Scatter(x=rates, y=np.log(setting.init_variance / c) / (2 * rates), mode="lines", hoverinfo="skip")
    limit.update(line={"color": GRAY, "width": 1.5, "dash": "dot"}, name="ln(ν²/c) / (2 g)")
    figure.add_trace(limit, row=1, col=2)
    figure.update_yaxes(**_log_axis(delays, ""))
    figure.update_yaxes(title_text="delay t<sub>2</sub> − t<sub>1</sub> (steps)", row=1, col=1)
    missing = int(np.isnan(delays).sum())
    notes = [f"{missing} delays do not exist and are not drawn; the table gives the reasons"] if missing else []
    return finish(figure, "From fewer to more features than training examples", 1, notes)


def stage_curves(runs: Stages | Sequence[Stages]) -> go.Figure:
    """Train and population loss with the zero teacher, and the envelopes of Theorem 4.1.

    The train loss stays below a bound that falls at the rate of the smallest positive eigenvalue. The population loss
    stays above a bound that falls at the rate of weight decay. The envelopes (dashed) are those of the first run.

    Args:
        runs: one or several results of `grokinterp.theory.stages`.

    Raises:
        ConfigError: the list is empty.

    Source: Xu et al. 2026, Figure 1.
    """
    runs = [runs] if isinstance(runs, Stages) else list(runs)
    if not runs:
        raise ConfigError("no stages to draw: pass one result of stages, or a list of them")
    figure = go.Figure()
    floor = min(float(run.population_loss.min()) for run in runs) / 10
    for i, run in enumerate(runs):
        losses = ("train loss", run.train_loss, _TRAIN), ("population loss", run.population_loss, _TEST)
        for name, values, color in losses:
            curve = _curve(run.steps.tolist(), values.tolist(), name, color, False)
            figure.add_trace(curve.update(opacity=1 / len(runs) ** 0.4))
            if i == 0:
                figure.add_trace(legend_key(name, line={"color": color, "width": 2}, legendgroup=name))
    first = runs[0]
    for name, values, color in (
        ("train loss is at most", first.train_envelope, _TRAIN),
        ("population loss is at least", first.population_envelope, _TEST),
    ):
        figure.add_trace(_curve(first.steps.tolist(), values.tolist(), name, color, True, dash="dash", width=1.5))
    top = max(float(run.train_envelope.max()) for run in runs)
    _set_loss_axes(figure, floor, 3 * top)
    notes = [f"each of the {len(runs)} random initializations and training sets is drawn"] if len(runs) > 1 else []
    return finish(figure, "Zero teacher: losses and their envelopes", 1, notes)


def loss_curves(solutions: Mapping[str, RidgeSolution], *, last: int | None = None) -> go.Figure:
    """Train (dotted) and population loss (solid) of exact trajectories, such as random features.

    Args:
        solutions: the solutions, by legend name.
        last: the last step drawn (default: 8 / (learning rate · weight decay), the largest over the solutions).

    Raises:
        ConfigError: there are no solutions.

    Source: Xu et al. 2026, Figure 3.
    """
    if not solutions:
        raise ConfigError("no solution to draw: pass a dictionary with at least one")
    if last is None:
        last = math.ceil(max(8 / (solution.lr * solution.weight_decay) for solution in solutions.values()))
    steps = sorted({0, *np.geomspace(1, last, _CURVE_POINTS).round().astype(int).tolist()})
    figure, lowest = go.Figure(), math.inf
    for (name, solution), color in zip(solutions.items(), run_colors(len(solutions)), strict=True):
        population = solution.population_losses(steps).tolist()
        lowest = min(lowest, *population)
        figure.add_trace(_curve(steps, population, name, color, True, group=name))
        train = solution.train_losses(steps).tolist()
        figure.add_trace(_curve(steps, train, name, color, False, dash="dot", group=name, hover=f"{name}, train"))
    for name, dash in (("population loss", "solid"), ("train loss", "dot")):
        figure.add_trace(legend_key(name, line={"color": GRAY, "dash": dash, "width": 2}))
    top = max(float(solution.population_losses([0])[0]) for solution in solutions.values())
    _set_loss_axes(figure, min(lowest / 3, 1e-3), 3 * top)
    return finish(figure, "Loss curves", 1, [])


def two_layer_times(runs: Sequence[TwoLayerRun]) -> go.Figure:
    """t1 and t2 of a two-layer ReLU network with both layers trained, against weight decay.

    Points are seeds, lines their medians. The gray band falls as 1/λ. t2 follows it; t1 does not.

    Args:
        runs: results of `grokinterp.theory.train_two_layer`.

    Raises:
        ConfigError: the list is empty.

    Source: Xu et al. 2026, Figure 4.
    """
    if not runs:
        raise ConfigError("no run to draw: pass at least one")
    table = pd.DataFrame([{"weight_decay": run.weight_decay, "t1": run.t1, "t2": run.t2} for run in runs], dtype=float)
    medians = table.groupby("weight_decay").median()
    x, t2 = medians.index.to_numpy(dtype=float), _values(medians, "t2")
    band = {"color": FAINT, "width": 9}
    parallel = go.Scatter(x=x, y=t2[0] * x[0] / x, mode="lines", line=band, name="falls as 1/λ", hoverinfo="skip")
    figure = go.Figure(parallel)
    for column, name, color in (("t1", "t<sub>1</sub>", _TRAIN), ("t2", "t<sub>2</sub>", _TEST)):
        order = list(range(len(runs)))
        points = _points(_values(table, "weight_decay"), _values(table, column), order, name, color)
        figure.add_trace(points.update(showlegend=False))
        figure.add_trace(_median(x, _values(medians, column), name, color))
    figure.update_xaxes(**_log_axis(x, _AXES["weight_decay"]))
    figure.update_yaxes(**_log_axis(np.concatenate([_values(table, "t1"), _values(table, "t2")]), "steps"))
    return finish(figure, "Two-layer ReLU network", 1, [])


def _set_loss_axes(figure: go.Figure, low: float, high: float) -> None:
    figure.update_xaxes(title_text="step (log scale)", type="log", dtick=1, exponentformat="power")
    limits = [math.log10(low), math.log10(high)]
    figure.update_yaxes(title_text="loss", type="log", dtick=1, exponentformat="power", range=limits)


def _values(table: pd.DataFrame, column: str) -> np.ndarray:
    return np.asarray(table[column], dtype=float)


def _median(x: np.ndarray, y: np.ndarray, name: str, color: str) -> go.Scatter:
    line = {"color": color, "width": 2}
    return go.Scatter(x=x, y=y, mode="lines", line=line, name=f"{name}, median of seeds", hoverinfo="skip")


def _points(x: np.ndarray, y: np.ndarray, seeds: Sequence[int], name: str, color: str) -> go.Scatter:
    marker = {"size": 6, "color": color, "opacity": 0.45}
    hover = f"<b>{name}</b> %{{y:,.0f}}<br>at %{{x:.3g}}, seed %{{customdata}}<extra></extra>"
    return go.Scatter(x=x, y=y, customdata=seeds, mode="markers", name=name, marker=marker, hovertemplate=hover)


def _curve(
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    color: str,
    showlegend: bool,
    *,
    dash: str = "solid",
    width: float = 2.0,
    group: str = "",
    hover: str = "",
) -> go.Scatter:
    """Return a line over steps, without step 0, which a logarithmic axis cannot show."""
    return go.Scatter(
        x=[step for step in x if step > 0],
        y=[value if value > 0 else None for step, value in zip(x, y, strict=True) if step > 0],
        mode="lines",
        name=name,
        legendgroup=group or name,
        showlegend=showlegend,
        line={"color": color, "dash": dash, "width": width, "simplify": False},
        hovertemplate=f"<b>{hover or name}</b><br>step %{{x:,}}<br>%{{y:.4g}}<extra></extra>",
    )


def _log_axis(values: Iterable[float], title: str) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at powers of ten, or at 1, 2 and 5 times those on a short axis."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    decades = math.log10(high / low)
    pad = 0.06 * decades + 0.03
    axis: dict[str, Any] = {"type": "log", "range": [math.log10(low) - pad, math.log10(high) + pad]}
    axis |= {"title_text": title, "gridcolor": FAINT, "tickfont": {"size": 11}}
    if decades >= 2.5:
        return axis | {"dtick": 1, "exponentformat": "power"}
    ticks = log_ticks(low / 10**pad, high * 10**pad)
    return axis | {"tickvals": ticks, "ticktext": [tick_label(tick) for tick in ticks]}


def finish(figure: go.Figure, title: str, panels: int, notes: list[str]) -> go.Figure:
    """Set the title, template, height and meta of a figure."""
    figure.update_layout(template=TEMPLATE, title={"text": title}, margin_t=64)
    if panels > 1:
        figure.update_layout(height=200 + 240 * panels)
    figure.update_layout(meta={"notes": notes, "panels": panels, "empty": False})
    return figure
