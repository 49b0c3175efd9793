"""gi.sample_run: run42 of the repository, thinned to what fits into the package."""

from pathlib import Path

import pandas as pd
import pytest

import grokinterp as gi

PACKAGED = Path(gi.__file__).parent / "runs" / "sample_run42"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[gi.Run, gi.Run]:
    return gi.sample_run(tmp_path_factory.mktemp("sample") / "run"), gi.Run.open("checkpoints/run42")


def test_it_is_small_and_intact(runs):
    assert sum(file.stat().st_size for file in PACKAGED.rglob("*")) < 4_000_000
    verification = gi.verify(runs[0].path)
    assert (verification.problems, verification.unchecked, verification.checkpoints) == ((), (), 12)


def test_it_has_the_checkpoints_and_the_metrics_of_run42(runs):
    thinned, whole = runs
    assert set(thinned.steps) < set(whole.steps)
    assert thinned.steps[-1] == whole.steps[-1]
    assert [thinned.checksum(step) for step in thinned.steps] == [whole.checksum(step) for step in thinned.steps]
    assert thinned.metrics.equals(whole.metrics)


def test_its_analysis_agrees_with_that_of_run42(runs, tmp_path):
    """At its checkpoints; what is located in the metrics agrees altogether."""
    thinned, whole = runs
    link = tmp_path / "run42"  # keeps the analysis out of the repository
    link.mkdir()
    for entry in whole.path.resolve().iterdir():
        if entry.name != "analysis":
            (link / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    measures = ["restricted_loss", "gini_embedding"]
    few = gi.analyze(thinned, measures=measures)
    steps = [step for step in thinned.steps if step in (0, 1000, 4240)]
    many = gi.analyze(link, measures=measures, steps=steps)
    assert few.reference.frequencies == many.reference.frequencies
    shared = [column for column in few.timeline if not column.endswith("_union") and column in many.timeline]
    assert len(shared) > 10
    pd.testing.assert_frame_equal(few.timeline.loc[steps, shared], many.timeline[shared], rtol=1e-9)
    assert few.transition.outcome == "grokked"
    assert few.transition.T_grok == many.transition.T_grok


def test_the_copy_is_made_once_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = gi.sample_run()
    assert run.path == tmp_path / "grokinterp" / gi.__version__ / "run42"
    before = (run.path / "status.json").stat().st_mtime_ns
    assert gi.sample_run().path == run.path
    assert (run.path / "status.json").stat().st_mtime_ns == before
    assert [entry.name for entry in run.path.parent.iterdir()] == ["run42"]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(gi.RunError, match="is another run: choose another folder"):
        gi.sample_run("checkpoints/run42")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(gi.RunError, match=r"cannot write .*notes"):
        gi.sample_run(tmp_path / "notes")
    assert [entry.name for entry in tmp_path.joinpath("notes").iterdir()] == ["a.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes"]
