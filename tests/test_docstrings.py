"""The examples in docstrings do what they say."""

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


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, monkeypatch, tmp_path):
    run = tmp_path / "checkpoints" / "run42"
    run.mkdir(parents=True)
    for entry in (ROOT / "checkpoints" / "run42").iterdir():
        if entry.name != "analysis":  # so that what an example computes is not left in the repository
            (run / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_REGISTER", base.registered())  # what an example registers ends with it
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
    assert outcome.attempted
    assert not outcome.failed
