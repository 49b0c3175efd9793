"""Run: one training as a folder on disk, read lazily. `grokinterp.runs.writer.RunWriter` is what fills it."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pandas as pd
import torch
from torch import Tensor, nn

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import Forward, build_model, forward_for, task_of
from grokinterp.models.memory import require_memory
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.files import LARGEST_CONFIG, FileState, exists, parse_json, read_bytes, read_text, state_of
from grokinterp.runs.metrics import LAST_STEP, read_metrics
from grokinterp.runs.tensors import Shapes, TensorFile, deserialize, misfit, most_bytes
from grokinterp.tasks import AnyTask, RegressionTask, Task

if TYPE_CHECKING:
    from grokinterp.measures import Snapshot

StatusName = Literal["running", "finished", "stopped", "diverged"]

Folder = Literal["weights", "logits"]
FOLDERS: tuple[Folder, ...] = ("weights", "logits")

_KEPT_NAME = re.compile(r"step_([0-9]{6,13})\.safetensors")
_ATTEMPTS, _PAUSE = 3, 0.01  # seconds between them
_Read = TypeVar("_Read")
MOST_RECORDED = 1 << 28  # numbers in a recorded model, whose size no configuration says


class Run:
    """A training, finished or not: its configuration, metrics, and the weights kept at some of its steps.

    >>> run = Run.open("checkpoints/run42")
    >>> run.steps[0], run.config.task.p
    (0, 67)

    Attributes:
        path: the folder.
        config: everything that determined the run.
    """

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        self.config = config
        self._metrics: tuple[FileState, pd.DataFrame] | None = None  # as last read

    @staticmethod
    def open(path: str | Path) -> "Run":
        """Opens the run in that folder.

        Raises:
            RunError: there is no run there.
            ConfigError: its config.json is damaged or of another format version.
        """
        folder = Path(path)
        config_path = folder / "config.json"
        if not folder.exists():
            raise RunError(f"{folder} does not exist: `grokinterp list` shows the runs there are")
        if not exists(config_path):
            raise RunError(f"{folder} is not a run: it holds no config.json")
        text = read_text(config_path, most=LARGEST_CONFIG)
        return Run(folder, RunConfig.from_json(text, str(config_path)))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status.get('status', 'unknown')}, {len(self.steps)} checkpoints)"

    @cached_property
    def task(self) -> AnyTask:
        """The task, with the very split that was trained on."""
        stored, indices = self.path / "split.safetensors", None
        if exists(stored):
            most = most_bytes({"train_indices": (2 * self.config.task.n_inputs,)})  # of int64
            indices = deserialize(read_bytes(stored, most=most), stored).tensors.get("train_indices")
            if indices is None or indices.dtype != torch.int64 or indices.ndim != 1:
                raise RunError(f"{stored} is damaged: it holds no list of training examples, and the split is lost")
        return task_of(self.config, indices)

    @property
    def classification(self) -> Task:
        """The task, of a run that can be analyzed: snapshots and measures are of classes.

        Raises:
            ConfigError: the run is of a regression.
        """
        if isinstance(self.task, RegressionTask):
            raise ConfigError(
                f"{self.path}: {self.task.why_no_classes}, so there is no snapshot and nothing to analyze; its losses, "
                "accuracies and norms are in run.metrics"
            )
        return self.task

    @property
    def status(self) -> dict[str, Any]:
        """status.json: `status`, `step`, `reason`, timings, warnings and checksums, as last written."""
        content = self._json("status.json")
        whole = (
            isinstance(content.get("status"), str)
            and type(content.get("step")) is int
            and 0 <= content["step"] <= LAST_STEP
            and isinstance(content.get("checksums", {}), dict)
            and isinstance(content.get("warnings", []), list)
        )
        if content and not whole:
            raise RunError(
                f"{self.path / 'status.json'} is damaged (no status, or no step): delete it, and resume the run"
            )
        return content

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json: versions, device, threads, command line, forward path."""
        return self._json("environment.json")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row an evaluated step, indexed by step. A line that a crash cut short is left out."""
        file = self.path / "metrics.jsonl"
        state = state_of(file)
        if self._metrics is None or self._metrics[0] != state:
            self._metrics = state, read_metrics(file)
        return self._metrics[1].copy()

    @property
    def steps(self) -> list[int]:
        """The steps at which weights (or, in a recorded run, logits) were kept, ascending."""
        kept = {*kept_steps(self.path / "weights"), *kept_steps(self.path / "logits")}
        return sorted(kept)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The parameters kept at a step, on the CPU, under TransformerLens names.

        Raises:
            RunError: nothing was kept there, the file is damaged, or it does not fit config.json.
        """
        return self._kept("weights", step).tensors

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of each parameter, by name, as the configuration has it.

        Raises:
            ConfigError: a recorded model, whose architecture is not known.
        """
        return parameter_shapes(self.config.model, self.config.task)

    def checksum(self, step: int) -> str:
        """SHA-256 of what was kept at a step, from the files as they are now.

        Raises:
            RunError: nothing was kept there.
        """
        return _checksum(self._contents(step))

    def recorded_checksums(self) -> dict[int, str]:
        """By step, what `checksum` gave when the files were written, as far as status.json records it."""
        by_step: dict[int, list[str]] = {}
        for name, checksum in sorted(self.status.get("checksums", {}).items(), reverse=True):
            match = _KEPT_NAME.fullmatch(name.rpartition("/")[2])
            if match:
                by_step.setdefault(int(match[1]), []).append(str(checksum))
        return {step: _combined(checksums) for step, checksums in by_step.items()}

    def model(self, step: int) -> nn.Module:
        """The model as it was at a step: a HookedTransformer, or an MLP with hooks."""
        model = build_model(self.config, self.task)
        # A HookedTransformer has buffers (mask, IGNORE) that are no weights and are not stored.
        model.load_state_dict(self.weights(step), strict=False)
        return model

    def snapshot(self, step: int) -> "Snapshot":
        """The checkpoint of a step, evaluated on every input.

        Raises:
            ConfigError: the run is of a regression.
            RunError: nothing was kept there.
        """
        from grokinterp.measures import Activity, Snapshot

        config = self.config.model
        if isinstance(config, RecordedConfig):
            return self._recorded_snapshot(step)
        trains = getattr(config, "trains", lambda name: True)
        task, forward = self.classification, self.forward
        n, c = len(task.inputs), task.n_classes
        require_memory(16 * n * c, f"the logits of {n:,} inputs and {c:,} classes")  # twice, in float64
        contents = self._contents(step)  # read once: the checksum is that of what is evaluated
        weights = self._kept("weights", step, contents).tensors

        return Snapshot(
            task,
            forward.logits_by_rows(weights, task.tokens, torch.float64)[:, : task.n_classes],
            step=step,
            weights=weights,
            trained=tuple(name for name in weights if trains(name)),
            forward=lambda changed: forward.logits(changed, task.tokens),
            activity=lambda: Activity(*forward.activity(weights, task.tokens)),
            checksum=_checksum(contents),
        )

    def _recorded_snapshot(self, step: int) -> "Snapshot":
        from grokinterp.measures import Snapshot

        contents = self._contents(step)
        weights, trained = None, None
        if "weights" in contents:
            kept = self._kept("weights", step, contents)
            frozen, weights = kept.metadata.get("frozen", "[]"), kept.tensors
            trained = tuple(name for name in weights if name not in parse_json(frozen))
        logits = self._kept("logits", step, contents).tensors["logits"]
        snapshot = Snapshot.from_logits(self.classification, logits, weights=weights, step=step)
        return replace(snapshot, trained=trained, checksum=_checksum(contents))

    @cached_property
    def forward(self) -> Forward:
        """The exact forward pass of this run's architecture."""
        return forward_for(self.config.model, self.task)

    def read_kept(self, folder: Folder, step: int) -> bytes:
        """What a kept file holds; no more than its configuration lets it have."""
        if folder == "logits":
            shapes = self._logits_shape()
        else:
            recorded = isinstance(self.config.model, RecordedConfig)
            shapes = {"": (MOST_RECORDED,)} if recorded else self.shapes
        return read_bytes(self.path / folder / file_name(step), most=most_bytes(shapes))

    def _logits_shape(self) -> Shapes:
        return {"logits": (len(self.classification.inputs), self.classification.n_classes)}

    def _contents(self, step: int, folders: tuple[Folder, ...] = FOLDERS) -> dict[Folder, bytes]:
        """The files kept at a step, by folder."""
        contents: dict[Folder, bytes] = {
            name: self.read_kept(name, step) for name in folders if exists(self.path / name / file_name(step))
        }
        if not contents:
            kept = self.steps
            near = min(kept, key=lambda other: abs(other - step), default=None)
            hint = f"the nearest step kept is {near}" if near is not None else "no step was kept"
            raise RunError(f"{self.path} kept no {folders[0]} at step {step}: {hint}")
        return contents

    def _kept(self, folder: Folder, step: int, contents: Mapping[Folder, bytes] = MappingProxyType({})) -> TensorFile:
        data = contents[folder] if folder in contents else self._contents(step, (folder,))[folder]
        return self.parse_kept(folder, step, data)

    def parse_kept(self, folder: Folder, step: int, data: bytes) -> TensorFile:
        """Tensors from the content of the file that was kept at a step.

        Args:
            folder: what they are.
            step: of which they are to be.
            data: the content, as it was read.

        Raises:
            RunError: it is damaged, or does not fit config.json.
        """
        found = deserialize(data, self.path / folder / file_name(step))
        if folder == "logits":
            wrong = misfit(found.tensors, self._logits_shape())
        elif isinstance(self.config.model, RecordedConfig):  # of no known shapes
            wrong = misfit(found.tensors, {name: tuple(tensor.shape) for name, tensor in found.tensors.items()})
            wrong = wrong or _wrong_frozen(found.metadata.get("frozen", "[]"))
        else:
            wrong = misfit(found.tensors, self.shapes)
        if not wrong and found.metadata.get("step", str(step)) != str(step):
            wrong = f"they say that they are of step {found.metadata['step']}"
        if wrong:
            raise RunError(f"the {folder} of step {step} in {self.path} do not fit config.json: {wrong}")
        return found

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not exists(file):
            return {}
        text = read_text(file)
        try:
            content = parse_json(text)
        except ValueError as error:
            raise RunError(f"{file} is damaged ({error}): delete it, and resume the run to write it anew") from None
        if not isinstance(content, dict):
            raise RunError(f"{file} is damaged (no JSON object): delete it, and resume the run to write it anew")
        return content


