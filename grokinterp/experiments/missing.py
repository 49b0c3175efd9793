"""What is missing: the runs of published size without a record, over all recipes, cheapest decision first."""

import math
from dataclasses import dataclass, replace

from grokinterp.config import OptimizerConfig, RunConfig, ScheduleConfig
from grokinterp.experiments.recipe import Arm, Recipe
from grokinterp.experiments.recipes import catalog
from grokinterp.experiments.records.folder import Records, has_bf16_products, identity
from grokinterp.experiments.training import configurations
from grokinterp.models.shapes import parameter_shapes

# Recipes whose decisions cost little, in this order; all other runs follow by their cost.
_FIRST = (
    "omnigrok-teacher-student",
    "kumar-modular",
    "prieto-softmax-collapse",
    "omnigrok-constrained-norm",
    "nanda-mainline",
    "psi-tiny-data",
    "memo-parity",
    "nanda-data-fraction",
    "memo-transformer",
    "psi-baseline",
    "psi-width",
    "psi-weight-decay",
    "psi-data-fraction",
    "psi-operation",
    "manir-goldilocks-edge",
    "manir-weight-decay",
    "manir-canonical",
)
_CHEAP = 2.5  # hours of a run that is trained in this order
_GFLOPS = 100.0  # of one core, with the matrices of these networks
_OVERHEAD = 1e-3  # seconds per update besides the products
_SGD_TIME = 7.0  # T_grok of an MLP of Manir and Rupa, in units of 1 / (η_eff λ)


@dataclass(frozen=True)
class Missing:
    """A run of published size that has no record.

    Attributes:
        recipe: the recipe that needs it first.
        arm: its arm.
        name: name of the run in the arm.
        config: its configuration.
        hours: estimated time on one core.
    """

    recipe: Recipe
    arm: Arm
    name: str
    config: RunConfig
    hours: float


def missing_runs(records: Records) -> list[Missing]:
    """The runs of all full forms that have no record, in the order in which the pool trains them.

    A run that several recipes need with the same schedule occurs once.

    Raises:
        RunError: a record is damaged.
    """
    found: list[tuple[tuple[float, float], Missing]] = []
    for recipe in catalog().values():
        for arm in recipe.full.arms:
            for name, config in configurations(arm).items():
                record = records.find(config, recipe.name if arm.extract else None)
                if record is None or has_bf16_products(record):
                    hours = estimated_hours(config, arm.updates)
                    found.append((_place(recipe, hours), Missing(recipe, arm, name, config, hours)))
    distinct: dict[str, Missing] = {}
    for _, run in sorted(found, key=lambda item: item[0]):
        schedule = run.config.training().schedule
        distinct.setdefault(f"{identity(run.config)} {replace(schedule, checkpoints=1, resume_every=1)}", run)
    return list(distinct.values())


def _place(recipe: Recipe, hours: float) -> tuple[float, float]:
    cheap = recipe.name in _FIRST and hours <= _CHEAP
    return (_FIRST.index(recipe.name) if cheap else len(_FIRST), hours)


def estimated_hours(config: RunConfig, updates: int | None = None) -> float:
    """Rough number of hours that a run takes on one core, from its products and its expected number of updates.

    Args:
        config: of the run.
        updates: expected number; by default, all steps of the schedule, or about when an MLP trained by SGD groks.
    """
    training = config.training()
    count = _expected_updates(training.optimizer, training.schedule) if updates is None else updates
    examples = training.optimizer.batch_size or (config.task.train_fraction or 1.0) * config.task.n_inputs
    products = sum(math.prod(shape) for shape in parameter_shapes(config.model, config.task).values() if len(shape) > 1)
    return count * (6e-9 * products * examples / _GFLOPS + _OVERHEAD) / 3600


def _expected_updates(optimizer: OptimizerConfig, schedule: ScheduleConfig) -> int:
    rate = optimizer.lr / (1 - optimizer.momentum) * optimizer.weight_decay
    if optimizer.name != "sgd" or not schedule.stop_when_grokked or rate <= 0:
        return schedule.steps
    return min(schedule.steps, round(schedule.stop_factor * _SGD_TIME / rate))
