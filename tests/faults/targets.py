"""The readers of the package, each as a function of the folder to read."""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grokinterp.analysis.timeline import analyze
from grokinterp.cli import main
from grokinterp.config import ScheduleConfig
from grokinterp.errors import GrokinterpError
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.results import results_in
from grokinterp.formats.importing import import_run
from grokinterp.report import write_report, write_sweep_report
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.sweep import Sweep, running, train_sweep
from grokinterp.sweep.executors import Event
from grokinterp.sweep.jobs import Job, run_job
from grokinterp.tasks import Task
from grokinterp.training import train, train_many
from grokinterp.training.recorder import Recorder

DATA = Path(__file__).parents[1] / "data"
SECONDS = 3.0  # after which a training is interrupted, as if by Ctrl-C


class CommandFailed(Exception):
    """A command ended in an unexpected way."""


class Refused(GrokinterpError):
    """A command ended with exit status 2 and one line."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: called with a folder.
        fixtures: intact folders in tests/data that it can read.
        files: patterns of the files that it reads in them.
        share: how often it is tried, relative to other readers.
        reads_whole: False if it refuses even intact fixtures.
    """

    read: Callable[[Path], object]
    fixtures: tuple[str, ...]
    files: tuple[str, ...]
    share: float = 1.0
    reads_whole: bool = True

    def files_of(self, folder: Path) -> list[str]:
        """The files in a folder that it reads."""
        found = {path.relative_to(folder).as_posix() for pattern in self.files for path in folder.glob(pattern)}
        return sorted(found)


def command(*arguments: str | Path) -> None:
    """Runs a command of the command line; the caller checks its output."""
    code = main([str(argument) for argument in arguments])
    if sys.stdout is not None and code != 2:  # main has flushed what it printed; it cannot if that failed
        sys.stdout.flush()
    if code == 2:
        raise Refused("a command said so")
    if code not in (0, 1, 130):
        raise CommandFailed(f"exit code {code}")


@contextlib.contextmanager
def interrupted() -> Iterator[None]:
    """Simulates Ctrl-C after some seconds, repeatedly, because a mutated schedule may be long."""

    def press(number: int, frame: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGVTALRM, press)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class Here:
    """An executor that runs every job in this process."""

    def __init__(self, workers: int = 1):
        self.workers = workers

    def execute(self, jobs: Sequence[Job]) -> Generator[Event]:
        for job in jobs:
            yield from run_job(job)


def read_run(folder: Path) -> None:
    run = Run.open(folder)
    seen = [run.config.to_json(), run.status, run.environment, run.metrics, run.steps, run.task, repr(run)]
    assert len(seen) == 7


def read_weights(folder: Path) -> None:
    run = Run.open(folder)
    for step in run.steps[:5]:
        run.checksum(step)
        if run.config.model.kind != "recorded":
            run.weights(step)
            run.model(step)
        if run.config.task.operation != "teacher_student":
            run.snapshot(step)


def analyze_run(folder: Path) -> None:
    analyze(folder, workers=0)


def analyze_command(folder: Path) -> None:
    command("analyze", folder, "--json", "--no-report", "--workers", "0", "--csv")


def report_run(folder: Path) -> None:
    write_report(analyze(folder, workers=0, measures=[]))


def report_command(folder: Path) -> None:
    command("report", folder)


def resume(folder: Path) -> None:
    with interrupted():
        train(Run.open(folder).config, folder, resume=True, device="cpu", progress=False)


def resume_command(folder: Path) -> None:
    with interrupted():
        command("train", folder, "--resume", "--device", "cpu")


def start_from(folder: Path) -> None:
    stored = Run.open(DATA / "recipes" / "norms")  # of another shape
    own = DATA / "trainer" / "transformer"
    for config in (Run.open(own).config, stored.config):
        schedule = ScheduleConfig(steps=2, evaluate_every=2, checkpoints=2)
        with contextlib.suppress(GrokinterpError):
            train(
                replace(config, schedule=schedule), folder.parents[1] / "out" / config.model.normalization,
                start_from=f"{folder}@30", device="cpu", progress=False,
            )  # fmt: skip
    with interrupted():
        command("train", folder.parents[1] / "out" / "new", "--config", own / "config.json", "--from", f"{folder}@15")


