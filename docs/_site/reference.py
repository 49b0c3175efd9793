"""Writes the pages of the API reference, and refuses public names without documentation."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from workshop import write

import grokinterp

MODULES = {
    "grokinterp": "the names at the top: `import grokinterp as gi`",
    "grokinterp.measures": "plain functions of one checkpoint",
    "grokinterp.measures.fourier": "discrete Fourier transforms over the cyclic group; `gi.fourier`",
    "grokinterp.figures": "an analysis, several, or a sweep's table, as a plotly Figure",
    "grokinterp.figures.ridge": "figures of provable grokking",
    "grokinterp.figures.polynomial": "figures of polynomial regression",
    "grokinterp.statistics": "statistics that count runs which never grokked",
    "grokinterp.theory": "models of grokking that are solved exactly or cheaply",
    "grokinterp.models": "networks, and their logits computed directly from the weights",
    "grokinterp.training": "training, callbacks, and several runs at once",
    "grokinterp.experiments": "published experiments as recipes that decide claims",
}
PAGE = """{title}
{line}

.. automodule:: {module}
   :no-members:

.. currentmodule:: {module}

.. autosummary::
   :nosignatures:

{names}

.. toctree::
   :hidden:

{pages}
"""
NAME = """{name}
{line}

.. currentmodule:: {module}

.. code-block:: python

   from {module} import {name}

.. auto{kind}:: {name}
{options}"""
CONSTANT = """
.. py:data:: {name}
   :value: {value}

{text}
"""


def public_names(module: ModuleType) -> list[str]:
    """Return what a module offers: its `__all__`, or else the functions and classes that it defines."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    here = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in here if not name.startswith("_")]


def homes(module: ModuleType, name: str) -> Iterator[str]:
    """Return the modules that may define a constant: this one, and those that its source imports the name from."""
    yield module.__name__
    for line in ModuleAnalyzer.for_module(module.__name__).code.replace("(\n", "(").split("\n"):
        if line.startswith("from grokinterp"):
            yield line.split()[1]


def comment_on(module: ModuleType, name: str) -> str:
    """Return the comment (`#: ...`, or a string below it) that documents a constant, or an empty text."""
    for home in homes(module, name):
        if text := ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name)):
            return "\n".join(text).strip()
    return ""


def write_pages(module: ModuleType, folder: Path, undocumented: list[str]) -> None:
    """Write the pages of a module and its names, and append to `undocumented` what their docstrings lack."""
    names, constants = [], []
    for name in public_names(module):
        value: Any = getattr(module, name)
        if inspect.ismodule(value):
            continue
        documented = inspect.isclass(value) or inspect.isroutine(value)
        text = (value.__doc__ or "") if documented else comment_on(module, name) or _doc_of_type(value)
        # A dataclass without a docstring gets its signature as one. The gallery has the examples of figures.
        if not text or text.startswith(f"{name}("):
            undocumented.append(f"{module.__name__}.{name} has no docstring")
        elif documented and ">>>" not in text and ".figures" not in module.__name__:
            undocumented.append(f"{module.__name__}.{name} has no example")
        if documented:
            names.append(name)
            kind, options = ("class", "   :members:\n") if inspect.isclass(value) else ("function", "")
            if inspect.isclass(value) and module.__name__ != "grokinterp" and value is _top(name):
                options += "   :no-index:\n"  # indexed at the top
            page = NAME.format(name=name, line="=" * len(name), module=module.__name__, kind=kind, options=options)
            write(folder / "names" / f"{module.__name__}.{name}.rst", page)
        else:
            body = "\n".join(f"   {line}" for line in text.splitlines())
            constants.append(CONSTANT.format(name=name, value=_short(value), text=body))
    title = module.__name__
    listed = "\n".join(f"   {name}" for name in names)
    pages = "\n".join(f"   names/{title}.{name}" for name in names)
    page = PAGE.format(title=title, line="=" * len(title), module=title, names=listed, pages=pages)
    write(folder / f"{title}.rst", page + "".join(constants))


def _top(name: str) -> Any:
    """Return what `grokinterp` itself offers under a name, or None."""
    return getattr(grokinterp, name) if name in grokinterp.__all__ else None


def _doc_of_type(value: Any) -> str:
    return inspect.getdoc(type(value)) or "" if type(value).__module__.startswith("grokinterp") else ""


def _short(value: Any) -> str:
    text = f"{type(value).__name__}(...)" if _doc_of_type(value) else repr(value)  # a card may take seconds
    return text if len(text) <= 100 else f"{text[:97]}..."


def write_reference(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference"
    undocumented: list[str] = []
    for name in MODULES:
        write_pages(importlib.import_module(name), folder, undocumented)
    for page in (folder / "names").iterdir():  # of names that are no longer public
        if page.stem.rpartition(".")[2] not in public_names(importlib.import_module(page.stem.rpartition(".")[0])):
            page.unlink()
    if undocumented:
        raise ExtensionError(f"undocumented public names: {', '.join(undocumented)}")
    rows = "\n".join(f"| [`{name}`]({name}.rst) | {text} |" for name, text in MODULES.items())
    pages = "\n".join(MODULES)
    index = f"# API reference\n\n| module | contents |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    write(folder / "index.md", index)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_reference, priority=200)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
