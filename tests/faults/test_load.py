"""Concurrent, killed and very large analyses and trainings, in real processes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from processes import TIMEOUT, wait_until
from processes import start as start_process

from benchmarks.load import kilobytes, make_run, processes
from grokinterp.analysis import evaluator as evaluator_module
from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.report import write_sweep_report
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep, plan
from grokinterp.sweep.listing import describe_runs
from grokinterp.training import train

ROOT = Path(__file__).parents[2]
RUN42 = ROOT / "checkpoints" / "run42"
STEPS = "0:2500:1"
TINY = RunConfig(
    task=TaskConfig(p=7, train_fraction=0.5),
    model=MLPConfig(width=8, depth=1),
    schedule=ScheduleConfig(steps=1500, evaluate_every=10, checkpoints=10, resume_every=200),
    loss_dtype="float32",
)


@pytest.fixture
def run(tmp_path) -> Run:
    shutil.copytree(RUN42, tmp_path / "run42", ignore=shutil.ignore_patterns("analysis"))
    return Run.open(tmp_path / "run42")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a Python script with one thread, and kills it at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start_script(script: str, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", script, *map(str, arguments)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            return stack.enter_context(start_process(command, env=environment, **pipes, **options))

        yield start_script


def analyzed(journal: Path) -> int:
    """The number of checkpoints in a journal."""
    lines = journal.read_bytes().split(b"\n") if journal.exists() else []
    return sum(bool(line) for line in lines[:-1])


def ended(pid: int) -> bool:
    """Whether a process has ended, even if nobody has collected its exit status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


ANALYZE = "import sys, grokinterp; grokinterp.analyze(sys.argv[1], steps=sys.argv[2], workers=int(sys.argv[3]))"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_analysis_is_continued(workers, run, start, monkeypatch):
    journal = run.path / "analysis" / "unfinished.jsonl"
    killed = start(ANALYZE, run.path, STEPS, workers)
    wait_until(lambda: analyzed(journal) >= 4, killed)
    children = [pid for pid in processes(killed.pid) if pid != killed.pid]
    assert len(children) == workers
    killed.send_signal(signal.SIGKILL)
    _, said = killed.communicate()  # its workers inherited its pipes: this returns when they have ended, too
    assert killed.returncode == -signal.SIGKILL
    assert said == ""
    assert all(map(ended, children))

    kept = {json.loads(line)["step"] for line in journal.read_bytes().split(b"\n")[:-1] if line}
    assert len(kept) >= 4
    evaluated: set[int] = set()
    evaluate = evaluator_module.evaluate

    def noted(job, snapshot):
        evaluated.add(snapshot.step)
        return evaluate(job, snapshot)

    monkeypatch.setattr(evaluator_module, "evaluate", noted)
    found = analyze(run, steps=STEPS, workers=0)
    assert kept.isdisjoint(evaluated)
    assert set(found.timeline.index) <= kept | evaluated
    evaluated.clear()
    assert_same(analyze(run, steps=STEPS, workers=0), found)
    assert evaluated == set()


def assert_same(one: Any, other: Any) -> None:
    # Processes round float32 logits differently, so that a loss of 1e-7 has few exact digits.
    how = {"check_like": True, "rtol": 1e-5, "atol": 1e-9}
    pd.testing.assert_frame_equal(one.timeline, other.timeline, **how)
    pd.testing.assert_frame_equal(one.frequencies, other.frequencies, **how)
    assert one.checksums == other.checksums


