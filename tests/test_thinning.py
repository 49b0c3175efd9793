"""Thinned curves look like the whole ones, and reports on very long runs stay small."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grokinterp.analysis.timeline import analyze
from grokinterp.figures import loss_curves, progress_measures
from grokinterp.figures.thinning import MOST_POINTS, moments_of, thinned_curve
from grokinterp.report import write_report
from grokinterp.runs.run import Run

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"
CHECKPOINTS = 5000


def curve(points: int = 20_000, stride: int = 10) -> pd.Series:
    """A noisy decay with single points that stand out."""
    noise = np.random.default_rng(0).normal(size=points)
    values = np.exp(-np.arange(points) / 3000) + 0.01 * noise
    values[[3, 777]] = [9.0, -5.0]
    values[points // 2] = 7.0
    return pd.Series(values, index=pd.Index(stride * np.arange(points), name="step"))


def test_a_short_curve_is_not_thinned():
    short = curve(MOST_POINTS)
    assert thinned_curve(short, [50]) is short


@pytest.mark.parametrize("limit", [MOST_POINTS, 400])
def test_a_long_curve_keeps_its_ends_and_all_points_that_stand_out(limit):
    original = curve()
    thin = thinned_curve(original, limit=limit)
    assert len(thin) <= limit
    assert thin.index.is_monotonic_increasing
    pd.testing.assert_series_equal(thin, original.loc[thin.index])
    assert {0, 30, 7770, 100_000, 199_990} <= set(thin.index)
    assert (thin.max(), thin.min()) == (original.max(), original.min())


@pytest.mark.parametrize("scale", [lambda step: step, lambda step: np.log10(np.maximum(step, 1))])
def test_on_either_step_axis_each_column_of_a_screen_looks_the_same(scale):
    """In 300 columns of pixels the extremes are those of the original curve, to half a percent of its height."""
    original = curve(points=100_000, stride=1)
    thin = thinned_curve(original)
    place = scale(original.index.to_numpy(dtype=float))
    column = pd.Series(np.floor(300 * (place - place[0]) / (place[-1] - place[0]) * 0.99999), index=original.index)
    for extreme in ("min", "max"):
        expected, actual = (
            c.groupby(column.loc[c.index]).agg(extreme).reindex(range(300)).rolling(3, 1, center=True).agg(extreme)
            for c in (original, thin)
        )
        assert (expected.isna() == actual.isna()).all()
        assert (expected - actual).abs().max() <= 0.005 * (original.max() - original.min())


def test_the_points_next_to_a_moment_are_kept():
    original = curve()
    around = {149_990, 150_000, 150_010, 150_020, 150_030}
    assert not around <= set(thinned_curve(original).index)
    assert around <= set(thinned_curve(original, [150_003]).index)


def test_nan_is_not_an_extreme():
    original = curve()
    original.iloc[100:9000] = np.nan
    assert {30, 100_000, 199_990} <= set(thinned_curve(original).index)


@pytest.fixture(scope="module")
def long_analysis(tmp_path_factory):
    """An analysis of 5,000 checkpoints with the numbers of one of four, noise on them, and metrics at each step."""
    folder = tmp_path_factory.mktemp("long") / "run42"
    shutil.copytree(RUN42, folder, ignore=shutil.ignore_patterns("analysis"))
    few = analyze(Run.open(folder), steps=[0, 500, 1500, 4240], workers=0)
    noise = np.random.default_rng(0)
    steps = np.linspace(0, 49_990, CHECKPOINTS).astype(int)

    def stretched(table: pd.DataFrame) -> pd.DataFrame:
        at = np.linspace(0, 3, CHECKPOINTS)
        columns = {
            name: np.interp(at, range(4), table[name].ffill().bfill()) * noise.uniform(0.9, 1.1, CHECKPOINTS)
            for name in table
        }
        return pd.DataFrame(columns, index=pd.Index(steps, name="step"))

    by_k = {k: stretched(few.frequencies.xs(k, level="k")) for k in range(1, 34)}
    frequencies = pd.concat(by_k, names=["k"]).reorder_levels(["step", "k"]).sort_index()
    frequencies["is_key"] = (frequencies["is_key"] > 0.5).astype(float)
    long = dataclasses.replace(few, timeline=stretched(few.timeline), frequencies=frequencies)
    metrics = pd.DataFrame(np.repeat(few.metrics.to_numpy(), 20, axis=0), columns=few.metrics.columns)
    long.__dict__["metrics"] = metrics.set_axis(pd.Index(np.arange(len(metrics)), name="step"))
    return long


def test_a_report_of_five_thousand_checkpoints_stays_small(long_analysis, tmp_path):
    page = write_report(long_analysis, tmp_path / "report.html")
    assert page.stat().st_size < 12e6  # plotly.js itself is 4.6 MB
    text = page.read_text()
    assert f"of {CHECKPOINTS:,} points of a curve, the smallest and largest of each stretch are drawn" in text.lower()
    assert f"300 of {CHECKPOINTS} checkpoints are drawn, evenly spaced" in text


def test_figures_note_that_they_are_thinned_and_keep_the_transition(long_analysis):
    for figure in (loss_curves(long_analysis), progress_measures(long_analysis)):
        assert any("the smallest and largest of each stretch are drawn" in note for note in figure.layout.meta["notes"])
        longest = max((trace for trace in figure.data if trace.customdata is not None), key=lambda t: len(t.customdata))
        assert 500 < len(longest.customdata) <= MOST_POINTS
        steps = long_analysis.metrics.index if figure.layout.title.text == "Loss" else long_analysis.timeline.index
        assert moments_of([long_analysis])
        for moment in moments_of([long_analysis]):
            assert min(abs(np.asarray(longest.customdata) - moment)) <= min(abs(np.asarray(steps) - moment))
