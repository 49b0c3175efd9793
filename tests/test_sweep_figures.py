"""Figures and report of a sweep: every run is where its table says, and what never grokked is seen not to have."""

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
from grokinterp.figures.style import FATE_COLOURS, FATE_NAMES
from grokinterp.figures.sweeps import MAX_SETTINGS, quantity_name, short
from grokinterp.statistics import FATES, fit_power_law, observe, summarize

WD, F = "optimizer.weight_decay", "task.train_fraction"


def a_run(index: int = 0, outcome: str | None = "grokked", grok: float = 2000.0, **fields) -> dict:
    """A row of a sweep's table. Only grokked runs, with or without a delay, have a T_grok."""
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
    """No grokking at the smallest weight decay, no memorizing at the largest, and 1 / weight decay between."""
    rows, generator = [], np.random.default_rng(0)
    for i, (decay, fraction, seed) in enumerate(product(decays, fractions, range(seeds))):
        outcome = "DNF_test" if decay == 0.1 else "DNF_train" if decay == 10 else "grokked"
        grok = round(1500 / max(decay, 1e-3) / fraction * generator.lognormal(sigma=0.1))
        rows.append(a_run(i, outcome, grok, model_seed=seed, **{WD: decay, F: fraction}))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The sweep with one run of each other fate, at weight decay 1 and train fraction 0.4."""
    others = [
        a_run(100, "semi_grokked", model_seed=3, **{F: 0.4}),
        a_run(101, "diverged", model_seed=4, status="diverged", step=300, **{F: 0.4}),
        a_run(102, None, model_seed=5, failure=f"out of memory {EVIL}", **{F: 0.4}),
        a_run(103, None, model_seed=6, status="missing", **{F: 0.4}),
        a_run(104, "undetermined", model_seed=7, status="stopped", step=900, **{F: 0.4}),
    ]
    return pd.concat([sweep(), pd.DataFrame(others)], ignore_index=True)


def draw_all(table: pd.DataFrame, x: str = WD, y: str = F) -> dict[str, Figure]:
    drawn = {
        "outcomes": figures.outcome_counts(table),
        "diagram": figures.phase_diagram(table, x, y),
        "medians": figures.phase_diagram(table, x, y, "T_grok_0.95"),
        "accuracies": figures.phase_diagram(table, x, y, "final.test_accuracy"),
        "delay": figures.delay_against(table, x),
        "T_grok": figures.delay_against(table, x, "T_grok_0.99"),
        "norm": figures.norm_at_grok(table, x),
    }
    for figure in drawn.values():
        json.loads(figure.to_json())
        assert figure.layout.title.text
    return drawn


def points(figure, symbol: str | None = None) -> list[tuple[str, float, float]]:
    """Name, place and height of each run drawn, of those with a symbol."""
    return [
        (custom[0], float(x), float(y))
        for trace in figure.data
        if trace.mode == "markers" and trace.customdata is not None and symbol in (None, trace.marker.symbol)
        for custom, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    ]


def cells(figure) -> dict[tuple[str, str], str]:
    """The text of each cell."""
    found = {}
    for trace in figure.data:
        if trace.type == "heatmap":
            for i, j in product(range(len(trace.y)), range(len(trace.x))):
                if trace.z[i][j] == trace.z[i][j]:
                    assert (trace.x[j], trace.y[i]) not in found
                    found[trace.x[j], trace.y[i]] = trace.text[i][j]
    return found


def notes(figure) -> str:
    return "; ".join(figure.layout.meta["notes"])


def names(figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]


def test_a_phase_diagram_has_the_outcome_of_each_setting_in_its_colour(table):
    figure = figures.phase_diagram(table, WD, F)
    said = cells(figure)
    assert len(said) == 10
    assert said["0.1", "0.4"] == "DNF test"
    assert said["10", "0.6"] == "DNF train"
    assert said["3", "0.6"] == "grokked"
    assert said["1", "0.4"] == "grokked<br>3/6"  # besides semi, diverged, unfinished; failed and missing do not count
    heatmap = figure.data[0]
    colours = dict(zip(FATES, (heatmap.colorscale[2 * i][1] for i in range(len(FATES))), strict=True))
    assert colours == FATE_COLOURS
    code = heatmap.z[list(heatmap.y).index("0.4")][list(heatmap.x).index("10")]
    at = (code - heatmap.zmin) / (heatmap.zmax - heatmap.zmin)
    assert [colour for start, colour in heatmap.colorscale if start <= at][-1] == FATE_COLOURS["DNF_train"]
    assert list(heatmap.x) == ["0.1", "0.3", "1", "3", "10"]  # in order, not as words
    assert names(figure) == ["grokked", "DNF test", "DNF train"]
    assert not notes(figure)


def test_a_cell_tells_all_numbers_of_its_runs(table):
    heatmap = figures.phase_diagram(table, WD, F).data[0]
    hover = heatmap.hovertext[list(heatmap.y).index("0.4")][list(heatmap.x).index("1")]
    assert "optimizer.weight_decay = 1" in hover
    assert "3 grokked, 1 semi-grokked, 1 diverged, 1 undetermined, 1 failed, 1 not begun" in hover
    for run in table[(table[WD] == 1) & (table[F] == 0.4)].to_dict("records"):
        assert f"model_seed {run['model_seed']}" in hover
        if run["outcome"] == "grokked":
            assert f"{run['T_grok_0.95']:,.0f}" in hover
            assert f"{run['T_grok_0.99']:,.0f}" in hover


def test_medians_stand_on_a_logarithmic_scale_and_dnf_cells_say_which(table):
    figure = figures.phase_diagram(table, WD, F, "T_grok_0.95")
    said = cells(figure)
    assert said["0.1", "0.4"] == "DNF test"
    assert said["10", "0.6"] == "DNF train"
    summary = summarize(table, [WD, F]).set_index([WD, F])
    measured, coded = (trace for trace in figure.data if trace.type == "heatmap")
    for decay, fraction in product((0.3, 3.0), (0.4, 0.6)):
        median = summary.loc[(decay, fraction), "median"]
        assert said[f"{decay:g}", f"{fraction:g}"] == short(median)
        z = measured.z[list(measured.y).index(f"{fraction:g}")][list(measured.x).index(f"{decay:g}")]
        assert z == pytest.approx(math.log10(median))
    assert said["1", "0.4"].endswith("<br>3/6")
    assert np.isfinite(coded.z.astype(float)).sum() == 4
    assert set(names(figure)) == {"DNF test", "DNF train"}
    ticks = dict(zip(measured.colorbar.ticktext, measured.colorbar.tickvals, strict=True))
    assert ticks["1,000"] == 3


def test_a_cell_without_a_median_names_the_dnf_even_where_as_many_grokked():
    fates = ["grokked", "grokked", "DNF_test", "DNF_train", "DNF_train", "DNF_test", "DNF_test"]
    table = pd.DataFrame([a_run(i, fate) for i, fate in enumerate(fates)])
    assert cells(figures.phase_diagram(table, WD, F, "T_grok_0.95")) == {("1", "0.4"): "DNF test<br>3/7"}
    level = table[table["outcome"] != "DNF_train"].iloc[:4]
    assert cells(figures.phase_diagram(level, WD, F, "T_grok_0.95")) == {("1", "0.4"): "DNF test<br>2/4"}
    assert cells(figures.phase_diagram(level, WD, F)) == {("1", "0.4"): "grokked<br>2/4"}


def test_numbers_that_may_be_0_or_less_are_on_a_linear_scale():
    table = sweep(fractions=(0.4, 0.6)).assign(**{"delay_0.95_0.99": lambda t: t["T_grok_0.95"] - 1500})
    assert (table["delay_0.95_0.99"] < 0).any()
    figure = figures.phase_diagram(table, WD, F, "delay_0.95_0.99")
    assert figure.data[0].colorbar.tickvals is None
    against = figures.delay_against(table, WD)
    assert against.layout.yaxis.type == "linear"
    assert "0 or less" in notes(against)
    assert against.layout.meta["fits"] == []


def test_axes_that_a_diagram_takes_together_are_named(table):
    both = pd.concat([table, table.assign(**{"model.kind": "transformer"})], ignore_index=True)
    assert "all values of model.kind together" in notes(figures.phase_diagram(both, WD, F))
    assert cells(figures.phase_diagram(both, WD, F))["1", "0.4"] == "grokked<br>6/12"


def test_what_is_no_diagram_is_refused(table):
    with pytest.raises(gi.ConfigError, match="two axes"):
        figures.phase_diagram(table, WD, WD)
    with pytest.raises(gi.ConfigError, match=f"did you mean '{WD}'"):
        figures.phase_diagram(table, "weight_decay", F)
    with pytest.raises(gi.ConfigError, match=r"did you mean 'T_grok_0\.95'"):
        figures.delay_against(table, WD, "T_grk_0.95")
    with pytest.raises(gi.ConfigError, match="unknown unit 'l2'"):
        figures.norm_at_grok.__wrapped__(table, WD, "l2")


def test_every_run_is_a_point_and_those_that_did_not_get_there_are_open(table):
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    drawn = {run: (x, y) for run, x, y in points(figure)}
    for run in table.to_dict("records"):
        if run["status"] in ("failed", "missing", "diverged"):
            assert run["run"] not in drawn
            continue
        x, y = drawn[run["run"]]
        assert y == (run["T_grok_0.95"] if run["T_grok_0.95"] == run["T_grok_0.95"] else run["step"])
        assert abs(x - math.log10(run[WD])) < 0.2  # beside its setting, nearer than half way to the next
    symbols = {"DNF_test": "triangle-up-open", "DNF_train": "triangle-down-open", "grokked": "circle"}
    for outcome, symbol in symbols.items():
        runs = table[table["outcome"] == outcome]["run"]
        assert {run for run, _, _ in points(figure, symbol)} == set(runs), outcome
    assert "1 diverged, 1 failed, 1 not begun" in notes(figure)
    assert {"DNF test, at its last step", "DNF train, at its last step"} <= set(names(figure))
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert ticks["0.3"] == pytest.approx(math.log10(0.3))


def test_the_fit_is_that_of_the_runs_and_counts_the_censored(table):
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
    assert max(line.x) == pytest.approx(math.log10(3))  # not on to where nothing memorized
    band = next(trace for trace in figure.data if trace.fill == "toself" and trace.legendgroup == line.legendgroup)
    np.testing.assert_allclose(band.y[:60], fit.at(10 ** np.array(line.x))["high"])


def test_medians_are_joined_where_half_got_there(table):
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    summary = summarize(table[table[F] == 0.6], [WD])
    line = next(
        trace for trace in figure.data
        if trace.mode == "lines" and trace.line.dash is None and trace.legendgroup == "train_fraction 0.6"
        and trace.fill is None
    )  # fmt: skip
    drawn = [math.nan if y is None else y for y in line.y]
    np.testing.assert_array_equal(np.array(drawn, dtype=float), summary["median"])
    assert np.isnan(summary["median"].iloc[0])


def test_a_weight_decay_of_0_stands_at_the_left_and_outside_the_fit():
    table = pd.concat([sweep(), sweep(decays=(0.0,)).assign(outcome="DNF_test", **{"T_grok_0.95": math.nan})])
    figure = figures.delay_against(table.assign(run=[f"r{i}" for i in range(len(table))]), WD, "T_grok_0.95")
    places = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert places["0"] < places["0.1"] == -1
    assert figure.layout.xaxis.range[0] < places["0"]
    assert "optimizer.weight_decay = 0 is not part of the fit" in notes(figure)
    assert {fit["n"] for fit in figure.layout.meta["fits"]} == {12}


def test_why_there_is_no_fit_is_said():
    table = sweep(decays=(0.1, 1.0), fractions=(0.4,))
    figure = figures.delay_against(table, WD, "T_grok_0.95")
    assert figure.layout.meta["fits"] == []
    assert "runs got there at 1 distinct x" in notes(figure)


def test_combinations_too_many_to_name_are_drawn_without_lines():
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 12).round(2)), seeds=2)
    figure = figures.delay_against(table, WD)
    assert "12 combinations of task.train_fraction" in notes(figure)
    assert len(points(figure)) == len(table)
    assert figure.layout.meta["fits"] == []
    assert not [trace for trace in figure.data if trace.mode == "lines"]


def test_outcomes_are_counted_with_both_kinds_of_dnf_apart(table):
    figure = figures.outcome_counts(table)
    bars = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data if trace.type == "bar"}
    assert set(bars) == {FATE_NAMES[fate] for fate in FATES} - {"no delay"}
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


def test_more_settings_than_can_be_read_are_cut_and_it_is_said():
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 20).round(3)), seeds=1)
    figure = figures.outcome_counts(table)
    assert f"the first {MAX_SETTINGS} of 100 settings" in notes(figure)
    assert {len(trace.y) for trace in figure.data} == {MAX_SETTINGS}


@pytest.mark.parametrize(("unit", "rows"), [("both", 2), ("L2", 1), ("RMS", 1)])
def test_norms_at_grok_are_shown_of_every_run_that_grokked(unit, rows, table):
    figure = figures.norm_at_grok(table, WD, unit)
    assert figure.layout.meta["panels"] == rows
    drawn = points(figure)
    grokked = table[table["outcome"] == "grokked"]
    assert len(drawn) == rows * len(grokked)
    expected = [grokked[f"weight_{name}_at_T_grok_0.95"] for name in ("norm", "rms")]
    expected = {"both": expected, "L2": expected[:1], "RMS": expected[1:]}[unit]
    assert sorted(y for _, _, y in drawn) == sorted(float(y) for values in expected for y in values)
    assert f"{len(table) - len(grokked)} of {len(table)} runs have no norm" in notes(figure)
    if unit == "L2":
        spread = expected[0].std(ddof=1) / expected[0].mean()
        assert f"std (ddof 1) {spread:.0%} of it" in notes(figure)


def test_where_nothing_grokked_every_figure_says_so():
    table = sweep(decays=(0.1, 10.0))
    drawn = draw_all(table)
    assert drawn["norm"].layout.meta["empty"]
    assert "no run grokked" in notes(drawn["norm"])
    assert set(cells(drawn["medians"]).values()) == {"DNF test", "DNF train"}
    assert len(points(drawn["T_grok"], "triangle-up-open")) == 6
    assert drawn["T_grok"].layout.meta["fits"] == []


def test_where_everything_grokked_nothing_is_censored():
    drawn = draw_all(sweep(decays=(0.3, 1.0, 3.0)))
    assert set(cells(drawn["diagram"]).values()) == {"grokked"}
    assert all("censored" not in name for name in names(drawn["T_grok"]))
    assert {fit["method"] for fit in drawn["T_grok"].layout.meta["fits"]} == {"least squares"}


def test_one_axis_and_one_seed(table):
    alone = sweep(fractions=(0.4,), seeds=1)
    figure = figures.delay_against(alone, WD)
    assert [fit["group"] for fit in figure.layout.meta["fits"]] == [""]
    assert any(name.startswith("exponent −") for name in names(figure))
    assert {t for trace in figures.outcome_counts(alone).data if trace.type == "bar" for t in trace.y} == {
        "0.1", "0.3", "1", "3", "10"
    }  # fmt: skip
    assert len(cells(figures.phase_diagram(alone, WD, F))) == 5


def test_one_setting_alone():
    table = pd.DataFrame([a_run(i, "grokked", 2000 + i) for i in range(3)])
    drawn = draw_all(table)
    assert "no fit" not in notes(drawn["T_grok"])
    assert [t.name for t in figures.outcome_counts(table).data if t.type == "bar"] == ["grokked"]


@pytest.mark.parametrize("axis", ["task.operation", "model.bias", "optimizer.clip", "label"])
def test_axes_of_words_booleans_and_none(axis):
    values = {"task.operation": ["x^3+xy", "add"], "model.bias": [True, False], "optimizer.clip": [None, 1.0]}
    values["label"] = [EVIL, "b"]
    rows = [a_run(i, "grokked", 1000 + 100 * i) for i in range(6)]
    table = pd.DataFrame([row | {axis: values[axis][i % 2], WD: (0.5, 1.0, 2.0)[i // 2]} for i, row in enumerate(rows)])
    table[axis] = table[axis].astype(object)
    drawn = draw_all(table, axis, WD)
    said = {x for x, _ in cells(drawn["diagram"])}
    assert said == {
        "task.operation": {"add", "x^3+xy"}, "model.bias": {"True", "False"}, "optimizer.clip": {"1", "none"},
        "label": {"b", "&lt;script&gt;alert(1)&lt;∕script&gt;"},
    }[axis]  # fmt: skip
    assert len(points(drawn["T_grok"])) == 6
    assert "<script" not in json.dumps([json.loads(figure.to_json()) for figure in drawn.values()]).replace(
        "\\u003c", "<"
    )


def test_runs_that_left_nothing_are_no_reason_to_stop():
    rows = [a_run(0, None, **{WD: 0.3}), a_run(1, None, status="missing", **{WD: 1.0})]
    drawn = draw_all(pd.DataFrame(rows))
    assert set(cells(drawn["diagram"]).values()) == {"failed", "not begun"}
    assert drawn["T_grok"].layout.meta["empty"]
    assert "no run has it" in notes(drawn["T_grok"])


def test_a_table_without_rows_is_drawn_as_such():
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
    ("x", "said"), [(950, "950"), (4225, "4,225"), (45_333, "45.3k"), (2.5e6, "2.5M"), (0.123456, "0.123")]
)
def test_numbers_in_cells_are_short(x, said):
    assert short(x) == said


@pytest.fixture(scope="module")
def written(table, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("sweep") / "new" / "report.html"
    path = gi.write_sweep_report(
        table, [WD, F, "model_seed"], f"Sweep {EVIL}", output, notes=["Every <b>50</b> steps."]
    )
    assert path == output
    return path


def test_the_report_is_well_formed_and_asks_for_nothing(written):
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


def test_the_report_says_what_was_swept_what_failed_and_what_came_of_it(written, table):
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


def test_sections_without_content_say_why(tmp_path):
    table = pd.DataFrame([a_run(i, "DNF_test") for i in range(2)]).drop(
        columns=["final.test_accuracy", "final.train_loss"]
    )
    text = Page(gi.write_sweep_report(table, ["model_seed"], "Seeds", tmp_path / "a.html")).text
    for said in (
        "No run failed", "No phase diagram", "No numeric axis was swept", "No run grokked",
        "No run has measures at its last checkpoint",
    ):  # fmt: skip
        assert said in text, said
    empty = Page(gi.write_sweep_report(sweep().iloc[:0], [WD], "Nothing", tmp_path / "b.html")).text
    assert "0 runs: none." in empty
    with pytest.raises(gi.ConfigError, match=f"did you mean '{WD}'"):
        gi.write_sweep_report(table, ["weight_decay"], "Typo", tmp_path / "c.html")


def test_a_large_sweep_is_folded_and_cut(tmp_path):
    table = sweep(fractions=tuple(np.linspace(0.2, 0.9, 20).round(3)), seeds=4)
    page = Page(gi.write_sweep_report(table, [WD, F, "model_seed"], "Large", tmp_path / "a.html"))
    assert len(table) == 400
    assert "The first 300 of 400 rows" in page.text
    assert "Every run, 400 rows" in page.text
    assert len(page.source) < 8e6


@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_draws_the_sweep_without_complaint(width, written, tmp_path):
    seen, console = browse(written, tmp_path, width)
    assert console == []
    assert seen["requests"] == []
    assert seen["scroll"] <= width
    assert seen["plots"] == seen["drawn"] == 1 + 2 + 6 + 2
    assert seen["widest"] <= width
    assert seen["clipped"] == []
