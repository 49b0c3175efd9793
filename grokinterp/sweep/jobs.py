"""Orders: what one worker is to do at a time, one run or several of one shape, and how it does them.

An order goes to other processes and machines, so it is made of plain values.
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
from grokinterp.runs.files import require_inside
from grokinterp.runs.locks import HeldError
from grokinterp.runs.run import Run
from grokinterp.sweep.rows import summarize
from grokinterp.training import train, train_many
from grokinterp.training.preparation import has_ended, may_follow

# A process whose parent was killed lives for a moment longer, and so does one on a machine that was cut off.
_PATIENCE = 60.0


_Kind = Literal["invalid", "diverged", "killed", "error"]


@dataclass(frozen=True)
class Failure:
    """Why there is no finished run.

    Attributes:
        kind: `invalid` (it cannot be trained as configured), `diverged`, `killed` (its process was), or `error`.
        message: one line.
        details: a traceback, where there is one.
    """

    kind: _Kind
    message: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @staticmethod
    def of(kept: Any) -> "Failure":
        """What was kept of one.

        Raises:
            ValueError: it is damaged.
        """
        found = Failure(**kept)
        if found.kind not in get_args(_Kind) or not all(isinstance(text, str) for text in asdict(found).values()):
            raise ValueError("it is damaged")
        return replace(found, message=one_line(found.message))


@dataclass(frozen=True)
class Order:
    """Runs for one worker; several are trained together and are of one shape.

    Attributes:
        folder: of the sweep.
        runs: their names, each with its configuration as JSON.
        device: as in `train`.
    """

    folder: str
    runs: dict[str, str]
    device: str = "auto"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Ended:
    """What came of one run of an order.

    Attributes:
        name: of the run.
        failure: None where it finished, or was stopped.
        stopped: it has neither finished nor failed: somebody interrupted it, or it is `held`.
        held: another process trains it.
    """

    name: str
    failure: Failure | None = None
    stopped: bool = False
    held: bool = False

    @staticmethod
    def of(plain: dict[str, Any]) -> "Ended":
        """The reverse of `asdict`."""
        failure = plain["failure"]
        return Ended(**{**plain, "failure": None if failure is None else Failure(**failure)})


def carry_out(order: Order) -> list[Ended]:
    """Trains or resumes each run of an order, and summarizes it. Runs that ended before are left alone."""
    root = Path(order.folder)
    configs = {name: RunConfig.from_json(text, name) for name, text in order.runs.items()}
    together = False
    if len(configs) > 1:
        with contextlib.suppress(Exception):  # whose fault it was shows when each is trained alone
            _train_together(root, configs, order.device)
            together = True
    done: list[Ended] = []
    interrupted = False  # whoever stops one that is trained alone stops those after it
    for name, config in configs.items():
        if interrupted:
            done.append(Ended(name, stopped=True))
            continue
        done.append(_ended(root / name, None if together else config, order.device))
        interrupted = not together and done[-1].stopped and not done[-1].held
    return done


def _train_one(path: Path, config: RunConfig, device: str) -> None:
    def begin() -> None:
        # Looked at each time: another process that held the folder may have begun the run.
        run = Run.open(path) if (path / "config.json").is_file() else None
        if run is not None and may_follow(config, run.config) and has_ended(run, config):
            return
        try:
            train(config, path, resume=run is not None, device=device, progress=False)
        except RunError:
            if run is not None or not (path / "config.json").is_file():
                raise
            raise HeldError(f"{path} was begun by another process in this instant") from None

    _patiently(begin)


def _train_together(root: Path, configs: dict[str, RunConfig], device: str) -> None:
    paths = [root / name for name in configs]
    for path in paths:
        require_inside(path, root)
    begun = all((path / "config.json").is_file() for path in paths)
    _patiently(lambda: train_many(list(configs.values()), paths, resume=begun, device=device, progress=False))


def _patiently(begin: Callable[[], Any]) -> None:
    """Waits for a process that is about to end and still holds the folder."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            begin()
            return
        except HeldError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _ended(path: Path, config: RunConfig | None, device: str) -> Ended:
    """Trains a run unless it has been (`config` is None), summarizes it, and says how it ended whatever happens."""
    name = path.name
    try:
        require_inside(path, path.parent)
        if config is not None:
            _train_one(path, config, device)
        run = Run.open(path)
        summarize(run)
    except HeldError:  # another process trains it, and will finish it
        return Ended(name, stopped=True, held=True)
    except ConfigError as error:
        return Ended(name, Failure("invalid", str(error)))
    except GrokinterpError as error:
        return Ended(name, Failure("error", str(error)))
    except Exception as error:
        what = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {what[0] if what else 'no message'}"
        return Ended(name, Failure("error", message, traceback.format_exc()))
    status = run.status
    if status.get("status") == "diverged":
        return Ended(name, Failure("diverged", str(status.get("reason", ""))))
    return Ended(name, stopped=status.get("status") != "finished")
