"""ContentionCheck: notices that other processes keep a training from its cores."""

import time
from pathlib import Path

import torch

from grokinterp.config import RunConfig
from grokinterp.errors import GrokinterpError, logger
from grokinterp.models.products import Products
from grokinterp.training.callbacks import Callback
from grokinterp.training.estimate import estimate

log = logger(__name__)


class ContentionCheck(Callback):
    """Says so, once, if a run would be faster with one thread, because other processes use the same cores.

    The threads of an operation wait for each other, so that a thread without a core stops all others.
    """

    def __init__(self, config: RunConfig, products: Products = "float32", after: float = 10.0):
        """Creates the check.

        Args:
            config: of the run.
            products: the format of its products.
            after: seconds after which it measures.
        """
        self.config, self.after, self.path = config, after, Path()
        self.products: Products = products
        self.began: tuple[int, float, float] | None = None
        self.done = torch.get_num_threads() == 1

    def on_open(self, folder: Path) -> None:
        self.path = folder

    def on_step(self, step: int) -> None:
        if self.done:
            return
        if self.began is None:
            self.began = step, time.monotonic(), time.process_time()
        elif time.monotonic() - self.began[1] >= self.after:
            self.done = True
            self.check(step)

    def check(self, step: int) -> None:
        """Compares the steps so far with a few on one thread, unless this process had its cores to itself."""
        assert self.began is not None
        threads, seconds = torch.get_num_threads(), time.monotonic() - self.began[1]
        share_of_cores = (time.process_time() - self.began[2]) / (seconds * threads)
        if share_of_cores > 0.8:
            return
        try:
            alone = estimate(self.config, quick=True, threads=1, products=self.products).seconds_per_step
        except GrokinterpError:  # there is no memory for a second model: this check must not end the run
            return
        took = seconds / (step - self.began[0])
        if took > 1.5 * alone:
            log.warning(
                "%s: a step takes %.3g s with %d threads, but %.3g s with one: other processes use the same cores; "
                "stop it, and resume it with --threads 1",
                self.path,
                took,
                threads,
                alone,
            )
