"""The worked examples of docs/contributing change a copy of the package as they say, and then do what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# In this order: the figure draws what the measure measures.
PAGES = ("task", "optimizer", "measure", "figure", "recipe")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "contributing" / f"{page}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A copy of the package with the changes of every page."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "grokinterp", copy / "grokinterp", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "docs" / "_site").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "_site" / "gallery.toml", copy / "docs" / "_site")
    for page in PAGES:
        (patch,) = blocks(page, "diff")
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        outcome = subprocess.run(command, input=patch, cwd=copy, text=True, capture_output=True)
        assert outcome.returncode == 0, f"{page}: {outcome.stderr}"
    return copy


def test_every_page_is_tested():
    folder = ROOT / "docs" / "contributing"
    assert {page.stem for page in folder.glob("*.md")} == {*PAGES, "index"}


@pytest.mark.docs
def test_worked_examples(changed, tmp_path):
    run = tmp_path / "checkpoints" / "run42"
    run.mkdir(parents=True)
    for entry in (ROOT / "checkpoints" / "run42").iterdir():
        if entry.name != "analysis":
            (run / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    sources = [f"print({page!r}, flush=True)\n{code}" for page in PAGES for code in blocks(page, "python")]
    assert len(sources) == len(PAGES)
    script = tmp_path / "examples.py"
    # Runs of a sweep are trained by processes that import this script again.
    script.write_text("def main():\n" + re.sub("^(?=.)", "    ", "\n".join(sources), flags=re.MULTILINE))
    with script.open("a") as file:
        file.write('\n\nif __name__ == "__main__":\n    main()\n')
    environment = os.environ | {"PYTHONPATH": str(changed), "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=300
    )
    assert outcome.returncode == 0, f"after {outcome.stdout.split()}: {outcome.stderr[-3000:]}"
