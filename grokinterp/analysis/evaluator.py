"""Evaluator: computes the values that the cache lacks, in this process or in workers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from grokinterp.analysis.cache import AnalysisCache, measure_key, run_digest
from grokinterp.analysis.measure_calls import MeasureCall, Value, evaluate, use_neurons
from grokinterp.analysis.workers import evaluate_in_workers, worker_count
from grokinterp.errors import RunError, logger
from grokinterp.measures import Snapshot
from grokinterp.models.memory import release_freed_memory
from grokinterp.runs.run import Run

log = logger(__name__)

_NAMED_STEPS = 10  # steps that a warning lists

_Result = TypeVar("_Result")


class Evaluator:
    """Evaluates the measure calls that the cache lacks; one checkpoint is in memory at a time.

    Each value is stored with the checksum of the bytes from which it was computed. All values of a step come from the
    same bytes: if the file changes during the analysis, all of them are recomputed.

    Attributes:
        changed: steps whose weights differ from those of the last analysis.
        changed_meanwhile: steps whose weights changed during this analysis.
        vanished: steps whose weights were removed.
    """

    def __init__(
        self, run: Run, cache: AnalysisCache, workers: int | None, progress: Callable[[int, int], None] | None
    ):
        self.run, self.cache, self.workers, self.progress = run, cache, workers, progress
        self.changed: list[int] = []
        self.changed_meanwhile: set[int] = set()
        self.vanished: set[int] = set()
        self._verified: set[int] = set()  # steps whose values belong to the weights that this analysis read
        self._plans: list[Mapping[int, Sequence[MeasureCall]]] = []
        self._keys: dict[tuple[str, tuple[int, ...]], str] = {}
        self._current: Snapshot | None = None
        self._run_digest = run_digest(run)

    def fill(self, plan: Mapping[int, Sequence[MeasureCall]]) -> None:
        """Computes the calls of each step that the cache lacks; skips steps that vanish."""
        self._plans.append(plan)
        missing = {step: self._missing(step, calls) for step, calls in plan.items()}
        missing = {step: calls for step, calls in missing.items() if calls and step not in self.vanished}
        n_done = len(plan) - len(missing)
        self._report_progress(n_done, len(plan))
        count = worker_count(self.run, len(missing)) if self.workers is None else self.workers
        if self.run.own_model is not None:  # workers open the run folder, which does not have the model
            count = 0
        portable = {step: [call for call in calls if call.source is not None] for step, calls in missing.items()}
        if count and any(portable.values()):
            self._current = None
            release_freed_memory()
            for step, values, checksum in evaluate_in_workers(self.run, portable, count):
                self._store(step, portable[step], values, checksum)
                n_done += 1
                self._report_progress(n_done, len(plan))
        for step, calls in missing.items():
            self._evaluate(step, [call for call in calls if not self._has(call, step)])
            n_done += 1
            self._report_progress(min(n_done, len(plan)), len(plan))

    def snapshot(self, step: int, calls: Sequence[MeasureCall] = ()) -> Snapshot:
        """A checkpoint for some calls; the most recent one stays in memory."""
        if self._current is None or self._current.step != step:
            self._current = None  # freed before the next is made
            self._current = self.run.snapshot(step, neurons=use_neurons(calls))
        return self._current

    def require_unchanged(self, step: int, checksum: str) -> None:
        """Checks that a step's values were computed from weights with that checksum.

        Raises:
            RunError: the weights changed after they were read.
        """
        if step in self._verified and self.cache.values.checksums.get(step, checksum) != checksum:
            raise RunError(
                f"{self.run.path}: the weights at step {step}, whose key frequencies all measures use, changed during "
                "the analysis. Analyze the run again once nothing writes to it."
            )

    def warnings(self) -> list[str]:
        """Warnings about weights that changed, vanished, or do not match their recorded checksums."""
        events = (
            (self.changed, "changed since the last analysis: recomputed"),
            (sorted(self.changed_meanwhile), "changed during the analysis: recomputed"),
            (sorted(self.vanished), "were removed during the analysis: skipped"),
        )
        warnings = [f"the weights at {_steps(steps)} {event}" for steps, event in events if steps]
        recorded = self.run.recorded_checksums()
        mismatched = [s for s, checksum in self.cache.values.checksums.items() if recorded.get(s, checksum) != checksum]
        mismatched = sorted(set(mismatched) & self._verified)
        if mismatched:
            warnings.append(
                f"the weights at {_steps(mismatched)} do not match the checksums in status.json: check them with "
                f"`grokinterp verify {self.run.path}`"
            )
        return warnings

    def _missing(self, step: int, calls: Sequence[MeasureCall]) -> list[MeasureCall]:
        """The calls of a step that the cache lacks for the current weights."""
        missing = [call for call in calls if not self._has(call, step)]
        if len(missing) == len(calls) or step in self._verified:
            return missing
        checksum = self._read(step, self.run.checksum)
        if checksum is None:
            return []
        if checksum == self.cache.values.checksums[step]:
            self._verified.add(step)
            return missing
        self.changed.append(step)
        self.cache.values.forget(step)
        return list(calls)

    def _evaluate(self, step: int, calls: Sequence[MeasureCall]) -> None:
        """Computes some calls of a step in this process."""
        snapshot = self._read(step, lambda at: self.snapshot(at, calls)) if calls else None
        if snapshot is not None:
            self._store(step, calls, [evaluate(call, snapshot) for call in calls], snapshot.checksum)

    def _store(self, step: int, calls: Sequence[MeasureCall], values: Sequence[Value], checksum: str) -> None:
        cached_checksum = self.cache.values.checksums.get(step, checksum)
        if cached_checksum != checksum and step not in self._verified:
            self.changed.append(step)
        elif cached_checksum != checksum:
            # Storing these drops the values of the older bytes: all of the step's are recomputed from one file.
            self.changed_meanwhile.add(step)
            self._current = None
            calls = list({call.measure.name: call for plan in self._plans for call in plan.get(step, ())}.values())
            snapshot = self.snapshot(step, calls)
            values, checksum = [evaluate(call, snapshot) for call in calls], snapshot.checksum
        self._verified.add(step)
        entries = [(call.measure.name, self._key(call), value) for call, value in zip(calls, values, strict=True)]
        self.cache.put(step, checksum, entries)

    def _read(self, step: int, read: Callable[[int], _Result]) -> _Result | None:
        """The result of `read` for a step; None, and the step is dropped, if its weights were removed."""
        try:
            return read(step)
        except RunError:
            if step in self.run.steps:
                raise
            self.vanished.add(step)
            self.cache.values.forget(step)
            return None

    def _has(self, call: MeasureCall, step: int) -> bool:
        return self.cache.values.has(call.measure.name, self._key(call), step)

    def _key(self, call: MeasureCall) -> str:
        arguments = (call.measure.name, call.frequencies)
        if arguments not in self._keys:
            self._keys[arguments] = measure_key(call.measure, call.frequencies, self._run_digest)
        return self._keys[arguments]

    def _report_progress(self, n_done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(n_done, total)


def _steps(steps: Sequence[int]) -> str:
    text = ", ".join(map(str, steps[:_NAMED_STEPS]))
    if len(steps) > _NAMED_STEPS:
        text += f" and {len(steps) - _NAMED_STEPS} more up to {steps[-1]}"
    return f"step {text}" if len(steps) == 1 else f"steps {text}"
