"""The fall of the weight norm, from which the end of cleanup is located; test_transition.py has the phases."""

import numpy as np
import pandas as pd
import pytest

from grokinterp.analysis.phases import norm_fall

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
