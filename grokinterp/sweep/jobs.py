"""Jobs: what one worker trains at a time (one run, or several of one shape), and how.

A job is sent to other processes and machines, so it consists of plain values.
"""

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, GrokinterpError, RunError, one_line
from grokinterp.models.products import Products
from grokinterp.runs.environment import recording_command
from grokinterp.runs.files import require_inside
from grokinterp.runs.locks import FolderInUseError
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.sweep.rows import summarize
from grokinterp.training import train, train_many
from grokinterp.training.preparation import has_ended, may_follow

# A worker outlives a killed parent for a moment, and so does one on a machine that lost its network connection.
_LOCK_TIMEOUT = 60.0
_LOCK_POLL = 0.2

_Cause = Literal["invalid", "diverged", "killed", "error"]


@dataclass(frozen=True)
class Failure:
    """Why a run did not finish.

    Attributes:
        kind: the cause: `invalid` (the configuration cannot be trained), `diverged`, `killed` (its process was killed)
            or `error` (anything else).
        message: one line.
        details: a traceback, if there is one.
    """

    kind: _Cause
    message: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @staticmethod
    def from_json(content: Any) -> "Failure":
        """The failure in a parsed JSON file, its message reduced to one line.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: a field has a wrong value.
        """
        failure = Failure(**content)
        if failure.kind not in get_args(_Cause) or not all(isinstance(text, str) for text in asdict(failure).values()):
            raise ValueError("damaged failure file")
        return replace(failure, message=one_line(failure.message))


@dataclass(frozen=True)
class Job:
    """Runs for one worker. Several runs have one shape and are trained together.

    Attributes:
        folder: the sweep's folder.
        runs: the configuration of each run as JSON, by name of the run.
        device: as in `train`.
        command: the command that started the sweep, which its runs record; empty to record that of this process.
        products: as in `train`.
    """

    folder: str
    runs: dict[str, str]
    device: str = "auto"
    command: str = ""
    products: Products = "float32"


@dataclass(frozen=True)
class Ended:
    """How one run of a job ended.

    Attributes:
        name: name of the run.
        failure: None if the run finished or stopped.
        stopped: the run neither finished nor failed: it was interrupted, or it is `in_use`.
        in_use: another process is training the run.
    """

    name: str
    failure: Failure | None = None
    stopped: bool = False
    in_use: bool = False

    @staticmethod
    def from_json(content: dict[str, Any]) -> "Ended":
        """The inverse of `asdict`."""
        failure = content["failure"]
        return Ended(**{**content, "failure": None if failure is None else Failure(**failure)})


def run_job(job: Job) -> list[Ended]:
    """Train or resume each run of a job, and summarize it. Runs that ended earlier are left unchanged."""
    with recording_command(job.command):
        return _run_all(job)


def _run_all(job: Job) -> list[Ended]:
    root = Path(job.folder)
    configs = {name: RunConfig.from_json(text, name) for name, text in job.runs.items()}
    together = False
    if len(configs) > 1:
        with contextlib.suppress(Exception):  # training each run alone below shows which one fails
            _train_ensemble(root, configs, job)
            together = True
    results: list[Ended] = []
    interrupted = False  # an interrupt of one run also stops the runs after it
    for name, config in configs.items():
        if interrupted:
            results.append(Ended(name, stopped=True))
            continue
        result = _run_one(root / name, None if together else config, job)
        interrupted = not together and result.stopped and not result.in_use
        results.append(result)
    return results


def _train_one(path: Path, config: RunConfig, job: Job) -> None:
    def start() -> None:
        # Checked on every attempt: the process that held the folder may have started the run.
        run = Run.open(path) if (path / "config.json").is_file() else None
        if run is not None and may_follow(config, run.config) and has_ended(run, config):
            return
        try:
            resume = run is not None
            train(config, path, resume=resume, device=job.device, products=job.products, progress=False)
        except RunError:
            if run is not None or not (path / "config.json").is_file():
                raise
            raise FolderInUseError(f"another process has just started {path}") from None

    _retry_while_in_use(start)


def _train_ensemble(root: Path, configs: dict[str, RunConfig], job: Job) -> None:
    paths = [root / name for name in configs]
    for path in paths:
        require_inside(path, root)
    resume = all((path / "config.json").is_file() for path in paths)
    options: dict[str, Any] = {"device": job.device, "products": job.products, "progress": False}
    _retry_while_in_use(lambda: train_many(list(configs.values()), paths, resume=resume, **options))


def _retry_while_in_use(start: Callable[[], Any]) -> None:
    """Call `start`; retry for a while if a process that is about to end still holds the folder."""
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            start()
            return
        except FolderInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_LOCK_POLL)


def _run_one(path: Path, config: RunConfig | None, job: Job) -> Ended:
    """Train a run, unless `config` is None because it is trained already; summarize it; catch every failure."""
    name = path.name
    try:
        require_inside(path, path.parent)
        if config is not None:
            _train_one(path, config, job)
        run = Run.open(path)
        summarize(run)
    except FolderInUseError:  # the other process will finish the run
        return Ended(name, stopped=True, in_use=True)
    except ConfigError as error:
        return Ended(name, Failure("invalid", str(error)))
    except GrokinterpError as error:
        return Ended(name, Failure("error", str(error)))
    except Exception as error:
        first_line = next(iter(str(error).strip().splitlines()), "no message")
        return Ended(name, Failure("error", f"{type(error).__name__}: {first_line}", traceback.format_exc()))
    status = run.status
    if status.get("status") == RunStatus.DIVERGED:
        return Ended(name, Failure("diverged", str(status.get("reason", ""))))
    return Ended(name, stopped=status.get("status") != RunStatus.FINISHED)
