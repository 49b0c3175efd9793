"""Six published experiments in their quick forms, end to end; `make reproduce-quick` runs all recipes.

`pytest -m slow` runs them, which takes five minutes.
"""

import json

import pytest

from grokinterp.experiments import catalog, reproduce

RUN_HERE = (
    "kumar-polynomial",
    "manir-canonical",
    "manir-goldilocks-edge",
    "omnigrok-teacher-student",
    "ridge",
    "slingshot",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_HERE)
def test_a_quick_form_finishes_and_its_claims_hold(name, tmp_path):
    done = reproduce(name, tmp_path / name, quick=True)
    assert done.failed == ()
    assert done.outcome.warnings == ()
    assert [claim for claim in done.claims if claim.verdict == "supported"]
    assert done.report.read_text().count('class="plot"') >= 1
    stored = json.loads((done.folder / "results.json").read_text())
    assert [claim["name"] for claim in stored["claims"]] == [claim.name for claim in done.claims]


def test_every_source_has_a_recipe():
    """The catalog covers at least the sources on the page of reproductions."""
    sources = ("kumar-", "manir-", "memo-", "nanda-", "omnigrok-", "power-", "prieto-", "psi-", "tveit-")
    sources += ("ridge", "slingshot")
    assert {next(s for s in sources if name.startswith(s)) for name in catalog()} == set(sources)
    assert set(RUN_HERE) <= set(catalog())
