"""How the verdicts of claims decide the parts of an assertion, on tables made by hand: no rule may flatter."""

import pytest

from grokinterp.experiments import Claim, catalog
from grokinterp.experiments.assertions import ASSERTIONS, Assertion, Part, decide_assertion, decides
from grokinterp.experiments.results import Results

TWO = Assertion("A and B.", (Part("A", ("toy: a",)), Part("B", ("toy: b", "toy-*: b"))))


def result(recipe="toy", *, bf16=False, partial=False):
    return Results(recipe, "", "", False, None, None, {}, (), (), (), 0, 0, bf16, partial)


def claim(name, verdict, n=3, fewest=None):
    return Claim(name, "S.", "1", "1", n, "=", verdict, number=1, fewest=fewest)


def decision(*claims, assertion=TWO, of=result()):  # noqa: B008
    return decide_assertion(assertion, [(of, each) for each in claims]).decision


@pytest.mark.parametrize(
    ("a", "b", "decided"),
    [
        ("supported", "supported", "supported"),
        ("not supported", "not supported", "not supported"),
        ("supported", "not supported", "mixed"),
        ("supported", "inconclusive", "partly"),
        ("not supported", "inconclusive", "partly"),
        ("inconclusive", "inconclusive", "inconclusive"),
    ],
)
def test_every_part_must_be_decided(a, b, decided):
    assert decision(claim("a", a), claim("b", b)) == decided


@pytest.mark.parametrize(
    "undecided", ["missing", "inconclusive", "two runs", "two runs of one setting", "bf16", "partial arm"]
)
@pytest.mark.parametrize("verdict", ["supported", "not supported"])
def test_a_part_without_evidence_never_yields_a_whole_verdict(undecided, verdict):
    other = {
        "missing": [],
        "inconclusive": [(result(), claim("b", "inconclusive", n=9))],
        "two runs": [(result(), claim("b", verdict, n=2))],
        "two runs of one setting": [(result(), claim("b", verdict, n=20, fewest=2))],
        "bf16": [(result(bf16=True), claim("b", verdict, n=20))],
        "partial arm": [(result(partial=True), claim("b", verdict, n=20))],
    }[undecided]
    found = decide_assertion(TWO, [(result(), claim("a", verdict)), *other])
    assert found.decision == "partly"
    assert found.parts == {"A": (verdict, 3), "B": ("inconclusive", 0)}
    assert found.text == f"partly: A: {verdict} (n = 3); B: inconclusive"
    assert decide_assertion(TWO, other).decision == "inconclusive"


def test_two_recipes_that_disagree_about_a_part_are_mixed():
    claims = [(result(), claim("a", "supported")), (result(), claim("b", "supported", n=5))]
    assert decide_assertion(TWO, claims).text == "supported (n = 3)"
    claims.append((result("toy-two"), claim("b", "not supported", n=4)))
    found = decide_assertion(TWO, claims)
    assert found.decision == "mixed"
    assert found.parts["B"] == ("mixed", 4)


def test_a_claim_that_is_no_part_decides_nothing():
    assert decision(claim("companion", "supported"), claim("b", "inconclusive")) == "inconclusive"


def test_what_is_true_by_construction_is_not_decided_by_runs():
    assert decision(claim("one outcome each", "supported", n=100), assertion=ASSERTIONS[1]) == "true by construction"


def test_three_runs_of_every_setting_decide():
    assert decides(result(), claim("a", "supported", n=3))
    assert decides(result(), claim("a", "supported", n=6, fewest=3))
    assert not decides(result(), claim("a", "supported", n=6, fewest=2))
    assert not decides(result(), claim("a", "supported", n=1, fewest=3))  # most runs have no value
    assert not decides(result(), claim("a", "inconclusive", n=6))


def test_every_part_names_claims_of_a_recipe():
    recipes = set(catalog())
    for assertion in ASSERTIONS.values():
        statements = [part.statement for part in assertion.parts]
        assert len(set(statements)) == len(statements)
        for part in assertion.parts:
            for pattern in part.claims:
                recipe = pattern.partition(": ")[0]
                assert "*" in recipe or recipe in recipes, pattern
