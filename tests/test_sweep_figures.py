"""Figures and report of a sweep: every run is drawn where its table says, and runs that never grokked are marked."""

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.graph_objects import Figure
from test_report import EVIL, Page, browse

import grokinterp as gi
from grokinterp import figures
from grokinterp.figures.style import OUTCOME_COLORS, OUTCOME_LABELS
from grokinterp.figures.sweeps import MAX_SETTINGS, quantity_name
from grokinterp.statistics import Outcome, fit_power_law, observe, summarize
from grokinterp.statistics.formatting import short

WD, F = "optimizer.weight_decay", "task.train_fraction"


def a_run(index: int = 0, outcome: str | None = "grokked", grok: float = 2000.0, **fields) -> dict:
    """A row of a sweep's table. Only runs that generalized, with or without a delay, have a T_grok."""
    status = fields.pop("status", "finished" if outcome else "failed")
    train = math.nan if outcome in ("DNF_train", "diverged", None) else 400.0
    grok = grok if outcome in ("grokked", "generalized_without_delay") else math.nan
    norm = 60.0 + index if grok == grok else math.nan
    return {
        "run": f"run {index}", "task.operation": "add", "task.p": 97, F: 0.4, "task.data_seed": 0, "model.kind": "mlp",
        "model.width": 128, WD: 1.0, "model_seed": index, "loss": "cross_entropy", "status": status, "outcome": outcome,
        "failure": "out of memory" if status == "failed" else None, "step": math.nan if outcome is None else 10_000,
        "T_train_0.95": train, "T_train_0.99": train, "T_grok_0.95": grok, "T_grok_0.99": 1.25 * grok,
        "delay_0.95": grok - train, "delay_0.99": 1.25 * grok - train, "delay_0.95_0.99": grok - train,
        "weight_norm_at_T_grok_0.95": norm, "weight_rms_at_T_grok_0.95": norm / 200, "weight_norm_max": 75.0,
        "final.test_accuracy": 0.5 if outcome else math.nan, "final.train_loss": 1e-3 if outcome else math.nan,
    } | fields  # fmt: skip


