"""What watches a training: a progress bar, a stopping rule, trackers. None of them changes an update."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from grokinterp.config import RunConfig, ScheduleConfig
from grokinterp.errors import ConfigError, nearest

GROKKED_ACCURACY = 0.99


class Callback:
    """Override what is of interest; every method may be left alone."""

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        """Called once, before the first update: the run begins at `step` and is to end at `last_step`."""

    def on_step(self, step: int) -> None:
        """Called after each update."""

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        """Called with each row of metrics (and, on resuming, with the rows there are); True ends the run here."""
        return False

    def on_end(self, status: str) -> None:
        """Called once, whatever ended the run."""


class ProgressBar(Callback):
    """Steps, steps/s and time left, with losses and accuracies; in a terminal or a notebook, silent elsewhere."""

    def __init__(self, show: bool | None = None):
        """Args: show: True or False to force it; by default shown where somebody can see it."""
        self.show = show
        self.bar: Any = None

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        if not (self.show if self.show is not None else (sys.stderr.isatty() or _in_notebook())):
            return
        if find_spec("ipywidgets") is not None:
            from tqdm.auto import tqdm
        else:  # tqdm.auto would warn
            from tqdm import tqdm

        self.bar = tqdm(total=last_step, initial=step, unit="step", dynamic_ncols=True)

    def on_step(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        if self.bar is not None:
            shown = {
                f"{split} {what}": f"{metrics[f'{split}_{full}']:{form}}"
                for split in ("train", "test")
                for what, full, form in (("loss", "loss", ".2g"), ("acc", "accuracy", ".3f"))
                if f"{split}_{full}" in metrics
            }
            self.bar.set_postfix(shown, refresh=False)
        return False

    def on_end(self, status: str) -> None:
        if self.bar is not None:
            self.bar.close()


class StopWhenGrokked(Callback):
    """Ends a run at `stop_factor` times the first evaluated step with 99 % test accuracy."""

    def __init__(self, schedule: ScheduleConfig):
        self.factor = schedule.stop_factor
        self.grokked_at: int | None = None

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if self.grokked_at is None and (metrics.get("test_accuracy") or 0.0) >= GROKKED_ACCURACY:
            self.grokked_at = step
        return self.grokked_at is not None and step >= self.factor * self.grokked_at


class Tracker(Callback):
    """Sends each row of metrics to Weights & Biases or trackio, which are imported only here and only on request."""

    def __init__(self, service: str, project: str = "grokinterp"):
        """Args: service: `wandb` or `trackio`; project: under which name.

        Raises:
            ConfigError: the service is not known, or its package is not installed.
        """
        if service not in ("wandb", "trackio"):
            raise ConfigError(f"tracker {service!r} is not known: {nearest(service, ('wandb', 'trackio'))}")
        try:
            self.module: Any = import_module(service)
        except ImportError:
            raise ConfigError(f"tracker {service!r} is not installed: pip install {service}") from None
        self.project = project
        self.run: Any = None
        self.last_step = -1

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        self.run = self.module.init(project=self.project, config=asdict(config))
        self.last_step = step - 1

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if self.run is not None and step > self.last_step:
            self.module.log({name: value for name, value in metrics.items() if name != "step"}, step=step)
            self.last_step = step
        return False

    def on_end(self, status: str) -> None:
        if self.run is not None:
            self.module.finish()


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
