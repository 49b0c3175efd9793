"""Sweeps over the settings of a ridge regression, as a table with one row for each setting and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from grokinterp.errors import ConfigError, nearest
from grokinterp.theory.bounds import bounds, stages, step_sizes
from grokinterp.theory.ridge import RidgeProblem, gaussian_problem, solve
from grokinterp.theory.times import grokking_times


@dataclass(frozen=True)
class RidgeSetting:
    """One setting of a ridge regression, with the defaults of Figure 2 of Xu et al. 2026.

    >>> RidgeSetting(weight_decay=1e-3).n
    100

    Attributes:
        weight_decay: λ.
        lr: η, the step size.
        n: number of training examples.
        m: number of features.
        init_variance: ν², the variance of the initial weights.
        teacher_norm: ‖θ*‖.
    """

    weight_decay: float = 1e-4
    lr: float = 1.0
    n: int = 100
    m: int = 1000
    init_variance: float = 1.0
    teacher_norm: float = 1.0


# The panels of Figure 2, and η besides. The paper does not print its grids.
FIGURE_2: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "weight_decay": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 1e-2),
        "n": (25, 50, 100, 200, 400, 800),
        "m": (200, 400, 1000, 2000, 4000),
        "init_variance": (0.1, 0.25, 1.0, 4.0, 16.0),
        "lr": (0.01, 0.1, 1.0, 10.0),
    }
)
"""The settings of Figure 2 of Xu et al. (2026) by field, for `ridge_sweep`."""


def ridge_sweep(
    grid: Mapping[str, Sequence[float]] = FIGURE_2,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    *,
    base: RidgeSetting = RidgeSetting(),
    eps: float = 0.01,
    c: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Varies one setting at a time around a base setting, with several seeds, and compares every run with the bounds.

    >>> table = ridge_sweep({"weight_decay": (1e-3, 1e-2)}, seeds=[0], base=RidgeSetting(n=20, m=100))
    >>> bool((table["t2"] >= table["t2_bound"]).all()), bool(table["t2"].is_monotonic_decreasing)
    (True, True)

    Settings that differ only in λ, η or ν² share their random draws, seed by seed.

    Args:
        grid: fields of `RidgeSetting`, each with the values that it takes while the other fields are those of `base`.
        seeds: seeds of the random draws.
        base: the setting around which fields vary.
        eps: ε, the threshold of the train loss that defines t1.
        c: the threshold of the population loss that defines t2.
        progress: function called with the number of finished rows and the total.

    Returns:
        One row for each field, value and seed. `varied` names the field; then come the setting and

        - `t1`, `t2`, `delay`, `t2_halfway`: in steps, NaN if there is none, and `t1_reason`, `t2_reason`;
        - `plateau`, `limit`: of the population loss;
        - each bound of `grokinterp.theory.bounds` by its name, with `…_holds` (None if it is undefined) and
          `…_applies` (whether its conditions hold), and `probability` of the starts for which the bounds on t2 hold;
        - `stage_overfits`, `stage_generalizes_late`, `stage_generalizes`: the inequalities of Theorem 4.1 along the
          trajectory of the same start with the zero teacher, at `stage_steps` steps;
        - `lr_…`: each step size of `step_sizes`, and `lr_…_holds`; `weakest_gap`: η (λ⁺_min/n + λ);
        - `slowest_rate`: η (λ_min/n + λ), where λ_min is 0 if m > n (see `RidgeSolution.slowest_rate`).

    Raises:
        ConfigError: an unknown field, or no values or seeds.
    """
    known = list(asdict(base))
    for name, values in grid.items():
        if name not in known:
            raise ConfigError(f"a ridge regression has no setting {name!r}: {nearest(name, known)}")
        if not len(values):
            raise ConfigError(f"the grid has no values for {name}")
    if not len(seeds):
        raise ConfigError("the sweep needs at least one seed")
    plan = [
        (name, replace(base, **{name: int(value) if name in ("n", "m") else float(value)}), seed)
        for name, values in grid.items()
        for value in values
        for seed in seeds
    ]
    rows = []
    problems: dict[tuple[float, ...], tuple[RidgeProblem, RidgeProblem]] = {}
    for i, (varied, setting, seed) in enumerate(plan):
        if progress is not None:
            progress(i, len(plan))
        key = (setting.n, setting.m, setting.init_variance, setting.teacher_norm, seed)
        if key not in problems:
            problems[key] = _problems(setting, seed)
        rows.append({"varied": varied, **asdict(setting), "seed": seed} | _row(problems[key], setting, eps, c))
    if progress is not None:
        progress(len(plan), len(plan))
    return pd.DataFrame(rows)


def setting_of(row: Mapping[Any, Any]) -> RidgeSetting:
    """The setting of a row, as a dictionary, of the table of `ridge_sweep`."""
    return RidgeSetting(**{field.name: row[field.name] for field in fields(RidgeSetting)})


def _problems(setting: RidgeSetting, seed: int) -> tuple[RidgeProblem, RidgeProblem]:
    """The problem, and the problem with the same features and start but the zero teacher."""
    with_teacher, without = (
        gaussian_problem(setting.n, setting.m, init_variance=setting.init_variance, teacher_norm=norm, seed=seed)
        for norm in (setting.teacher_norm, 0.0)
    )
    # The features are the same, so share their decomposition, which takes time to compute.
    without.__dict__["spectrum"] = with_teacher.spectrum
    return with_teacher, without


def _row(problems: tuple[RidgeProblem, RidgeProblem], setting: RidgeSetting, eps: float, c: float) -> dict[str, object]:
    solution, zero = (solve(problem, setting.weight_decay, setting.lr) for problem in problems)
    times = grokking_times(solution, eps=eps, c=c)
    proved = bounds(solution, eps=eps, c=c)
    row: dict[str, object] = {
        "t1": _or_nan(times.t1),
        "t2": _or_nan(times.t2),
        "delay": _or_nan(times.delay),
        "t2_halfway": _or_nan(times.halfway.step),
        "t1_reason": times.overfit.reason,
        "t2_reason": times.generalize.reason,
        "plateau": times.plateau,
        "limit": times.limit,
    }
    for bound in proved.all:
        row[bound.name] = bound.value
        row[f"{bound.name}_holds"] = bound.admits((times.overfit if bound.upper else times.generalize).when)
        row[f"{bound.name}_applies"] = bound.applies
    row["probability"] = proved.probability
    steps = stage_steps(2 * int(times.t2 or 1 / (setting.lr * setting.weight_decay)))
    trajectory = stages(zero, steps)
    row |= {
        "stage_overfits": trajectory.overfits,
        "stage_generalizes_late": trajectory.generalizes_late,
        "stage_generalizes": trajectory.generalizes,
        "stage_steps": len(steps),
    }
    for condition in step_sizes(solution):
        name = condition.name.replace(" ", "_").replace(".", "_")
        row[f"lr_{name}"], row[f"lr_{name}_holds"] = condition.limit, condition.holds
    row["weakest_gap"] = setting.lr * (problems[0].spectrum.smallest / setting.n + setting.weight_decay)
    row["slowest_rate"] = solution.slowest_rate
    return row


def stage_steps(last: int) -> list[int]:
    """Every step from 0 to 200, and 200 steps from 1 to the last, evenly in log(step)."""
    logarithmic = np.geomspace(1, max(last, 1), 200).round().astype(int)
    return sorted({*range(min(last, 200) + 1), *logarithmic.tolist()})


def _or_nan(step: int | None) -> float:
    return float("nan") if step is None else float(step)