def record(folder: Path) -> None:
    task = Task.modular_addition(p=5, train_fraction=0.5)
    with Recorder(folder, task) as recorder:
        recorder.record(0, lambda tokens: task.labels[:, None].double().expand(-1, 5))


def list_folder(folder: Path) -> None:
    command("list", folder.parent)
    command("list", folder.parent, "--json")


def config_command(folder: Path) -> None:
    with interrupted():
        command("train", folder.parents[1] / "out" / "new", "--config", folder / "config.json", "--dry-run")


def config_trained(folder: Path) -> None:
    with interrupted():
        command("train", folder.parents[1] / "out" / "new", "--config", folder / "config.json", "--device", "cpu")


def points_command(folder: Path) -> None:
    command("sweep", folder.parents[1] / "out" / "sweep", "--points", folder / "points.json", "--print-commands")


def read_sweep(folder: Path) -> None:
    found = Sweep.open(folder)
    seen = [found.axes, found.failures, found.table, found.name]
    assert len(seen) == 4
    found.collect()
    assert len(found.runs) <= len(found.points)


def go_on_with_sweep(folder: Path) -> None:
    with interrupted():
        train_sweep(folder, executor=Here(), device="cpu")


def sweep_commands(folder: Path) -> None:
    command("sweep", folder, "--print-commands")
    with interrupted():
        command("sweep", folder, "--dry-run")
        command("sweep", folder, "--only", "weight_decay=0,n_heads=2", "--device", "cpu")


def sweep_command(folder: Path) -> None:
    running.LocalExecutor = Here  # pyright: ignore[reportAttributeAccessIssue]
    with interrupted():
        command("sweep", folder, "--device", "cpu", "--no-report")


def report_sweep(folder: Path) -> None:
    found = Sweep.open(folder)
    write_sweep_report(found.collect(), found.axes, found.name, folder / "report.html")


def report_sweep_command(folder: Path) -> None:
    command("report", folder)


def read_results(folder: Path) -> None:
    results_in(folder)
    command("reproduce", "--document", folder.parents[1] / "out" / "page.md", "--folder", folder.parent)


def read_records(folder: Path) -> None:
    for record in Records(folder):
        Records(folder).find(record.config)
    command("reproduce", "--document", folder.parents[1] / "out" / "page.md", "--folder", folder, "--records", folder)


def import_files(folder: Path) -> None:
    files = sorted(folder.glob("*.pth"))
    source = files[0] if len(files) == 1 else folder  # some forms are one file
    target = folder.parents[1] / "out" / "imported"
    try:
        run = import_run(source, target)
    except GrokinterpError:
        assert not target.exists()
        raise
    analyze(run, workers=0, measures=[])
    command("import", source, target.with_name("again"))


def resume_together(folder: Path) -> None:
    with interrupted():
        train_many([Run.open(folder).config], [folder], resume=True, device="cpu", progress=False)


def train_sweep_together(folder: Path) -> None:
    with interrupted():
        train_sweep(folder, executor=Here(), device="cpu", ensembles="always")


def report_both(folder: Path) -> None:
    other = folder.parents[1] / "out" / "other"
    shutil.copytree(DATA / "trust" / "analyzed", other)
    command("report", folder, other, "--output", folder.parents[1] / "out" / "report.html")


def demo_command(folder: Path) -> None:
    command("demo", "--run", folder)


def verify_run(folder: Path) -> None:
    verify(folder)


def verify_command(folder: Path) -> None:
    command("verify", folder)