def settled(folder: Path, read: Callable[[], _Read]) -> _Read:
    """What `read` gives of a run that another process may be putting in place of another: of one of the two."""
    for _ in range(_ATTEMPTS - 1):
        before = _identity(folder)
        with suppress(RunError):  # lest that be why
            found = read()
            if _identity(folder) == before:
                return found
        time.sleep(_PAUSE)
    return read()


def _identity(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def run_folders(folder: str | Path) -> list[Path]:
    """The run folders directly below `folder`, by name.

    Raises:
        RunError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"{root} is not a folder: give the one that holds the runs")
    return sorted(path.parent for path in root.glob("[!.]*/config.json"))


def parse_step(reference: str) -> tuple[str, int]:
    """RUN@STEP as run and step.

    Raises:
        ConfigError: another form.
    """
    run, separator, step = reference.rpartition("@")
    if not (separator and run and step.isdecimal()):
        raise ConfigError(f"{reference!r} is not of the form RUN@STEP, for instance checkpoints/run42@1000")
    return run, int(step)


def file_name(step: int) -> str:
    return f"step_{step:06d}.safetensors"


def kept_steps(folder: Path) -> list[int]:
    """The steps of which a folder holds files, ascending."""
    if not folder.is_dir():
        return []
    matches = (_KEPT_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    steps = (int(match[1]) for match in matches if match and file_name(int(match[1])) == match[0])
    return sorted(step for step in steps if step <= LAST_STEP)


def _checksum(contents: Mapping[Folder, bytes]) -> str:
    return _combined([hashlib.sha256(contents[folder]).hexdigest() for folder in FOLDERS if folder in contents])


def _combined(checksums: list[str]) -> str:
    """One checksum for the files of a step: that of the only one, or one over those of several."""
    return checksums[0] if len(checksums) == 1 else hashlib.sha256(" ".join(checksums).encode()).hexdigest()


def _wrong_frozen(text: str) -> str:
    """What is wrong with the list of names that are not trained."""
    try:
        names = parse_json(text)
    except ValueError:
        names = None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return "" if whole else "its list of frozen weights is none"
