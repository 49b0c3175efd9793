"""Pages that are written of a stranger's runs: whatever stands in their files is shown as text, and never as HTML."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_report import BROWSER, Page

from grokinterp.analysis.timeline import analyze
from grokinterp.report import write_report, write_sweep_report
from grokinterp.runs.run import Run
from grokinterp.sweep import Sweep

DATA = Path(__file__).parents[1] / "data"
HOSTILE = (
    "<script>document.title='stolen'</script>",
    "\"'><img src=x onerror=document.title='stolen'>",
    "</script><b>",
)
# A slash cannot be part of a name.
NAME = "<img src=x onerror=document.title='stolen'>"


def poisoned(content: Any, told: list[str]) -> Any:
    """The same with every text, and every name of an unknown thing, replaced by HTML; numbers stay."""
    if isinstance(content, dict):
        return {name: poisoned(value, told) for name, value in content.items()}
    if isinstance(content, list):
        return [poisoned(value, told) for value in content]
    if not isinstance(content, str):
        return content
    told.append(content)
    return HOSTILE[len(told) % len(HOSTILE)] + content


def poison(file: Path, *keep: str) -> None:
    content = json.loads(file.read_text())
    kept = {name: content[name] for name in keep if name in content}
    told: list[str] = []
    file.write_text(
        json.dumps(poisoned(content, told) | kept | {"\"><img src=x onerror=document.title='stolen'>": "x"})
    )
    assert told


def require_harmless(page: Path, innocent: Path) -> None:
    """The same elements as the page of the same run without hostile texts, and no attribute that runs anything."""
    found, expected = Page(page), Page(innocent)
    assert len(found.scripts) == len(expected.scripts)
    kinds = {tag for tag, _ in found.tags}
    assert kinds == {tag for tag, _ in expected.tags}
    assert "img" not in kinds
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    assert "stolen" in found.text + " ".join(found.scripts)  # it was there to be shown
    if BROWSER is not None:
        dom = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.resolve().as_uri()]
        drawn = subprocess.run(dom, capture_output=True, text=True, timeout=60).stdout
        assert "<title>stolen" not in drawn
        assert "<title>" in drawn


@pytest.mark.parametrize("fixture", ["trainer/recorded", "recipes/norms"])
def test_a_report_shows_hostile_texts_as_texts(fixture, tmp_path):
    folder, innocent = tmp_path / NAME, tmp_path / "innocent"
    for copy in (folder, innocent):
        shutil.copytree(DATA / fixture, copy)
    poison(folder / "status.json", "status", "checksums")
    poison(folder / "environment.json")
    if fixture == "trainer/recorded":
        config = json.loads((folder / "config.json").read_text())
        config["model"]["description"] = HOSTILE[0] + HOSTILE[1]
        (folder / "config.json").write_text(json.dumps(config))
    page = write_report(analyze(folder, workers=0), tmp_path / "page.html")
    require_harmless(page, write_report(analyze(innocent, workers=0), tmp_path / "innocent.html"))


def test_a_comparison_shows_hostile_names_as_texts(tmp_path):
    runs = [tmp_path / NAME, tmp_path / (NAME + "2")]
    innocent = [tmp_path / "a", tmp_path / "b"]
    for copy in (*runs, *innocent):
        shutil.copytree(DATA / "trainer" / "mlp", copy)
    pages = []
    for folders in (runs, innocent):
        analyses = [analyze(folder, workers=0) for folder in folders]
        pages.append(write_report(analyses, tmp_path / f"{len(pages)}.html"))
    require_harmless(*pages)


def test_the_report_of_a_sweep_shows_hostile_texts_as_texts(tmp_path):
    pages = []
    for name in (NAME, "innocent"):
        folder = tmp_path / name
        shutil.copytree(DATA / "recipes" / "sweep", folder)
        if name == NAME:
            content = json.loads((folder / "sweep.json").read_text())
            for run in content["runs"]:
                if "n_heads=3" not in run["name"]:
                    new = f"{NAME}{run['name']}"
                    (folder / run["name"]).rename(folder / new)
                    run["name"] = new
            (folder / "sweep.json").write_text(json.dumps(content))
            for file in (folder / "failures").iterdir():
                poison(file, "kind")
        found = Sweep.open(folder)
        pages.append(write_sweep_report(found.collect(), found.axes, found.name, tmp_path / f"{len(pages)}.html"))
    require_harmless(*pages)


def test_hostile_texts_of_a_run_do_not_break_its_lines(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DATA / "trainer" / "mlp", folder)
    poison(folder / "environment.json")
    assert Run.open(folder).environment["python"].startswith(HOSTILE)
