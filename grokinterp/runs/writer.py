"""RunWriter: fills a run folder so that at any instant it opens, analyzes and resumes."""

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grokinterp.config import RecordedConfig, RunConfig
from grokinterp.errors import RunError
from grokinterp.models.shapes import parameter_shapes
from grokinterp.runs.files import (
    append,
    checksum_of,
    exists,
    make_folder,
    make_subfolder,
    read_bytes,
    remove,
    remove_leftovers,
    require_inside,
    sync_file,
    sync_folder,
    write_atomically,
)
from grokinterp.runs.findings import Finding, findings_in
from grokinterp.runs.locks import LOCK_NAME
from grokinterp.runs.metrics import metric_lines
from grokinterp.runs.run import MOST_RECORDED, Run, StatusName, file_name, kept_steps
from grokinterp.runs.tensors import deserialize, most_bytes, serialize
from grokinterp.tasks import AnyTask

_METRICS, RESUME = "metrics.jsonl", "resume.safetensors"
_FOLDERS = ("weights", "logits")


class RunWriter:
    """Fills a run folder, so that at any instant it opens, analyzes and resumes."""

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        self.config = config
        self.findings: list[Finding] | None = None  # of the run's numbers, where these are watched
        self._checksums: dict[str, str] = {}
        self._writer = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="grokinterp-writer", initializer=_yield_to_others
        )
        self._being_written: Future[None] | None = None

    @staticmethod
    def create(path: str | Path, config: RunConfig, environment: Mapping[str, Any], task: AnyTask) -> "RunWriter":
        """A new run in a folder that is empty or does not exist.

        Raises:
            RunError: the folder holds a run or anything else, or cannot be written to.
        """
        folder = Path(path)
        refuse_occupied(folder)
        make_folder(folder)
        make_subfolder(folder, "weights")
        if config.task.split == "given":
            assert task.train_mask is not None
            indices = task.train_mask.nonzero().flatten()
            write_atomically(folder / "split.safetensors", serialize({"train_indices": indices}, {}))
        writer = RunWriter(folder, config)
        writer.write_environment(environment)
        write_atomically(folder / "config.json", config.to_json())  # last: from here on it is a run
        return writer

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def write_config(self, config: RunConfig) -> None:
        """Replaces config.json; only for a resumed run that is to last longer."""
        self.config = config
        write_atomically(self.path / "config.json", config.to_json())

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Adds one evaluated step; NaN and Inf are written as null."""
        line = json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()}) + "\n"
        append(self.path / _METRICS, line)

    def keep(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        folder: Literal["weights", "logits"] = "weights",
        frozen: Sequence[str] = (),
        *,
        wait: bool = True,
    ) -> None:
        """Keeps the weights (or logits) of a step, as float32, and which of them are frozen where no config says so.

        Args:
            step: number of updates made.
            tensors: by name; copied before this returns.
            folder: what they are.
            frozen: names of those that are not trained.
            wait: False to return while the file is being written; what goes wrong there is then raised by the next
                call that writes anything but metrics.
        """
        self._finish_writing()
        make_subfolder(self.path, folder)
        plain = {name: t.detach().to("cpu", torch.float32, copy=True).contiguous() for name, t in tensors.items()}
        metadata = {"step": str(step)} | ({"frozen": json.dumps(list(frozen))} if frozen else {})
        self._being_written = self._writer.submit(self._write_kept, f"{folder}/{file_name(step)}", plain, metadata)
        if wait:
            self._finish_writing()

    def metrics_size(self) -> int:
        """Bytes that metrics.jsonl has."""
        file = self.path / _METRICS
        return file.stat().st_size if file.is_file() else 0

    def forget(self, step: int, metrics_size: int) -> None:
        """Removes, as far as the disk lets it, what was kept at a step and what was added to the metrics since."""
        with contextlib.suppress(OSError):
            os.truncate(self.path / _METRICS, metrics_size)
        for folder in _FOLDERS:
            name = f"{folder}/{file_name(step)}"
            with contextlib.suppress(RunError):
                remove(self.path / name)
                self._checksums.pop(name, None)

    def _write_kept(self, name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        content = serialize(tensors, metadata)
        # Where a power cut undoes the renaming, the run resumes from an earlier point and keeps this step again.
        write_atomically(self.path / name, content, sync_parent=False)
        self._checksums[name] = hashlib.sha256(content).hexdigest()

    def _finish_writing(self) -> None:
        """Waits for the file that is being written, and raises what went wrong."""
        being_written, self._being_written = self._being_written, None
        if being_written is not None:
            being_written.result()

    def write_resume_point(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replaces the resume point; what was written so far is synced first, so that it is never behind it."""
        self._finish_writing()
        for folder in _FOLDERS:
            if (self.path / folder).is_dir():
                sync_folder(self.path / folder)
        if exists(self.path / _METRICS):
            sync_file(self.path / _METRICS)
        content = serialize(tensors, {"step": str(step)}, digest=True)
        write_atomically(self.path / RESUME, content)

    def read_resume_point(self) -> tuple[int, dict[str, Tensor]] | None:
        """Step and tensors of the resume point, or None where there is none yet.

        Raises:
            RunError: it is damaged, or not what was written.
        """
        file = self.path / RESUME
        if not exists(file):
            return None
        try:
            found = deserialize(read_bytes(file, most=self._most_bytes()), file)
            step = found.metadata.get("step", "")
            last = self.config.schedule.steps if self.config.schedule else 0
            if not (step.isdecimal() and step.isascii() and int(step[:20]) <= last):
                raise RunError(f"{file} is damaged (its step is {step!r})")
        except RunError as error:
            raise RunError(f"{error}: delete it, and the run resumes from its start") from None
        return int(step), found.tensors

    def take_up(self, step: int) -> None:
        """Says that the run goes on from a step, before anything is changed.

        What was kept up to there keeps the checksum that was recorded when it was written; so do findings.

        Raises:
            RunError: status.json is damaged, a kept file cannot be read, or the folder cannot be written to.
        """
        status = Run(self.path, self.config).status
        recorded = status.get("checksums", {})
        self.findings = [finding for finding in findings_in(status) if finding.step <= step]
        for folder in _FOLDERS:
            for kept_step in kept_steps(self.path / folder):
                name = f"{folder}/{file_name(kept_step)}"
                if kept_step <= step:
                    self._checksums[name] = recorded.get(name) or checksum_of(self.path / name)
        self.write_status("running", max(step, 0))

    def forget_after(self, step: int) -> None:
        """Drops metrics and weights of later steps, which a resumed run makes again.

        Raises:
            RunError: a folder of the run leads elsewhere, or something cannot be read or removed.
        """
        for folder in ("", *_FOLDERS):
            require_inside(self.path / folder, self.path)
            remove_leftovers(self.path / folder)
        metrics = self.path / _METRICS
        if exists(metrics):
            kept = [line.text for line in metric_lines(metrics, tolerant=True) if line.step <= step]
            write_atomically(metrics, "".join(kept))
        for folder in _FOLDERS:
            for kept_step in kept_steps(self.path / folder):
                if kept_step > step:
                    remove(self.path / folder / file_name(kept_step))

    def _most_bytes(self) -> int:
        """How large a resume point can be."""
        model, task, optimizer = self.config.model, self.config.task, self.config.optimizer
        if isinstance(model, RecordedConfig):  # which has none
            return most_bytes({"": (MOST_RECORDED,)})
        window = optimizer.grokfast_window if optimizer is not None and optimizer.grokfast == "ma" else 1
        return most_bytes(parameter_shapes(model, task), copies=4 + window)

    def write_status(self, status: StatusName, step: int, **more: Any) -> None:
        """Replaces status.json; also where a checkpoint that was still being written failed, which is then raised."""
        try:
            self._finish_writing()
        finally:
            checksums = dict(self._checksums)
            if status != "running":  # these change no more
                names = ("config.json", "split.safetensors", _METRICS)
                checksums |= {name: checksum_of(self.path / name) for name in names if exists(self.path / name)}
            found = {} if self.findings is None else {"warnings": [asdict(finding) for finding in self.findings]}
            content = {"status": status, "step": step, **more, **found, "checksums": checksums}
            write_atomically(self.path / "status.json", json.dumps(content, indent=2) + "\n")


def _yield_to_others() -> None:
    """Gives this thread the lowest priority: threads that train wait for each other, and so for whoever delays one."""
    if sys.platform.startswith("linux"):  # elsewhere priorities are of whole processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def refuse_occupied(folder: Path) -> None:
    """Raises a RunError where a new run cannot begin, because the folder holds something."""
    if (folder / "config.json").exists():
        raise RunError(f"{folder} already holds a run: resume it (--resume), or choose another folder")
    if folder.exists() and not _is_vacant(folder):
        raise RunError(f"{folder} exists and is not an empty folder: choose another")


def _is_vacant(folder: Path) -> bool:
    """Whether a folder is empty, but for what a run that was killed before it had a config.json left there."""
    if not folder.is_dir():
        return False
    files = [entry for entry in folder.rglob("*") if not entry.is_dir()]
    started = {folder / "environment.json", folder / "split.safetensors", folder / LOCK_NAME}
    return all(file in started or (file.name.startswith(".") and file.suffix == ".tmp") for file in files)
