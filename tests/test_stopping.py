"""Stopping rules: when each ends a run, on rows made by hand and in trainings, and what holds of the run afterwards."""

import json
import math
import random
from dataclasses import replace

import pytest
from rewriting import rewrite
from trainings import contents, result

from grokinterp.config import MLPConfig, OptimizerConfig, RegressionConfig, RunConfig, ScheduleConfig, TaskConfig
from grokinterp.config.schedule import scheduled_steps
from grokinterp.errors import ConfigError
from grokinterp.experiments.manir import network, residual, small_network, transformer
from grokinterp.experiments.recipes import catalog
from grokinterp.runs.verification import verify
from grokinterp.sweep import train_sweep
from grokinterp.sweep.rows import transition_from_metrics
from grokinterp.training import Callback, last_needed_step, train, train_many
from grokinterp.training.preparation import has_ended
from grokinterp.training.stopping import StoppingRule, StopWhenDead, StopWhenGrokked, StopWhenNotMemorized

P = 97
CONSTANT = math.log(P)


def end_of(rule: StoppingRule, rows: list[dict[str, float]]) -> int | None:
    """The step at which a rule ends a run with these rows; None if it does not."""
    for row in rows:
        if rule.on_evaluation(row):
            assert rule.reason
            return int(row["step"])
        assert rule.reason is None
    return None


def accuracies(*pairs: tuple[int, float]) -> list[dict[str, float]]:
    return [{"step": step, "train_accuracy": accuracy} for step, accuracy in pairs]


BUDGET_OF_100 = {
    "never": ([(0, 0.0), (50, 0.4), (100, 0.5), (150, 1.0)], 100),
    "at the budget": ([(0, 0.0), (50, 0.4), (100, 0.99), (150, 0.2)], None),
    "before the budget, and forgotten": ([(0, 0.0), (50, 1.0), (100, 0.2), (150, 0.2)], None),
    "below the threshold": ([(0, 0.0), (100, 0.9899)], 100),
    "the budget lies between two evaluations": ([(0, 0.0), (80, 0.9), (120, 0.9), (160, 0.9)], 120),
    "reached at the first evaluation after the budget": ([(0, 0.0), (80, 0.9), (120, 1.0)], 120),
    "not there yet": ([(0, 0.0), (99, 0.9)], None),
    "an accuracy that is not a number": ([(0, math.nan), (100, math.nan)], 100),
}


class TestStopWhenNotMemorized:
    @pytest.mark.parametrize(("pairs", "end"), BUDGET_OF_100.values(), ids=BUDGET_OF_100)
    def test_the_run_ends_at_its_budget(self, pairs, end):
        rule = StopWhenNotMemorized(100)
        assert end_of(rule, accuracies(*pairs)) == end
        assert rule.reason == (None if end is None else "not memorized within 100 steps")


def dying(n: int, *, start: int = 0, rate: float = 0.9, layers: int = 3, loss: float = CONSTANT) -> list[dict]:
    """Rows every 100 steps at which the RMS of every layer is multiplied by the rate."""
    names = [f"group_rms.layers.{i}" for i in range(layers)]
    return [{"step": start + 100 * i, "train_loss": loss, **dict.fromkeys(names, 0.025 * rate**i)} for i in range(n)]


