"""train_many: trains runs of one shape together as stacked weights, each in its own run folder."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grokinterp.config.run import RunConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import forward_for, initial_parameters
from grokinterp.models.memory import keep_freed_memory
from grokinterp.models.products import Products, multiplying_in
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.folders import as_path
from grokinterp.runs.locks import hold
from grokinterp.runs.resume_point import RESUME, restoring
from grokinterp.runs.run import Run
from grokinterp.runs.status import RunStatus
from grokinterp.training.batches import BatchOrder
from grokinterp.training.bookkeeping import Bookkeeper
from grokinterp.training.callbacks import ProgressBar
from grokinterp.training.ensemble_optimizer import Stack
from grokinterp.training.ensemble_plan import Plan, common_step, require_same_shape, require_separate
from grokinterp.training.gradients import explicit_gradients, has_explicit_form
from grokinterp.training.graphs import GraphedUpdate
from grokinterp.training.interventions import interventions_of
from grokinterp.training.losses import LOSSES_AND_GRADIENTS, loss_dtype
from grokinterp.training.optimizers import DROP_EVERY, drop_negligible
from grokinterp.training.preparation import (
    check_products,
    choose_device,
    load_start,
    open_folder,
    run_to_resume,
    task_to_train,
)
from grokinterp.training.threads import SMALL_UPDATE, choose_threads, count_operations, using_threads
from grokinterp.training.trainer import interrupts


def train_many(
    configs: Sequence[RunConfig],
    paths: Sequence[str | Path],
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool | None = None,
    threads: int | None = None,
    products: Products = "float32",
) -> list[Run]:
    """Trains runs of one shape together, each in its own ordinary run folder.

    >>> from dataclasses import replace
    >>> from grokinterp.config import MLPConfig, ScheduleConfig, TaskConfig
    >>> schedule = ScheduleConfig(steps=20, evaluate_every=5, checkpoints=10)
    >>> base = RunConfig(task=TaskConfig(p=7), model=MLPConfig(width=16), schedule=schedule)
    >>> configs = [replace(base, model_seed=seed) for seed in range(2)]
    >>> runs = train_many(configs, ["checkpoints/seed0", "checkpoints/seed1"], progress=False)
    >>> [run.steps for run in runs]
    [[0, 10, 20], [0, 10, 20]]

    A run has the same initialization, split and minibatches as in `train`, and its weights are equal up to rounding,
    but not bit for bit. Runs end independently: finished, ended by a rule such as `stop_when_grokked`, or diverged. The
    same call with `resume=True` continues interrupted runs, and so does `train`, one by one; runs started by `train`
    can be continued here. Runs that resume in the same group as before, from the same step, end in the same bits as
    without the interruption; otherwise they are equal up to rounding, whose effect grows in the course of training.
    (Ctrl-C stops all runs at the same step, but a kill can come between the resume points of two runs.) Nothing is
    written unless all checks pass. All runs are in memory at the same time.

    Args:
        configs: what to train. The configurations may differ in seeds, split, label noise, initialization, learning
            rate, weight decay, betas, eps, momentum, and the values of warm-up and clip.
        paths: the run folders; must be new or empty unless `resume`.
        resume: continue the runs that exist; skips those that finished or diverged.
        device: `auto` (CUDA if available, otherwise the CPU), `cpu` or `cuda`.
        progress: whether to show the progress bar; by default, only in a terminal or a notebook.
        threads: number of CPU threads, as in `train`.
        products: the format of products on the CPU, as in `train`.

    Returns:
        The runs, in the order of `configs`.

    Raises:
        ConfigError: the runs have different shapes, or `train` would reject one of them.
        RunError: a folder is not empty, is not writable or is in use by another process, or the runs to resume are at
            different steps.
    """
    device = choose_device(device)
    if device.startswith("mps"):
        raise ConfigError("train_many does not support mps: use device cpu, or train the runs separately")
    folders = [as_path(path) for path in paths]
    require_separate(len(configs), folders)
    runs = [run_to_resume(folder, resume) for folder in folders]
    tasks = [task_to_train(config, run, device) for config, run in zip(configs, runs, strict=True)]
    plans = [
        Plan(config, config.training(), folder, task, task.require_split(), run)
        for config, folder, task, run in zip(configs, folders, tasks, runs, strict=True)
    ]
    require_same_shape(plans)
    unfinished = [plan for plan in plans if not plan.has_ended()]
    for plan in unfinished:
        check_products(products, device, plan.begun)
    if unfinished:
        first = unfinished[0]
        with using_threads(choose_threads(first.config, threads, first.begun, len(unfinished))):
            _Ensemble(unfinished, common_step(unfinished), device, progress, products).run()
    return [Run.open(folder) for folder in folders]


def ensemble_pays(config: RunConfig, device: str = "auto") -> bool:
    """Whether `train_many` is faster than `train` for runs of this shape; False if `train_many` does not support them.

    >>> import grokinterp as gi
    >>> ensemble_pays(gi.preset("demo"), device="cpu")
    False

    Args:
        config: of any of the runs.
        device: as in `train_many`.
    """
    device = choose_device(device)
    small = device == "cpu" and count_operations(config) <= SMALL_UPDATE
    return not interventions_of(config) and (device.startswith("cuda") or small)


@dataclass(frozen=True)
class _Member:
    bookkeeper: Bookkeeper
    batches: BatchOrder


class _Ensemble:
    """The loop of `train`, for every row of a stack.

    Attributes:
        members: the runs that have not ended, in the order of the stack's rows.
        tokens: `[r, n, t]`, the training examples of each run.
        labels: `[r, n]`, or `[r, n, d_out]` for a regression.
        first_bad: `[r]`, the first step with a non-finite loss, or -1; updates do not wait for it.
        clock: the step, on the device.
        gradient_is_nonzero: `[r]`, whether any gradient entry of a run was not 0 when an update last checked.
        checks_gradient: whether the next update checks it.
    """

    def __init__(self, plans: Sequence[Plan], step: int, device: str, progress: bool | None, products: Products):
        keep_freed_memory()
        self.plans, self.step, self.device = plans, step, device
        self.products: Products = products
        self.config, self.settings = plans[0].config, plans[0].settings
        self.steps = self.settings.schedule.steps
        self.bar = ProgressBar(progress)
        self.forward = forward_for(self.config.model, plans[0].task)
        # The formulas of `last_position` take stacks of weights as they are.
        stacked = self.forward.path == "last_position"
        self.logits = self.forward.logits if stacked else torch.func.vmap(self.forward.logits)
        self.loss = LOSSES_AND_GRADIENTS[self.config.loss]
        self.members: list[_Member] = []
        self.locks = contextlib.ExitStack()

    def run(self) -> None:
        try:
            with interrupts() as interrupted:
                self.open()
                self.bar.on_start(self.config, self.step, self.steps)
                is_new = [member.bookkeeper.begin(self.step) for member in self.members]
                self.evaluate_and_save([i for i, new in enumerate(is_new) if new])
                while self.members and self.step < self.steps and not interrupted.is_set():
                    self.update()
                    if self.members[0].bookkeeper.is_due(self.step):  # all have the same schedule
                        self.evaluate_and_save(range(len(self.members)))
                if self.members:  # interrupted, or resumed at the last step
                    self.note_divergence()
                    self.end(range(len(self.members)))
        except BaseException as error:
            self.abandon(error)
            raise
        finally:
            self.locks.close()
            self.bar.on_end(RunStatus.STOPPED if self.members else RunStatus.FINISHED)

    def open(self) -> None:
        """Opens the run folders, and stacks the weights from which each run starts or resumes."""
        weights = [initial_parameters(plan.config, plan.task) for plan in self.plans]
        environment = {
            **describe_environment(self.device, self.forward.path, products=self.products),
            "matrix_products": "torch",  # stacked matrices are always multiplied by PyTorch's own library
            "ensemble": len(weights),
        }
        points = [self.open_run(*pair, environment) for pair in zip(self.plans, weights, strict=True)]
        self.stack = Stack(weights, [plan.settings.optimizer for plan in self.plans], self.device)
        for i, point in enumerate(points):
            if point is not None:
                with restoring(self.plans[i].folder / RESUME):
                    self.stack.restore(i, point)
                    self.members[i].batches.restore(point)
        tokens, labels = zip(*(plan.training_set() for plan in self.plans), strict=True)
        self.tokens, self.labels = torch.stack(tokens).to(self.device), torch.stack(labels).to(self.device)
        explicit = has_explicit_form(self.config, self.forward, self.stack.parts())
        self.explicit = explicit_gradients(self.config) if explicit else None
        self.first_bad = torch.full((len(weights),), -1, device=self.device)
        self.clock = torch.tensor(self.step, device=self.device)
        self.allocate()

    def open_run(
        self, plan: Plan, parameters: dict[str, nn.Parameter], environment: Mapping[str, Any]
    ) -> dict[str, Tensor] | None:
        """Opens the folder of a run.

        Returns:
            The tensors of the resume point; None if the run starts from `parameters`.
        """
        config, task = plan.config, plan.task
        self.locks.enter_context(hold(plan.folder))
        writer = open_folder(plan.folder, config, task, environment, self.device, plan.begun)
        trained = {name for name, weight in parameters.items() if weight.requires_grad}
        bookkeeper = Bookkeeper(config, writer, task, self.forward, trained, self.device, [])
        batch_size = plan.settings.optimizer.batch_size
        batches = BatchOrder(int(plan.train_mask.sum()), batch_size, config.model_seed)
        self.members.append(_Member(bookkeeper, batches))
        if plan.begun is None:
            return None
        point = bookkeeper.rewind()
        if point is None:
            load_start(plan.folder, parameters)
        return None if point is None else point[1]

    def allocate(self) -> None:
        """Creates what depends on the number of runs."""
        full_batch = self.settings.optimizer.batch_size is None
        shape = (len(self.members), self.members[0].batches.size)
        self.batch = None if full_batch else torch.zeros(shape, dtype=torch.int64, device=self.device)
        device = torch.device(self.device)
        self.gradient_is_nonzero = torch.ones(len(self.members), dtype=torch.bool, device=device)
        self.compute = GraphedUpdate(self._compute, device) if device.type == "cuda" else self._compute

    def update(self) -> None:
        """Makes one update of every run; the losses are those of the weights before the update."""
        if self.batch is not None:
            self.batch.copy_(torch.stack([member.batches.next() for member in self.members]))
        # A captured update is the same at every step.
        self.checks_gradient = self.device != "cpu" or self.step + 1 in self.members[0].bookkeeper.evaluation_steps
        self.compute()
        self.step += 1
        if self.step % DROP_EVERY == 0 and torch.device(self.device).type == "cpu":
            drop_negligible([self.stack.weights], [self.stack.moments])
        self.bar.on_step(self.step)

    def _compute(self) -> None:
        """The part of an update that runs on the device, always on the same tensors."""
        tokens, labels = self.tokens, self.labels
        if self.batch is not None:
            runs = torch.arange(len(self.batch), device=self.batch.device)[:, None]
            tokens, labels = tokens[runs, self.batch], labels[runs, self.batch]
        with multiplying_in(self.products):
            if self.explicit is None:
                losses = self.by_autograd(tokens, labels)
            else:
                losses, gradients = self.explicit(self.stack.parts(), tokens, labels)
                self.stack.weights.grad = self.stack.join(gradients)
        bad = ~torch.isfinite(losses) & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, self.clock, self.first_bad))
        if self.checks_gradient:
            self.gradient_is_nonzero.copy_((self.stack.gradient() != 0).any(dim=1))
        self.stack.update(self.clock)
        self.clock += 1

    def by_autograd(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Computes the gradients of every run with autograd, and returns their losses."""
        r, n = labels.shape[:2]
        logits = self.logits(self.stack.parts(), tokens)  # [r, n, c]
        rows = logits.detach().flatten(0, 1).to(loss_dtype(self.config))
        losses, gradient = self.loss(rows, labels.flatten(0, 1), n)
        logits.backward(gradient.to(logits.dtype).view_as(logits))
        return losses.view(r, n).sum(dim=1)

    def evaluate_and_save(self, indices: Sequence[int]) -> None:
        """Does what the schedule demands at this step for some of the runs, and ends every run that is over."""
        self.note_divergence()
        is_nonzero = self.gradient_is_nonzero.tolist()
        for i in indices:
            bookkeeper = self.members[i].bookkeeper
            if not bookkeeper.ended:
                weights, state = self.stack.member(i), partial(self.state, i)
                bookkeeper.evaluate_and_save(self.step, weights, state, zero_gradients=not is_nonzero[i])
        self.end([i for i, member in enumerate(self.members) if member.bookkeeper.ended])

    def note_divergence(self) -> None:
        """Informs the bookkeepers whose runs have diverged; waits for the device."""
        for member, first_bad in zip(self.members, self.first_bad.tolist(), strict=True):
            member.bookkeeper.note_divergence(first_bad)

    def state(self, i: int) -> dict[str, Tensor]:
        """Everything that the next update of a run depends on, in the form that `train` stores."""
        return {**self.stack.state(i, self.step), **self.members[i].batches.state()}

    def end(self, indices: Sequence[int]) -> None:
        """Writes the final status of some runs, and removes them from the stack."""
        for i in indices:
            bookkeeper = self.members[i].bookkeeper
            status, reason = bookkeeper.conclude(self.step, self.stack.member(i), partial(self.state, i))
            bookkeeper.close(self.step, status, reason)
        remaining = [i for i in range(len(self.members)) if i not in indices]
        self.members = [self.members[i] for i in remaining]
        if indices and remaining:
            rows = torch.tensor(remaining, device=self.device)
            self.stack.select(rows)
            self.tokens, self.labels = self.tokens.index_select(0, rows), self.labels.index_select(0, rows)
            self.first_bad = self.first_bad.index_select(0, rows)
            self.allocate()

    def abandon(self, error: BaseException) -> None:
        """Writes to the folders of all runs that have not ended which error stopped them."""
        for member in self.members:
            if member.bookkeeper.status in (None, RunStatus.RUNNING):
                with contextlib.suppress(RunError):  # this folder may be the one that is not writable
                    member.bookkeeper.close(self.step, RunStatus.STOPPED, f"{type(error).__name__}: {error}")
