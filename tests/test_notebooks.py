"""The notebooks run from top to bottom, and are stored without what they printed."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = (
    "01_train_and_watch_it_grok.ipynb",
    "02_the_fourier_circuit.ipynb",
    "03_progress_measures.ipynb",
    "04_measures_on_your_own_model.ipynb",
    "05_provable_grokking.ipynb",
)


class OnlyThisPython(KernelSpecManager):
    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        assert kernel_name == "python3"
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class ThisPython(AsyncKernelManager):
    """Whatever kernels the system knows, `python3` is the interpreter that runs the tests."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return OnlyThisPython(parent=self)


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


# Three of them train models, a minute of computation: `make notebooks` runs these too.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name[:2] != "03" else ()) for name in NOTEBOOKS]
)
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})  # raises at the first cell that fails

    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count is not None, f"cell {cell.id} was not run"
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {cell.id}: {output}"
            if "application/vnd.plotly.v1+json" in output.get("data", {}):
                assert "text/html" in output.data, f"cell {cell.id}: nbconvert cannot show its figure"
            if output.output_type == "stream" and output.name == "stderr":
                assert "Traceback" not in output.text, f"cell {cell.id}: {output.text}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_are_shown(name: str):
    """A figure that ends a cell is shown by every front end; `.show()` may look for a browser."""
    for cell in nbformat.read(FOLDER / name, as_version=4).cells:
        assert cell.cell_type != "code" or ".show(" not in cell.source
