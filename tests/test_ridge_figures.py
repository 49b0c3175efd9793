"""Figures of provable grokking show the values of their tables."""

import numpy as np
import pytest

from grokinterp.errors import ConfigError
from grokinterp.figures import ridge
from grokinterp.theory import (
    gaussian_problem,
    ridge_sweep,
    solve,
    stages,
    train_two_layer,
    two_layer_problem,
)


def test_times_draws_every_seed_the_medians_and_the_bounds():
    table = ridge_sweep({"weight_decay": [1e-3, 1e-2], "n": [5, 10, 20]}, seeds=[0, 1, 2])
    figure = ridge.times(table)
    assert len(figure.data) == 2 * (2 * 2 + 4)
    part = table[table["varied"] == "n"]
    points = [t for t in figure.data if t.mode == "markers"]
    assert np.array_equal(points[2].x, part["n"])
    assert np.array_equal(points[2].y, part["t1"])
    assert list(points[3].customdata) == list(part["seed"])
    median = next(t for t in figure.data if t.name == "t<sub>2</sub>, median of seeds")
    expected = table[table["varied"] == "weight_decay"].groupby("weight_decay")["t2"].median()
    assert np.array_equal(median.y, expected)
    assert sum(t.showlegend for t in figure.data) == 6
    assert sum(t.visible == "legendonly" for t in figure.data) == 4
    assert {figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text} == {
        "weight decay λ",
        "training examples n",
    }
    assert figure.layout.xaxis.type == figure.layout.yaxis2.type == "log"
    assert figure.layout.meta["notes"] == []


def test_missing_times_are_counted():
    table = ridge_sweep({"teacher_norm": [1.0, 20.0]}, seeds=[0])
    assert table["t2"].isna().sum() == 1
    assert "1 times do not exist" in ridge.times(table).layout.meta["notes"][0]
    assert ridge.times(table[table["teacher_norm"] == 20.0]).layout.yaxis.type == "log"


def test_stage_curves_draw_losses_and_envelopes():
    runs = [stages(solve(gaussian_problem(20, 80, teacher_norm=0, seed=s), 1e-3), range(300)) for s in range(3)]
    figure = ridge.stage_curves(runs)
    train = [t for t in figure.data if t.name == "train loss" and len(t.x) > 1]
    assert len(train) == 3
    assert list(train[1].x) == list(range(1, 300))  # a logarithmic axis has no step 0
    assert list(train[1].y) == pytest.approx(runs[1].train_loss[1:].tolist())
    roof = next(t for t in figure.data if t.name == "train loss is at most")
    assert list(roof.y) == pytest.approx(runs[0].train_envelope[1:].tolist())
    assert sum(t.showlegend is not False for t in figure.data) == 4
    assert ridge.stage_curves(runs[0]).layout.meta["notes"] == []


def test_loss_curves_draw_both_losses_of_each_solution():
    problem = gaussian_problem(20, 80)
    solutions = {"weak": solve(problem, 1e-3), "strong": solve(problem, 1e-2)}
    figure = ridge.loss_curves(solutions, last=5000)
    curves = [t for t in figure.data if len(t.x) > 1]
    assert [(t.legendgroup, t.line.dash) for t in curves] == [
        ("weak", "solid"),
        ("weak", "dot"),
        ("strong", "solid"),
        ("strong", "dot"),
    ]
    assert curves[2].x[-1] == 5000
    assert curves[2].y[-1] == pytest.approx(solutions["strong"].population_losses([5000])[0].item())
    assert curves[1].y[0] == pytest.approx(solutions["weak"].train_losses([1])[0].item())
    assert ridge.loss_curves(solutions).data[0].x[-1] == 8000


def test_two_layer_times_draws_the_times_of_the_runs():
    runs = [train_two_layer(two_layer_problem(10, 40, 10, seed=s), d, 5e-3) for d in (0.2, 0.4) for s in (0, 1)]
    figure = ridge.two_layer_times(runs)
    points = [t for t in figure.data if t.mode == "markers"]
    assert list(points[0].y) == [run.t1 for run in runs]
    assert list(points[1].y) == [run.t2 for run in runs]
    guide = next(t for t in figure.data if t.name == "falls as 1/λ")
    assert guide.y[0] == 2 * guide.y[1]


def test_empty_input_is_rejected():
    with pytest.raises(ConfigError, match="no rows"):
        ridge.times(ridge_sweep({"lr": [1.0]}, seeds=[0]).iloc[:0])
    with pytest.raises(ConfigError, match="no stages"):
        ridge.stage_curves([])
    with pytest.raises(ConfigError, match="no solution"):
        ridge.loss_curves({})
    with pytest.raises(ConfigError, match="no run"):
        ridge.two_layer_times([])
