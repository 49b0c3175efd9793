"""Recorder: logs any training loop to a run folder, which analyze, report and figures can read."""

import math
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, SupportsIndex

import torch
from torch import Tensor, nn

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.display import Card, Displayed
from grokinterp.errors import ConfigError, RunError, as_integer, logger
from grokinterp.measures import Snapshot
from grokinterp.measures.checks import require_task
from grokinterp.measures.own_model import Names, Parts
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.files import MAX_STEP, exists
from grokinterp.runs.folders import as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.metrics import METRICS, lines_up_to
from grokinterp.runs.recorded import outputs
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import Task
from grokinterp.training.evaluation import evaluate
from grokinterp.training.preparation import run_to_resume, set_aside

log = logger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_LARGEST_FLOAT16 = torch.finfo(torch.float16).max
_MUCH = 1 << 30  # bytes of logits after which a recorder says how to store fewer


def _abandon(path: Path, lock: ExitStack, process: int) -> None:
    """Unlocks the folder of a recorder that nobody closed, and says so; while Python exits, only this can do it."""
    if os.getpid() != process:  # a forked child, while the recorder goes on in its parent
        return
    lock.close()
    log.warning("%s was never closed: its status remains `running`. Call close(), or use `with Recorder(...)`", path)


class Recorder(Displayed):
    """Records a training loop of your own as a run: logits on every input, metrics, and weights.

    >>> task = Task.modular_addition(p=7, train_fraction=0.5, equals_token=False)  # the model below reads a and b
    >>> model = torch.nn.Sequential(torch.nn.Embedding(7, 16), torch.nn.Flatten(), torch.nn.Linear(32, 7))
    >>> with Recorder("checkpoints/mine", task, embedding="0", unembedding="2") as recorder:
    ...     for step in range(200):
    ...         if step % 100 == 0:
    ...             metrics = recorder.record(step, model)
    ...         # make an update of the model here
    >>> recorder.run.steps
    [0, 100]

    The architecture is unknown, so the logits themselves are stored, and all measures of logits work. They take
    `bytes_per_step` bytes: 4 p^3 (5.8 MB at p = 113), so 200 steps of p = 113 take 1.2 GB. With `logits="float16"`,
    they take half as much, but are rounded to three digits: losses that `analyze` computes from them are off by a few
    percent where they are small (the metrics of each step are not: they are computed before rounding). With
    `logits=None`, only weights are stored, and `Run.with_model(model)` computes the logits again; this needs a
    `torch.nn.Module` whose output depends on nothing but its parameters and buffers.

    Measures of weights and neurons need to know which parts of the model are meant: name them with `embedding`,
    `neurons` and `unembedding`. Without these names, they work if parameters have TransformerLens names
    (`embed.W_E`, ...).

    Attributes:
        last_step: the last recorded step; -1 if there is none.
        bytes_per_step: size of the logits of a step, in bytes. Neurons, if they are recorded, come on top.
    """

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("log", "save", "step", "update", "add", "checkpoint", "write"): "recorder.record(step, model)"
    }

    def __init__(
        self,
        path: str | Path,
        task: Task,
        *,
        description: str = "",
        keep_weights: bool = True,
        logits: Literal["float32", "float16"] | None = "float32",
        embedding: Names | None = None,
        neurons: str | None = None,
        unembedding: Names | None = None,
        resume: bool = False,
        restart: bool = False,
    ):
        """Starts a run, or resumes one.

        Args:
            path: an empty or new folder, unless `resume` or `restart`.
            task: the task, with the split used for training. Its tokens end in `=` (token p) unless it was made with
                `equals_token=False`.
            description: of the model, for the report.
            keep_weights: whether to store named parameters beside the logits.
            logits: precision in which logits, and neurons, are stored; None stores only weights.
            embedding: name of the embedding in the models to be recorded; see `Snapshot.from_model`.
            neurons: name of the module that returns the neurons; see `Snapshot.from_model`. Neurons of every input are
                stored: 4 p^2 m bytes for m neurons.
            unembedding: name of the map from the neurons to the logits; see `Snapshot.from_model`.
            resume: continue the recorded run in `path`, if there is one. What was recorded at the step with which you
                continue, or later, is replaced.
            restart: record the run in `path` again from its start. The present folder is renamed to `PATH.replaced`.

        Raises:
            RunError: the folder is not empty or not writable, or another process uses it.
            ConfigError: the run in the folder was not recorded, or has another task or split.
        """
        require_task(task)
        if logits is not None and logits not in _DTYPES:
            raise ConfigError(f"logits must be float32, float16 or None, but is {logits!r}")
        if logits is None and not keep_weights:
            raise ConfigError("logits=None stores only weights: omit keep_weights=False")
        if resume and restart:
            raise ConfigError("resume and restart exclude each other: give one")
        config = RunConfig(
            task=task.config,
            model=RecordedConfig(description=description, equals_token=task.equals_token),
            optimizer=None,
            schedule=None,
        )
        self.task = task
        self.keep_weights = keep_weights
        self.last_step = -1
        self._dtype = None if logits is None else _DTYPES[logits]
        self._parts = Parts(embedding, neurons, unembedding)
        self._model: nn.Module | None = None  # of the last step, to compute logits that are not stored
        self._first_step: int | None = None  # of a resumed run that has recorded nothing yet
        self._bytes = 0
        folder = as_path(path)
        if restart and exists(folder / "config.json"):
            set_aside(folder)
        begun = run_to_resume(folder, resume)
        if begun is not None:
            _require_same_task(begun, task)
        with ExitStack() as stack:
            stack.enter_context(hold(folder))
            environment = describe_environment("cpu", "recorded")
            if begun is None:
                self._writer = RunWriter.create(folder, config, environment, task)
                self._writer.write_status(RunStatus.RUNNING, 0)
            else:
                self._resume(begun, environment)
            self._lock = stack.pop_all()
        self._unclosed = weakref.finalize(self, _abandon, folder, self._lock, os.getpid())

    def _resume(self, run: Run, environment: dict[str, object]) -> None:
        """Continues after the last step of which everything was written."""
        steps = [line.step for line in lines_up_to(run.path / METRICS, MAX_STEP)]
        self._writer = RunWriter(run.path, run.config)
        self._first_step, self.last_step = (steps[0], steps[-1]) if steps else (None, -1)
        self._drop_after(self.last_step)
        first, before = run.environment, run.environment.get("resumed", [])
        entry = {**environment, "from_step": self.last_step}
        self._writer.write_environment({**first, "resumed": [*(before if isinstance(before, list) else []), entry]})

    def _drop_after(self, step: int) -> None:
        self._writer.prepare_resume(step)
        self._writer.findings = None  # of a training that is monitored; prepare_resume has read none
        self._writer.discard_after(step)

    def __repr__(self) -> str:
        return f"Recorder({str(self._writer.path)!r}, {len(self.run.steps)} checkpoints, {self._size})"

    @property
    def _size(self) -> str:
        return "no logits" if self._dtype is None else f"{self.bytes_per_step / 1e6:.3g} MB of logits a step"

    @property
    def bytes_per_step(self) -> int:
        """Size of the logits of a step in bytes."""
        return 0 if self._dtype is None else len(self.task.inputs) * self.task.n_classes * self._dtype.itemsize

    @property
    def run(self) -> Run:
        """The run so far; without stored logits, it computes them with the model that was recorded last."""
        run = Run.open(self._writer.path)
        if self._dtype is not None or self._model is None:
            return run
        parts = self._parts
        return run.with_model(
            self._model, embedding=parts.embedding, neurons=parts.neurons, unembedding=parts.unembedding
        )

    @torch.no_grad()
    def record(
        self,
        step: SupportsIndex,
        model: Callable[[Tensor], Tensor] | Tensor,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, float]:
        """Records a checkpoint.

        Args:
            step: number of updates made; must increase from call to call.
            model: called with `task.tokens`, as in `Snapshot.from_model`; or the logits themselves. A module is put
                into evaluation mode for the call.
            weights: named parameters; by default those of a module, if it has any.

        Returns:
            The metrics of the step, as written to metrics.jsonl.

        Raises:
            ConfigError: the step does not increase or is larger than 10^12, the logits have the wrong shape or are too
                large for float16, or the model has no part of a given name.
            RunError: the recorder was closed, or the step cannot be written. Nothing of it remains, so that it can be
                recorded again; but if only status.json could not be written, the step is recorded.
        """
        if not self._unclosed.alive:
            raise RunError(f"{self._writer.path} was closed: record further steps with Recorder(..., resume=True)")
        step = self._checked_step(step)
        snapshot = self._snapshot(model, weights)
        weights = snapshot.weights
        names = tuple(weights or {}) if snapshot.trained is None else snapshot.trained
        trained = {name: w for name, w in (weights or {}).items() if name in names}
        saved = dict(weights or {}) if self.keep_weights else {}
        if self._dtype is None:
            saved |= self._buffers(model)
        tensors = {} if self._dtype is None else outputs(snapshot)
        self._require_range(tensors)
        row = {"step": step, **evaluate(self.task, snapshot.logits, trained)}
        if step <= self.last_step:  # in a resumed run
            log.warning("%s: the steps from %d to %d are recorded again", self._writer.path, step, self.last_step)
            self._drop_after(step - 1)
        before = self._writer.metrics_size()
        try:
            if self._dtype is not None:
                self._writer.save_checkpoint(step, tensors, folder="logits", dtype=self._dtype)
            if saved:
                self._writer.save_checkpoint(step, saved, frozen=[name for name in saved if name not in trained])
            self._writer.append_metrics(row)
        except BaseException:
            self._writer.undo_step(step, before)  # a step is recorded completely or not at all
            raise
        self.last_step, self._first_step = step, None
        self._writer.write_status(RunStatus.RUNNING, step)
        self._count_bytes(sum(tensor.numel() for tensor in tensors.values()))
        return row

    def _checked_step(self, step: SupportsIndex) -> int:
        step = as_integer(step, "step")
        if step > MAX_STEP:
            raise ConfigError(f"step {step} is larger than {MAX_STEP:,}: count updates, not nanoseconds or tokens")
        if step > self.last_step or (self._first_step is not None and step > self._first_step):
            return step
        if self._first_step is not None:
            raise ConfigError(
                f"step {step} would replace all steps of {self._writer.path}, which starts at step {self._first_step}: "
                "Recorder(..., restart=True) records it again from its start, and keeps it under another name"
            )
        raise ConfigError(f"step {step} was recorded after step {self.last_step}: steps must increase")

    def _snapshot(self, model: Callable[[Tensor], Tensor] | Tensor, weights: Mapping[str, Tensor] | None) -> Snapshot:
        """The snapshot of a model, whose `trained` names the parameters that count in the norm; None means all."""
        if self._dtype is None and (not isinstance(model, nn.Module) or weights is not None):
            raise ConfigError(
                "logits=None needs a torch.nn.Module and no weights=, so that its own parameters are stored: "
                'record with logits="float32" or "float16" otherwise'
            )
        if isinstance(model, Tensor):
            if self._parts != Parts():
                raise ConfigError("embedding, neurons and unembedding are parts of a model, but only logits were given")
            snapshot = Snapshot.from_logits(self.task, model, weights=weights)
        elif not callable(model):
            raise ConfigError(
                f"model must be a tensor of logits or a function that returns one, but is {type(model).__name__}"
            )
        else:
            parts = self._parts
            snapshot = Snapshot.from_model(
                self.task,
                model,
                weights=weights,
                embedding=parts.embedding,
                neurons=parts.neurons,
                unembedding=parts.unembedding,
            )
            self._model = model if isinstance(model, nn.Module) else None
        if weights is None:
            return snapshot
        trained = tuple(name for name, w in weights.items() if w.requires_grad or not w.is_leaf)
        return replace(snapshot, trained=trained or None)

    def _buffers(self, model: object) -> dict[str, Tensor]:
        """The buffers on which the logits may depend, such as the statistics of a BatchNorm."""
        assert isinstance(model, nn.Module)
        parameters, state = dict(model.named_parameters()), model.state_dict()
        return {name: t for name, t in state.items() if name not in parameters and t.is_floating_point()}

    def _require_range(self, tensors: Mapping[str, Tensor]) -> None:
        if self._dtype is not torch.float16:
            return
        for name, tensor in tensors.items():
            largest = tensor.abs().nan_to_num(0.0, 0.0).max().item()
            if largest > _LARGEST_FLOAT16:
                raise ConfigError(
                    f"the {name.replace('_', ' ')} reach {largest:.3g}, but float16 ends at {_LARGEST_FLOAT16:.0f}: "
                    'record with logits="float32"'
                )

    def _count_bytes(self, numbers: int) -> None:
        """Warns once when the logits take much space."""
        before, self._bytes = self._bytes, self._bytes + numbers * (0 if self._dtype is None else self._dtype.itemsize)
        if before < _MUCH <= self._bytes:
            log.warning(
                '%s: %.1f GB of logits so far, %.3g MB a step; logits="float16" takes half, and logits=None stores '
                "only weights",
                self._writer.path,
                self._bytes / 1e9,
                (self._bytes - before) / 1e6,
            )

    def _card(self) -> Card:
        run = self.run._card()
        facts = {**run.facts, "size": self._size}
        return Card(f"Recorder of {run.title}", facts, ["recorder.record(step, model)", "recorder.run"])

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        reason = "" if error is None else repr(error)
        self.close(RunStatus.STOPPED if reason else RunStatus.FINISHED, reason)

    def close(self, status: str = RunStatus.FINISHED, reason: str = "") -> None:
        """Ends the run and unlocks its folder; the context manager calls this method on exit.

        A recorder that is never closed unlocks the folder, too, and logs a warning; the run's status remains `running`.
        """
        losses = self.run.metrics
        column = "train_loss" if "train_loss" in losses else "loss"
        if len(losses) and not math.isfinite(losses[column].iloc[-1]):
            status, reason = RunStatus.DIVERGED, f"the loss was not finite at step {self.last_step}"
        self._unclosed.detach()
        with self._lock:
            self._writer.write_status(RunStatus(status), max(self.last_step, 0), reason=reason)


def _require_same_task(run: Run, task: Task) -> None:
    """Raises a ConfigError unless a run was recorded on the same task with the same split."""
    if not isinstance(run.config.model, RecordedConfig):
        raise ConfigError(f"{run.path} was trained, not recorded: gi.train(..., resume=True) resumes it")
    recorded, given = run.classification.train_mask, task.train_mask
    same_split = recorded is given if recorded is None or given is None else torch.equal(recorded, given)
    if run.config.task != task.config or not same_split:
        raise ConfigError(f"{run.path} was recorded on another task or split: give the same, or choose another folder")
