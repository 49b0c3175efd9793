"""What the package says about itself agrees; `make package` and `make test-floor` try the rest by hand."""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

import grokinterp

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "packaging"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_one_version():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert cited is not None
    assert PROJECT["project"]["version"] == grokinterp.__version__ == cited[1]


def test_the_files_of_the_sdist_exist():
    for path in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert (ROOT / path.removeprefix("/")).exists(), path
    assert (ROOT / "grokinterp" / "py.typed").exists()


def test_each_python_is_named():
    named = {name.rpartition(" ")[2] for name in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert named == {"3.11", "3.12", "3.13"}
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_the_quick_start_is_read_from_the_readme():
    from check import quick_start

    parts = quick_start((ROOT / "README.md").read_text())
    shell = [text for kind, text in parts if kind == "shell"]
    assert "pip install ." in shell
    assert "grokinterp demo" in shell
    assert all(line.split()[0] in ("pip", "grokinterp") for line in shell)
    assert any("gi.sample_run()" in text for kind, text in parts if kind == "python")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_notebooks_install_what_is_missing(path):
    """Without constraints, which would replace the PyTorch of Google Colab."""
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]}
    assert "Google Colab" in cells["install-text"]
    assert 'find_spec("grokinterp") is None' in cells["install"]
    assert "%pip install" in cells["install"]
    assert "-c " not in cells["install"]
    assert "torch" not in cells["install"]
    if "run42" in "".join(cells.values()):
        assert "gi.sample_run()" in cells["open"]


def test_no_example_caches_every_hook():
    for path in [*NOTEBOOKS, ROOT / "README.md"]:
        for call in re.findall(r"run_with_cache\([^\n]*", path.read_text()):
            assert "names_filter" in call, path


def test_the_notebooks_extra_shows_figures():
    assert any(name.startswith("nbformat") for name in PROJECT["project"]["optional-dependencies"]["notebooks"])
