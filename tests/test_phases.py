"""The fall of the weight norm, and runs of one evaluated step; test_transition.py has the phases."""

import numpy as np
import pandas as pd
import pytest

from grokinterp.analysis.phases import norm_fall
from grokinterp.analysis.transition import find_transition

STEPS = np.arange(0, 10_001, 100)


class TestNormFall:
    @pytest.mark.parametrize("exponent", [-0.5, 0.0, 0.25, 1.0, 3.0])
    def test_an_exact_power_law(self, exponent):
        steps = np.arange(1000, 5000, 10)
        rho = norm_fall(pd.Series(60.0 * steps**-exponent, index=steps))
        assert rho.to_numpy() == pytest.approx(np.full(len(rho), 2 * exponent), abs=1e-9)
        assert list(rho.index) == [step for step in steps if 1.075 * step <= 4990]

    def test_no_value_changes_when_a_run_grows(self):
        norm = pd.Series(60 - 5 * np.sin(STEPS / 900.0), index=STEPS)
        early, late = norm_fall(norm[STEPS <= 5000]), norm_fall(norm)
        assert len(early) > 30
        assert early.equals(late[early.index])

    def test_step_0_has_no_logarithm_and_lone_steps_no_slope(self):
        steps = [0, 1, 2, 4, 1000, 1010, 1020, 5000]
        rho = norm_fall(pd.Series(10.0, index=steps))
        assert list(rho.index) == [1000, 1010, 1020]

    def test_the_window_has_its_ends(self):
        """925 and 1075 belong to the window of 1000."""
        assert 1000 in norm_fall(pd.Series([1.0, 1.0, 1.0], index=[925, 1000, 1075])).index
        assert 1000 not in norm_fall(pd.Series([1.0, 1.0, 1.0], index=[924, 1000, 1075])).index


def test_one_evaluated_step_says_nothing_about_when():
    """A published model is one checkpoint, after both events: they lie at its step or earlier, and have no step."""
    columns = {"train_loss": 1e-7, "test_loss": 1e-6, "train_accuracy": 1.0, "test_accuracy": 1.0, "weight_norm": 30.0}
    transition = find_transition(pd.DataFrame(columns, index=pd.Index([10_000], name="step")), n_classes=113)
    for event in (*transition.T_train.values(), *transition.T_grok.values()):
        assert (event.step, event.reason) == (None, "only step 10,000 was evaluated: it occurred then or earlier")
    assert transition.delay == {0.95: None, 0.99: None}
    ends = (transition.memorization_end, transition.circuit_formation_end, transition.cleanup_end)
    assert {end.reason for end in ends} == {"a single step was evaluated"}
