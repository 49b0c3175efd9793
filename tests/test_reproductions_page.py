"""The Markdown page on all results: what it shows, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from grokinterp.errors import RunError
from grokinterp.experiments.assertions import ASSERTIONS, claims_by_assertion
from grokinterp.experiments.document import write_markdown
from grokinterp.experiments.outcome import Claim
from grokinterp.experiments.records.computation import Computation
from grokinterp.experiments.records.folder import Records
from grokinterp.experiments.results import results_in

ROOT = Path(__file__).parents[1]


def claim(name="95 % or 99 %", verdict="supported", number=3, measured="5 of 5", should_hold=True):
    texts = {"name": name, "statement": "S.", "published": "a | b", "measured": measured, "threshold": "all"}
    return {**texts, "n": 5, "verdict": verdict, "should_hold": should_hold, "number": number}


def store(folder, name, claims, quick=False, source="Nobody 2026"):
    result = {
        "recipe": name,
        "title": "A toy",
        "source": source,
        "quick": quick,
        "machine": {"processor": "Abacus", "cores": 2, "gpu": None, "torch": "2.0"},
        "seconds": 150.0,
        "settings": {"cost": "2 minutes", "arm": "5 runs"},
        "claims": claims,
        "comparisons": [{"quantity": "T", "printed": "33,000", "measured": "30,100", "n": 2}],
        "warnings": ["run x failed"],
        "lost": 1,
    }
    (folder / f"{name}{'-quick' if quick else ''}").mkdir(parents=True)
    (folder / f"{name}{'-quick' if quick else ''}" / "results.json").write_text(json.dumps(result))


def test_assertions_are_numbered():
    assert list(ASSERTIONS) == list(range(1, len(ASSERTIONS) + 1))


def test_claims_are_grouped_by_assertion(tmp_path):
    store(tmp_path, "toy", [claim(number=3), claim(number=None)])
    groups = claims_by_assertion([results_in(tmp_path / "toy")])
    assert [number for number, claims in groups.items() if claims] == [3]


def test_the_page_has_every_claim_and_number(tmp_path):
    results = tmp_path / "results"
    store(results, "toy-full", [claim(), claim("norm", "not supported", 2, "0.5", should_hold=False)])
    (results / "toy-full" / "figure-1.png").touch()
    page = write_markdown(results, tmp_path / "docs" / "page.md", records=tmp_path / "none").read_text()
    lines = page.splitlines()
    assert (
        "Of 27 assertions, 1 is true by construction. Runs of the published size decide 0 (0 supported, 0 not "
        "supported, 0 mixed), and 0 in part; 26 are open. Of those that are open or decided in part, miniatures show a "
        "complete trend for 0." in page
    )
    third = next(line for line in lines if line.startswith("| 3 |"))
    assert third.endswith("| **inconclusive** | - |")
    shown = lines.index("Assertion 3:")
    assert lines[shown + 2] == "- [toy-full](#toy-full): 95 % or 99 %: 5 of 5 (n = 5; supported, not counted)"
    assert "Assertion 4: not run" in lines
    assert "| T | 33,000 | 30,100 | 2 |" in lines
    assert "| norm | S. | a \\| b | 0.5 | 5 | all | not supported (not expected to hold) |" in lines
    assert "A toy. Published size, on Abacus, 2 cores, torch 2.0; total run time 2 min, one thread per run." in page
    assert "![A toy](../results/toy-full/figure-1.png)" in page
    assert "- **run x failed**" in page
    assert "- **These results have left no records.**" in page
    assert "## What remains" in page
    assert "## Where sources disagree" in page


def test_miniatures_stand_apart_and_decide_nothing(tmp_path):
    store(tmp_path, "small", [claim(verdict="not supported")], quick=True)
    page = write_markdown(tmp_path, tmp_path / "page.md", records=tmp_path / "none").read_text()
    assert "Runs of the published size decide 0 (0 supported" in page
    assert "26 are open. Of those that are open or decided in part, miniatures show a complete trend for 1." in page
    line = next(line for line in page.splitlines() if line.startswith("| 3 |"))
    assert line.endswith("| **inconclusive** | not supported (n = 5) |")
    assert "- [small](#small-miniature) (miniature): 95 % or 99 %: 5 of 5 (n = 5; not supported)" in page
    packages = {"packages": {"torch": "2.0"}}
    large = Computation(1, "computation", "ridge", packages, {"n": 100}, {}, (Claim(**claim()),))
    Records(tmp_path / "records").add_computation(large)
    page = write_markdown(tmp_path, tmp_path / "page.md", records=tmp_path / "records").read_text()
    assert "Runs of the published size decide 1 (1 supported" in page
    line = next(line for line in page.splitlines() if line.startswith("| 3 |"))
    assert "| **supported (n = 5)** | not supported (n = 5) |" in line


def test_both_forms_are_shown(tmp_path):
    store(tmp_path, "toy", [claim(measured="of the quick form")], quick=True)
    store(tmp_path, "toy", [claim(measured="large")])
    page = write_markdown(tmp_path, tmp_path / "page.md", records=tmp_path / "none").read_text()
    assert page.index("### toy\n") < page.index("### toy, miniature\n")
    assert "of the quick form" in page
    assert "large" in page


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(RunError, match="has no results: run grokinterp reproduce NAME first"):
        write_markdown(tmp_path, tmp_path / "page.md", records=tmp_path / "none")
    assert not (tmp_path / "page.md").exists()


def test_the_page_is_made_from_records_alone(tmp_path):
    """Without results of miniatures, runs, or history."""
    kept = ROOT / "docs" / "reproductions" / "records"
    page = write_markdown(tmp_path, tmp_path / "page.md", records=kept).read_text()
    for recipe in {file.parent.name for file in kept.glob("*/*.json")}:
        assert f"### {recipe}\n" in page
    assert ", miniature\n" not in page


def test_results_cannot_bring_html_into_the_page(tmp_path):
    """Markdown passes HTML through; the sign in "< 5" stays as it is."""
    results = tmp_path / "results"
    store(results, "toy", [claim(measured="< 5 <script>alert(1)</script> <!-- hidden")], source="<img src=x onerror=y>")
    page = write_markdown(results, tmp_path / "page.md").read_text()
    assert "< 5 &lt;script>alert(1)&lt;/script> &lt;!-- hidden" in page
    assert "## &lt;img src=x onerror=y>" in page


def test_results_of_an_unknown_verdict_are_damaged(tmp_path):
    results = tmp_path / "results"
    store(results, "toy", [claim(verdict="perhaps")])
    with pytest.raises(RunError, match=r"results\.json is damaged \(claims\.0\.verdict: "):
        write_markdown(results, tmp_path / "page.md")


@pytest.mark.parametrize("absent", ["verdict", "should_hold", "number"])
def test_a_claim_needs_every_field(tmp_path, absent):
    store(tmp_path, "toy", [claim()])
    file = tmp_path / "toy" / "results.json"
    result = json.loads(file.read_text()) | {"format_version": 1}
    del result["claims"][0][absent]
    file.write_text(json.dumps(result))
    with pytest.raises(RunError, match=rf"results\.json is damaged \(claims\.0: Field required: {absent}\)"):
        results_in(tmp_path / "toy")


@pytest.mark.parametrize(("field", "value"), [("n", "5"), ("n", 5.0), ("number", "1"), ("should_hold", 1)])
def test_a_value_of_another_type_is_damage(tmp_path, field, value):
    store(tmp_path, "toy", [claim() | {field: value}])
    with pytest.raises(RunError, match=rf"results\.json is damaged \(claims\.0\.{field}: "):
        results_in(tmp_path / "toy")


def test_the_page_in_the_documentation_is_up_to_date(tmp_path, monkeypatch):
    folder, page = Path("docs/reproductions"), Path("docs/reproductions.md")
    shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert write_markdown(folder, page).read_text() == (ROOT / page).read_text()
