"""verify: whether a run is what it says it is; each problem is one line that names the file."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from grokinterp.config import RecordedConfig, ScheduleConfig
from grokinterp.config.schedule import schedule_terms, scheduled_steps
from grokinterp.errors import GrokinterpError, RunError
from grokinterp.runs.files import checksum_of, exists, parse_json, read_text
from grokinterp.runs.metrics import MetricLine, metric_lines
from grokinterp.runs.resume_point import require_state
from grokinterp.runs.run import Run, StatusName, file_name, kept_steps
from grokinterp.runs.writer import RESUME, RunWriter

_FOLDERS: tuple[Literal["weights", "logits"], ...] = ("weights", "logits")
_NAMED = 3  # steps that a line names


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        problems: one line each; none where the run is whole.
        checkpoints: how many kept files were read.
        evaluations: how many lines of metrics.
    """

    problems: tuple[str, ...]
    checkpoints: int
    evaluations: int


def verify(path: str | Path, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Reads everything that a run holds and holds it to what the run says of itself. Nothing is written.

    A run that was killed is whole: what a crash leaves behind (a line that was cut, files later than the resume
    point) is dropped when it is resumed. So is one that is being trained.

    Args:
        path: the run's folder.
        progress: called with the number of kept files read and to read.

    Raises:
        RunError: there is no run.
    """
    folder = Path(path)
    try:
        run = Run.open(folder)
    except GrokinterpError as error:
        if not exists(folder / "config.json"):
            raise
        return Verification((str(error),), 0, 0)
    check = _Check(run)
    check.everything(progress)
    return Verification(tuple(check.problems), check.checkpoints, len(check.lines))


class _Check:
    """One run's check. Status and resume point are read first: files only grow beyond them while it is trained."""

    def __init__(self, run: Run):
        self.run, self.problems, self.checkpoints = run, list[str](), 0
        self.status: dict[str, Any] = {}
        self.lines: list[MetricLine] = []
        self.kept: dict[str, list[int]] = {}
        self.resumed: tuple[int, dict[str, Tensor]] | None = None

    def everything(self, progress: Callable[[int, int], None] | None) -> None:
        parts = (self.read_status, self.read_environment, self.read_resume_point, self.read_metrics)
        for part in parts:
            with self.noting():
                part()
        with self.noting():
            _ = self.run.task
        self.kept = {folder: kept_steps(self.run.path / folder) for folder in _FOLDERS}
        self.check_status()
        self.check_metrics()
        self.check_kept(progress)
        with self.noting():
            self.check_analysis()

    @contextlib.contextmanager
    def noting(self) -> Any:
        """Makes an error a problem."""
        try:
            yield
        except GrokinterpError as error:
            self.problems.append(str(error))

    def problem(self, name: str, what: str) -> None:
        self.problems.append(f"{self.run.path / name}: {what}")

    @property
    def state(self) -> str:
        return str(self.status.get("status", "running"))

    @property
    def step(self) -> int:
        return self.status.get("step", 0)

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped", "diverged")

    def read_status(self) -> None:
        self.status = self.run.status
        if self.status and self.state not in get_args(StatusName):
            self.problem("status.json", f"the status {self.state!r} is none of {', '.join(get_args(StatusName))}")

    def read_environment(self) -> None:
        if not self.run.environment:
            self.problem("environment.json", "it is missing")

    def read_resume_point(self) -> None:
        run = self.run
        self.resumed = RunWriter(run.path, run.config).read_resume_point()
        if self.resumed is None:
            return
        step, state = self.resumed
        require_state(state, run.config, run.task, step, run.path / RESUME)
        if not all(torch.isfinite(t).all() for name, t in state.items() if name.startswith("weights:")):
            self.problem(RESUME, "it holds weights that are not finite")

    def read_metrics(self) -> None:
        for line in metric_lines(self.run.path / "metrics.jsonl"):
            self.lines.append(line)

    def check_status(self) -> None:
        """Whether the status fits the resume point, the schedule and what was kept."""
        schedule, recorded = self.run.config.schedule, isinstance(self.run.config.model, RecordedConfig)
        if not self.status and (self.lines or any(self.kept.values())):
            self.problem("status.json", "it is missing: resume the run, which writes it anew")
            return
        if schedule is not None and self.step > schedule.steps:
            self.problem("status.json", f"step {self.step} is beyond the {schedule.steps} of config.json")
        if recorded or not self.status:
            return
        at = None if self.resumed is None else self.resumed[0]
        if at is not None and at > self.step:
            self.problem(RESUME, f"it is of step {at}, and status.json of step {self.step}")
        elif self.state == "finished" and at is not None and at < self.step:
            self.problem(RESUME, f"it is of step {at}, and the run finished at step {self.step}")
        if self.state == "finished" and not exists(self.run.path / RESUME):
            self.problem(RESUME, "it is missing: the run cannot be resumed but from its start")

    def check_metrics(self) -> None:
        """Whether the steps ascend, no evaluation is missing, and all lines have the same columns."""
        steps, name = [line.step for line in self.lines], "metrics.jsonl"
        backwards = [later for earlier, later in pairwise(steps) if later <= earlier]
        if backwards:
            self.problem(name, f"its steps do not ascend: {_some(backwards)} after a step as late")
        first = set(self.lines[0].values) if self.lines else set()
        odd = [line.step for line in self.lines if set(line.values) != first]
        if odd:
            self.problem(name, f"other columns than in its first line at {_some(odd)}")
        if self.ended and steps and max(steps) > self.step:
            self.problem(name, f"it goes on to step {max(steps)}, and the run {self.state} at step {self.step}")
        if self.run.config.schedule is None:
            wanted = self.kept["logits"][: None if self.ended else -1]  # the last may be without its line
        else:
            wanted = self.scheduled(self.run.config.schedule.evaluate_every, steps)
        missing = sorted(set(wanted) - set(steps))
        if missing:
            self.problem(name, f"no line for {_some(missing)}, which were to be evaluated")
        self.hold_to_checksum(name)
        self.hold_to_checksum("config.json")
        self.hold_to_checksum("split.safetensors")

    def hold_to_checksum(self, name: str) -> None:
        """A file that does not change any more once a run has ended is what it was then."""
        recorded = self.status.get("checksums", {}).get(name)
        if recorded is None or not self.ended:
            return
        if not exists(self.run.path / name):
            self.problem(name, "it is missing")
        elif checksum_of(self.run.path / name) != recorded:
            self.problem(name, "it is not what was written: its checksum differs")

    def scheduled(self, spec: int | str, found: Sequence[int]) -> list[int]:
        """The steps of a schedule that must be there: those that the run surely came by."""
        schedule = self.run.config.schedule
        assert isinstance(schedule, ScheduleConfig)
        resumed = -1 if self.resumed is None else self.resumed[0]
        if self.state == "finished":
            horizon = self.step
        elif self.state == "diverged":  # its last step is not kept
            horizon = self.step - 1
        elif self.state == "stopped":  # perhaps because something could not be written
            horizon = resumed
        else:  # a status of step 0 is written before the start is looked at; all else in order
            horizon = max([resumed, self.step or -1, *found])
        return [s for s in scheduled_steps(spec, schedule.steps) if self.grown_at(spec) <= s <= horizon]

    def grown_at(self, spec: int | str) -> int:
        """From where on a schedule is today's: `log:N` lies elsewhere in a run that was made longer."""
        if all(term.kind != "log" or len(term.numbers) > 1 for term in schedule_terms(spec)):
            return 0
        resumed = self.run.environment.get("resumed", [])
        entries = [entry for entry in resumed if isinstance(entry, dict)] if isinstance(resumed, list) else []
        steps = [entry.get("from_step") for entry in entries]
        return max((step for step in steps if isinstance(step, int)), default=0)

    def check_kept(self, progress: Callable[[int, int], None] | None) -> None:
        """Whether each kept file is whole, and none is missing."""
        recorded: Mapping[str, Any] = self.status.get("checksums", {})
        names = {f"{folder}/{file_name(step)}" for folder in _FOLDERS for step in self.kept[folder]}
        lost = sorted(name for name in recorded if name.startswith(("weights/", "logits/")) and name not in names)
        for name in lost:
            self.problem(name, "it is missing, and was written")
        if self.run.config.schedule is not None:
            kept = self.kept["weights"]
            wanted = self.scheduled(self.run.config.schedule.checkpoints, kept)
            missing = [s for s in wanted if s not in set(kept) and f"weights/{file_name(s)}" not in recorded]
            if missing:
                self.problem("weights", f"nothing was kept at {_some(missing)}, where the schedule says so")
        for folder in _FOLDERS:
            late = [step for step in self.kept[folder] if self.ended and step > self.step]
            if late:
                self.problem(folder, f"{_some(late)}: the run {self.state} before, at step {self.step}")
            for step in self.kept[folder]:
                with self.noting():
                    self.check_file(folder, step, recorded.get(f"{folder}/{file_name(step)}"))
                self.checkpoints += 1
                if progress is not None:
                    progress(self.checkpoints, len(names))

    def check_file(self, folder: Literal["weights", "logits"], step: int, recorded: Any) -> None:
        name = f"{folder}/{file_name(step)}"
        data = self.run.read_kept(folder, step)
        if recorded is not None and hashlib.sha256(data).hexdigest() != recorded:
            self.problem(name, "it is not what was written: its checksum differs")
            return
        if recorded is None and self.ended:
            self.problem(name, "status.json has no checksum of it")
        tensors = self.run.parse_kept(folder, step, data).tensors
        wild = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if wild and not (folder == "logits" and self.state == "diverged"):
            self.problem(name, f"{', '.join(wild[:_NAMED])}: not finite")
        if folder == "weights" and self.resumed is not None and self.resumed[0] == step:
            state = self.resumed[1]
            if any(not torch.equal(tensor, state.get(f"weights:{key}", tensor)) for key, tensor in tensors.items()):
                self.problem(RESUME, f"its weights are not those that were kept at step {step}")

    def check_analysis(self) -> None:
        """Whether what was analyzed is what is there now."""
        file = self.run.path / "analysis" / "analysis.json"
        if not exists(file):
            return
        try:
            content = parse_json(read_text(file))
            if "format_version" not in content:  # of an earlier version, which is computed anew anyway
                return
            checksums = content["checksums"]
            analyzed = {int(step): checksum for step, checksum in checksums.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"{file}: it is damaged: analyze the run again") from None
        steps = set(self.run.steps)
        stale = [s for s, checksum in sorted(analyzed.items()) if s in steps and self.run.checksum(s) != checksum]
        if stale:
            self.problem("analysis/analysis.json", f"it is of other weights at {_some(stale)}: analyze the run again")


def _some(steps: Sequence[int]) -> str:
    """`steps 5, 10, 15 and 7 more`."""
    more = f" and {len(steps) - _NAMED} more" if len(steps) > _NAMED else ""
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps[:_NAMED]))}{more}"
