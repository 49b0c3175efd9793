"""Recipe `kumar-polynomial`: Kumar et al. 2023, section 5, polynomial regression from lazy to rich."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from grokinterp.experiments.claims.polynomial import decide_polynomial
from grokinterp.experiments.outcome import Outcome, Progress
from grokinterp.experiments.recipe import Form, Recipe
from grokinterp.experiments.records.computation import by_setting
from grokinterp.figures import polynomial as figures
from grokinterp.theory import PolynomialRun, polynomial_problem, train_polynomial

_CURVATURE = 0.02


@dataclass(frozen=True)
class _Plan:
    """The settings to train: scales for all seeds and for seed 0 only, curvatures, seeds and steps."""

    scales: tuple[float, ...]
    scales_once: tuple[float, ...]
    curvatures: tuple[float, ...]
    seeds: int
    steps: int


_FULL = _Plan(
    scales=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    scales_once=(2.0, 4.0, 8.0, 16.0, 32.0),
    curvatures=(0.05, 0.1, 0.2, 0.28),
    seeds=3,
    steps=100_000,
)
_QUICK = _Plan(scales=(1 / 8, 1 / 4, 1 / 2, 1.0), scales_once=(), curvatures=(0.05, 0.1, 0.28), seeds=2, steps=12_000)
_RESULTS = ("T_train", "T_test", "norm_end", "alignment_start", "alignment_end")
_DATA = (50, 120, 500)  # at d = 40, N = 100, ε = 0.5


@dataclass(frozen=True)
class _Setting:
    varied: str
    seed: int
    scale: float = 1.0
    curvature: float = _CURVATURE
    d: int = 100
    n_train: int = 550
    width: int = 500
    steps: int = 10_000
    look_every: int = 50

    def train(self) -> PolynomialRun:
        problem = polynomial_problem(self.d, self.n_train, self.width, seed=self.seed)
        return train_polynomial(
            problem, self.scale, self.curvature, max_steps=self.steps, look_every=self.look_every, until=0.4
        )


def _settings(plan: _Plan) -> Iterator[_Setting]:
    for seed in range(plan.seeds):
        for scale in plan.scales + (plan.scales_once if seed == 0 else ()):
            yield _Setting("scale", seed, scale=scale, steps=plan.steps, look_every=10 if scale < 0.2 else 50)
        for curvature in plan.curvatures:
            yield _Setting("curvature", seed, curvature=curvature, steps=plan.steps)
        for n in _DATA:
            yield _Setting("n_train", seed, 1.0, 0.5, 40, n, 100, steps=2000, look_every=10)


def _row(setting: _Setting, run: PolynomialRun) -> dict[str, object]:
    names = ("varied", "seed", "scale", "curvature", "d", "n_train", "width")
    return {
        **{name: getattr(setting, name) for name in names},
        "steps": run.steps[-1],
        "T_train": run.train_falls.step,
        "T_test": run.test_falls.step,
        "delay": run.delay,
        "peak_step": run.steps[int(run.test_loss.argmax())],
        "peak": (run.test_loss.max() / run.test_loss[0]).item(),
        "final_train": (run.train_loss[-1] / run.train_loss[0]).item(),
        "final_test": (run.test_loss[-1] / run.test_loss[0]).item(),
        "norm_start": run.weight_norm[0].item(),
        "norm_end": run.weight_norm[-1].item(),
        "alignment_start": run.alignment[0].item(),
        "alignment_end": run.alignment[-1].item(),
    }


def run(quick: bool, progress: Progress | None) -> Outcome:
    """Trains every setting and decides the claims."""
    plan = _QUICK if quick else _FULL
    settings = list(_settings(plan))
    rows, trained = [], {}
    for i, setting in enumerate(settings):
        result = setting.train()
        rows.append(_row(setting, result))
        if setting.seed == 0:
            trained[setting] = result
        if progress is not None:
            progress(i + 1, len(settings))
    # The run at scale 1 also belongs to the sweep over curvatures.
    shared = [row | {"varied": "curvature"} for row in rows if row["varied"] == "scale" and row["scale"] == 1]
    table = pd.DataFrame(rows + shared)
    times = ["T_train", "T_test", "delay"]
    table[times] = table[times].astype(float)
    return Outcome(
        claims=decide_polynomial(table),
        tables={"polynomial": table},
        figures=_figures(table, trained),
        settings={
            "cost": _QUICK_COST if quick else _FULL_COST,
            "scale α, curvature ε": f"D = 100, P = 550, N = 500, α = 1, ε = {_CURVATURE:g} unless varied; at most "
            f"{plan.steps:,} steps, or until the test loss is 0.4 times its initial value",
            "α": ", ".join(f"{scale:g}" for scale in plan.scales + plan.scales_once),
            "ε": ", ".join(f"{curvature:g}" for curvature in (_CURVATURE, *plan.curvatures)),
            "P": f"{', '.join(map(str, _DATA))} at D = 40, N = 100, ε = 0.5, α = 1; 2,000 steps",
            "seeds": plan.seeds,
        },
        results={"polynomial": by_setting(table, ["varied", "scale", "curvature", "d", "n_train", "width"], _RESULTS)},
    )


def _figures(table: pd.DataFrame, trained: dict[_Setting, PolynomialRun]) -> dict[str, tuple]:
    main = {f"α = {key.scale:g}": run for key, run in trained.items() if key.varied == "scale" and key.scale == 1}
    data = {f"P = {key.n_train}": run for key, run in trained.items() if key.varied == "n_train"}
    return {
        "From lazy to rich": (
            (
                figures.polynomial_curves(main),
                "The training loss (dotted) falls first while the test loss (solid) rises. Later, the kernel aligns "
                "with the targets, and the norm rises. There is no weight decay (Kumar et al. 2023, section 5).",
            ),
        ),
        "What sets the delay": tuple(
            (
                figures.fall_times(table.loc[table["varied"] == varied], varied),
                f"First step at which a loss is half of its initial value. {finding} Points are seeds, lines are "
                "medians.",
            )
            for varied, finding in (
                ("scale", "At a small output scale, the network learns features at once, and both times coincide."),
                ("curvature", "A small curvature means a kernel that is poorly aligned with the targets."),
            )
        ),
        "How much data": (
            (
                figures.polynomial_curves(data, title="Data"),
                "With too little data, the test loss never falls; with plenty of data, it falls together with the "
                "training loss.",
            ),
        ),
    }


_FULL_COST, _QUICK_COST = "8 minutes", "45 s"

RECIPE = Recipe(
    name="kumar-polynomial",
    title="Grokking without weight decay: polynomial regression, from lazy to rich",
    source="Kumar, Bordelon, Gershman, and Pehlevan 2023, arXiv:2310.06110",
    full=Form((), _FULL_COST),
    quick=Form((), _QUICK_COST, "the same networks with fewer scales, curvatures, seeds, and steps"),
    run=run,
)
