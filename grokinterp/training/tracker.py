"""Tracker: sends the metrics of a run to Weights & Biases or trackio, which nothing else imports."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError, RunError, nearest
from grokinterp.runs.checksums import read_checked_json, with_checksum
from grokinterp.runs.files import exists, write_atomically
from grokinterp.training.callbacks import Callback

TRACKER = "tracker.json"


class Tracker(Callback):
    """Sends the configuration and each row of metrics to Weights & Biases or trackio.

    >>> import grokinterp as gi
    >>> gi.train(gi.preset("demo"), "checkpoints/demo", callbacks=[Tracker("wandb")])  # doctest: +SKIP
    >>> Tracker("tensorboard")
    Traceback (most recent call last):
    grokinterp.errors.ConfigError: unknown tracker 'tensorboard': choose from wandb, trackio

    The service gets the content of config.json, the name of the run folder, and each row of metrics.jsonl under its
    step; nothing else: no weights, no paths, and nothing of environment.json. The services themselves add the load of
    the CPU and the GPU, and wandb the host name, the command line, and the commit, unless its settings forbid that.

    A resumed training continues the same run of the service, whose identifier is in `tracker.json` in the run folder.
    Rows that an interrupted training had sent after its last resume point are computed again to the same bits: wandb
    drops them, and trackio shows them twice. A training that was not tracked before sends its earlier rows, too.
    """

    def __init__(self, service: str, project: str = "grokinterp"):
        """Imports the package of the service.

        Args:
            service: `wandb` or `trackio`.
            project: name of the project there.

        Raises:
            ConfigError: the service is unknown, or its package is not installed. Later, also if the service fails.
        """
        if service not in ("wandb", "trackio"):
            raise ConfigError(f"unknown tracker {service!r}: {nearest(service, ('wandb', 'trackio'))}")
        try:
            self.module: Any = import_module(service)
        except ImportError:
            raise ConfigError(f"tracker {service!r} is not installed: pip install {service}") from None
        self.service, self.project = service, project
        self.folder: Path | None = None
        self.run: Any = None
        self.last_step = -1

    def on_open(self, folder: Path) -> None:
        self.folder = folder

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        identity, is_new = self._identity()
        name = "run" if self.folder is None else self.folder.resolve().name
        if self.service == "wandb":
            options = {"id": identity["id"], "name": name}
        else:  # trackio identifies a run by its name
            options = {"name": f"{name}-{identity['id']}"}
        with self._reporting("start"):
            self.run = self.module.init(project=identity["project"], resume="allow", config=asdict(config), **options)
        self.last_step = -1 if is_new else step
        if is_new:
            self._save(identity)

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if self.run is not None and step > self.last_step:
            with self._reporting("send metrics"):
                self.module.log({name: value for name, value in metrics.items() if name != "step"}, step=step)
            self.last_step = step
        return False

    def on_end(self, status: str) -> None:
        if self.run is not None:
            with self._reporting("finish"):
                self.module.finish()

    def _identity(self) -> tuple[dict[str, str], bool]:
        """The project and the identifier of the service's run, and whether they are new."""
        stored = self._stored().get(self.service)
        if isinstance(stored, dict) and all(isinstance(stored.get(key), str) for key in ("project", "id")):
            return {"project": stored["project"], "id": stored["id"]}, False
        return {"project": self.project, "id": os.urandom(4).hex()}, True

    def _stored(self) -> dict[str, Any]:
        if self.folder is None or not exists(self.folder / TRACKER):
            return {}
        try:
            return read_checked_json(self.folder / TRACKER)
        except ValueError as error:
            raise RunError(
                f"{self.folder / TRACKER} is damaged ({error}): restore the original file, or delete it to continue in "
                "a new run of the tracker"
            ) from None

    def _save(self, identity: Mapping[str, str]) -> None:
        if self.folder is not None:
            content = with_checksum({**self._stored(), self.service: dict(identity)})
            write_atomically(self.folder / TRACKER, json.dumps(content, indent=2) + "\n")

    @contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        """Turns any error of the service into one that says how to continue; the service may raise anything."""
        try:
            yield
        except Exception as error:
            raise ConfigError(
                f"{self.service} cannot {action} ({type(error).__name__}: {error}): log in to {self.service}, "
                "and resume the run (--resume; in Python, resume=True), or resume it without the tracker"
            ) from error
