"""Models of grokking whose training can be computed exactly or cheaply, and the theorems about them.

>>> from grokinterp.theory import bounds, gaussian_problem, grokking_times, solve
>>> solution = solve(gaussian_problem(n=100, m=1000), weight_decay=1e-4, lr=1.0)
>>> times = grokking_times(solution)  # exact, without taking a single training step
>>> times.t1 < 500, 20_000 < times.t2 < 25_000
(True, True)
>>> times.t1 <= bounds(solution).t1.value, times.t2 >= bounds(solution).t2.value
(True, True)
"""

from grokinterp.theory.bounds import Bound, Bounds, Condition, Stages, bounds, stages, step_sizes
from grokinterp.theory.expected import ExpectedTimes, expected_times
from grokinterp.theory.exponentials import ExponentialSum
from grokinterp.theory.polynomial import PolynomialProblem, PolynomialRun, polynomial_problem, train_polynomial
from grokinterp.theory.population import LinearTeacher, Population, ReLUTeacher, relu_kernel, relu_second_moments
from grokinterp.theory.random_features import random_feature_problem
from grokinterp.theory.ridge import RidgeProblem, RidgeSolution, Spectrum, gaussian_problem, solve
from grokinterp.theory.sweep import FIGURE_2, RidgeSetting, ridge_sweep
from grokinterp.theory.times import Crossing, GrokkingTimes, grokking_times
from grokinterp.theory.two_layer import TwoLayerProblem, TwoLayerRun, train_two_layer, two_layer_problem

__all__ = [
    "FIGURE_2",
    "Bound",
    "Bounds",
    "Condition",
    "Crossing",
    "ExpectedTimes",
    "ExponentialSum",
    "GrokkingTimes",
    "LinearTeacher",
    "PolynomialProblem",
    "PolynomialRun",
    "Population",
    "ReLUTeacher",
    "RidgeProblem",
    "RidgeSetting",
    "RidgeSolution",
    "Spectrum",
    "Stages",
    "TwoLayerProblem",
    "TwoLayerRun",
    "bounds",
    "expected_times",
    "gaussian_problem",
    "grokking_times",
    "polynomial_problem",
    "random_feature_problem",
    "relu_kernel",
    "relu_second_moments",
    "ridge_sweep",
    "solve",
    "stages",
    "step_sizes",
    "train_polynomial",
    "train_two_layer",
    "two_layer_problem",
]
