"""Recipe `ridge`: Xu, Vardi, and Safran 2026, *To Grok Grokking: Provable Grokking in Ridge Regression*."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from grokinterp.experiments.claims.networks import decide_random_features, decide_two_layer
from grokinterp.experiments.claims.overparameterization import decide_overparameterization
from grokinterp.experiments.claims.ridge import Evidence, decide_ridge
from grokinterp.experiments.outcome import Outcome, Progress
from grokinterp.experiments.recipe import Form, Recipe
from grokinterp.experiments.records.computation import by_setting
from grokinterp.figures import ridge as figures
from grokinterp.theory import (
    FIGURE_2,
    RidgeSolution,
    Stages,
    TwoLayerRun,
    gaussian_problem,
    grokking_times,
    random_feature_problem,
    ridge_sweep,
    solve,
    stages,
    train_two_layer,
    two_layer_problem,
)
from grokinterp.theory.sweep import stage_steps


@dataclass(frozen=True)
class _Plan:
    """The size of each part: seeds and the number of random features."""

    sweep_seeds: int
    overparameterization_seeds: int
    zero_seeds: int
    feature_seeds: int
    features: int
    network_seeds: int


_FULL = _Plan(
    sweep_seeds=10, overparameterization_seeds=10, zero_seeds=50, feature_seeds=3, features=10_000, network_seeds=3
)
_QUICK = _Plan(
    sweep_seeds=3, overparameterization_seeds=3, zero_seeds=5, feature_seeds=1, features=4000, network_seeds=1
)
_M = (10, 25, 50, 75, 90, 100, 110, 125, 150, 200, 400, 1000, 4000)  # from n/10 to 40 n
_FIRST_SEED = 100  # of the sweep over these m; its criteria were fixed before these seeds were run
_FEATURE_DECAYS = (1e-6, 3e-6, 1e-5, 3e-5)
_NETWORK_DECAYS = (0.05, 0.1, 0.2)


def run(quick: bool, progress: Progress | None) -> Outcome:
    """Reproduces Figures 1 to 4 of the paper, varies η and m < n as well, and decides the claims."""
    plan = _QUICK if quick else _FULL
    rows = plan.sweep_seeds * sum(map(len, FIGURE_2.values()))
    parts = (
        rows
        + plan.overparameterization_seeds * len(_M)
        + plan.zero_seeds
        + plan.feature_seeds * (len(_FEATURE_DECAYS) + 3)
        + plan.network_seeds * (len(_NETWORK_DECAYS) + 1)
    )
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, parts)

    table = ridge_sweep(seeds=range(plan.sweep_seeds), progress=lambda completed, _: tick(completed - done))
    seeds = range(_FIRST_SEED, _FIRST_SEED + plan.overparameterization_seeds)
    passing = ridge_sweep({"m": _M}, seeds, progress=lambda completed, _: tick(rows + completed - done))
    zero = []
    for trajectory in _zero_teacher(plan):
        zero.append(trajectory)
        tick(1)
    features, curves = [], {}
    for row, solution in _random_features(plan):
        features.append(row)
        if row["seed"] == 0 and row["varied"] == "weight_decay":
            curves[f"λ = {row['weight_decay']:g}"] = solution
        tick(1)
    networks = []
    for row, trained in _two_layer(plan):
        networks.append((row, trained))
        tick(1)
    feature_table, network_table = pd.DataFrame(features), pd.DataFrame([row for row, _ in networks])
    times = ["t1", "t2"]
    evidence = Evidence(table, tuple(zero), _update_error(range(plan.sweep_seeds)))
    base = [trained for row, trained in networks if row["init_variance"] == 1.0]
    return Outcome(
        claims=(
            *decide_ridge(evidence),
            *decide_overparameterization(passing),
            *decide_random_features(feature_table),
            *decide_two_layer(network_table),
        ),
        tables={
            "ridge": table,
            "overparameterization": passing,
            "random_features": feature_table,
            "two_layer": network_table,
        },
        figures=_figures(table, passing, zero, curves, base),
        settings={
            "ridge": "n = 100, m = 1000, ν² = 1, λ = 1e-4, η = 1, ‖θ*‖ = 1, c = ε = 0.01 unless varied",
            "ridge, seeds": plan.sweep_seeds,
            **{f"ridge, {name}": ", ".join(f"{value:g}" for value in values) for name, values in FIGURE_2.items()},
            "over-parameterization": f"n = 100, m = {', '.join(map(str, _M))}, {plan.overparameterization_seeds} seeds",
            "zero teacher": f"n = 100, m = 10000, λ = 1e-5, ν² = 1, η = 1, {plan.zero_seeds} seeds",
            "random features": f"d = 100, n = 100, m = {plan.features}, ν² = 1, η = 1, x ~ N(0, I), "
            f"{plan.feature_seeds} seeds",
            "two-layer ReLU": f"d = 50, n = 50, m = 1000, ν² = 1, η = 1e-3 (the paper: 1e-4), x ~ N(0, I), "
            f"{plan.network_seeds} seeds",
        },
        results={
            "ridge": by_setting(_with_value(table), ["varied", "value"], times),
            "overparameterization": by_setting(passing, ["m"], ["slowest_rate", "delay"]),
            "random_features": by_setting(
                _with_value(feature_table), ["varied", "value"], ["t1", "halfway", "plateau"]
            ),
            "two_layer": by_setting(network_table, ["init_variance", "weight_decay"], times),
        },
    )


def _with_value(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the value of the setting that each row varies."""
    return table.assign(value=[float(row[row["varied"]]) for row in table.to_dict(orient="records")])


