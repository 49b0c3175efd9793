"""Learning curves of a sweep's runs: one color per setting and one curve per run."""

import numpy as np
import pandas as pd
import pytest

import grokinterp as gi
from grokinterp.errors import ConfigError

WD = "optimizer.weight_decay"


def metrics(level: float, points: int = 11) -> pd.DataFrame:
    index = pd.Index(np.arange(points) * 10, name="step")
    curve = np.linspace(0, level, points)
    return pd.DataFrame({"train_accuracy": curve, "test_accuracy": curve / 2, "weight_norm": 10 + curve}, index=index)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"run": list("abcd"), WD: [2.0, 2.0, 1.0, 1.0], "model_seed": [0, 1, 0, 1]})


def curves(figure, name: str):
    return [trace for trace in figure.data if trace.legendgroup == name]


def test_runs_of_one_setting_share_a_color(table):
    figure = gi.figures.learning_curves(table, [metrics(x) for x in (1.0, 0.9, 0.8, 0.7)])
    for name, levels in (("weight_decay = 2", (1.0, 0.9)), ("weight_decay = 1", (0.8, 0.7))):
        traces = curves(figure, name)
        assert len(traces) == 6  # two runs, three quantities
        assert len({trace.line.color for trace in traces}) == 1
        assert [trace.showlegend for trace in traces].count(True) == 1
        tests = [t.y[-1] for t in traces if t.line.dash == "solid" and t.yaxis == "y"]
        assert tests == pytest.approx([level / 2 for level in levels])
        norms = [t.y[-1] for t in traces if t.yaxis == "y2"]
        assert norms == pytest.approx([10 + level for level in levels])
    assert len({curves(figure, f"weight_decay = {x}")[0].line.color for x in (1, 2)}) == 2


def test_seeds_of_a_single_setting_have_colors(table):
    figure = gi.figures.learning_curves(table.iloc[:2], [metrics(1.0), metrics(0.5)])
    assert len({curves(figure, f"model_seed = {seed}")[0].line.color for seed in (0, 1)}) == 2


def test_a_single_run_needs_no_name(table):
    figure = gi.figures.learning_curves(table.iloc[:1], [metrics(1.0)], title="A <b>")
    assert [trace.name for trace in figure.data if trace.showlegend is not False and trace.name] == ["test", "train"]
    assert figure.layout.title.text == "A &lt;b&gt;"


def test_losses_have_a_panel_with_a_logarithmic_axis(table):
    metric = metrics(1.0).assign(train_loss=1e-7, test_loss=np.geomspace(20, 0.1, 11))
    figure = gi.figures.learning_curves(table.iloc[:2], [metric, metric], losses=True)
    assert [axis.title.text for axis in figure.select_yaxes()] == ["accuracy", "loss", "L2 norm of the weights"]
    assert [axis.type for axis in figure.select_yaxes()] == ["linear", "log", "linear"]
    drawn = [trace for trace in curves(figure, "model_seed = 1") if trace.yaxis == "y2"]
    assert [(trace.line.dash, trace.y[-1]) for trace in drawn] == [("dot", 1e-7), ("solid", pytest.approx(0.1))]
    without = gi.figures.learning_curves(table.iloc[:2], [metrics(1.0)] * 2, losses=True)
    assert "not drawn: train loss, test loss (it was not measured)" in without.layout.meta["notes"]


def test_long_curves_are_thinned(table):
    figure = gi.figures.learning_curves(table.iloc[:1], [metrics(1.0, points=5000)])
    lengths = {len(trace.x) for trace in figure.data if trace.legendgroup == ""}
    assert max(length for length in lengths if length) <= 400
    assert "of 5,000 points of a curve, the smallest and largest" in " ".join(figure.layout.meta["notes"])


@pytest.mark.parametrize("at", [1, 777, 3141, 4998])
def test_a_spike_survives_thinning(table, at):
    metric = metrics(1.0, points=5000)
    metric.loc[10 * at, ["train_accuracy", "weight_norm"]] = [-1.0, 99.0]
    figure = gi.figures.learning_curves(table.iloc[:1], [metric])
    traces = [trace for trace in figure.data if trace.x is not None and len(trace.x) > 1]
    assert (10 * at, -1.0) in {point for trace in traces for point in zip(trace.x, trace.y, strict=True)}
    assert (10 * at, 99.0) in {point for trace in traces for point in zip(trace.x, trace.y, strict=True)}


@pytest.mark.parametrize("metrics", [None, "run", [None], pd.DataFrame()])
def test_metrics_that_are_no_tables_are_refused(table, metrics, unchecked):
    with pytest.raises(ConfigError, match=r"^metrics must be a list of DataFrames"):
        gi.figures.learning_curves(table, metrics)


def test_missing_columns_and_runs_are_reported(table):
    figure = gi.figures.learning_curves(table.iloc[:1], [metrics(1.0).drop(columns="weight_norm")])
    assert "not drawn: L2 norm (it was not measured)" in figure.layout.meta["notes"]
    with pytest.raises(ConfigError, match="table has 4 rows but metrics has 1 entries"):
        gi.figures.learning_curves(table, [metrics(1.0)])


def test_pairs_of_a_run_without_weights():
    figure = gi.figures.pair_curves([metrics(1.0).drop(columns="weight_norm")])
    assert "RMS of the weights (it was not measured)" in " ".join(figure.layout.meta["notes"])


def test_mirrored_and_novel_pairs_are_drawn_apart():
    metric = metrics(1.0).assign(mirror_accuracy=0.9, novel_accuracy=0.1, weight_rms=0.2)
    figure = gi.figures.pair_curves([metric, metric])
    traces = {trace.name: trace for trace in figure.data if trace.name and trace.y is not None and len(trace.y) > 1}
    assert {name: trace.y[-1] for name, trace in traces.items() if "mirror" in name or "novel" in name} == {
        "mirrored pairs": 0.9,
        "novel pairs": 0.1,
    }
    rms = [trace for trace in figure.data if trace.yaxis == "y2" and trace.y is not None and len(trace.y) > 1]
    assert [trace.y[-1] for trace in rms] == [0.2, 0.2]
