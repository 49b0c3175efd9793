"""Claims of Kumar et al., Omnigrok and Prieto et al. on hand-made tables that lead to every verdict."""

import math

import pandas as pd
import pytest
import torch

from grokinterp.experiments.claims.kumar import generalizes_without_decay, norm_rises, smaller_scale_shortens_delay
from grokinterp.experiments.claims.omnigrok import (
    generalization_as_inverse_decay,
    held_norm_removes_delay,
    larger_start_longer_delay,
    memorization_without_decay,
    small_start_has_no_delay,
)
from grokinterp.experiments.claims.polynomial import decide_polynomial
from grokinterp.experiments.claims.softmax import decay_is_fast, float32_absorbs, generalizes, sooner_than
from grokinterp.experiments.softmax import absorption

NAN = math.nan
YES, NO, OPEN = "supported", "not supported", "inconclusive"


def runs(*rows: tuple[float, float], **columns: object) -> pd.DataFrame:
    """A sweep's table of runs by T_train(0.99) and T_grok(0.95); other columns as lists or one value for all."""
    train, test = ([row[i] for row in rows] for i in (0, 1))
    table = pd.DataFrame({"T_train_0.99": train, "T_grok_0.95": test}, dtype=float)
    table["delay_0.95_0.99"] = table["T_grok_0.95"] - table["T_train_0.99"]
    return table.assign(step=1000.0, **columns)


PLAIN = {"optimizer.weight_decay": 0.0, "optimizer.name": "sgd", "optimizer.momentum": 0.0}


@pytest.mark.parametrize(
    ("table", "verdict", "n"),
    [
        (runs((100, 250), (200, 530), outcome="grokked", **PLAIN), YES, 2),
        (runs((100, 250), (200, NAN), outcome=["grokked", "DNF_test"], **PLAIN), NO, 2),
        (runs((100, 250), (200, 230), outcome=["grokked", "generalized_without_delay"], **PLAIN), NO, 2),
        (runs((100, 100), outcome="generalized_without_delay", **PLAIN), NO, 1),
        (runs((NAN, NAN), outcome="DNF_train", **PLAIN), OPEN, 0),
        (runs((100, 250), outcome="grokked", **(PLAIN | {"optimizer.weight_decay": 0.1})), OPEN, 0),
        (runs((100, 250), outcome="grokked", **(PLAIN | {"optimizer.name": "adam"})), OPEN, 0),
        (runs((100, 250), outcome="grokked", **(PLAIN | {"optimizer.momentum": 0.9})), OPEN, 0),
    ],
)
def test_generalizing_without_decay(table, verdict, n):
    claim = generalizes_without_decay(table)
    assert (claim.verdict, claim.n, claim.number) == (verdict, n, 18)


@pytest.mark.parametrize(
    ("at_grok", "verdict"), [([3.0, 9.0], YES), ([3.0, 1.0], NO), ([3.0, NAN], YES), ([NAN], OPEN)]
)
def test_a_rising_norm(at_grok, verdict):
    """From 2: a fall after a rise does not count as one."""
    metrics = [pd.DataFrame({"weight_norm": [2.0, 50.0, value]}) for value in at_grok]
    claim = norm_rises(pd.DataFrame({"weight_norm_at_T_grok_0.95": at_grok}), metrics)
    assert (claim.verdict, claim.n) == (verdict, sum(not math.isnan(value) for value in at_grok))


@pytest.mark.parametrize(
    ("delays", "verdict"),
    [((10, 12, 50, 60), YES), ((10, 90, 50, 60), YES), ((50, 60, 10, 12), NO), ((10, 12, 10, 12), NO)],
)
def test_the_output_scale(delays, verdict):
    rows = [(100.0, 100.0 + delay) for delay in delays]
    claim = smaller_scale_shortens_delay(runs(*rows, **{"model.output_scale": [0.1, 0.1, 0.2, 0.2]}))
    # Medians: 11 and 55; 50 and 55; 55 and 11; 11 and 11.
    assert (claim.verdict, claim.n) == (verdict, 4)
    alone = runs((1, 2), (1, NAN), **{"model.output_scale": [0.1, 0.2]})
    assert smaller_scale_shortens_delay(alone).verdict == OPEN
    assert "1 of 2 runs have no delay" in smaller_scale_shortens_delay(alone).measured


def decays(power: float) -> pd.DataFrame:
    """Two seeds whose T_grok is a power of the decay; without decay it never comes."""
    values = [0.0, 0.01, 0.1, 1.0] * 2
    rows = [(50.0, 100 * value**power if value else NAN) for value in values]
    return runs(*rows, **{"optimizer.weight_decay": values, "model_seed": [0] * 4 + [1] * 4})


