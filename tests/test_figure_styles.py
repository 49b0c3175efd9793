"""Curves can be told apart with and without color, and no figure offers to upload its data."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from analyses import record_dying_key
from plotly import io as pio

import grokinterp as gi
from grokinterp import figures
from grokinterp.figures import spectra, style
from grokinterp.figures.canvas import Canvas
from grokinterp.measures import KeyFrequencies, Reference

# Machado et al. 2009, severity 1, for linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
XYZ = np.array([[0.412456, 0.357576, 0.180438], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304]])


def lab(color: str, vision: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of a color as a reader sees it."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(vision @ linear, 0, 1) / [0.95047, 1, 1.08883]).clip(6 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(first: str, second: str, vision: np.ndarray = DEUTERANOPIA) -> float:
    """CIE 1976 color difference."""
    return float(np.linalg.norm(lab(first, vision) - lab(second, vision)))


@pytest.fixture(scope="module")
def analysis(tmp_path_factory) -> gi.Analysis:
    return gi.analyze(record_dying_key(tmp_path_factory.mktemp("runs") / "dying"))


def test_the_colors_of_progress_measures_differ_under_deuteranopia():
    colors = [style.QUANTITY_COLORS[name] for name in ("restricted", "excluded", "test", "train")]
    assert min(difference(a, b) for a, b in itertools.combinations(colors, 2)) > 30
    assert difference(colors[0], colors[1]) > 50
    # The reddish purple of Okabe and Ito, which excluded loss had.
    assert 85 < difference(style.GREEN, style.PURPLE, np.eye(3)) < 90
    assert 16 < difference(style.GREEN, style.PURPLE) < 20


@pytest.mark.parametrize("name", ["progress_measures", "overview", "nanda_figure_7", "accuracy_curves"])
def test_curves_differ_in_dash_or_marker_too(name, analysis):
    styles = {}
    for trace in getattr(figures, name)(analysis).data:
        if trace.line.color:
            styles.setdefault(trace.yaxis, {})[trace.name] = (trace.line.dash, trace.marker.symbol)
    assert styles
    for by_name in styles.values():
        assert len(set(by_name.values())) == len(by_name), by_name


def test_restricted_and_excluded_loss_differ_in_dash_and_marker(analysis):
    data = {trace.name: trace for trace in figures.overview(analysis).data}
    first, second = (
        next(trace for name, trace in data.items() if name.startswith(f"{kind} loss"))
        for kind in ("restricted", "excluded")
    )
    assert first.line.dash != second.line.dash
    assert first.marker.symbol != second.marker.symbol
    assert first.mode == second.mode == "lines+markers"


def test_many_keys_have_different_styles():
    styles = style.key_styles(tuple(range(1, 31)))
    assert len(set(styles.values())) == 30
    for first, second in itertools.combinations(list(styles.values())[:6], 2):
        assert difference(first.color, second.color) > 15
        assert first.symbol != second.symbol


def test_layers_have_different_dashes():
    styles = style.part_styles(["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"])
    assert styles["blocks.0.attn"].color == styles["blocks.1.attn"].color
    assert len(set(styles.values())) == 4


def test_no_figure_uploads_its_data(analysis):
    """plotly.js shows a button that does so, unless it is removed."""
    times = pd.DataFrame({"scale": [1.0, 2.0], "T_train": [10, 20], "T_test": [30, 40]})
    for figure in (figures.overview(analysis), figures.polynomial.fall_times(times, "scale")):
        assert "sendChartToCloud" in figure.layout.template.layout.modebar.remove


def test_exported_notebooks_show_figures(analysis, monkeypatch):
    """In Jupyter, plotly alone stores data that `nbconvert --to html` cannot draw."""
    before = pio.renderers.default
    try:
        pio.renderers.default = "plotly_mimetype"
        assert set(figures.gini(analysis)._repr_mimebundle_()) == {"application/vnd.plotly.v1+json"}
        style.show_in_exported_notebooks()
        bundle = figures.accuracy_curves(analysis)._repr_mimebundle_()
        assert set(bundle) == {"application/vnd.plotly.v1+json", "text/html"}
        assert "Plotly.newPlot" in bundle["text/html"]

        pio.renderers.default = "plotly_mimetype"
        monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
        style.show_in_exported_notebooks()
        assert pio.renderers.default == "plotly_mimetype"
    finally:
        pio.renderers.default = before


def test_swatches_of_phases_have_a_border(analysis):
    bands = [shape for shape in figures.overview(analysis).layout.shapes if shape.type == "rect" and shape.showlegend]
    assert bands
    assert all(band.line.width == 1 for band in bands)


def test_labels_of_bars_keep_their_size_in_narrow_windows(unchecked):
    canvas = Canvas("", [], y_titles=[""])
    power = pd.Series({1: 0.5, 2: 0.5})
    reference = Reference(KeyFrequencies((2,), "given", None, 0, ()))
    spectra._bars(canvas, SimpleNamespace(reference=reference), power, power)
    labeled = [plotted.trace for plotted in canvas.traces if plotted.trace.text]
    assert [(bars.constraintext, bars.textangle) for bars in labeled] == [("none", 0)]
