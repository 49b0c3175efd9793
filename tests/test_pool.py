"""The pool: which runs are missing, in which order they are trained, and that a failure does not stop the others."""

import sys
from pathlib import Path
from types import MappingProxyType

import processes
import pytest
from trainings import TINY

from grokinterp.experiments import Arm, Form, Recipe, missing, pool, reproduction
from grokinterp.experiments.manir import network, transformer
from grokinterp.experiments.missing import estimated_hours, missing_runs
from grokinterp.experiments.pool import train_pool
from grokinterp.experiments.records.folder import Records
from grokinterp.runs import locks
from grokinterp.runs.run import Run

LONGER = TINY.replace({"schedule.steps": 100_000, "model_seed": 7})


def recipe(name, *arms, quick=()):
    return Recipe(name, "A toy", "Nobody 2026", Form(arms, "1 s"), Form(quick, "1 s"), decide=lambda _: ())


def steps_of(run):
    return {"steps": len(run.steps)}


@pytest.fixture
def shelf(monkeypatch):
    """Two recipes that share a run; the second extracts something from it."""
    recipes = (
        recipe("toy-a", Arm("long", LONGER, updates=10**9), Arm("seeds", TINY, {"model_seed": range(2)})),
        recipe("toy-b", Arm("same", TINY, {"model_seed": range(1)}, extract=steps_of)),
    )
    shelf = MappingProxyType({each.name: each for each in recipes})
    for module in (missing, reproduction):
        monkeypatch.setattr(module, "catalog", lambda: shelf)
    return shelf


def names(runs):
    return [(run.recipe.name, run.arm.name, run.name) for run in runs]


def test_the_cheapest_comes_first_and_a_shared_run_once(shelf, tmp_path):
    found = missing_runs(Records(tmp_path))
    assert names(found) == [
        ("toy-a", "seeds", "model_seed=0"),
        ("toy-a", "seeds", "model_seed=1"),
        ("toy-a", "long", "run"),
    ]


def test_it_trains_what_fits_writes_records_and_trains_nothing_twice(shelf, tmp_path):
    said = []
    hours = 1.0  # enough for 60 updates, too little for a billion
    assert train_pool(tmp_path / "runs", Records(tmp_path / "records"), 2, hours=hours, say=said.append) == (2, 0)
    files = sorted(path.relative_to(tmp_path / "records").as_posix() for path in (tmp_path / "records").glob("*/*"))
    assert files == ["toy-a/seeds,model_seed=0.json", "toy-a/seeds,model_seed=1.json"]
    records = Records(tmp_path / "records")
    assert records.find(TINY, "toy-b").extracted == {"toy-b": {"steps": 2}}
    assert sum("begins" in line for line in said) == 2
    assert names(missing_runs(records)) == [("toy-a", "long", "run")]
    assert train_pool(tmp_path / "runs", records, 2, hours=hours, say=said.append) == (0, 0)
    assert len(said) == 4


def test_a_run_that_fails_does_not_stop_the_others(shelf, tmp_path, monkeypatch):
    real = pool.record_of

    def fails_once(run, *rest):
        if run.config.model_seed == 0:
            raise OSError("no disk")
        return real(run, *rest)

    monkeypatch.setattr(pool, "record_of", fails_once)
    said = []
    assert train_pool(tmp_path / "runs", Records(tmp_path / "records"), 1, hours=1.0, say=said.append) == (1, 1)
    assert "toy-a/seeds/model_seed=0: OSError('no disk')" in said


STOPPABLE = TINY.replace({"schedule.steps": 4_000, "schedule.resume_every": 100})
COMMAND = """
import sys
from test_pool import STOPPABLE, recipe
from grokinterp.cli import main
from grokinterp.experiments import Arm, missing, reproduction

toy = recipe("toy", Arm("long", STOPPABLE, updates=1))
missing.catalog = reproduction.catalog = lambda: {"toy": toy}
sys.exit(main(["reproduce", "--missing", "--folder", sys.argv[1], "--records", sys.argv[2]]))
"""


def is_free(folder):
    try:
        with locks.hold(folder):
            return True
    except locks.FolderInUseError:
        return False


def test_it_ends_on_sigterm_with_its_worker_and_resumes_later(tmp_path):
    records = tmp_path / "records"
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "runs"), str(records)]
    folder = tmp_path / "runs" / "toy" / "runs" / "long" / "run"
    with processes.start(command, cwd=Path(__file__).parent) as process:
        processes.wait_until((folder / "resume.safetensors").exists, process)
        process.terminate()
        assert process.wait(processes.TIMEOUT) != 0
        processes.wait_until(lambda: is_free(folder))  # its worker has ended, too
    assert not records.exists()
    assert Run.open(folder).status["step"] < 4_000
    processes.run(command, cwd=Path(__file__).parent, check=True)
    (record,) = Records(records)
    assert (record.step, record.environment["resumed"]) == (4_000, 1)


def test_two_schedules_of_one_run_are_both_missing(monkeypatch, tmp_path):
    short, long = (recipe(f"toy-{steps}", Arm("a", TINY.replace({"schedule.steps": steps}))) for steps in (60, 90))
    monkeypatch.setattr(missing, "catalog", lambda: {each.name: each for each in (short, long)})
    assert [name for name, _, _ in names(missing_runs(Records(tmp_path)))] == ["toy-60", "toy-90"]


def test_estimates_follow_the_operations():
    base = estimated_hours(network(4, 512, lr=3e-2, decay=1e-3))
    assert estimated_hours(network(4, 512, lr=3e-2, decay=5e-4)) == pytest.approx(2 * base, rel=0.01)
    assert estimated_hours(network(4, 512, lr=3e-2, decay=1e-9)) == pytest.approx(
        400_000 / 28_200 * estimated_hours(network(4, 512, lr=3e-2, decay=1e-3)), rel=0.1
    )
    assert 0.3 < base < 3  # measured: 0.7 on two processors
    assert estimated_hours(transformer(1.0), updates=50_000) > 5 * base
