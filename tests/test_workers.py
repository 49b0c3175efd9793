"""Worker processes give the numbers of this process, and their failures cost nothing but time."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import processes
import pytest

import grokinterp.measures as gm
from grokinterp.analysis import workers as workers_module
from grokinterp.analysis.measure_calls import call_from, evaluate, key_frequencies_call, measure_call, union_call
from grokinterp.analysis.timeline import analyze
from grokinterp.analysis.workers import evaluate_in_workers, worker_count
from grokinterp.cli import main
from grokinterp.errors import ConfigError
from grokinterp.measures import registered
from grokinterp.runs.run import Run

RUN42 = Path(__file__).parent.parent / "checkpoints" / "run42"
SOME = "0:1000:500"


@pytest.fixture(autouse=True)
def own_register(monkeypatch):
    """Measures that a test registers are gone after it."""
    monkeypatch.setattr("grokinterp.measures.base._REGISTER", registered())


@pytest.fixture
def run(tmp_path) -> Run:
    shutil.copytree(RUN42, tmp_path / "run42", ignore=shutil.ignore_patterns("analysis"))
    return Run.open(tmp_path / "run42")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Any:
    """The analysis by this process."""
    folder = tmp_path_factory.mktemp("alone") / "run42"
    shutil.copytree(RUN42, folder, ignore=shutil.ignore_patterns("analysis"))
    return analyze(folder, steps=SOME, workers=0)


def assert_same(one: Any, other: Any) -> None:
    """To 1e-9: another number of threads rounds otherwise."""
    # float32 logits round otherwise too, so a loss of 1e-7 keeps fewer digits than its float64 arithmetic
    how = {"check_like": True, "rtol": 1e-5, "atol": 1e-9}
    pd.testing.assert_frame_equal(one.timeline, other.timeline, **how)
    pd.testing.assert_frame_equal(one.frequencies, other.frequencies, **how)
    assert one.reasons == other.reasons
    assert one.reference == other.reference


def test_workers_give_what_one_process_gives(run, alone):
    calls: list[tuple[int, int]] = []
    analysis = analyze(run, steps=SOME, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert_same(analysis, alone)
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.slow
def test_what_they_computed_is_cached(run, alone, monkeypatch):
    analyze(run, steps=SOME, workers=1)
    monkeypatch.setattr("grokinterp.runs.processes.subprocess.Popen", None)
    assert_same(analyze(run, steps=SOME, workers=1), alone)


def test_a_worker_that_dies_leaves_its_work_to_others(run, alone, monkeypatch, caplog):
    steps: list[int] = []
    evaluate_step = workers_module._Worker.evaluate

    def killed_at_the_second(worker, step, calls):
        steps.append(step)
        if len(steps) == 2:
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        return evaluate_step(worker, step, calls)

    monkeypatch.setattr(workers_module._Worker, "evaluate", killed_at_the_second)
    assert_same(analyze(run, steps=SOME, workers=1), alone)
    assert "a worker process ended unexpectedly" in caplog.text


def test_measures_that_only_this_process_knows_are_computed_here(run):
    def twice_the_loss(snapshot):
        return 2 * gm.loss(snapshot)

    analysis = analyze(run, steps=SOME, measures=[twice_the_loss], workers=1).timeline
    assert analysis["twice_the_loss"].tolist() == pytest.approx((2 * analysis["loss"]).tolist(), rel=1e-5)


@pytest.mark.slow
def test_a_module_of_ones_own_may_print_and_is_found_by_workers(run, tmp_path, monkeypatch):
    (tmp_path / "printing_measures.py").write_text(
        "import os\n\ndef worker(snapshot):\n    print('hello')\n    return float(os.getpid())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    analysis = analyze(run, steps="0", measures=["printing_measures:worker"], workers=1)
    assert analysis.timeline["worker"].item() != os.getpid()


def test_a_measure_that_fails_says_so_here(run):
    def wrong(snapshot):
        raise ConfigError("this cannot be measured")

    with pytest.raises(ConfigError, match="this cannot be measured"):
        analyze(run, steps=SOME, measures=[wrong], workers=1)


@pytest.mark.slow
def test_no_worker_outlives_an_analysis_that_is_given_up(run):
    calls = [measure_call("loss", ())]
    answers = evaluate_in_workers(run, dict.fromkeys(run.steps, calls), 1)
    next(answers)
    children = processes.run(
        ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert "grokinterp.analysis.workers" in children
    answers.close()
    children = processes.run(
        ["ps", "-ww", "--ppid", str(os.getpid()), "-o", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert "grokinterp.analysis.workers" not in children


def test_every_call_is_rebuilt_from_its_source(run):
    keys = (8, 14, 21)
    snapshot = run.snapshot(1000)
    own = [measure_call(name, keys) for name in ("loss", "excluded_loss", "circuit_efficiency")]
    for call in [*own, key_frequencies_call("cube_cosine"), union_call(own[1], keys)]:
        assert call.source is not None
        again = call_from(call.source, call.frequencies)
        assert again.measure.name == call.measure.name
        assert repr(evaluate(again, snapshot)) == repr(evaluate(call, snapshot))  # NaN equals NaN by its name


def test_every_measure_of_the_package_can_go_to_a_worker():
    assert all(measure_call(name, ()).source for name in registered())


@pytest.mark.slow
def test_a_script_without_a_main_guard_can_use_workers(run, tmp_path):
    script = tmp_path / "script.py"
    call = f"grokinterp.analyze({str(run.path)!r}, steps='0:500:500', workers=2)"
    script.write_text(f"import grokinterp\nprint({call}.timeline.shape)\n")
    outcome = processes.run([sys.executable, str(script)], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("(2, ")


@pytest.mark.parametrize(("cores", "checkpoints", "expected"), [(1, 10_000, 0), (2, 10_000, 2), (64, 10_000, 8)])
def test_as_many_as_there_are_cores_but_not_for_a_few_seconds(run, cores, checkpoints, expected, monkeypatch):
    monkeypatch.setattr(workers_module, "cores", lambda: cores)
    assert worker_count(run, checkpoints) == expected
    assert worker_count(run, 100) == 0


@pytest.mark.slow
def test_the_command_line_takes_their_number(run, capsys):
    assert main(["analyze", str(run.path), "--steps", "0:500:500", "--workers", "1", "--no-report"]) == 0
    assert main(["analyze", str(run.path), "--workers", "-1"]) == 2
    assert "workers must lie in 0 .. 1000, but is -1" in capsys.readouterr().err