def _zero_teacher(plan: _Plan) -> Iterator[Stages]:
    steps = stage_steps(300_000)
    for seed in range(plan.zero_seeds):
        yield stages(solve(gaussian_problem(100, 10_000, teacher_norm=0, seed=seed), 1e-5), steps)


def _random_features(plan: _Plan) -> Iterator[tuple[dict[str, object], RidgeSolution]]:
    for seed in range(plan.feature_seeds):
        base = {"n": 100, "m": plan.features, "init_variance": 1.0}
        for varied, changes in (
            ("weight_decay", {}),
            ("n", {"n": 50}),
            ("m", {"m": plan.features // 4}),
            ("init_variance", {"init_variance": 4.0}),
        ):
            setting = base | changes
            problem = random_feature_problem(
                int(setting["n"]), int(setting["m"]), init_variance=setting["init_variance"], seed=seed
            )
            for decay in _FEATURE_DECAYS if varied == "weight_decay" else (1e-5,):
                solution = solve(problem, decay)
                times = grokking_times(solution)
                yield (
                    {"varied": varied, **setting, "weight_decay": decay, "seed": seed}
                    | {"t1": times.t1, "t2": times.t2, "t2_reason": times.generalize.reason}
                    | {"halfway": times.halfway.step, "plateau": times.plateau, "limit": times.limit},
                    solution,
                )


def _two_layer(plan: _Plan) -> Iterator[tuple[dict[str, object], TwoLayerRun]]:
    for seed in range(plan.network_seeds):
        for variance, decay in (*((1.0, decay) for decay in _NETWORK_DECAYS), (4.0, 0.1)):
            trained = train_two_layer(two_layer_problem(init_variance=variance, seed=seed), decay)
            setting = {"weight_decay": decay, "init_variance": variance, "seed": seed}
            yield {**setting, "t1": trained.t1, "t2": trained.t2}, trained


def _update_error(seeds: range) -> dict[int, float]:
    """By seed, the deviation of the closed form from the updates of gradient descent at steps throughout training."""
    steps = stage_steps(50_000)
    return {seed: solve(gaussian_problem(seed=seed)).update_error(steps) for seed in seeds}


def _figures(
    table: pd.DataFrame,
    passing: pd.DataFrame,
    zero: list[Stages],
    curves: dict[str, RidgeSolution],
    networks: list[TwoLayerRun],
) -> dict[str, tuple]:
    return {
        "Ridge regression": (
            (
                figures.times(table),
                "t1 is the last step with train loss at least 0.01, t2 the first with population loss at most 0.01. "
                "Points are seeds, lines are medians, dashes are the bounds (8): t1 stays below its bound, t2 above "
                "its bound (Xu et al. 2026, Figure 2, whose grids are not printed; the panel over η is not in the "
                "paper).",
            ),
        ),
        "From fewer to more features than training examples": (
            (
                figures.overparameterization(passing),
                "Left: the delay t2 - t1 grows as the number of features m passes the number of training examples n, "
                "and then saturates. Right: the same runs against their slowest decay rate g = η (λ + λ_min(ΦᵀΦ)/n). "
                "With m < n, the delay falls as 1/g. With m > n, the training examples miss some directions of weight "
                "space, which decay at the rate g = η λ whatever m; then the delay depends only on how many there "
                "are. Dashed: expected for large random matrices. Dotted: ln(ν²/c) / (2 g), the time in which the "
                "population loss would fall to c if every direction were the slowest.",
            ),
        ),
        "Zero teacher": (
            (
                figures.stage_curves(zero),
                "Train loss (blue) and population loss (red) with the envelopes of Theorem 4.1 (dashed): the train "
                "loss stays below its envelope, the population loss above (Xu et al. 2026, Figure 1, left).",
            ),
        ),
        "Random features": (
            (
                figures.loss_curves(curves),
                "Population loss (solid) and train loss (dotted), computed exactly, of a ReLU network with only its "
                "last layer trained. The teacher is outside the span of the features, so the population loss ends "
                "above 0 (Xu et al. 2026, Figure 3, which shows curves but no times).",
            ),
        ),
        "Two-layer ReLU network": (
            (
                figures.two_layer_times(networks),
                "Both layers trained by gradient descent with a zero teacher. t2 falls as 1/λ, and t1 hardly changes "
                "(Xu et al. 2026, Figure 4).",
            ),
        ),
    }


RECIPE = Recipe(
    name="ridge",
    title="Provable grokking in ridge regression",
    source="Xu, Vardi, and Safran 2026, arXiv:2601.19791",
    full=Form((), "about a minute"),
    quick=Form((), "half a minute", "fewer seeds and fewer random features"),
    run=run,
)
