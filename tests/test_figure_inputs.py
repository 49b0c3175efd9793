"""Figures take analyses, runs, paths, and lists of them; figures of sweeps take tables, sweeps, and paths."""

import pandas as pd
import pytest
from analyses import record_dying_key
from sweeps import BASE, InProcess

import grokinterp as gi
from grokinterp import figures


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> gi.Run:
    return record_dying_key(tmp_path_factory.mktemp("runs") / "dying")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> gi.Sweep:
    folder = tmp_path_factory.mktemp("sweeps") / "two"
    config = BASE.__class__.from_json(BASE.to_json().replace('"steps": 400', '"steps": 20'))
    grid = {"optimizer.weight_decay": [0.3, 1.0]}
    return gi.train_sweep(folder, config, grid=grid, executor=InProcess())


def test_runs_and_paths_are_analyzed(run):
    expected = figures.weight_norms(gi.analyze(run)).to_json()
    for given in (run, run.path, str(run.path), [run], (run.path,)):
        assert figures.weight_norms(given).to_json() == expected
    assert len(figures.loss_curves([gi.analyze(run), str(run.path)]).data) > len(figures.loss_curves(run).data)


def test_a_path_without_a_run_is_an_error(tmp_path):
    with pytest.raises(gi.RunError, match="does not exist"):
        figures.accuracy_curves(tmp_path / "nothing")


def test_a_sweep_is_no_run(sweep, unchecked):
    for given in (sweep, sweep.path, str(sweep.path)):
        with pytest.raises(gi.ConfigError, match=r"was given a sweep.*learning_curves"):
            figures.overview(given)


def test_figures_of_sweeps_take_sweeps_and_paths(sweep):
    axis = "optimizer.weight_decay"
    draw = {
        "outcome_counts": figures.outcome_counts,
        "phase_diagram": lambda table: figures.phase_diagram(table, axis, "optimizer.lr"),
        "delay_against": lambda table: figures.delay_against(table, axis),
        "norm_at_grok": lambda table: figures.norm_at_grok(table, axis),
    }
    with pytest.raises(gi.ConfigError, match="combines all seeds: choose another axis than model_seed"):
        figures.phase_diagram(sweep, axis, "model_seed")
    for name, function in draw.items():
        expected = function(sweep.table).to_json()
        assert function(sweep).to_json() == expected, name
        assert function(str(sweep.path)).to_json() == expected, name


def test_learning_curves_of_a_sweep_and_of_runs(sweep):
    metrics = [run.metrics for run in sweep.runs]
    expected = figures.learning_curves(sweep.table, metrics).to_json()
    assert len(sweep.runs) == 2
    for given in (sweep, sweep.path, sweep.runs, [run.path for run in sweep.runs]):
        assert figures.learning_curves(given).to_json() == expected
    with pytest.raises(gi.ConfigError, match="a Sweep or a list of runs in place of the table needs none"):
        figures.learning_curves(sweep.table)
    with pytest.raises(gi.ConfigError, match="leave them out for a Sweep or runs"):
        figures.learning_curves(sweep, metrics)


def test_the_report_of_a_sweep_begins_with_learning_curves(sweep, tmp_path):
    table = sweep.collect()
    text = gi.write_sweep_report(
        table, sweep.axes, "two", tmp_path / "report.html", metrics={run.path.name: run.metrics for run in sweep.runs}
    ).read_text()
    assert 0 < text.index('<section id="learning-curves">') < text.index('id="learning_curves"')
    assert text.index('id="learning_curves"') < text.index('<section id="axes">')


def test_pair_curves_of_runs(run):
    expected = figures.pair_curves([run.metrics]).to_json()
    for given in (run, str(run.path), [run], run.metrics):
        assert figures.pair_curves(given).to_json() == expected
    with pytest.raises(gi.ConfigError, match="expected a Run, an Analysis, or the path of a run, but was given int"):
        figures.pair_curves([3])


def test_slingshot_curves_of_a_sweep(sweep):
    series = [pd.Series([1.0, 2.0]) for _ in sweep.runs]
    expected = figures.slingshot_curves(sweep.table, series, series).to_json()
    assert figures.slingshot_curves(sweep, series, series).to_json() == expected