class TestStopWhenDead:
    def test_at_a_tenth(self):
        """0.9^21 = 0.109 and 0.9^22 = 0.098."""
        rule = StopWhenDead(P)
        assert end_of(rule, dying(30)) == 2200
        reason = (
            "dead: from step 0 to 2,200, the train loss stayed within 2 % of ln p and the RMS of every hidden layer"
        )
        assert rule.reason == f"{reason} fell to a tenth"

    def test_not_before_ten_evaluations(self):
        assert end_of(StopWhenDead(P), dying(30, rate=0.7)) == 900
        assert end_of(StopWhenDead(P), dying(9, rate=0.7)) is None

    @pytest.mark.parametrize("factor", [0.981, 1.019])
    def test_losses_within_two_percent_count(self, factor):
        assert end_of(StopWhenDead(P), dying(30, loss=factor * CONSTANT)) == 2200

    @pytest.mark.parametrize("factor", [0.979, 1.021, math.nan])
    def test_other_losses_do_not(self, factor):
        assert end_of(StopWhenDead(P), dying(100, loss=factor * CONSTANT)) is None

    def test_a_single_loss_starts_the_count_anew(self):
        rows = dying(60)
        rows[12]["train_loss"] = 0.97 * CONSTANT
        rule = StopWhenDead(P)
        assert end_of(rule, rows) == 1300 + 2200
        assert "from step 1,300 to 3,500" in str(rule.reason)

    @pytest.mark.parametrize("growth", [1.0, 1.0001])
    def test_a_single_layer_that_does_not_shrink_once_starts_the_count_anew(self, growth):
        rows = dying(60)
        for row in rows[12:]:
            row["group_rms.layers.1"] /= 0.9 / growth
        assert end_of(StopWhenDead(P), rows) == 1200 + 2200

    def test_every_layer_must_fall_to_a_tenth(self):
        rows = dying(60)
        for i, row in enumerate(rows):
            row["group_rms.layers.2"] = 0.025 * 0.98**i
        assert end_of(StopWhenDead(P), rows) is None

    def test_a_plateau_on_which_the_layers_turn_around(self):
        """They shrink to 0.11 of what they were at the constant loss; then the signal escapes."""
        down = dying(22)
        up = [row | {"step": 5000 - row["step"]} for row in reversed(down)]
        assert end_of(StopWhenDead(P), down + up) is None

    def test_a_plateau_on_which_the_layers_do_not_shrink(self):
        assert end_of(StopWhenDead(P), dying(500, rate=1.0)) is None
        assert end_of(StopWhenDead(P), dying(100, rate=1.01)) is None

    def test_without_hidden_layers_no_run_is_dead(self):
        assert end_of(StopWhenDead(P), dying(100, layers=0)) is None

    def test_unknown_norms(self):
        rows = [row | {"group_rms.layers.0": math.nan} for row in dying(100)]
        assert end_of(StopWhenDead(P), rows) is None


def training(decay: float, **schedule) -> RunConfig:
    """An MLP that dies with a decay of 0.06 and memorizes with 0.02."""
    fields = {"steps": 400, "evaluate_every": 5, "checkpoints": 50, "resume_every": 20} | schedule
    return RunConfig(
        task=TaskConfig(p=7, train_fraction=0.5),
        model=MLPConfig(input="sum", depth=3, width=16, activation="tanh", biases=False),
        optimizer=OptimizerConfig(name="sgd", lr=0.2, momentum=0.9, weight_decay=decay, decay="coupled"),
        schedule=ScheduleConfig(**fields),
    )


DEAD = training(0.06, stop_when_dead=True)
NOT_MEMORIZED = training(0.06, memorization_budget=47, stop_when_not_memorized=True)
RULES = {"dead": (DEAD, 60, "dead: from step 15 to 60"), "budget": (NOT_MEMORIZED, 50, "not memorized within 47 steps")}
rules = pytest.mark.parametrize(("config", "end", "reason"), RULES.values(), ids=RULES)


def without_rules(config: RunConfig) -> RunConfig:
    schedule = replace(config.training().schedule, stop_when_dead=False, stop_when_not_memorized=False)
    return replace(config, schedule=schedule)