@pytest.mark.parametrize(("power", "verdict"), [(-1.0, YES), (-1.1, YES), (-0.8, NO), (-1.3, NO)])
def test_inverse_decay(power, verdict):
    claim = generalization_as_inverse_decay(decays(power), published="-")
    assert (claim.verdict, claim.n, claim.number) == (verdict, 6, 19)
    assert f"exponent {power:.2f} for 2 seeds" in claim.measured
    assert "without decay, 0 of 2 generalize" in claim.measured
    few = decays(power).loc[[0, 1, 2, 4, 5]]
    assert generalization_as_inverse_decay(few, published="-").verdict == OPEN


@pytest.mark.parametrize(
    ("times", "verdict"),
    [((50, 60, 50, 70), YES), ((50, 90, 50, 60), NO), ((50, 60, 50, NAN), NO), ((NAN, NAN, NAN, NAN), OPEN)],
)
def test_memorization_and_decay(times, verdict):
    columns = {"optimizer.weight_decay": [0.0, 1.0] * 2, "model_seed": [0, 0, 1, 1]}
    claim = memorization_without_decay(runs(*((time, NAN) for time in times), **columns), published="-")
    assert claim.verdict == verdict


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [(((50, 60), (50, 100)), YES), (((50, 60), (50, 101)), NO), (((50, NAN),), NO), (((NAN, 5),), OPEN)],
)
def test_a_small_start(rows, verdict):
    assert small_start_has_no_delay(runs(*rows)).verdict == verdict


@pytest.mark.parametrize(
    ("held", "free", "verdict"),
    [
        (((50, 60),), ((50, 500),), YES),
        (((50, 60),), ((50, NAN),), YES),
        (((50, 60), (50, 500)), ((50, 500),), NO),
        (((50, 60),), ((50, 60),), NO),
        (((NAN, NAN),), ((50, 500),), NO),
        (((50, 60),), ((NAN, NAN),), OPEN),
    ],
)
def test_a_held_norm(held, free, verdict):
    assert held_norm_removes_delay(runs(*held), runs(*free)).verdict == verdict


@pytest.mark.parametrize(
    ("test", "verdict"),
    [((60, 80, NAN), YES), ((60, 60, 80), YES), ((60, 90, 80), NO), ((60, 60, 60), NO), ((NAN, NAN, 60), NO)],
)
def test_a_larger_start(test, verdict):
    columns = {"model.init_scale": [0.5, 1.0, 2.0]}
    assert larger_start_longer_delay(runs(*((50, time) for time in test), **columns)).verdict == verdict
    unlearned = runs((50, 60), (NAN, NAN), (NAN, NAN), **columns)
    assert larger_start_longer_delay(unlearned).verdict == OPEN


GOOD = {"peak": 1.2, "norm_start": 2.0, "norm_end": 9.0, "alignment_start": 0.01, "alignment_end": 0.02}


def training(varied: str, value: float, train: float, test: float, **changes: float) -> dict[str, object]:
    setting = {"scale": 1.0, "curvature": 0.02, "n_train": 550} | {varied: value}
    return (
        {"varied": varied, "seed": 0, **setting, "T_train": train, "T_test": test, "delay": test - train}
        | GOOD
        | changes
    )


def polynomials(**replaced: list[dict[str, object]]) -> pd.DataFrame:
    rows = {
        "scale": [training("scale", 0.5, 10, 15), training("scale", 1.0, 20, 40), training("scale", 8.0, 100, NAN)],
        "curvature": [training("curvature", 0.02, 20, 40), training("curvature", 0.2, 3, 10)],
        "n_train": [training("n_train", 50, 5, NAN), training("n_train", 120, 5, 50), training("n_train", 500, 5, 8)],
    }
    return pd.DataFrame([row for part in (rows | replaced).values() for row in part])


def verdicts(table: pd.DataFrame) -> list[str]:
    return [claim.verdict for claim in decide_polynomial(table)]


def test_polynomials_as_published():
    claims = decide_polynomial(polynomials())
    assert [claim.verdict for claim in claims] == [YES] * 6
    assert {claim.number for claim in claims} == {18}
    assert "proportional to α to the power 2.00" in claims[3].measured  # 5 at 0.5, 20 at 1
    assert "not both losses halve in 1 run" in claims[3].measured