RUNS = (
    *("trainer/transformer", "trainer/mlp", "trainer/recorded", "performance/analyzed", "recipes/norms"),
    *("recipes/regression", "sweeps/parity", "sweeps/recorded", "recipes/intervened"),
    *("trust/analyzed", "trust/unfinished", "trust/recorded"),
    *("checksums/analyzed", "checksums/started", "checksums/recorded"),
)
TRAINED = (*(name for name in RUNS if "recorded" not in name), "interventions/intervened")
CLASSIFIED = (
    *("trainer/transformer", "trainer/mlp", "trainer/recorded", "performance/analyzed", "recipes/analyzed"),
    *("trust/analyzed", "trust/unfinished", "trust/unfinished"),
    *("checksums/analyzed", "checksums/analyzed", "checksums/unfinished", "checksums/unfinished", "checksums/recorded"),
)
STOPPED = (
    *("trainer/stopped", "trainer/killed", "trust/killed", "performance/stopped", "checksums/killed"),
    "interventions/intervened",
)
ABOUT = (
    *("config.json", "status.json", "environment.json", "metrics.jsonl", "split.safetensors", "start.safetensors"),
)
KEPT = ("weights/*.safetensors", "logits/*.safetensors")
CACHE = ("analysis/*.parquet", "analysis/analysis.json", "analysis/unfinished.jsonl")
OF_RUNS = ("*/config.json", "*/status.json", "*/metrics.jsonl", "*/analysis/*", "*/resume.safetensors")
SWEEPS = ("sweeps/sweep", "recipes/sweep", "checksums/sweep", "checksums/sweep")
IMPORTS = tuple(
    f"../faults/imports/{name}" for name in ("he", "chughtai", "pizza", "demo", "nanda", "nanda_run", "states")
)
RESULTS = ("sweeps/reproduction", "recipes/reproduction", "checksums/reproduction")

TARGETS: dict[str, Target] = {
    "run": Target(read_run, RUNS, ABOUT, 3),
    "weights": Target(read_weights, RUNS, (*KEPT, "split.safetensors"), 3),
    "analyze": Target(analyze_run, CLASSIFIED, (*KEPT, *CACHE, *CACHE, *ABOUT), 3),
    "analyze command": Target(analyze_command, CLASSIFIED, (*CACHE, *ABOUT), 1.5),
    "report": Target(report_run, CLASSIFIED, (*CACHE, *ABOUT, *KEPT), 0.7),
    "report command": Target(report_command, CLASSIFIED, (*CACHE, *ABOUT), 0.5),
    "resume": Target(resume, STOPPED, ("resume.safetensors", "resume.safetensors", *ABOUT, *KEPT), 4),
    "resume command": Target(resume_command, STOPPED, ("resume.safetensors", *ABOUT), 1),
    "--from": Target(start_from, ("trainer/transformer",), (*KEPT, *ABOUT), 1.5),
    "verify": Target(verify_run, RUNS, (*ABOUT, *KEPT, *CACHE, "resume.safetensors"), 2),
    "verify command": Target(verify_command, STOPPED, (*ABOUT, *KEPT, "resume.safetensors"), 1),
    "recorder": Target(record, ("sweeps/recorded", "trainer/transformer"), ABOUT, 1, False),
    "list": Target(list_folder, RUNS, ABOUT, 1.5),
    "--config": Target(config_command, TRAINED, ("config.json",), 2.5),
    "config trained": Target(config_trained, TRAINED, ("config.json",), 2),
    "--points": Target(points_command, ("../faults/points",), ("points.json",), 1),
    "sweep": Target(read_sweep, SWEEPS, ("sweep.json", "sweep.json", "failures/*", *OF_RUNS), 2.5),
    "sweep gone on with": Target(go_on_with_sweep, SWEEPS, ("sweep.json", "failures/*", *OF_RUNS), 1.5),
    "sweep commands": Target(sweep_commands, SWEEPS, ("sweep.json", "failures/*", *OF_RUNS), 0.7),
    "sweep command": Target(sweep_command, SWEEPS, ("sweep.json", "failures/*", "failures/*", *OF_RUNS), 1),
    "sweep report": Target(report_sweep, SWEEPS, ("sweep.json", "failures/*", *OF_RUNS), 0.7),
    "sweep report command": Target(report_sweep_command, SWEEPS, ("sweep.json", *OF_RUNS), 0.4),
    "resume together": Target(resume_together, STOPPED[:-1], ("resume.safetensors", *ABOUT), 1),
    "sweep together": Target(train_sweep_together, SWEEPS, ("sweep.json", *OF_RUNS), 0.7),
    "reports command": Target(report_both, CLASSIFIED, (*CACHE, *ABOUT), 0.5),
    "demo command": Target(demo_command, TRAINED, ABOUT, 0.5, False),
    "verify sweep": Target(verify_command, SWEEPS, ("sweep.*", "failures/*", *OF_RUNS), 1),
    "results": Target(read_results, RESULTS, ("results.json",), 2),
    "import": Target(import_files, IMPORTS, ("**/*.pt*", "**/*.json"), 3),
    "records": Target(read_records, ("records/kept",), ("*/*.json",), 2),
}  # fmt: skip