@pytest.mark.slow
def test_two_analyses_at_once_are_both_right(run, start, tmp_path):
    """The first analysis runs from before the start of the second until after its end."""
    (tmp_path / "gate.py").write_text(
        "import pathlib, time\n\n\ndef gate(snapshot):\n"
        f"    while not pathlib.Path({str(tmp_path / 'open')!r}).exists():\n        time.sleep(0.02)\n    return 0.0\n"
    )
    command = "import sys; from grokinterp.cli import main; sys.exit(main(sys.argv[1:]))"
    options = [run.path, "--steps", "0:1000:500", "--workers", "0", "--json", "--no-report"]
    first = start(command, "analyze", *options, "--measures", "gate:gate", cwd=tmp_path)
    wait_until((run.path / "analysis" / ".lock").exists, first)
    second = start(command, "analyze", *options, "--measures", "loss")
    answers = [second.communicate(timeout=TIMEOUT)]
    assert first.poll() is None
    (tmp_path / "open").touch()
    answers.insert(0, first.communicate(timeout=TIMEOUT))
    assert first.returncode == second.returncode == 0
    assert answers[0][1] == ""
    assert answers[1][1].count("\n") == 1
    assert f"was not cached: {run.path / 'analysis'} is in use by process {first.pid} on" in answers[1][1]
    one, other = (json.loads(out) for out, _ in answers)
    assert one["final"].pop("gate") == 0.0
    assert one["final"] == pytest.approx(other["final"], rel=1e-5, abs=1e-9, nan_ok=True)
    for result in (one, other):
        assert result["weights_sha256"] == analyze(run, steps=[0, 500, 1000], measures=[], workers=0).weights_sha256
    kept = json.loads((run.path / "analysis" / "analysis.json").read_text())
    assert "gate" in kept["measures"]


TRAIN = """
import sys
from grokinterp.config import RunConfig
from grokinterp.training import train
train(RunConfig.from_json(sys.argv[2]), sys.argv[1], resume=sys.argv[3] == "resume", progress=False)
"""


@pytest.mark.slow
def test_an_analysis_while_a_training_writes_is_killed_and_resumed(start, tmp_path):
    path = tmp_path / "run"
    seen: list[int] = []
    for life in ("new", "resume", "resume"):
        training = start(TRAIN, path, TINY.to_json(), life)
        wait_until(lambda: path.is_dir() and (path / "config.json").is_file() and bool(Run.open(path).steps), training)
        for _ in range(2):
            found = analyze(path, measures=["loss"], workers=0)
            assert set(found.timeline.index) == set(found.checksums)
            assert found.timeline["loss"].notna().all()
            assert not any("last analysis" in warning for warning in found.warnings)  # it resumes bit for bit
            seen.append(len(found.timeline))
        training.kill()
        training.communicate()
    train(TINY, path, resume=True, progress=False)
    assert seen[0] < 151  # the training was still running
    shutil.copytree(path, tmp_path / "copy", ignore=shutil.ignore_patterns("analysis"))
    found = analyze(path, measures=["loss"], workers=0)
    assert_same(found, analyze(tmp_path / "copy", measures=["loss"], workers=0))
    assert found.timeline.index[-1] == 1500
    assert found.transition == analyze(tmp_path / "copy", measures=["loss"], workers=0).transition


SWEEP = """
import sys
from grokinterp.config import RunConfig
from grokinterp.sweep import train_sweep
train_sweep(sys.argv[1], RunConfig.from_json(sys.argv[2]), grid={"model_seed": range(3)}, workers=1, device="cpu")
"""


@pytest.mark.slow
def test_a_sweep_and_its_readers(start, tmp_path):
    path = tmp_path / "sweep"
    training = start(SWEEP, path, TINY.to_json())
    wait_until(lambda: (path / "sweep.json").is_file(), training)
    states: list[list[str]] = []
    while training.poll() is None:
        sweep = Sweep.open(path)
        table = sweep.table
        assert set(table["status"]) <= {"missing", "running", "finished"}
        assert table["failure"].isna().all()
        states.append(table["status"].tolist())
        assert not any("problem" in row for row in [*describe_runs(path), *describe_runs(tmp_path)])
        write_sweep_report(table, sweep.axes, sweep.name, tmp_path / "report.html")
    _, said = training.communicate()
    assert training.returncode == 0, said
    assert len({tuple(state) for state in states}) > 1  # it was read while it was trained
    assert set(Sweep.open(path).table["status"]) == {"finished"}
    assert describe_runs(tmp_path) == [{"sweep": "sweep", "runs": 3, "finished": 3}]


