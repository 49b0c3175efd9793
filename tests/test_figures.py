"""Figures plot what was measured, for one run and for several, and give reasons for missing data."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from plotly.graph_objects import Figure

import grokinterp as gi
from grokinterp import figures
from grokinterp.analysis.transition import Boundary
from grokinterp.figures.canvas import labels
from grokinterp.figures.phases import phase_spans
from grokinterp.figures.spectra import MAX_STEPS, by_frequency
from grokinterp.training.recorder import Recorder

# Tested in test_sweep_figures.py, test_learning_figure.py and test_claims_slingshot.py.
OF_SWEEPS = {"delay_against", "norm_at_grok", "outcome_counts", "phase_diagram"}
OF_SWEEPS |= {"learning_curves", "pair_curves", "slingshot_curves"}
FUNCTIONS: dict[str, Callable[..., Figure]] = {name: getattr(figures, name) for name in figures.OF_RUNS}
OVER_TRAINING = sorted(set(FUNCTIONS) - {"embedding_spectrum", "neuron_logit_spectrum"})


def grokking_logits(task: gi.Task, keys: tuple[int, ...], memorized: float, circuit: float) -> torch.Tensor:
    """Logits with a margin `memorized` on training pairs only and a margin `circuit` from cosines on all pairs."""
    noise = torch.randn(len(task.inputs), task.p, generator=torch.Generator().manual_seed(0))
    angles = 2 * math.pi / task.p * (task.inputs.sum(dim=1)[:, None] - torch.arange(task.p)[None, :])
    waves = sum(torch.cos(k * angles) for k in keys)
    remembered = torch.nn.functional.one_hot(task.labels, task.p) * task.train_mask[:, None]
    return (0.1 + 0.2 * memorized) * noise + memorized * remembered + circuit * waves


def record_grokking(path: Path, p: int = 23, keys: tuple[int, ...] = (2, 5, 9)) -> gi.Run:
    """A run, written without training, that memorizes, then generalizes, then loses weight norm."""
    task = gi.Task.modular_addition(p=p, train_fraction=0.4)
    tokens = torch.arange(p)[:, None] * 2 * math.pi / p
    directions = torch.randn(2 * len(keys), 24, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(p, 24, generator=torch.Generator().manual_seed(2))
    circle = torch.cat([torch.cos(tokens * torch.tensor(keys)), torch.sin(tokens * torch.tensor(keys))], dim=1)
    with Recorder(path, task) as recorder:
        for step in range(0, 2001, 50):
            formed = 1 / (1 + math.exp(-(step - 900) / 90))
            decay = 1 / (1 + math.exp((step - 1200) / 60))
            logits = grokking_logits(task, keys, 12 * min(step / 200, 1) * (0.05 + decay), 8 * formed)
            weights = {"embed.W_E": (0.2 + 2 * decay) * noise + 0.5 * formed * circle @ directions}
            recorder.record(step, logits, weights=weights)
    return gi.Run.open(path)


@pytest.fixture(scope="module")
def grokked(tmp_path_factory) -> gi.Analysis:
    return gi.analyze(record_grokking(tmp_path_factory.mktemp("runs") / "grokked"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> gi.Analysis:
    config = gi.RunConfig(
        task=gi.TaskConfig(p=11, train_fraction=0.6),
        model=gi.TransformerConfig(d_model=8, n_heads=1, d_mlp=16),
        optimizer=gi.OptimizerConfig(lr=1e-2),
        schedule=gi.ScheduleConfig(steps=60, evaluate_every=2, checkpoints=10),
    )
    return gi.analyze(gi.train(config, tmp_path_factory.mktemp("runs") / "trained", progress=False))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> gi.Analysis:
    """Logits at one step, without split, weights, group, or training metrics."""
    task = gi.Task.of("x^3+xy", 7)
    with Recorder(tmp_path_factory.mktemp("runs") / "bare", task) as recorder:
        recorder.record(500, torch.randn(49, 7, generator=torch.Generator().manual_seed(0)))
    return gi.analyze(recorder.run)


def named(figure: Figure, name: str):
    traces = [trace for trace in figure.data if trace.name == name]
    assert traces, [trace.name for trace in figure.data]
    return traces[0]


def notes(figure: Figure) -> str:
    return "; ".join(figure.layout.meta["notes"])


def steps_of(trace) -> list[int]:
    return [int(step) for step in trace.customdata]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_figure_takes_one_or_several_analyses(name, grokked, trained, bare):
    """One run, a list of one, two runs, a run with little data, and a run without key frequencies."""
    figure = FUNCTIONS[name](grokked)
    assert isinstance(figure, Figure)
    assert figure.layout.title.text
    assert not figure.layout.meta["empty"] or name == "neuron_logit_spectrum"  # a recorded run has no neurons
    assert FUNCTIONS[name]([grokked]).to_json() == figure.to_json()

    several = FUNCTIONS[name]([grokked, trained])
    text = json.dumps([trace.name for trace in several.data])
    text += json.dumps([note.text for note in several.layout.annotations]) + notes(several)
    assert "grokked (p = 23)" in text
    assert "trained (p = 11)" in text
    assert not [shape for shape in several.layout.shapes if shape.name and "T<sub>" in shape.name]

    sparse = FUNCTIONS[name](bare)
    json.loads(sparse.to_json())
    if name in ("accuracy_curves", "loss_curves", "progress_measures", "logit_margins", "overview", "nanda_figure_7"):
        assert not sparse.layout.meta["empty"]
    else:
        assert sparse.layout.meta["empty"]
        assert "not drawn" in sparse.layout.annotations[0].text
    assert notes(sparse)

    json.loads(FUNCTIONS[name](without_keys(grokked)).to_json())
    json.loads(FUNCTIONS[name]([without_keys(grokked), grokked]).to_json())


@pytest.mark.parametrize("wrong", [None, [3]])
def test_an_argument_that_is_no_analysis_is_an_error(wrong, unchecked):
    for draw in (figures.loss_curves, figures.embedding_spectrum):
        with pytest.raises(gi.ConfigError, match=r"takes an Analysis, a Run, or the path of a run, or a list of them"):
            draw(wrong)
    with pytest.raises(gi.ConfigError, match=r"^table must be a DataFrame"):
        figures.outcome_counts(wrong)


def test_every_public_figure_is_of_runs_or_of_sweeps():
    assert {*figures.OF_RUNS, *OF_SWEEPS} == set(figures.__all__)


def test_an_empty_list_is_an_error():
    with pytest.raises(gi.ConfigError, match="no analysis to draw"):
        figures.accuracy_curves([])


def test_notes_give_the_reason_of_the_measure(bare, grokked):
    assert "the train/test split is unknown" in notes(figures.accuracy_curves(bare))
    assert "x^3+xy mod 7 has no cyclic group" in notes(figures.cosine_coefficients(bare))
    assert "no key frequencies" in notes(figures.progress_measures(without_keys(grokked)))


def without_keys(analysis: gi.Analysis) -> gi.Analysis:
    columns = [column for column in analysis.timeline if "restricted" in column or "excluded" in column]
    frequencies = replace(analysis.reference.frequencies, values=(), reason="no frequency stands out")
    return replace(
        analysis,
        timeline=analysis.timeline.assign(**dict.fromkeys(columns, math.nan)),
        reference=replace(analysis.reference, frequencies=frequencies, union=()),
        reasons={column: {"no key frequencies": list(analysis.timeline.index)} for column in columns},
    )


@pytest.mark.parametrize(
    ("name", "trace", "column"),
    [
        ("progress_measures", "restricted", "restricted_loss"),
        ("progress_measures", "excluded (train)", "excluded_loss"),
        ("progress_measures", "test", "test_loss"),
        ("progress_measures", "train", "train_loss"),
        ("progress_measures", "restricted, cross-fit", "restricted_loss_novel"),
        ("circuit_efficiency", "margin ratio", "circuit_efficiency_ratio"),
        ("circuit_efficiency", "generalized share", "generalized_margin_share"),
        ("logit_margins", "train", "train_margin"),
        ("logit_margins", "test, novel pairs", "novel_margin"),
        ("gini", "embedding", "gini_embedding"),
        ("idealized_accuracy", "network, novel pairs", "novel_accuracy"),
        ("overview", "restricted loss", "restricted_loss"),
        ("overview", "excluded loss (train)", "excluded_loss"),
    ],
)
def test_a_line_is_a_column_of_the_timeline(name, trace, column, grokked):
    line, series = named(FUNCTIONS[name](grokked), trace), grokked.timeline[column].dropna()
    assert steps_of(line) == list(series.index)
    np.testing.assert_array_equal(line.y, series)


@pytest.mark.parametrize(
    ("trace", "column"),
    [
        ("rebuilt from phases, novel pairs", "idealized_accuracy_novel"),
        ("rebuilt with permuted phases", "idealized_accuracy_null"),
        ("rebuilt from phases, all pairs", "idealized_accuracy_all"),
    ],
)
def test_the_rebuilt_network_is_drawn_where_the_architecture_is_known(trace, column, trained, grokked):
    line, series = named(gi.figures.idealized_accuracy(trained), trace), trained.timeline[column].dropna()
    assert steps_of(line) == list(series.index)
    np.testing.assert_array_equal(line.y, series)
    assert "only models of a known architecture" in notes(gi.figures.idealized_accuracy(grokked))


@pytest.mark.parametrize(
    ("name", "trace", "column"),
    [
        ("accuracy_curves", "train", "train_accuracy"),
        ("accuracy_curves", "test", "test_accuracy"),
        ("loss_curves", "test", "test_loss"),
        ("weight_norms", "all parameters", "weight_norm"),
        ("overview", "test accuracy", "test_accuracy"),
        ("overview", "weight norm", "weight_norm"),
    ],
)
def test_logged_metrics_are_drawn_on_their_finer_grid(name, trace, column, trained):
    line = named(FUNCTIONS[name](trained), trace)
    assert len(line.y) == 31 > len(trained.timeline)
    np.testing.assert_array_equal(line.y, trained.metrics[column])


def test_norms_of_the_parts_are_drawn_for_one_run_only(trained, grokked):
    parts = {c.removeprefix("group_norm.") for c in trained.timeline if c.startswith("group_norm.")}
    assert parts <= {trace.name for trace in figures.weight_norms(trained).data}
    assert not parts & {trace.name for trace in figures.weight_norms([trained, grokked]).data}


@pytest.mark.parametrize("name", ["loss_curves", "progress_measures", "excluded_loss_per_frequency"])
def test_losses_have_a_logarithmic_axis_in_nats(name, grokked):
    axis = FUNCTIONS[name](grokked).layout.yaxis
    assert axis.type == "log"
    assert "nats" in axis.title.text


def test_linear_quantities_have_a_linear_axis(grokked):
    assert figures.accuracy_curves(grokked).layout.yaxis.type == "linear"
    assert figures.logit_margins(grokked).layout.yaxis.type == "linear"
    assert "logits" in figures.logit_margins(grokked).layout.yaxis.title.text
    efficiency = figures.circuit_efficiency(grokked)
    assert (efficiency.layout.yaxis.type, efficiency.layout.yaxis2.type) == ("log", "linear")


@pytest.mark.parametrize("name", OVER_TRAINING)
def test_steps_can_be_switched_and_step_0_keeps_its_place(name, grokked):
    figure = FUNCTIONS[name](grokked)
    linear, logarithmic = figure.layout.updatemenus[0].buttons
    assert (linear.label, logarithmic.label) == ("linear steps", "log steps")
    rows = {"circuit_efficiency": 2, "overview": 3}.get(name, 1)
    for axis in ["xaxis", "xaxis2", "xaxis3"][:rows]:
        assert linear.args[1][f"{axis}.type"] == "linear"
        assert logarithmic.args[1][f"{axis}.type"] == "log"
        assert logarithmic.args[1][f"{axis}.ticktext"][0] == "0"
        edge = logarithmic.args[1][f"{axis}.tickvals"][0]
        low, high = logarithmic.args[1][f"{axis}.range"]
        assert low < math.log10(edge) < math.log10(50)
        assert high > math.log10(2000)
    for straight, bent in zip(linear.args[0]["x"], logarithmic.args[0]["x"], strict=True):
        if straight == [None]:
            continue
        assert [x for x in bent if x != pytest.approx(edge, abs=1e-3)] == [x for x in straight if x]
        assert len(bent) == len(straight)


def test_the_initial_step_scale_differs_between_figures(grokked):
    logarithmic, linear = figures.accuracy_curves(grokked), figures.progress_measures(grokked)
    assert logarithmic.layout.xaxis.type == "log"
    assert 0 < min(named(logarithmic, "test").x) < 50
    assert linear.layout.xaxis.type == "linear"
    assert min(named(linear, "test").x) == 0


def test_phases_and_events_are_at_the_steps_of_the_transition(grokked):
    transition = grokked.transition
    assert transition.outcome == "grokked"
    shapes = figures.progress_measures(grokked).layout.shapes
    for name, start, end in phase_spans(grokked):
        band = next(shape for shape in shapes if shape.name == name and shape.showlegend)
        assert (band.x0, band.x1) == (start, end)
    assert [name for name, _, _ in phase_spans(grokked)][-1] == "cleanup"
    for symbol, events in (("T<sub>train</sub>", transition.T_train), ("T<sub>grok</sub>", transition.T_grok)):
        lines = [shape for shape in shapes if shape.legendgroup == symbol]
        assert {line.x0 for line in lines} == {events[0.95].step, events[0.99].step}
        assert sum(bool(line.showlegend) for line in lines) == 1
        assert f"{events[0.95].step:,} / {events[0.99].step:,}" in next(line.name for line in lines if line.name)


def test_a_phase_without_an_end_is_not_drawn(grokked):
    open_end = Boundary(None, reason="excluded loss has not risen")
    changed = replace(grokked, transition=replace(grokked.transition, memorization_end=open_end, cleanup_end=open_end))
    assert [name for name, _, _ in phase_spans(changed)] == ["until circuit formed"]
    changed = replace(changed, transition=replace(changed.transition, circuit_formation_end=open_end))
    assert phase_spans(changed) == []
    figures.progress_measures(changed)


def test_three_phases_follow_one_another(grokked):
    ends = {"memorization_end": 200, "circuit_formation_end": 750, "cleanup_end": 1500}
    changed = replace(grokked.transition, **{name: Boundary(step) for name, step in ends.items()})
    assert phase_spans(replace(grokked, transition=changed)) == [
        ("memorization", 0, 200), ("circuit formation", 200, 750), ("cleanup", 750, 1500)
    ]  # fmt: skip


def test_the_heatmap_shows_shares_of_each_steps_power(grokked):
    heatmap = figures.embedding_spectrum_over_training(grokked).data[0]
    power = by_frequency(grokked, "embedding_power")
    assert list(heatmap.y) == list(range(1, 12))
    np.testing.assert_allclose(heatmap.z.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(heatmap.z[:, -1], power.iloc[-1] / power.iloc[-1].sum(), rtol=1e-5)
    markers = named(figures.embedding_spectrum_over_training(grokked), "key frequencies")
    assert tuple(markers.y) == grokked.reference.frequencies.values == (2, 5, 9)


def test_the_final_spectrum_highlights_the_keys(grokked):
    figure = figures.embedding_spectrum(grokked)
    keys, rest = named(figure, "key frequencies"), named(figure, "other frequencies")
    assert list(keys.x) == [2, 5, 9]
    assert set(keys.x) | set(rest.x) == set(range(1, 12))
    power = grokked.frequencies["embedding_power"].loc[2000]
    np.testing.assert_array_equal(keys.customdata, power.loc[[2, 5, 9]])
    assert sum(keys.y) + sum(rest.y) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "column"),
    [("excluded_loss_per_frequency", "excluded_loss_k"), ("cosine_coefficients", "cosine_coefficient")],
)
def test_each_key_has_a_line_and_all_other_frequencies_share_one(name, column, grokked):
    figure, table = FUNCTIONS[name](grokked), by_frequency(grokked, column)
    for k in (2, 5, 9):
        np.testing.assert_array_equal(named(figure, f"k = {k}").y, table[k])
    largest = table.drop(columns=[2, 5, 9]).max(axis=1)
    np.testing.assert_array_equal(named(figure, "largest of the others").y, largest)


def test_a_key_has_the_same_color_in_every_figure(grokked):
    lines = {name: named(FUNCTIONS[name](grokked), "k = 5").line.color for name in
             ("excluded_loss_per_frequency", "cosine_coefficients")}  # fmt: skip
    bars = named(figures.embedding_spectrum(grokked), "key frequencies")
    assert set(lines.values()) == {bars.marker.color[1]}


def test_key_frequencies_are_marked_at_the_steps_at_which_they_are_keys(grokked):
    marks = figures.key_frequencies_over_training(grokked).data[0]
    table = by_frequency(grokked, "is_key")
    assert {(int(step), int(k)) for step, k in zip(marks.x, marks.y, strict=True)} == {
        (step, k) for step in table.index for k in table.columns if table.loc[step, k]
    }


def test_losses_with_and_without_keys_that_died_are_both_drawn_and_named(grokked, trained):
    reference = replace(grokked.reference, lost=(7,), union=(2, 5, 7, 9))
    doubled = {f"{c}_union": 2 * grokked.timeline[c] for c in ("restricted_loss", "excluded_loss")}
    died = replace(grokked, reference=reference, timeline=grokked.timeline.assign(**doubled))
    figure = figures.progress_measures(died)
    for label, column in (("restricted", "restricted_loss"), ("excluded (train)", "excluded_loss")):
        union, last = (
            named(figure, f"{label}, {keys}") for keys in ("all keys since T<sub>grok</sub>", "keys of step 2,000")
        )
        np.testing.assert_array_equal(union.y, 2 * grokked.timeline[column])
        np.testing.assert_array_equal(last.y, grokked.timeline[column])
        assert "all keys since" in union.hovertemplate
        assert "keys of step 2,000" in last.hovertemplate
    assert "key frequencies that died after T<sub>grok</sub>: 7" in notes(figure)
    several = figures.progress_measures([died, trained])
    assert "key frequencies of grokked (p = 23) that died after T<sub>grok</sub>: 7" in notes(several)
    line = next(trace for trace in several.data if "restricted" in str(trace.hovertemplate))
    np.testing.assert_array_equal(line.y, 2 * grokked.timeline["restricted_loss"])
    assert "restricted, all keys since T<sub>grok</sub>" in line.hovertemplate
    assert list(named(figures.embedding_spectrum(died), "keys that died").x) == [7]
    assert named(figures.excluded_loss_per_frequency(died), "k = 7 (died)")
    assert tuple(named(figures.embedding_spectrum_over_training(died), "key frequencies").y) == (2, 5, 7, 9)


def test_runs_of_different_p_are_not_compared_frequency_by_frequency(grokked, trained):
    figure = figures.embedding_spectrum([grokked, trained])
    assert "k / p" in figure.layout.xaxis.title.text
    np.testing.assert_allclose(named(figure, "grokked (p = 23)").x, np.arange(1, 12) / 23)
    assert "the runs differ in p" in notes(figure)
    heatmaps = figures.embedding_spectrum_over_training([grokked, trained])
    assert [len(trace.y) for trace in heatmaps.data if trace.type == "heatmap"] == [11, 5]
    guesses = {shape.name for shape in figures.loss_curves([grokked, trained]).layout.shapes}
    assert guesses == {"uniform guess, ln 23", "uniform guess, ln 11"}


def test_runs_of_one_p_share_the_axis_of_frequencies(grokked):
    figure = figures.embedding_spectrum([grokked, grokked])
    assert figure.layout.xaxis.title.text == "frequency k"
    assert list(figure.data[0].x) == list(range(1, 12))


def test_several_runs_differ_in_color_and_quantities_in_dash(grokked, trained):
    figure = figures.accuracy_curves([grokked, trained])
    lines = [trace for trace in figure.data if trace.x[0] is not None]
    assert {(t.legendgroup, t.line.dash) for t in lines} == {
        (run, dash) for run in ("grokked (p = 23)", "trained (p = 11)") for dash in ("solid", "dot")
    }
    assert len({t.line.color for t in lines}) == 2
    assert [t.name for t in figure.data if t.showlegend is not False] == [
        "grokked (p = 23)", "trained (p = 11)", "test", "train"
    ]  # fmt: skip


def test_runs_with_the_same_name_have_different_labels(grokked, trained, tmp_path):
    other = replace(grokked, run=gi.Run(tmp_path / "elsewhere" / "grokked", grokked.run.config))
    assert labels([grokked]) == ["grokked"]
    assert labels([grokked, other])[1] == "elsewhere/grokked"
    assert labels([grokked, grokked])[0] != labels([grokked, grokked])[1]
    odd = replace(grokked, run=gi.Run(tmp_path / "<b>bold", grokked.run.config))
    assert labels([odd]) == ["&lt;b&gt;bold"]


def test_heatmaps_of_long_runs_are_thinned_with_a_note(grokked):
    table = by_frequency(grokked, "embedding_power")
    long = pd.concat({1000 * i: table.iloc[-1] for i in range(2 * MAX_STEPS)}, names=["step", "k"])
    figure = figures.embedding_spectrum_over_training(replace(grokked, frequencies=long.to_frame("embedding_power")))
    heatmap = figure.data[0]
    assert heatmap.z.shape == (11, MAX_STEPS)
    assert (heatmap.x[0], heatmap.x[-1]) == (0, 1000 * (2 * MAX_STEPS - 1))
    assert f"{MAX_STEPS} of {2 * MAX_STEPS} checkpoints are drawn" in notes(figure)


def test_gaps_and_zeros_are_noted(grokked):
    exhausted = replace(grokked, reasons={"circuit_efficiency_ratio": {"memorized margin exhausted": [1900, 1950]}})
    assert "margin ratio undefined at 2 steps from 1,900 to 1,950" in notes(figures.circuit_efficiency(exhausted))
    timeline = grokked.timeline.assign(restricted_loss=0.0)
    assert "values of 0 or less" in notes(figures.progress_measures(replace(grokked, timeline=timeline)))


def test_squared_error_is_not_called_nats(grokked):
    run = gi.Run(grokked.run.path, replace(grokked.run.config, loss="mse"))
    squared = replace(grokked, run=run)
    assert figures.loss_curves(squared).layout.yaxis.title.text == "loss (squared error)"
    assert not [shape for shape in figures.loss_curves(squared).layout.shapes if "guess" in (shape.name or "")]
    both = figures.loss_curves([grokked, squared])
    assert "nats, or squared error" in both.layout.yaxis.title.text


def test_many_runs_have_different_colors(grokked):
    runs = [replace(grokked, run=gi.Run(Path(f"run{i}"), grokked.run.config)) for i in range(12)]
    figure = figures.weight_norms(runs)
    assert len({trace.line.color for trace in figure.data if trace.x[0] is not None}) == 12
    panels = figures.embedding_spectrum_over_training(runs)
    assert "the first 8 of 12 runs are drawn" in notes(panels)
