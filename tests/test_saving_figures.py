"""Saved figures are publication figures: without controls, of a chosen size, and with a text alternative."""

import re
import shutil
import struct
import sys

import pytest
from analyses import record_dying_key
from plotly.graph_objects import Figure

import grokinterp as gi
from grokinterp import figures
from grokinterp.cli import main
from grokinterp.figures import saving
from grokinterp.figures.wording import describe

HAS_BROWSER = any(map(shutil.which, ("chromium", "google-chrome", "chromium-browser")))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> gi.Run:
    return record_dying_key(tmp_path_factory.mktemp("runs") / "dying")


@pytest.fixture(scope="module")
def figure(run) -> Figure:
    return figures.progress_measures(run)


@pytest.fixture
def images(monkeypatch) -> list:
    """Replaces the browser: what would be drawn, with sizes, formats and scales."""
    drawn = []

    def draw(stills, sizes, kind, scale):
        drawn.extend((still, size, kind, scale) for still, size in zip(stills, sizes, strict=True))
        return [b"<svg class='main-svg'></svg>"] * len(stills)

    monkeypatch.setattr(saving, "_images", draw)
    return drawn


def test_controls_and_hidden_curves_are_removed(figure):
    assert figure.layout.updatemenus
    assert {trace.visible for trace in figure.data} == {True, "legendonly"}
    still = saving.publication(figure)
    assert not still.layout.updatemenus
    assert {trace.visible for trace in still.data} == {True}
    assert [trace.name for trace in still.data] == [trace.name for trace in figure.data if trace.visible is True]
    assert still.layout.margin.t == figure.layout.margin.t - 36
    assert figure.layout.updatemenus  # the figure itself is unchanged


def test_size_font_and_background(figure, images, tmp_path):
    gi.save_figure(
        figure, tmp_path / "a.pdf", width=6.5, height=4, font_size=9.75, font="Arial", background="transparent"
    )
    still, size, kind, scale = images[0]
    assert (size, kind, scale) == ((624, 384), "pdf", 1)
    assert still.layout.font.family == "Arial"
    assert still.layout.paper_bgcolor == still.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"
    gi.save_figure(figure, tmp_path / "b.png", width=3.25, font_size=6.5, dpi=192)
    still, (width, height), kind, scale = images[1]
    assert (width, kind) == (468, "png")
    assert width * scale == pytest.approx(3.25 * 192)
    assert height == saving.natural_height(still, 468)
    assert still.layout.paper_bgcolor == "#FFFFFF"


def test_a_narrow_legend_makes_a_figure_higher(figure):
    assert saving.natural_height(figure, 300) > saving.natural_height(figure, 900)


def test_svg_files_have_a_text_alternative(figure, images, tmp_path):
    gi.save_figure(figure, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert re.match(r"<svg [^>]*role=.img.[^>]*><title>Progress measures</title><desc>Progress measures\. ", text)


def test_html_files_are_complete_and_offline(figure, tmp_path):
    """Without kaleido and Chrome."""
    text = gi.save_figure(figure, tmp_path / "new" / "figure.html").read_text()
    assert "linear steps" not in text
    assert '"displayModeBar": false' in text
    assert 'role="img" aria-label="Progress measures. ' in text
    assert "plotly.js v" in text
    assert not re.search(r"<script[^>]*src=", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "a.jpg"}, "unknown format 'jpg' of a figure"),
        ({"path": "a"}, "unknown format '' of a figure"),
        ({"path": "a.svg", "width": 0}, "width must be positive, but is 0"),
        ({"path": "a.svg", "font_size": float("nan")}, "font_size must be positive, but is nan"),
        ({"path": "a.svg", "background": "black"}, "unknown background 'black'"),
    ],
)
def test_bad_options(options, message, figure, tmp_path, unchecked, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(gi.ConfigError, match=message):
        gi.save_figure(figure, **options)
    assert not list(tmp_path.iterdir())


def test_without_kaleido_the_error_names_the_extra(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(gi.ConfigError, match=r"^PNG files need kaleido and Chrome.* pip install .grokinterp\[images\]"):
        gi.save_figure(figure, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_figures_of_others_are_saved_too(images, tmp_path):
    gi.save_figure(Figure({"data": [{"y": [1, 2]}], "layout": {"height": 300}}), tmp_path / "a.svg")
    assert images[0][1][1] == 300


@pytest.mark.skipif(not HAS_BROWSER, reason="neither chromium nor google-chrome is installed")
def test_a_browser_draws_images(figure):
    pytest.importorskip("kaleido")
    png = saving.rendered([figure], "png", width=4, height=3, dpi=100)[0]
    assert struct.unpack(">II", png[16:24]) == (400, 300)


def test_the_text_alternative_has_axes_curves_events_and_notes(run):
    text = describe(figures.progress_measures(run))
    assert text.startswith(
        "Progress measures. cross entropy (nats) against step: restricted, all keys since T_grok from "
    )
    assert "Marked: uniform guess, ln 13, " in text
    assert "T_grok 200 / 200" in text
    assert "Key frequencies that died after T_grok: 2." in text
    assert "cross-fit" not in text  # hidden at first
    assert "<" not in text
    for name in figures.OF_RUNS:
        assert describe(getattr(figures, name)(run))


class TestCommand:
    def test_all_figures_with_data(self, run, images, tmp_path, capsys):
        assert main(["figures", str(run.path), "--output", str(tmp_path / "out")]) == 0
        written = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert "overview.svg" in written
        assert "weight_norms.svg" not in written  # nothing was recorded but logits
        assert sorted(capsys.readouterr().out.split()) == [str(tmp_path / "out" / name) for name in written]

    def test_named_figures_go_into_the_run(self, run, images, capsys):
        assert main(["figures", str(run.path), "gini", "accuracy_curves", "--format", "pdf", "--width", "3"]) == 0
        folder = run.path / "analysis" / "figures"
        assert {path.name for path in folder.iterdir()} == {"gini.pdf", "accuracy_curves.pdf"}

    def test_an_unknown_name_lists_the_nearest(self, tmp_path, capsys):
        assert main(["figures", "no-run", "progres_measures"]) == 2
        message = capsys.readouterr().err
        assert "no figure 'progres_measures' of a run: " in message
        assert "progress_measures" in message

    def test_nothing_is_written_unless_everything_is_drawn(self, run, monkeypatch, tmp_path, capsys):
        def fail(*_):
            raise gi.ConfigError("cannot draw PNG files")

        monkeypatch.setattr(saving, "_images", fail)
        assert main(["figures", str(run.path), "overview", "--format", "png", "--output", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        assert capsys.readouterr().err == "grokinterp: cannot draw PNG files\n"

    def test_a_file_in_place_of_the_folder(self, run, tmp_path, capsys):
        (tmp_path / "out").touch()
        assert main(["figures", str(run.path), "overview", "--output", str(tmp_path / "out")]) == 2
        assert "is not a folder" in capsys.readouterr().err
