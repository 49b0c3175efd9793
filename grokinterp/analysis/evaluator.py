"""Evaluator: computes what the cache lacks, here or in workers, all of the weights as they are now."""

import logging
from collections.abc import Callable, Mapping, Sequence

from grokinterp.analysis.cache import AnalysisCache, measure_key
from grokinterp.analysis.measure_calls import Cell, Job, evaluate
from grokinterp.analysis.workers import evaluate_in_workers, worker_count
from grokinterp.errors import RunError
from grokinterp.measures import Snapshot
from grokinterp.models.memory import release_freed_memory
from grokinterp.runs.run import Run

log = logging.getLogger(__name__)

_MOST_SAID = 10  # steps that a warning names


class Evaluator:
    """Evaluates jobs that the cache does not hold; one checkpoint is in memory at a time.

    A cell is kept with the checksum of the very bytes it was computed from. All cells of a step are of the same bytes:
    where the file changes while it is analyzed, what was computed before is computed anew.

    Attributes:
        changed: steps whose weights were others when they were analyzed the last time.
        changed_meanwhile: steps whose weights changed since this analysis began.
        vanished: steps whose weights are there no longer.
    """

    def __init__(
        self,
        run: Run,
        cache: AnalysisCache,
        workers: int | None,
        progress: Callable[[int, int], None] | None,
    ):
        self.run, self.cache, self.workers, self.progress = run, cache, workers, progress
        self.changed: list[int] = []
        self.changed_meanwhile: set[int] = set()
        self.vanished: set[int] = set()
        self._seen: set[int] = set()  # steps whose cells are of the weights as this analysis found them
        self._plans: list[Mapping[int, Sequence[Job]]] = []
        self._keys: dict[tuple[str, tuple[int, ...]], str] = {}
        self._current: Snapshot | None = None

    def fill(self, plan: Mapping[int, Sequence[Job]]) -> None:
        """Computes the jobs of each step, where the cache does not hold them; steps that vanish are left out."""
        self._plans.append(plan)
        missing = {step: self._missing(step, jobs) for step, jobs in plan.items()}
        todo = {step: jobs for step, jobs in missing.items() if jobs and step not in self.vanished}
        done = len(plan) - len(todo)
        self._tell(done, len(plan))
        count = worker_count(self.run, len(todo)) if self.workers is None else self.workers
        elsewhere = {step: [job for job in jobs if job.source is not None] for step, jobs in todo.items()}
        if count and any(elsewhere.values()):
            self._current = None
            release_freed_memory()
            for step, cells, checksum in evaluate_in_workers(self.run, elsewhere, count):
                self._keep(step, elsewhere[step], cells, checksum)
                done += 1
                self._tell(done, len(plan))
        for step, jobs in todo.items():
            left = [job for job in jobs if not self._has(job, step)]
            if left:
                self._evaluate(step, left)
            done += 1
            self._tell(min(done, len(plan)), len(plan))

    def snapshot(self, step: int) -> Snapshot:
        """A checkpoint; the last one asked for is kept in memory."""
        if self._current is None or self._current.step != step:
            self._current = None  # freed before the next is made
            self._current = self.run.snapshot(step)
        return self._current

    def require_unchanged(self, step: int, checksum: str) -> None:
        """Refuses a step whose cells are not of the weights with that checksum.

        Raises:
            RunError: they changed since these were read.
        """
        if step in self._seen and self.cache.cells.checksums.get(step, checksum) != checksum:
            raise RunError(
                f"{self.run.path}: the weights at step {step}, whose key frequencies all measures use, changed while "
                "they were analyzed: analyze again when nobody writes there"
            )

    def warnings(self) -> list[str]:
        """What is to be said of weights that are not, or do not stay, what they were."""
        said = []
        if self.changed:
            said.append(f"the weights at {_steps(self.changed)} are not those of the last analysis: computed anew")
        if self.changed_meanwhile:
            steps = _steps(sorted(self.changed_meanwhile))
            said.append(f"the weights at {steps} changed while they were analyzed: computed anew")
        if self.vanished:
            steps = _steps(sorted(self.vanished))
            said.append(f"the weights at {steps} were removed while the run was analyzed: left out")
        recorded = self.run.recorded_checksums()
        others = [s for s, checksum in self.cache.cells.checksums.items() if recorded.get(s, checksum) != checksum]
        others = sorted(set(others) & self._seen)
        if others:
            said.append(
                f"the weights at {_steps(others)} are not those whose checksums status.json records: "
                f"`grokinterp verify {self.run.path}` looks into it"
            )
        return said

    def _missing(self, step: int, jobs: Sequence[Job]) -> list[Job]:
        """The jobs of a step that the cache does not hold, of the weights as they are."""
        missing = [job for job in jobs if not self._has(job, step)]
        if len(missing) == len(jobs) or step in self._seen:
            return missing
        try:
            checksum = self.run.checksum(step)
        except RunError:
            self._leave_out(step)
            return []
        if checksum == self.cache.cells.checksums[step]:
            self._seen.add(step)
            return missing
        self.changed.append(step)
        self.cache.cells.forget(step)
        return list(jobs)

    def _evaluate(self, step: int, jobs: Sequence[Job]) -> None:
        """Computes some jobs of a step in this process."""
        try:
            snapshot = self.snapshot(step)
        except RunError:
            self._leave_out(step)
            return
        self._keep(step, jobs, [evaluate(job, snapshot) for job in jobs], snapshot.checksum)

    def _keep(self, step: int, jobs: Sequence[Job], cells: Sequence[Cell], checksum: str) -> None:
        known = self.cache.cells.checksums.get(step, checksum)
        if known != checksum and step not in self._seen:
            self.changed.append(step)
        elif known != checksum:
            # Cells of other bytes are dropped as these are put: all of the step's are computed once more, of one file.
            self.changed_meanwhile.add(step)
            self._current = None
            snapshot = self.snapshot(step)
            jobs = list({job.measure.name: job for plan in self._plans for job in plan.get(step, ())}.values())
            cells, checksum = [evaluate(job, snapshot) for job in jobs], snapshot.checksum
        self._seen.add(step)
        named = [(job.measure.name, self._key(job), cell) for job, cell in zip(jobs, cells, strict=True)]
        self.cache.put(step, checksum, named)

    def _leave_out(self, step: int) -> None:
        """Called where a step cannot be read: if it was removed it is left out, else what is wrong is raised again."""
        if step in self.run.steps:
            raise
        self.vanished.add(step)
        self.cache.cells.forget(step)

    def _has(self, job: Job, step: int) -> bool:
        return self.cache.cells.has(job.measure.name, self._key(job), step)

    def _key(self, job: Job) -> str:
        which = (job.measure.name, job.frequencies)
        if which not in self._keys:
            self._keys[which] = measure_key(job.measure, job.frequencies)
        return self._keys[which]

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _steps(steps: Sequence[int]) -> str:
    named = ", ".join(map(str, steps[:_MOST_SAID]))
    if len(steps) == 1:
        return f"step {named}"
    return f"steps {named}" + (f" and {len(steps) - _MOST_SAID} more up to {steps[-1]}" * (len(steps) > _MOST_SAID))