@pytest.mark.parametrize(
    ("i", "replaced"),
    [
        (0, {"scale": [training("scale", 1.0, 20, 40, peak=1.0), training("scale", 0.5, 10, 15)]}),
        (1, {"scale": [training("scale", 1.0, 20, 40, norm_end=1.0), training("scale", 0.5, 10, 15)]}),
        (2, {"scale": [training("scale", 1.0, 20, 40, alignment_end=0.001), training("scale", 0.5, 10, 15)]}),
        (3, {"scale": [training("scale", 1.0, 20, 40), training("scale", 0.5, 10, 35)]}),
        (4, {"curvature": [training("curvature", 0.02, 20, 40), training("curvature", 0.2, 20, 60)]}),
        (
            5,
            {
                "n_train": [
                    training("n_train", 50, 5, 90),
                    training("n_train", 120, 5, 50),
                    training("n_train", 500, 5, 8),
                ]
            },
        ),
        (
            5,
            {
                "n_train": [
                    training("n_train", 50, 5, NAN),
                    training("n_train", 120, 5, 9),
                    training("n_train", 500, 5, 8),
                ]
            },
        ),
        (
            5,
            {
                "n_train": [
                    training("n_train", 50, 5, NAN),
                    training("n_train", 120, 5, 50),
                    training("n_train", 500, 5, 20),
                ]
            },
        ),
    ],
)
def test_each_claim_about_polynomials_can_fail(i, replaced):
    assert [j for j, verdict in enumerate(verdicts(polynomials(**replaced))) if verdict == NO] == [i]


def test_polynomials_without_halved_losses_are_inconclusive():
    table = polynomials()
    table[["T_test", "delay"]] = NAN
    assert verdicts(table) == [OPEN] * 6


def test_absorption_by_hand():
    """exp(-20) is absorbed by 1 in float32, exp(-10) is not; both are known to float64."""
    logits = torch.tensor([[20.0, 0.0], [0.0, 10.0], [5.0, 5.0]], dtype=torch.float64)
    one, other, even = (absorption(logits[i : i + 1], torch.tensor([label])) for i, label in enumerate((0, 1, 0)))
    assert (one.absorbed, one.zero_loss) == (1.0, 1.0)
    # Of the gradient (-e, e) plain float32 has (0, e): 1/√2 of its norm is lost.
    assert one.lost_gradient == pytest.approx(math.sqrt(0.5), rel=1e-6)
    assert (other.absorbed, other.zero_loss) == (0.0, 0.0)
    assert 0 < other.lost_gradient < 0.01
    assert (even.absorbed, even.lost_gradient) == (0.0, pytest.approx(0.0, abs=1e-7))
    wrong = absorption(logits[:1], torch.tensor([1]))
    assert (wrong.absorbed, wrong.zero_loss) == (0.0, 0.0)
    both = absorption(logits[:2], torch.tensor([0, 1]))
    assert both.absorbed == 0.5


def curve(*absorbed: float) -> pd.DataFrame:
    return pd.DataFrame({"absorbed": absorbed, "zero_loss": absorbed, "lost_gradient": absorbed})


@pytest.mark.parametrize(
    ("curves", "verdict"),
    [([curve(0, 0.1, 0.6), curve(0, 0, 0.5)], YES), ([curve(0, 0.6), curve(0, 0.4)], NO), ([], OPEN)],
)
def test_softmax_collapse(curves, verdict):
    assert float32_absorbs(curves).verdict == verdict


@pytest.mark.parametrize(
    ("rows", "budget_decides", "verdict"),
    [
        (((5, 9), (5, 9)), True, YES),
        (((5, 9), (5, 9)), False, YES),
        (((5, 9), (5, NAN)), True, NO),
        (((5, 9), (5, NAN)), False, OPEN),
        (((NAN, NAN),), True, OPEN),
    ],
)
def test_generalizing_by_some_means(rows, budget_decides, verdict):
    claim = generalizes(runs(*rows), means="magic", published="-", budget_decides=budget_decides)
    assert claim.verdict == verdict
    assert claim.name == "no decay, magic"


@pytest.mark.parametrize(
    ("fast", "slow", "verdict"),
    [
        (((5, 9), (5, 8)), ((5, NAN), (5, 20)), YES),
        (((5, 9), (5, NAN)), ((5, 20),), NO),
        (((5, 9), (5, 30)), ((5, 20),), NO),
        (((5, 9),), ((NAN, NAN),), OPEN),
    ],
)
def test_being_sooner(fast, slow, verdict):
    assert sooner_than(runs(*fast), runs(*slow), means="magic").verdict == verdict


@pytest.mark.parametrize(
    ("rows", "verdict"), [(((5, 250),), YES), (((5, 251),), NO), (((5, 9), (5, NAN)), NO), ((), OPEN)]
)
def test_strong_decay(rows, verdict):
    assert decay_is_fast(runs(*rows)).verdict == verdict
