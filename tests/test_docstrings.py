"""The examples in docstrings run and give the results that they show; `make docs` runs them."""

import doctest
import importlib
from pathlib import Path

import pytest

from grokinterp.measures import base

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "grokinterp").rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.docs
@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch, tmp_path):
    run = tmp_path / "checkpoints" / "run42"
    run.mkdir(parents=True)
    for entry in (ROOT / "checkpoints" / "run42").iterdir():
        if entry.name != "analysis":  # keeps results of examples out of the repository
            (run / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_REGISTER", base.registered())  # forget measures that an example registers
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
    assert outcome.attempted or "doctest: +SKIP" in Path(str(module.__file__)).read_text()
    assert not outcome.failed
