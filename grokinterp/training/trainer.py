"""train: the training loop, which can be interrupted at any moment."""

import math
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
from grokinterp.models.products import Products, multiplying_in
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.folders import as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.resume_point import RESUME, restoring
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.runs.writer import RunWriter
from grokinterp.tasks import AnyTask
from grokinterp.training.batches import BatchOrder
from grokinterp.training.bookkeeping import Bookkeeper
from grokinterp.training.callbacks import Callback, ProgressBar
from grokinterp.training.contention import ContentionCheck
from grokinterp.training.device_check import check_device
from grokinterp.training.gradients import gradients_function, use_private_cache
from grokinterp.training.graphs import GraphedUpdate
from grokinterp.training.interventions import draws_in_updates, dropout_of
from grokinterp.training.numerics import any_nonzero
from grokinterp.training.optimizers import DROP_EVERY, Updater
from grokinterp.training.preparation import (
    check_products,
    choose_device,
    has_ended,
    load_from,
    load_start,
    open_folder,
    run_to_resume,
    set_aside,
    task_to_train,
)
from grokinterp.training.threads import choose_threads, using_threads


def train(
    config: RunConfig,
    path: str | Path,
    *,
    resume: bool = False,
    restart: bool = False,
    start_from: str | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    plain_forward: bool = False,
    compile: bool = False,
    threads: int | None = None,
    products: Products = "float32",
) -> Run:
    """Trains a model and stores metrics and checkpoints in a run folder.

    >>> from grokinterp.config import MLPConfig, ScheduleConfig, TaskConfig
    >>> schedule = ScheduleConfig(steps=20, evaluate_every=5, checkpoints=10)
    >>> config = RunConfig(task=TaskConfig(p=7), model=MLPConfig(width=16), schedule=schedule)
    >>> run = train(config, "checkpoints/example", progress=False)
    >>> run.status["status"], run.steps
    ('finished', [0, 10, 20])

    If a run stops for whatever reason (Ctrl-C, a crash, a full disk), the same call with `resume=True` continues it,
    bit for bit as if it had not stopped (on the same machine, with the same number of threads; otherwise, it warns). A
    run that has ended and has no more steps to make is left as it is. So a notebook cell or a batch script that says
    `resume=True` from the beginning can be run any number of times.

    Args:
        config: what to train. To resume, give the configuration of the run; `schedule.steps` may be larger.
        path: the run folder; must be new or empty unless `resume` or `restart`.
        resume: continue the run in `path`, if there is one.
        restart: train the run in `path` again from its start. The present folder is renamed to `PATH.replaced`.
        start_from: `RUN@STEP`, a checkpoint of another run to start from instead of an initialization.
        device: `auto` (CUDA if available, otherwise the CPU), `cpu`, `cuda`, or `mps`, whose first
            updates are compared with the CPU, because some versions of PyTorch compute wrong results there.
        callbacks: see `grokinterp.training.callbacks`.
        progress: whether to show the progress bar; by default, only in a terminal or a notebook.
        plain_forward: compute logits with the module itself even if a faster exact form exists. A resumed run keeps
            the setting it started with.
        compile: compile the update with torch.compile. To resume a compiled run bit for bit, give it again.
        threads: number of CPU threads; by default, that of the run to resume, one for small updates, and otherwise
            PyTorch's own number. Use 1 if other processes need the cores.
        products: the format in which updates multiply matrices on the CPU: `float32`, or `bf16`, which is faster on
            processors that have it, but keeps only 8 significant bits of each factor (sums are float32). To resume a
            run, give the same format again.

    Returns:
        The run. Its status is `finished`, `stopped` (interrupted) or `diverged` (a loss became NaN or infinite).

    Raises:
        RunError: the folder is not empty or not writable, or another process trains in it.
        ConfigError: the configuration cannot be trained, or differs from that of the run to resume.
    """
    folder, device = as_path(path), choose_device(device)
    if resume and start_from is not None:
        raise ConfigError("start_from (--from) is only for a new run: a resumed run continues from its own weights")
    if resume and restart:
        raise ConfigError("resume and restart exclude each other: give one")
    begun = None if restart else run_to_resume(folder, resume)
    task = task_to_train(config, begun, device)
    if begun is not None and has_ended(begun, config):
        return begun
    check_products(products, device, begun)
    if device.startswith("mps"):
        check_device(config, device)
    if begun is not None:  # all steps must be computed in the same way
        plain_forward = plain_forward or begun.environment.get("forward_path") == "module"
    if compile and dropout_of(config, device) is not None:
        raise ConfigError("torch.compile does not preserve dropout's random numbers: omit --compile or model.dropout")
    if compile and products != "float32":
        raise ConfigError("torch.compile would replace bf16 products with its own: omit --compile or --products")
    if compile:
        use_private_cache()
    with using_threads(choose_threads(config, threads, begun)):
        parameters = initial_parameters(config, task, device=device)
        forward = forward_for(config.model, task, plain=plain_forward)
        environment = describe_environment(device, forward.path, compiled=compile, products=products)
        start = None
        if start_from is not None:
            start = load_from(start_from, parameters)
            environment["start_from"] = start_from
        if restart:
            set_aside(folder)
        callbacks = [
            *callbacks,
            ProgressBar(progress),
            *([ContentionCheck(config, products)] if device == "cpu" else []),
        ]
        with hold(folder):
            writer = open_folder(folder, config, task, environment, device, begun, start)
            loop = _Loop(config, writer, task, parameters, forward, device, callbacks, compile, products)
            if begun is not None:
                loop.restore()
            loop.run()
    return Run.open(path)


