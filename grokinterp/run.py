"""Run: one training as a folder on disk, read lazily. `grokinterp.writer.RunWriter` is what fills it."""

import hashlib
import json
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import Forward, build_model, forward_for, task_of
from grokinterp.tasks import AnyTask, RegressionTask, Task

if TYPE_CHECKING:
    from grokinterp.measures import Snapshot

StatusName = Literal["running", "finished", "stopped", "diverged"]

_WEIGHTS_NAME = re.compile(r"step_(\d{6,})\.safetensors")


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
        if not config_path.is_file():
            raise RunError(f"{folder} is not a run: it holds no config.json")
        return Run(folder, RunConfig.from_json(_read_text(config_path), str(config_path)))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status.get('status', 'unknown')}, {len(self.steps)} checkpoints)"

    @cached_property
    def task(self) -> AnyTask:
        """The task, with the very split that was trained on."""
        stored = self.path / "split.safetensors"
        try:
            indices = load_tensors(stored.read_bytes())["train_indices"] if stored.is_file() else None
        except (SafetensorError, KeyError, OSError) as error:
            raise RunError(f"{stored} is damaged ({error}): the split is lost") from None
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
        if content and not (isinstance(content.get("status"), str) and isinstance(content.get("step"), int)):
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
        rows = [row for row, _ in metric_lines(self.path / "metrics.jsonl")]
        frame = pd.DataFrame(rows).astype(float) if rows else pd.DataFrame({"step": pd.Series(dtype=float)})
        return frame.astype({"step": int}).drop_duplicates("step", keep="last").set_index("step").sort_index()

    @property
    def steps(self) -> list[int]:
        """The steps at which weights (or, in a recorded run, logits) were kept, ascending."""
        kept = {*kept_steps(self.path / "weights"), *kept_steps(self.path / "logits")}
        return sorted(kept)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The parameters kept at a step, on the CPU, under TransformerLens names.

        Raises:
            RunError: nothing was kept there, or the file is damaged.
        """
        return self._tensors("weights", step)

    def checksum(self, step: int) -> str:
        """SHA-256 of what was kept at a step, from the files as they are now."""
        digest = hashlib.sha256()
        for folder in ("weights", "logits"):
            file = self.path / folder / file_name(step)
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def model(self, step: int) -> nn.Module:
        """The model as it was at a step: a HookedTransformer, or an MLP with hooks."""
        model = build_model(self.config, self.task)
        # A HookedTransformer has buffers (mask, IGNORE) that are no weights and are not stored.
        weights = self.weights(step)
        shapes = {name: w.shape for name, w in model.named_parameters()}
        wrong = {name: tuple(w.shape) for name, w in weights.items() if w.shape != shapes.get(name, w.shape)}
        if wrong:
            raise RunError(f"the weights of step {step} in {self.path} do not fit config.json: other shapes {wrong}")
        outcome = model.load_state_dict(weights, strict=False)
        missing = [name for name in outcome.missing_keys if name in dict(model.named_parameters())]
        if missing or outcome.unexpected_keys:
            raise RunError(
                f"the weights of step {step} in {self.path} do not fit config.json: "
                f"missing {missing}, unexpected {outcome.unexpected_keys}"
            )
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
        weights = self.weights(step)

        return Snapshot(
            task,
            forward.logits_by_rows(weights, task.tokens, torch.float64)[:, : task.n_classes],
            step=step,
            weights=weights,
            trained=tuple(name for name in weights if trains(name)),
            forward=lambda changed: forward.logits(changed, task.tokens),
            activity=lambda: Activity(*forward.activity(weights, task.tokens)),
        )

    def _recorded_snapshot(self, step: int) -> "Snapshot":
        from grokinterp.measures import Snapshot

        file = self.path / "weights" / file_name(step)
        weights, trained = None, None
        if file.is_file():
            weights = self.weights(step)
            with safe_open(file, framework="pt") as handle:
                frozen = json.loads((handle.metadata() or {}).get("frozen", "[]"))
            trained = tuple(name for name in weights if name not in frozen)
        snapshot = Snapshot.from_logits(
            self.classification, self._tensors("logits", step)["logits"], weights=weights, step=step
        )
        return replace(snapshot, trained=trained)

    @cached_property
    def forward(self) -> Forward:
        """The exact forward pass of this run's architecture."""
        return forward_for(self.config.model, self.task)

    def _tensors(self, folder: str, step: int) -> dict[str, Tensor]:
        file = self.path / folder / file_name(step)
        if not file.is_file():
            kept = self.steps
            near = min(kept, key=lambda other: abs(other - step), default=None)
            hint = f"the nearest step kept is {near}" if near is not None else "no step was kept"
            raise RunError(f"{self.path} kept no {folder} at step {step}: {hint}")
        try:
            return dict(sorted(load_tensors(file.read_bytes()).items()))
        except (SafetensorError, ValueError, OSError) as error:
            raise RunError(f"{file} is damaged ({error}): delete it, or train again") from None

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            content = json.loads(_read_text(file))
        except json.JSONDecodeError as error:
            raise RunError(f"{file} is damaged ({error}): delete it, and resume the run to write it anew") from None
        return content if isinstance(content, dict) else {}


def list_runs(folder: str | Path) -> list[Path]:
    """The run folders directly below `folder`, by name.

    Raises:
        RunError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"{root} is not a folder: give the one that holds the runs")
    return sorted(path.parent for path in root.glob("*/config.json"))


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
    if not folder.is_dir():
        return []
    matches = (_WEIGHTS_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {file}: {error}") from None


def metric_lines(file: Path, tolerant: bool = False) -> list[tuple[dict[str, Any], str]]:
    """Each whole line with what it holds; a last line without its end was cut by a crash and does not count.

    With `tolerant`, reading ends at the first damaged line, which a power cut can leave.
    """
    if not file.is_file():
        return []
    rows = []
    text = file.read_text(encoding="utf-8", errors="replace") if tolerant else _read_text(file)
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            if tolerant:
                break
            raise RunError(f"{file}, line {number} is damaged: resume the run, which writes later lines anew")
        rows.append((row, line))
    return rows
