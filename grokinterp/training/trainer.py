"""train: the loop, and everything that makes it stoppable at any instant."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grokinterp.config import RunConfig
from grokinterp.errors import ConfigError
from grokinterp.models import Forward, forward_for, initial_parameters
from grokinterp.models.forward import no_hook
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.locks import hold
from grokinterp.runs.resume_point import restoring
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RESUME, RunWriter, refuse_occupied
from grokinterp.tasks import AnyTask
from grokinterp.training.batches import BatchOrder
from grokinterp.training.bookkeeping import Bookkeeper
from grokinterp.training.callbacks import Callback, ProgressBar
from grokinterp.training.gradients import gradients_function
from grokinterp.training.graphs import GraphedUpdate
from grokinterp.training.interventions import draws_in_updates, dropout_of
from grokinterp.training.numerics import any_nonzero
from grokinterp.training.optimizers import Updater
from grokinterp.training.preparation import choose_device, load_from, load_start, reopen, task_to_train


def train(
    config: RunConfig,
    path: str | Path,
    *,
    resume: bool = False,
    start_from: str | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    plain_forward: bool = False,
    compile: bool = False,
) -> Run:
    """Trains a model and keeps it, step by step, in a run folder.

    A run that stops for whatever reason (Ctrl-C, a crash, a full disk) is continued by the same call with
    `resume=True`, to the same bits as one that never stopped (same machine, same number of threads).

    Args:
        config: what to train. When resuming it must be the run's own, but for a larger `schedule.steps`.
        path: the run folder; new unless `resume`.
        resume: continue the run in `path`.
        start_from: `RUN@STEP`, another run's checkpoint to start from instead of an initialization.
        device: `auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, or `mps`.
        callbacks: see `grokinterp.training.callbacks`.
        progress: True or False to force the progress bar; by default shown where somebody can see it.
        plain_forward: compute logits with the module itself, even where a faster exact form exists. A run that began
            so is resumed so.
        compile: compile the update with torch.compile. A run that began so is resumed so.

    Returns:
        The run. Its status is `finished`, `stopped` (interrupted) or `diverged` (a loss became NaN or infinite).

    Raises:
        RunError: the folder holds another run, cannot be written to, or another process trains in it.
        ConfigError: the configuration differs from that of the run to resume, or describes no training.
    """
    chosen = choose_device(device)
    if resume and start_from is not None:
        raise ConfigError("start_from (--from) is for a new run: a resumed one goes on from its own weights")
    begun = Run.open(path) if resume else None
    task = task_to_train(config, begun, chosen)
    if begun is not None:  # what computed the first steps computes the others
        compile = compile or begun.environment.get("compiled") is True
        plain_forward = plain_forward or begun.environment.get("forward_path") == "module"
    if compile and dropout_of(config, chosen) is not None:
        raise ConfigError("torch.compile does not keep dropout's random numbers: leave --compile or model.dropout out")
    parameters = initial_parameters(config, task, device=chosen)
    forward = forward_for(config.model, task, plain=plain_forward)
    environment = describe_environment(chosen, forward.path, compiled=compile)
    if begun is None:
        refuse_occupied(Path(path))
        if start_from is not None:
            load_from(start_from, parameters)
            environment["start_from"] = start_from
    with hold(Path(path)):
        if begun is not None:
            writer = reopen(begun, config, environment, chosen)
        else:
            writer = RunWriter.create(path, config, environment, task)
        loop = _Loop(config, writer, task, parameters, forward, chosen, [*callbacks, ProgressBar(progress)], compile)
        if resume:
            loop.restore()
        loop.run()
    return Run.open(path)


class _Loop:
    def __init__(
        self,
        config: RunConfig,
        writer: RunWriter,
        task: AnyTask,
        parameters: dict[str, nn.Parameter],
        forward: Forward,
        device: str,
        callbacks: list[Callback],
        compiled: bool = False,
    ):
        keep_freed_memory()
        assert config.optimizer is not None
        assert task.train_mask is not None
        self.weights = parameters
        trained = {name for name, w in self.weights.items() if w.requires_grad}
        self.bookkeeper = Bookkeeper(config, writer, task, forward, trained, device, callbacks)
        self.updater = Updater(self.weights.items(), config.optimizer, config.model_seed)
        self.dropout = dropout_of(config, device)
        self.gradients = gradients_function(
            config, forward, self.weights, compiled=compiled, hook=self.dropout or no_hook
        )
        self.train_tokens = task.tokens[task.train_mask].to(device)
        self.train_labels = task.labels[task.train_mask].to(device)
        size = config.optimizer.batch_size
        self.batches = BatchOrder(len(self.train_labels), size, config.model_seed)
        self.batch = None if size is None else torch.zeros(self.batches.size, dtype=torch.int64, device=device)
        self.first_bad = torch.tensor(-1, device=device)  # first step with a non-finite loss; updates do not read it
        self.clock = torch.tensor(0, device=device)  # the step, where the device can read it
        graphed = torch.device(device).type == "cuda" and forward.path != "module" and not draws_in_updates(config)
        self.compute = GraphedUpdate(self._compute, torch.device(device)) if graphed else self._compute
        self.step = 0
        self.pulled = torch.tensor(True, device=device)  # whether any gradient was not 0 when that was last asked
        self.always_asks = self.asks = graphed  # a captured update is the same at every step

    def run(self) -> None:
        bookkeeper = self.bookkeeper
        status, reason = "stopped", "interrupted"
        fresh = bookkeeper.begin(self.step)
        try:
            with interrupts() as interrupted:
                if fresh:
                    self.look()
                while not bookkeeper.over and self.step < bookkeeper.schedule.steps and not interrupted.is_set():
                    self.update()
                    self.look()
            bookkeeper.note_divergence(int(self.first_bad))
            status, reason = bookkeeper.conclude(self.step, self.weights, self.state)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            bookkeeper.close(self.step, status, reason)

    def update(self) -> None:
        """Makes one update; the loss is that of the weights before it."""
        if self.batch is not None:
            self.batch.copy_(self.batches.next())
        self.updater.set_rate(self.step)
        self.asks = self.always_asks or self.step + 1 in self.bookkeeper.evaluated
        self.compute()
        self.step += 1
        for callback in self.bookkeeper.callbacks:
            callback.on_step(self.step)

    def _compute(self) -> None:
        """The part of an update that the device does, always on the same tensors."""
        tokens, labels = self.train_tokens, self.train_labels
        if self.batch is not None:
            tokens, labels = tokens[self.batch], labels[self.batch]
        loss = self.gradients(tokens, labels)
        bad = ~torch.isfinite(loss) & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, self.clock, self.first_bad))
        self.clock += 1
        if self.asks:
            self.pulled.copy_(any_nonzero(tensor.grad for tensor in self.updater.tensors))
        self.updater.update()

    def look(self) -> None:
        """What the journal does at this step, unless the run has diverged before."""
        if self.bookkeeper.due(self.step):
            self.bookkeeper.note_divergence(int(self.first_bad))
            if not self.bookkeeper.over:
                self.bookkeeper.look(self.step, self.weights, self.state, still=not bool(self.pulled))

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on."""
        weights = {f"weights:{name}": w.detach().cpu() for name, w in self.weights.items()}
        dropout = {} if self.dropout is None else self.dropout.state()
        return {**weights, **self.updater.state(), **self.batches.state(), **dropout}

    def restore(self) -> None:
        """Goes back to the resume point, or to the start where there is none."""
        point = self.bookkeeper.go_back()
        if point is None:
            load_start(self.bookkeeper.writer.path, self.weights)
            return
        self.step, state = point
        self.clock.fill_(self.step)
        with restoring(self.bookkeeper.writer.path / RESUME), torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(state[f"weights:{name}"])
            self.updater.restore(state)
            if self.dropout is not None:
                self.dropout.restore(state)
            self.batches.restore(state)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Lets the current update finish on Ctrl-C or SIGTERM; a second Ctrl-C does not wait."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # signals only ever reach the main thread
        return

    def handle(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
