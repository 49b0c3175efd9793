"""train_many: runs of one shape trained at once as stacked weights, each in a run folder of its own."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, ScheduleConfig, TransformerConfig
from grokinterp.errors import ConfigError, RunError
from grokinterp.models import forward_for, initial_parameters
from grokinterp.models.memory import keep_freed_memory
from grokinterp.runs.environment import describe_environment
from grokinterp.runs.locks import hold
from grokinterp.runs.resume_point import restoring
from grokinterp.runs.run import Run
from grokinterp.runs.writer import RESUME, RunWriter, refuse_occupied
from grokinterp.tasks import AnyTask
from grokinterp.training.batches import BatchOrder
from grokinterp.training.bookkeeping import Bookkeeper
from grokinterp.training.callbacks import ProgressBar
from grokinterp.training.ensemble_optimizer import Stack
from grokinterp.training.graphs import GraphedUpdate
from grokinterp.training.interventions import interventions_of
from grokinterp.training.losses import LOSSES_AND_GRADIENTS, loss_dtype
from grokinterp.training.preparation import choose_device, has_ended, load_start, reopen, task_to_train
from grokinterp.training.trainer import interrupts

# What may differ among the runs of an ensemble; everything else is their shape.
_FREE = {
    *("model_seed", "model.init", "model.init_scale"),
    *("task.data_seed", "task.split", "task.train_fraction", "task.label_noise", "task.random_labels"),
    *(f"optimizer.{name}" for name in ("lr", "weight_decay", "betas", "eps", "momentum")),
}
# Any two values of these are of one shape, but not a value and none.
_FREE_WHERE_GIVEN = {"optimizer.warmup_steps", "optimizer.clip"}

# Floating-point operations of one run's update up to which a CPU core spends more time on starting operations than on
# making them, so that stacking runs saves time. Above it the written-out gradients of `train`, one run a core, win.
_TINY_UPDATE = 3e7


def train_many(
    configs: Sequence[RunConfig],
    paths: Sequence[str | Path],
    *,
    resume: bool = False,
    device: str = "auto",
    progress: bool | None = None,
) -> list[Run]:
    """Trains runs of one shape together, each in a folder of its own that is like any other run's.

    A run sees the same initialization, split and minibatches as in `train` and comes to the same weights within
    rounding, though not to the same bits. Each ends for itself: finished, grokked (`stop_when_grokked`) or diverged.
    Interrupted runs are continued by the same call with `resume=True`, or one by one by `train`; runs that `train`
    began can be continued here. Nothing is written unless every check is passed. All runs are in memory at once.

    Args:
        configs: what to train. They may differ in seeds, split, label noise, initialization, learning rate, weight
            decay, betas, eps, momentum, and the values of warm-up and clip.
        paths: their run folders; new unless `resume`.
        resume: continue the runs; those that finished or diverged are left alone.
        device: `auto` (CUDA where there is one, else the CPU), `cpu` or `cuda`.
        progress: True or False to force the progress bar; by default shown where somebody can see it.

    Returns:
        The runs, in the order given.

    Raises:
        ConfigError: runs of different shapes, or what `train` would refuse.
        RunError: a folder holds another run, cannot be written to, is in use by another process, or the runs to
            resume stand at different steps.
    """
    chosen = choose_device(device)
    if chosen.startswith("mps"):
        raise ConfigError("train_many works on the CPU and with CUDA: use device cpu, or train the runs separately")
    folders = [Path(path) for path in paths]
    _refuse_folders(len(configs), folders)
    runs = [Run.open(folder) if resume else None for folder in folders]
    tasks = [task_to_train(config, run, chosen) for config, run in zip(configs, runs, strict=True)]
    _refuse_shapes(configs, tasks, folders)
    plans = [_Plan(*parts) for parts in zip(configs, folders, tasks, runs, strict=True)]
    if not resume:
        for folder in folders:
            refuse_occupied(folder)
    unfinished = [plan for plan in plans if not plan.has_ended()]
    if unfinished:
        _Ensemble(unfinished, _common_step(unfinished), chosen, progress).run()
    return [Run.open(folder) for folder in folders]


def ensemble_pays(config: RunConfig, device: str = "auto") -> bool:
    """Whether runs of this shape are sooner done in `train_many` than one by one; False for what it does not do.

    Args:
        config: of any of them.
        device: as in `train_many`.
    """
    chosen = choose_device(device)
    tiny = chosen == "cpu" and _operations(config) <= _TINY_UPDATE
    return not interventions_of(config) and (chosen.startswith("cuda") or tiny)


def shape_of(config: RunConfig) -> str:
    """What two runs must share for `train_many` to take both, as text to compare.

    Raises:
        ConfigError: the configuration describes no training, or an intervention that `train_many` does not do.
    """
    shape = _shape(config, task_to_train(config, None, "cpu"))
    shape |= {name: bool(shape[name]) for name in _FREE_WHERE_GIVEN}
    return repr(sorted(shape.items(), key=lambda item: item[0]))


def _operations(config: RunConfig) -> float:
    """Floating-point operations of one update, roughly: two a weight and example forward, four backward."""
    model, task = config.model, config.task
    outputs = task.d_out if isinstance(task, RegressionConfig) else task.p
    examples = int((task.train_fraction or 0.0) * task.n_inputs)
    if config.optimizer is not None:
        examples = min(examples, config.optimizer.batch_size or examples)
    if isinstance(model, TransformerConfig):
        attention = 4 * model.d_model * model.n_heads * model.head_width
        weights = model.n_layers * (attention + 2 * model.d_model * model.d_mlp) + model.d_model * outputs
    elif isinstance(model, MLPConfig):
        weights = model.depth * model.width**2 + model.width * outputs
    else:
        weights = 0
    return 6.0 * examples * weights


@dataclass(frozen=True)
class _Plan:
    """What one run is to be: its configuration, folder and task, and the run that is there, when resuming."""

    config: RunConfig
    folder: Path
    task: AnyTask
    begun: Run | None

    @property
    def optimizer(self) -> OptimizerConfig:
        assert self.config.optimizer is not None
        return self.config.optimizer

    @property
    def schedule(self) -> ScheduleConfig:
        assert self.config.schedule is not None
        return self.config.schedule

    def training_set(self) -> tuple[Tensor, Tensor]:
        """Tokens and labels of the training examples."""
        mask = self.task.train_mask
        return self.task.tokens[mask], self.task.labels[mask]

    def has_ended(self) -> bool:
        """Whether there is nothing left to do for it."""
        return self.begun is not None and has_ended(self.begun, self.config)

    def step(self) -> int:
        """Where it goes on: its resume point, or the start."""
        point = None if self.begun is None else RunWriter(self.folder, self.config).read_resume_point()
        return 0 if point is None else point[0]


def _refuse_folders(count: int, folders: Sequence[Path]) -> None:
    if len(folders) != count:
        raise ConfigError(f"{count} configurations and {len(folders)} paths were given: give one path a configuration")
    places = [folder.resolve() for folder in folders]
    first = {place: i for i, place in reversed(list(enumerate(places)))}
    for i, place in enumerate(places):
        for outer in (place, *place.parents):
            if first.get(outer, i) != i:
                raise ConfigError(
                    f"{folders[first[outer]]} and {folders[i]} are the same folder, or one inside the other: "
                    "give each run its own"
                )


def _refuse_shapes(configs: Sequence[RunConfig], tasks: Sequence[AnyTask], folders: Sequence[Path]) -> None:
    shapes = [_shape(config, task) for config, task in zip(configs, tasks, strict=True)]
    for shape, folder in zip(shapes[1:], folders[1:], strict=True):
        for name, first in shapes[0].items():
            found = shape.get(name)
            same = (not first) == (not found) if name in _FREE_WHERE_GIVEN else first == found
            if not same:
                raise ConfigError(
                    f"runs trained together must be of one shape, but {name} is {first} in {folders[0]} and {found} "
                    f"in {folder}: train them separately"
                )


def _shape(config: RunConfig, task: AnyTask) -> dict[str, Any]:
    """Whatever two runs must share to be stacked, by dotted name."""
    assert config.optimizer is not None
    assert task.train_mask is not None
    if alone := interventions_of(config):
        raise ConfigError(f"train_many does not do {', '.join(alone)}: train such runs one by one, as a sweep does")
    flat: dict[str, Any] = {}
    for name, value in asdict(config).items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    shape = {name: value for name, value in flat.items() if name not in _FREE}
    decay = "decoupled" if config.optimizer.decoupled else "coupled"
    return shape | {"optimizer.decay": decay, "the number of training examples": int(task.train_mask.sum())}


def _common_step(plans: Sequence[_Plan]) -> int:
    steps = [plan.step() for plan in plans]
    for plan, step in zip(plans, steps, strict=True):
        if step != steps[0]:
            raise RunError(
                f"{plans[0].folder} goes on from step {steps[0]} and {plan.folder} from step {step}, and runs trained "
                "together make each step together: resume them one by one with train(config, path, resume=True)"
            )
    return steps[0]


@dataclass(frozen=True)
class _Member:
    bookkeeper: Bookkeeper
    batches: BatchOrder


class _Ensemble:
    """The loop: what `train` does for one run, for every row of a stack.

    Attributes:
        members: the runs that have not ended, in the order of the stack's rows.
        tokens: `[r, n, t]`, the training examples of each.
        labels: `[r, n]`, or `[r, n, d_out]` of a regression.
        first_bad: `[r]`, the first step at which each loss was not finite, or -1; updates do not read it.
        clock: the step, where the device can read it.
        pulled: `[r]`, whether any gradient of a run was not 0 when that was last asked.
    """

    def __init__(self, plans: Sequence[_Plan], step: int, device: str, progress: bool | None):
        keep_freed_memory()
        self.plans, self.step, self.device = plans, step, device
        self.config, self.steps = plans[0].config, plans[0].schedule.steps
        self.bar = ProgressBar(progress)
        self.forward = forward_for(self.config.model, plans[0].task)
        self.logits = torch.func.vmap(self.forward.logits)
        self.loss = LOSSES_AND_GRADIENTS[self.config.loss]
        self.members: list[_Member] = []
        self.held = contextlib.ExitStack()  # the folders, against other processes

    def run(self) -> None:
        try:
            with interrupts() as interrupted:
                self.open()
                self.bar.on_start(self.config, self.step, self.steps)
                self.look([i for i, member in enumerate(self.members) if member.bookkeeper.begin(self.step)])
                while self.members and self.step < self.steps and not interrupted.is_set():
                    self.update()
                    if self.members[0].bookkeeper.due(self.step):  # all have one schedule
                        self.look(range(len(self.members)))
                if self.members:  # interrupted, or resumed at the last step
                    self.note_divergence()
                    self.end(range(len(self.members)))
        except BaseException as error:
            self.abandon(error)
            raise
        finally:
            self.held.close()
            self.bar.on_end("stopped" if self.members else "finished")

    def open(self) -> None:
        """Makes or goes back to what each run starts from, and stacks it."""
        weights = [initial_parameters(plan.config, plan.task) for plan in self.plans]
        environment = {
            **describe_environment(self.device, self.forward.path),
            "matrix_products": "torch",  # stacked matrices are always multiplied by PyTorch's own library
            "ensemble": len(weights),
        }
        points = [self.enter(*both, environment) for both in zip(self.plans, weights, strict=True)]
        self.stack = Stack(weights, [plan.optimizer for plan in self.plans], self.device)
        for i, point in enumerate(points):
            if point is not None:
                with restoring(self.plans[i].folder / RESUME):
                    self.stack.restore(i, point)
                    self.members[i].batches.restore(point)
        tokens, labels = zip(*(plan.training_set() for plan in self.plans), strict=True)
        self.tokens, self.labels = torch.stack(tokens).to(self.device), torch.stack(labels).to(self.device)
        self.first_bad = torch.full((len(weights),), -1, device=self.device)
        self.clock = torch.tensor(self.step, device=self.device)
        self.prepare()

    def enter(
        self, plan: _Plan, parameters: dict[str, nn.Parameter], environment: Mapping[str, Any]
    ) -> dict[str, Tensor] | None:
        """Opens the folder of a run; the tensors it goes on from, or None where it starts from those of the model."""
        config, task = plan.config, plan.task
        self.held.enter_context(hold(plan.folder))
        if plan.begun is None:
            writer = RunWriter.create(plan.folder, config, environment, task)
        else:
            writer = reopen(plan.begun, config, environment, self.device)
        trained = {name for name, weight in parameters.items() if weight.requires_grad}
        bookkeeper = Bookkeeper(config, writer, task, self.forward, trained, self.device, [])
        batches = BatchOrder(len(plan.training_set()[1]), plan.optimizer.batch_size, config.model_seed)
        self.members.append(_Member(bookkeeper, batches))
        if plan.begun is None:
            return None
        point = bookkeeper.go_back()
        if point is None:
            load_start(plan.folder, parameters)
        return None if point is None else point[1]

    def prepare(self) -> None:
        """What depends on how many runs there are and is made anew when one leaves."""
        whole = self.plans[0].optimizer.batch_size is None
        shape = (len(self.members), self.members[0].batches.size)
        self.batch = None if whole else torch.zeros(shape, dtype=torch.int64, device=self.device)
        device = torch.device(self.device)
        self.pulled = torch.ones(len(self.members), dtype=torch.bool, device=device)
        self.compute = GraphedUpdate(self._compute, device) if device.type == "cuda" else self._compute

    def update(self) -> None:
        """Makes one update of every run; the losses are those of the weights before it."""
        if self.batch is not None:
            self.batch.copy_(torch.stack([member.batches.next() for member in self.members]))
        # A captured update is the same at every step.
        self.asks = self.device != "cpu" or self.step + 1 in self.members[0].bookkeeper.evaluated
        self.compute()
        self.step += 1
        self.bar.on_step(self.step)

    def _compute(self) -> None:
        """The part of an update that the device does, always on the same tensors."""
        tokens, labels = self.tokens, self.labels
        if self.batch is not None:
            runs = torch.arange(len(self.batch), device=self.batch.device)[:, None]
            tokens, labels = tokens[runs, self.batch], labels[runs, self.batch]
        r, n = labels.shape[:2]
        logits = self.logits(self.stack.parts(), tokens)  # [r, n, c]
        rows = logits.detach().flatten(0, 1).to(loss_dtype(self.config))
        losses, gradient = self.loss(rows, labels.flatten(0, 1), n)
        logits.backward(gradient.to(logits.dtype).view_as(logits))
        bad = ~torch.isfinite(losses.view(r, n).sum(dim=1)) & (self.first_bad < 0)
        self.first_bad.copy_(torch.where(bad, self.clock, self.first_bad))
        if self.asks:
            assert self.stack.weights.grad is not None
            self.pulled.copy_((self.stack.weights.grad != 0).any(dim=1))
        self.stack.update(self.clock)
        self.clock += 1

    def look(self, which: Sequence[int]) -> None:
        """Does at this step what the journals of these runs are to do, and takes out every run that is over."""
        self.note_divergence()
        pulled = self.pulled.tolist()
        for i in which:
            bookkeeper = self.members[i].bookkeeper
            if not bookkeeper.over:
                bookkeeper.look(self.step, self.stack.member(i), partial(self.state, i), still=not pulled[i])
        self.end([i for i, member in enumerate(self.members) if member.bookkeeper.over])

    def note_divergence(self) -> None:
        """Tells the journals whose runs have diverged; waits for the device."""
        for member, first_bad in zip(self.members, self.first_bad.tolist(), strict=True):
            member.bookkeeper.note_divergence(first_bad)

    def state(self, i: int) -> dict[str, Tensor]:
        """Everything that the next update of a run depends on, as `train` keeps it."""
        return {**self.stack.state(i, self.step), **self.members[i].batches.state()}

    def end(self, which: Sequence[int]) -> None:
        """Writes the last words on these runs, and takes them out of the stack."""
        for i in which:
            bookkeeper = self.members[i].bookkeeper
            status, reason = bookkeeper.conclude(self.step, self.stack.member(i), partial(self.state, i))
            bookkeeper.close(self.step, status, reason)
        kept = [i for i in range(len(self.members)) if i not in which]
        self.members = [self.members[i] for i in kept]
        if which and kept:
            rows = torch.tensor(kept, device=self.device)
            self.stack.select(rows)
            self.tokens, self.labels = self.tokens.index_select(0, rows), self.labels.index_select(0, rows)
            self.first_bad = self.first_bad.index_select(0, rows)
            self.prepare()

    def abandon(self, error: BaseException) -> None:
        """Says in the folders of all runs that had not ended what stopped them."""
        for member in self.members:
            if member.bookkeeper.status in (None, "running"):
                with contextlib.suppress(RunError):  # this may be the very folder that cannot be written to
                    member.bookkeeper.close(self.step, "stopped", f"{type(error).__name__}: {error}")