class _Loop:
    """The training loop of a run.

    Attributes:
        first_bad: the first step with a non-finite loss, or -1; a tensor, so that updates need not wait for the device.
        clock: the step, on the device.
        gradient_is_nonzero: whether any gradient entry was not 0 when an update last checked.
        checks_gradient: whether the next update checks it; always on a GPU, whose captured update cannot change.
    """

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
        products: Products = "float32",
    ):
        keep_freed_memory()
        optimizer, train_mask = config.training().optimizer, task.require_split()
        self.weights, self.device = parameters, device
        self.products: Products = products
        trained = {name for name, w in self.weights.items() if w.requires_grad}
        self.bookkeeper = Bookkeeper(config, writer, task, forward, trained, device, callbacks)
        self.updater = Updater(self.weights.items(), optimizer, config.model_seed)
        self.dropout = dropout_of(config, device)
        self.gradients = gradients_function(
            config, forward, self.weights, compiled=compiled, hook=self.dropout or no_hook
        )
        self.train_tokens = task.tokens[train_mask].to(device)
        self.train_labels = task.labels[train_mask].to(device)
        size = optimizer.batch_size
        self.batches = BatchOrder(len(self.train_labels), size, config.model_seed)
        self.batch = None if size is None else torch.zeros(self.batches.size, dtype=torch.int64, device=device)
        self.first_bad = torch.tensor(-1, device=device)
        self.clock = torch.tensor(0, device=device)
        graphed = torch.device(device).type == "cuda" and forward.path != "module" and not draws_in_updates(config)
        self.compute = GraphedUpdate(self._compute, torch.device(device)) if graphed else self._compute
        self.step = 0
        self.gradient_is_nonzero = torch.tensor(True, device=device)
        self.always_checks_gradient = self.checks_gradient = graphed

    def run(self) -> None:
        bookkeeper = self.bookkeeper
        status, reason = RunStatus.STOPPED, "interrupted"
        is_new = bookkeeper.begin(self.step)
        try:
            with interrupts() as interrupted:
                if is_new:
                    self.evaluate_and_save()
                while not bookkeeper.ended and self.step < bookkeeper.schedule.steps and not interrupted.is_set():
                    self.update()
                    self.evaluate_and_save()
            bookkeeper.note_divergence(int(self.first_bad))
            status, reason = bookkeeper.conclude(self.step, self.weights, self.state)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            bookkeeper.close(self.step, status, reason)

    def update(self) -> None:
        """Makes one update; its loss is that of the weights before the update."""
        if self.batch is not None:
            self.batch.copy_(self.batches.next())
        self.updater.set_rate(self.step)
        self.checks_gradient = self.always_checks_gradient or self.step + 1 in self.bookkeeper.evaluation_steps
        self.compute()
        self.step += 1
        if self.step % DROP_EVERY == 0 and torch.device(self.device).type == "cpu":
            self.updater.drop_negligible()
        for callback in self.bookkeeper.callbacks:
            callback.on_step(self.step)

    def _compute(self) -> None:
        """The part of an update that runs on the device, always on the same tensors."""
        tokens, labels = self.train_tokens, self.train_labels
        if self.batch is not None:
            tokens, labels = tokens[self.batch], labels[self.batch]
        with multiplying_in(self.products):
            loss = self.gradients(tokens, labels)
        if loss.device.type != "cpu":
            bad = ~torch.isfinite(loss) & (self.first_bad < 0)
            self.first_bad.copy_(torch.where(bad, self.clock, self.first_bad))
            self.clock += 1
        elif not math.isfinite(loss.item()) and self.first_bad < 0:
            self.first_bad.fill_(self.step)
        if self.checks_gradient:
            self.gradient_is_nonzero.copy_(any_nonzero(tensor.grad for tensor in self.updater.tensors))
        self.updater.update()

    def evaluate_and_save(self) -> None:
        """Does what the schedule demands at this step, unless the run has diverged."""
        if self.bookkeeper.is_due(self.step):
            self.bookkeeper.note_divergence(int(self.first_bad))
            if not self.bookkeeper.ended:
                zero_gradients = not bool(self.gradient_is_nonzero)
                self.bookkeeper.evaluate_and_save(self.step, self.weights, self.state, zero_gradients)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on."""
        weights = {f"weights:{name}": w.detach().cpu() for name, w in self.weights.items()}
        dropout = {} if self.dropout is None else self.dropout.state()
        return {**weights, **self.updater.state(), **self.batches.state(), **dropout}

    def restore(self) -> None:
        """Restores the resume point, or the start if there is no resume point."""
        point = self.bookkeeper.rewind()
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
    """Context manager that sets an event on Ctrl-C or SIGTERM instead of stopping at once; a second Ctrl-C stops."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # signals only reach the main thread
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
