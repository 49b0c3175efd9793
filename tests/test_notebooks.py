"""The notebooks are stored without what they printed; `make docs` runs them from top to bottom."""

import json
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = (
    "01_train_and_watch_it_grok.ipynb",
    "02_the_fourier_circuit.ipynb",
    "03_progress_measures.ipynb",
    "04_measures_on_your_own_model.ipynb",
    "05_provable_grokking.ipynb",
)


def test_every_notebook_is_tested():
    assert sorted(file.name for file in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_without_outputs(name: str):
    text = (FOLDER / name).read_text()
    content = json.loads(text)
    nbformat.validate(content)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], f"{name}, cell {cell['id']}: clear the outputs"
            assert cell["execution_count"] is None, f"{name}, cell {cell['id']}: clear the outputs"
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert text == json.dumps(content, indent=1, ensure_ascii=False) + "\n", (
        "one space of indent, one newline at the end"
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_are_shown(name: str):
    """A figure that ends a cell is shown by every front end; `.show()` may look for a browser."""
    for cell in nbformat.read(FOLDER / name, as_version=4).cells:
        assert cell.cell_type != "code" or ".show(" not in cell.source
