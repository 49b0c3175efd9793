"""find_transition on curves whose answer is known by hand, and on published logs."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from grokinterp.analysis.phases import Boundary, first_from
from grokinterp.analysis.transition import Thresholds, find_transition, first_reaching

P = 113
CHANCE = math.log(P)  # 4.7274
STEPS = np.arange(0, 10_001, 100)
RATIO = 1.05  # a window of 7.5 % around a step of this geometric grid holds the step and its two neighbours
SLOPES = {14: 3.0, 20: 1.6, 21: 0.8, 22: 0.4, 23: 0.2, 24: 0.0}  # by position: a fall from 14 on that ends gently


def line(*points: tuple[float, float], steps=STEPS) -> np.ndarray:
    """The broken line through (step, value) points."""
    x, y = zip(*points, strict=True)
    return np.interp(steps, x, y)


def curves(steps=STEPS, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(steps, name="step"))


def grokking(**changes) -> pd.DataFrame:
    """Memorized at 2000 (0.95: 1900), generalized at 7000 (0.95: 6900); a column set to None is left out."""
    columns = {
        "train_loss": line((0, 4.7), (2000, 0.01), (10_000, 1e-6)),
        "test_loss": line((0, 4.7), (1500, 30.0), (7500, 0.0)) + 1e-7,
        "train_accuracy": line((0, 0.01), (2000, 1.0)),
        "test_accuracy": line((0, 0.01), (5000, 0.01), (7000, 1.0)),
        "novel_accuracy": line((0, 0.01), (5500, 0.01), (7500, 1.0)),
        "excluded_loss_novel": line((0, 1.41), (2000, 0.41), (9000, 2.51), (10_000, 2.51)),
        **changes,
    }
    return curves(**{name: values for name, values in columns.items() if values is not None})


def geometric(n: int = 40) -> np.ndarray:
    return np.rint(1000 * RATIO ** np.arange(n)).astype(int)


def norm_with_slopes(steps: np.ndarray, slopes: dict[int, float], then: float = 0.0) -> np.ndarray:
    """A weight norm whose sum of squares falls as t^-slope between steps[j] and steps[j + 1]."""
    falls, slope = [0.0], then
    for j in range(len(steps) - 1):
        slope = slopes.get(j, slope)
        falls.append(falls[-1] + slope * math.log(steps[j + 1] / steps[j]))
    return 60 * np.exp(-np.array(falls) / 2)


def formed_at_12(steps: np.ndarray, **columns) -> pd.DataFrame:
    """Test loss peaks at steps[3] and is below chance from steps[12] on; memorized from the start."""
    i = np.arange(len(steps))
    test_loss = np.where(i < 12, 10.0 + (i == 3), 0.5)
    return curves(
        steps,
        test_loss=test_loss,
        train_loss=np.full(len(steps), 1e-3),
        train_accuracy=np.ones(len(steps)),
        test_accuracy=np.where(i < 12, 0.0, 1.0),
        **columns,
    )


class TestEvents:
    def test_first_evaluated_step_at_each_threshold_with_the_step_before(self):
        found = find_transition(grokking(), n_classes=P)
        assert (found.T_train[0.95].step, found.T_train[0.95].previous) == (1900, 1800)
        assert (found.T_train[0.99].step, found.T_train[0.99].previous) == (2000, 1900)
        assert (found.T_grok[0.95].step, found.T_grok[0.95].previous) == (6900, 6800)
        assert (found.T_grok[0.99].step, found.T_grok[0.99].previous) == (7000, 6900)
        assert (found.T_grok_novel[0.95].step, found.T_grok_novel[0.99].step) == (7400, 7500)
        assert found.delay == {0.95: 5000, 0.99: 5000}

    def test_a_threshold_counts_when_it_is_met_exactly(self):
        frame = curves([0, 10, 20], train_accuracy=[0.5, 0.95, 0.99], test_accuracy=[0.0, 0.0, 0.0])
        found = find_transition(frame, n_classes=P)
        assert (found.T_train[0.95].step, found.T_train[0.99].step) == (10, 20)

    def test_the_first_time_counts_whatever_happens_later(self):
        accuracy = line((0, 0.0), (3000, 1.0), (3100, 0.2), (10_000, 0.2))
        assert find_transition(grokking(test_accuracy=accuracy), n_classes=P).T_grok[0.99].step == 3000

    def test_the_first_evaluated_step_has_none_before_it(self):
        found = find_transition(curves([50, 60], train_accuracy=[1.0, 1.0], test_accuracy=[0.0, 0.1]), n_classes=P)
        assert found.T_train[0.99].step == 50
        assert found.T_train[0.99].previous is None

    def test_what_was_never_reached_says_how_far_it_came(self):
        found = find_transition(grokking(test_accuracy=line((0, 0.0), (10_000, 0.5))), n_classes=P)
        assert found.T_grok[0.95].step is None
        assert found.T_grok[0.95].reason == "test accuracy never reached 0.95; its largest is 0.500"
        assert found.delay == {0.95: None, 0.99: None}

    def test_an_accuracy_that_was_not_recorded_is_named(self):
        found = find_transition(grokking(novel_accuracy=None), n_classes=P)
        assert found.T_grok_novel[0.95].step is None
        assert found.T_grok_novel[0.95].reason == "no novel accuracy was recorded"

    def test_rows_without_a_value_are_skipped_on_the_way_to_previous(self):
        frame = curves([0, 10, 20, 30], train_accuracy=[0.1, np.nan, np.nan, 1.0])
        event = first_reaching(frame, "train_accuracy", 0.99)
        assert (event.step, event.previous) == (30, 0)

    def test_events_come_from_the_finer_grid_where_there_is_one(self):
        coarse = grokking().loc[::1000]
        found = find_transition(coarse, n_classes=P, metrics=grokking())
        assert (found.T_grok[0.95].step, found.T_grok[0.95].previous) == (6900, 6800)

    def test_metrics_without_rows_leave_the_timeline(self):
        found = find_transition(grokking(), n_classes=P, metrics=pd.DataFrame())
        assert found.T_grok[0.95].step == 6900


def rises(at: float, to: float = 1.0) -> np.ndarray:
    """An accuracy of 0.01 that jumps at one step."""
    return np.where(at <= STEPS, to, 0.01)


OUTCOMES = {
    "grokked": (grokking(), {}, "grokked"),
    "grokked, T_grok just beyond twice T_train": (
        grokking(test_accuracy=rises(4100), novel_accuracy=None),
        {},
        "grokked",
    ),
    "grokked, though the run was stopped later": (grokking(), {"status": "stopped"}, "grokked"),
    "grokked: mirrored pairs known at T_train do not count as unseen": (
        grokking(test_accuracy=line((0, 0.6), (5000, 0.6), (7000, 1.0)), novel_accuracy=rises(6900)),
        {},
        "grokked",
    ),
    "no delay, T_grok at twice T_train": (
        grokking(test_accuracy=rises(4000), novel_accuracy=None),
        {},
        "generalized_without_delay",
    ),
    "no delay, half of the test pairs known at T_train": (
        grokking(test_accuracy=line((0, 0.5), (5000, 0.5), (7000, 1.0)), novel_accuracy=None),
        {},
        "generalized_without_delay",
    ),
    "no delay, half of the novel pairs known at T_train": (
        grokking(novel_accuracy=line((0, 0.5), (5000, 0.5), (7000, 1.0))),
        {},
        "generalized_without_delay",
    ),
    "semi-grokked on novel pairs": (
        grokking(test_accuracy=rises(3000, 0.5), novel_accuracy=rises(3000, 0.4)),
        {},
        "semi_grokked",
    ),
    "semi-grokked on test pairs, where there are no novel ones": (
        grokking(test_accuracy=rises(3000, 0.4), novel_accuracy=None),
        {},
        "semi_grokked",
    ),
    "mirrored pairs alone are no semi-grokking": (
        grokking(test_accuracy=rises(3000, 0.2), novel_accuracy=rises(3000, 0.02)),
        {},
        "DNF_test",
    ),
    "still rising is no plateau": (
        grokking(test_accuracy=line((0, 0.0), (10_000, 0.9)), novel_accuracy=None),
        {},
        "DNF_test",
    ),
    "a plateau by a wider tolerance": (
        grokking(test_accuracy=line((0, 0.0), (10_000, 0.9)), novel_accuracy=None),
        {"thresholds": Thresholds(flatness=0.3)},
        "semi_grokked",
    ),
    "memorized only": (
        grokking(test_accuracy=rises(3000, 0.012), novel_accuracy=rises(3000, 0.012)),
        {},
        "DNF_test",
    ),
    "never memorized": (
        grokking(train_accuracy=line((0, 0.0), (10_000, 0.98)), test_accuracy=rises(3000, 0.3)),
        {},
        "DNF_train",
    ),
    "memorized after its budget": (grokking(), {"memorization_budget": 1999}, "DNF_train"),
    "memorized within its budget": (grokking(), {"memorization_budget": 2000}, "grokked"),
    "stopped beyond the budget without having memorized": (
        grokking(train_accuracy=rises(0, 0.5), test_accuracy=rises(0, 0.1), novel_accuracy=None),
        {"status": "stopped", "memorization_budget": 5000},
        "DNF_train",
    ),
    "a rule ended it before its budget": (
        grokking(train_accuracy=rises(0, 0.01), test_accuracy=rises(0, 0.01), novel_accuracy=None),
        {"status": "finished", "memorization_budget": 60_000},
        "DNF_train",
    ),
    "diverged, as the run says": (grokking(), {"status": "diverged"}, "diverged"),
    "diverged, by its final train loss": (
        grokking(train_loss=line((0, 4.7), (9000, 0.1), (10_000, 2 * CHANCE + 0.01))),
        {},
        "diverged",
    ),
    "diverged, by an infinite train loss": (
        grokking(train_loss=np.where(STEPS < 9000, 0.1, np.inf)),
        {},
        "diverged",
    ),
    "not diverged just below twice chance": (
        grokking(train_loss=line((0, 4.7), (9000, 0.1), (10_000, 2 * CHANCE - 0.01))),
        {},
        "grokked",
    ),
    "a single step": (grokking().iloc[[-1]], {}, "undetermined"),
    "unfinished: memorized, not generalized yet": (
        grokking(test_accuracy=rises(0), novel_accuracy=None).assign(test_accuracy=0.01),
        {"status": "running"},
        "undetermined",
    ),
    "unfinished: has not memorized within its budget yet": (
        grokking(train_accuracy=rises(0, 0.5), test_accuracy=rises(0, 0.1), novel_accuracy=None),
        {"status": "stopped", "memorization_budget": 20_000},
        "undetermined",
    ),
    "unfinished: has not memorized yet, and may take all its steps to": (
        grokking(train_accuracy=rises(0, 0.5), test_accuracy=rises(0, 0.1), novel_accuracy=None),
        {"status": "running"},
        "undetermined",
    ),
    "no known split": (curves(loss=line((0, 5.0), (10_000, 0.0)), accuracy=rises(5000)), {}, "undetermined"),
    "nothing at all": (curves([], train_accuracy=[]), {}, "undetermined"),
}


@pytest.mark.parametrize(("frame", "options", "outcome"), OUTCOMES.values(), ids=OUTCOMES)
def test_outcome(frame, options, outcome):
    found = find_transition(frame, n_classes=P, **options)
    assert found.outcome == outcome, found.reason
    assert found.reason
    assert "None" not in found.reason


def test_generalized_without_ever_memorizing_is_explained_without_none():
    frame = grokking(train_accuracy=line((0, 0.0), (2000, 0.97)), test_accuracy=rises(5000), novel_accuracy=None)
    found = find_transition(frame, n_classes=P)
    assert found.outcome in ("DNF_train", "generalized_without_delay")
    assert "None" not in found.reason


@pytest.mark.parametrize(
    ("frame", "options"),
    [
        (grokking(), {"status": "diverged"}),
        (grokking(train_accuracy=line((0, 0.0), (10_000, 0.98)), test_accuracy=rises(0, 0.3)), {}),
    ],
    ids=["diverged", "DNF_train"],
)
def test_phases_are_refused_for_what_did_not_memorize(frame, options):
    found = find_transition(frame, n_classes=P, **options)
    for boundary in (found.memorization_end, found.circuit_formation_end, found.cleanup_end):
        assert boundary == Boundary(None, reason=found.reason)


class TestCircuitFormation:
    def test_first_step_after_the_peak_from_which_test_loss_is_below_chance(self):
        """30 - 0.005 (t - 1500) passes 1.5 C at 6081.8, C at 6554.5 and 0.67 C at 6866.5."""
        found = find_transition(grokking(), n_classes=P).circuit_formation_end
        assert found == Boundary(6600, low=6100, high=6900, previous=6500)

    def test_a_dip_of_two_steps_does_not_count(self):
        loss = line((0, 4.7), (1500, 30.0), (7500, 0.0))
        loss[(STEPS == 4000) | (STEPS == 4100)] = 0.1
        assert find_transition(grokking(test_loss=loss), n_classes=P).circuit_formation_end.step == 6600

    def test_low_loss_before_the_peak_does_not_count(self):
        loss = line((0, 1.0), (1000, 1.0), (1500, 30.0), (7500, 0.0))
        assert find_transition(grokking(test_loss=loss), n_classes=P).circuit_formation_end.step == 6600

    def test_the_last_two_steps_cannot_be_sustained(self):
        loss = np.where(STEPS >= 9900, 0.1, 20.0 + (STEPS == 100))
        found = find_transition(grokking(test_loss=loss), n_classes=P).circuit_formation_end
        assert found.step is None
        assert found.reason == "test loss never falls below chance"
        loss = np.where(STEPS >= 9800, 0.1, 20.0 + (STEPS == 100))
        assert find_transition(grokking(test_loss=loss), n_classes=P).circuit_formation_end.step == 9800

    def test_a_level_that_is_not_reached_leaves_that_end_open(self):
        loss = line((0, 4.7), (1500, 30.0), (7500, 0.8 * CHANCE), (10_000, 0.8 * CHANCE))
        found = find_transition(grokking(test_loss=loss), n_classes=P).circuit_formation_end
        assert found.step is not None
        assert found.high is None

    def test_chance_depends_on_the_number_of_classes(self):
        """ln 7 = 1.946 is passed at 7110.8."""
        assert find_transition(grokking(), n_classes=7).circuit_formation_end.step == 7200

    def test_without_test_loss_no_phase_is_known(self):
        found = find_transition(grokking(test_loss=None), n_classes=P)
        for boundary in (found.memorization_end, found.circuit_formation_end, found.cleanup_end):
            assert boundary == Boundary(None, reason="no test loss was recorded")


class TestMemorizationEnd:
    @pytest.mark.parametrize("last", [600, 900, 1900])
    def test_a_run_that_stops_while_excluded_loss_falls_has_none(self, last):
        """The minimum so far is the last step: nothing shows that memorization has ended."""
        found = find_transition(grokking(train_accuracy=np.ones(len(STEPS))).loc[:last], n_classes=P).memorization_end
        assert found == Boundary(None, reason="excluded loss has not risen")

    @pytest.mark.parametrize(("later", "expected"), [((0.9, 0.9), None), ((0.9, 0.9, 0.9), 20), ((0.9, 0.9, 0.7), 20)])
    def test_it_takes_three_later_steps_at_twice_the_minimum(self, later, expected):
        values = [1.4, 0.8, 0.4, *later]
        frame = grokking(train_accuracy=np.ones(len(STEPS))).loc[[100 * i for i in range(len(values))]]
        frame.index = pd.Index([10 * i for i in range(len(values))], name="step")
        frame["excluded_loss_novel"] = values
        assert find_transition(frame, n_classes=P).memorization_end.step == expected

    def test_from_losses_there_is_none_until_the_circuit_has_formed(self):
        frame = grokking(excluded_loss_novel=None).loc[:4000]
        found = find_transition(frame, n_classes=P).memorization_end
        assert found == Boundary(None, reason="the circuit has not formed")

    def test_where_excluded_loss_is_least(self):
        """1.25 x 0.41 = 0.5125 is met at 1795 on the way down (0.0005 a step), at 2341.7 on the way up (0.0003)."""
        found = find_transition(grokking(), n_classes=P).memorization_end
        assert found == Boundary(2000, low=1800, high=2300, previous=1900)

    def test_only_steps_before_the_circuit_formed_count(self):
        excluded = line((0, 1.41), (2000, 0.41), (9000, 2.51), (9100, 0.001), (10_000, 0.001))
        assert find_transition(grokking(excluded_loss_novel=excluded), n_classes=P).memorization_end.step == 2000

    def test_in_sample_excluded_loss_stands_in_where_no_pair_is_novel(self):
        excluded = line((0, 1.41), (3000, 0.41), (9000, 2.51), (10_000, 2.51))
        found = find_transition(grokking(excluded_loss_novel=None, excluded_loss=excluded), n_classes=P)
        assert found.memorization_end.step == 3000
        assert found.memorization_end.flags == ()

    def test_nan_rows_of_excluded_loss_do_not_count(self):
        excluded = line((0, 1.41), (2000, 0.41), (9000, 2.51), (10_000, 2.51))
        excluded[STEPS < 1000] = np.nan
        assert find_transition(grokking(excluded_loss_novel=excluded), n_classes=P).memorization_end.step == 2000

    def test_an_excluded_loss_near_chance_means_nothing_was_memorized(self):
        excluded = line((0, 5.0), (2000, CHANCE / 2 + 0.01), (9000, 20.0), (10_000, 20.0))
        found = find_transition(grokking(excluded_loss_novel=excluded), n_classes=P).memorization_end
        assert found == Boundary(None, reason="no memorization phase")

    def test_an_excluded_loss_that_stays_low_has_not_risen(self):
        excluded = line((0, 1.41), (2000, 0.41), (10_000, 0.45))
        found = find_transition(grokking(excluded_loss_novel=excluded), n_classes=P).memorization_end
        assert found == Boundary(None, reason="excluded loss has not risen")

    def test_it_is_looked_for_although_the_circuit_never_forms(self):
        frame = grokking(test_loss=line((0, 4.7), (1500, 30.0), (10_000, 20.0)))
        found = find_transition(frame, n_classes=P)
        assert found.circuit_formation_end.step is None
        assert found.memorization_end.step == 2000

    def test_no_checkpoint_before_the_circuit_formed(self):
        coarse = grokking().loc[[7000, 8000, 9000, 10_000]]
        found = find_transition(coarse, n_classes=P, metrics=grokking(excluded_loss_novel=None))
        assert found.memorization_end == Boundary(None, reason="no checkpoint was saved before the circuit had formed")

    def test_without_excluded_loss_it_is_the_peak_of_the_test_loss(self):
        found = find_transition(grokking(excluded_loss_novel=None), n_classes=P).memorization_end
        assert (found.step, found.previous) == (1500, 1400)
        assert found.flags == ("from losses",)


class TestCleanupEnd:
    def test_first_step_after_the_steepest_fall_at_which_the_norm_rests(self):
        """On this grid rho is the mean of the slopes to both sides: 2.3, 1.2, 0.6, 0.3, 0.1, 0 from step 20 on."""
        steps = geometric()
        frame = formed_at_12(steps, weight_norm=norm_with_slopes(steps, SLOPES))
        found = find_transition(frame, n_classes=P).cleanup_end
        assert found.step == steps[23]
        assert (found.low, found.high, found.previous) == (steps[22], steps[24], steps[22])
        assert found.flags == ()

    def test_a_fall_before_the_circuit_formed_does_not_count(self):
        steps = geometric()
        early = {2: 9.0, 5: 0.0} | SLOPES
        frame = formed_at_12(steps, weight_norm=norm_with_slopes(steps, early))
        assert find_transition(frame, n_classes=P).cleanup_end.step == steps[23]

    def test_a_pause_of_one_step_does_not_count(self):
        """Slopes 3, 0, 0, 3 around a pause give rho 1.5, 0, 1.5."""
        steps = geometric()
        pause = {14: 3.0, 16: 0.0, 18: 3.0, 20: 0.0}
        frame = formed_at_12(steps, weight_norm=norm_with_slopes(steps, pause))
        assert find_transition(frame, n_classes=P).cleanup_end.step == steps[21]

    @pytest.mark.parametrize(
        ("slopes", "reason"),
        [
            ({}, "the weight norm does not fall"),
            ({14: 0.4}, "the weight norm does not fall"),
            ({0: -2.0}, "the weight norm does not fall"),
            ({14: 3.0}, "the weight norm still falls at the last checkpoint"),
            ({14: 3.0, 38: 0.0}, "the weight norm still falls at the last checkpoint"),
        ],
        ids=["constant", "slow", "grows", "to the end", "rest of one step"],
    )
    def test_a_norm_that_shows_no_cleanup(self, slopes, reason):
        steps = geometric()
        frame = formed_at_12(steps, weight_norm=norm_with_slopes(steps, slopes))
        assert find_transition(frame, n_classes=P).cleanup_end == Boundary(None, reason=reason)

    def test_too_few_steps_for_a_slope(self):
        steps = 2 ** np.arange(20)
        frame = formed_at_12(steps, weight_norm=np.linspace(60, 20, 20))
        reason = "too few steps were evaluated after the circuit formed"
        assert find_transition(frame, n_classes=P).cleanup_end == Boundary(None, reason=reason)

    def test_without_weights_it_is_where_test_loss_comes_near_train_loss(self):
        """0.02 at 7496 is ten times the train loss: from 7500 on."""
        frame = grokking(train_loss=line((0, 4.7), (2000, 0.002), (10_000, 0.002)))
        found = find_transition(frame, n_classes=P).cleanup_end
        assert (found.step, found.previous) == (7500, 7400)
        assert found.flags == ("from losses",)

    def test_a_train_loss_logged_more_sparsely_is_interpolated_in_its_logarithm(self):
        """Between 1e-1 at 6000 and 1e-5 at 8000 the train loss is 1e-3 at 7000; ten times that is the test loss."""
        steps = np.arange(0, 10_001, 500)
        train = pd.Series(np.nan, index=steps)
        train[[0, 6000, 8000, 10_000]] = [4.0, 1e-1, 1e-5, 1e-5]
        test = np.where(steps < 6500, 10.0 + (steps == 1000), 1.0)
        test = np.where(steps >= 7000, 0.9e-2, test)
        test = np.where(steps >= 7500, 0.9e-3, test)
        test = np.where(steps >= 8000, 0.9e-4, test)
        frame = curves(steps, train_loss=train.to_numpy(), test_loss=test)
        found = find_transition(frame, n_classes=P)
        assert found.circuit_formation_end.step == 6500
        assert found.cleanup_end.step == 6500 + 500

    def test_without_weights_and_without_an_end(self):
        found = find_transition(grokking(train_loss=line((0, 4.7), (2000, 1e-9))), n_classes=P).cleanup_end
        assert found.step is None
        assert found.reason == "test loss never comes within ten times train loss"
        assert found.flags == ("from losses",)

    def test_without_weights_and_train_loss(self):
        found = find_transition(grokking(train_loss=None), n_classes=P).cleanup_end
        assert found == Boundary(None, reason="neither weights nor train loss were recorded", flags=("from losses",))

    def test_no_cleanup_without_a_circuit(self):
        frame = grokking(test_loss=line((0, 4.7), (1500, 30.0), (10_000, 20.0)))
        found = find_transition(frame, n_classes=P).cleanup_end
        assert found == Boundary(None, reason="the circuit has not formed: test loss never falls below chance")


class TestCoarseGrid:
    def thinned(self, stride: int, **changes) -> pd.DataFrame:
        return grokking(**changes).loc[::stride]

    def test_fewer_than_ten_steps_before_the_circuit_formed(self):
        found = find_transition(self.thinned(10), n_classes=P)
        assert found.circuit_formation_end.step == 7000
        assert "coarse grid" in found.circuit_formation_end.flags
        assert "coarse grid" in found.memorization_end.flags

    def test_ten_steps_are_enough(self):
        frame = grokking().loc[[*range(0, 1800, 200), 2000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000]]
        found = find_transition(frame, n_classes=P)
        assert found.circuit_formation_end == Boundary(7000, low=7000, high=7000, previous=6000)
        assert found.memorization_end.step == 2000
        assert found.memorization_end.flags == ()

    def test_an_early_peak_on_a_fine_grid_is_not_coarse(self):
        loss = line((0, 4.7), (500, 30.0), (7500, 0.0))
        found = find_transition(grokking(test_loss=loss, excluded_loss_novel=None), n_classes=P)
        assert found.memorization_end.step == 500
        assert found.memorization_end.flags == ("from losses",)

    def test_checkpoints_may_be_coarser_than_the_evaluations(self):
        found = find_transition(self.thinned(10), n_classes=P, metrics=grokking(excluded_loss_novel=None))
        assert found.circuit_formation_end.flags == ()
        assert found.memorization_end.flags == ("coarse grid",)


@pytest.mark.parametrize("seed", range(40))
def test_phases_never_end_in_another_order(seed):
    """Random walks, as unlike a run as can be."""
    random = np.random.default_rng(seed)
    steps = geometric(60)

    def walk(scale: float) -> np.ndarray:
        return np.exp(np.cumsum(random.normal(scale=scale, size=len(steps))))

    frame = curves(
        steps,
        test_loss=5 * walk(0.5),
        train_loss=np.minimum(walk(0.5), 9.0),
        train_accuracy=np.ones(len(steps)),
        test_accuracy=random.random(len(steps)),
        **({"excluded_loss_novel": walk(0.5)} if seed % 2 else {}),
        **({"weight_norm": 50 * walk(0.05)} if seed % 3 else {}),
    )
    found = find_transition(frame, n_classes=P)
    formation = found.circuit_formation_end.step
    if formation is not None:
        if found.memorization_end.step is not None:
            assert found.memorization_end.step < formation
        if found.cleanup_end.step is not None:
            assert formation <= found.cleanup_end.step
    for boundary in (found.memorization_end, found.circuit_formation_end, found.cleanup_end):
        assert (boundary.step is None) == bool(boundary.reason)
        if boundary.step is not None:
            assert boundary.low is None or boundary.low <= boundary.step
            assert boundary.high is None or boundary.step <= boundary.high


class TestFirstFrom:
    HOLDS = (True, False, True, True, False, True, True, True)

    @pytest.mark.parametrize(
        ("after", "sustained", "position"), [(-1, 2, 5), (-1, 1, 2), (-1, 0, 0), (2, 1, 5), (5, 1, 6), (5, 2, None)]
    )
    def test_position(self, after, sustained, position):
        assert first_from(np.array(self.HOLDS), after=after, sustained=sustained) == position


class TestEvidence:
    def test_crossings_and_accuracies(self):
        frame = grokking(
            restricted_loss_novel=line((0, 5.0), (4000, 5.0), (5000, 0.0), (10_000, 0.0)),
            circuit_efficiency_ratio=line((0, 0.0), (6000, 1.3), (10_000, 9.0)),
        )
        evidence = find_transition(frame, n_classes=P).evidence
        assert evidence["restricted_loss_below_tenth_of_chance"] == 5000  # 0.47 is passed at 4905.5
        assert evidence["test_loss_below_tenth_of_chance"] == 7500  # 0.47 is passed at 7405.5
        assert evidence["circuit_efficiency_ratio_reaches_1"] == 4700  # 1 is passed at 4615.4
        assert evidence["novel_accuracy_at_restricted_loss_below"] == pytest.approx(0.01)
        assert evidence["test_accuracy_at_T_train_0.99"] == pytest.approx(0.01)
        assert evidence["final_test_accuracy"] == 1.0

    def test_what_is_not_there_is_none(self):
        evidence = find_transition(curves([0, 1], accuracy=[0.0, 1.0]), n_classes=P).evidence
        assert set(evidence.values()) == {None}


def test_the_printed_log_of_the_transformer_lens_demo(public_data):
    """Drawn by hand in the demo: 1,500, 13,300 and 16,600."""
    log = pd.read_csv(public_data / "transformer_lens" / "grokking_demo_losses.csv", index_col="step")
    found = find_transition(log, n_classes=113)
    assert found.memorization_end.step == 1400
    assert found.circuit_formation_end.step == 13_400
    assert found.cleanup_end.step == 16_600
    assert found.outcome == "undetermined"


# Published: first logged epochs with train accuracy 0.99, and with test accuracy 0.95 and 0.99.
PSI = {
    "baseline": (350, 2350, 2750),
    "wd_0.0": (300, None, None),
    "wd_0.1": (300, None, None),
    "wd_0.5": (300, 4000, 4950),
    "wd_1.0": (350, 2650, 3150),
    "wd_2.0": (350, 1250, 1550),
    "wd_5.0": (500, 800, 1000),
    "hidden_32": (1150, 1750, 3450),
    "hidden_64": (700, 2200, 2800),
    "hidden_128": (350, 2300, 2750),
    "hidden_256": (200, 2150, 2450),
    "hidden_512": (150, 1950, 2150),
    "op_add": (350, 2300, 2700),
    "op_subtract": (350, 2250, 2600),
    "op_multiply": (350, 2000, 2300),
    "frac_0.3": (300, None, None),
    "frac_0.5": (350, 2200, 2650),
    "frac_0.7": (300, 950, 1050),
    "frac_0.9": (250, 450, 550),
}


@pytest.mark.parametrize("name", PSI)
def test_published_epochs_of_psi(name, public_data):
    log = json.loads((public_data / "psi" / f"{name}.json").read_text())
    steps = log.pop("epoch")
    names = {"train_acc": "train_accuracy", "test_acc": "test_accuracy"}
    found = find_transition(pd.DataFrame(log, index=steps).rename(columns=names), n_classes=97)
    overfit, grok, almost_all = PSI[name]
    assert found.T_train[0.99].step == overfit
    assert found.T_grok[0.95].step == grok
    assert found.T_grok[0.99].step == almost_all
    if grok is None:
        assert found.outcome == "DNF_test"
    elif name in ("wd_5.0", "hidden_32", "frac_0.9"):  # within twice the time to memorize
        assert found.outcome == "generalized_without_delay"
    else:
        assert found.outcome == "grokked"


def test_every_published_psi_log_is_among_those_tested(public_data):
    assert {file.stem for file in (public_data / "psi").glob("*.json")} == {*PSI, "summary"}