class TestTraining:
    @rules
    def test_the_run_ends_and_has_not_memorized(self, config, end, reason, tmp_path):
        run = train(config, tmp_path / "run")
        assert (run.status["status"], run.status["step"]) == ("finished", end)
        assert run.status["reason"].startswith(reason)
        assert run.metrics.index[-1] == run.steps[-1] == end
        assert verify(run.path).problems == ()
        transition = transition_from_metrics(run.config, run.metrics, run.status["status"])
        assert transition.outcome == "DNF_train"
        assert transition.reason == f"train accuracy did not reach 0.99 within {47 if end == 50 else end} steps"
        assert run.analyze(measures=["weight_norm"]).transition.outcome == "DNF_train"

    @rules
    def test_until_then_it_equals_a_run_that_trains_on(self, config, end, reason, tmp_path):
        ended, whole = train(config, tmp_path / "run"), train(without_rules(config), tmp_path / "whole")
        assert whole.status["step"] == 400
        assert whole.metrics.loc[:end].equals(ended.metrics[list(whole.metrics)])
        assert transition_from_metrics(whole.config, whole.metrics, "finished").outcome == "DNF_train"
        extra = set(ended.metrics) - set(whole.metrics)
        assert extra == ({f"group_rms.layers.{i}" for i in range(3)} if config is DEAD else set())

    @rules
    def test_resuming_makes_no_update(self, config, end, reason, tmp_path):
        run = train(config, tmp_path / "run")
        before = contents(run.path)
        for steps in (400, 1000):
            more = replace(config, schedule=replace(config.training().schedule, steps=steps))
            assert has_ended(run, more)
            assert train(more, run.path, resume=True).status["step"] == end
        assert contents(run.path) == before

    @rules
    @pytest.mark.parametrize("at", [18, 43, 50])
    def test_a_killed_run_ends_at_the_same_step(self, config, end, reason, at, tmp_path):
        class Death(Callback):
            def on_step(self, step: int) -> None:
                if step == at:
                    raise KeyboardInterrupt

        whole = train(config, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", callbacks=[Death()])
        rewrite(tmp_path / "run" / "status.json", status="running")
        run = train(config, tmp_path / "run", resume=True)
        assert (run.status["step"], run.status["reason"]) == (end, whole.status["reason"])
        assert result(run.path) == result(whole.path)

    @rules
    def test_a_run_killed_before_its_status_was_written(self, config, end, reason, tmp_path):
        run = train(config, tmp_path / "run")
        files = result(run.path)
        rewrite(run.path / "status.json", status="running", reason=None)
        again = train(config, run.path, resume=True)
        assert (again.status["status"], again.status["step"]) == ("finished", end)
        assert again.status["reason"].startswith(reason)
        assert result(run.path) == files

    def test_a_network_that_memorizes_late_trains_on(self, tmp_path):
        config = training(0.02, stop_when_dead=True, stop_when_not_memorized=True, memorization_budget=400)
        run = train(config, tmp_path / "run")
        assert run.status["reason"] == "all steps made"
        assert run.metrics["train_accuracy"].iloc[-1] == 1.0

    def test_the_last_step_is_a_budget_too(self, tmp_path):
        config = training(0.06, steps=40, memorization_budget=40, stop_when_not_memorized=True)
        assert train(config, tmp_path / "run").status["reason"] == "all steps made"

    def test_ensembles(self, tmp_path):
        """The members end one after the other, each as it would alone."""
        configs = [replace(DEAD, optimizer=replace(DEAD.training().optimizer, weight_decay=w)) for w in (0.06, 0.02)]
        paths = [tmp_path / "dead", tmp_path / "alive"]
        runs = train_many(configs, paths)
        alone = train(configs[0], tmp_path / "alone")
        assert runs[0].status["reason"] == alone.status["reason"]
        assert [run.status["step"] for run in runs] == [60, 400]
        before = [contents(path) for path in paths]
        train_many(configs, paths, resume=True)
        assert [contents(path) for path in paths] == before

    def test_a_sweep_counts_such_runs_as_done(self, tmp_path):
        grid = {"optimizer.weight_decay": [0.06, 0.02]}
        base = training(0.06, stop_when_dead=True, stop_when_not_memorized=True, memorization_budget=300)
        sweep = train_sweep(tmp_path / "sweep", base, grid=grid, workers=1)
        assert list(sweep.table["status"]) == ["finished", "finished"]
        assert list(sweep.table["step"]) == [60, 400]
        assert sweep.table["outcome"].iloc[0] == "DNF_train"
        assert not sweep.failures
        before = {point.name: contents(sweep.path / point.name) for point in sweep.points}
        again = train_sweep(tmp_path / "sweep", base, grid=grid, workers=1)
        assert {point.name: contents(again.path / point.name) for point in again.points} == before


class TestConfig:
    def test_a_config_without_the_fields(self, tmp_path):
        content = json.loads(RunConfig().to_json())
        for name in ("stop_when_not_memorized", "stop_when_dead"):
            assert content["schedule"].pop(name) is False
        assert RunConfig.from_json(json.dumps(content)) == RunConfig()

    def test_a_rule_without_its_budget_is_refused(self):
        with pytest.raises(ConfigError, match=r"^stop_when_not_memorized needs memorization_budget: set it"):
            ScheduleConfig(stop_when_not_memorized=True)

    def test_a_regression_has_no_constant_loss(self):
        model = MLPConfig(input="vector")
        with pytest.raises(ConfigError, match=r"schedule\.stop_when_dead .* needs loss cross_entropy or stablemax"):
            RunConfig(task=RegressionConfig(), model=model, loss="mse", schedule=ScheduleConfig(stop_when_dead=True))

    def test_a_resumed_run_keeps_its_rules(self, tmp_path):
        train(training(0.06, steps=20), tmp_path / "run")
        with pytest.raises(ConfigError, match=r"schedule\.stop_when_dead was False, not True"):
            train(DEAD, tmp_path / "run", resume=True)


BOTH_RULES = ScheduleConfig(
    steps=10_000,
    evaluate_every="dense:0:100:10+every:300",
    stop_when_grokked=True,
    stop_factor=1.5,
    memorization_budget=1000,
    stop_when_not_memorized=True,
)
# T_train(0.99), T_grok(0.99), and the step at which the run ends
EVENTS = [
    (100, None, 10_000),
    (100, 2000, 3000),
    (100, 2001, 3300),
    (30, 40, 60),
    (100, 9000, 10_000),
    (None, None, 1200),
    (1000, None, 10_000),
    (1200, 1200, 1200),
    (1200, 300, 600),  # test accuracy first
]


class TestLastNeededStep:
    @pytest.mark.parametrize(("t_train", "t_grok", "step"), EVENTS)
    def test_of_both_rules(self, t_train, t_grok, step):
        assert last_needed_step(BOTH_RULES, t_train, t_grok) == step

    def test_of_rules_that_are_off(self):
        neither = replace(BOTH_RULES, stop_when_grokked=False, stop_when_not_memorized=False)
        for t_train, t_grok, _ in EVENTS:
            assert last_needed_step(neither, t_train, t_grok) == 10_000

    def test_it_is_where_the_rules_end_a_run(self):
        draw = random.Random(0)
        for _ in range(300):
            schedule = ScheduleConfig(
                steps=draw.randint(50, 500),
                evaluate_every=draw.choice([1, 7, 30, "log:12", "dense:20:90:13+every:100"]),
                stop_when_grokked=draw.random() < 0.7,
                stop_factor=draw.choice([1.0, 1.05, 1.5, 2.5]),
                memorization_budget=draw.randint(1, 400),
                stop_when_not_memorized=draw.random() < 0.7,
            )
            evaluated = scheduled_steps(schedule.evaluate_every, schedule.steps)
            t_train, t_grok = (draw.choice([None, *evaluated]) for _ in range(2))
            assert schedule.memorization_budget is not None
            active: list[StoppingRule] = [StopWhenGrokked(schedule)] if schedule.stop_when_grokked else []
            if schedule.stop_when_not_memorized:
                active.append(StopWhenNotMemorized(schedule.memorization_budget))
            rows = [
                {
                    "step": step,
                    "train_accuracy": float(t_train is not None and step >= t_train),
                    "test_accuracy": float(t_grok is not None and step >= t_grok),
                }
                for step in evaluated
            ]
            ends = [end for rule in active if (end := end_of(rule, rows)) is not None]
            assert last_needed_step(schedule, t_train, t_grok) == min([*ends, schedule.steps])


class TestRecipes:
    def test_published_networks_end_when_they_cannot_memorize(self):
        for config in (network(4, 512, lr=3e-2, decay=2e-3), residual(), transformer(1.0)):
            schedule = config.training().schedule
            assert schedule.memorization_budget == 60_000
            assert schedule.stop_when_not_memorized
            assert schedule.stop_when_dead

    def test_miniatures_do_if_they_have_a_budget(self):
        for budget, ends in ((1000, True), (None, False)):
            schedule = small_network(4, lr=0.2, decay=1e-3, steps=5000, memorization_budget=budget).training().schedule
            assert schedule.stop_when_not_memorized is schedule.stop_when_dead is ends

    def test_a_run_within_its_budget_makes_all_steps(self):
        """The claim of this recipe needs the dead network at the step at which the other one has memorized."""
        (arm,) = catalog()["manir-goldilocks-edge"].full.arms
        schedule = arm.base.training().schedule
        assert (schedule.steps, schedule.memorization_budget) == (1300, 60_000)
        assert not schedule.stop_when_not_memorized
        assert not schedule.stop_when_dead


def test_train_says_why_the_run_ended(tmp_path, shell):
    (tmp_path / "config.json").write_text(NOT_MEMORIZED.to_json())
    folder = tmp_path / "run"
    shown = shell("train", str(folder), "--config", str(tmp_path / "config.json"))
    assert shown.code == 0
    assert f"{folder}: finished at step 50 (not memorized within 47 steps)" in shown.out
    assert "DNF_train: train accuracy did not reach 0.99 within 47 steps" in shown.out
    again = shell("train", str(folder), "--resume")
    assert f"{folder} has no more steps to make: nothing was changed" in again.out


def test_a_rule_without_its_budget_on_the_command_line(tmp_path, shell):
    shown = shell("train", str(tmp_path / "run"), "--schedule.stop-when-not-memorized")
    assert shown.code == 2
    assert "stop_when_not_memorized needs memorization_budget" in shown.err


def test_help_names_the_rules(shell):
    shown = shell("train", "--help-all").out
    assert "--schedule.stop-when-not-memorized" in shown
    assert "--schedule.stop-when-dead" in shown
