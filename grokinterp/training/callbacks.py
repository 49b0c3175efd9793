"""Callbacks: the base class, a progress bar and progress lines. No callback changes an update.

The stopping rules are in stopping.py, the tracker in tracker.py.
"""

import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grokinterp.config import RunConfig
from grokinterp.statistics.formatting import duration

# The bar takes what the text leaves, so that 80 columns show the accuracies and 100 the losses too.
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining}, {rate_fmt}{postfix}]"


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

        self.bar = tqdm(total=last_step, initial=step, unit="step", dynamic_ncols=True, bar_format=_BAR)

    def on_step(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        if self.bar is not None:
            self.bar.set_postfix_str(describe_metrics(metrics), refresh=False)
        return False

    def on_end(self, status: str) -> None:
        if self.bar is not None:
            self.bar.close()


class ProgressLines(Callback):
    """Reports the progress in a line every 30 seconds, where there is no terminal for a progress bar."""

    def __init__(self, write: Callable[[str], None], interval: float = 30.0):
        """Creates the callback.

        Args:
            write: takes a line, such as `print`.
            interval: seconds between two lines.
        """
        self.write, self.interval = write, interval
        self.start_time = self.time = 0.0
        self.start_step = self.last_step = 0
        self.metrics, self.about = "", "about"

    def on_start(self, config: RunConfig, step: int, last_step: int) -> None:
        self.about = "at most" if config.training().schedule.may_stop_early else "about"
        self.start_time = self.time = time.monotonic()
        self.start_step, self.last_step = step, last_step

    def on_step(self, step: int) -> None:
        now = time.monotonic()
        if now - self.time < self.interval:
            return
        self.time = now
        rate = (step - self.start_step) / (now - self.start_time)
        left = duration((self.last_step - step) / rate)
        progress = f"step {step:,} of {self.last_step:,}, {100 * step / self.last_step:.0f} %"
        self.write(f"{progress}; {rate:.3g} steps/s, {self.about} {left} left; {self.metrics}")

    def on_evaluation(self, metrics: Mapping[str, float]) -> bool:
        self.metrics = describe_metrics(metrics)
        return False


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """The accuracies and losses of an evaluated step, on training and test inputs, in a few words.

    >>> describe_metrics({"train_accuracy": 1.0, "test_accuracy": 0.031, "train_loss": 1.2e-7, "test_loss": 11.3})
    'accuracy 1.000/0.031, loss 1.2e-07/11 (train/test)'
    """
    parts = []
    for name, spec in (("accuracy", ".3f"), ("loss", ".2g")):
        values = [metrics[f"{split}_{name}"] for split in ("train", "test") if f"{split}_{name}" in metrics]
        parts += [f"{name} {'/'.join(f'{value:{spec}}' for value in values)}"] if values else []
    return f"{', '.join(parts)} (train/test)"


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
