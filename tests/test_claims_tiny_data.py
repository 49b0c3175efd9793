"""The claims about very small training sets, on hand-made tables, and the size of the recipe's training sets."""

import pandas as pd
import pytest

from grokinterp.experiments.claims.tiny_data import tiny_sets_are_memorized, tiny_sets_do_not_generalize
from grokinterp.experiments.recipes import catalog
from grokinterp.tasks import Task

FRACTION = "task.train_fraction"


def runs(times: dict[float, list], accuracy=0.005, outcome="DNF_test") -> pd.DataFrame:
    rows = [{FRACTION: fraction, "T_train_0.99": time} for fraction, some in times.items() for time in some]
    table = pd.DataFrame(rows, columns=[FRACTION, "T_train_0.99"])
    return table.assign(**{"task.p": 97, "final.test_accuracy": accuracy, "outcome": outcome})


GOOD = {0.002: [70, 80, 70], 0.02: [130, 140, 350]}


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (runs(GOOD), "supported"),
        (runs(GOOD | {0.02: [130, 140, 360]}), "not supported"),
        (runs(GOOD | {0.002: [70, None, 70]}), "not supported"),
        (runs({0.002: [70, 70], 0.02: [130, 140, 130]}), "inconclusive"),
        (runs({0.002: [70, None], 0.02: [130]}), "inconclusive"),
        (runs({}), "inconclusive"),
    ],
)
def test_memorization(table, verdict):
    claim = tiny_sets_are_memorized(table)
    assert (claim.verdict, claim.n) == (verdict, len(table))


def test_memorization_is_reported_by_number_of_pairs():
    claim = tiny_sets_are_memorized(runs(GOOD | {0.02: [130, None, None]}))
    assert claim.measured == "4 of 6 runs memorize; median T_train(0.99) 70 with 18 pairs, never with 188 pairs"


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (runs(GOOD, accuracy=0.02), "supported"),
        (runs(GOOD, accuracy=[0.01] * 5 + [0.021]), "not supported"),
        (runs(GOOD, outcome=["DNF_test"] * 5 + ["grokked"]), "not supported"),
        (runs(GOOD, outcome="DNF_train"), "not supported"),
        (runs({0.002: [70, 70]}), "inconclusive"),
        (runs({}), "inconclusive"),
    ],
)
def test_no_generalization(table, verdict):
    claim = tiny_sets_do_not_generalize(table)
    assert (claim.verdict, claim.n) == (verdict, len(table))


def test_the_training_sets_have_18_and_188_pairs():
    recipe = catalog()["psi-tiny-data"]
    for form in (recipe.full, recipe.quick):
        (arm,) = form.arms
        sizes = [len(Task.from_config(point.config(arm.base).task).train_labels) for point in arm.expanded()]
        assert sorted(set(sizes)) == [18, 188]
        assert min(sizes.count(18), sizes.count(188)) >= 3
