"""The documentation site refuses names without documentation, figures without an entry, and dead links."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from grokinterp.cli import _COMMANDS

SITE = Path(__file__).parent.parent / "docs" / "_site"
pytestmark = pytest.mark.docs


@pytest.fixture
def site(monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(SITE))
    return SITE


def module_with(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    exec(source, vars(module))
    return module


def test_public_names_without_documentation_are_listed(site, tmp_path, monkeypatch):
    import reference

    source = '''
def documented():
    """One line.

    >>> documented()
    """
def bare(): ...
def without_example():
    "One line."
class Type:
    "One line."
'''
    module = module_with("sample", source)
    for name in ("documented", "bare", "without_example", "Type"):
        getattr(module, name).__module__ = "sample"
    undocumented: list[str] = []
    reference.write_pages(module, tmp_path, undocumented)
    assert undocumented == [
        "sample.bare has no docstring",
        "sample.without_example has no example",
        "sample.Type has no example",
    ]


def test_the_gallery_has_every_figure(site, tmp_path, monkeypatch):
    import gallery
    from sphinx.errors import ExtensionError

    known = gallery.figures()
    assert {"progress_measures", "phase_diagram", "ridge.times"} <= set(known)
    app = type("App", (), {"srcdir": tmp_path})
    gallery.write_gallery(app)  # pyright: ignore
    assert "progress_measures" in (tmp_path / "gallery" / "index.md").read_text()
    monkeypatch.setattr(gallery, "figures", lambda: known | {"new_figure": lambda analysis: None})
    with pytest.raises(ExtensionError, match="new_figure"):
        gallery.write_gallery(app)  # pyright: ignore


def test_every_command_shows_its_options(site):
    titles = re.findall(r"^## (.+)$", (site.parent / "commands.md").read_text(), flags=re.MULTILINE)
    assert sorted(titles) == sorted(_COMMANDS)


def test_formulas_are_written_as_mathml(site):
    from mathml import mathml

    assert "<mi>w</mi>" in mathml(r"\big(w_k\big)", as_block=False)


def test_no_page_needs_the_network():
    for file in [*SITE.parent.glob("_static/*"), *SITE.glob("*.py"), SITE.parent / "conf.py"]:
        assert "https://" not in file.read_text(), file
