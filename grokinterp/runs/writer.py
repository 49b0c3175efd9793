"""RunWriter: writes a run folder that can be opened, analyzed and resumed at any moment."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokinterp.config import RunConfig
from grokinterp.errors import RunError, shorten
from grokinterp.runs.checkpoints import CHECKPOINT_NAME, FOLDERS, Folder, checkpoint_steps, file_name
from grokinterp.runs.checksums import is_own, sha256, with_checksum
from grokinterp.runs.files import (
    accessing,
    append,
    exists,
    file_checksum,
    make_folder,
    make_subfolder,
    remove,
    remove_leftovers,
    require_inside,
    sync_file,
    sync_folder,
    temporary_names,
    write_atomically,
)
from grokinterp.runs.findings import Finding, findings_in
from grokinterp.runs.locks import LOCK_NAME, require_held
from grokinterp.runs.metrics import METRICS, lines_up_to, metric_line
from grokinterp.runs.resume_point import admit_config, write_resume_point
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.tensors import serialize
from grokinterp.tasks import AnyTask

START = "start.safetensors"  # a copy of the weights from another run that a run started from

# Regular expression of the names that are written directly in a run folder.
_RUN_FILES = r"(?:config|environment|status|tracker)\.json|metrics\.jsonl|(?:split|start|resume)\.safetensors"
SPLIT = "split.safetensors"
_OPTIONAL = (SPLIT, START)
_CONSTANT = ("config.json", *_OPTIONAL)  # files that a run does not change


class RunWriter:
    """Writes a run folder that can be opened, analyzed and resumed at any moment.

    Attributes:
        path: the run folder.
        config: everything that determines the run.
        findings: warnings for status.json; None for a run whose numbers are not monitored.
    """

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        self.config = config
        self.findings: list[Finding] | None = None
        self._checksums: dict[str, str] = {}
        self._constant: dict[str, str] = {}
        self._writer = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="grokinterp-writer", initializer=_lower_priority
        )
        self._pending_write: Future[None] | None = None

    @staticmethod
    def create(
        path: str | Path, config: RunConfig, environment: Mapping[str, Any], task: AnyTask, start: bytes | None = None
    ) -> "RunWriter":
        """Starts a new run in a folder that is empty or does not exist.

        Args:
            path: the run folder.
            config: everything that determines the run.
            environment: the content of environment.json.
            task: the task, whose split is stored if it was given as indices.
            start: content of the checkpoint of another run that the run starts from, if any.

        Raises:
            RunError: the folder is not empty, or is not writable.
        """
        folder = Path(path)
        require_vacant(folder)
        make_folder(folder)
        remove_leftovers(folder, _RUN_FILES)  # of a run that was killed before it wrote config.json
        for name in _OPTIONAL:
            remove(folder / name)
        make_subfolder(folder, "weights")
        writer = RunWriter(folder, config)
        writer.write_environment(environment)  # first: by this file `require_vacant` recognizes the others as a run's
        if config.task.split == "given":
            indices = task.require_split().nonzero().flatten()
            write_atomically(folder / SPLIT, serialize({"train_indices": indices}, {}))
        if start is not None:
            write_atomically(folder / START, start)
        write_atomically(folder / "config.json", config.to_json())  # last, because this file makes the folder a run
        return writer

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        require_held(self.path)
        write_atomically(self.path / "environment.json", json.dumps(with_checksum(environment), indent=2) + "\n")

    def write_config(self, config: RunConfig) -> None:
        """Replaces config.json, for a resumed run with more steps."""
        require_held(self.path)
        admit_config(self.path, self.config, config)
        self.config = config
        write_atomically(self.path / "config.json", config.to_json())
        self._constant.clear()

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Appends the metrics of one evaluated step; NaN and infinities are written as null."""
        require_held(self.path)
        append(self.path / METRICS, metric_line(row))

    def save_checkpoint(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        folder: Folder = "weights",
        frozen: Sequence[str] = (),
        *,
        wait: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Saves the weights (or logits) of a step.

        Args:
            step: number of updates made.
            tensors: by name; copied before this method returns.
            folder: whether the tensors are weights or logits.
            frozen: names of the weights that are not trained, for a recorded run, whose configuration does not say so.
            wait: if False, return while the file is being written; a failure is then raised by the next call of a
                method that writes anything except metrics.
            dtype: in which the tensors are stored.
        """
        require_held(self.path)
        self._finish_writing()
        make_subfolder(self.path, folder)
        copies = {name: t.detach().to("cpu", dtype, copy=True).contiguous() for name, t in tensors.items()}
        metadata = {"step": str(step)} | ({"frozen": json.dumps(list(frozen))} if frozen else {})
        name = f"{folder}/{file_name(step)}"
        self._pending_write = self._writer.submit(self._write_checkpoint, name, copies, metadata)
        if wait:
            self._finish_writing()

    def metrics_size(self) -> int:
        """Size of metrics.jsonl in bytes."""
        file = self.path / METRICS
        return file.stat().st_size if file.is_file() else 0

    def undo_step(self, step: int, metrics_size: int) -> None:
        """Removes the checkpoint of a step and cuts the metrics back to a size, as far as the disk permits."""
        self._pending_write = None
        self._writer.submit(int).result()  # after what may still be being written
        with contextlib.suppress(OSError):
            os.truncate(self.path / METRICS, metrics_size)
        for folder in FOLDERS:
            name = f"{folder}/{file_name(step)}"
            if self._checksums.pop(name, None) is not None:  # otherwise, it was not written
                with contextlib.suppress(RunError):
                    remove(self.path / name)

    def _write_checkpoint(self, name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        content = serialize(tensors, metadata)
        require_held(self.path)
        # If a power cut undoes the rename, the run resumes from an earlier step and saves this checkpoint again.
        write_atomically(self.path / name, content, sync_parent=False)
        self._checksums[name] = sha256(content)

    def _finish_writing(self) -> None:
        """Waits for the checkpoint that is being written, and raises the error if it failed."""
        pending, self._pending_write = self._pending_write, None
        if pending is not None:
            pending.result()

    def _sync(self) -> None:
        """Syncs checkpoints and metrics, so that after a power cut, status and resume point are never ahead of them."""
        for folder in FOLDERS:
            if (self.path / folder).is_dir():
                sync_folder(self.path / folder)
        if exists(self.path / METRICS):
            sync_file(self.path / METRICS)

    def write_resume_point(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replaces the resume point. Call `write_status` first, which syncs what the resume point relies on."""
        require_held(self.path)
        self._finish_writing()
        write_resume_point(self.path, step, tensors)

    def prepare_resume(self, step: int) -> None:
        """Marks the run as running from a step (-1 for the start), before anything else in the folder changes.

        Checkpoints up to this step keep the checksums that were recorded when they were written, and get none if none
        was recorded: a new checksum would declare damage to be intact. Warnings up to this step are kept.

        Raises:
            RunError: status.json is damaged, or the folder is not writable.
        """
        status = Run(self.path, self.config).status
        recorded = status.get("checksums", {})
        self.findings = [finding for finding in findings_in(status) if finding.step <= step]
        for folder in FOLDERS:
            for saved_step in checkpoint_steps(self.path / folder):
                name = f"{folder}/{file_name(saved_step)}"
                if saved_step <= step and name in recorded:
                    self._checksums[name] = recorded[name]
        self.write_status(RunStatus.RUNNING, max(step, 0))

    def discard_after(self, step: int) -> None:
        """Removes the metrics and checkpoints of later steps, which the resumed run computes again.

        Raises:
            RunError: a folder of the run is a symlink to somewhere else, or a file cannot be read or removed.
        """
        for folder in ("", *FOLDERS):
            require_inside(self.path / folder, self.path)
            remove_leftovers(self.path / folder, CHECKPOINT_NAME.pattern if folder else _RUN_FILES)
        metrics = self.path / METRICS
        if exists(metrics):
            write_atomically(metrics, "".join(line.text for line in lines_up_to(metrics, step)))
        for folder in FOLDERS:
            for saved_step in checkpoint_steps(self.path / folder):
                if saved_step > step:
                    remove(self.path / folder / file_name(saved_step))
                    self._checksums.pop(f"{folder}/{file_name(saved_step)}", None)

    def write_status(self, status: RunStatus, step: int, **more: Any) -> None:
        """Replaces status.json, even if a pending checkpoint could not be written; that error is raised afterwards.

        Args:
            status: progress of the run.
            step: number of updates made.
            **more: further entries.
        """
        require_held(self.path)
        try:
            self._finish_writing()
            self._sync()
        finally:
            ended = status != RunStatus.RUNNING  # from now on, metrics.jsonl does not change
            for name in _CONSTANT:  # computed once: a file that is damaged later must not get a new checksum
                if name not in self._constant and exists(self.path / name):
                    self._constant[name] = file_checksum(self.path / name)
            metrics = self.path / METRICS
            checksums = {**self._checksums, **self._constant}
            if ended and exists(metrics):
                checksums[METRICS] = file_checksum(metrics)
            warnings = {} if self.findings is None else {"warnings": [asdict(finding) for finding in self.findings]}
            if "reason" in more:  # of an error, which may be of any length
                more["reason"] = shorten(more["reason"])
            content = {"status": status, "step": step, **more, **warnings, "checksums": checksums}
            write_atomically(self.path / "status.json", json.dumps(with_checksum(content), indent=2) + "\n")


def _lower_priority() -> None:
    """Gives this thread the lowest priority: training threads wait for each other, so delaying one delays them all."""
    if sys.platform.startswith("linux"):  # on other systems, only a whole process has a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def require_vacant(folder: Path) -> None:
    """Checks that a new run can start in a folder.

    Raises:
        RunError: the folder is not empty.
    """
    with accessing("read", folder):
        vacant = not folder.exists() or _is_vacant(folder)
    if not vacant and exists(folder / "config.json"):
        raise RunError(
            f"{folder} already holds a run: resume it (--resume; in Python, resume=True), start again and keep it "
            "under another name (--restart; restart=True), or choose another folder"
        )
    if not vacant:
        raise RunError(f"{folder} exists and is not an empty folder: choose another folder")


def _is_vacant(folder: Path) -> bool:
    """Whether a folder is empty, except for what a run leaves that ends before its first evaluation."""
    if not folder.is_dir():
        return False
    entries = [entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir()]
    names = {str(entry.relative_to(folder)) for entry in entries if entry.is_file() and not entry.is_symlink()}
    written = names & {"environment.json", "config.json", *_OPTIONAL}
    others = names - written - {LOCK_NAME}
    if len(names) < len(entries) or not all(map(temporary_names(_RUN_FILES).fullmatch, others)):
        return False
    return not written or is_own(folder / "environment.json")
