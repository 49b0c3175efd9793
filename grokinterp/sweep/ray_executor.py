"""RayExecutor: the orders of a sweep as tasks of a Ray cluster, which may lose machines on the way.

Ray is an extra (`pip install grokinterp[ray]`), imported when it is used. grokinterp must be installed on every node.
"""

import io
import logging
import math
import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from grokinterp.errors import ConfigError
from grokinterp.runs.files import make_folder
from grokinterp.sweep.executors import TICK, Event, Started, Tick
from grokinterp.sweep.jobs import Ended, Failure, Order, carry_out

log = logging.getLogger(__name__)

_CONNECTING = 10.0  # seconds that a cluster has to answer
_RETRIES = 3  # of a task whose node or process died


@dataclass(frozen=True)
class RayExecutor:
    """Tasks on a Ray cluster.

    Attributes:
        address: of the cluster (`auto`, `ray://...`, `host:port`); None for one on this machine, or the one that this
            program is already connected to.
        cpus: cores that each order takes.
        gpus: GPUs that each takes; may be a fraction.
        workers: how many orders are under way at most; by default as many as the cluster has room for.
        results: `shared` where the sweep's folder is the same place on every node; `sent`, where it is not: then a
            run's folder travels to the node and back.
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
            raise ConfigError(f"a run takes 0 cores or GPUs or more, but {self.cpus} and {self.gpus} were given")

    def carry_out(self, orders: Sequence[Order]) -> Generator[Event]:
        """See `Executor`."""
        ray = _import_ray()
        connected_before = ray.is_initialized()
        if not connected_before:
            _connect(ray, self.address)
        if not any(self._fits(node["Resources"]) for node in ray.nodes() if node["Alive"]):
            log.warning("no node has %g cores and %g GPUs free for a run: all wait for one", self.cpus, self.gpus)
        task = ray.remote(_carry_out_there).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_RETRIES, retry_exceptions=False
        )
        waiting, going = list(reversed(orders)), {}
        quiet: dict[Any, tuple[Order, list[float]]] = {}  # tasks that the cluster may not have begun
        tries: dict[str, int] = {}
        try:
            while waiting or going:
                while waiting and len(going) < (self.workers or len(orders)):
                    order = waiting.pop()
                    before = _written(order)
                    reference = task.remote(order.plain(), self._packed(order), max(1, int(self.cpus)))
                    going[reference], quiet[reference] = order, (order, before)
                ready, _ = ray.wait(list(going), timeout=TICK)
                for reference, (order, before) in list(quiet.items()):
                    # Of runs that are sent back nothing is seen here before they are.
                    if reference in ready or self.results == "sent" or _written(order) != before:
                        del quiet[reference]
                        yield Started(tuple(order.runs))
                yield Tick()
                for reference in ready:
                    order = going.pop(reference)
                    for ended in self._outcome(ray, reference, order):
                        # A node that is leaving stops its runs; nobody here asked for that.
                        if ended.stopped and tries.get(ended.name, 0) < _RETRIES:
                            tries[ended.name] = tries.get(ended.name, 0) + 1
                            waiting.append(replace(order, runs={ended.name: order.runs[ended.name]}))
                        else:
                            yield ended
        finally:
            for reference in going:
                ray.cancel(reference, force=True)
            if not connected_before:
                ray.shutdown()

    def _fits(self, resources: Mapping[str, float]) -> bool:
        return resources.get("CPU", 0.0) >= self.cpus and resources.get("GPU", 0.0) >= self.gpus

    def _packed(self, order: Order) -> dict[str, bytes] | None:
        if self.results == "shared":
            return None
        folders = {name: Path(order.folder) / name for name in order.runs}
        return {name: _pack(folder) for name, folder in folders.items() if folder.is_dir()}

    def _outcome(self, ray: Any, reference: Any, order: Order) -> list[Ended]:
        try:
            ended, packed = ray.get(reference)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()
            message = (
                f"its task failed on the cluster, and was tried {_RETRIES + 1} times: {reason[0] if reason else ''}"
            )
            return [Ended(name, Failure("killed", message)) for name in order.runs]
        try:
            for name, content in (packed or {}).items():
                _unpack(content, Path(order.folder) / name)
        except OSError as error:
            reason = f"what was sent back could not be written: {error.strerror or error}"
            return [Ended(name, Failure("error", reason)) for name in order.runs]
        return [Ended.of(plain) for plain in ended]


def _written(order: Order) -> list[float]:
    """When each run of an order last wrote its metrics."""
    files = [Path(order.folder) / name / "metrics.jsonl" for name in order.runs]
    return [file.stat().st_mtime if file.is_file() else 0.0 for file in files]


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("the executor ray needs the package ray: pip install grokinterp[ray]") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address is None:
            ray.init(include_dashboard=False, **options)
            return
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_CONNECTING).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(f"no Ray cluster at {address!r}: {reason[0] if reason else error}") from None


def _carry_out_there(
    order: dict[str, Any], packed: dict[str, bytes] | None, threads: int
) -> tuple[list[dict[str, Any]], dict[str, bytes] | None]:
    """Runs on a node: the ends of an order's runs, and their folders where they are to be sent back."""
    import torch

    torch.set_num_threads(threads)
    given = Order(**order)
    if packed is None:
        return [asdict(ended) for ended in carry_out(given)], None
    with tempfile.TemporaryDirectory(prefix="grokinterp-") as place:
        for name, content in packed.items():
            _unpack(content, Path(place) / name)
        done = carry_out(replace(given, folder=place))
        folders = {name: Path(place) / name for name in given.runs}
        return [asdict(ended) for ended in done], {n: _pack(folder) for n, folder in folders.items() if folder.is_dir()}


def _pack(folder: Path) -> bytes:
    """A folder as a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname=".")
    return buffer.getvalue()


def _unpack(content: bytes, folder: Path) -> None:
    """Puts what `_pack` gave in the place of a folder, in one instant as far as the system can."""
    make_folder(folder.parent)
    incoming, outgoing = (folder.with_name(f".{folder.name}.{what}") for what in ("tmp", "old"))
    shutil.rmtree(incoming, ignore_errors=True)  # of a try that was cut short
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(incoming, filter="data")  # nothing outside of it, no links out, no devices
    if folder.exists():
        folder.replace(outgoing)
        incoming.replace(folder)
        shutil.rmtree(outgoing)
    else:
        incoming.replace(folder)