def sweep(decays=(0.1, 0.3, 1.0, 3.0, 10.0), fractions=(0.4, 0.6), seeds=3) -> pd.DataFrame:
    """No grokking at the smallest weight decay, no memorization at the largest, T_grok ~ 1 / weight decay between."""
    rows, generator = [], np.random.default_rng(0)
    for i, (decay, fraction, seed) in enumerate(product(decays, fractions, range(seeds))):
        outcome = "DNF_test" if decay == 0.1 else "DNF_train" if decay == 10 else "grokked"
        grok = round(1500 / max(decay, 1e-3) / fraction * generator.lognormal(sigma=0.1))
        rows.append(a_run(i, outcome, grok, model_seed=seed, **{WD: decay, F: fraction}))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The sweep with one run of each other outcome, at weight decay 1 and train fraction 0.4."""
    extra = [
        a_run(100, "semi_grokked", model_seed=3, **{F: 0.4}),
        a_run(101, "diverged", model_seed=4, status="diverged", step=300, **{F: 0.4}),
        a_run(102, None, model_seed=5, failure=f"out of memory {EVIL}", **{F: 0.4}),
        a_run(103, None, model_seed=6, status="missing", **{F: 0.4}),
        a_run(104, "undetermined", model_seed=7, status="stopped", step=900, **{F: 0.4}),
    ]
    return pd.concat([sweep(), pd.DataFrame(extra)], ignore_index=True)


def draw_all(table: pd.DataFrame, x: str = WD, y: str = F) -> dict[str, Figure]:
    by_name = {
        "outcomes": figures.outcome_counts(table),
        "diagram": figures.phase_diagram(table, x, y),
        "medians": figures.phase_diagram(table, x, y, "T_grok_0.95"),
        "accuracies": figures.phase_diagram(table, x, y, "final.test_accuracy"),
        "delay": figures.delay_against(table, x),
        "T_grok": figures.delay_against(table, x, "T_grok_0.99"),
        "norm": figures.norm_at_grok(table, x),
    }
    for figure in by_name.values():
        json.loads(figure.to_json())
        assert figure.layout.title.text
    return by_name


def points(figure, symbol: str | None = None) -> list[tuple[str, float, float]]:
    """Name, x and y of each run drawn, or of those with a symbol."""
    return [
        (custom[0], float(x), float(y))
        for trace in figure.data
        if trace.mode == "markers" and trace.customdata is not None and symbol in (None, trace.marker.symbol)
        for custom, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    ]


def cells(figure) -> dict[tuple[str, str], str]:
    """The text of each cell."""
    texts = {}
    for trace in figure.data:
        if trace.type == "heatmap":
            for i, j in product(range(len(trace.y)), range(len(trace.x))):
                if trace.z[i][j] == trace.z[i][j]:
                    assert (trace.x[j], trace.y[i]) not in texts
                    texts[trace.x[j], trace.y[i]] = trace.text[i][j]
    return texts


def notes(figure) -> str:
    return "; ".join(figure.layout.meta["notes"])


def names(figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]


def test_a_phase_diagram_has_the_outcome_of_each_setting_in_its_color(table):
    figure = figures.phase_diagram(table, WD, F)
    texts = cells(figure)
    assert len(texts) == 10
    assert texts["0.1", "0.4"] == "DNF test"
    assert texts["10", "0.6"] == "DNF train"
    assert texts["3", "0.6"] == "grokked"
    assert texts["1", "0.4"] == "grokked<br>3/6"  # of six with semi, diverged, unfinished; not failed and missing
    heatmap = figure.data[0]
    colors = dict(zip(Outcome, (heatmap.colorscale[2 * i][1] for i in range(len(Outcome))), strict=True))
    assert colors == OUTCOME_COLORS
    code = heatmap.z[list(heatmap.y).index("0.4")][list(heatmap.x).index("10")]
    position = (code - heatmap.zmin) / (heatmap.zmax - heatmap.zmin)
    assert [color for start, color in heatmap.colorscale if start <= position][-1] == OUTCOME_COLORS["DNF_train"]
    assert list(heatmap.x) == ["0.1", "0.3", "1", "3", "10"]  # numeric order
    assert names(figure) == ["grokked", "DNF test", "DNF train"]
    assert not notes(figure)


def test_the_hover_text_of_a_cell_has_the_numbers_of_its_runs(table):
    heatmap = figures.phase_diagram(table, WD, F).data[0]
    hover = heatmap.hovertext[list(heatmap.y).index("0.4")][list(heatmap.x).index("1")]
    assert "optimizer.weight_decay = 1" in hover
    assert "3 grokked, 1 semi-grokked, 1 diverged, 1 undetermined, 1 failed, 1 not begun" in hover
    for run in table[(table[WD] == 1) & (table[F] == 0.4)].to_dict("records"):
        assert f"model_seed {run['model_seed']}" in hover
        if run["outcome"] == "grokked":
            assert f"{run['T_grok_0.95']:,.0f}" in hover
            assert f"{run['T_grok_0.99']:,.0f}" in hover


def test_medians_have_a_logarithmic_scale_and_cells_without_one_name_the_dnf(table):
    figure = figures.phase_diagram(table, WD, F, "T_grok_0.95")
    texts = cells(figure)
    assert texts["0.1", "0.4"] == "DNF test"
    assert texts["10", "0.6"] == "DNF train"
    summary = summarize(table, [WD, F]).set_index([WD, F])
    measured, coded = (trace for trace in figure.data if trace.type == "heatmap")
    for decay, fraction in product((0.3, 3.0), (0.4, 0.6)):
        median = summary.loc[(decay, fraction), "median"]
        assert texts[f"{decay:g}", f"{fraction:g}"] == short(median)
        z = measured.z[list(measured.y).index(f"{fraction:g}")][list(measured.x).index(f"{decay:g}")]
        assert z == pytest.approx(math.log10(median))
    assert texts["1", "0.4"].endswith("<br>3/6")
    assert np.isfinite(coded.z.astype(float)).sum() == 4
    assert set(names(figure)) == {"DNF test", "DNF train"}
    ticks = dict(zip(measured.colorbar.ticktext, measured.colorbar.tickvals, strict=True))
    assert ticks["1,000"] == 3


def test_a_cell_without_a_median_names_the_dnf_even_if_as_many_grokked():
    outcomes = ["grokked", "grokked", "DNF_test", "DNF_train", "DNF_train", "DNF_test", "DNF_test"]
    table = pd.DataFrame([a_run(i, outcome) for i, outcome in enumerate(outcomes)])
    assert cells(figures.phase_diagram(table, WD, F, "T_grok_0.95")) == {("1", "0.4"): "DNF test<br>3/7"}
    level = table[table["outcome"] != "DNF_train"].iloc[:4]
    assert cells(figures.phase_diagram(level, WD, F, "T_grok_0.95")) == {("1", "0.4"): "DNF test<br>2/4"}
    assert cells(figures.phase_diagram(level, WD, F)) == {("1", "0.4"): "grokked<br>2/4"}


def test_values_of_0_or_less_have_a_linear_scale():
    table = sweep(fractions=(0.4, 0.6)).assign(**{"delay_0.95_0.99": lambda t: t["T_grok_0.95"] - 1500})
    assert (table["delay_0.95_0.99"] < 0).any()
    figure = figures.phase_diagram(table, WD, F, "delay_0.95_0.99")
    assert figure.data[0].colorbar.tickvals is None
    against = figures.delay_against(table, WD)
    assert against.layout.yaxis.type == "linear"
    assert "0 or less" in notes(against)
    assert against.layout.meta["fits"] == []


def test_axes_that_a_diagram_combines_are_named(table):
    both = pd.concat([table, table.assign(**{"model.kind": "transformer"})], ignore_index=True)
    assert "each cell combines all values of model.kind" in notes(figures.phase_diagram(both, WD, F))
    assert cells(figures.phase_diagram(both, WD, F))["1", "0.4"] == "grokked<br>6/12"


def test_invalid_axes_and_units_are_errors(table):
    with pytest.raises(gi.ConfigError, match="two different axes"):
        figures.phase_diagram(table, WD, WD)
    with pytest.raises(gi.ConfigError, match=f"did you mean '{WD}'"):
        figures.phase_diagram(table, "weight_decay", F)
    with pytest.raises(gi.ConfigError, match=r"did you mean 'T_grok_0\.95'"):
        figures.delay_against(table, WD, "T_grk_0.95")
    with pytest.raises(gi.ConfigError, match="unknown unit 'l2'"):
        figures.norm_at_grok.__wrapped__(table, WD, "l2")


def test_every_run_is_a_point_and_open_if_it_did_not_reach_the_event(table):
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    places = {run: (x, y) for run, x, y in points(figure)}
    for run in table.to_dict("records"):
        if run["status"] in ("failed", "missing", "diverged"):
            assert run["run"] not in places
            continue
        x, y = places[run["run"]]
        assert y == (run["T_grok_0.95"] if run["T_grok_0.95"] == run["T_grok_0.95"] else run["step"])
        assert abs(x - math.log10(run[WD])) < 0.2  # less than half the distance to the next setting
    symbols = {"DNF_test": "triangle-up-open", "DNF_train": "triangle-down-open", "grokked": "circle"}
    for outcome, symbol in symbols.items():
        runs = table[table["outcome"] == outcome]["run"]
        assert {run for run, _, _ in points(figure, symbol)} == set(runs), outcome
    assert "1 diverged, 1 failed, 1 not begun" in notes(figure)
    assert {"DNF test, at its last step", "DNF train, at its last step"} <= set(names(figure))
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert ticks["0.3"] == pytest.approx(math.log10(0.3))


def test_the_power_law_is_fitted_to_the_runs_with_censoring(table):
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    fits = {fit["group"]: fit for fit in figure.layout.meta["fits"]}
    assert set(fits) == {"train_fraction 0.4", "train_fraction 0.6"}
    part = table[(table[F] == 0.6) & (table[WD] < 10)]
    fit = fit_power_law(
        part[WD].to_numpy(), part["T_grok_0.95"].fillna(10_000).to_numpy(), (part["outcome"] == "grokked").to_numpy()
    )
    numbers = fits["train_fraction 0.6"]
    assert (numbers["exponent"], numbers["low"]) == (pytest.approx(fit.exponent), pytest.approx(fit.interval.low))
    assert (numbers["n"], numbers["n_censored"]) == (12, 3)
    line = next(trace for trace in figure.data if trace.name and trace.name.startswith("train_fraction 0.6: exponent"))
    assert f"−{abs(fit.exponent):.2f}<br>[−{abs(fit.interval.low):.2f}, " in line.name
    assert "12 runs, 3 censored" in line.name
    np.testing.assert_allclose(line.y, fit.at(10 ** np.array(line.x))["y"])
    assert max(line.x) == pytest.approx(math.log10(3))  # not beyond the settings that memorized
    band = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == line.legendgroup)
    np.testing.assert_allclose(band.y[:60], fit.at(10 ** np.array(line.x))["high"])


def test_medians_are_joined_where_half_of_the_runs_reached_the_event(table):
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    summary = summarize(table[table[F] == 0.6], [WD])
    line = next(
        trace for trace in figure.data
        if trace.mode == "lines" and trace.line.dash is None and trace.legendgroup == "train_fraction 0.6"
        and trace.fill is None
    )  # fmt: skip
    medians = [math.nan if y is None else y for y in line.y]
    np.testing.assert_array_equal(np.array(medians, dtype=float), summary["median"])
    assert np.isnan(summary["median"].iloc[0])


def test_a_weight_decay_of_0_is_at_the_left_and_not_fitted():
    table = pd.concat([sweep(), sweep(decays=(0.0,)).assign(outcome="DNF_test", **{"T_grok_0.95": math.nan})])
    figure = figures.delay_against(table.assign(run=[f"r{i}" for i in range(len(table))]), WD, "T_grok_0.95")
    places = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert places["0"] < places["0.1"] == -1
    assert figure.layout.xaxis.range[0] < places["0"]
    assert "optimizer.weight_decay = 0 is not part of the fit" in notes(figure)
    assert {fit["n"] for fit in figure.layout.meta["fits"]} == {12}


def test_a_note_explains_a_missing_fit():
    table = sweep(decays=(0.1, 1.0), fractions=(0.4,))
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    assert figure.layout.meta["fits"] == []
    assert "runs reached the event at 1 distinct x" in notes(figure)


def test_many_combinations_are_drawn_without_lines():
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 12).round(2)), seeds=2)
    figure = figures.delay_against(table, WD)
    assert "12 combinations of task.train_fraction" in notes(figure)
    assert len(points(figure)) == len(table)
    assert figure.layout.meta["fits"] == []
    assert not [trace for trace in figure.data if trace.mode == "lines"]


def test_outcomes_are_counted_with_both_kinds_of_dnf_apart(table):
    figure = figures.outcome_counts(table)
    bars = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data if trace.type == "bar"}
    assert set(bars) == set(OUTCOME_LABELS.values()) - {"no delay"}
    settings = {name for counts in bars.values() for name in counts}
    assert len(settings) == 10
    for decay, fraction in product((0.1, 1.0, 10.0), (0.4, 0.6)):
        part = table[(table[WD] == decay) & (table[F] == fraction)]
        name = next(n for n in settings if set(n.split(" · ")) == {f"{decay:g}", f"{fraction:g}"})
        assert bars["DNF test"][name] == (part["outcome"] == "DNF_test").sum()
        assert bars["DNF train"][name] == (part["outcome"] == "DNF_train").sum()
        assert sum(counts[name] for counts in bars.values()) == len(part)
    shares = next(trace for trace in figure.data if trace.type == "scatter")
    assert dict(zip(shares.y, (t.strip() for t in shares.text), strict=True))["0.4 · 1"] == "3/6"


def test_too_many_settings_are_cut_with_a_note():
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 20).round(3)), seeds=1)
    figure = figures.outcome_counts(table)
    assert f"the first {MAX_SETTINGS} of 100 settings" in notes(figure)
    assert {len(trace.y) for trace in figure.data} == {MAX_SETTINGS}


@pytest.mark.parametrize(("unit", "rows"), [("both", 2), ("L2", 1), ("RMS", 1)])
def test_norms_at_grok_are_drawn_for_every_run_that_grokked(unit, rows, table):
    figure = figures.norm_at_grok(table, WD, unit)
    assert figure.layout.meta["panels"] == rows
    drawn_points = points(figure)
    grokked = table[table["outcome"] == "grokked"]
    assert len(drawn_points) == rows * len(grokked)
    expected = [grokked[f"weight_{name}_at_T_grok_0.95"] for name in ("norm", "rms")]
    expected = {"both": expected, "L2": expected[:1], "RMS": expected[1:]}[unit]
    assert sorted(y for _, _, y in drawn_points) == sorted(float(y) for values in expected for y in values)
    assert f"{len(table) - len(grokked)} of {len(table)} runs have no norm" in notes(figure)
    if unit == "L2":
        spread = expected[0].std(ddof=1) / expected[0].mean()
        assert f"std (ddof 1) {spread:.0%} of it" in notes(figure)


def test_figures_of_a_sweep_without_grokking():
    table = sweep(decays=(0.1, 10.0))
    drawn = draw_all(table)
    assert drawn["norm"].layout.meta["empty"]
    assert "no run grokked" in notes(drawn["norm"])
    assert set(cells(drawn["medians"]).values()) == {"DNF test", "DNF train"}
    assert len(points(drawn["T_grok"], "triangle-up-open")) == 6
    assert drawn["T_grok"].layout.meta["fits"] == []


def test_nothing_is_censored_if_every_run_grokked():
    drawn = draw_all(sweep(decays=(0.3, 1.0, 3.0)))
    assert set(cells(drawn["diagram"]).values()) == {"grokked"}
    assert all("censored" not in name for name in names(drawn["T_grok"]))
    assert {fit["method"] for fit in drawn["T_grok"].layout.meta["fits"]} == {"least squares"}


def test_one_axis_and_one_seed(table):
    small = sweep(fractions=(0.4,), seeds=1)
    figure = figures.delay_against(small, WD)
    assert [fit["group"] for fit in figure.layout.meta["fits"]] == [""]
    assert any(name.startswith("exponent −") for name in names(figure))
    assert {t for trace in figures.outcome_counts(small).data if trace.type == "bar" for t in trace.y} == {
        "0.1", "0.3", "1", "3", "10"
    }  # fmt: skip
    assert len(cells(figures.phase_diagram(small, WD, F))) == 5


def test_a_single_setting():
    table = pd.DataFrame([a_run(i, "grokked", 2000 + i) for i in range(3)])
    drawn = draw_all(table)
    assert "no fit" not in notes(drawn["T_grok"])
    assert [t.name for t in figures.outcome_counts(table).data if t.type == "bar"] == ["grokked"]


@pytest.mark.parametrize("axis", ["task.operation", "model.bias", "optimizer.clip", "label"])
def test_axes_of_strings_booleans_and_none(axis):
    values = {"task.operation": ["x^3+xy", "add"], "model.bias": [True, False], "optimizer.clip": [None, 1.0]}
    values["label"] = [EVIL, "b"]
    rows = [a_run(i, "grokked", 1000 + 100 * i) for i in range(6)]
    table = pd.DataFrame([row | {axis: values[axis][i % 2], WD: (0.5, 1.0, 2.0)[i // 2]} for i, row in enumerate(rows)])
    table[axis] = table[axis].astype(object)
    drawn = draw_all(table, axis, WD)
    labels = {x for x, _ in cells(drawn["diagram"])}
    assert labels == {
        "task.operation": {"add", "x^3+xy"}, "model.bias": {"True", "False"}, "optimizer.clip": {"1", "none"},
        "label": {"b", "&lt;script&gt;alert(1)&lt;∕script&gt;"},
    }[axis]  # fmt: skip
    assert len(points(drawn["T_grok"])) == 6
    assert "<script" not in json.dumps([json.loads(figure.to_json()) for figure in drawn.values()]).replace(
        "\\u003c", "<"
    )


def test_runs_without_results_are_drawn_as_failed_or_not_begun():
    rows = [a_run(0, None, **{WD: 0.3}), a_run(1, None, status="missing", **{WD: 1.0})]
    drawn = draw_all(pd.DataFrame(rows))
    assert set(cells(drawn["diagram"]).values()) == {"failed", "not begun"}
    assert drawn["T_grok"].layout.meta["empty"]
    assert "no run reached it" in notes(drawn["T_grok"])


def test_a_table_without_rows_gives_empty_figures():
    empty = sweep().iloc[:0]
    assert figures.outcome_counts(empty).layout.meta["empty"]
    for figure in (
        figures.delay_against(empty, WD),
        figures.norm_at_grok(empty, WD),
        figures.phase_diagram(empty, WD, F),
    ):
        assert figure.layout.meta["empty"]


@pytest.mark.parametrize(
    ("quantity", "name"),
    [
        ("T_grok_0.95", "T<sub>grok</sub>(0.95)"),
        ("T_grok_novel_0.99", "T<sub>grok</sub>(0.99), novel pairs"),
        ("delay_0.95", "T<sub>grok</sub>(0.95) − T<sub>train</sub>(0.95)"),
        ("delay_0.95_0.99", "T<sub>grok</sub>(0.95) − T<sub>train</sub>(0.99)"),
        ("final.test_accuracy", "test accuracy"),
        ("weight_norm_max", "weight norm max"),
    ],
)
def test_quantities_have_names(quantity, name):
    assert quantity_name(quantity) == name


@pytest.mark.parametrize(
    ("x", "text"), [(950, "950"), (4225, "4,225"), (45_333, "45.3k"), (2.5e6, "2.5M"), (0.123456, "0.123")]
)
def test_numbers_in_cells_are_short(x, text):
    assert short(x) == text


@pytest.fixture(scope="module")
def written(table, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("sweep") / "new" / "report.html"
    path = gi.write_sweep_report(
        table, [WD, F, "model_seed"], f"Sweep {EVIL}", output, notes=["Every <b>50</b> steps."]
    )
    assert path == output
    return path


def test_the_report_is_well_formed_and_makes_no_requests(written):
    page = Page(written)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "b1"), tag
        assert not {"src", "srcset", "data", "action"} & set(attributes)
    assert EVIL in page.text
    assert "Every <b>50</b> steps." in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.scripts)
    assert page.source.count("* plotly.js v") == 1


def test_the_report_has_the_axes_failures_outcomes_and_fits(written, table):
    text = Page(written).text
    assert "35 runs: 18 grokked, 1 semi-grokked, 6 DNF test, 6 DNF train, 1 diverged, 1 undetermined, 1 failed" in text
    assert "optimizer.weight_decay 5 0.1, 0.3, 1, 3, 10" in text
    assert f"run 102 out of memory {EVIL}" in text
    row = summarize(table, [WD, F]).set_index([WD, F]).loc[(1.0, 0.4)]
    assert f"1 0.4 3/6 0 0 {row['median']:,.0f}" in text
    assert f"{row['mean_of_k']:,.0f} {row['std_of_k']:,.0f} {row['min_of_k']:,.0f} to {row['max_of_k']:,.0f}" in text
    assert "1 semi-grokked, 1 diverged, 1 undetermined, 1 failed, 1 not begun" in text
    assert "0.1 0.4 0/3 3 0 not reached" in text
    assert "10 0.6 0/3 0 3 not reached" in text
    fits = figures.delay_against(table, WD, "T_grok_0.95").layout.meta["fits"]
    for fit in fits:
        assert (
            f"{fit['group']} {fit['exponent']:.3f} {fit['low']:.3f} to {fit['high']:.3f} {fit['n']} {fit['n_censored']}"
            in text
        )
    assert f"test_accuracy {observe(table, 'final.test_accuracy').reached.sum()} 0.5 0.5 0.5" in text
    assert "task.p 97" in text


def test_empty_sections_give_a_reason(tmp_path):
    table = pd.DataFrame([a_run(i, "DNF_test") for i in range(2)]).drop(
        columns=["final.test_accuracy", "final.train_loss"]
    )
    text = Page(gi.write_sweep_report(table, [WD, "model_seed"], "One setting", tmp_path / "a.html")).text
    for sentence in (
        "No run failed", "No phase diagram", "No numeric axis was swept", "No run grokked",
        "No run has measures at its last checkpoint",
    ):  # fmt: skip
        assert sentence in text, sentence
    empty = Page(gi.write_sweep_report(sweep().iloc[:0], [WD], "Nothing", tmp_path / "b.html")).text
    assert "0 runs: none." in empty
    with pytest.raises(gi.ConfigError, match=f"did you mean '{WD}'"):
        gi.write_sweep_report(table, ["weight_decay"], "Typo", tmp_path / "c.html")


def test_seeds_alone_have_no_sections_that_compare_settings(tmp_path):
    headings = ("Outcomes", "Delay and T_grok", "Weight norm at T_grok")
    for axes, shown in (([WD, "model_seed"], True), (["model_seed"], False)):
        page = Page(gi.write_sweep_report(sweep(), axes, "Seeds", tmp_path / f"{shown}.html"))
        assert all((heading in page.text) == shown for heading in headings)


def test_long_tables_are_collapsed_and_cut(tmp_path):
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 11).round(3)), seeds=8)
    page = Page(gi.write_sweep_report(table, [WD, F, "model_seed"], "Large", tmp_path / "a.html"))
    assert len(table) == 440
    assert "The first 300 of 440 rows" in page.text
    assert "All runs, 440 rows" in page.text
    assert len(page.source) < 8e6


@pytest.mark.parametrize("width", [400, pytest.param(1200, marks=pytest.mark.slow)])
def test_a_browser_draws_the_report_without_errors(width, written, tmp_path):
    seen, console = browse(written, tmp_path, width)
    assert console == []
    assert seen["requests"] == []
    assert seen["scroll"] <= width
    assert seen["plots"] == seen["drawn"] == 1 + 2 + 6 + 2
    assert seen["widest"] <= width
    assert seen["clipped"] == []
