"""Reports on untrusted runs: any text in their files is shown as text and never as HTML."""

import json
import shutil
from pathlib import Path
from typing import Any

import processes
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


def poisoned(content: Any, texts: list[str]) -> Any:
    """Prefix every text with HTML and collect the originals in `texts`; numbers stay."""
    if isinstance(content, dict):
        return {name: poisoned(value, texts) for name, value in content.items()}
    if isinstance(content, list):
        return [poisoned(value, texts) for value in content]
    if not isinstance(content, str):
        return content
    texts.append(content)
    return HOSTILE[len(texts) % len(HOSTILE)] + content


def poison(file: Path, *keep: str) -> None:
    content = json.loads(file.read_text())
    unchanged = {name: content[name] for name in keep if name in content}
    texts: list[str] = []
    file.write_text(
        json.dumps(poisoned(content, texts) | unchanged | {"\"><img src=x onerror=document.title='stolen'>": "x"})
    )
    assert texts


def require_harmless(page: Path, innocent: Path) -> None:
    """Check that a page has the elements of the same run's page without hostile texts, and no event handlers."""
    actual, expected = Page(page), Page(innocent)
    assert len(actual.scripts) == len(expected.scripts)
    kinds = {tag for tag, _ in actual.tags}
    assert kinds == {tag for tag, _ in expected.tags}
    assert "img" not in kinds
    assert not [attributes for _, attributes in actual.tags if any(name.startswith("on") for name in attributes)]
    assert "stolen" in actual.text + " ".join(actual.scripts)  # the texts are shown
    if BROWSER is not None:
        dom = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.resolve().as_uri()]
        drawn = processes.run(dom, capture_output=True, text=True, timeout=60).stdout
        assert "<title>stolen" not in drawn
        assert "<title>" in drawn


@pytest.mark.parametrize("fixture", ["trainer/recorded", pytest.param("recipes/norms", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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


@pytest.mark.slow
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
        sweep = Sweep.open(folder)
        pages.append(write_sweep_report(sweep.collect(), sweep.axes, sweep.name, tmp_path / f"{len(pages)}.html"))
    require_harmless(*pages)


def test_hostile_texts_of_a_run_do_not_break_its_lines(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(DATA / "trainer" / "mlp", folder)
    poison(folder / "environment.json")
    assert Run.open(folder).environment["python"].startswith(HOSTILE)
