"""RayExecutor: runs the jobs of a sweep as tasks on a Ray cluster, which may lose nodes meanwhile.

Ray is an extra (`pip install grokinterp[ray]`) and is imported on use. grokinterp must be installed on every node.
"""

import io
import math
import os
import shutil
import socket
import tarfile
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from grokinterp.errors import ConfigError, RunError, logger
from grokinterp.runs.files import make_folder
from grokinterp.runs.locks import hold
from grokinterp.sweep.executors import TICK, Event, Started, Tick
from grokinterp.sweep.jobs import Ended, Failure, Job, run_job

log = logger(__name__)

_CONNECT_TIMEOUT = 10.0  # seconds
_RETRIES = 3  # of a task whose node or process died


@dataclass(frozen=True)
class RayExecutor:
    """Runs the jobs of a sweep as tasks on a Ray cluster.

    Attributes:
        address: address of the cluster (`auto`, `ray://...`, `host:port`). None uses the cluster that this program is
            already connected to, or starts one that only this machine can reach.
        cpus: cores per job.
        gpus: GPUs per job; may be a fraction.
        workers: maximum number of jobs at a time (default: as many as the cluster has room for).
        results: `shared` if the sweep's folder has the same path on every node; `sent` if it does not: then the folder
            of a run is sent to the node and back.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    workers: int | None = None
    results: Literal["shared", "sent"] = "shared"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, but is {self.workers}")
        if min(self.cpus, self.gpus) < 0 or not math.isfinite(self.cpus + self.gpus):
            raise ConfigError(f"cpus and gpus must be finite and at least 0, but are {self.cpus} and {self.gpus}")

    def execute(self, jobs: Sequence[Job]) -> Generator[Event]:
        """See `Executor`."""
        ray = _import_ray()
        connected = ray.is_initialized()
        if not connected:
            _connect(ray, self.address)
        if not any(self._fits(node["Resources"]) for node in ray.nodes() if node["Alive"]):
            log.warning("no node has %g cores and %g GPUs for a run: all runs wait for one", self.cpus, self.gpus)
        task = ray.remote(_run_on_node).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_RETRIES, retry_exceptions=False
        )
        waiting: list[Job] = list(reversed(jobs))
        submitted: dict[Any, Job] = {}
        unstarted: dict[Any, list[float]] = {}  # write times of tasks that may not have started
        attempts: Counter[str] = Counter()
        try:
            while waiting or submitted:
                while waiting and len(submitted) < (self.workers or len(jobs)):
                    job = waiting.pop()
                    write_times = _write_times(job)
                    archives = None if self.results == "shared" else _pack_folders(job)
                    reference = task.remote(asdict(job), archives, max(1, int(self.cpus)))
                    submitted[reference], unstarted[reference] = job, write_times
                ready, _ = ray.wait(list(submitted), timeout=TICK)
                for reference, write_times in list(unstarted.items()):
                    job = submitted[reference]
                    # Runs that are sent back show no progress here.
                    if reference in ready or self.results == "sent" or _write_times(job) != write_times:
                        del unstarted[reference]
                        yield Started(tuple(job.runs))
                yield Tick()
                for reference in ready:
                    job = submitted.pop(reference)
                    for ended in self._fetch(ray, reference, job):
                        # A node that leaves the cluster stops its runs without an interrupt here.
                        if ended.stopped and attempts[ended.name] < _RETRIES:
                            attempts[ended.name] += 1
                            waiting.append(replace(job, runs={ended.name: job.runs[ended.name]}))
                        else:
                            yield ended
        finally:
            for reference in submitted:
                ray.cancel(reference, force=True)
            if not connected:
                ray.shutdown()

    def _fits(self, resources: Mapping[str, float]) -> bool:
        return resources.get("CPU", 0.0) >= self.cpus and resources.get("GPU", 0.0) >= self.gpus

    def _fetch(self, ray: Any, reference: Any, job: Job) -> list[Ended]:
        """The results of a task; folders that were sent back replace those of the runs."""
        try:
            results, archives = ray.get(reference)
        except ray.exceptions.RayError as error:
            message = f"its task failed on the cluster in {_RETRIES + 1} attempts: {_first_line(error)}"
            return [Ended(name, Failure("killed", message)) for name in job.runs]
        try:
            for name, archive in (archives or {}).items():
                folder = Path(job.folder) / name
                with hold(folder):  # another process may be training the run here
                    _unpack(archive, folder)
        except (OSError, tarfile.TarError, RunError) as error:
            message = f"the folder that its node sent back could not be written: {error}"
            return [Ended(name, Failure("error", message)) for name in job.runs]
        return [Ended.from_json(content) for content in results]


def _write_times(job: Job) -> list[float]:
    """The time at which each run of a job last wrote its metrics."""
    files = [Path(job.folder) / name / "metrics.jsonl" for name in job.runs]
    return [file.stat().st_mtime if file.is_file() else 0.0 for file in files]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("the executor ray needs Ray: pip install grokinterp[ray]") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is None:
            # Without an address, Ray would join any cluster that RAY_ADDRESS or another user of this machine announces.
            ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, **options)
            return
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would keep trying for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        problem = "Ray cannot be started on this machine" if address is None else f"no Ray cluster at {address!r}"
        raise ConfigError(f"{problem}: {_first_line(error) or error}") from None


def _run_on_node(
    content: dict[str, Any], archives: dict[str, bytes] | None, threads: int
) -> tuple[list[dict[str, Any]], dict[str, bytes] | None]:
    """Run a job on a node. Returns its results and, if the folders of the runs came along, their archives."""
    import torch

    torch.set_num_threads(threads)
    job = Job(**content)
    if archives is None:
        return [asdict(ended) for ended in run_job(job)], None
    with tempfile.TemporaryDirectory(prefix="grokinterp-") as folder:
        for name, archive in archives.items():
            _unpack(archive, Path(folder) / name)
        job = replace(job, folder=folder)
        return [asdict(ended) for ended in run_job(job)], _pack_folders(job)


def _pack_folders(job: Job) -> dict[str, bytes]:
    """The folder of each started run as a tar archive, by name of the run."""
    folders = {name: Path(job.folder) / name for name in job.runs}
    return {name: _pack(folder) for name, folder in folders.items() if folder.is_dir()}


def _pack(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def _unpack(content: bytes, folder: Path) -> None:
    """Replace a folder by the content of an archive that `_pack` made, as atomically as the file system allows."""
    make_folder(folder.parent)
    incoming, backup = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(incoming, ignore_errors=True)  # from an interrupted attempt
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(incoming, filter="data")  # refuses paths and links outside the folder, and devices
    if folder.exists():
        folder.replace(backup)
        incoming.replace(folder)
        shutil.rmtree(backup)
    else:
        incoming.replace(folder)