@pytest.mark.parametrize("put_back", [True, False])
@pytest.mark.parametrize("look", [1, 2])
def test_a_run_that_is_replaced_while_it_is_read(look, put_back, tmp_path, monkeypatch):
    """A reader reads a run while another process replaces it, so that for a moment there is no run."""
    short = replace(TINY, schedule=ScheduleConfig(steps=20, evaluate_every=10, checkpoints=20, resume_every=20))
    sweep = plan(tmp_path / "sweep", short, grid={"model_seed": range(2)})
    sweep.write()
    for point in sweep.points:
        train(point.config(sweep.base), sweep.path / point.name, progress=False)
    there, away = sweep.path / sweep.points[1].name, sweep.path / ".away.old"
    status, sleep = Run.status, time.sleep
    assert status.fget is not None
    to_move: list[int] = []  # at which of the following reads of its status the run moves away

    def moving(run):
        if run.path == there and to_move:
            to_move.append(to_move.pop() - 1)
            if to_move == [0]:
                to_move.clear()
                there.replace(away)
        return status.fget(run)

    def waiting(seconds):
        if put_back and away.exists():
            away.replace(there)
        sleep(seconds)

    monkeypatch.setattr(Run, "status", property(moving))
    monkeypatch.setattr("grokinterp.runs.folders.time.sleep", waiting)
    to_move.append(look)
    table = sweep.table
    assert not to_move
    assert table["status"].tolist() == ["finished", "finished" if put_back else "missing"]
    assert table["failure"].isna().all()
    if put_back:
        to_move.append(1)
    assert sweep.statuses() == ({"finished": 2} if put_back else {"finished": 1, "missing": 1})
    if put_back:
        to_move.append(1)
    rows = describe_runs(sweep.path)
    assert not to_move
    assert [row["status"] for row in rows] == ["finished"] * len(rows)
    assert len(rows) == 1 + put_back


@pytest.mark.slow
def test_five_thousand_checkpoints_in_bounded_memory_and_killed_at_half(start, tmp_path, record_property):
    """Half an hour on two cores, and 5 GB of disk. GROKINTERP_LOAD_CHECKPOINTS makes it shorter."""
    count = int(os.environ.get("GROKINTERP_LOAD_CHECKPOINTS", "5000"))
    path = tmp_path / "run"
    make_run(path, count)
    journal = path / "analysis" / "unfinished.jsonl"
    script = (
        "import sys, grokinterp\nfrom grokinterp.analysis import evaluator\n"
        "store, steps = evaluator.Evaluator._store, set()\n"
        # Key frequencies that vanish cause a second evaluation of four measures per checkpoint, which does not count.
        "def counted(self, step, calls, *rest):\n"
        "    steps.update([step] if len(calls) > 10 else [])\n    return store(self, step, calls, *rest)\n"
        "evaluator.Evaluator._store = counted\nfound = grokinterp.analyze(sys.argv[1])\n"
        "print(len(steps), len(found.timeline), found.transition.outcome)"
    )
    peaks = {"Rss": 0, "Pss": 0}

    def watched(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
        while process.poll() is None and not until():
            family = processes(process.pid)
            for kind in peaks:
                peaks[kind] = max(peaks[kind], sum(kilobytes(pid, kind) for pid in family))
            time.sleep(0.2)

    first = start(script, path)
    watched(first, lambda: analyzed(journal) >= count // 2)
    first.kill()
    first.communicate()
    kept = analyzed(journal)
    second = start(script, path)
    watched(second, lambda: False)
    out, said = second.communicate()
    assert second.returncode == 0, said
    evaluated, steps, outcome = out.split()
    record_property("peaks, MB", {kind: size / 1024 for kind, size in peaks.items()})
    assert (int(steps), outcome) == (count, "grokked")
    assert kept >= count // 2
    assert int(evaluated) == count - kept
    assert peaks["Rss"] / 1024 < 1500
