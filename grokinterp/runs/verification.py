"""verify: checks a run folder for damage; each problem is one line that names the file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokinterp.config import RecordedConfig, ScheduleConfig
from grokinterp.config.schedule import schedule_terms, scheduled_steps
from grokinterp.errors import GrokinterpError, RunError
from grokinterp.runs.checkpoints import FOLDERS, Folder, checkpoint_steps, file_name
from grokinterp.runs.checksums import read_checked_json, require_intact, sha256
from grokinterp.runs.files import exists, file_checksum
from grokinterp.runs.folders import as_path
from grokinterp.runs.metrics import METRICS, MetricLine, metric_lines, require_metrics_size
from grokinterp.runs.resume_point import RESUME, read_resume_point, require_state
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import SPLIT, START

_SHOWN = 3  # steps or names in a line
_ENDED = (RunStatus.FINISHED, RunStatus.STOPPED, RunStatus.DIVERGED)
_STATUSES = (RunStatus.RUNNING, *_ENDED)


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        problems: one line each; empty if the run is intact.
        checkpoints: number of checkpoint files read.
        evaluations: number of lines of metrics.
        unchecked: files that have no checksum, because an earlier version wrote them.
    """

    problems: tuple[str, ...]
    checkpoints: int
    evaluations: int
    unchecked: tuple[str, ...] = ()


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Reads every file of a run and compares it with the run's configuration, status and checksums. Writes nothing.

    >>> verify("checkpoints/run42").problems
    ()

    Files of earlier versions have no checksum; they are listed as `unchecked` and get all other checks. A run that was
    killed is intact: resuming it drops what a crash leaves behind (a truncated line, files later than
    the resume point). A run that is being trained is intact, too.

    Args:
        path: the run folder.
        progress: called with the number of checkpoint files read so far and in total.

    Returns:
        The problems, and how much was read.

    Raises:
        RunError: the folder is not a run.
    """
    folder = as_path(path)
    try:
        run = Run.open(folder)
    except GrokinterpError as error:
        if not exists(folder / "config.json"):
            raise
        return Verification((str(error),), 0, 0)
    check = _Check(run)
    check.check_run(progress)
    return Verification(tuple(check.problems), check.checkpoints, len(check.lines), tuple(check.unchecked))


class _Check:
    """Checks one run. Reads status and resume point first: while the run trains, the other files are ahead of them."""

    def __init__(self, run: Run):
        self.run, self.problems, self.checkpoints = run, list[str](), 0
        self.unchecked: list[str] = []
        self.status: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.lines: list[MetricLine] = []
        self.saved: dict[Folder, list[int]] = {}
        self.resume_point: tuple[int, dict[str, Tensor]] | None = None

    def check_run(self, progress: Callable[[int, int], None] | None) -> None:
        for read in (self.read_status, self.read_environment, self.read_resume_point, self.read_metrics):
            with self.collecting_errors():
                read()
        with self.collecting_errors():
            _ = self.run.task
        self.saved = {folder: checkpoint_steps(self.run.path / folder) for folder in FOLDERS}
        checks = (self.check_status, self.check_metrics, lambda: self.check_checkpoints(progress), self.check_analysis)
        for check in checks:
            with self.collecting_errors():
                check()

    @contextlib.contextmanager
    def collecting_errors(self) -> Iterator[None]:
        """Turns an error into a problem."""
        try:
            yield
        except GrokinterpError as error:
            self.problems.append(str(error))

    def add_problem(self, name: str, description: str) -> None:
        self.problems.append(f"{self.run.path / name}: {description}")

    @property
    def state(self) -> str:
        return str(self.status.get("status", RunStatus.RUNNING))

    @property
    def step(self) -> int:
        return self.status.get("step", 0)

    @property
    def resume_step(self) -> int:
        """The step of the resume point; -1 if there is none."""
        return -1 if self.resume_point is None else self.resume_point[0]

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def recorded_checksums(self) -> Mapping[str, Any]:
        return self.status.get("checksums", {})

    def read_status(self) -> None:
        self.status = self.run.status
        if self.status and self.state not in _STATUSES:
            self.add_problem("status.json", f"the status {self.state!r} is not one of {', '.join(_STATUSES)}")

    def read_environment(self) -> None:
        self.environment = self.run.environment
        if not self.environment:
            self.add_problem("environment.json", "the file is missing")
        for name in ("status.json", "environment.json", "tracker.json"):
            if exists(self.run.path / name) and not require_intact(self.run.path / name):
                self.unchecked.append(name)

    def read_resume_point(self) -> None:
        run = self.run
        self.resume_point = read_resume_point(run.path, run.config)
        if self.resume_point is None:
            return
        step, state = self.resume_point
        require_state(state, run.config, run.task, step, run.path / RESUME)
        if not all(torch.isfinite(t).all() for name, t in state.items() if name.startswith("weights:")):
            self.add_problem(RESUME, "its weights are not finite")

    def read_metrics(self) -> None:
        require_metrics_size(self.run.path / METRICS, self.run.config, len(self.run.steps))
        for line in metric_lines(self.run.path / METRICS):
            self.lines.append(line)
        if any(earlier.checked and not line.checked for earlier, line in pairwise(self.lines)):
            self.add_problem(METRICS, "lines without a checksum follow one that has a checksum")
        elif not all(line.checked for line in self.lines):
            self.unchecked.append(METRICS)

    def check_status(self) -> None:
        """Compares the status with the resume point, the schedule and the checkpoints."""
        schedule, recorded = self.run.config.schedule, isinstance(self.run.config.model, RecordedConfig)
        if not self.status and (self.lines or any(self.saved.values())):
            if not exists(self.run.path / "status.json"):
                self.add_problem("status.json", "the file is missing")
            return
        if schedule is not None and self.step > schedule.steps:
            self.add_problem("status.json", f"step {self.step} is beyond the {schedule.steps} steps of config.json")
        if recorded or not self.status:
            return
        finished = self.state == RunStatus.FINISHED
        if self.resume_step > self.step:
            self.add_problem(RESUME, f"it is from step {self.resume_step}, but status.json from step {self.step}")
        elif finished and self.resume_point is not None and self.resume_step < self.step:
            self.add_problem(RESUME, f"it is from step {self.resume_step}, but the run finished at step {self.step}")
        if finished and schedule is not None and not exists(self.run.path / RESUME):
            self.add_problem(RESUME, "the file is missing: the run cannot be resumed")

    def check_metrics(self) -> None:
        """Checks that the steps increase, no evaluation is missing, and all lines have the same columns."""
        steps, name = [line.step for line in self.lines], "metrics.jsonl"
        backwards = [later for earlier, later in pairwise(steps) if later <= earlier]
        if backwards:
            self.add_problem(name, f"its steps do not increase: {_list_steps(backwards)} after an equal or later step")
        first = set(self.lines[0].values) if self.lines else set()
        odd = [line.step for line in self.lines if set(line.values) != first]
        if odd:
            self.add_problem(name, f"the columns differ from those of the first line at {_list_steps(odd)}")
        if self.ended and steps and max(steps) > self.step:
            self.add_problem(name, f"it continues to step {max(steps)}, but the run {self.state} at step {self.step}")
        if self.run.config.schedule is None:  # a recorder saves logits and weights before it writes the line
            expected = sorted({*self.saved["logits"], *self.saved["weights"]})[: None if self.ended else -1]
        else:
            expected = self.expected_steps(self.run.config.schedule, self.run.config.schedule.evaluate_every, steps)
        missing = sorted(set(expected) - set(steps))
        if missing:
            self.add_problem(name, f"there is no line for {_list_steps(missing)}, although the run evaluates there")
        for file in (name, "config.json", SPLIT, START):
            self.check_checksum(file)
        belonging = {SPLIT: self.run.config.task.split == "given", START: "start_from" in self.environment}
        for file, belongs in belonging.items():
            if exists(self.run.path / file) and not belongs:
                self.add_problem(file, "it does not belong to this run")

    def check_checksum(self, name: str) -> None:
        """Checks that a file has not changed since status.json recorded its checksum."""
        recorded = self.recorded_checksums.get(name)
        # While a run trains, the resume point has the checksum of config.json, which changes if steps are added.
        if recorded is None or (name == "config.json" and self.resume_point is not None and not self.ended):
            return
        if not exists(self.run.path / name):
            self.add_problem(name, "the file is missing")
        elif file_checksum(self.run.path / name) != recorded:
            self.add_problem(name, "its checksum differs from that of the file that was written")

    def expected_steps(self, schedule: ScheduleConfig, spec: int | str, present: Sequence[int]) -> list[int]:
        """The steps of a schedule that the run has certainly passed.

        Args:
            schedule: of the run.
            spec: which steps, for instance `schedule.checkpoints`.
            present: the steps in the file or folder that is checked.
        """
        if self.state == RunStatus.FINISHED:
            horizon = self.step
        elif self.state == RunStatus.DIVERGED:  # its last step has no checkpoint
            horizon = self.step - 1
        elif self.state == RunStatus.STOPPED:  # perhaps because a file could not be written
            horizon = self.resume_step
        else:  # status.json of step 0 is written before step 0 is evaluated; later ones are written after it
            horizon = max([self.resume_step, self.step or -1, *present])
        return [s for s in scheduled_steps(spec, schedule.steps) if self.extended_at(spec) <= s <= horizon]

    def extended_at(self, spec: int | str) -> int:
        """The step from which the run follows this schedule: more steps move the points of `log:N`."""
        if all(term.kind != "log" or len(term.numbers) > 1 for term in schedule_terms(spec)):
            return 0
        resumed = self.run.environment.get("resumed", [])
        entries = [entry for entry in resumed if isinstance(entry, dict)] if isinstance(resumed, list) else []
        steps = [entry.get("from_step") for entry in entries]
        return max((step for step in steps if isinstance(step, int)), default=0)

    def check_checkpoints(self, progress: Callable[[int, int], None] | None) -> None:
        """Checks that each checkpoint is intact and none is missing."""
        recorded, schedule = self.recorded_checksums, self.run.config.schedule
        names = {f"{folder}/{file_name(step)}" for folder in FOLDERS for step in self.saved[folder]}
        for name in sorted(name for name in recorded if name.startswith(("weights/", "logits/"))):
            if name not in names:
                self.add_problem(name, "the file is missing, although it was written")
        if schedule is not None:
            expected = self.expected_steps(schedule, schedule.checkpoints, self.saved["weights"])
            files = {step: f"weights/{file_name(step)}" for step in expected}
            missing = [step for step, name in files.items() if name not in names and name not in recorded]
            if missing:
                self.add_problem("weights", f"there is no checkpoint at {_list_steps(missing)}, which is scheduled")
        for folder in FOLDERS:
            late = [step for step in self.saved[folder] if self.ended and step > self.step]
            if late:
                self.add_problem(folder, f"{_list_steps(late)}: the run {self.state} earlier, at step {self.step}")
            for step in self.saved[folder]:
                with self.collecting_errors():
                    self.check_file(folder, step)
                self.checkpoints += 1
                if progress is not None:
                    progress(self.checkpoints, len(names))

    def check_file(self, folder: Folder, step: int) -> None:
        name = f"{folder}/{file_name(step)}"
        recorded = self.recorded_checksums.get(name)
        data = self.run.read_checkpoint(folder, step)
        if recorded is not None and sha256(data) != recorded:
            self.add_problem(name, "its checksum differs from that of the file that was written")
            return
        if recorded is None and self.ended:
            self.add_problem(name, "status.json does not have its checksum")
        tensors = self.run.parse_checkpoint(folder, step, data).tensors
        non_finite = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if non_finite and not (folder == "logits" and self.state == RunStatus.DIVERGED):
            self.add_problem(name, f"{', '.join(non_finite[:_SHOWN])}: not finite")
        if folder == "weights" and self.resume_point is not None and self.resume_step == step:
            state = self.resume_point[1]
            if any(not torch.equal(tensor, state.get(f"weights:{key}", tensor)) for key, tensor in tensors.items()):
                self.add_problem(RESUME, f"its weights differ from those of the checkpoint at step {step}")

    def check_analysis(self) -> None:
        """Checks that what is derived from the run is intact, and belongs to the checkpoints as they are now."""
        folder = self.run.path / "analysis"
        for file in sorted(folder.glob("*")) if folder.is_dir() else []:
            if file.suffix in (".json", ".html"):  # `analyze` skips damaged lines of its journal
                try:
                    if not require_intact(file):
                        self.unchecked.append(f"analysis/{file.name}")
                except RunError as error:
                    again = {"analysis.json": "analyze the run", "summary.json": "run the sweep"}
                    self.problems.append(f"{error}: {again.get(file.name, 'write the report')} again")
        file = folder / "analysis.json"
        if not exists(file):
            return
        try:
            content = read_checked_json(file)
            if "format_version" not in content:  # from an early version, whose results `analyze` does not reuse
                return
            checksums = {int(step): checksum for step, checksum in content["checksums"].items()}
            tables = dict(content["tables"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"{file} is damaged: analyze the run again") from None
        steps = set(self.run.steps)
        stale = [s for s, checksum in sorted(checksums.items()) if s in steps and self.run.checksum(s) != checksum]
        if stale:
            description = f"it was computed from other weights at {_list_steps(stale)}: analyze again"
            self.add_problem("analysis/analysis.json", description)
        for name, checksum in tables.items():
            # Until an interrupted analysis continues, a new table has a temporary name.
            files = [table for table in (folder / name, folder / f".{name}.next") if exists(table)]
            if not any(file_checksum(table) == checksum for table in files):
                self.add_problem(f"analysis/{name}", "it does not belong to analysis.json: analyze again")


def _list_steps(steps: Sequence[int]) -> str:
    """Formats steps as `steps 5, 10, 15 and 7 more`."""
    more = f" and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    label = "step" if len(steps) == 1 else "steps"
    return f"{label} {', '.join(map(str, steps[:_SHOWN]))}{more}"
