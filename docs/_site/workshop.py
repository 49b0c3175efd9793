"""Where the examples of the documentation run: a scratch folder with checkpoints/run42, and kernels that use it.

The tutorials are copied from notebooks/ into docs/tutorials/, since Sphinx reads only what lies below docs/.
"""

import json
import os
import shutil
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / "build" / "docs" / "scratch"
STARTUP = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import kernel
"""


def prepare(app: Sphinx) -> None:
    """Set up the scratch folder, analyze run42 once for all examples, and tell kernels where to work."""
    run = SCRATCH / "checkpoints" / "run42"
    run.mkdir(parents=True, exist_ok=True)
    for folder in run.parent.iterdir():  # what the examples of an earlier build trained
        if folder != run:
            shutil.rmtree(folder)
    for entry in (ROOT / "checkpoints" / "run42").iterdir():
        if entry.name != "analysis" and not (run / entry.name).is_symlink():
            (run / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    for name in ("docs", "notebooks"):
        if not (SCRATCH / name).is_symlink():
            (SCRATCH / name).symlink_to(ROOT / name, target_is_directory=True)
    profile = SCRATCH / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "00-docs.py").write_text(STARTUP)
    os.environ |= {
        "IPYTHONDIR": str(SCRATCH / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(SCRATCH / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",  # `python3` is this environment's Python
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    import grokinterp as gi

    gi.analyze(run)
    copy_notebooks(Path(app.srcdir) / "tutorials")


def copy_notebooks(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not source.name.startswith("."):
            content = json.loads(source.read_text(encoding="utf-8"))
            write(folder / source.name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write(file: Path, text: str) -> None:
    """Write a generated page if it changed, so that Sphinx reads again only what is new."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", prepare, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
