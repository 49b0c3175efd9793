"""Run: a training as a folder on disk, read lazily. `grokinterp.runs.writer.RunWriter` writes it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.display import Card, Carded
from grokinterp.errors import ConfigError, GrokinterpError, RunError
from grokinterp.measures.own_model import Names, Parts
from grokinterp.models import Forward, build_model, forward_for, task_of
from grokinterp.models.building import set_weights
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.checkpoints import (
    CHECKPOINT_NAME,
    FOLDERS,
    Folder,
    Step,
    checkpoint_steps,
    checksum_of,
    combined_checksum,
    describe_bad_frozen,
    file_name,
    resolve_step,
)
from grokinterp.runs.checksums import read_checked_json
from grokinterp.runs.files import MAX_CONFIG_BYTES, MAX_STEP, exists, file_state, parse_json, read_bytes, read_text
from grokinterp.runs.folders import as_path
from grokinterp.runs.metrics import read_metrics, require_metrics_size
from grokinterp.runs.recorded import OwnModel, describe_bad_outputs, from_outputs, no_logits
from grokinterp.runs.tensors import LARGEST_RECORDED, Shapes, TensorFile, describe_misfit, deserialize, max_bytes
from grokinterp.tasks import AnyTask, RegressionTask, Task

if TYPE_CHECKING:
    import grokinterp
    from grokinterp.measures import Snapshot

_BYTES_PER_CHECKPOINT = 250  # of status.json, which has a checksum for the weights and one for the logits
_FEW_CHECKPOINTS = 30_000  # always allowed, because checkpoints may have been deleted


class Run(Carded):
    """A training, finished or not: its configuration, its metrics, and checkpoints at some of its steps.

    >>> run = Run.open("checkpoints/run42")
    >>> run.steps[0], run.config.task.p
    (0, 67)

    Attributes:
        path: the run folder.
        config: everything that determines the run.
    """

    _INSTEAD: ClassVar[Mapping[tuple[str, ...], str]] = {
        ("models", "checkpoints", "snapshots"): "run.model(step) or run.snapshot(step) for step in run.steps",
        ("history", "logs", "log", "losses"): "run.metrics, a DataFrame with one row per evaluated step",
        ("plot", "timeline"): "run.analyze(), which has .plot() and .timeline",
        ("report", "to_html"): "gi.write_report(run.analyze())",
        ("train", "resume", "fit"): "gi.train(run.config, run.path, resume=True)",
        ("to_pandas", "to_dataframe", "df"): "run.metrics, or run.analyze().timeline",
        ("seed",): "run.config.model_seed",
    }

    def __init__(self, path: str | Path, config: RunConfig | None = None):
        if config is None:
            raise ConfigError(f"Run({str(path)!r}) lacks a configuration: to open a run, call gi.load({str(path)!r})")
        self.path = Path(path)
        self.config = config
        self.own_model: OwnModel | None = None  # see `with_model`
        self._metrics: tuple[Any, pd.DataFrame] | None = None  # cache of the last read

    @staticmethod
    def open(path: str | Path) -> "Run":
        """Opens a run folder.

        Args:
            path: the run folder.

        Raises:
            RunError: the folder does not exist or is not a run.
            ConfigError: its config.json is damaged or has another format version.
        """
        folder = as_path(path)
        config_path = folder / "config.json"
        if not exists(folder):
            raise RunError(f"{folder} does not exist: `grokinterp list` shows the existing runs")
        if not exists(config_path):
            sweep = exists(folder / "sweep.json")
            what = "a sweep: give one of its runs" if sweep else "not a run: it has no config.json"
            raise RunError(f"{folder} is {what}")
        text = read_text(config_path, limit=MAX_CONFIG_BYTES)
        return Run(folder, RunConfig.from_json(text, str(config_path)))

    def _card(self) -> Card:
        facts = {"task": self.config.task.title, "model": self.config.model.kind}
        try:
            status, steps, metrics = self.status, self.steps, self.metrics
            facts["status"] = f"{status.get('status', 'unknown')} at step {status.get('step', 0):,}"
            facts["checkpoints"] = f"{len(steps):,}" + (f", steps {steps[0]:,} to {steps[-1]:,}" if steps else "")
            for name in ("train_accuracy", "test_accuracy"):
                if name in metrics and len(metrics):
                    facts[name.replace("_", " ")] = f"{metrics[name].iloc[-1]:.4f} at step {metrics.index[-1]:,}"
        except GrokinterpError as error:
            facts["problem"] = str(error)
        return Card(f"Run {self.path}", facts, ["run.analyze()", "run.metrics", "run.steps", "run.model(step)"])

    def analyze(self, **options: Any) -> "grokinterp.Analysis":
        """Computes measures at every checkpoint, as `grokinterp.analyze` does; it takes the same options."""
        import grokinterp

        return grokinterp.analyze(self, **options)

    @property
    def transition(self) -> "grokinterp.Transition":
        """The transition from memorization to generalization, located by `analyze`, whose results are stored."""
        return self.analyze().transition

    @cached_property
    def task(self) -> AnyTask:
        """The task, with the split that the run is trained on."""
        stored, indices = self.path / "split.safetensors", None
        if self.config.task.split == "given":
            limit = max_bytes({"train_indices": (2 * self.config.task.n_inputs,)})  # of int64
            indices = deserialize(read_bytes(stored, limit=limit), stored).tensors.get("train_indices")
            if indices is None or indices.dtype != torch.int64 or indices.ndim != 1:
                raise RunError(f"{stored} is damaged: it has no list of training examples. Restore the original file.")
        return task_of(self.config, indices)

    @property
    def classification(self) -> Task:
        """The task, provided that it has classes, which snapshots and measures need.

        Raises:
            ConfigError: the task is a regression.
        """
        if isinstance(self.task, RegressionTask):
            raise ConfigError(
                f"{self.path}: {self.task.why_no_classes}, so there is no snapshot and nothing to analyze; losses, "
                "accuracies and norms are in run.metrics"
            )
        return self.task

    @property
    def status(self) -> dict[str, Any]:
        """status.json: `status`, `step`, `reason`, timings, warnings and checksums, as last written."""
        content = self._json("status.json")
        valid = (
            isinstance(content.get("status"), str)
            and type(content.get("step")) is int
            and 0 <= content["step"] <= MAX_STEP
            and isinstance(content.get("checksums", {}), dict)
            and isinstance(content.get("warnings", []), list)
        )
        if content and not valid:
            raise self._damaged("status.json", "no valid status or step")
        return content

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json: versions, device, threads, command line, forward path."""
        return self._json("environment.json")

    @property
    def metrics(self) -> pd.DataFrame:
        """Table with one row per evaluated step, indexed by step, without a last line that a crash cut short."""
        file = self.path / "metrics.jsonl"
        state = file_state(file)
        if self._metrics is None or self._metrics[0] != state:
            require_metrics_size(file, self.config, len(self.steps))
            self._metrics = state, read_metrics(file)
            # For find_transition; no guess of a number is right by chance.
            self._metrics[1].attrs["n_classes"] = getattr(self.config.task, "p", math.inf)
        return self._metrics[1].copy()

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint of the weights (or, in a recorded run, the logits), ascending."""
        return sorted({step for folder in FOLDERS for step in checkpoint_steps(self.path / folder)})

    def weights(self, step: Step) -> dict[str, Tensor]:
        """The parameters of a checkpoint, on the CPU, under TransformerLens names.

        Raises:
            RunError: there is no checkpoint at this step, the file is damaged, or it does not fit config.json.
        """
        return self._checkpoint("weights", resolve_step(self, step)).tensors

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of each parameter, by name, according to the configuration.

        Raises:
            ConfigError: the model was recorded, so that its architecture is unknown.
        """
        return parameter_shapes(self.config.model, self.config.task)

    def checksum(self, step: int) -> str:
        """SHA-256 of a checkpoint, computed from the files as they are now.

        Raises:
            RunError: there is no checkpoint at this step.
        """
        return checksum_of(self._contents(step))

    def recorded_checksums(self) -> dict[int, str]:
        """By step, the checksums (as in `checksum`) that status.json recorded when the files were written."""
        by_step: dict[int, list[str]] = {}
        for name, checksum in sorted(self.status.get("checksums", {}).items(), reverse=True):
            match = CHECKPOINT_NAME.fullmatch(name.rpartition("/")[2])
            if match:
                by_step.setdefault(int(match[1]), []).append(str(checksum))
        return {step: combined_checksum(checksums) for step, checksums in by_step.items()}

    def model(self, step: Step) -> nn.Module:
        """The model with the weights of a checkpoint and the hooks of TransformerLens.

        It is a HookedTransformer (with version 4 of TransformerLens, a TransformerBridge), or, for MLPs and where these
        cannot express the architecture, a HookedRootModule.

        >>> model = Run.open("checkpoints/run42").model("last")

        Args:
            step: the step of the checkpoint, or `last`.

        Raises:
            ConfigError: the model was recorded, and `with_model` did not say which one it is.
            RunError: there is no checkpoint at this step.
        """
        weights = self.weights(step)
        if self.own_model is not None:
            return self.own_model.with_weights(weights)
        return set_weights(build_model(self.config, self.task), weights)

    def with_model(
        self,
        model: nn.Module,
        *,
        embedding: Names | None = None,
        neurons: str | None = None,
        unembedding: Names | None = None,
    ) -> "Run":
        """This run with the model that was recorded, which then computes logits and neurons from the recorded weights.

        The other arguments are those of `Snapshot.from_model`. The model itself is not changed.

        Raises:
            ConfigError: the run was trained here, not recorded.
        """
        if not isinstance(self.config.model, RecordedConfig):
            raise ConfigError(f"{self.path} was trained, not recorded: run.model(step) gives its model")
        run = Run(self.path, self.config)
        run.own_model = OwnModel(model, Parts(embedding, neurons, unembedding))
        return run

    def snapshot(self, step: Step, *, neurons: bool = False) -> "Snapshot":
        """A checkpoint evaluated on every input.

        Args:
            step: the step of the checkpoint, or `last`.
            neurons: keep the neurons from the forward pass; otherwise, the first use of them takes a second one.

        Raises:
            ConfigError: the task is a regression.
            RunError: there is no checkpoint at this step, or its logits were not recorded (see `with_model`).
        """
        from grokinterp.models.snapshots import evaluated

        step = resolve_step(self, step)
        if isinstance(self.config.model, RecordedConfig):
            return self._recorded_snapshot(step)
        task = self.classification
        contents = self._contents(step)  # read only once, so that the checksum belongs to these weights
        weights = self._checkpoint("weights", step, contents).tensors
        return evaluated(task, self.forward, weights, step=step, neurons=neurons, checksum=checksum_of(contents))

    def _recorded_snapshot(self, step: int) -> "Snapshot":
        contents = self._contents(step)
        weights, trained = None, None
        if "weights" in contents:
            file = self._checkpoint("weights", step, contents)
            frozen, weights = parse_json(file.metadata.get("frozen", "[]")), file.tensors
            trained = tuple(name for name in weights if name not in frozen)
        if self.own_model is not None and weights is not None:
            snapshot = self.own_model.snapshot(self.classification, weights, step)
        elif "logits" in contents:
            tensors = self._checkpoint("logits", step, contents).tensors
            snapshot = from_outputs(self.classification, tensors, weights=weights, step=step)
        else:
            raise no_logits(self.path, step)
        return replace(snapshot, trained=trained, checksum=checksum_of(contents))

    @cached_property
    def forward(self) -> Forward:
        """The exact forward pass of this run's architecture."""
        return forward_for(self.config.model, self.task)

    def read_checkpoint(self, folder: Folder, step: int) -> bytes:
        """Reads a checkpoint file, which must not be larger than the configuration implies.

        Raises:
            RunError: there is no checkpoint at this step, or the file cannot be read.
        """
        if not exists(self.path / folder / file_name(step)):
            raise self._no_checkpoint(folder, step)
        limit = max_bytes(self._expected_shapes(folder) or LARGEST_RECORDED)
        return read_bytes(self.path / folder / file_name(step), limit=limit)

    def _expected_shapes(self, folder: Folder) -> Shapes | None:
        """The shapes in a checkpoint file; None for a recorded model."""
        recorded = folder == "logits" or isinstance(self.config.model, RecordedConfig)
        return None if recorded else self.shapes

    def _contents(self, step: int, folders: tuple[Folder, ...] = FOLDERS) -> dict[Folder, bytes]:
        """The content of the checkpoint files of a step, by folder."""
        contents: dict[Folder, bytes] = {
            name: self.read_checkpoint(name, step) for name in folders if exists(self.path / name / file_name(step))
        }
        if not contents:
            raise self._no_checkpoint(folders[0], step)
        return contents

    def _no_checkpoint(self, folder: Folder, step: int) -> RunError:
        nearest = min(self.steps, key=lambda candidate: abs(candidate - step), default=None)
        hint = f"the nearest checkpoint is at step {nearest}" if nearest is not None else "it has no checkpoints"
        hint = 'for the last checkpoint, write run.model("last")' if step < 0 else hint
        return RunError(f"{self.path} has no {folder} of step {step}: {hint}")

    def _checkpoint(
        self, folder: Folder, step: int, contents: Mapping[Folder, bytes] = MappingProxyType({})
    ) -> TensorFile:
        data = contents[folder] if folder in contents else self._contents(step, (folder,))[folder]
        return self.parse_checkpoint(folder, step, data)

    def parse_checkpoint(self, folder: Folder, step: int, data: bytes) -> TensorFile:
        """Parses the content of a checkpoint file.

        Args:
            folder: whether the file has weights or logits.
            step: the step of the checkpoint.
            data: the content of the file.

        Raises:
            RunError: the content is damaged, or does not fit config.json.
        """
        file = deserialize(data, self.path / folder / file_name(step))
        shapes = self._expected_shapes(folder)
        sizes = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
        if folder == "logits":
            task = self.classification
            problem = describe_bad_outputs(file.tensors, len(task.inputs), task.n_classes, task.p)
        else:
            problem = describe_misfit(file.tensors, sizes if shapes is None else shapes)
        if shapes is None:
            problem = problem or describe_bad_frozen(file.metadata.get("frozen", "[]"))
        if not problem and file.metadata.get("step", str(step)) != str(step):
            problem = f"the file is from step {file.metadata['step']}"
        if problem:
            raise RunError(f"the {folder} of step {step} in {self.path} do not fit config.json: {problem}")
        return file

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not exists(file):
            return {}
        try:
            limit = _BYTES_PER_CHECKPOINT * _FEW_CHECKPOINTS  # parsed JSON takes 30 times as much memory
            state = file_state(file)
            if state is not None and state[1] > limit:  # listing the checkpoints takes longer than reading a small file
                limit = max(limit, _BYTES_PER_CHECKPOINT * len(self.steps))
            return read_checked_json(file, limit=limit)
        except ValueError as error:
            raise self._damaged(name, str(error)) from None

    def _damaged(self, name: str, reason: str) -> RunError:
        return RunError(
            f"{self.path / name} is damaged ({reason}): restore the original file, or set this one aside with "
            f"`grokinterp verify --repair {self.path}`"
        )
