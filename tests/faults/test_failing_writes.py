"""Failing writes: each gives one clear error and an intact run, which resumes bit for bit."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch
from failing import FailingDisk, failing
from killing import outcome

from grokinterp.analysis.timeline import analyze
from grokinterp.config import MLPConfig, OptimizerConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.errors import RunError
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.tasks import Task
from grokinterp.training import train
from grokinterp.training.recorder import Recorder

CONFIG = RunConfig(
    task=TaskConfig(p=5, train_fraction=0.5),
    model=MLPConfig(width=4, depth=1),
    optimizer=OptimizerConfig(lr=3e-3, batch_size=5),
    schedule=ScheduleConfig(steps=12, evaluate_every=3, checkpoints=4, resume_every=6),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    return train(CONFIG, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def operations(tmp_path_factory) -> list[tuple[str, str]]:
    """The operations of a training on its folder, in order."""
    folder = tmp_path_factory.mktemp("operations") / "run"
    with failing(FailingDisk(folder)) as disk:
        train(CONFIG, folder)
    return disk.log


def sites(operations: list[tuple[str, str]]) -> list[int]:
    """A middle operation of each kind on each kind of file."""
    found: dict[tuple[str, str], list[int]] = {}
    for n, (operation, name) in enumerate(operations):
        kind = "weights" if name.removeprefix(".").startswith("step_") else name
        found.setdefault((operation, kind), []).append(n)
    return sorted(numbers[len(numbers) // 2] for numbers in found.values())


def need_not_work(folder: Path) -> set[tuple[str, str]]:
    """Operations whose failure does no harm: naming the lock's holder, and creating a folder that exists."""
    return {(does, ".lock") for does in ("write", "unlink")} | {("mkdir", name) for name in (folder.name, "weights")}


def fail_and_resume(folder: Path, fail_at: int, forever: bool, undisturbed: Run) -> None:
    """Trains on a failing disk, checks the folder, and resumes on a working disk."""
    with failing(FailingDisk(folder, fail_at, forever)) as disk:
        try:
            train(CONFIG, folder)
            said = None
        except RunError as error:
            said = str(error)
    assert disk.hit
    if said is None:
        assert disk.log[fail_at] in need_not_work(folder)
    else:
        assert "\n" not in said
        assert str(folder) in said
    begun = (folder / "config.json").exists()
    if begun:
        assert Run.open(folder).config == CONFIG
        assert verify(folder).problems == ()
    train(CONFIG, folder, resume=begun)
    assert outcome(folder) == outcome(undisturbed.path)
    assert verify(folder).problems == ()
    assert {file.name for file in folder.rglob(".*")} <= {".lock"}  # which stays if its removal failed


def test_a_training_has_operations_of_every_kind(operations):
    kinds = {operation for operation, _ in operations}
    assert kinds == {"open", "write", "fsync", "replace", "mkdir", "unlink"}
    assert len(sites(operations)) >= 20


def test_each_kind_of_write_fails_once(operations, tmp_path, undisturbed):
    for n in sites(operations):
        fail_and_resume(tmp_path / str(n), n, False, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_every_write_fails(forever, operations, tmp_path, undisturbed):
    for n in range(len(operations)):
        fail_and_resume(tmp_path / str(n), n, forever, undisturbed)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_resuming_fails_too(forever, operations, tmp_path, undisturbed):
    """Resuming fails as well, at any operation."""
    half = max(n for n, (_, name) in enumerate(operations) if name.startswith(".step_000008"))
    for n in range(0, 60, 10):
        folder = tmp_path / str(n)
        with failing(FailingDisk(folder, half)), pytest.raises(RunError):
            train(CONFIG, folder)
        with failing(FailingDisk(folder, n, forever)) as disk:
            try:
                train(CONFIG, folder, resume=True)
            except RunError:
                assert disk.hit
        assert verify(folder).problems == ()
        train(CONFIG, folder, resume=True)
        assert outcome(folder) == outcome(undisturbed.path)


class TestRecorder:
    def test_a_step_that_could_not_be_written_can_be_recorded_again(self, tmp_path):
        logits, weights = torch.randn(25, 5), {"embed.W_E": torch.randn(5, 4)}
        for n in range(40):
            folder = tmp_path / str(n)
            recorder = Recorder(folder, Task.modular_addition(5, 0.5))
            recorder.record(0, logits, weights=weights)
            with failing(FailingDisk(folder, n)) as disk:
                try:
                    recorder.record(10, logits, weights=weights)
                    failed = False
                except RunError:
                    failed = True
            if not disk.hit:
                break
            assert failed or disk.log[n] in {("mkdir", "weights"), ("mkdir", "logits")}
            assert verify(folder).problems == ()
            assert Run.open(folder).steps in ([0], [0, 10])
            recorder.record(10 if Run.open(folder).steps == [0] else 20, logits, weights=weights)
            recorder.close()
            assert verify(folder).problems == ()
        assert n >= 12


class TestAnalysis:
    def test_an_analysis_that_cannot_be_saved_is_computed_again(self, tmp_path, undisturbed, caplog):
        expected = analyze(undisturbed, workers=0).timeline
        for n in (0, 7, 14, 21):
            folder = tmp_path / str(n)
            train(CONFIG, folder)
            with failing(FailingDisk(folder, n, forever=True)):
                found = analyze(folder, workers=0)
            assert found.timeline.equals(expected)
            assert analyze(folder, workers=0).timeline.equals(expected)
            assert verify(folder).problems == ()


FULL = """
import sys
from grokinterp.cli import main
sys.exit(main(["train", sys.argv[1], "--config", sys.argv[2]]))
"""


class TestRealDisks:
    """No fault is injected: the system itself refuses to write."""

    def start(self, folder: Path, config: Path, before=None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", FULL, str(folder), str(config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return processes.run(command, capture_output=True, text=True, env=environment, preexec_fn=before)

    @pytest.mark.slow
    def test_a_limit_on_file_sizes(self, tmp_path):
        """metrics.jsonl reaches a limit on file sizes in the middle of a line."""
        config = replace(CONFIG, schedule=replace(CONFIG.schedule, steps=60, evaluate_every=1))
        (tmp_path / "config.json").write_text(config.to_json())
        undisturbed = train(config, tmp_path / "undisturbed")
        most = (undisturbed.path / "metrics.jsonl").stat().st_size - 100
        assert most > 2 * max(file.stat().st_size for file in undisturbed.path.glob("*.safetensors"))

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        ended = self.start(tmp_path / "run", tmp_path / "config.json", limit)
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "File too large" in ended.stderr
        assert verify(tmp_path / "run").problems == ()
        train(config, tmp_path / "run", resume=True)
        assert outcome(tmp_path / "run") == outcome(undisturbed.path)

    @pytest.mark.slow
    def test_a_full_disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = processes.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.decode().strip()}")
        config = replace(CONFIG, schedule=replace(CONFIG.schedule, steps=400, checkpoints=10))
        try:
            (tmp_path / "config.json").write_text(config.to_json())
            ended = self.start(disk / "run", tmp_path / "config.json")
            assert ended.returncode == 2, ended.stderr
            assert ended.stderr.count("\n") == 1
            assert "No space left on device" in ended.stderr
            assert verify(disk / "run").problems == ()
            processes.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
            train(config, disk / "run", resume=True)
            alone = train(config, tmp_path / "alone")
            assert outcome(disk / "run") == outcome(alone.path)
            assert verify(disk / "run").problems == ()
        finally:
            processes.run(["umount", str(disk)], check=True)
