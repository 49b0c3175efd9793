"""Callbacks: a progress bar and a stopping rule; tracker.py has another. No callback changes an update."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grokinterp.config import RunConfig, ScheduleConfig

GROKKED_ACCURACY = 0.99


class Callback:
    """Base class of callbacks: override the methods you need.

    >>> class Steps(Callback):
    ...     def on_step(self, step: int) -> None:
    ...         self.last = step
    ...
    >>> callback = Steps()
    >>> callback.on_step(7)
    >>> callback.last
    7
    """

    def on_open(self, folder: Path) -> None:
        """Called once, before `on_start`, with the run folder, which this process has locked."""

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        """Called once, before the first update.

        Args:
            config: of the run.
            step: the step at which training starts; not 0 if the run is resumed.
            last_step: the step at which training ends unless it is stopped earlier.
        """

    def on_step(self, step: int) -> None:
        """Called after each update."""

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        """Called with each row of metrics, including the rows before a resume; return True to end the run."""
        return False

    def on_end(self, status: str) -> None:
        """Called once, when training ends for whatever reason."""


class ProgressBar(Callback):
    """Shows step, speed, remaining time, losses and accuracies, in a terminal or a notebook."""

    def __init__(self, show: bool | None = None):
        """Creates the progress bar.

        Args:
            show: whether to show it; by default, only if stderr is a terminal or the code runs in a notebook.
        """
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
            values = {
                f"{split} {label}": f"{metrics[f'{split}_{metric}']:{spec}}"
                for split in ("train", "test")
                for label, metric, spec in (("loss", "loss", ".2g"), ("acc", "accuracy", ".3f"))
                if f"{split}_{metric}" in metrics
            }
            self.bar.set_postfix(values, refresh=False)
        return False

    def on_end(self, status: str) -> None:
        if self.bar is not None:
            self.bar.close()


class StopWhenGrokked(Callback):
    """Ends a run at `stop_factor` times the first evaluated step with at least 99 % test accuracy."""

    def __init__(self, schedule: ScheduleConfig):
        self.factor = schedule.stop_factor
        self.grokked_at: int | None = None

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        step = int(metrics["step"])
        if self.grokked_at is None and (metrics.get("test_accuracy") or 0.0) >= GROKKED_ACCURACY:
            self.grokked_at = step
        return self.grokked_at is not None and step >= self.factor * self.grokked_at


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
